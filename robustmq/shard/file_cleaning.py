"""One file of a shard's log: is it worth a look, what of it is needed, and what becomes of it.

The work is a generator. It yields None when it has had the loop for SLICE_US, and a `Step` for what
the storage thread is to do: read or write about 256 KiB, sync at most SYNC_BYTES (a commit waits no
longer than that). `log_cleaning` drives it.

Crash: what is written is `.new` until it is whole and synced, then it gets its name, then the table
changes, then the old files go. The next start finishes or drops it (`storage.log_files`).
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterator
from typing import Any

import msgspec

from robustmq.shard.light_needs import Cleanable, LightNeeds
from robustmq.storage.cleaned_log import CleanedWriter, Span
from robustmq.storage.disk import Buffer
from robustmq.storage.light_retention import NO_LIMIT, LightRetention
from robustmq.storage.log_files import NEW, LogFile
from robustmq.storage.log_survey import Judge, Piece, Pieces, entries, judged
from robustmq.storage.shard_store import ShardStore

SLICE_US = 2000
LOOK_EVERY = 16
"""Entries between two looks at the clock."""
SYNC_BYTES = 1024 * 1024
LONGEST_WAIT_MS = 3_600_000
MANY_GRAVES = 100_000


class Step(msgspec.Struct, frozen=True):
    """What the storage thread does before the work goes on, which gets what it returns; it writes
    so many bytes."""

    work: Callable[[], Any]
    size: int = 0


Steps = Generator[Step | None, Any, None]


class Survey(msgspec.Struct, frozen=True):
    """What a look at a file has found, and when the next one is worth it: when something has
    changed, and so much time has passed."""

    at_ms: int
    needed_bytes: int
    deletions: int
    inbox: int
    wait_ms: int
    over: int
    """2: nothing of light topics was needed then; 1: nothing of them that is in the object store
    was needed here; else 0."""


class FileCleaning:
    """Looks at files and cleans them."""

    def __init__(
        self,
        monotonic_us: Callable[[], int],
        count: Callable[[str, int], None],
        committed: Callable[[], Steps],
    ) -> None:
        """`committed` goes on when all that this worker's shards hold is committed."""
        self._committed = committed
        self._monotonic_us = monotonic_us
        self._count = count
        self._surveys: dict[str, Survey] = {}
        self._needs = LightNeeds(False)
        self.again_ms = 60_000
        """A file is not looked at again sooner."""
        self.smaller_than = 0.5
        """A file is written anew when less than this part of it is needed."""
        self.is_full: Callable[[], bool] = lambda: False
        """Has the disk no room? Then nothing is written."""

    def needed_bytes(self, file: LogFile) -> int:
        """What is needed of a file as of the last look; -1: nobody has looked."""
        found = self._surveys.get(file.path)
        if found is not None:
            return found.needed_bytes
        return file.size if file.cleaned else -1

    def begin_round(self) -> None:
        """What topics' limits in bytes keep is to be found again."""
        self._needs.begin_round()

    # -- one file ----------------------------------------------------------------------------------

    def clean(self, on: Cleanable, file: LogFile, over: bool) -> Steps:
        """Let a file go, write it anew, or leave it; `over`: nothing of a light topic in it is
        needed."""
        inbox = on.inbox_in(file)
        if over and not inbox and not on.store.light.others:
            yield from self._exchange(on, [file], None)
            return
        if not on.forced and not self._is_worth_it(on, file, inbox, over):
            return
        rank = self._rank(on.store, on.retention, file, over, on.now_ms)
        judge = self._needs.judge(on, over)
        needed, judged_at = 0, on.store.end_position

        def take(piece: Piece) -> None:
            nonlocal needed
            needed += len(piece[1])

        sound = yield from self._walk(on, [file], judge, take)
        if not sound:
            # Nobody knows what the bad bytes were: it stays as it is until its time is over.
            file.damaged = True
            self._note(on, file, file.size, inbox, rank)
        elif not needed:
            yield from self._exchange(on, [file], None)
        elif needed < file.size * self._worth(on) and not self.is_full():
            yield from self._rewrite(on, [file], judge, rank)
        else:
            if needed == file.size and not file.cleaned:
                # It has nothing of what was deleted by now.
                file.judged_at = judged_at
            self._note(on, file, needed, inbox, rank)

    def _rank(
        self, store: ShardStore, retention: LightRetention, file: LogFile, over: bool, now_ms: int
    ) -> int:
        """See `Survey.over`."""
        if over:
            return 2
        uploaded = file.end <= store.cold.may_go_to
        return int(uploaded and NO_LIMIT < retention.longest_local_ms < now_ms - file.last_ms)

    def _worth(self, on: Cleanable) -> float:
        """A file is written anew when less than this part of it is needed; any part of it, when too
        many deleted topics are remembered for what files may have of them."""
        return 1.0 if on.store.light.graves_left > MANY_GRAVES else self.smaller_than

    def is_due(
        self, store: ShardStore, retention: LightRetention, file: LogFile, over: bool, now_ms: int
    ) -> bool:
        """May a file be worth a look, before it is known what sessions refer to?"""
        light = store.light
        found = self._surveys.get(file.path)
        rank = self._rank(store, retention, file, over, now_ms)
        if found is None:
            if over or file.damaged:
                return over
            counted = file.other_bytes >= 0 and not light.deletions and not light.others
            if not counted or not retention.is_plain:
                return True
            return file.size - file.other_bytes < file.size * self.smaller_than
        if rank > found.over:
            return True
        if file.damaged or now_ms - found.at_ms < found.wait_ms:
            return False
        others = not over and not retention.is_plain
        return bool(found.deletions != light.deletions or found.inbox or others)

    def _is_worth_it(self, on: Cleanable, file: LogFile, inbox: int, over: bool) -> bool:
        if not self.is_due(on.store, on.retention, file, over, on.now_ms):
            return False
        found = self._surveys.get(file.path)
        rank = self._rank(on.store, on.retention, file, over, on.now_ms)
        if found is None or rank > found.over or found.inbox > inbox:
            return True
        if found.deletions != on.store.light.deletions or not (over or on.retention.is_plain):
            return True
        # Nothing has changed: it is asked again later.
        self._note(on, file, found.needed_bytes, inbox, found.over)
        return False

    def _note(self, on: Cleanable, file: LogFile, needed: int, inbox: int, over: int = 0) -> None:
        known = self._surveys.get(file.path)
        wait_ms = self.again_ms if known is None else min(known.wait_ms * 2, LONGEST_WAIT_MS)
        self._surveys[file.path] = Survey(
            on.now_ms, needed, on.store.light.deletions, inbox, wait_ms, over
        )

    def _exchange(self, on: Cleanable, files: list[LogFile], made: LogFile | None) -> Steps:
        """First what says that the rest is not needed is committed: a crash must not undo it."""
        yield from self._committed()
        freed = sum(file.size for file in files) - (made.size if made is not None else 0)
        for file in files:
            self._surveys.pop(file.path, None)
        on.store.let_go(files, made)
        self._count("storage_log_bytes_freed", max(0, freed))
        self._count("storage_log_files_cleaned", len(files))

    # -- writing anew ------------------------------------------------------------------------------

    def _walk(
        self,
        on: Cleanable,
        files: list[LogFile],
        judge: Judge,
        take: Callable[[Piece], None],
        write: Callable[[], Step | None] = lambda: None,
    ) -> Generator[Step | None, Any, bool]:
        """Have everything taken that is needed; `write` says what is to be written meanwhile. False
        when bad bytes were met."""
        for file in files:
            if file.cleaned:
                on.store.log.files.slots(file)
            pieces = Pieces(on.store.disk, file)
            while True:
                found = yield Step(pieces.read)
                if not found:
                    break
                begun = self._monotonic_us()
                for kept in _needed(found, judge):
                    if isinstance(kept, tuple):
                        take(kept)
                    elif not kept:
                        return False
                    elif self._monotonic_us() - begun > SLICE_US:
                        yield None
                        begun = self._monotonic_us()
                written = write()
                if written is not None:
                    yield written
            if not pieces.sound:
                return False
        return True

    def merge(self, on: Cleanable, files: list[LogFile]) -> Steps:
        """Make one of neighbours that were cleaned."""
        if not self.is_full():
            yield from self._rewrite(on, files, self._needs.judge(on, False))

    def _rewrite(self, on: Cleanable, files: list[LogFile], judge: Judge, over: int = 0) -> Steps:
        disk, table = on.store.disk, on.store.log.files
        judged_at = on.store.end_position
        number = table.next_number()
        path = table.cleaned_path(files[0].start, files[-1].end, number)
        writer = CleanedWriter()
        unsynced = 0

        def written(buffers: list[Buffer], size: int) -> Step:
            nonlocal unsynced
            unsynced += size
            sync = unsynced >= SYNC_BYTES
            if sync:
                unsynced = 0

            def work() -> None:
                disk.append(path + NEW, buffers)
                if sync:
                    disk.sync(path + NEW)

            return Step(work, size)

        def write() -> Step | None:
            buffers = writer.take()
            return written(buffers, sum(map(len, buffers))) if buffers else None

        yield Step(lambda: disk.remove(path + NEW))
        sound = yield from self._walk(on, files, judge, lambda piece: writer.add(*piece), write)
        if not sound or not writer.kept_bytes:
            yield Step(lambda: disk.remove(path + NEW))
            if sound:
                yield from self._exchange(on, files, None)
            else:
                for file in files:
                    file.damaged = True
            return
        span = Span(files[0].start, files[-1].end, files[0].first_ms, files[-1].last_ms, judged_at)
        buffers, size = writer.finish(span)

        def name() -> None:
            disk.append(path + NEW, buffers)
            disk.sync(path + NEW)
            disk.rename(path + NEW, path)

        yield Step(name, sum(map(len, buffers)))
        made = LogFile(path, span.start, span.end, size, span.first_ms, span.last_ms, number)
        made.judged_at = judged_at
        self._count("storage_log_bytes_rewritten", size)
        yield from self._exchange(on, files, made)
        self._note(on, made, writer.kept_bytes, on.inbox_in(made), over)


def _needed(found: list[Piece], judge: Judge) -> Iterator[Piece | bool]:
    """What is needed of pieces of a file; True now and then, when a look at the clock is due; False
    at bad bytes."""
    looked = 0
    for piece in found:
        for entry in entries(piece):
            if entry is None:
                yield False
                return
            for kept in judged(entry, judge):
                yield True if kept is None else kept
            looked += 1
            if looked % LOOK_EVERY == 0:
                yield True
