"""One job of the storage thread for a partition in segments: what a turn has brought to its files
and beside them, in the order in which any prefix of it recovers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import suppress

import msgspec

from robustmq.errors import BrokerError
from robustmq.storage import segment_index
from robustmq.storage.disk import Buffer, Disk, Rows
from robustmq.storage.segment_file import SegmentFile
from robustmq.storage.segment_index import Snapshot
from robustmq.storage.segment_opening import quarantine


class WriteJob(msgspec.Struct, frozen=True):
    """What is written: the directory, room, what is appended, and then the rest."""

    append: dict[str, list[Buffer]]
    make_directory: bool = False
    reserve: Sequence[str] = ()
    """Files that are begun, and get `reserve_bytes` on the disk."""
    reserve_bytes: int = 0
    settle: Sequence[str] = ()
    """Files that are full, and give back what they do not need of that."""
    snapshots: Sequence[Snapshot] = ()
    sync: Sequence[SegmentFile] = ()
    """Closed files that are synced by and by."""
    bad: Sequence[tuple[int, bytes]] = ()
    """What a reader has found damaged, by the first offset that it costs."""
    after: Callable[[], None] | None = None
    """The directory follows."""

    def run(self, directory: str, disk: Disk, sync: bool) -> None:
        """Write it; `sync` what was appended to the partition, now and before."""
        self.begin(directory, disk)
        disk.commit(self.rows, *([directory] if sync else []))
        self.end(directory, disk)

    @property
    def rows(self) -> Rows:
        """What is appended."""
        return list(self.append.items())

    @property
    def only_appends(self) -> bool:
        """Is there nothing to do but that?"""
        before = self.make_directory or self.reserve
        return not (before or self.settle or self.snapshots or self.sync or self.bad or self.after)

    def begin(self, directory: str, disk: Disk) -> None:
        """Make room for what is appended."""
        if self.make_directory:
            disk.make_directory(directory)
        for path in self.reserve:
            disk.reserve(path, self.reserve_bytes)

    def end(self, directory: str, disk: Disk) -> None:
        """What stands beside it: behind its fdatasync, if it has one, so that the index of a file
        that is full says at once that it is synced."""
        for path in self.settle:
            disk.settle(path)
        # Of a file that cannot be read now the next start makes the index.
        for one in self.snapshots:
            with suppress(BrokerError):
                one.write(disk)
        for file in self.sync:
            with suppress(BrokerError):
                segment_index.sync(disk, file)
        for offset, data in self.bad:
            quarantine(directory, disk, offset, data)
        if self.after is not None:
            self.after()

    def forget(self) -> None:
        """The partition is deleted: what was not appended yet is not wanted."""
        for buffers in self.append.values():
            buffers.clear()
