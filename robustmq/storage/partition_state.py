"""What a partition knows beside its records: the file `state` in its directory (docs/formats.md,
"Segments").

It is replaced as a whole, by rename, on the storage thread. A file that is not there says what
holds of a new partition. A damaged one is reported, and nothing of the partition's records is cut
for it: the log begins with its first file again, and all of it counts as not compacted.
"""

from __future__ import annotations

import msgspec
from crc32c import crc32c

from robustmq.storage.disk import Disk

NAME = "state"
VERSION = 1


class PartitionState(msgspec.Struct, frozen=True, array_like=True):
    """What is kept of one partition."""

    version: int = VERSION
    start_offset: int = 0
    """The first offset that is not deleted: DeleteRecords moves it into the middle of a file."""
    clean_offset: int = 0
    """Below it every key was seen by a compaction: the next one begins to look here."""
    gaps_until: int = 0
    """Below it offsets may be missing, as compactions took their records out."""
    generation: int = 0
    """The number of the last file that a compaction wrote."""
    made: str = ""
    """The file that takes the place of `replaced`; until it is there, they are."""
    replaced: tuple[str, ...] = ()
    tiered_until: int = 0
    """Below it all records are in the cold tier: files there may be missing."""


def load(directory: str, disk: Disk) -> PartitionState | None:
    """The state of a partition; None when it is damaged."""
    path = f"{directory}/{NAME}"
    data = disk.read_apart(path, 0, disk.size(path))
    if not data:
        return PartitionState()
    if len(data) < 4 or crc32c(data[4:]) != int.from_bytes(data[:4], "little"):
        return None
    try:
        state = msgspec.msgpack.decode(data[4:], type=PartitionState)
    except msgspec.MsgspecError:
        return None
    return state if state.version == VERSION else None


def save(directory: str, disk: Disk, state: PartitionState) -> None:
    """Keep a state; a crash leaves the old one or this one."""
    data = msgspec.msgpack.encode(state)
    disk.replace(f"{directory}/{NAME}", crc32c(data).to_bytes(4, "little") + data)


def keep_alone(directory: str, disk: Disk, state: PartitionState) -> None:
    """Remove all of a partition but its state."""
    save(directory, disk, state)
    disk.remove_directory(f"{directory}/quarantine")
    for name in disk.list(directory):
        if name != NAME:
            disk.remove(f"{directory}/{name}")
