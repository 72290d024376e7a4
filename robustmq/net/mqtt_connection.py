"""The shell of one MQTT connection: bytes between a socket and `shard.client.MqttClient`.

It decides nothing but flow control: while the socket's buffer is full nothing more is written, and
what gathers in the client's sink is bounded there (QoS 0 is dropped, QoS 1 and 2 wait in the
session).
"""

from __future__ import annotations

import asyncio
from typing import cast

from robustmq.shard.broker import Broker
from robustmq.shard.client import MqttClient

WRITE_HIGH_WATER_BYTES = 256 * 1024


class MqttConnection(asyncio.Protocol):
    """One MQTT connection over TCP."""

    __slots__ = ("_broker", "_client", "_transport", "address", "writable")

    def __init__(self, broker: Broker, address: str) -> None:
        self._broker = broker
        self.address = address
        self._client: MqttClient | None = None
        self._transport: asyncio.Transport | None = None
        self.writable = True

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The socket was adopted."""
        # A cast: the transports of uvloop do not derive from asyncio's.
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(WRITE_HIGH_WATER_BYTES)
        self._client = self._broker.connected(self, self.address)

    def data_received(self, data: bytes) -> None:
        """Bytes from the client."""
        assert self._client is not None, "connection_made comes first"
        self._client.received(data)

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is gone."""
        client, self._client = self._client, None
        self._transport = None
        if client is not None:
            client.lost()
            self._broker.disconnected(client)

    def pause_writing(self) -> None:
        """The client reads too slowly."""
        self.writable = False

    def resume_writing(self) -> None:
        """The client reads again."""
        self.writable = True
        if self._client is not None:
            self._client.drained()

    def write(self, data: bytes | bytearray) -> None:
        """Queue bytes for the client."""
        if self._transport is not None:
            self._transport.write(data)

    def close(self) -> None:
        """Close behind what is queued."""
        if self._transport is not None:
            self._transport.close()

    def pause_reading(self) -> None:
        """Stop reading: TCP slows the client down."""
        if self._transport is not None:
            self._transport.pause_reading()

    def resume_reading(self) -> None:
        """Read again."""
        if self._transport is not None:
            self._transport.resume_reading()
