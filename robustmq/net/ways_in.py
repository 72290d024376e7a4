"""The MQTT listeners of one worker at work: from the listening sockets to the connections.

Each listener has its gate (who may come), its door (who is it) and its certificates; connections
whose home is here are served by `MqttSockets`, those with TLS whose home is elsewhere by `Relays`.
What must be there before the workers are forked (certificates, so that workers share the keys of
session tickets; the sockets of UNIX listeners, which they all accept from) is `Prepared`.
"""

from __future__ import annotations

import asyncio
import contextlib
import os
import socket
import stat
from collections.abc import Callable
from pathlib import Path

from robustmq.config import Settings
from robustmq.limits import Limits
from robustmq.listener import ENCRYPTED, Listener
from robustmq.net.addresses import shown_address
from robustmq.net.gates import ConnectionGate, ListenerGate
from robustmq.net.handoff import Arrival, Handoff
from robustmq.net.listeners import Acceptor, open_listener
from robustmq.net.mqtt_front_door import MqttFrontDoor
from robustmq.net.mqtt_sockets import MqttSockets
from robustmq.net.relay import Relays
from robustmq.net.tls import ServerTls, TlsCarrier, TlsError
from robustmq.observability import logs
from robustmq.shard.broker import Broker

log = logs.get_logger("listeners")


class Prepared:
    """What listeners need before the fork."""

    def __init__(self, settings: Settings) -> None:
        """Raises TlsError, and OSError for a path that cannot be listened at."""
        self.tls = {
            one.name: ServerTls(one)
            for one in (*settings.listeners, *settings.kafka_listeners)
            if one.transport in ENCRYPTED
        }
        self.sockets = {
            one.name: open_unix_listener(one.bind[0], int(one.mode, 8), one.backlog)
            for one in settings.listeners
            if one.transport == "unix"
        }

    def reload_tls(self, settings: Settings) -> None:
        """Read the certificates again; those that cannot be used leave the old ones."""
        for listener in (*settings.listeners, *settings.kafka_listeners):
            if listener.name in self.tls:
                try:
                    self.tls[listener.name].reload(listener)
                except TlsError as error:
                    log.error("the certificates stay as they were", reason=str(error))

    def remove(self) -> None:
        """The node ends: its paths go."""
        for sock in self.sockets.values():
            path = str(sock.getsockname())
            with contextlib.suppress(OSError):
                Path(path).unlink()
            sock.close()


def open_unix_listener(path: str, mode: int, backlog: int) -> socket.socket:
    """A listening socket at a path. One that a killed process has left is replaced; one that
    somebody listens at, or that is no socket, is an OSError."""
    place = Path(path)
    with contextlib.suppress(FileNotFoundError):
        if not stat.S_ISSOCK(place.lstat().st_mode):
            raise FileExistsError(17, "it is there and is no socket", path)
        with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM) as probe:
            try:
                probe.connect(path)
            except ConnectionRefusedError:
                place.unlink()
            else:
                raise OSError(98, "somebody listens there", path)
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    try:
        sock.bind(path)
        os.chmod(path, mode)
        sock.setblocking(False)
        sock.listen(backlog)
    except OSError:
        sock.close()
        raise
    return sock


class WayIn:
    """One listener at work."""

    __slots__ = ("acceptors", "door", "gate", "listener")

    def __init__(self, listener: Listener, gate: ListenerGate) -> None:
        self.listener = listener
        self.gate = gate
        self.acceptors: list[Acceptor] = []
        self.door: MqttFrontDoor


class WaysIn:
    """All listeners of a worker."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        broker: Broker,
        sockets: MqttSockets,
        gate: ConnectionGate,
        handoff: Handoff,
        count: Callable[[str], None],
        prepared: Prepared,
    ) -> None:
        self._loop = loop
        self._broker = broker
        self._sockets = sockets
        self._gate = gate
        self._handoff = handoff
        self._count = count
        self._prepared = prepared
        self._by_name: dict[str, WayIn] = {}
        self.relays = Relays(loop)
        if broker.worker_count > 1:
            handoff.start(loop, self._handed_over)

    def open(self, settings: Settings) -> list[str]:
        """Listen; where, as the start shows it."""
        places = []
        for listener in settings.listeners:
            way = self._by_name[listener.name] = self._way_in(listener, settings.limits)
            prepared = self._prepared.sockets.get(listener.name)
            if prepared is not None:
                listening = [prepared.dup()]
                listening[0].setblocking(False)
            else:
                listening = [
                    open_listener(host, listener.port, listener.backlog) for host in listener.bind
                ]
            for sock in listening:
                places.append(f"{listener.shown} {shown_address(sock)}")
                way.acceptors.append(
                    Acceptor(
                        self._loop,
                        sock,
                        way.door.accepted,
                        self._count,
                        way.gate,
                        listener.proxy_protocol,
                    )
                )
        return places

    def _way_in(self, listener: Listener, limits: Limits) -> WayIn:
        gate = ListenerGate(listener, self._gate)
        way = WayIn(listener, gate)
        way.door = MqttFrontDoor(
            self._loop,
            self._broker.placement.session_home,
            self._broker.worker_id,
            self,
            self._handoff,
            listener,
            limits,
            self._count,
            self._prepared.tls.get(listener.name),
        )
        return way

    # -- what a front door needs (net.mqtt_front_door.Home) ----------------------------------------

    def adopt(self, sock: socket.socket | TlsCarrier, arrival: Arrival) -> None:
        """A connection whose home is here (or that must be told why not)."""
        self._sockets.adopt(
            sock,
            arrival.address,
            self._by_name[arrival.listener].listener,
            arrival.websocket,
            arrival.identity,
        )

    def relay(self, carrier: TlsCarrier, near: socket.socket) -> None:
        """Its home has the other end of this socket."""
        self.relays.add(carrier, near)

    def admit(self, listener: Listener, sock: socket.socket, address: str) -> bool:
        """The client's address is known now (a proxy told it): False when a bound is reached."""
        gate = self._by_name[listener.name].gate
        return gate.pace(address, self._loop.time()) and gate.rename(sock, address)

    def _handed_over(self, sock: socket.socket, arrival: Arrival) -> None:
        """Another worker accepted a connection whose home is here."""
        if self._by_name[arrival.listener].gate.hold(sock, arrival.address):
            self.adopt(sock, arrival)
        else:
            self._count("connections_refused")
            sock.close()

    # -- changing and ending -----------------------------------------------------------------------

    def reload(self, settings: Settings) -> None:
        """Other bounds and certificates, for those that come from now on."""
        self._prepared.reload_tls(settings)
        for listener in settings.listeners:
            way = self._by_name[listener.name]
            way.listener = listener
            way.gate.reload(listener)
            way.door.reload(listener, settings.limits)

    def stop(self) -> None:
        """Accept nobody more."""
        for way in self._by_name.values():
            for acceptor in way.acceptors:
                acceptor.close()
