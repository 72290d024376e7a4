"""The Kafka listeners of one worker at work: from the listening sockets to the connections.

Each listener has a port that all workers share (bootstrap), and unless `kafka.single_port` one of
this worker alone, which Metadata shows to those who came by the same listener. Its gate says who
may come, its certificates carry TLS, its verifier asks who the client is.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
import weakref
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from robustmq.config import Settings
from robustmq.kafka.gateway import Gateway
from robustmq.kafka.sasl import Verifier
from robustmq.limits import Limits
from robustmq.listener import ENCRYPTED, KAFKA_NAME, Listener
from robustmq.net.addresses import shown_address
from robustmq.net.gates import ConnectionGate, ListenerGate
from robustmq.net.kafka_connection import KafkaConnection
from robustmq.net.listeners import Acceptor, open_listener, open_own_listener
from robustmq.net.tls import handshake_reason
from robustmq.net.ways_in import Prepared
from robustmq.observability import logs

ANY_ADDRESS = frozenset({"0.0.0.0", "::"})
log = logs.get_logger("kafka")
Spawn = Callable[[str, Coroutine[Any, Any, Any]], object]
Endpoint = tuple[str, int]


class _Way:
    """One listener."""

    __slots__ = ("gate", "listener", "verifier")

    def __init__(self, listener: Listener, gate: ListenerGate, verifier: Verifier | None) -> None:
        self.listener = listener
        self.gate = gate
        self.verifier = verifier


class KafkaWaysIn:
    """All Kafka listeners of a worker, and their connections."""

    def __init__(
        self,
        loop: asyncio.AbstractEventLoop,
        gateway: Gateway,
        limits: Limits,
        gate: ConnectionGate,
        count: Callable[[str, int], None],
        prepared: Prepared,
        verifier: Callable[[Listener], Verifier],
        spawn: Spawn,
        admits: Callable[[str], bool],
    ) -> None:
        """`verifier` is asked for each listener with SASL; `spawn` runs a coroutine; `admits` says
        whether an address may open one more connection."""
        self._admits = admits
        self.connections: weakref.WeakSet[KafkaConnection] = weakref.WeakSet()
        self._loop = loop
        self._gateway = gateway
        self._limits = limits
        self._gate = gate
        self._count = count
        self._prepared = prepared
        self._verifier = verifier
        self._spawn = spawn
        self._ways: dict[str, _Way] = {}
        self._acceptors: list[Acceptor] = []

    def open(
        self, settings: Settings, worker: int, run_directory: Path
    ) -> tuple[list[str], dict[str, Endpoint]]:
        """Listen. Where, as the start shows it; and where this worker is, by listener."""
        places: list[str] = []
        endpoints: dict[str, Endpoint] = {}
        for listener in settings.kafka_listeners:
            verifier = self._verifier(listener) if listener.sasl_mechanisms else None
            way = _Way(listener, ListenerGate(listener, self._gate), verifier)
            self._ways[listener.name] = way
            own_port = listener.worker_port_base and listener.worker_port_base + worker
            port = listener.port
            for host in listener.bind:
                sock = open_listener(host, listener.port, listener.backlog)
                places.append(f"{listener.shown} {shown_address(sock)}")
                self._accept(way, sock)
                if not settings.kafka.single_port:
                    name = "" if listener.name == KAFKA_NAME else f"-{listener.name}"
                    remembered = run_directory / f"kafka-port{name}-{worker}"
                    sock = open_own_listener(host, own_port, listener.backlog, remembered)
                    own_port = port = sock.getsockname()[1]
                    places.append(f"{listener.shown} worker {worker} {shown_address(sock)}")
                    self._accept(way, sock)
            endpoints[listener.name] = (_advertised(listener), port)
        return places, endpoints

    def reload(self, settings: Settings) -> None:
        """Other bounds and certificates, for those that come from now on."""
        self._limits = settings.limits
        for listener in settings.kafka_listeners:
            self._ways[listener.name].listener = listener
            self._ways[listener.name].gate.reload(listener)

    def stop(self) -> None:
        """Accept nobody more."""
        for acceptor in self._acceptors:
            acceptor.close()

    def _accept(self, way: _Way, sock: socket.socket) -> None:
        def adopt(accepted: socket.socket, address: str) -> None:
            if not self._admits(address.rpartition(":")[0].strip("[]")):
                self._count("connections_refused", 1)
                accepted.close()
                return
            self._spawn("kafka connection", self._adopt(way, accepted, address))

        self._acceptors.append(
            Acceptor(self._loop, sock, adopt, lambda name: self._count(name, 1), way.gate)
        )

    async def _adopt(self, way: _Way, sock: socket.socket, address: str) -> None:
        listener, tls = way.listener, None
        if listener.transport in ENCRYPTED:
            tls = self._prepared.tls[listener.name].context
        connection = KafkaConnection(
            self._gateway, self._limits, address, self._count, listener.name, way.verifier
        )
        self.connections.add(connection)
        try:
            timeout_s = self._limits.connect_timeout_ms / 1000 if tls is not None else None
            await self._loop.connect_accepted_socket(
                lambda: connection, sock, ssl=tls, ssl_handshake_timeout=timeout_s
            )
        except (OSError, ssl.SSLError, TimeoutError) as error:
            self._count("tls_handshakes_failed", 1)
            reason = str(handshake_reason(error)) or "it took too long"
            log.info("connection ended", peer=address, reason=f"TLS handshake: {reason}")
            sock.close()
            return
        if tls is not None:
            self._count("tls_handshakes", 1)


def _advertised(listener: Listener) -> str:
    """The host that clients of a listener are sent to."""
    host = listener.advertised_host or listener.bind[0]
    return socket.gethostname() if host in ANY_ADDRESS else host
