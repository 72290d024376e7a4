"""The shell of one Kafka connection: frames in, answers out in the order of the requests.

Decides flow control alone. Reading pauses while `max_requests_in_flight` requests, or
`max_request_bytes` of them, are being answered, while the peer does not read its answers, and while
too much waits for another worker (`hold`). A
frame above `max_request_bytes`, and any
`BrokerError` of a request, end the connection with one log line and a counter (`kafka_faults`).
Any other exception is a bug: it goes to the loop's exception handler and ends the connection.
"""

from __future__ import annotations

import asyncio
import struct
from collections import deque
from collections.abc import Callable
from typing import cast

from robustmq.acls import USER_PREFIX
from robustmq.errors import BrokerError, Fault
from robustmq.kafka.context import ConnectionState
from robustmq.kafka.dispatch import Buffers, dispatch
from robustmq.kafka.gateway import Gateway
from robustmq.kafka.sasl import SaslState, Verifier
from robustmq.limits import KIB, Limits
from robustmq.net.tls import distinguished_name
from robustmq.observability import logs
from robustmq.promises import Promise

LENGTH = struct.Struct(">i")
WRITE_HIGH_WATER_BYTES = 256 * KIB
LINGER_S = 5.0
log = logs.get_logger("kafka")


class KafkaConnection(asyncio.Protocol):
    """One Kafka connection over TCP."""

    def __init__(
        self,
        gateway: Gateway,
        limits: Limits,
        address: str,
        count: Callable[[str, int], None],
        listener: str = "",
        verifier: Verifier | None = None,
    ) -> None:
        """`address` is "host:port" of the peer; `count(name, amount)` adds to a counter; `verifier`
        asks who the client is."""
        self._gateway = gateway
        self._limits = limits
        self.address = address
        self._count = count
        self._state = ConnectionState(
            address.rpartition(":")[0].strip("[]"),
            limits,
            listener,
            None if verifier is None else SaslState(verifier),
        )
        self._state.client_port = int(address.rpartition(":")[2] or 0)
        self._transport: asyncio.Transport | None = None
        self._chunks: list[bytes] = []
        # Served of the first chunk; _gathered counts from there.
        self._offset = 0
        self._gathered = 0
        self._needed = LENGTH.size
        self._answers: deque[tuple[Promise[Buffers | None], int]] = deque()
        self._in_flight_bytes = 0
        self._writable = True
        self._reading = True
        self._answering = False
        self._finishing = False
        self._held = False
        self._muted_until_s = 0.0
        self._muted = False
        """The client is above a quota and waits, as its answer has told it (KIP-219)."""
        self._serving = False
        self._state.released = self._released
        self._used_ms = gateway.now_ms()

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """The socket was adopted."""
        # A cast: the transports of uvloop do not derive from asyncio's.
        self._transport = cast(asyncio.Transport, transport)
        self._transport.set_write_buffer_limits(WRITE_HIGH_WATER_BYTES)
        certificate = transport.get_extra_info("peercert")
        if certificate and self._state.sasl is None:
            self._state.is_known_as(USER_PREFIX + distinguished_name(certificate))
        self._count("kafka_connections_opened", 1)
        self._count("kafka_connections", 1)

    def data_received(self, data: bytes) -> None:
        """Bytes from the client; a frame is joined once, when it is whole or may be."""
        self._chunks.append(data)
        self._gathered += len(data)
        if self._gathered >= self._needed:
            self._serve_whole()

    def connection_lost(self, exc: Exception | None) -> None:
        """The socket is gone; answers that still come are dropped."""
        self._transport = None
        self._state.close()
        self._forget()
        self._count("kafka_connections", -1)

    def pause_writing(self) -> None:
        """The client does not read its answers: no more requests of it."""
        self._writable = False
        self._steer()

    def resume_writing(self) -> None:
        """The client reads again."""
        self._writable = True
        self._answer()
        self._continue()

    def close(self) -> None:
        """Close behind what is queued."""
        if self._transport is not None:
            self._transport.close()
            if self._transport.get_write_buffer_size():
                # A peer that does not read cannot keep the socket.
                loop = asyncio.get_running_loop()
                loop.call_later(LINGER_S, self._transport.abort)

    def finish(self) -> None:
        """Take no more requests; those taken are answered."""
        self._finishing = True
        self._steer()

    def hold(self, held: bool) -> None:
        """Back-pressure: serve no more requests, or go on."""
        self._held = held
        if held:
            self._steer()
        else:
            self._continue()

    @property
    def idle(self) -> bool:
        """True when no request waits for its answer (a drain waits for it)."""
        return not self._answers

    def _released(self) -> None:
        """The request that no other may overtake has been handed on."""
        if not self._serving:
            self._continue()

    def _serve_whole(self) -> None:
        self._serving = True
        try:
            self._serve_frames()
        finally:
            self._serving = False

    def _serve_frames(self) -> None:
        data = self._chunks[0] if len(self._chunks) == 1 else b"".join(self._chunks)
        position, end = self._offset, len(data)
        needed = LENGTH.size
        while end - position >= LENGTH.size and self._may_serve():
            (length,) = LENGTH.unpack_from(data, position)
            if not 0 <= length <= self._limits.max_request_bytes:
                what = f"a request of {length} bytes, at most {self._limits.max_request_bytes}"
                self._fault(BrokerError(Fault.PACKET_TOO_LARGE, what))
                return
            stop = position + LENGTH.size + length
            if stop > end:
                needed = LENGTH.size + length
                break
            self._serve(data[position + LENGTH.size : stop])
            position = stop
        if self._transport is None:
            return
        self._gathered = end - position
        self._needed = needed
        if position < end and not self._may_serve():
            # Not cut: whole requests that wait to be served one by one would be copied each time.
            self._chunks, self._offset = [data], position
        else:
            self._chunks, self._offset = ([data[position:]] if position < end else []), 0
        self._steer()

    def end_if_idle(self, now_ms: int, longest_ms: int) -> None:
        """Close when nothing was asked for so long, and nothing waits for its answer."""
        if not self._answers and now_ms - self._used_ms >= longest_ms and not self._held:
            self._count("kafka_connections_idled", 1)
            log.info("connection ended", peer=self.address, fault="IDLE", reason="no request")
            self.close()

    def _serve(self, frame: bytes) -> None:
        self._used_ms = self._gateway.now_ms()
        answer = dispatch(frame, self._state, self._gateway)
        self._answers.append((answer, len(frame)))
        self._in_flight_bytes += len(frame)
        if self._state.throttle_ms:
            self._mute()
        answer.when_settled(self._answer)

    def _may_serve(self) -> bool:
        return (
            self._transport is not None
            and not self._transport.is_closing()
            and self._writable
            and not self._finishing
            and not self._held
            and not self._muted
            and not self._state.held
            and len(self._answers) < self._limits.max_requests_in_flight
            and self._in_flight_bytes < self._limits.max_request_bytes
        )

    def _answer(self) -> None:
        """Write the answers that are there, up to the first that is not."""
        if self._answering:
            return
        self._answering = True
        try:
            while self._answers and self._answers[0][0].settled and self._writable:
                answer, size = self._answers.popleft()
                self._used_ms = self._gateway.now_ms()
                self._in_flight_bytes -= size
                try:
                    buffers = answer.result()
                except BrokerError as error:
                    self._fault(error)
                    return
                if buffers is not None and self._transport is not None:
                    self._transport.writelines(buffers)
                if self._state.throttle_ms:
                    self._mute()
                if self._state.ending and not self._answers:
                    self._count("kafka_faults", 1)
                    log.info("connection ended", peer=self.address, reason="not authenticated")
                    self.close()
                    return
        except Exception as error:  # noqa: BLE001
            # Not raised: this runs among the callbacks of a promise that others wait for too.
            what = {"message": "a Kafka request failed", "exception": error}
            asyncio.get_running_loop().call_exception_handler(what)
            self.close()
        finally:
            self._answering = False
        if not self._reading:
            self._continue()

    def _mute(self) -> None:
        """One timer for what the answers so far have said; the next one comes when it is over."""
        waits_ms, self._state.throttle_ms = self._state.throttle_ms, 0
        self._count("kafka_throttled", 1)
        self._count("kafka_throttled_ms", waits_ms)
        self._muted_until_s = max(
            self._muted_until_s, asyncio.get_running_loop().time() + waits_ms / 1000
        )
        if not self._muted:
            self._muted = True
            asyncio.get_running_loop().call_at(self._muted_until_s, self._unmute)
        self._steer()

    def _unmute(self) -> None:
        loop = asyncio.get_running_loop()
        if loop.time() < self._muted_until_s and self._transport is not None:
            loop.call_at(self._muted_until_s, self._unmute)
            return
        self._muted = False
        self._continue()

    def _continue(self) -> None:
        """Serve what was read while nothing might be served, then read on."""
        if not self._may_serve():
            return
        if self._gathered >= self._needed:
            # Not from within the answer of another connection's request: a turn later.
            asyncio.get_running_loop().call_soon(self._serve_held)
        else:
            self._steer()

    def _serve_held(self) -> None:
        if self._transport is not None and self._gathered >= self._needed:
            self._serve_whole()

    def _steer(self) -> None:
        """Read or not."""
        if self._transport is None or self._transport.is_closing():
            return
        wanted = self._may_serve()
        if wanted and not self._reading:
            self._reading = True
            self._transport.resume_reading()
        elif not wanted and self._reading:
            self._reading = False
            self._transport.pause_reading()

    def _fault(self, error: BrokerError) -> None:
        self._count("kafka_faults", 1)
        log.info("connection ended", peer=self.address, fault=error.fault.name, reason=error.detail)
        self._forget()
        self.close()

    def _forget(self) -> None:
        self._answers.clear()
        self._chunks.clear()
        self._in_flight_bytes = self._offset = self._gathered = 0
