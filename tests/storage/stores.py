"""A shard's store on a disk in memory, and what it is fed with."""

from __future__ import annotations

import random
from collections.abc import Callable

from robustmq.core import batches, blocks
from robustmq.core.publish import build_entry
from robustmq.records import Record
from robustmq.storage.committer import InlineCommitter
from robustmq.storage.disk import Disk, MemoryDisk
from robustmq.storage.engine import PartitionLog, PartitionSettings
from robustmq.storage.kv import MemoryKeyValue
from robustmq.storage.memory import MemoryPartition, RingMemory
from robustmq.storage.shard_store import BLOCK, ShardStore, StoreSettings
from robustmq.storage.stored_producers import StoredProducers

NOW_MS = 1_700_000_000_000


class Heard:
    """What recovery found that is not the storage's own."""

    def __init__(self) -> None:
        self.snapshots: list[tuple[bytes, bytes, bytes]] = []
        self.entries: list[tuple[int, bytes]] = []
        self.positions: list[int] = []
        """Of these in the log."""
        self.fresh: list[bytes] = []
        """Blocks with retained messages that the key-value store may lack."""
        self.corrupt: list[tuple[int, int]] = []

    def on_open(self, producers: StoredProducers) -> None:
        pass

    def on_snapshot(self, kind: bytes, key: bytes, value: bytes) -> None:
        self.snapshots.append((kind, key, value))

    def on_entry(self, kind: int, position: int, payload: bytes, fresh: bool) -> None:
        self.entries.append((kind, payload))
        self.positions.append(position)
        if fresh and kind == BLOCK and blocks.all_flags(payload) & blocks.RETAIN:
            self.fresh.append(payload)

    def on_corruption(self, position: int, length: int) -> None:
        self.corrupt.append((position, length))


class Machine:
    """A disk, a key-value store, and a shard on them that can be opened again and again."""

    def __init__(self, settings: StoreSettings | None = None, ring_bytes: int = 1 << 20) -> None:
        self.settings = settings or StoreSettings(segment_bytes=2_000, hot_bytes=500)
        self.disk = MemoryDisk()
        self.kv = MemoryKeyValue()
        self.epoch = 0
        self.ring_bytes = ring_bytes
        self.open()

    def open(self) -> ShardStore:
        """Recover, as a new process does."""
        self.heard = Heard()
        self.committer = InlineCommitter()
        self.epoch += 1
        self.store = ShardStore(
            "/0000",
            self.settings,
            self.disk,
            self.kv,
            self.committer,
            self.epoch,
            self.heard,
            self.heard.on_corruption,
            RingMemory(self.ring_bytes),
        )
        return self.store

    def commit(self, sync: bool = False) -> None:
        """One turn's commit."""
        self.store.flush(sync)
        self.committer.kick()

    def lose_pages(self, choose: random.Random) -> None:
        """Of what is not synced of the files of partitions some does not reach the disk, and what
        lies behind it does."""
        for path, data in self.disk.files.items():
            synced = self.disk.synced.get(path, 0)
            if "/segments/" in path and path.endswith(".log") and synced < len(data):
                begin, end = sorted(choose.choices(range(synced, len(data) + 1), k=2))
                data[begin:end] = bytes(end - begin)

    def lose_power(
        self, keep: float | Callable[[str], float], of_look_ups: float | None = None
    ) -> ShardStore:
        """Of what is not synced this part (0 to 1) survives, and of the key-value store the same or
        another one; recover."""
        self.disk.lose_power(keep)
        if of_look_ups is None:
            of_look_ups = keep("") if callable(keep) else keep
        self.kv.lose_power(of_look_ups)
        return self.open()

    def publish(self, topic: bytes, *values: bytes, source: int = 0, sequence: int = 0) -> int:
        """Append one block of one light topic; its log position."""
        block = bytearray(build_entry(topic, b"", 0, 1, 7, 0, batch(*values)))
        return self.store.append_block(block, source, sequence, NOW_MS)

    def values(self, topic: bytes) -> list[bytes]:
        """All committed values of a light topic; offsets are dense."""
        found: list[bytes] = []
        while True:
            result = self.store.light.read(topic, len(found), 300)
            assert not result.error, result
            if not result.buffers:
                assert len(found) == result.high_watermark
                return found
            found += values_of(b"".join(map(bytes, result.buffers)), len(found))


def batch(*values: bytes, timestamp_ms: int = NOW_MS) -> bytes:
    """A record batch."""
    return batches.build([Record(None, value) for value in values], timestamp_ms)


def values_of(data: bytes, first_offset: int) -> list[bytes]:
    """The values of batches that lie one behind the other, without a gap in their offsets."""
    found: list[bytes] = []
    for begin, info in batches.headers(data, 0, len(data), True):
        assert info.crc_ok and info.base_offset == first_offset + len(found)
        found += [one.value or b"" for one in batches.parse(data, begin, begin + info.length)]
    return found


def open_ring(directory: str, disk: Disk, settings: PartitionSettings) -> PartitionLog:
    """A partition in memory, opened as one with files is."""
    del directory, disk
    return MemoryPartition(settings, RingMemory())
