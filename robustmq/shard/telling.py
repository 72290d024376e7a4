"""The owner's word to the workers: who hears of an append, when, and from where again after a
break.

Delivery to a worker's persistent sessions is a cursor on the shard's log. Invariants:
- A persistent session, and any subscriber of a QoS 2 message, hears only of what is committed: what
  a crash of the owner undoes was never told, so a log position that was told is never used for
  anything else. Such a block is held back until its commit; while a shard holds one back, all its
  later blocks stand in line.
- A worker hears of a shard in the log's order. One whose link was down is first sent again what it
  may have missed, from its own cursor or from the oldest delivery that it has not confirmed; until
  that is through, only sessions that end with their connection are told of what is new.
- What share groups get (`dealing`) is told by the position of its own log entry, in the same line.
- Nothing is told by position before the worker has said what it wants (`worker_heard`), as the
  cursor of a newer message would hide an older one.
"""

from __future__ import annotations

from collections import OrderedDict, deque
from collections.abc import Callable
from typing import Protocol

from robustmq.core import blocks
from robustmq.errors import BrokerError, Fault
from robustmq.shard import wire
from robustmq.shard.commits import Commits
from robustmq.shard.dealing import Dealing, Given
from robustmq.shard.deliverable import shown
from robustmq.shard.interest import KEPT, PERSISTENT, SHARED, WANTED, OwnerInterest, bits_of
from robustmq.shard.partitions import Partitions
from robustmq.shard.placement import ENTRY_ACK, ENTRY_KAFKA, ENTRY_QOS2, Placement
from robustmq.shard.rpc import Bus
from robustmq.storage.shard_store import DEALT, ShardStore

Confirm = Callable[[Fault | None], None]

REPLAY_SLICE_BYTES = 1024 * 1024
REPLAY_SLICE_ENTRIES = 500
REPLAY_AHEAD_BYTES = 8 * 1024 * 1024
"""A replay waits while so much waits for its worker on the bus."""
LOOKED_AT_TICKETS = 20_000
"""With more deliveries on their way than this nobody looks what they still need."""
GATHERED_BYTES = 16 * 1024 * 1024
"""QoS 0 of one turn; more is told at once."""


class LocalDelivery(Protocol):
    """What the owner asks of the subscriber's side on its own worker."""

    def deliver(
        self,
        shard: int,
        position: int,
        block: bytearray | bytes,
        flags: int,
        done: Callable[[], None] | None,
    ) -> None:
        """Hand a block to the local subscribers that `flags` (of wire.DELIVER) name; `done` when
        persistent sessions have it committed."""
        ...


class LocalShares(Protocol):
    """What the owner asks of the members of share groups on its own worker."""

    def take(
        self,
        shard: int,
        position: int,
        flags: int,
        parts: list[wire.SharePart],
        done: Callable[[], None] | None,
    ) -> None:
        """Hand records to members; `done` when persistent sessions have them committed."""
        ...


class Commit:
    """A confirmation that waits for the commit and for the workers that must have it."""

    __slots__ = ("confirm", "remaining")

    def __init__(self, confirm: Confirm) -> None:
        self.confirm = confirm
        self.remaining = 1

    def step(self) -> None:
        """One of those waited for has it."""
        self.remaining -= 1
        if not self.remaining:
            self.confirm(None)


class _Ticket:
    """A delivery that a worker has not confirmed; to repeat it, the log is needed from `needs`
    on."""

    __slots__ = ("commit", "needs", "position", "shard", "size")

    def __init__(
        self, shard: int, position: int, commit: Commit | None, size: int, needs: int
    ) -> None:
        self.shard = shard
        self.position = position
        self.needs = needs
        self.commit = commit
        self.size = size


class _Replay:
    """How far a worker has been sent a shard's log again, and how far that must go at least."""

    __slots__ = ("position", "until")

    def __init__(self, position: int, until: int) -> None:
        self.position = position
        self.until = until


class Telling:
    """Tells the workers of what is appended to the shards held here."""

    def __init__(
        self,
        worker_id: int,
        worker_count: int,
        placement: Placement,
        stores: dict[int, ShardStore],
        commits: Commits,
        partitions: Partitions,
        interest: OwnerInterest,
        dealing: Dealing,
        delivery: LocalDelivery,
        shares: LocalShares,
        bus: Bus,
        later: Callable[[Callable[[], None]], object],
        turn: Callable[[], None],
    ) -> None:
        """`later` runs a function in a following turn; `turn` sees that this one has an end."""
        self._worker_id = worker_id
        self._workers = range(worker_count)
        self._placement = placement
        self._stores = stores
        self._commits = commits
        self._partitions = partitions
        self._interest = interest
        self._dealing = dealing
        self._delivery = delivery
        self._shares = shares
        self._bus = bus
        self._later = later
        self._turn = turn
        self._bits = [bits_of(worker, WANTED | PERSISTENT) for worker in self._workers]
        self._persistent_bits = KEPT | sum(bits_of(worker, PERSISTENT) for worker in self._workers)
        self._tickets: list[OrderedDict[int, _Ticket]] = [OrderedDict() for _ in self._workers]
        self._next_ticket = 1
        self._gathered: list[list[bytes | bytearray]] = [[] for _ in self._workers]
        self._gathered_bytes = 0
        self._gathered_from = 0
        """A bit for each shard of which there is something."""
        self.unconfirmed_bytes = 0
        """Of deliveries that persistent sessions of other workers have not committed."""
        self._passed: list[list[wire.SharePart]] = [[] for _ in self._workers]
        self._heard: set[int] = set()
        self._told: set[int] = set()
        self._complete = False
        self.completed: Callable[[], None] = lambda: None
        """Called once, when every worker has said what it wants."""
        self._replays: dict[tuple[int, int], _Replay] = {}
        self._resting: set[tuple[int, int]] = set()
        self._holding: dict[int, deque[int]] = {}
        """By shard: from where on the log is needed for each block that waits for its commit."""
        self._interrupted: set[tuple[int, int]] = set()
        """Workers that went away while a shard's log was sent to them again."""
        # Where replays have ended while blocks of their shard still waited to be told: those before
        # it were sent with the replay.
        self._replayed: dict[tuple[int, int], int] = {}

    # -- a new block -------------------------------------------------------------------------------

    def must_wait(self, shard: int, mask: int, flags: int) -> bool:
        """Is a block of these flags, wanted by `mask`, told only after its commit?"""
        if shard in self._holding or flags & ENTRY_QOS2:
            return True
        return bool(mask & self._persistent_bits and flags & (ENTRY_ACK | ENTRY_KAFKA))

    def holds(self, shard: int) -> bool:
        """Are there blocks of the shard that wait for their commit to be told?"""
        return shard in self._holding

    def after_commit(
        self,
        shard: int,
        sync: bool,
        position: int,
        block: bytes | bytearray,
        mask: int,
        same: bool,
        flags: int,
        commit: Commit | None,
    ) -> None:
        """Tell of a block when it is committed, in the order of the log; then `commit` goes on."""

        given = None
        if mask & SHARED and flags & (ENTRY_ACK | ENTRY_KAFKA):
            given = self._dealing.append(shard, position, block)

        def tell() -> None:
            self.tell(shard, position, block, mask, same, flags, commit, given)
            if commit is not None:
                commit.step()

        self._hold(shard, sync, position, tell)

    def _hold(self, shard: int, sync: bool, needs: int, tell: Callable[[], None]) -> None:
        """Tell of what was appended last when it is committed; what comes behind it waits too."""

        def committed() -> None:
            held = self._holding[shard]
            held.popleft()
            left = bool(held)
            if not left:
                del self._holding[shard]
            tell()
            if not left and self._replayed:
                for key in [key for key in self._replayed if key[1] == shard]:
                    del self._replayed[key]
            self._turn()

        self._holding.setdefault(shard, deque()).append(needs)
        self._commits.mark(shard, sync, committed)

    def tell_given(self, shard: int, given: Given, wait: bool) -> None:
        """Tell of what share groups get of no new block; `wait`: when it is committed."""
        if wait:
            self._hold(shard, False, given.needs, lambda: self._tell_given(shard, given, None))
        else:
            self._tell_given(shard, given, None)
        self._turn()

    def tell(
        self,
        shard: int,
        position: int,
        block: bytes | bytearray,
        mask: int,
        same: bool,
        flags: int,
        commit: Commit | None,
        given: Given | None = None,
    ) -> None:
        """Tell every worker that wants something of a block. `position` is NO_POSITION for what is
        not (yet) committed; `given` is what share groups get, if that is decided."""
        acked = flags & (ENTRY_ACK | ENTRY_KAFKA)
        if mask and not acked:
            self.gather(shard, block, mask, same)
        elif mask:
            if self._gathered_from >> shard & 1:
                # This block may hold QoS 0, too, and that must not overtake what came before it.
                self.flush()
            for worker in self._workers:
                if mask & bits_of(worker, WANTED | PERSISTENT):
                    part = self._wanted_by(worker, block, same)
                    must = bool(mask & bits_of(worker, PERSISTENT))
                    self._tell_one(worker, shard, position, part, must, commit)
        if given is not None:
            self._tell_given(shard, given, commit)
        elif mask & SHARED:
            shared = block if same else blocks.select(block, self._interest.masks, SHARED)
            self._pass_on(self._dealing.pass_on(shared))

    def _wanted_by(self, worker: int, block: bytes | bytearray, same: bool) -> bytes | bytearray:
        if same:
            return block
        return blocks.select(block, self._interest.masks, bits_of(worker, WANTED))

    def gather(self, shard: int, block: bytes | bytearray, mask: int, same: bool) -> None:
        """QoS 0 alone needs neither position nor ticket: it goes with that of other shards."""
        self._gathered_from |= 1 << shard
        for worker, bits in enumerate(self._bits):
            if mask & bits:
                part = block if same else self._wanted_by(worker, block, same)
                self._gathered[worker].append(part)
                self._gathered_bytes += len(part)
        if self._gathered_bytes > GATHERED_BYTES:
            self.flush()

    def flush(self) -> None:
        """Tell the workers what was gathered for them; the broker calls it once a turn."""
        if not self._gathered_bytes:
            return
        self._gathered_bytes = self._gathered_from = 0
        for worker, parts in enumerate(self._gathered):
            if parts:
                self._gathered[worker] = []
                block = parts[0] if len(parts) == 1 else b"".join(parts)
                self._send(worker, 0, wire.NO_POSITION, 0, 0, block)
        for worker, passed in enumerate(self._passed):
            if passed:
                self._passed[worker] = []
                self._send_parts(worker, 0, wire.NO_POSITION, 0, 0, passed)

    def _tell_one(
        self,
        worker: int,
        shard: int,
        position: int,
        part: bytes | bytearray,
        must: bool,
        commit: Commit | None,
    ) -> None:
        in_turn = position == wire.NO_POSITION or (
            worker in self._heard and (worker, shard) not in self._replays
        )
        if self._went_with_replay(worker, shard, position):
            in_turn = must = False
        waiting = commit if must else None
        if waiting is not None:
            waiting.remaining += 1
        if worker == self._worker_id and in_turn:
            done = waiting.step if waiting is not None else None
            self._delivery.deliver(shard, position, part, 0, done)
            return
        ticket = self._ticket(worker, shard, position, waiting, len(part), position) if must else 0
        if in_turn:
            self._send(worker, shard, position, ticket, 0, part)
        else:
            self._send(worker, shard, wire.NO_POSITION, 0, wire.EPHEMERAL, part)

    def _went_with_replay(self, worker: int, shard: int, position: int) -> bool:
        """Was it sent, while it waited to be told? Then nobody need wait for it: until it is
        committed there, a break has it sent again."""
        return bool(self._replayed) and position < self._replayed.get((worker, shard), 0)

    def _send(
        self,
        worker: int,
        shard: int,
        position: int,
        ticket: int,
        flags: int,
        block: bytes | bytearray,
    ) -> None:
        if worker == self._worker_id:
            self._delivery.deliver(shard, position, block, flags, self._done(worker, ticket))
            return
        self._bus.send(worker, wire.DELIVER, _head(shard, position, ticket, flags), block)

    def _done(self, worker: int, ticket: int) -> Callable[[], None] | None:
        """What the own worker calls when it has committed a delivery that has a ticket."""
        return (lambda: self.delivered(worker, ticket)) if ticket else None

    def _ticket(
        self,
        worker: int,
        shard: int,
        position: int,
        commit: Commit | None,
        size: int,
        needs: int,
    ) -> int:
        ticket = self._next_ticket
        self._next_ticket += 1
        self._tickets[worker][ticket] = _Ticket(shard, position, commit, size, needs)
        self.unconfirmed_bytes += size
        return ticket

    def delivered(self, worker: int, ticket: int) -> None:
        """A worker's persistent sessions have committed a delivery."""
        waiting = self._tickets[worker].pop(ticket, None)
        if waiting is None:
            return
        self.unconfirmed_bytes -= waiting.size
        if waiting.commit is not None:
            waiting.commit.step()

    # -- share groups ------------------------------------------------------------------------------

    def _pass_on(self, passed: dict[int, list[wire.SharePart]]) -> None:
        for worker, parts in passed.items():
            self._passed[worker] += parts
            self._gathered_bytes += sum(len(part.entry) for part in parts)
        if self._gathered_bytes > GATHERED_BYTES:
            self.flush()

    def _tell_given(self, shard: int, given: Given, commit: Commit | None) -> None:
        self._pass_on(given.passed)
        for worker, parts in given.kept.items():
            if self._went_with_replay(worker, shard, given.position):
                continue
            if commit is not None:
                commit.remaining += 1
            size = sum(len(part.entry) for part in parts)
            ticket = self._ticket(worker, shard, given.position, commit, size, given.needs)
            if worker in self._heard and (worker, shard) not in self._replays:
                self._send_parts(worker, shard, given.position, ticket, 0, parts)

    def _send_parts(
        self,
        worker: int,
        shard: int,
        position: int,
        ticket: int,
        flags: int,
        parts: list[wire.SharePart],
    ) -> None:
        if worker == self._worker_id:
            self._shares.take(shard, position, flags, parts, self._done(worker, ticket))
            return
        head = _head(shard, position, ticket, flags)
        self._bus.send(worker, wire.SHARE, head, wire.encode_parts(parts))

    # -- a worker comes back -----------------------------------------------------------------------

    def worker_heard(self, worker: int, cursors: dict[int, int]) -> None:
        """A worker has told what it wants: send it what it may have missed, shard by shard.

        `cursors` are the positions that it has heard of; a shard that is not named has nothing for
        it but what waits for its confirmation. The own worker says so after its recovery.
        """
        self._heard.add(worker)
        self._told.add(worker)
        self._interrupted = {one for one in self._interrupted if one[0] != worker}
        starts: dict[int, int] = {}
        for ticket, waiting in list(self._tickets[worker].items()):
            if waiting.position == wire.NO_POSITION:
                self.delivered(worker, ticket)
            else:
                earliest = starts.get(waiting.shard, waiting.position)
                starts[waiting.shard] = min(waiting.position, earliest)
        for shard, position in cursors.items():
            if shard in self._stores:
                starts[shard] = min(position, starts.get(shard, position))
        for shard, position in starts.items():
            running = (worker, shard) in self._replays
            # What is not committed yet may have been told while nobody knew that it wants it.
            end = self._stores[shard].end_position
            self._replays[worker, shard] = _Replay(position, end)
            if not running:
                self._replay_slice(worker, shard)
        if len(self._told) == len(self._workers) and not self._complete:
            self._complete = True
            self._dealing.complete()
            self.completed()

    def _replay_slice(self, worker: int, shard: int) -> None:
        """Send one slice of what is committed; go on in a later turn until that is all."""
        replay = self._replays.get((worker, shard))
        if replay is None:
            return
        if self._bus.queued_bytes(worker) > REPLAY_AHEAD_BYTES:
            self._resting.add((worker, shard))
            return
        store = self._stores[shard]
        tickets = {
            waiting.position: ticket
            for ticket, waiting in self._tickets[worker].items()
            if waiting.shard == shard
        }
        try:
            whole = self._send_slice(worker, shard, replay, tickets)
        except BrokerError:
            # What cannot be read now, a corrupt entry is not: it is tried again with the next tick.
            self._resting.add((worker, shard))
            return
        if not whole:
            self._later(lambda: self._replay_slice(worker, shard))
            self._turn()
            return
        replay.position = max(replay.position, store.committed_position)
        if store.committed_position < replay.until:
            self._commits.mark(shard, False, lambda: self._replay_slice(worker, shard))
        else:
            del self._replays[worker, shard]
            if shard in self._holding:
                self._replayed[worker, shard] = replay.position
        self._turn()

    def _send_slice(
        self, worker: int, shard: int, replay: _Replay, tickets: dict[int, int]
    ) -> bool:
        """Send what is committed, so much at most; is that all? Raises STORAGE_FAILED, with
        `replay` at what could not be read."""
        store = self._stores[shard]
        sent = 0
        entries = store.scan(replay.position, store.committed_position)
        for seen, (position, kind, payload) in enumerate(entries):
            replay.position = position
            if sent > REPLAY_SLICE_BYTES or seen > REPLAY_SLICE_ENTRIES:
                return False
            parts = self._dealing.parts_of(shard, payload, worker) if kind == DEALT else []
            part = b"" if parts else self._part_of(worker, kind, payload)
            ticket = tickets.pop(position, 0)
            if (parts or part) and not ticket:
                # Confirmed like what is new: until then the log is needed from here on.
                needs = self._dealing.needed_by(payload, position) if parts else position
                ticket = self._ticket(worker, shard, position, None, 0, needs)
            if parts:
                self._send_parts(worker, shard, position, ticket, wire.REPLAY, parts)
                sent += sum(len(one.entry) for one in parts)
            elif part:
                self._send(worker, shard, position, ticket, wire.REPLAY, part)
                sent += len(part)
            elif ticket:
                self.delivered(worker, ticket)
            replay.position = position + store.entry_bytes(payload)
        return True

    def tick(self) -> None:
        """Replays that were ahead of their worker go on, if it has caught up."""
        if self._resting:
            resting, self._resting = self._resting, set()
            for worker, shard in resting:
                self._replay_slice(worker, shard)

    def _part_of(self, worker: int, kind: int, payload: bytes | memoryview) -> bytes | bytearray:
        """What the persistent sessions of a worker want of a log entry."""
        block = shown(kind, payload, self._partitions, self._placement)
        if not block:
            return b""
        blocks.split(block, self._interest.masks, self._interest.mask)
        return blocks.select(block, self._interest.masks, bits_of(worker, PERSISTENT))

    def worker_down(self, worker: int) -> None:
        """A worker went away: its persistent sessions still count, its other clients do not."""
        self._heard.discard(worker)
        self._interest.only_persistent(worker)
        self._interrupted.update(key for key in self._replays if key[0] == worker)
        for table in (self._replays, self._replayed):
            for key in [key for key in table if key[0] == worker]:
                del table[key]

    def ends(self, worker: int) -> dict[int, int]:
        """How far a worker has been told of each shard held here: what lies before it is not told
        to it again."""
        ends: dict[int, int] = {}
        for shard, store in self._stores.items():
            replay = self._replays.get((worker, shard))
            ends[shard] = store.committed_position if replay is None else replay.position
        return ends

    def needed_from(self, shard: int) -> int:
        """What stands before this position of a shard's log nobody is told any more, whoever dies:
        every worker has said what it has heard of, was sent what it missed, and has confirmed it.
        """
        unknown = len(self._told) < len(self._workers)
        if unknown or any(key[1] == shard for key in (*self._replays, *self._interrupted)):
            return 0
        if sum(map(len, self._tickets)) > LOOKED_AT_TICKETS:
            return 0
        needed = self._stores[shard].committed_position
        held = self._holding.get(shard)
        if held:
            needed = min(needed, *held) if len(held) < LOOKED_AT_TICKETS else 0
        waiting = (
            one.needs for table in self._tickets for one in table.values() if one.shard == shard
        )
        return min(needed, min(waiting, default=needed))

    @property
    def idle(self) -> bool:
        """True when nothing waits for a commit, a worker's confirmation, or to be sent again."""
        return not (self._holding or self._replays or self._gathered_bytes or any(self._tickets))


def _head(shard: int, position: int, ticket: int, flags: int) -> bytes:
    """The head of what is told over the bus; what has a ticket is to be confirmed."""
    if ticket:
        flags |= wire.WANTS_CONFIRM
    return wire.DELIVER_HEAD.pack(shard, flags, 0, position, ticket)
