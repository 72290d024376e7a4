"""The worker's side of meta: a read-only view of the cluster state, and proposals.

`MetaClient` talks to the meta process and survives its death: it connects again with back-off,
takes the whole state (telling callbacks only what differs), and sends unanswered commands once
more under their old ids. `LocalMeta` is the same for the edge profile, without a socket. Callbacks
see the state with their delta applied already.
"""

from __future__ import annotations

import asyncio
import os
from collections.abc import Callable
from typing import Protocol, cast

import msgspec

from robustmq import clock
from robustmq.cluster.commands import Change, Command, Delta, Result
from robustmq.cluster.meta import Meta
from robustmq.cluster.state import ClusterState, advance, difference
from robustmq.errors import BrokerError, Fault
from robustmq.observability import logs
from robustmq.process import meta_wire
from robustmq.process.meta_wire import (
    Answer,
    Applied,
    Changed,
    FromMeta,
    FullState,
    Propose,
    Subscribe,
)
from robustmq.promises import Promise, resolved

MAX_PENDING = 10_000
BACK_OFF_S = (0.02, 0.05, 0.1, 0.2, 0.5, 1.0)
OnDelta = Callable[[Delta], None]
log = logs.get_logger("meta_client")


class MetaPort(Protocol):
    """What a worker uses of meta."""

    state: ClusterState
    ready: Promise[None]

    def propose(self, command: Command) -> Promise[Result]:
        """Ask for a change."""

    def on_delta(self, callback: OnDelta) -> None:
        """Be told of every change from now on."""

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Begin."""

    def stop(self) -> None:
        """End."""


class MetaClient(asyncio.Protocol):
    """The link of one worker to the meta process. `ready` settles with the first whole state."""

    def __init__(self, path: str) -> None:
        self.state = ClusterState()
        self.ready: Promise[None] = Promise()
        self._path = path
        self._callbacks: list[OnDelta] = []
        self._pending: dict[bytes, tuple[Command, Promise[Result]]] = {}
        self._transport: asyncio.Transport | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._connecting: asyncio.Task[None] | None = None
        self._splitter = meta_wire.Splitter()
        self._decoder = msgspec.msgpack.Decoder(FromMeta)
        self._stopped = False

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Connect, now or as soon as meta is there."""
        self._loop = loop
        self._connect_soon()

    def stop(self) -> None:
        """Close; what is not answered fails with OWNER_UNAVAILABLE."""
        self._stopped = True
        if self._connecting is not None:
            self._connecting.cancel()
        if self._transport is not None:
            self._transport.close()
        pending, self._pending = self._pending, {}
        for _, promise in pending.values():
            promise.fail(BrokerError(Fault.OWNER_UNAVAILABLE, "the worker stops"))

    def on_delta(self, callback: OnDelta) -> None:
        """Be told of every change from now on; also of what the first state holds, when called
        before it."""
        self._callbacks.append(callback)

    def propose(self, command: Command) -> Promise[Result]:
        """Ask for a change; settles when it is durable, and applied to `state`."""
        promise: Promise[Result] = Promise()
        if self._stopped or len(self._pending) >= MAX_PENDING:
            promise.fail(BrokerError(Fault.SERVER_BUSY, "too many changes to the cluster wait"))
            return promise
        command_id = os.urandom(16)
        self._pending[command_id] = (command, promise)
        if self._transport is not None:
            self._transport.write(meta_wire.encode(Propose(command_id, command)))
        return promise

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """Subscribe, and send again what was not answered."""
        # A cast: the transports of uvloop do not derive from asyncio's.
        writer = self._transport = cast(asyncio.Transport, transport)
        self._splitter = meta_wire.Splitter()
        writer.write(meta_wire.encode(Subscribe(meta_wire.VERSION)))
        for command_id, (command, _) in self._pending.items():
            writer.write(meta_wire.encode(Propose(command_id, command)))

    def data_received(self, data: bytes) -> None:
        """States, changes, answers, in order."""
        try:
            messages = [self._decoder.decode(payload) for payload in self._splitter.feed(data)]
        except (msgspec.MsgspecError, meta_wire.BadFrame) as error:
            log.error("bad frame from meta", reason=str(error))
            if self._transport is not None:
                self._transport.abort()
            return
        version = self.state.version
        for message in messages:
            match message:
                case FullState():
                    version = -1
                    self._replace(msgspec.msgpack.decode(message.state, type=ClusterState))
                case Changed():
                    for change in message.changes:
                        _take(self.state, change, self._callbacks)
                case Answer():
                    known = self._pending.pop(message.command_id, None)
                    if known is not None:
                        known[1].resolve(message.result)
        if self.state.version != version and self._transport is not None:
            self._transport.write(meta_wire.encode(Applied(self.state.version)))

    def connection_lost(self, exc: Exception | None) -> None:
        """Meta is gone; connect again."""
        self._transport = None
        if not self._stopped:
            log.warning("meta is gone, connecting again")
            self._connect_soon()

    def _replace(self, new: ClusterState) -> None:
        deltas = difference(self.state, new)
        for field in ClusterState.__struct_fields__:
            setattr(self.state, field, getattr(new, field))
        for delta in deltas:
            for callback in self._callbacks:
                callback(delta)
        self.ready.resolve(None)

    def _connect_soon(self) -> None:
        assert self._loop is not None, "start() comes first"
        self._connecting = self._loop.create_task(self._connect(self._loop), name="meta link")

    async def _connect(self, loop: asyncio.AbstractEventLoop) -> None:
        attempt = 0
        while not self._stopped:
            try:
                await loop.create_unix_connection(lambda: self, self._path)
                return
            except OSError:
                await asyncio.sleep(BACK_OFF_S[min(attempt, len(BACK_OFF_S) - 1)])
                attempt += 1


class LocalMeta:
    """Meta in the same process: proposals are answered at once (the edge profile, tests)."""

    def __init__(self, meta: Meta) -> None:
        self.state = meta.state
        self.ready: Promise[None] = resolved(None)
        self._meta = meta
        self._callbacks: list[OnDelta] = []
        self._unsubscribe = meta.subscribe(self._tell)

    def start(self, loop: asyncio.AbstractEventLoop) -> None:
        """Tell callbacks what the state holds already."""
        for delta in difference(ClusterState(), self.state):
            self._say(delta)

    def stop(self) -> None:
        """Close the files."""
        self._unsubscribe()
        self._meta.close()

    def on_delta(self, callback: OnDelta) -> None:
        """Be told of every change from now on."""
        self._callbacks.append(callback)

    def propose(self, command: Command) -> Promise[Result]:
        """Ask for a change; a disk error is raised, and must end the process."""
        (result,) = self._meta.propose([(os.urandom(16), command)], clock.wall_ms())
        return resolved(result)

    def _tell(self, changes: list[Change]) -> None:
        for change in changes:
            for delta in change.deltas:
                self._say(delta)

    def _say(self, delta: Delta) -> None:
        for callback in self._callbacks:
            callback(delta)


def _take(state: ClusterState, change: Change, callbacks: list[OnDelta]) -> None:
    if advance(state, change):
        for delta in change.deltas:
            for callback in callbacks:
                callback(delta)
