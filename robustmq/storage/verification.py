"""Reading every byte of a shard and saying what is wrong with it (`robustmq storage verify`).

Checked: every entry of the log and every batch in it by their checksums; that the entries of a
topic are a chain (each names the one before it, and its offsets follow on); every batch of the
segment files by its checksum, that their offsets rise and none is missing between two files, and
the index beside them; the same of the partitions of other engines, as far as these say how they are
read; that the index of the last checkpoint is whole; and, where the look-ups can be opened because
no broker has them, that they know every topic. Nothing is written or mended.

A generator of steps, so that whoever drives it may wait between them: what it yields is the number
of bytes read since the last step, or a `Fault`.
"""

from __future__ import annotations

from collections.abc import Generator, Iterator
from pathlib import Path

import msgspec
from crc32c import crc32c

from robustmq.core import batches, blocks
from robustmq.core.topic_index import NO_POSITION, TopicIndex
from robustmq.errors import BrokerError
from robustmq.storage import partition_state, segment_index, shard_log, shared
from robustmq.storage.disk import RealDisk
from robustmq.storage.engine import StoredPartition, Unsound
from robustmq.storage.inspection import (
    Batch,
    Damage,
    EnginePartition,
    Entry,
    Tail,
    engine_partitions,
    log_entries,
    log_files,
    opened,
    segment_batches,
    segment_files,
)
from robustmq.storage.kv import KeyValue
from robustmq.storage.log_files import NEW
from robustmq.storage.lookups import after
from robustmq.storage.segment_file import SegmentFile

TOPIC_KEY = b"t"


class Fault(msgspec.Struct, frozen=True, gc=False):
    """Something that is wrong. `offset` and `topic` where they are known; `serious` is False for
    what a running broker mends by itself (a write that was cut off)."""

    shard: int
    where: str
    what: str
    position: int = -1
    length: int = 0
    topic: str = ""
    offset: int = -1
    serious: bool = True


class Verification:
    """One shard's check. `end`: up to where the log is committed, of a broker that runs."""

    def __init__(
        self, shard: int, directory: Path, end: int | None = None, kv: KeyValue | None = None
    ) -> None:
        self._shard = shard
        self._directory = directory
        self._end = end
        self._kv = kv
        self._index = TopicIndex()
        self._named = TopicIndex()
        """The topics whose names the look-ups have."""
        self._nameless: dict[bytes, int] = {}
        """Those of the log that they have not, and the position behind the first entry of each."""
        self.topics = 0
        self.entries = 0
        self.batches = 0

    def steps(self) -> Iterator[int | Fault]:
        """Check everything."""
        if self._kv is not None:
            yield from self._names(self._kv)
        yield from self._log()
        yield from self._segments()
        for partition in engine_partitions(self._directory):
            yield from self._stored(partition)
        yield from self._checkpoint()
        if self._kv is not None:
            yield from self._missing_names(self._kv)
        self.topics = len(self._index)

    def _fault(self, where: str, what: str, **more: object) -> Fault:
        return msgspec.convert(
            {"shard": self._shard, "where": where, "what": what, **more}, type=Fault
        )

    # -- the log -----------------------------------------------------------------------------------

    def _log(self) -> Iterator[int | Fault]:
        for found in log_entries(self._directory, 0, self._end):
            if isinstance(found, Entry):
                self.entries += 1
                yield from self._entry(found)
                yield found.end - found.position
            elif isinstance(found, Damage):
                yield self._fault(
                    found.file, found.what, position=found.position, length=found.length
                )
            elif self._end is None:
                yield self._cut_off(found)

    def _cut_off(self, tail: Tail) -> Fault:
        return self._fault(
            tail.file,
            "the last write is not whole: it is just made, or was cut off by a crash",
            position=tail.position,
            length=tail.length,
            serious=False,
        )

    def _entry(self, entry: Entry) -> Iterator[Fault]:
        try:
            if entry.kind == shard_log.BLOCK:
                yield from self._block(entry.position + shard_log.HEAD.size, entry.payload)
                if self._kv is not None:
                    self._look_up(entry)
            elif entry.kind == shard_log.SHARED_BLOCK:
                begin = shard_log.block_begin(entry.payload)
                at = entry.position + shard_log.HEAD.size + begin
                yield from self._block(at, entry.payload[begin:])
            elif entry.kind == shard_log.TOPIC_DELETED:
                self._index.remove(entry.payload)
            elif entry.kind == shard_log.TOPIC_CREATED:
                self._index.set(entry.payload, 0)
        except (BrokerError, AssertionError, IndexError) as error:
            yield self._fault("log", f"its content: {error}", position=entry.position)

    def _block(self, position: int, block: bytes) -> Iterator[Fault]:
        for entry in blocks.entries(block):
            self.batches += 1
            data = block[entry.batch_begin : entry.end]
            at = position + entry.begin
            info = batches.validate(data, 0, len(data))
            what = "" if info.crc_ok else "the checksum of a batch is wrong"
            if not what:
                what = self._unchained(entry)
            if what:
                yield self._fault(
                    "log",
                    what,
                    position=at,
                    length=entry.end - entry.begin,
                    topic=readable(entry.topic),
                    offset=entry.base_offset,
                )
        self._index.replay(block, 0, len(block), position)

    def _unchained(self, entry: blocks.EntryView) -> str:
        """What is wrong with the place of a batch in its topic."""
        if entry.flags & (blocks.DECLARED | blocks.MEMORY_MODE):
            return ""
        known = self._index.lookup(entry.topic)
        if known is None or known[1] == NO_POSITION:
            return ""
        if entry.previous < known[1] or (
            entry.previous > known[1] and self._should_be_there(entry.previous)
        ):
            return f"the batch before it is at {known[1]}, not where it says"
        if entry.base_offset < known[0]:
            return f"its offsets are taken: the topic went to {known[0]}"
        return ""

    def _should_be_there(self, position: int) -> bool:
        """Is that position in a file as it was written? What a cleaning has let go is not."""
        return any(
            piece.start <= position < piece.end
            for piece in log_files(self._directory)
            if not piece.kept
        )

    # -- partitions with files of their own --------------------------------------------------------

    def _segments(self) -> Iterator[int | Fault]:
        before, end_offset = Path(), -1
        for path in segment_files(self._directory):
            if path.parent == before.parent and end_offset >= 0:
                yield from self._between(before, end_offset, path)
            before, end_offset = path, (yield from self._segment(path))

    def _between(self, before: Path, end_offset: int, path: Path) -> Iterator[Fault]:
        """What lies between two files of a partition, if it is not known why that is missing."""
        next_offset = int(path.name[:20])
        if end_offset >= next_offset:
            return
        state = partition_state.load(str(path.parent), RealDisk())
        if state is None or end_offset < state.gaps_until:
            return
        first = max(end_offset, state.start_offset, state.tiered_until)
        # A broker that runs may have put others in their place.
        if first < next_offset and before.exists() and path.exists():
            where = "/".join(before.parts[-2:])
            what = f"the next file begins at offset {next_offset}: what lies before it is lost"
            yield self._fault(where, what, offset=first)

    def _segment(self, path: Path) -> Generator[int | Fault, None, int]:
        """The offset behind its last batch; -1 where it is gone or its end is damaged."""
        is_whole = True
        where = "/".join(path.parts[-2:])
        next_offset = int(path.name[:20])
        indexed = _indexed(path)
        try:
            for found in segment_batches(path):
                is_whole = isinstance(found, Batch)
                if isinstance(found, Batch):
                    self.batches += 1
                    info = found.info
                    if indexed.pop(found.position, info.base_offset) != info.base_offset:
                        yield self._misleading(where, found.position, info.base_offset)
                    if info.base_offset < next_offset:
                        yield self._fault(
                            where,
                            f"its offset should be {next_offset} or more",
                            position=found.position,
                            offset=info.base_offset,
                        )
                    next_offset = info.base_offset + info.last_offset_delta + 1
                    yield info.length
                elif isinstance(found, Damage):
                    yield self._fault(
                        where,
                        found.what,
                        position=found.position,
                        length=found.length,
                        offset=next_offset,
                    )
                else:
                    yield self._cut_off(found)
        except FileNotFoundError:
            return -1
        for position, offset in indexed.items():
            yield self._misleading(where, position, offset)
        return next_offset if is_whole else -1

    def _misleading(self, where: str, position: int, offset: int) -> Fault:
        return self._fault(
            where,
            "the index beside it says otherwise: remove the index, it is made again",
            position=position,
            offset=offset,
        )

    # -- partitions of other engines ---------------------------------------------------------------

    def _stored(self, partition: EnginePartition) -> Iterator[int | Fault]:
        where = f"{partition.engine}/{partition.path.name}"
        try:
            with opened(partition) as stored:
                if stored is None:
                    what = (
                        f"nobody here can read what the engine has stored: {partition.size} bytes"
                    )
                    yield self._fault(where, what, serious=False)
                    return
                yield from self._stored_batches(where, stored)
        except FileNotFoundError:
            return
        except BrokerError as error:
            yield self._fault(where, str(error))

    def _stored_batches(self, where: str, stored: StoredPartition) -> Iterator[int | Fault]:
        next_offset = 0
        for found in stored.batches():
            if isinstance(found, Unsound):
                yield self._fault(where, found.what, offset=found.offset)
                continue
            self.batches += 1
            data = bytes(found)
            info = batches.validate(data, 0, len(data))
            what = "" if info.crc_ok else "the checksum of a batch is wrong"
            if not what and info.base_offset < next_offset:
                what = f"its offset should be {next_offset} or more"
            if what:
                yield self._fault(where, what, offset=info.base_offset, length=len(data))
            next_offset = info.base_offset + info.last_offset_delta + 1
            yield len(data)
        if next_offset > stored.end_offset:
            what = f"its batches end at {next_offset}, the partition at {stored.end_offset}"
            yield self._fault(where, what)

    # -- beside the log ----------------------------------------------------------------------------

    def _checkpoint(self) -> Iterator[int | Fault]:
        for path in sorted(self._directory.glob("index-*")):
            if path.name.endswith(NEW):
                # It is being written, or was when a process died.
                continue
            try:
                data = path.read_bytes()
            except FileNotFoundError:
                continue
            if len(data) < 4 or crc32c(data[:-4]) != int.from_bytes(data[-4:], "little"):
                yield self._fault(path.name, "the checkpoint of the topic index is damaged")
            else:
                yield len(data)

    def _names(self, kv: KeyValue) -> Iterator[int]:
        """The look-ups have every topic of the log under its name, and those of a checkpoint, which
        may be older than the log."""
        for key, _ in kv.range(TOPIC_KEY, after(TOPIC_KEY)):
            self._named.set(key[1:], 0)
            yield len(key)

    def _look_up(self, entry: Entry) -> None:
        for one in blocks.entries(entry.payload):
            light = not one.flags & (blocks.DECLARED | blocks.MEMORY_MODE)
            if not light or shared.named(one.topic) is not None:
                continue
            if self._named.lookup(one.topic) is None:
                self._nameless.setdefault(one.topic, entry.end)

    def _missing_names(self, kv: KeyValue) -> Iterator[Fault]:
        for topic, end in self._nameless.items():
            if self._index.lookup(topic) is None:
                # It was deleted.
                continue
            yield self._fault(
                "look-ups",
                "the name of a topic is missing",
                topic=readable(topic),
                serious=end <= self._applied(kv),
            )

    def _applied(self, kv: KeyValue) -> int:
        return int.from_bytes(kv.get(b"p") or b"", "little")


def _indexed(path: Path) -> dict[int, int]:
    """What the index beside a segment file says, if it would be believed: offsets by position."""
    disk = RealDisk()
    file = SegmentFile(int(path.name[:20]), str(path))
    try:
        head = segment_index.read_head(disk, file, disk.size(file.path))
        rows = segment_index.read_rows(disk, file, head) if head is not None else None
    except BrokerError:
        return {}
    return dict(zip(rows.positions, rows.offsets, strict=True)) if rows is not None else {}


def readable(topic: bytes) -> str:
    """A topic for people."""
    found = shared.named(topic)
    if found is not None:
        return f"{found[0].hex()}-{found[1]}"
    return topic.decode(errors="backslashreplace")
