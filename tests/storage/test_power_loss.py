"""A shard that loses power: what was acknowledged after an fdatasync is there, in the log, in
partitions and in what is looked up; what was not synced is there up to some point, whichever file
lost more."""

from __future__ import annotations

import random
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import msgspec
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robustmq.core import batches
from robustmq.core.publish import build_entry
from robustmq.errors import KafkaCode
from robustmq.storage.checkpoints import CheckpointWriter
from robustmq.storage.disk import Buffer, Crash, MemoryDisk, RealDisk
from robustmq.storage.engine import PartitionLog, PartitionSettings
from robustmq.storage.markers import MarkedAppend, decode_marker, encode_marker, partition_name
from robustmq.storage.segment import COPIED_BYTES, SegmentPartition
from robustmq.storage.segment_index import read_head, read_rows
from robustmq.storage.segment_redo import SegmentRedo
from robustmq.storage.shard_log import HEAD, ShardLog
from robustmq.storage.shard_store import DECLARED_MARKER, PARTITION_ENDS, StoreSettings
from robustmq.storage.stored_producers import Aborted, light_key
from tests.storage.stores import NOW_MS, Machine, batch, values_of

TOPICS = [b"a", b"b/c"]
TURNS = st.lists(
    st.tuples(
        st.lists(st.tuples(st.sampled_from(["a", "b/c", "p", "retained"]), st.integers(1, 3))),
        st.sampled_from(["gathered", "written", "synced", "checkpoint", "slice", "restart"]),
    ),
    max_size=14,
)


FILE_BYTES = st.sampled_from([300, 2_000])
LARGE = bytes(COPIED_BYTES)
"""The log has no copy of it."""
TOPIC_ID = bytes(range(16))
NAME = partition_name(TOPIC_ID, 0)


def open_marked(machine: Machine, settings: PartitionSettings, name: str = NAME) -> PartitionLog:
    """The partition after a start: what the log has of it is written into its files again, and what
    lies behind its last marker is cut."""
    heard, store, redo = machine.heard, machine.store, SegmentRedo()
    for position, (kind, payload) in zip(heard.positions, heard.entries, strict=True):
        if kind == DECLARED_MARKER:
            for mark in decode_marker(payload):
                store.note_end(partition_name(mark.topic_id, mark.partition), mark.end_offset)
                redo.note(mark, position + HEAD.size, payload)
        elif kind == PARTITION_ENDS:
            redo.forget(payload[8:].decode())
    store.redo(redo)
    return store.open_partition(name, "segment", settings)


def append_marked(
    machine: Machine, log: PartitionLog, *values: bytes, partition: int = 0
) -> MarkedAppend:
    """Append to the partition, with its marker, as `Partitions` does."""
    base, copied = machine.store.append_partition(log, bytearray(batch(*values)))
    end = log.end_offset
    mark = MarkedAppend(b"p", partition, base, b"p", 0, 0, 0, 0, TOPIC_ID, end, b"", copied)
    machine.store.append(DECLARED_MARKER, encode_marker([mark]), 0, 0, NOW_MS)
    return mark


class Loaded:
    """A shard with light topics, a partition and a retained value; what was appended, and how much
    of it must survive."""

    def __init__(self, settings: StoreSettings, file_bytes: int = 300) -> None:
        """`file_bytes`: of the partition's files."""
        self.machine = Machine(settings)
        self.file_bytes = file_bytes
        self.appended: dict[str, list[bytes]] = {"a": [], "b/c": [], "p": []}
        self.safe = dict.fromkeys(self.appended, 0)
        self.retained: list[bytes] = [b""]
        self.safe_retained = 0
        self.number = 0
        self.writer: CheckpointWriter | None = None
        self.last_offset = -1
        """Of the partition, as it was read last."""
        self.log = self.open_partition()

    def open_partition(self) -> PartitionLog:
        """The partition, cut where its markers say."""
        size = self.file_bytes if self.machine.settings.sync else 1 << 20
        return open_marked(self.machine, PartitionSettings(segment_bytes=size))

    def append(self, where: str, count: int) -> None:
        """One append, not committed."""
        machine = self.machine
        values = [b"%d" % (self.number + n) for n in range(count)]
        self.number += count
        if where == "retained":
            block = bytearray(build_entry(b"kept", b"", 0, 3, 7, 0, batch(values[0])))
            machine.store.append_block(block, 0, 0, NOW_MS)
            machine.store.retained.set(b"kept", bytes(block))
            self.retained.append(bytes(block))
            return
        if where == "p":
            append_marked(machine, self.log, *values)
        else:
            machine.publish(where.encode(), *values)
        self.appended[where] += values

    def end_turn(self, how: str) -> None:
        """Commit the turn."""
        machine = self.machine
        if how == "gathered":
            # It goes to the storage thread with the next turn, as while that is busy.
            machine.store.flush(False)
            return
        machine.commit(sync=how == "synced")
        if how == "checkpoint":
            machine.store.checkpoint([])
            machine.committer.kick()
            self.writer = None
        if how == "slice":
            self.go_on()
        if how in ("synced", "checkpoint") or machine.settings.sync:
            self.safe.update({name: len(found) for name, found in self.appended.items()})
            self.safe_retained = len(self.retained) - 1
        if how == "restart":
            machine.open()
            self.writer = None
            self.log = self.open_partition()

    def go_on(self) -> None:
        """The next slice of a checkpoint."""
        store = self.machine.store
        if self.writer is None:
            self.writer = store.begin_checkpoint([])
        elif not self.writer.whole:
            self.writer.write_parts(1)
        else:
            store.finish_checkpoint(self.writer)
            self.writer = None
        self.machine.committer.kick()

    def partition_values(self) -> list[bytes]:
        """All of the partition."""
        found: list[bytes] = []
        self.last_offset = -1
        while self.last_offset + 1 < self.log.high_watermark:
            result = self.log.read(self.last_offset + 1, 10_000)
            data = b"".join(map(bytes, result.buffers))
            assert not result.error
            if result.out_of_range and result.start_offset < self.log.high_watermark:
                # All that was there before is lost.
                self.last_offset = result.start_offset - 1
                continue
            if not data:
                break
            for begin, info in batches.headers(data, 0, len(data), True):
                found += [
                    one.value or b"" for one in batches.parse(data, begin, begin + info.length)
                ]
                self.last_offset = info.base_offset + info.last_offset_delta
        return found

    def check(self, synced_all: bool) -> None:
        """Each log is a prefix of what was appended, with all that was synced."""
        for name, appended in self.appended.items():
            found = self.partition_values() if name == "p" else self.machine.values(name.encode())
            assert found == appended[: len(found)], f"{name}: a prefix"
            if name != "p" or synced_all:
                assert len(found) >= self.safe[name], f"{name}: {len(found)} of {self.safe[name]}"
            self.appended[name] = found
        told = self.machine.heard.corrupt
        assert told == [] or (not synced_all and told == [(self.last_offset + 1, 0)])
        assert bool(told) == (self.log.end_offset > self.last_offset + 1), "what is missing is told"


@settings(max_examples=150, deadline=None)
@given(turns=TURNS, seed=st.integers(), file_bytes=FILE_BYTES, sync=st.booleans())
def test_what_was_synced_survives_power_loss_and_the_rest_is_a_prefix(
    turns: list[tuple[list[tuple[str, int]], str]], seed: int, file_bytes: int, sync: bool
) -> None:
    # Without sync a hole may be where one file of the log ends and lost more than the next.
    size = 700 if sync else 1 << 20
    loaded = Loaded(StoreSettings(segment_bytes=size, hot_bytes=300, sync=sync), file_bytes)
    for appends, how in turns:
        for where, count in appends:
            loaded.append(where, count)
        loaded.end_turn(how)
    choose = random.Random(seed)
    for part in (lambda path: choose.random(), choose.random(), 0.0):
        if sync:
            loaded.machine.lose_pages(choose)
        loaded.machine.lose_power(part, choose.random())
        loaded.log = loaded.open_partition()
        # A partition of which a turn without sync has appended is synced by none but its own.
        loaded.check(sync)
    loaded.append("a", 1)
    loaded.append("p", 1)
    loaded.end_turn("written")
    assert loaded.machine.values(b"a") == loaded.appended["a"]
    assert loaded.partition_values() == loaded.appended["p"]


@pytest.mark.parametrize("promised", [True, False])
def test_offsets_that_a_loss_of_power_took_are_not_given_again(promised: bool) -> None:
    machine = Machine(StoreSettings())

    def opened(committed: int) -> PartitionLog:
        machine.store.note_end("p-0", committed)
        return machine.store.open_partition("p-0", "segment", PartitionSettings(sync=promised))

    def append(log: PartitionLog, sync: bool) -> None:
        machine.store.append_partition(log, bytearray(batch(LARGE)))
        machine.commit(sync)

    log = opened(0)
    for sync in (True, True, False, False):
        append(log, sync)
    machine.lose_power(0)
    for _ in range(2):
        # Killed before it has written anything, it is found again.
        machine.open()
        log = opened(4)
        assert machine.heard.corrupt == [(2, 0)], "operators are told"
        found = log.read(2, 1_000)
        assert not found.buffers
        # Readers are told of what was to survive.
        assert found.error == (KafkaCode.CORRUPT_MESSAGE if promised else 0)
    append(log, True)
    assert log.end_offset == log.high_watermark == 5
    machine.open()
    log = opened(5)
    found = log.read(4 if promised else 2, 1_000)
    assert int.from_bytes(bytes(found.buffers[0])[:8], "big") == 4
    assert log.read(2, 1_000).error == (KafkaCode.CORRUPT_MESSAGE if promised else 0)


@settings(max_examples=150, deadline=None)
@given(turns=TURNS, crash_after=st.integers(0, 4_000), seed=st.integers(), file_bytes=FILE_BYTES)
def test_a_crash_at_any_byte_and_then_power_loss_keeps_all_that_was_acknowledged(
    turns: list[tuple[list[tuple[str, int]], str]], crash_after: int, seed: int, file_bytes: int
) -> None:
    loaded = Loaded(StoreSettings(segment_bytes=700, hot_bytes=300, sync=True), file_bytes)
    loaded.machine.disk.crash_after = crash_after
    try:
        for appends, how in turns:
            for where, count in appends:
                loaded.append(where, count)
            loaded.end_turn(how)
    except Crash:
        pass
    loaded.machine.disk.crash_after = None
    choose = random.Random(seed)
    loaded.machine.lose_pages(choose)
    loaded.machine.lose_power(lambda path: choose.random(), choose.random())
    loaded.log = loaded.open_partition()
    loaded.check(True)
    kept = loaded.machine.store.retained.get(b"kept") or b""
    found = [loaded.retained.index(bytes(one)) for one in (kept, *loaded.machine.heard.fresh)]
    assert max(found) >= loaded.safe_retained, "in the key-value store, or told as not in it"


def all_of(log: PartitionLog) -> list[bytes]:
    """Its values."""
    return values_of(b"".join(map(bytes, log.read(0, 1 << 20).buffers)), 0)


def three_turns() -> tuple[Machine, PartitionLog, str]:
    """One small batch each, of one partition, and its file."""
    machine = Machine(StoreSettings(sync=True))
    log = open_marked(machine, PartitionSettings())
    for value in (b"0", b"1", b"2"):
        append_marked(machine, log, value)
        machine.commit()
    (path,) = (one for one in machine.disk.files if "/segments/" in one)
    assert 0 < machine.disk.synced[path] < machine.disk.size(path)
    return machine, log, path


def test_a_turn_has_one_fdatasync_however_many_partitions_it_touches() -> None:
    machine = Machine(StoreSettings(sync=True))
    names = [partition_name(TOPIC_ID, number) for number in range(20)]
    logs = [machine.store.open_partition(one, "segment", PartitionSettings()) for one in names]

    def syncs_of_a_turn(value: bytes = b"small") -> int:
        for number, log in enumerate(logs):
            append_marked(machine, log, value, partition=number)
        before = machine.disk.syncs
        machine.commit()
        return machine.disk.syncs - before

    assert syncs_of_a_turn() > len(logs), "the names of new files have to last"
    assert syncs_of_a_turn() == syncs_of_a_turn() == 1
    assert syncs_of_a_turn(LARGE) > len(logs), "too much to be written twice"
    assert syncs_of_a_turn() == 1
    machine.lose_power(0)
    for name in names:
        log = open_marked(machine, PartitionSettings(), name)
        assert log.high_watermark == 5 and all_of(log) == [b"small"] * 3 + [LARGE, b"small"]
    assert not machine.heard.corrupt


def test_files_are_synced_by_the_checkpoint_behind_which_recovery_begins() -> None:
    machine, _, path = three_turns()
    machine.store.checkpoint([])
    machine.committer.kick()
    assert not machine.disk.is_unsynced(path)
    machine.lose_power(0)
    assert not machine.heard.entries
    log = machine.store.open_partition(NAME, "segment", PartitionSettings())
    assert all_of(log) == [b"0", b"1", b"2"]


def test_what_a_failed_fdatasync_has_dropped_is_written_again_without_a_loss_of_power() -> None:
    machine, _, path = three_turns()
    data, synced = machine.disk.files[path], machine.disk.synced[path]
    data[synced:] = bytes(len(data) - synced)
    machine.open()
    assert all_of(open_marked(machine, PartitionSettings())) == [b"0", b"1", b"2"]
    assert machine.disk.is_unsynced(path), "the next checkpoint syncs it"


def test_a_small_batch_that_is_the_first_of_a_file_which_was_made_empty_is_not_lost() -> None:
    machine, log, _ = three_turns()
    assert isinstance(log, SegmentPartition)
    log.roll()
    machine.store.changed(log)
    machine.commit()
    append_marked(machine, log, b"3")
    machine.commit()
    machine.lose_power(0)
    log = open_marked(machine, PartitionSettings())
    assert all_of(log) == [b"0", b"1", b"2"]
    data = b"".join(map(bytes, log.read(3, 1 << 20).buffers))
    assert values_of(data, 3) == [b"3"] and not machine.heard.corrupt


def test_a_small_batch_behind_one_that_no_sync_has_covered_brings_that_to_the_disk() -> None:
    machine = Machine(StoreSettings())
    log = open_marked(machine, PartitionSettings())
    append_marked(machine, log, b"0")
    machine.commit(True)
    log.configure(PartitionSettings(sync=True))
    for value, sync in ((b"1", True), (LARGE, False), (b"2", True), (b"3", True)):
        append_marked(machine, log, value)
        machine.commit(sync)
    machine.lose_power(0)
    log = open_marked(machine, PartitionSettings(sync=True))
    assert all_of(log) == [b"0", b"1", LARGE, b"2", b"3"]


def test_a_partition_that_comes_back_from_another_engine_is_not_what_it_was_before() -> None:
    machine, *_ = three_turns()
    machine.store.taken_over(NAME, 3)
    machine.commit()
    machine.disk.remove_directory(f"/0000/segments/{NAME}")
    copy = machine.store.open_beside(NAME, "segment", PartitionSettings())
    copy.restore(bytearray(batch(b"other", b"batches", b"of it")))
    write = copy.write()
    assert write is not None
    write(True)
    machine.lose_power(0)
    machine.store.note_end(NAME, 3)
    assert all_of(open_marked(machine, PartitionSettings())) == [b"other", b"batches", b"of it"]


class SyncsNot(MemoryDisk):
    """The machine stops in the first fdatasync."""

    stops = False

    def sync_below(self, *directories: str) -> None:
        if self.stops:
            raise Crash
        super().sync_below(*directories)


def test_no_marker_is_in_the_log_before_its_records_are_on_the_disk() -> None:
    machine = Machine(StoreSettings(sync=True))
    machine.disk = disk = SyncsNot()
    machine.open()
    log = machine.store.open_partition("topic-0", "segment", PartitionSettings())
    machine.store.append_partition(log, bytearray(batch(b"1")))
    machine.store.append(DECLARED_MARKER, b"marks", 0, 0, NOW_MS)
    disk.stops = True
    with suppress(Crash):
        machine.commit()
    written = {path for path, data in disk.files.items() if data}
    assert any("/segments/" in path for path in written)
    assert not any("/log/" in path for path in written), "power loss may keep it and not them"


def test_a_partition_that_is_deleted_before_its_turn_is_written_leaves_nothing() -> None:
    machine = Machine(StoreSettings(sync=True))
    log = machine.store.open_partition("topic-0", "segment", PartitionSettings())
    machine.store.append_partition(log, bytearray(batch(b"1")))
    machine.store.flush(True)
    machine.store.drop_partition(log)
    machine.publish(b"a", b"1")
    machine.commit(True)
    assert not [path for path in machine.disk.files if "/segments/" in path]
    assert machine.values(b"a") == [b"1"]


class Puts(MemoryDisk):
    """Remembers what was written whole."""

    def __init__(self) -> None:
        super().__init__()
        self.puts: list[str] = []

    def put(self, path: str, data: Buffer) -> None:
        self.puts.append(path)
        super().put(path, data)


SMALL_FILES = PartitionSettings(segment_bytes=300)


def twenty_turns(sync: bool) -> tuple[Machine, Puts, PartitionLog]:
    """Of one batch each, in small segment files."""
    machine = Machine(StoreSettings(sync=sync))
    machine.disk = disk = Puts()
    machine.open()
    log = machine.store.open_partition("topic-0", "segment", SMALL_FILES)
    for number in range(20):
        machine.store.append_partition(log, bytearray(batch(b"%d" % number)))
        machine.commit()
    return machine, disk, log


def test_the_index_of_a_full_segment_file_is_written_once_where_turns_are_synced() -> None:
    machine, disk, log = twenty_turns(sync=True)
    log.retain(NOW_MS)
    machine.store.append_partition(log, bytearray(batch(b"last")))
    machine.commit()
    assert len(disk.puts) == len({*disk.puts}) > 3
    machine.lose_power(0)
    disk.puts.clear()
    machine.store.note_end("topic-0", 21)
    log = machine.store.open_partition("topic-0", "segment", SMALL_FILES)
    assert log.end_offset == 21 and not disk.puts, "it is believed after a loss of power"


def test_the_index_of_a_full_segment_file_that_is_synced_by_and_by_is_written_once() -> None:
    machine, disk, log = twenty_turns(sync=False)
    # Retention sees them twice: the oldest go with each commit.
    for number in range(20, 40):
        log.retain(NOW_MS)
        log.retain(NOW_MS)
        machine.store.append_partition(log, bytearray(batch(b"%d" % number)))
        machine.commit()
    assert isinstance(log, SegmentPartition)
    synced = [file for file in log.files if file.synced]
    assert len(synced) > 5 and len(disk.puts) == len({*disk.puts})
    for file in synced:
        # As after a loss of power that kept what it need not.
        disk.boots += 1
        head = read_head(disk, file, file.size)
        assert head is not None and head.synced and read_rows(disk, file, head) is not None


def test_what_a_killed_process_has_written_is_synced_before_anything_stands_on_it() -> None:
    machine = Machine(StoreSettings(sync=False))
    machine.publish(b"a", b"1", source=9, sequence=1)
    machine.commit()
    machine.open()
    assert machine.publish(b"a", b"again", source=9, sequence=1) == -1, "it is in the log"
    machine.commit(sync=True)
    machine.lose_power(0)
    assert machine.values(b"a") == [b"1"], "it was confirmed then"


def test_recovery_knows_that_nobody_may_have_synced_the_log(tmp_path: Path) -> None:
    def shard_log(disk: RealDisk) -> ShardLog:
        log = ShardLog(f"{tmp_path}/log", disk, 1 << 20, 1 << 20, lambda at, length: None)
        log.recover(0, lambda *entry: None)
        return log

    disk = RealDisk()
    log = shard_log(disk)
    log.append(DECLARED_MARKER, b"x", 0, 0, NOW_MS)
    ((path, buffers),) = log.take_pending()
    disk.append(path, buffers)
    disk.close()
    disk = RealDisk()
    shard_log(disk)
    assert disk.is_unsynced(path)
    disk.close()


def ahead(before: Callable[[Machine], object], behind: Callable[[Machine], object]) -> Machine:
    """A shard that loses power: of what happens `behind` a sync the key-value store keeps all, and
    the log nothing."""
    machine = Machine()
    before(machine)
    machine.commit(sync=True)
    behind(machine)
    machine.commit()
    machine.lose_power(0, 1)
    return machine


def check_new_records(machine: Machine, topic: bytes, first_offset: int) -> None:
    """What is acknowledged now is there, over restarts, and not below this offset."""
    machine.publish(topic, b"new")
    machine.commit(sync=True)
    for _ in range(2):
        light = machine.store.light
        assert light.end_offset(topic) == first_offset + 1
        found = light.read(topic, first_offset, 1_000)
        assert not (found.error or found.out_of_range)
        assert values_of(b"".join(map(bytes, found.buffers)), first_offset) == [b"new"]
        machine.open()


def trimmed(machine: Machine, topic: bytes) -> None:
    """All records that a topic has, and two more, are deleted."""
    machine.publish(topic, b"1", b"2")
    machine.store.light.trim(topic, machine.store.light.end_offset(topic), NOW_MS)


@pytest.mark.parametrize("topic", [b"there before", b"new"])
def test_records_behind_a_start_that_alone_survives_are_not_taken_for_deleted(topic: bytes) -> None:
    machine = ahead(
        lambda machine: machine.publish(b"there before", b"0"),
        lambda machine: trimmed(machine, topic),
    )
    check_new_records(machine, topic, 3 if topic == b"there before" else 2)


def test_a_shard_of_which_only_look_ups_survive_goes_on() -> None:
    machine = Machine()
    trimmed(machine, b"a")
    machine.commit()
    for path in list(machine.disk.files):
        machine.disk.remove(path)
    machine.lose_power(0, 1)
    check_new_records(machine, b"a", 2)


def test_records_behind_a_deletion_that_alone_survives_are_not_of_the_deleted_topic() -> None:
    """The cleaning of the log lets go what is, and so does who makes its index again."""

    def behind(machine: Machine) -> None:
        machine.publish(b"other", b"x" * 500)
        machine.store.light.delete(b"a", NOW_MS)

    machine = ahead(lambda machine: machine.publish(b"a", b"0"), behind)
    machine.publish(b"a", b"new")
    machine.commit(sync=True)
    machine.store.checkpoint([])
    machine.committer.kick()
    for path in [path for path in machine.disk.files if "/index-" in path]:
        machine.disk.remove(path)
    machine.open()
    light = machine.store.light
    found = light.read(b"a", light.start_offset(b"a"), 1_000)
    values = values_of(b"".join(map(bytes, found.buffers)), light.start_offset(b"a"))
    assert values[-1] == b"new"


@pytest.mark.parametrize("ended", [True, False])
def test_what_alone_survives_of_producers_is_not_told_of_records_that_come_next(
    ended: bool,
) -> None:
    """Whose transaction was aborted, or which sequence numbers there were."""

    def behind(machine: Machine) -> None:
        machine.publish(b"a", b"1", b"2")
        if ended:
            machine.store.producers.add_aborted(light_key(b"a"), Aborted(7, 1, 2, 3))
        else:
            snapshot = msgspec.msgpack.encode([1, 3, []])
            machine.store.producers.save(light_key(b"a"), snapshot)

    machine = ahead(lambda machine: machine.publish(b"a", b"0"), behind)
    check_new_records(machine, b"a", 3)
