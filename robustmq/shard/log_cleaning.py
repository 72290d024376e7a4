"""Lets go of what nobody needs any more of the shards' logs: one file after the other, in slices.

A round looks at the closed files of one shard that lie wholly below its floor
(`shard.position_floors`). Of each it is asked what is still needed: batches of light topics that
their topic's limits keep (`storage.light_retention`), and inbox entries that sessions refer to.
- A file of which nothing is needed goes. With a plain retention by time that is known without a
  look into it, so no topic is looked at one by one.
- One of which less than half is needed is written anew, as what is needed at the positions it
  always had (`storage.cleaned_log`).
- Small neighbours that were cleaned become one.

What is needed only ever becomes less: a session never refers again to an entry that it is done
with, and a topic's start never goes back. So a judgement that was right when it was made stays
safe. But what it rests on must not be undone by a crash: all shards of this worker are committed
between judging and letting go.

The loop works for SLICE_US at a time, then others have their turn; the
storage thread reads and writes at most 256 KiB a job (a larger entry as a whole), and rests as long
as it took.
"""

from __future__ import annotations

from array import array
from collections.abc import Generator, Iterator
from typing import TYPE_CHECKING, Any

import msgspec

from robustmq.config import StorageSettings
from robustmq.promises import Promise
from robustmq.shard.file_cleaning import SLICE_US, FileCleaning, Step, Steps
from robustmq.shard.idle_topics import IdleTopics
from robustmq.shard.inbox import HELD, ORDINAL_BITS
from robustmq.shard.light_needs import Cleanable
from robustmq.shard.position_floors import floor_of
from robustmq.shard.subscribing import encode_cursors
from robustmq.storage.cold_log import LightModes
from robustmq.storage.light_retention import NO_LIMIT, LightRetention, LightRule
from robustmq.storage.log_files import LogFile
from robustmq.storage.shard_store import CURSOR, ShardStore

if TYPE_CHECKING:
    from robustmq.shard.broker import Broker

MIN_PAUSE_US = 500
LONGEST_OPEN_MS = 7 * 86_400_000
"""A file is closed after this, so that a shard with little to do lets go, too (Kafka's
segment.ms)."""
MERGED = 4
"""So many small neighbours become one."""
CHECKPOINT_WAIT_US = 10_000_000


class FileRow(msgspec.Struct, frozen=True):
    """A file of a shard's log as operators see it."""

    shard: int
    start: int
    end: int
    size: int
    cleaned: bool
    first_ms: int
    last_ms: int
    needed_bytes: int
    """As of the last look; -1: nobody has looked."""


class LogCleaning:
    """The cleaning of one worker's shard logs; one file at a time."""

    def __init__(self, broker: Broker) -> None:
        """The broker has its stores, commits and sessions."""
        around = broker.around
        self._broker = broker
        self._stores = broker.stores
        self._commits = broker.commits
        self._wall_ms = around.wall_ms
        self._monotonic_us = around.monotonic_us
        self._call_later = around.call_later
        self._kick = around.kick
        self.files = FileCleaning(around.monotonic_us, around.count, self._committed)
        self._steps: Steps | None = None
        self._rounds: Iterator[int] = iter(())
        self._asked: list[tuple[int, Promise[int]]] = []
        self._due_ms = 0
        self.longest_open_ms = LONGEST_OPEN_MS
        self.idle_topics = IdleTopics(broker)
        self._idle_looked_ms: dict[int, int] = {}
        self.files.is_full = lambda: broker.owner.room.is_full
        self.reload(broker.settings.storage)

    def reload(self, settings: StorageSettings) -> None:
        """Take over new settings."""
        rules = [
            LightRule(
                one.filter,
                one.retention_ms,
                one.retention_bytes,
                one.retention_records,
                one.local_retention_ms,
                one.local_retention_bytes,
            )
            for one in settings.rules
        ]
        modes = [(one.filter, one.mode) for one in settings.rules if one.mode]
        self.modes = LightModes((*modes, ("", settings.default_mode)))
        """Which light topics are tiered."""
        self.retention = LightRetention(settings.light_retention_ms, rules)
        self.idle_ms = settings.topic_idle_expiry_s * 1000
        self.max_bytes = settings.shard_log_bytes
        """What a shard's log may take; 0: no bound."""
        self.merged_bytes = settings.segment_bytes
        """Neighbours are merged up to this size."""
        self.interval_ms = settings.retention_check_s * 1000

    @property
    def idle(self) -> bool:
        """True when no round runs."""
        return self._steps is None

    # -- the rounds --------------------------------------------------------------------------------

    def tick(self) -> None:
        """Twenty times a second: begin the next shard's round when it is due."""
        if self._steps is not None or self._broker.draining:
            return
        if self._asked:
            asked, done = self._asked.pop(0)
            self._begin(self._at_once(asked, done))
            return
        shard = next(self._rounds, None)
        if shard is not None:
            self._begin(self._round(shard, False))
            return
        now_ms = self._wall_ms()
        if now_ms >= self._due_ms:
            self._due_ms = now_ms + self.interval_ms
            self._rounds = iter(list(self._stores))

    def clean_now(self, shard: int) -> Promise[int]:
        """Close the shard's log file, make a checkpoint, and let go of all that can go; settles
        with the bytes that the log takes on the disk afterwards."""
        done: Promise[int] = Promise()
        self._asked.append((shard, done))
        return done

    def rows(self, shard: int) -> list[FileRow]:
        """The files of a shard's log."""
        store = self._stores[shard]
        table = store.log.files.files
        rows: list[FileRow] = []
        for file in table:
            last = file is table[-1] and not file.cleaned
            end = store.end_position if last else file.end
            size = end - file.start if last else file.size
            last_ms = self._wall_ms() if last else file.last_ms
            needed = size if last else self.files.needed_bytes(file)
            rows.append(
                FileRow(shard, file.start, end, size, file.cleaned, file.first_ms, last_ms, needed)
            )
        return rows

    def _begin(self, steps: Steps) -> None:
        self._steps = steps
        self._go_on(None)

    def _go_on(self, result: Any) -> None:
        """Let the steps go on until they want the storage thread, or have had their slice."""
        assert self._steps is not None, "a round runs"
        if self._broker.draining:
            # What is half done the next start drops.
            self._steps = None
            return
        try:
            step = self._steps.send(result)
        except StopIteration:
            self._steps = None
            return
        if step is None:
            self._call_later(MIN_PAUSE_US, lambda: self._go_on(None))
            return
        began = self._monotonic_us()
        found: list[Any] = []
        work = step.work

        def done() -> None:
            pause = max(MIN_PAUSE_US, self._monotonic_us() - began)
            self._call_later(pause, lambda: self._go_on(found[0]))

        # Whichever shard it is for: they share the thread.
        store = next(iter(self._stores.values()))
        store.run(lambda: found.append(work()), step.size).when_settled(done)
        self._kick()

    def _at_once(self, shard: int, done: Promise[int]) -> Steps:
        store = self._stores[shard]
        self.roll(shard)
        end, until = store.end_position, self._monotonic_us() + CHECKPOINT_WAIT_US
        store.checkpoint_wanted = True
        while store.durable_checkpoint < end and self._monotonic_us() < until:
            self._broker.checkpoints.look()
            self._kick()
            yield Step(lambda: None)
        yield from self._round(shard, True)
        done.resolve(sum(row.size for row in self.rows(shard)))

    def _round(self, shard: int, forced: bool) -> Steps:
        store, now_ms = self._stores[shard], self._wall_ms()
        self._close_old(store, shard, now_ms)
        if self.idle_ms and now_ms - self._idle_looked_ms.get(shard, 0) >= self.idle_ms // 10:
            self._idle_looked_ms[shard] = now_ms
            yield from self.idle_topics.steps(shard, now_ms - self.idle_ms)
        floor = floor_of(shard, store, self._broker.telling, self._broker.dealing)
        closed = [one for one in store.log.files.files[:-1] if one.end <= floor]
        excess = self._excess(store)
        size = 0
        due = forced
        for file in closed:
            over = self._may_go(store, file, excess > size, now_ms)
            due = due or self.files.is_due(store, self.retention, file, over, now_ms)
            size += file.size
        groups = self._mergeable(store, floor)
        if not due and not groups:
            return
        inbox = yield from self._inbox(shard)
        on = Cleanable(store, self.retention, now_ms, inbox, forced, self.modes)
        self.files.begin_round()
        for file in closed:
            size = file.size
            yield from self.files.clean(on, file, self._may_go(store, file, excess > 0, now_ms))
            excess -= size
        for group in self._mergeable(store, floor):
            yield from self.files.merge(on, group)
        forgettable = min(store.log.files.forgettable_to(), store.cold.forgettable_to())
        for _ in store.light.sweep_graves(forgettable):
            yield None

    def _inbox(self, shard: int) -> Generator[Step | None, Any, array[int]]:
        """The positions of the inbox entries that sessions refer to. What is met late has become
        less, never more."""
        found: set[int] = set()
        begun = self._monotonic_us()
        for subscriber in self._broker.sessions.everyone():
            if subscriber.shard == shard:
                found.update(
                    reference >> ORDINAL_BITS
                    for reference in subscriber.session.references()
                    if not reference & HELD
                )
            if self._monotonic_us() - begun > SLICE_US:
                yield None
                begun = self._monotonic_us()
        for _, queued in self._broker.delivery.unqueued(shard):
            found.add(queued.reference >> ORDINAL_BITS)
        return array("Q", sorted(found))

    def _committed(self) -> Steps:
        """What this worker's shards hold now is committed, before what it no longer needs goes."""
        waiting = set(self._stores)
        for shard in self._stores:
            self._commits.mark(shard, False, lambda shard=shard: waiting.discard(shard))  # type: ignore[misc]
        while waiting:
            yield Step(lambda: None)

    # -- what a round goes by ----------------------------------------------------------------------

    def roll(self, shard: int) -> None:
        """Begin a new file, with an entry that says nothing: the last file is never cleaned."""
        self._stores[shard].log.roll()
        self.touch(shard)

    def touch(self, shard: int) -> None:
        """Append an entry that says nothing."""
        self._stores[shard].append(CURSOR, encode_cursors({}), 0, 0, self._wall_ms())
        self._commits.mark(shard)

    def _close_old(self, store: ShardStore, shard: int, now_ms: int) -> None:
        """A file that has been open for long is closed; what waits for a checkpoint gets one."""
        longest_ms = self.longest_open_ms
        if self.retention.shortest_ms > NO_LIMIT:
            longest_ms = min(longest_ms, max(1000, self.retention.shortest_ms // 2))
        if self.idle_ms:
            longest_ms = min(longest_ms, self.idle_ms // 2)
        table = store.log.files.files
        if not table:
            return
        if store.log.open_blocks > 0 and table[-1].first_ms < now_ms - longest_ms:
            self.roll(shard)
        closed = [one for one in table[:-1] if one.end > store.durable_checkpoint]
        if any(one.last_ms < now_ms - longest_ms for one in closed) or (
            closed and self._excess(store) > 0
        ):
            store.checkpoint_wanted = True

    def _excess(self, store: ShardStore) -> int:
        """Bytes above what a shard's log may take."""
        return store.log.disk_bytes - self.max_bytes if self.max_bytes else 0

    def _is_over(self, file: LogFile, now_ms: int) -> bool:
        """Has the time of all light topics' records in it passed?"""
        return NO_LIMIT < self.retention.longest_ms < now_ms - file.last_ms

    def _may_go(self, store: ShardStore, file: LogFile, excess: bool, now_ms: int) -> bool:
        """Is nothing of light topics in it needed: by time, or as the log is too large? The latter
        takes nothing that is to be uploaded still."""
        uploaded = not self.modes.any or file.end <= store.cold.may_go_to
        return (excess and uploaded) or self._is_over(file, now_ms)

    def _mergeable(self, store: ShardStore, floor: int) -> list[list[LogFile]]:
        """Groups of small neighbours that were cleaned."""
        groups: list[list[LogFile]] = []
        group: list[LogFile] = []
        for file in store.log.files.files[:-1]:
            small = file.cleaned and not file.damaged and file.size < self.merged_bytes // 2
            fits = sum(one.size for one in group) + file.size <= self.merged_bytes
            joins = not group or group[-1].end == file.start
            if not (small and fits and joins and file.end <= floor):
                groups.append(group)
                group = []
            if small and file.end <= floor:
                group.append(file)
        groups.append(group)
        return [one for one in groups if len(one) >= MERGED]
