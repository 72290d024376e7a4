"""The tier of one partition: a layer over its segment files (`storage.segment`), the older part of
which is in an object store.

The segment partition knows where the log begins (`start_offset`), from where on its own files reach
(`local_start_offset`), and up to where all is in the store (`tiered_until`, which its next commit
keeps). This layer knows the cold segments, once the manifest was read. It answers for what lies
below the local start, and says what may go: of the whole log by retention, of the local files by
local retention. A local file goes when the manifest tells of it, the local state says so, and not
before.

The cold table is filled by the uploader (`shard.uploader`). Until then a cold read is pending; when
the store does not answer it is an error that clients repeat.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import chain, pairwise
from typing import TYPE_CHECKING, Protocol

import msgspec

from robustmq.errors import BrokerError, Fault, KafkaCode
from robustmq.promises import Promise
from robustmq.storage.cold_segments import ColdSegments
from robustmq.storage.engine import ReadResult

if TYPE_CHECKING:
    from robustmq.storage.segment import SegmentPartition

EARLIEST_LOCAL, LATEST_TIERED, EARLIEST_PENDING_UPLOAD = -4, -5, -6
TIERED = frozenset({EARLIEST_LOCAL, LATEST_TIERED, EARLIEST_PENDING_UPLOAD})
"""Times that ListOffsets asks for of a tiered log (KIP-405, KIP-1005, KIP-1023)."""


class ColdReads(Protocol):
    """Reads cold segments (`storage.cold_reader`)."""

    def read(self, offset: int, max_bytes: int, end: int) -> ReadResult:
        """Whole batches from the one that holds an offset, none at or behind `end`; pending when
        they are not at hand."""
        ...

    def offset_for_time(self, timestamp_ms: int) -> tuple[int, int] | Promise[None] | None:
        """As `PartitionLog.offset_for_time`; a promise: ask again when it settles."""
        ...


class PartitionTier:
    """What a partition has in the object store."""

    def __init__(
        self,
        log: SegmentPartition,
        reader: Callable[[ColdSegments], ColdReads] | None,
        want: Callable[[], None],
    ) -> None:
        """`want` has the manifest read soon. Without a `reader` there is no object store."""
        self.log = log
        self.cold = ColdSegments()
        self.loaded = False
        """Is the table that of the manifest?"""
        self.failed = reader is None
        """The manifest could not be read when it was asked for last."""
        self._reader = reader(self.cold) if reader is not None else None
        self._want = want
        self._waiting: Promise[None] | None = None

    # -- reading -----------------------------------------------------------------------------------

    def read(self, offset: int, max_bytes: int, end: int) -> ReadResult:
        """Records below the local start."""
        high_watermark, start_offset = self.log.high_watermark, self.log.start_offset
        if not self.loaded:
            if self.failed:
                error = int(KafkaCode.KAFKA_STORAGE_ERROR)
                self._want()
                return ReadResult(high_watermark, start_offset, [], False, error)
            return ReadResult(high_watermark, start_offset, pending=self._when_loaded())
        assert self._reader is not None, "what was loaded can be read"
        # What lies in a hole, as no segment has it, is not here.
        if offset >= self.cold.end_offset:
            error = int(KafkaCode.KAFKA_STORAGE_ERROR)
            return ReadResult(high_watermark, start_offset, [], False, error)
        found = self._reader.read(offset, max_bytes, end)
        return msgspec.structs.replace(
            found, high_watermark=high_watermark, start_offset=start_offset
        )

    def offset_for_time(self, timestamp_ms: int) -> tuple[int, int] | Promise[None] | None:
        """The same of the records below the local start; None: none of these."""
        log = self.log
        if log.start_offset >= log.local_start_offset:
            return None
        if not self.loaded:
            if self.failed:
                self._want()
                raise BrokerError(Fault.STORAGE_FAILED, "the object store does not answer")
            return self._when_loaded()
        cold = self.cold
        if timestamp_ms == -3:
            local = max((file.max_time for file in log.files), default=-1)
            timestamp_ms = cold.max_time
            if timestamp_ms < max(local, 0):
                return None
        row = cold.find_time(timestamp_ms)
        if row == len(cold) or cold[row].base_offset >= log.local_start_offset:
            return None
        assert self._reader is not None, "what was loaded can be read"
        return self._reader.offset_for_time(timestamp_ms)

    def _when_loaded(self) -> Promise[None]:
        if self._waiting is None:
            self._waiting = Promise()
            self._want()
        return self._waiting

    def settle(self, loaded: bool) -> None:
        """The manifest was read, or could not be."""
        self.loaded = self.loaded or loaded
        self.failed = not loaded
        if self._waiting is not None:
            waiting, self._waiting = self._waiting, None
            waiting.resolve(None)

    @property
    def copies(self) -> bool:
        """Do closed segments go to the store? Otherwise what is there is read, and no more."""
        settings = self.log.settings
        return settings.tiered and not settings.tier_copy_disabled

    # -- letting go --------------------------------------------------------------------------------

    def retain(self, now_ms: int) -> int:
        """Let go of what the settings let go; the bytes freed, here and in the store."""
        log, settings = self.log, self.log.settings
        if not self.loaded:
            # Nobody knows what the store has: what is here stays.
            return 0
        size, cold = log.size, 0
        start_offset = self._expired(now_ms) if settings.delete else 0
        if start_offset > log.start_offset:
            before = self.cold.find(log.start_offset)
            cold = sum(self.cold[row].size for row in range(before, self.cold.find(start_offset)))
            log.trim(start_offset)
        log.drop_local(self._locally_expired(now_ms))
        return size - log.size + cold

    def _expired(self, now_ms: int) -> int:
        """Where the log begins when retention is applied to what is in the store, and to what
        nobody will copy there."""
        log, settings, cold = self.log, self.log.settings, self.cold
        rows = chain(
            ((row.next_offset, row.size, row.max_time) for row in cold),
            () if self.copies else self._uncopied(),
        )
        excess = cold.size - settings.retention_bytes
        excess += sum(file.size for file in log.files if file.base_offset >= cold.end_offset)
        start_offset = log.start_offset
        for next_offset, size, time_ms in rows:
            if next_offset > start_offset:
                by_size = settings.retention_bytes >= 0 and excess >= size
                if not by_size and not _is_old(now_ms, settings.retention_ms, time_ms):
                    break
                start_offset = next_offset
            excess -= size
        return start_offset

    def _uncopied(self) -> Iterator[tuple[int, int, int]]:
        for file, following in pairwise(self.log.files):
            if following.base_offset > self.log.high_watermark:
                return
            if file.base_offset >= self.cold.end_offset:
                yield following.base_offset, file.size, file.max_time

    def _locally_expired(self, now_ms: int) -> int:
        """Below which offset local files may go, as far as they are in the store."""
        log, settings = self.log, self.log.settings
        excess = log.size - settings.local_bytes
        until = 0
        for file, following in pairwise(log.files):
            if following.base_offset > self.cold.end_offset:
                break
            by_size = settings.local_bytes >= 0 and excess >= file.size
            if not by_size and not _is_old(now_ms, settings.local_ms, file.max_time):
                break
            excess -= file.size
            until = following.base_offset
        return until


def _is_old(now_ms: int, retention_ms: int, time_ms: int) -> bool:
    return retention_ms >= 0 and 0 <= time_ms < now_ms - retention_ms


def tier_offset(log: SegmentPartition, which: int) -> int:
    """The offset that one of TIERED names; -1: there is none."""
    if which == EARLIEST_LOCAL:
        return log.local_start_offset
    if log.tier is None:
        return -1
    uploaded = log.state.tiered_until
    if which == LATEST_TIERED:
        return uploaded - 1 if uploaded > log.start_offset else -1
    return max(uploaded, log.start_offset)
