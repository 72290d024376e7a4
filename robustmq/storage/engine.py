"""What a storage engine is: one small interface, and the table of engines by name.

An engine keeps the log of one partition as Kafka record batches v2, as they will be sent. `append`
is memory only; what is appended is handed to the storage thread as the job that `write` gives, and
is visible to readers of committed data after `committed`. An engine that needs no disk gives no job
and commits at once. What is not said of the thread is called on the event loop, and neither waits
nor writes. Offsets are dense but for those that a compaction, another engine (`restore`, `skip_to`)
or damage has left out; none is given twice.

Further engines come from packages that register the function that opens a partition under the entry
point group `robustmq.engines`; a topic chooses one by its setting `robustmq.storage.engine`. What
is promised here is tested of every engine by tests/storage/test_engine_contract.py, where a further
one is one row; tests/third_party_engine is such a package. An engine may also say how the commands
of operators look into what it has stored: a function under the same name in the group
`robustmq.stored_partitions`, which opens a directory as a `StoredPartition`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from functools import cache
from typing import NamedTuple, Protocol

import msgspec

from robustmq import engines
from robustmq.core.batches import BatchInfo
from robustmq.errors import KafkaCode
from robustmq.promises import Promise
from robustmq.storage.disk import Disk


class PartitionSettings(msgspec.Struct, frozen=True):
    """Settings of one partition's log."""

    segment_bytes: int = 64 * 1024 * 1024
    index_interval_bytes: int = 4096
    sync: bool = False
    log_append_time: bool = False
    segment_ms: int = 7 * 86_400_000
    segment_index_bytes: int = 10 * 1024 * 1024
    preallocate: bool = False
    """A file gets its whole size on the disk when it is begun."""
    delete: bool = True
    """Old records go, by the two that follow; -1: never."""
    retention_ms: int = -1
    retention_bytes: int = -1
    compact: bool = False
    """Of each key the newest record stays; see `storage.compaction` for what follows."""
    tiered: bool = False
    """Under a cold tier, which knows all of the log and says itself what goes: `retain` lets go of
    nothing but what lies below the log's start."""
    tier_copy_disabled: bool = False
    """Closed segments are not copied to the tier any more."""
    tier_delete: bool = False
    """When it is not tiered any more, what is in the tier is removed, and not read on."""
    local_ms: int = -1
    """Local retention of what is in the tier; -1: for ever."""
    local_bytes: int = -1
    delete_retention_ms: int = 86_400_000
    min_compaction_lag_ms: int = 0
    max_compaction_lag_ms: int = (1 << 63) - 1
    min_cleanable_dirty_ratio: float = 0.5

    @property
    def roll_ms(self) -> int:
        """A file takes no record that is younger than its first by more than this."""
        if self.compact:
            return min(self.segment_ms, self.max_compaction_lag_ms)
        return self.segment_ms


class ReadResult(msgspec.Struct, frozen=True):
    """Whole batches from the one that holds the offset; offsets as Kafka's Fetch names them."""

    high_watermark: int
    start_offset: int
    buffers: list[bytes | memoryview] = []
    out_of_range: bool = False
    error: int = 0
    pending: Promise[None] | None = None
    """The records are in the object store and not at hand: ask again when this settles, which it
    does in any case. Nothing else is told then but the offsets."""
    next_offset: int = -1
    """With CORRUPT_MESSAGE, where that is known: the offset behind those that are lost."""


def is_away(result: ReadResult) -> bool:
    """Are the records there, and cannot be read now: by the disk, or as the object store has not
    given them yet?"""
    return result.pending is not None or result.error == KafkaCode.KAFKA_STORAGE_ERROR


class PartitionLog(Protocol):
    """The log of one partition."""

    @property
    def start_offset(self) -> int:
        """The first offset that is kept."""
        ...

    @property
    def end_offset(self) -> int:
        """The offset that the next record gets."""
        ...

    @property
    def high_watermark(self) -> int:
        """The end of what readers of committed data see."""
        ...

    def append(self, batch: bytearray, leader_epoch: int) -> int:
        """Add one batch, patching its base offset and epoch in place; the base offset. The log may
        keep the buffer: nobody changes it from now on."""
        ...

    def read(self, offset: int, max_bytes: int, committed: bool = True) -> ReadResult:
        """Whole batches from the one that holds `offset`, or the next one where that is gone: at
        most `max_bytes`, but the first always; none at the end, or when `max_bytes` is 0. Out of
        range: below the start or beyond the end. With `committed` nothing at or behind the high
        watermark. The buffers stay as they are whatever happens to the log. Where the disk fails,
        or its bytes are not what was written, the result has an error and no buffers."""
        ...

    def offset_for_time(self, timestamp_ms: int) -> tuple[int, int] | Promise[None] | None:
        """(offset, time stamp) of the first batch that has a record at or after a time, of those
        not wholly below the log's start: its base offset, and a time from the one asked for to its
        greatest; -3: an offset in a batch with the greatest time stamp, and that. None: there is
        none. What is not committed may be among them. A promise: what must be looked at is not at
        hand; ask again when it settles."""
        ...

    def last_batches(self, max_bytes: int) -> Iterable[BatchInfo]:
        """The headers of the last batches, oldest first, of about so many bytes; the last one, if
        there is any, always."""
        ...

    def write(self) -> Callable[[bool], None] | None:
        """Take what is new; a job that writes it on the storage thread, or None. Jobs run in the
        order in which they were given; one that is killed leaves a prefix of what it writes. True:
        when it is done, all that this partition ever wrote survives a loss of power."""
        ...

    def committed(self) -> None:
        """The oldest job that `write` gave is done: what it wrote is visible now."""
        ...

    def resume_at(self, end_offset: int) -> None:
        """After opening: what was committed ends at `end_offset`. What lies behind was written by a
        turn that a crash cut off, and is cut. Where less is there a disk has lost it: the log goes
        on from `end_offset`, as no offset is used twice, and a read of what is missing has
        CORRUPT_MESSAGE and says where that ends; so it is when it is opened again. An engine that
        kept nothing begins there."""
        ...

    @property
    def quarantined(self) -> list[tuple[int, int]]:
        """(first offset that is missing, bytes) of what was found corrupt: when it was opened, or
        since."""
        ...

    @property
    def settings(self) -> PartitionSettings:
        """Those in force."""
        ...

    @property
    def size(self) -> int:
        """Bytes held: those of all batches that are not wholly below the start, or more."""
        ...

    def restore(self, batch: bytearray) -> None:
        """Add a batch of another engine's log at the offset that it has, not below the end; offsets
        between are missing from now on."""
        ...

    def skip_to(self, offset: int) -> None:
        """The next record gets this offset, not below the end; an empty log begins there."""
        ...

    def offset_of_tail(self, max_bytes: int) -> int:
        """Where the newest batches of about so many bytes begin."""
        ...

    def trim(self, offset: int) -> None:
        """The log begins at `offset`, which is not beyond its end; `write` makes it last."""
        ...

    def retain(self, now_ms: int) -> int:
        """Let go of the oldest records that the settings let go at this wall time, and of none that
        is not committed; by size no more than brings the log to its bound. The bytes freed.
        `write` has the disk follow. Bounded: what is left of its work comes with the next call."""
        ...

    def configure(self, settings: PartitionSettings) -> None:
        """Settings have changed."""
        ...

    def free(self) -> Callable[[], None] | None:
        """A job for the storage thread that removes what has gone, or None; it may run before what
        is still to be written."""
        ...

    def delete(self) -> Callable[[], None]:
        """The partition is over: jobs that `write` gave do nothing any more; a job that frees
        everything, which may run before them."""
        ...

    def close(self) -> None:
        """Close the files; nothing is asked of the log any more. Without it, by a kill, no more is
        lost than what was not written."""
        ...


class Unsound(NamedTuple):
    """Something in a partition's directory that is not as its engine has written it."""

    what: str
    offset: int = -1
    """Where it begins, if that is known."""


class StoredPartition(Protocol):
    """What lies in a partition's directory, as the commands of operators read it: beside the broker
    that has the partition, which goes on writing, or of one that is stopped. Nothing is written.
    What was committed after it was opened may be missing. Where the partition goes meanwhile, and
    when it is opened where there is none, FileNotFoundError is raised."""

    @property
    def start_offset(self) -> int:
        """The first offset that is kept."""
        ...

    @property
    def end_offset(self) -> int:
        """The offset behind the last one that is stored."""
        ...

    @property
    def size(self) -> int:
        """As of the log: bytes of all batches that are not wholly below the start, or more."""
        ...

    def last_batches(self, max_bytes: int) -> Iterable[BatchInfo]:
        """As of the log: the headers of the last batches, oldest first."""
        ...

    def batches(self) -> Iterator[bytes | memoryview | Unsound]:
        """Every batch from the one on that holds the start, in order, and what is wrong with them
        or beside them. Who asks checks the batches' checksums and that their offsets rise."""
        ...

    def close(self) -> None:
        """It is not asked any more."""
        ...


OpenPartition = Callable[[str, Disk, PartitionSettings], PartitionLog]
OpenStored = Callable[[str], StoredPartition]
ENGINES: dict[str, OpenPartition] = {}


def engine(name: str) -> OpenPartition:
    """The function that opens a partition in a directory, by the engine's name; KeyError if
    unknown."""
    if name not in ENGINES:
        found = engines.point(name)
        if found is None:
            raise KeyError(name)
        ENGINES[name] = found.load()
    return ENGINES[name]


@cache
def stored_opener(name: str) -> OpenStored | None:
    """The function that opens what an engine has stored in a directory; None where the engine does
    not say how, or is not installed here."""
    found = engines.point(name, engines.STORED_GROUP)
    if found is None:
        return None
    try:
        opened: OpenStored = found.load()
    except ImportError:
        return None
    return opened
