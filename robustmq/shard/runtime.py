"""Runs the durable machines of every kind: append the records, commit, then release the replies
(design, section 10).

A machine's records go to the log of its shard as one entry (kind, key, records). Replies and
commands leave only when everything their machine has appended before is committed, so nobody ever
hears of what a crash could undo. Recovery feeds the snapshot and then the log's entries back.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import Any

from robustmq.errors import BrokerError, Fault
from robustmq.groups.contract import Effects, Machine
from robustmq.groups.timers import TimeWheel
from robustmq.promises import Promise
from robustmq.shard.commits import Commits
from robustmq.shard.machines import MachineKind, encode_machine_entry
from robustmq.shard.placement import Placement
from robustmq.storage.shard_store import MACHINE, ShardStore

Executor = Callable[[str, Any], None]
"""Does a command of the machine with this key."""


class MachineRuntime:
    """The machines of the shards that this worker holds."""

    def __init__(
        self,
        kinds: Iterable[MachineKind],
        placement: Placement,
        stores: dict[int, ShardStore],
        commits: Commits,
        wheel: TimeWheel[tuple[str, ...]],
        monotonic_ms: Callable[[], int],
        wall_ms: Callable[[], int],
    ) -> None:
        self._kinds = {kind.name: kind for kind in kinds}
        self._placement = placement
        self._stores = stores
        self._commits = commits
        self._wheel = wheel
        self._monotonic_ms = monotonic_ms
        self._wall_ms = wall_ms
        self._machines: dict[bytes, dict[str, Machine[Any, Any, Any]]] = {
            name: {} for name in self._kinds
        }
        self._next_token = 1
        self._parked: dict[int, Promise[Any]] = {}
        self._uncommitted: dict[tuple[bytes, str], int] = {}
        self.executors: dict[bytes, Executor] = {}
        """By kind: who does the commands of its machines."""

    # -- recovery and checkpoints ------------------------------------------------------------------

    def replay(self, kind: bytes, key: bytes, records: Iterable[bytes]) -> None:
        """Records of a snapshot or of the log."""
        name = key.decode()
        machine = self._machine(kind, name)
        decode = self._kinds[kind].decode_record
        for record in records:
            machine.replay(decode(record))

    def runs(self, kind: bytes) -> bool:
        """Is this a kind of machine?"""
        return kind in self._kinds

    def resume(self) -> None:
        """Recovery is over: arm the timers, and do what was not done."""
        for kind in self._kinds.values():
            self.tell(kind.name, kind.resumed())

    def names(self) -> list[tuple[bytes, list[str]]]:
        """Which machines there are, of each kind."""
        return [(kind, list(machines)) for kind, machines in self._machines.items()]

    def snapshot(self, kind: bytes, key: str) -> Iterator[bytes] | None:
        """Records that make a machine what it is now, each encoded as it is asked for; None: there
        is none."""
        machine = self._machines[kind].get(key)
        if machine is None:
            return None
        return map(self._kinds[kind].encode_record, machine.snapshot())

    # -- events ------------------------------------------------------------------------------------

    def handle(self, kind: bytes, key: str, event: Any) -> Promise[Any]:
        """Run an event of a machine held here; the promise of its reply."""
        promise: Promise[Any] = Promise()
        if self._placement.machine_shard(kind, key) not in self._stores:
            promise.fail(BrokerError(Fault.OWNER_UNAVAILABLE, "coordinated elsewhere"))
            return promise
        token = self._next_token
        self._next_token += 1
        self._parked[token] = promise
        self._step(kind, key, event, token)
        return promise

    def serve(self, kind: bytes, key: str, event: bytes) -> Promise[bytes]:
        """Run an event that another worker sent; the promise of its encoded reply."""
        spoken = self._kinds[kind]
        promise = self.handle(kind, key, spoken.decode_event(event))
        answer: Promise[bytes] = Promise()

        def settle() -> None:
            try:
                answer.resolve(spoken.encode_reply(promise.result()))
            except BrokerError as error:
                answer.fail(error)

        promise.when_settled(settle)
        return answer

    def encode_event(self, kind: bytes, event: Any) -> bytes:
        """An event for another worker."""
        return self._kinds[kind].encode_event(event)

    def decode_reply(self, kind: bytes, reply: bytes) -> Any:
        """The reply of another worker."""
        return self._kinds[kind].decode_reply(reply)

    def post(self, kind: bytes, key: str, event: Any) -> None:
        """Tell a machine held here of what came of its command; there is no reply."""
        if key in self._machines[kind]:
            self._step(kind, key, event, 0)

    def tell(self, kind: bytes, event: Any) -> None:
        """Every machine of a kind hears of something; nobody waits for a reply."""
        for key in list(self._machines[kind]):
            self._step(kind, key, event, 0)

    def tell_one(self, kind: bytes, key: str, event: Any) -> None:
        """A machine that is there hears of something; nobody waits for a reply."""
        if key in self._machines[kind]:
            self._step(kind, key, event, 0)

    def fire(self, kind: bytes, key: str, timer: str) -> None:
        """A timer of a machine has come."""
        self.tell_one(kind, key, self._kinds[kind].timer_fired(timer))

    # -- a look at them ----------------------------------------------------------------------------

    def machines(self, kind: bytes) -> dict[str, Machine[Any, Any, Any]]:
        """All machines of a kind that are held here, by key; to be read only."""
        return self._machines[kind]

    # -- a step ------------------------------------------------------------------------------------

    def _machine(self, kind: bytes, key: str) -> Machine[Any, Any, Any]:
        machine = self._machines[kind].get(key)
        if machine is None:
            machine = self._machines[kind][key] = self._kinds[kind].make(key)
        return machine

    def _step(self, kind: bytes, key: str, event: Any, token: int) -> None:
        machine = self._machine(kind, key)
        effects = machine.handle(event, self._monotonic_ms(), token)
        for deadline_ms, timer in effects.timers:
            self._wheel.set(("machine", kind.decode(), key, timer), deadline_ms)
        shard = self._placement.machine_shard(kind, key)
        if effects.records:
            encode = self._kinds[kind].encode_record
            records = [encode(record) for record in effects.records]
            payload = encode_machine_entry(kind, key.encode(), records)
            self._stores[shard].append(MACHINE, payload, 0, 0, self._wall_ms())
        told = effects.replies or effects.commands
        if effects.records or (told and self._uncommitted.get((kind, key))):
            self._uncommitted[kind, key] = self._uncommitted.get((kind, key), 0) + 1
            self._commits.mark(shard, False, lambda: self._committed(kind, key, effects))
        elif told:
            self._release(kind, key, effects)
        if machine.disposable and self._machines[kind].get(key) is machine:
            del self._machines[kind][key]

    def _committed(self, kind: bytes, key: str, effects: Effects[Any, Any]) -> None:
        left = self._uncommitted[kind, key] - 1
        if left:
            self._uncommitted[kind, key] = left
        else:
            del self._uncommitted[kind, key]
        self._release(kind, key, effects)

    def _release(self, kind: bytes, key: str, effects: Effects[Any, Any]) -> None:
        for token, reply in effects.replies:
            promise = self._parked.pop(token, None)
            if promise is not None:
                promise.resolve(reply)
        for command in effects.commands:
            self.executors[kind](key, command)
