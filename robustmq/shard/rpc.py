"""Calls between workers: an id, a promise, an answer.

A call to a worker whose link is down, or goes down before it answers, fails with OWNER_UNAVAILABLE;
the caller decides whether to try again. A call to oneself runs at once, through the same handler,
so that one path is tested.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

import msgspec

from robustmq.errors import BrokerError, Fault
from robustmq.promises import Promise
from robustmq.shard import wire


class Bus(Protocol):
    """What carries frames between workers: UNIX sockets in a node, a seeded queue in the
    simulation."""

    def send(self, worker: int, kind: int, *buffers: bytes | bytearray | memoryview) -> bool:
        """Queue a frame; False when the link is down (the frame is not kept)."""
        ...

    def flush(self) -> None:
        """The turn is over: write what is queued."""
        ...

    def queued_bytes(self, worker: int) -> int:
        """What waits for a worker."""
        ...

    def over_high_water(self) -> bool:
        """True while so much waits for some worker that clients must not be read."""
        ...


Handler = Callable[[int, wire.Message], "Promise[Any] | None"]


class Rpc:
    """The calls one worker has open to others, and the answers it owes."""

    def __init__(self, worker_id: int, bus: Bus, handler: Handler) -> None:
        self._worker_id = worker_id
        self._bus = bus
        self._handler = handler
        self._next_call = 1
        self._open: dict[int, tuple[int, Promise[Any]]] = {}
        self._breaks: dict[int, int] = {}

    def call(self, worker: int, message: wire.Message) -> Promise[Any]:
        """The promise of the answer of `worker`."""
        if worker == self._worker_id:
            answer = self._handler(worker, message)
            assert answer is not None, f"a call of {type(message).__name__} has an answer"
            return answer
        promise: Promise[Any] = Promise()
        call = self._next_call
        self._next_call += 1
        self._open[call] = (worker, promise)
        if not self._bus.send(
            worker, wire.MESSAGE, wire.encode(wire.Envelope(call, 0, "", message))
        ):
            del self._open[call]
            promise.fail(BrokerError(Fault.OWNER_UNAVAILABLE, f"worker {worker} is away"))
        return promise

    def notify(self, worker: int, message: wire.Message) -> bool:
        """Tell without waiting for an answer; False when the link is down."""
        if worker == self._worker_id:
            self._handler(worker, message)
            return True
        return self._bus.send(worker, wire.MESSAGE, wire.encode(wire.Envelope(0, 0, "", message)))

    def receive(self, worker: int, payload: bytes | memoryview) -> None:
        """A MESSAGE frame from `worker`."""
        envelope = wire.decode(payload)
        if envelope.answers:
            self._settle(envelope)
            return
        assert envelope.message is not None, "a MESSAGE frame carries a message or an answer"
        try:
            answer = self._handler(worker, envelope.message)
        except BrokerError as error:
            answer = Promise()
            answer.fail(error)
        if envelope.call and answer is not None:
            breaks = self._breaks.get(worker, 0)
            answer.when_settled(lambda: self._reply(worker, breaks, envelope.call, answer))

    def worker_down(self, worker: int) -> None:
        """Fail what was open to a worker that went away."""
        self._breaks[worker] = self._breaks.get(worker, 0) + 1
        lost = [call for call, (peer, _) in self._open.items() if peer == worker]
        for call in lost:
            _, promise = self._open.pop(call)
            promise.fail(BrokerError(Fault.OWNER_UNAVAILABLE, f"worker {worker} went away"))

    def _reply(self, worker: int, breaks: int, call: int, answer: Promise[Any]) -> None:
        if breaks != self._breaks.get(worker, 0):
            # Its caller knows that the link broke; over the next one it would answer another.
            return
        try:
            result = answer.result()
            if isinstance(result, msgspec.Struct):
                envelope = wire.Envelope(0, call, "", result)  # type: ignore[arg-type]
            else:
                envelope = wire.Envelope(0, call, "", None, result)
        except BrokerError as error:
            envelope = wire.Envelope(0, call, error.fault.name, None, error.detail)
        self._bus.send(worker, wire.MESSAGE, wire.encode(envelope))

    def _settle(self, envelope: wire.Envelope) -> None:
        _, promise = self._open.pop(envelope.answers, (0, None))
        if promise is None:
            return
        if envelope.fault:
            promise.fail(BrokerError(Fault[envelope.fault], str(envelope.value)))
        else:
            promise.resolve(envelope.value if envelope.message is None else envelope.message)
