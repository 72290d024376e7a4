"""The manifest of a tiered partition, and uploads, against a model: calls fail before they are done
or behind it, owners die between any two, and old ones come back."""

from __future__ import annotations

import random

import pytest

from robustmq.storage import manifest as manifests
from robustmq.storage.cold_segments import ColdSegment
from robustmq.storage.disk import MemoryDisk
from robustmq.storage.manifest import (
    ABORTED,
    INDEX,
    LOG,
    NAME,
    DamagedError,
    FencedError,
    Head,
    Manifest,
    TopicInfo,
    object_name,
    part_name,
    prefix_of,
    read_head,
    read_rows,
)
from robustmq.storage.object_store import ObjectConflictError, ObjectStoreError
from robustmq.storage.stored_producers import Aborted
from robustmq.storage.uploads import Upload, read_aborted, upload
from tests.storage.memory_objects import MemoryObjects
from tests.storage.stores import batch

PREFIX = prefix_of("cluster", bytes(16), 3)
TOPIC = TopicInfo(b"topic", bytes(16), 4, {"segment.bytes": "1048576"}, 7)


class Died(BaseException):
    """The process ends in the middle of a call."""


def owner(store: MemoryObjects, epoch: int) -> Manifest:
    """A manifest as an owner begins with it."""
    return Manifest(store, PREFIX, Head("cluster", TOPIC, 3, epoch))


def segment(store: MemoryObjects, base: int, count: int) -> Upload:
    """A closed file and its index."""
    path = f"/p/{base:020d}.log"
    data = bytearray(batch(*[b"%d" % (base + number) for number in range(count)]))
    data[:8] = base.to_bytes(8, "big")
    store.disk.append(path, [data])
    store.disk.append(path.removesuffix(LOG) + INDEX, [b"index of %d" % base])
    return Upload(path, path.removesuffix(LOG) + INDEX, base, base + count, len(data), 5)


def add(store: MemoryObjects, to: Manifest, one: Upload, epoch: int) -> ColdSegment:
    return upload(store, store.disk, PREFIX, to, one, epoch)


def paths_of(rows: list[ColdSegment]) -> set[str]:
    names = {PREFIX + object_name(row.base_offset, row.leader_epoch) for row in rows}
    return {name + ending for name in names for ending in (LOG, INDEX)}


def stored(store: MemoryObjects) -> tuple[Head, list[ColdSegment]]:
    head, _ = read_head(store, PREFIX)
    return head, read_rows(store, PREFIX, head)


def test_what_was_uploaded_is_told_of_with_all_that_recovery_needs() -> None:
    store = MemoryObjects(MemoryDisk())
    mine = owner(store, 2)
    assert mine.load() == [] and not mine.there
    mine.describe(TOPIC)
    one = segment(store, 10, 5)
    aborted = (Aborted(9, 11, 13, 14),)
    one = Upload(one.path, one.index_path, 10, 15, one.size, 5, aborted)
    row = add(store, mine, one, 2)
    head, rows = stored(store)
    assert (head.cluster_id, head.topic, head.partition) == ("cluster", TOPIC, 3)
    assert (head.start_offset, head.end_offset, head.leader_epoch) == (0, 15, 2)
    assert rows == [row] == [ColdSegment(10, 15, one.size, 5, 2)]
    name = PREFIX + object_name(10, 2)
    assert store.objects[name + LOG][0] == store.disk.files[one.path]
    assert store.objects[name + INDEX][0] == b"index of 10"
    assert tuple(read_aborted(store, name + ABORTED)) == aborted


def test_an_owner_of_an_older_epoch_cannot_write() -> None:
    store = MemoryObjects(MemoryDisk())
    old, new = owner(store, 2), owner(store, 3)
    old.load()
    old.describe(TOPIC)
    new.load()
    add(store, new, segment(store, 0, 5), 3)
    with pytest.raises(FencedError):
        add(store, old, segment(store, 5, 5), 2)
    with pytest.raises(FencedError):
        owner(store, 2).load()
    head, rows = stored(store)
    assert head.leader_epoch == 3 and [row.base_offset for row in rows] == [0]


def test_an_owner_of_a_later_epoch_is_not_stopped_by_what_an_older_one_wrote_meanwhile() -> None:
    store = MemoryObjects(MemoryDisk())
    old, new = owner(store, 2), owner(store, 3)
    old.load()
    new.load()
    add(store, old, segment(store, 0, 5), 2)
    with pytest.raises(ObjectConflictError):
        new.describe(TOPIC)
    assert [row.base_offset for row in new.load()] == [0]
    new.describe(TOPIC)


def test_a_damaged_manifest_is_not_taken_for_an_empty_one() -> None:
    store = MemoryObjects(MemoryDisk())
    mine = owner(store, 1)
    mine.load()
    mine.describe(TOPIC)
    data, version = store.objects[PREFIX + NAME]
    for bad in (data[:-1], b"X" + data[1:], data[:20] + bytes([data[20] ^ 1]) + data[21:], b""):
        store.objects[PREFIX + NAME] = (bad, version)
        with pytest.raises(DamagedError):
            owner(store, 2).load()


def test_a_head_stays_small_however_many_segments_there_are() -> None:
    store = MemoryObjects(MemoryDisk())
    mine = owner(store, 1)
    mine.load()
    for number in range(3_500):
        mine.add(ColdSegment(number, number + 1, 1, 1, 1))
    assert len(store.objects[PREFIX + NAME][0]) < 50_000
    assert [part.rows for part in mine.head.parts] == [1_000] * 3
    rows = owner(store, 2).load()
    assert [row.base_offset for row in rows] == list(range(3_500))
    mine.trim(1_000, rows[:1_000])
    assert len(mine.head.parts) == 2
    mine.trim(1_500, rows[1_000:1_500])
    mine.remove()
    assert [row.base_offset for row in owner(store, 2).load()] == list(range(1_500, 3_500))


def test_a_buried_partition_says_so_first_and_leaves_nothing(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(manifests, "MAX_DOOMED", 2)
    store = MemoryObjects(MemoryDisk())
    mine = owner(store, 1)
    mine.load()
    for number in range(10):
        add(store, mine, segment(store, number, 1), 1)
    slices = 1
    while not mine.bury():
        slices += 1
        assert read_head(store, PREFIX)[0].deleted
        mine = owner(store, 1 + slices)
        mine.load()
    assert slices == 4 and not store.objects


class Run:
    """A seed: an owner, its failures, and what must be true."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.store = MemoryObjects(MemoryDisk())
        self.epoch = 0
        self.end = 0
        self.acked: list[ColdSegment] = []
        self.start = self.asked_start = 0
        self.begin()

    def verdict(self) -> str:
        draw = self.random.random()
        if draw < 0.85:
            return ""
        died = self.random.random() < 0.3
        self.store.error = Died if died else (lambda: ObjectStoreError("on demand"))
        return "before" if draw < 0.92 else "behind"

    def begin(self) -> None:
        """A new owner, or the same one after an error."""
        self.manifest = owner(self.store, self.epoch)
        self.loaded = False

    def step(self) -> None:
        self.store.plan = self.verdict
        try:
            self.act()
        except ObjectStoreError:
            self.begin()
        except Died:
            self.epoch += 1
            self.begin()
        self.store.plan = lambda: ""
        self.check()

    def act(self) -> None:
        if not self.loaded:
            rows = self.manifest.load()
            self.manifest.sweep()
            self.loaded = True
            self.rows = rows
            self.acked = list(rows)
            self.end = self.manifest.head.end_offset
            return
        draw = self.random.random()
        if draw < 0.6:
            count = self.random.randint(1, 4)
            path = f"/p/{self.end:020d}.log"
            self.store.disk.remove(path)
            self.store.disk.remove(path.removesuffix(LOG) + INDEX)
            one = segment(self.store, self.end, count)
            row = add(self.store, self.manifest, one, self.epoch)
            self.acked.append(row)
            self.end = row.next_offset
        elif draw < 0.8 and self.acked:
            number = self.random.randint(0, min(3, len(self.acked)))
            gone = self.acked[:number]
            start = gone[-1].next_offset if gone else self.start
            self.asked_start = max(self.asked_start, start)
            self.manifest.trim(start, gone)
            self.start = start
            del self.acked[:number]
        elif draw < 0.9:
            self.manifest.remove()
        else:
            # The process ends and comes again.
            self.epoch += 1
            self.begin()

    def check(self) -> None:
        """All that is told of is there, whole and in order."""
        if PREFIX + NAME not in self.store.objects:
            return
        head, rows = stored(self.store)
        ends = [row.next_offset for row in rows]
        assert [row.base_offset for row in rows[1:]] == ends[:-1], "segments are dense"
        assert self.start <= head.start_offset <= self.asked_start
        assert [row for row in self.acked if row.base_offset >= self.asked_start] == [
            row for row in rows if row.base_offset >= self.asked_start
        ][: len([row for row in self.acked if row.base_offset >= self.asked_start])]
        for row in rows:
            name = PREFIX + object_name(row.base_offset, row.leader_epoch)
            assert len(self.store.objects[name + LOG][0]) == row.size
            assert self.store.objects[name + INDEX][0] == b"index of %d" % row.base_offset

    def settle(self) -> None:
        """The last owner meets no more failures: nothing is left that nobody tells of."""
        self.epoch += 1
        self.begin()
        self.manifest.load()
        self.manifest.remove()
        self.manifest.sweep()
        head, rows = stored(self.store)
        expected = paths_of(rows) | {PREFIX + NAME}
        expected |= {PREFIX + part_name(part) for part in head.parts}
        assert set(self.store.objects) == expected


@pytest.mark.parametrize("first", range(0, 200, 50))
def test_no_failure_and_no_death_leaves_a_segment_missing_or_forgotten(
    first: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(manifests, "PART_ROWS", 3)
    for seed in range(first, first + 50):
        run = Run(seed)
        for _ in range(60):
            run.step()
        if run.store.objects:
            run.settle()
