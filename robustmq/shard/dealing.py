"""The owner's side of share groups: gives out the messages of its shards, each to one home a group.

What is acknowledged and goes to a group with a persistent member is given out once and for ever: a
DEALT entry right behind the block in the shard's log says who got what. It is told when it is
committed, by its own log position, in the log's order, and again from the log to a worker that may
have missed it (`telling`); a home that has it knows so by its cursor. So the death of either side
loses nothing, and nobody gets what was given to another. Invariants:
- A block and its DEALT entry are appended together, so only the last block of a log can lack one.
  An owner that starts does not know all groups either: from there on the log is open (an entry says
  so) until every worker has told its members. Then blocks since are given to the groups that were
  not known.
- What a member leaves behind comes back as a request with a name for ever (the home, and where its
  log says so): it is the source and the sequence of its DEALT entry, so it is taken once.
- A message of QoS 2 is told after its commit only, and its DEALT entry also names the groups that
  got it without being kept: it is given to nobody else after a crash.
Everything else (QoS 0, groups that end with their connections, topics in mode memory) is passed on
once.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import msgspec

from robustmq.core import batches, blocks
from robustmq.errors import BrokerError, Fault
from robustmq.shard import wire
from robustmq.shard.commits import Commits
from robustmq.shard.deliverable import shown
from robustmq.shard.interest import OwnerInterest
from robustmq.shard.partitions import Partitions
from robustmq.shard.placement import ENTRY_ACK, ENTRY_KAFKA, ENTRY_QOS2, Placement
from robustmq.shard.share_homes import ShareHomes
from robustmq.storage.log_files import Gone
from robustmq.storage.shard_store import (
    DEALT,
    LASTING_SOURCE,
    TOLD,
    ShardStore,
)

CAME_BACK = -1
OPEN = -2
CLOSED = -3
ACKED = ENTRY_ACK | ENTRY_KAFKA
RESOLVE_ENTRIES = 500

Group = tuple[bytes, bytes]
Confirm = Callable[[int, wire.ShareTaken], bool]


class DealtPart(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Who got records of one entry: of the block's entry `number`, or of `entry`, which came back.
    `passed` are the groups that got it, of QoS 2, without being kept."""

    number: int
    entry: bytes
    hands: list[wire.ShareHand]
    passed: list[Group] = []


class Dealt(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """The payload of a log entry of kind 10. `position` is that of the block, CAME_BACK, or says
    OPEN (from `since` on) or CLOSED."""

    position: int
    parts: list[DealtPart]
    since: int = 0


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(Dealt)


class Given:
    """What became of one block: what is in the log at `position`, by worker, and what is only
    passed on. To tell it again, the log is needed from `needs` on: the block stands there."""

    __slots__ = ("kept", "needs", "passed", "position")

    def __init__(self) -> None:
        self.position = self.needs = wire.NO_POSITION
        self.kept: dict[int, list[wire.SharePart]] = {}
        self.passed: dict[int, list[wire.SharePart]] = {}


class Dealing:
    """Gives out what is appended to the shards held here."""

    def __init__(
        self,
        placement: Placement,
        stores: dict[int, ShardStore],
        commits: Commits,
        partitions: Partitions,
        interest: OwnerInterest,
        wall_ms: Callable[[], int],
        later: Callable[[Callable[[], None]], object],
    ) -> None:
        """`later` runs a function in a following turn."""
        self._placement = placement
        self._stores = stores
        self._commits = commits
        self._partitions = partitions
        self._interest = interest
        self._wall_ms = wall_ms
        self._later = later
        self._open: dict[int, int] = {}
        self._early: list[tuple[int, wire.ShareAgain, Confirm]] = []
        self._complete = False
        self.tell: Callable[[int, Given, bool], None] = lambda shard, given, wait: None
        """Told of what is given out, now or (`wait`) when it is committed; set by the broker."""

    # -- a new block -------------------------------------------------------------------------------

    def pass_on(self, block: bytes | bytearray) -> dict[int, list[wire.SharePart]]:
        """Give out the entries of a block of which nothing is to be kept: the parts by worker."""
        passed: dict[int, list[wire.SharePart]] = {}
        for entry in blocks.entries(block):
            hands: list[wire.ShareHand] = []
            for share in self._interest.shares(entry.topic):
                hands += self._hands(share, block, entry)
            self._part(passed, block, entry, hands)
        return passed

    def append(self, shard: int, position: int, block: bytes | bytearray) -> Given:
        """Give out a block that was just appended, and append who got what."""
        given, parts = Given(), []
        for number, entry in enumerate(blocks.entries(block)):
            acked = bool(entry.flags & ACKED)
            kept: list[wire.ShareHand] = []
            hands: list[wire.ShareHand] = []
            passed: list[Group] = []
            for share in self._interest.shares(entry.topic):
                if share.kept and acked:
                    kept += self._hands(share, block, entry)
                else:
                    hands += self._hands(share, block, entry)
                    passed.append((share.group, share.filter))
            self._part(given.passed, block, entry, hands)
            self._part(given.kept, block, entry, kept)
            if not entry.flags & ENTRY_QOS2:
                # Who only passes it on may lose it: a group that proves to be kept gets it again.
                passed = []
            if kept or passed:
                parts.append(DealtPart(number, b"", kept, passed))
        if parts:
            given.position = self._append(shard, Dealt(position, parts))
            given.needs = position
        return given

    def _append(self, shard: int, dealt: Dealt, source: int = 0, sequence: int = 0) -> int:
        payload = _encoder.encode(dealt)
        return self._stores[shard].append(DEALT, payload, source, sequence, self._wall_ms())

    @staticmethod
    def _hands(
        share: ShareHomes, block: bytes | bytearray, entry: blocks.EntryView
    ) -> list[wire.ShareHand]:
        count = batches.record_count(block, entry.batch_begin)
        dealt = share.deal(count, entry.topic, entry.origin)
        return [
            wire.ShareHand(share.group, share.filter, home, indexes, share.sure)
            for home, indexes in dealt
        ]

    def _part(
        self,
        parts: dict[int, list[wire.SharePart]],
        block: bytes | bytearray,
        entry: blocks.EntryView,
        hands: list[wire.ShareHand],
    ) -> None:
        if hands:
            self._sort(parts, bytes(block[entry.begin : entry.end]), hands)

    def _sort(
        self, parts: dict[int, list[wire.SharePart]], entry: bytes, hands: list[wire.ShareHand]
    ) -> None:
        """Add an entry to the parts of the workers whose homes get something of it."""
        by_worker: dict[int, list[wire.ShareHand]] = {}
        for hand in hands:
            by_worker.setdefault(self._placement.shard_owner(hand.home), []).append(hand)
        for worker, chosen in by_worker.items():
            parts.setdefault(worker, []).append(wire.SharePart(entry, chosen))

    # -- from the log ------------------------------------------------------------------------------

    def parts_of(
        self, shard: int, payload: bytes | memoryview, worker: int
    ) -> list[wire.SharePart]:
        """What a DEALT entry says that a worker gets."""
        dealt = _decoder.decode(payload)
        parts: dict[int, list[wire.SharePart]] = {}
        if dealt.position == CAME_BACK:
            for part in dealt.parts:
                self._sort(parts, part.entry, part.hands)
        elif dealt.position >= 0:
            try:
                block = self._block(shard, dealt.position)
            except Gone:
                # Everybody who got something of it has confirmed that (`position_floors`).
                return []
            except BrokerError as error:
                if error.fault is not Fault.CORRUPT_RECORD:
                    raise
                # A disk has lost it: nobody gets it, and what lies behind it is told.
                return []
            entries = blocks.entries(block)
            for part in dealt.parts:
                if part.number < len(entries):
                    self._part(parts, block, entries[part.number], part.hands)
        return parts.get(worker, [])

    def needed_by(self, payload: bytes | memoryview, position: int) -> int:
        """From where on the log is needed to tell a DEALT entry at a position again."""
        dealt = _decoder.decode(payload)
        return dealt.position if dealt.position >= 0 else position

    def needed_from(self, shard: int) -> int | None:
        """From where on the log of a shard is needed: it is open since then. None: it is not."""
        return self._open.get(shard)

    def _block(self, shard: int, position: int) -> bytes | bytearray:
        kind, payload = self._stores[shard].read_entry(position)
        return shown(kind, payload, self._partitions, self._placement)

    # -- what comes back ---------------------------------------------------------------------------

    def again(self, worker: int, message: wire.ShareAgain, confirm: Confirm) -> None:
        """Give to others what members have left behind; `confirm(worker, taken)` when that is in
        the log."""
        store = self._stores[message.shard]
        source = LASTING_SOURCE | message.home
        taken = wire.ShareTaken(message.home, message.sequence, message.shard)
        if message.sequence and store.seen(source, message.sequence):
            self._confirm(worker, taken, confirm)
            return
        if message.sequence and self._too_early(message):
            self._early.append((worker, message, confirm))
            return
        given, parts = self._give_again(message)
        if message.sequence or given.kept:
            dealt = Dealt(CAME_BACK, parts)
            given.position = self._append(
                message.shard, dealt, source if message.sequence else 0, message.sequence
            )
            given.needs = given.position
        if message.sequence:
            self._confirm(worker, taken, confirm)
        self.tell(message.shard, given, given.position != wire.NO_POSITION)

    def _confirm(self, worker: int, taken: wire.ShareTaken, confirm: Confirm) -> None:
        def committed() -> None:
            confirm(worker, taken)

        self._commits.mark(taken.shard, False, committed)

    def _too_early(self, message: wire.ShareAgain) -> bool:
        """May a worker that has not told its members yet have some for this? Requests of a home
        keep their order."""
        if self._complete:
            return False
        if any(early.home == message.home for _, early, _ in self._early):
            return True
        shares = [self._interest.share(row.group, row.filter) for row in message.rows]
        return any(share is None or share.empty for share in shares)

    def _give_again(self, message: wire.ShareAgain) -> tuple[Given, list[DealtPart]]:
        given, parts = Given(), []
        for row in message.rows:
            share = self._interest.share(row.group, row.filter)
            if share is None:
                continue
            view = blocks.entries(row.entry)[0]
            dealt = share.deal(len(row.indexes), view.topic, view.origin)
            hands = [
                wire.ShareHand(
                    row.group,
                    row.filter,
                    home,
                    row.indexes if chosen is None else [row.indexes[at] for at in chosen],
                    share.sure,
                )
                for home, chosen in dealt
            ]
            if message.sequence or share.kept:
                parts.append(DealtPart(0, row.entry, hands))
                self._sort(given.kept, row.entry, hands)
            else:
                self._sort(given.passed, row.entry, hands)
        return given, parts

    # -- the start ---------------------------------------------------------------------------------

    def on_entry(self, shard: int, payload: bytes | memoryview) -> None:
        """Recovery: a DEALT entry."""
        dealt = _decoder.decode(payload)
        if dealt.position == OPEN:
            self._open[shard] = dealt.since
        elif dealt.position == CLOSED:
            self._open.pop(shard, None)

    def snapshot(self, shard: int) -> bytes:
        """For a checkpoint: from where on the log of a shard is open."""
        return msgspec.msgpack.encode(self._open.get(shard, CLOSED))

    def restore(self, shard: int, value: bytes) -> None:
        """Recovery: what a checkpoint says."""
        since = msgspec.msgpack.decode(value, type=int)
        if since != CLOSED:
            self._open[shard] = since

    def begin(self) -> None:
        """The shards are recovered: until all workers have told their members, their logs are
        open."""
        for shard, store in self._stores.items():
            last = store.last_block
            since = self._open.get(shard, store.end_position if last is None else last)
            self._open[shard] = since
            self._append(shard, Dealt(OPEN, [], since))
            self._commits.mark_lazy(shard, 0)

    def complete(self) -> None:
        """Every worker has told its members."""
        self._complete = True
        for shard, since in list(self._open.items()):
            self._resolve(shard, since, {})
        early, self._early = self._early, []
        for worker, message, confirm in early:
            self.again(worker, message, confirm)

    def _resolve(self, shard: int, since: int, waiting: dict[int, set[tuple[int, Group]]]) -> None:
        """Give the blocks of an open log to the groups that have not got them; a slice a turn.

        `waiting` has the block whose DEALT entry may come next.
        """
        store = self._stores[shard]
        for seen, (position, kind, payload) in enumerate(store.scan(since)):
            if seen >= RESOLVE_ENTRIES:
                self._later(partial(self._resolve, shard, position, waiting))
                return
            if position < since:
                continue
            if kind == DEALT:
                dealt = _decoder.decode(payload)
                known = waiting.get(dealt.position)
                if known is not None:
                    for part in dealt.parts:
                        groups = [*part.passed, *((h.group, h.filter) for h in part.hands)]
                        known.update((part.number, group) for group in groups)
            elif kind in TOLD:
                waiting[position] = set()
        for position, known in waiting.items():
            self._give_late(shard, position, known)
        self._open.pop(shard, None)
        self._append(shard, Dealt(CLOSED, []))
        self._commits.mark_lazy(shard, 0)

    def _give_late(self, shard: int, position: int, known: set[tuple[int, Group]]) -> None:
        block = self._block(shard, position)
        given, parts = Given(), []
        for number, entry in enumerate(blocks.entries(block)):
            if not entry.flags & ACKED:
                continue
            hands: list[wire.ShareHand] = []
            for share in self._interest.shares(entry.topic):
                if share.kept and (number, (share.group, share.filter)) not in known:
                    hands += self._hands(share, block, entry)
            if hands:
                parts.append(DealtPart(number, b"", hands))
                self._part(given.kept, block, entry, hands)
        if parts:
            given.position = self._append(shard, Dealt(position, parts))
            given.needs = position
            self.tell(shard, given, True)

    @property
    def idle(self) -> bool:
        """True when nothing waits to be given out."""
        return not self._early and (not self._complete or not self._open)
