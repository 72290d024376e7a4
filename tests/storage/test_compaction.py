"""Compaction against a dictionary: of each key the newest record stays, whatever the batches, the
memory and the moment at which everything stops."""

from __future__ import annotations

import random
from collections.abc import Generator

import msgspec
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from robustmq.core import batches
from robustmq.core.offset_map import OffsetMap
from robustmq.core.recoding import compress
from robustmq.records import Record
from robustmq.storage import partition_state
from robustmq.storage.cleaned_batch import SLICE_ROWS, key_digest
from robustmq.storage.compaction import Compaction, Finished, Swap, Task, candidate
from robustmq.storage.disk import MemoryDisk
from robustmq.storage.engine import PartitionSettings
from robustmq.storage.segment import SegmentPartition
from robustmq.storage.segment_file import CLEANED, LOG
from robustmq.storage.stored_producers import Aborted

NOW = 1_700_000_000_000
DAY = 86_400_000
SETTINGS = PartitionSettings(
    segment_bytes=600,
    index_interval_bytes=100,
    compact=True,
    delete=False,
    min_cleanable_dirty_ratio=0.01,
)


class Log:
    """A partition on a disk in memory, and what was written to it."""

    def __init__(self, config: PartitionSettings = SETTINGS) -> None:
        self.config = config
        self.disk = MemoryDisk()
        self.written: dict[int, tuple[bytes | None, bytes | None]] = {}
        self.open()

    def open(self) -> None:
        self.log = SegmentPartition("/p", self.disk, self.config)

    def append(self, data: bytes) -> int:
        base = self.log.append(bytearray(data), 1)
        self.commit()
        return base

    def commit(self) -> None:
        write = self.log.write()
        if write is not None:
            write(True)
            self.log.committed()

    def put(self, *pairs: tuple[bytes | None, bytes | None], **more: int) -> int:
        """Append one batch; the time of its records is `at`."""
        at = more.pop("at", NOW)
        compression = more.pop("compression", 0)
        records = [Record(key, value, [], at) for key, value in pairs]
        base = self.append(packed(batches.build(records, at, **more), compression))
        for number, pair in enumerate(pairs):
            self.written[base + number] = pair
        return base

    def records(self) -> dict[int, Record]:
        """All records that a consumer gets, by offset; offsets rise."""
        found: dict[int, Record] = {}
        offset = self.log.start_offset
        while offset < self.log.high_watermark:
            data = b"".join(map(bytes, self.log.read(offset, 500).buffers))
            assert data, f"nothing at {offset}, before the end"
            for begin, info in batches.headers(data, 0, len(data), True):
                assert info.crc_ok
                assert info.base_offset + info.last_offset_delta >= offset
                assert info.count or not info.attributes & batches.COMPRESSION_MASK
                offset = info.base_offset + info.last_offset_delta + 1
                for record in batches.parse(data, begin, begin + info.length):
                    if not info.attributes & batches.CONTROL:
                        assert record.offset is not None and record.offset not in found
                        found[record.offset] = record
        return found

    def table(self) -> dict[bytes, bytes]:
        """What a reader makes of the log: the newest value of each key that has one."""
        values: dict[bytes, bytes | None] = {}
        for _, record in sorted(self.records().items()):
            values[record.key or b""] = record.value
        return {key: value for key, value in values.items() if value is not None}

    def model(self) -> dict[bytes, bytes]:
        """The same of all that was ever written."""
        values: dict[bytes, bytes | None] = {}
        for _, (key, value) in sorted(self.written.items()):
            values[key or b""] = value
        return {key: value for key, value in values.items() if value is not None}

    def steps(
        self, now: int = NOW, memory: int = 1 << 16, aborted: tuple[Aborted, ...] = ()
    ) -> Generator[None, None, None]:
        """One run, if there is something to compact; between any two steps all may stop."""
        log = self.log
        found = candidate(
            log.files,
            self.config,
            log.start_offset,
            log.state.clean_offset,
            log.high_watermark,
            now,
        )
        if found is None:
            return
        task = Task(
            "/p",
            self.config,
            found.files,
            log.start_offset,
            found.dirty_offset,
            found.end_offset,
            log.state.generation,
            now,
            memory,
            aborted,
        )
        for step in Compaction(task, self.disk).steps():
            if isinstance(step, Swap):
                names = tuple(file.path.rpartition("/")[2] for file in step.replaced)
                log.change(
                    generation=step.generation,
                    made=step.made.path.rpartition("/")[2],
                    replaced=names,
                    gaps_until=log.high_watermark,
                )
                partition_state.save("/p", self.disk, log.state)
                yield
                cleaned = step.made.path.removesuffix(LOG) + CLEANED
                self.disk.rename(cleaned, step.made.path)
                yield
                log.exchange(step.made, list(step.replaced))
                for file in step.replaced:
                    self.disk.remove(file.path)
                    yield
            elif isinstance(step, Finished):
                log.change(clean_offset=step.clean_offset)
                self.commit()
            yield

    def compact(
        self, now: int = NOW, memory: int = 1 << 16, aborted: tuple[Aborted, ...] = ()
    ) -> None:
        """All runs that there are."""
        for _ in range(100):
            before = self.log.state.clean_offset
            for _ in self.steps(now, memory, aborted):
                pass
            if self.log.state.clean_offset == before:
                return
        raise AssertionError("compaction does not end")


def packed(batch: bytes, compression: int) -> bytes:
    """The batch, compressed."""
    if not compression:
        return batch
    out = bytearray(batch[: batches.HEADER_SIZE])
    out += compress(batch[batches.HEADER_SIZE :], compression)
    out[8:12] = (len(out) - 12).to_bytes(4, "big")
    attributes = int.from_bytes(out[21:23], "big") | compression
    out[21:23] = attributes.to_bytes(2, "big")
    from crc32c import crc32c

    out[17:21] = crc32c(bytes(out[21:])).to_bytes(4, "big")
    return bytes(out)


KEYS = st.sampled_from([b"%d" % number for number in range(6)])
VALUES = st.one_of(st.none(), st.binary(min_size=1, max_size=60))
BATCHES = st.lists(
    st.tuples(st.lists(st.tuples(KEYS, VALUES), min_size=1, max_size=5), st.integers(0, 4)),
    max_size=25,
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(rounds=st.lists(BATCHES, min_size=1, max_size=3), memory=st.sampled_from([100, 1 << 16]))
def test_a_compacted_log_is_the_same_table(
    rounds: list[list[tuple[list[tuple[bytes, bytes | None]], int]]], memory: int
) -> None:
    log = Log()
    for written in rounds:
        for pairs, compression in written:
            log.put(*pairs, compression=compression)
        log.compact(memory=memory)
        assert log.table() == log.model()
        found = log.records()
        assert all((r.key, r.value) == log.written[offset] for offset, r in found.items())
        closed = log.log.files[-1].base_offset if log.log.files else 0
        newest = {key: offset for offset, (key, _) in sorted(log.written.items())}
        old = [offset for offset in found if offset < closed and newest[found[offset].key] < closed]
        assert all(newest[found[offset].key] == offset for offset in old)
        log.open()
        assert log.records() == found and not log.log.quarantined


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(written=BATCHES, seed=st.integers(0, 1000))
def test_whatever_the_moment_of_a_crash_no_record_is_lost(
    written: list[tuple[list[tuple[bytes, bytes | None]], int]], seed: int
) -> None:
    dice = random.Random(seed)
    log = Log()
    for pairs, compression in written:
        log.put(*pairs, compression=compression)
    for _ in range(4):
        steps = log.steps(memory=dice.choice([100, 1 << 16]))
        for _ in range(dice.randrange(12)):
            next(steps, None)
        steps.close()
        log.disk.lose_power(dice.random())
        log.open()
        log.log.resume_at(max(log.written, default=-1) + 1)
        assert log.table() == log.model()
        assert not log.log.quarantined
        pairs = [(b"%d" % dice.randrange(6), b"%d" % dice.randrange(99)) for _ in range(3)]
        log.put(*pairs)
    log.compact()
    assert log.table() == log.model()


def test_a_tombstone_outlives_the_first_compaction_by_its_retention() -> None:
    log = Log()
    log.put((b"gone", b"x"))
    log.put((b"gone", None))
    for number in range(30):
        log.put((b"%d" % number, b"v" * 30))
    log.compact(NOW)
    assert [r.value for r in log.records().values() if r.key == b"gone"] == [None]
    for number in range(30, 60):
        log.put((b"%d" % number, b"v" * 30))
    log.compact(NOW + DAY - 1)
    tombstone = next(r for r in log.records().values() if r.key == b"gone")
    assert tombstone.timestamp_ms == NOW
    for number in range(60, 120):
        log.put((b"%d" % number, b"v" * 30))
    log.compact(NOW + DAY)
    assert b"gone" not in {r.key for r in log.records().values()}


def test_the_last_batch_of_a_producer_stays_though_it_is_empty() -> None:
    log = Log()
    for sequence in range(3):
        log.put((b"a", b"%d" % sequence), producer_id=7, producer_epoch=2, base_sequence=sequence)
    for _ in range(40):
        log.put((b"a", b"x" * 30))
    log.compact()
    found = [info for info in log.log.last_batches(1 << 30) if info.producer_id == 7]
    data = b"".join(map(bytes, log.log.read(0, 1).buffers))
    first = batches.validate(data, 0, len(data))
    assert (first.producer_id, first.base_offset, first.base_sequence, first.count) == (7, 2, 2, 0)
    assert not found or found[-1].base_sequence == 2
    log.open()
    assert log.table() == log.model()
    # A producer that has been silent for a day is forgotten.
    for number in range(40):
        log.put((b"a", b"y%d" % number * 9), at=NOW + 2 * DAY)
    log.compact(NOW + 2 * DAY)
    data = b"".join(map(bytes, log.log.read(0, 1 << 20).buffers))
    assert 7 not in {info.producer_id for _, info in batches.headers(data, 0, len(data))}


def marker(commit: bool, producer_id: int) -> bytes:
    key = (0).to_bytes(2, "big") + int(commit).to_bytes(2, "big")
    record = Record(key, bytes(6), [], NOW)
    attributes = batches.TRANSACTIONAL | batches.CONTROL
    return batches.build([record], NOW, 0, attributes, producer_id, 0, -1)


def test_records_of_aborted_transactions_go_and_markers_stay_until_their_time() -> None:
    log = Log()
    one = {"attributes": batches.TRANSACTIONAL, "producer_epoch": 0}
    log.put((b"a", b"committed"), producer_id=1, base_sequence=0, **one)
    first = log.put((b"a", b"aborted"), producer_id=2, base_sequence=0, **one)
    del log.written[first]
    log.append(marker(True, 1))
    last = log.append(marker(False, 2))
    for number in range(40):
        log.put((b"%d" % number, b"v" * 30))
    aborted = (Aborted(2, first, last, last + 1),)
    log.compact(NOW, aborted=aborted)
    assert log.table()[b"a"] == b"committed"

    def markers() -> list[int]:
        data = b"".join(map(bytes, log.log.read(0, 1 << 20).buffers))
        found = batches.headers(data, 0, len(data))
        return [info.base_offset for _, info in found if info.attributes & batches.CONTROL]

    assert markers() == [2, 3]
    for number in range(200):
        log.put((b"%d" % (number % 40), b"w" * 30))
    log.put((b"a", b"newer"))
    for number in range(40):
        log.put((b"%d" % number, b"z" * 30))
    log.compact(NOW, aborted=aborted)
    assert markers() == [2, 3]
    for number in range(200):
        log.put((b"%d" % (number % 40), b"w" * 30))
    # The producers are forgotten, then their markers have nothing to mark, then their time is over.
    for days in (2, 4, 6):
        for number in range(80):
            log.put((b"%d" % (number % 40), b"w" * 30), at=NOW + days * DAY)
        assert markers() == [2, 3]
        log.compact(NOW + days * DAY, aborted=aborted)
    assert markers() == []
    assert log.table() == log.model()


def test_min_and_max_lag_and_the_dirty_ratio_say_when() -> None:
    log = Log(PartitionSettings(segment_bytes=600, compact=True, min_cleanable_dirty_ratio=0.9))
    for number in range(60):
        log.put((b"%d" % number, b"v" * 30))
    log.compact()
    clean = log.log.state.clean_offset
    assert clean > 40
    for number in range(20):
        log.put((b"%d" % number, b"w" * 30))
    log.compact()
    assert log.log.state.clean_offset == clean
    part = log.log

    def found(**changes: float) -> bool:
        import msgspec

        config = msgspec.structs.replace(log.config, **changes)
        return candidate(part.files, config, 0, clean, part.high_watermark, NOW + 1000) is not None

    assert found(min_cleanable_dirty_ratio=0.1)
    assert not found(min_cleanable_dirty_ratio=0.1, min_compaction_lag_ms=2000)
    assert found(max_compaction_lag_ms=999) and not found(max_compaction_lag_ms=1000)


@given(st.lists(st.tuples(st.binary(min_size=1, max_size=4), st.integers(0, 1000)), max_size=40))
def test_the_map_of_offsets_is_a_dictionary_of_the_greatest(
    puts: list[tuple[bytes, int]],
) -> None:
    table = OffsetMap(24 * 128)
    model: dict[bytes, int] = {}
    for key, offset in puts:
        assert table.put(key_digest(key), offset)
        model[key] = max(offset, model.get(key, -1))
    assert all(table.get(key_digest(key)) == offset for key, offset in model.items())
    assert table.get(key_digest(b"another")) == -1 and table.size == len(model)


def test_a_full_map_says_so() -> None:
    table = OffsetMap(24 * 16)
    taken = [table.put(key_digest(b"%d" % number), number) for number in range(20)]
    assert taken == [True] * 12 + [False] * 8
    assert table.put(key_digest(b"3"), 99) and table.get(key_digest(b"3")) == 99


@pytest.mark.parametrize("compression", [1, 2, 3, 4])
def test_what_is_packed_is_unpacked(compression: int) -> None:
    plain = b"robust" * 20_000
    packed_ = compress(plain, compression)
    assert batches.decompress(packed_, compression, 1 << 30) == plain and len(packed_) < 60_000


def test_a_batch_of_many_records_is_compacted_in_slices() -> None:
    log = Log(msgspec.structs.replace(SETTINGS, segment_bytes=1 << 20))
    log.put(*((b"%d" % (number % 100), b"x") for number in range(10 * SLICE_ROWS)))
    log.log.roll()
    log.put((b"last", b"x"))
    # Noted, looked at, and written anew: the last 100 records alone stay.
    assert sum(1 for _ in log.steps()) >= 2 * 9
    assert len(log.records()) == 101 and log.table() == log.model()
