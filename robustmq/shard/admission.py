"""Who may connect and stay: bans, and clients that come and go too often.

Each worker enforces the cluster's bans for the clients whose home it is: at CONNECT (0x8A in 5.0,
return code 5 in 3.x), and, when a ban comes, for those that are connected (DISCONNECT may not carry
0x8A, section 3.14.2.1, so they are told 0x98, administrative action). Banned addresses are closed
at accept already (net/listeners.py); here they are asked for once more, as behind a proxy the
address is known late.

Flapping: the home counts the ends of a client id's connections. The count is exact within a window
that begins with the first end; windows that are over make way first, then the oldest one, so at
most MAX_WATCHED client ids are remembered.
"""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Iterator
from typing import TYPE_CHECKING

from robustmq.bans import Ban, BanTable
from robustmq.client_settings import FlappingSettings
from robustmq.errors import BrokerError, Fault
from robustmq.mqtt.packets import Connect

if TYPE_CHECKING:
    from robustmq.shard.broker import Broker
    from robustmq.shard.client import MqttClient
    from robustmq.shard.subscriber import Peer, Subscriber

MAX_WATCHED = 100_000
SLICE = 500
BY_FLAPPING = "flapping detection"


class Admission:
    """The doorkeeper of one worker."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._bans = broker.cluster.bans
        self._flapping: Flapping | None = None
        self.reload()

    def reload(self) -> None:
        """Take over settings; counting begins anew."""
        settings = self._broker.settings.flapping
        self._flapping = Flapping(settings) if settings.enabled else None

    def check(self, client: MqttClient, packet: Connect) -> None:
        """Raise BANNED for who may not connect."""
        bans = self._bans
        if not bans.any:
            return
        ban = _ban_of(bans, client, packet.client_id, self._broker.wall_ms())
        if ban is not None:
            self._broker.count("mqtt_banned", 1)
            raise BrokerError(Fault.BANNED, f"banned by {ban.kind} {ban.value!r} {ban.reason}")

    def banned(self, ban: Ban) -> None:
        """A ban has come: who is connected and meant by it has to go."""
        if ban.kind == "client_id":
            subscriber = self._broker.sessions.get(ban.value.encode())
            self._end_each(iter([subscriber] if subscriber is not None else []), ban)
        else:
            self._end_each(self._broker.sessions.walk(), ban)

    def _end_each(self, walk: Iterator[Subscriber], ban: Ban) -> None:
        """A slice of the sessions in this turn, the others in the following ones."""
        table = BanTable()
        table.set(ban)

        def end_some() -> None:
            met = list(itertools.islice(walk, SLICE))
            for subscriber in met:
                peer = subscriber.peer
                now_ms = self._broker.wall_ms()
                if peer is not None and _ban_of(table, peer, subscriber.client_id, now_ms):
                    self._broker.count("mqtt_banned", 1)
                    peer.end(Fault.BANNED)
            if len(met) == SLICE:
                self._broker.around.call_soon(end_some)

        end_some()

    def left(self, client_id: bytes) -> None:
        """A connection has ended, however it did."""
        if self._flapping is None:
            return
        count = self._flapping.left(client_id, self._broker.monotonic_ms())
        settings = self._broker.settings.flapping
        if count < settings.max_count or self._broker.draining:
            return
        self._flapping.forget(client_id)
        now_ms = self._broker.wall_ms()
        reason = f"{count} disconnects within {settings.window_s} s"
        until_ms = now_ms + settings.ban_s * 1000
        ban = Ban("client_id", client_id.decode(), reason, BY_FLAPPING, now_ms, until_ms)
        self._broker.count("mqtt_flapping", 1)
        self._broker.around.log("warning", "a client flaps", client=ban.value, why=reason)
        self._broker.cluster.add_ban(ban)


class Flapping:
    """How often each client id has left within its window."""

    def __init__(self, settings: FlappingSettings, most: int = MAX_WATCHED) -> None:
        self._window_ms = settings.window_s * 1000
        self._most = most
        # Client id -> [when the window began, how often]; in the order of the beginnings.
        self._windows: OrderedDict[bytes, list[int]] = OrderedDict()

    def __len__(self) -> int:
        return len(self._windows)

    def left(self, client_id: bytes, now_ms: int) -> int:
        """Count one; how many there are in the window now."""
        windows = self._windows
        while windows:
            oldest = next(iter(windows))
            over = windows[oldest][0] + self._window_ms <= now_ms
            if not over and (len(windows) < self._most or client_id in windows):
                break
            del windows[oldest]
        window = windows.setdefault(client_id, [now_ms, 0])
        window[1] += 1
        return window[1]

    def forget(self, client_id: bytes) -> None:
        """Begin anew with a client."""
        self._windows.pop(client_id, None)


def _ban_of(bans: BanTable, peer: Peer, client_id: bytes, now_ms: int) -> Ban | None:
    ban = bans.address(peer.address, now_ms) if bans.any_address else None
    return ban or bans.client(client_id, peer.user_name, now_ms)
