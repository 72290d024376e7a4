"""What recovery writes into segment files once more.

A small batch that must survive a loss of power stands in the shard's log, too (`Copied`), and the
fdatasync of the log speaks for both: so a turn has one for each shard, however many partitions it
has touched. Their files are synced with the next checkpoint, behind which recovery begins. What
stands in the log from there on, it writes into them again, at the same places. That is done after
every end that was not clean, not only where the machine has started again: an fdatasync that failed
may have dropped what the file seems to have.

Everything of a file before such a batch was synced, or stands in the log as well
(`SegmentPartition.append_copied`); so nothing is missing before it. A file that is not there any
more is wanted by nobody.
"""

from __future__ import annotations

import errno
from array import array
from collections.abc import Callable, Iterator

from robustmq.storage.disk import Disk
from robustmq.storage.markers import MarkedAppend, partition_name

RUN_BYTES = 1024 * 1024
Read = Callable[[int, int], bytes | memoryview]
"""Bytes of the log, by position and length."""


class SegmentRedo:
    """The copied batches of one shard that its log has behind the checkpoint."""

    def __init__(self) -> None:
        self._places: dict[str, dict[str, array[int]]] = {}
        """By partition and file: place in the file, position in the log, and size of each."""

    def note(self, mark: MarkedAppend, position: int, payload: bytes) -> None:
        """A marker of the log, whose payload stands at a position, says this."""
        copied = mark.copied
        if copied is None:
            return
        files = self._places.setdefault(partition_name(mark.topic_id, mark.partition), {})
        rows = files.setdefault(copied.file, array("Q"))
        at = position + payload.index(copied.batch)
        rows.extend((copied.place, at, len(copied.batch)))

    def forget(self, name: str) -> None:
        """Another engine took the partition over: what has files of their names now is a copy."""
        self._places.pop(name, None)

    def run(self, directory: str, disk: Disk, read: Read) -> None:
        """Write them into the partitions below `directory`. Nothing is synced by it."""
        for name, files in self._places.items():
            for file in files.keys() & disk.list(f"{directory}/{name}"):
                path = f"{directory}/{name}/{file}"
                size = disk.size(path)
                for place, data in _runs(files[file], read):
                    if place > size:
                        break
                    if not disk.write_again(path, place, data):
                        raise OSError(errno.ENOSPC, "no room for what a loss of power took", path)
                    size = max(size, place + len(data))
        self._places.clear()


def _runs(rows: array[int], read: Read) -> Iterator[tuple[int, bytearray]]:
    """(place, bytes) of what stands side by side."""
    begin, data = 0, bytearray()
    for at in range(0, len(rows), 3):
        place, position, length = rows[at : at + 3]
        if data and (place != begin + len(data) or len(data) >= RUN_BYTES):
            yield begin, data
            data = bytearray()
        if not data:
            begin = place
        data += read(position, length)
    if data:
        yield begin, data
