"""The checkpoint of a shard, written in slices: where recovery begins, and what was known there.

A checkpoint is of the moment of its position in the log. The topic index, which may have a million
topics, is written part by part as it was then (`TopicIndex.begin_dump`). Snapshots of machines may
be younger, and say so (`shard.snapshots`); they are kept in memory until all of them are there.
Each slice is a piece of memory that the loop has copied, and a job of the storage thread that
writes it; commits go on between them.

Nothing of a checkpoint counts before its row `c` is there. That is written, synced, behind all of
it and behind the log up to its position; so a crash in any slice leaves the checkpoint before it,
and files with names that nobody reads, which the next one removes.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import msgspec
from crc32c import crc32c

from robustmq.core.topic_index import PARTS
from robustmq.promises import Promise
from robustmq.storage.disk import Disk
from robustmq.storage.kv import Change, KeyValue
from robustmq.storage.light_topics import LightTopics
from robustmq.storage.log_files import NEW
from robustmq.storage.lookups import after

MACHINE, CHECKPOINT = b"m", b"c"
INDEX = "index-"
COPY = ".copy"
"""Behind the name of the index of a checkpoint: the second file with the same bytes."""
SYNC_BYTES = 1024 * 1024
"""After so many bytes an index is synced, so that no commit waits for all of it."""

Submit = Callable[[Callable[[], None], int], Promise[None]]


class Checkpoint(msgspec.Struct, frozen=True, array_like=True):
    """Where recovery begins, and what was known there."""

    position: int
    index_file: str
    sources: dict[int, int]
    leader_epoch: int
    partitions: dict[str, int] = {}
    """The end offset of each partition of a declared topic."""


class CheckpointWriter:
    """Writes one checkpoint: `write_parts` until none is left, then `finish`."""

    def __init__(
        self,
        directory: str,
        disk: Disk,
        kv: KeyValue,
        submit: Submit,
        light: LightTopics,
        point: Checkpoint,
    ) -> None:
        """The checkpoint of this moment; `submit` has the storage thread do something that writes
        so many bytes."""
        self._disk = disk
        self._kv = kv
        self._submit = submit
        self._light = light
        self._point = point
        self._machines: dict[bytes, bytes] = {}
        self._directory = directory
        self._paths = [f"{directory}/{point.index_file}{behind}" for behind in ("", COPY)]
        self._part = 0
        self._crc = 0
        self._unsynced = 0
        self.waiting_bytes = 0
        """What the storage thread has yet to write."""
        self._write(light.begin_dump())

    @property
    def position(self) -> int:
        """Where recovery will begin."""
        return self._point.position

    @property
    def whole(self) -> bool:
        """Is all of the index written, or on its way?"""
        return self._part == PARTS

    def write_parts(self, size: int = 1 << 63) -> None:
        """Write the next parts of the index, until they have so many bytes."""
        if self._part == PARTS:
            return
        parts: list[bytes] = []
        while size > 0 and self._part < PARTS:
            parts.append(self._light.dump_part(self._part))
            self._part += 1
            size -= len(parts[-1])
        if self._part == PARTS:
            self._light.end_dump()
        self._write(*parts)

    def add(self, rows: Iterable[tuple[bytes, bytes, bytes]]) -> None:
        """(kind, key, snapshot) of more machines."""
        for kind, key, value in rows:
            self._machines[MACHINE + kind + b"\0" + key] = value

    def _write(self, *buffers: bytes) -> None:
        """Twice, as offsets of topics whose batches are all gone stand nowhere else."""
        size = sum(map(len, buffers))
        is_first = self._part == 0
        self.waiting_bytes += size

        def write() -> None:
            for data in buffers:
                self._crc = crc32c(data, self._crc)
            self._unsynced += size
            for path in self._paths:
                if is_first:
                    # Of a checkpoint at this position that was not finished.
                    self._disk.remove(path + NEW)
                self._disk.append(path + NEW, buffers)
            if self._unsynced >= SYNC_BYTES:
                self._unsynced = 0
                for path in self._paths:
                    self._disk.sync(path + NEW)

        def written() -> None:
            self.waiting_bytes -= size

        self._submit(write, 2 * size).when_settled(written)

    def finish(self) -> Promise[None]:
        """From now on it counts; the log up to its position was submitted before, with a sync."""
        assert self.whole, "the index is written"
        return self._submit(self._finish, 0)

    def _finish(self) -> None:
        disk, kv = self._disk, self._kv
        for path in self._paths:
            disk.append(path + NEW, [self._crc.to_bytes(4, "little")])
            disk.sync(path + NEW)
            disk.rename(path + NEW, path)
        changes: list[Change] = [
            (key, None) for key, _ in kv.range(MACHINE, after(MACHINE)) if key not in self._machines
        ]
        changes.extend(self._machines.items())
        changes.append((CHECKPOINT, msgspec.msgpack.encode(self._point)))
        kv.write(changes, True)
        for old in disk.list(self._directory):
            if old.startswith(INDEX) and old.removesuffix(COPY) != self._point.index_file:
                disk.remove(f"{self._directory}/{old}")

    def abandon(self) -> None:
        """It is not finished."""
        self._light.end_dump()
