"""A shard over crashes: any prefix of its writes recovers to a prefix that holds all that was
committed."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robustmq.core.publish import build_entry
from robustmq.storage.data_directory import DataDirectoryError
from robustmq.storage.disk import Crash
from robustmq.storage.engine import PartitionSettings
from robustmq.storage.kv import MemoryKeyValue
from robustmq.storage.shard_store import DECLARED_MARKER, MACHINE, StoreSettings
from tests.storage.stores import NOW_MS, Machine, batch, values_of

TOPICS = [b"a", b"b/c", b"d"]
VALUE = build_entry(b"a", b"", 0, 3, 7, 0, batch(b"x"))


def machines() -> list[tuple[bytes, bytes, bytes]]:
    return [(b"kind", b"name", b"state")]


@settings(max_examples=150)
@given(
    turns=st.lists(
        st.tuples(
            st.lists(st.tuples(st.sampled_from(TOPICS), st.integers(1, 3)), max_size=6),
            st.booleans(),
        ),
        max_size=12,
    ),
    crash_after=st.integers(0, 3_000),
)
def test_any_prefix_of_the_writes_recovers_to_a_prefix_with_all_that_was_committed(
    turns: list[tuple[list[tuple[bytes, int]], bool]], crash_after: int
) -> None:
    machine = Machine()
    appended: dict[bytes, list[bytes]] = {topic: [] for topic in TOPICS}
    committed = dict.fromkeys(TOPICS, 0)
    machine.disk.crash_after = crash_after
    number = 0
    try:
        for publishes, checkpoint in turns:
            for topic, count in publishes:
                values = [b"%d" % (number := number + 1) for _ in range(count)]
                machine.publish(topic, *values)
                appended[topic] += values
            machine.commit()
            committed = {topic: len(values) for topic, values in appended.items()}
            if checkpoint:
                machine.store.checkpoint(machines())
                machine.committer.kick()
    except Crash:
        pass
    machine.disk.crash_after = None
    for _ in range(2):
        machine.open()
        for topic in TOPICS:
            values = machine.values(topic)
            assert values == appended[topic][: len(values)], "a prefix"
            assert len(values) >= committed[topic], "with all that was committed"
            assert machine.store.light.exists(topic) == bool(values)
    assert machine.heard.corrupt == []
    for topic in TOPICS:
        before = machine.values(topic)
        machine.publish(topic, b"new")
        machine.commit()
        assert machine.values(topic) == [*before, b"new"], "offsets go on"


def test_a_frame_that_is_sent_again_is_recognised_over_restarts_and_checkpoints() -> None:
    machine = Machine()
    for sequence in (1, 2, 3):
        assert machine.publish(b"a", b"%d" % sequence, source=9, sequence=sequence) >= 0
    machine.commit()
    machine.store.checkpoint([])
    machine.committer.kick()
    machine.publish(b"a", b"4", source=9, sequence=4)
    machine.commit()
    for _ in range(2):
        machine.open()
        for sequence in (1, 3, 4):
            assert machine.publish(b"a", b"again", source=9, sequence=sequence) == -1
    assert machine.publish(b"a", b"5", source=9, sequence=5) >= 0
    assert machine.publish(b"a", b"1", source=10, sequence=1) >= 0, "another life"


def test_a_frame_of_memory_mode_is_taken_once() -> None:
    machine = Machine()
    block = bytearray(build_entry(b"m", b"", 0, 33, 7, 0, batch(b"x")))
    assert machine.store.memory_append(block, 9, 1)
    assert not machine.store.memory_append(block, 9, 1)
    assert machine.store.light.high_watermark(b"m") == 1


def test_a_lost_or_damaged_index_is_made_again_from_the_log() -> None:
    for damage in ("lost", "flipped", "cut"):
        machine = Machine()
        for number in range(30):
            machine.publish(TOPICS[number % 3], b"%d" % number)
        machine.store.light.create(b"empty")
        machine.commit()
        machine.store.checkpoint(machines())
        machine.committer.kick()
        machine.publish(b"a", b"30")
        machine.commit()
        names = [path for path in machine.disk.files if "/index-" in path]
        assert len(names) == 2, "there are two of it"
        for name in names:
            if damage == "lost":
                del machine.disk.files[name]
            elif damage == "flipped":
                machine.disk.files[name][60] ^= 8
            else:
                del machine.disk.files[name][-9:]
        machine.open()
        assert machine.values(b"a") == [b"%d" % n for n in (*range(0, 30, 3), 30)], damage
        assert machine.values(b"d") == [b"%d" % n for n in range(2, 30, 3)]
        assert machine.store.light.exists(b"empty")
        assert machine.heard.corrupt and machine.heard.snapshots == machines()


def test_a_topic_that_was_deleted_stays_deleted() -> None:
    machine = Machine()
    machine.publish(b"a", b"1")
    machine.publish(b"d", b"1")
    machine.commit()
    machine.store.light.delete(b"a")
    machine.commit()
    machine.open()
    assert not machine.store.light.exists(b"a") and machine.store.light.topics(10) == [b"d"]
    machine.publish(b"a", b"2")
    machine.commit()
    assert machine.values(b"a") == [b"2"]


def test_recovery_begins_at_the_checkpoint_with_the_machines_of_then() -> None:
    machine = Machine()
    machine.store.append(MACHINE, b"before", 0, 0, NOW_MS)
    machine.store.checkpoint(machines())
    machine.committer.kick()
    machine.store.append(MACHINE, b"behind", 0, 0, NOW_MS)
    machine.commit()
    machine.store.append(MACHINE, b"never written", 0, 0, NOW_MS)
    machine.open()
    assert machine.heard.snapshots == machines()
    assert machine.heard.entries == [(MACHINE, b"behind")]


def test_retained_values_are_found_before_and_after_their_commit() -> None:
    machine = Machine()
    store = machine.store
    store.retained.set(b"a/1", VALUE)
    store.retained.set(b"a/2", VALUE)
    assert store.retained.get(b"a/1") == VALUE
    store.flush(False)
    store.retained.set(b"a/2", None)
    assert store.retained.match(b"a/+", b"", 10, 999) == ([(b"a/1", VALUE)], b"")
    machine.committer.kick()
    machine.commit()
    assert machine.open().retained.match(b"#", b"", 10, 999) == ([(b"a/1", VALUE)], b"")


def test_recovery_says_which_retained_messages_the_key_value_store_may_lack() -> None:
    machine = Machine()
    retained = bytearray(build_entry(b"a", b"", 0, 3, 7, 0, batch(b"x")))
    machine.store.append_block(retained, 0, 0, NOW_MS)
    machine.store.retained.set(b"a", VALUE)
    machine.commit()
    machine.open()
    assert machine.heard.entries == [(1, bytes(retained))], "it is told; fresh is False"


def test_records_of_a_partition_without_a_marker_are_cut() -> None:
    machine = Machine(StoreSettings())
    partition = PartitionSettings(segment_bytes=500)
    log = machine.store.open_partition("topic-0", "segment", partition)
    for number in range(5):
        machine.store.append_partition(log, bytearray(batch(b"%d" % number)))
    machine.store.append(DECLARED_MARKER, b"marks", 0, 0, NOW_MS)
    machine.commit()
    machine.store.checkpoint([])
    machine.committer.kick()
    machine.store.append_partition(log, bytearray(batch(b"5")))
    machine.store.append(DECLARED_MARKER, b"marks", 0, 0, NOW_MS)
    written = sum(map(len, machine.disk.files.values()))
    machine.disk.crash_after = len(batch(b"5"))
    try:
        machine.commit()
    except Crash:
        machine.disk.crash_after = None
    assert sum(map(len, machine.disk.files.values())) > written
    machine.open()
    log = machine.store.open_partition("topic-0", "segment", partition)
    assert log.end_offset == 5
    data = b"".join(map(bytes, log.read(0, 1).buffers))
    assert values_of(data, 0) == [b"0"]


def test_nothing_is_cut_from_a_partition_when_markers_may_be_lost() -> None:
    machine = Machine(StoreSettings())
    log = machine.store.open_partition("topic-0", "segment", PartitionSettings())
    machine.store.append_partition(log, bytearray(batch(b"kept")))
    machine.store.append(DECLARED_MARKER, b"marks", 0, 0, NOW_MS)
    machine.store.append(MACHINE, b"behind", 0, 0, NOW_MS)
    machine.commit()
    (name,) = [path for path in machine.disk.files if path.startswith("/0000/log/")]
    machine.disk.files[name][20] ^= 1
    machine.open()
    assert machine.heard.corrupt
    log = machine.store.open_partition("topic-0", "segment", PartitionSettings())
    assert log.end_offset == 1


def test_a_log_that_ends_before_its_checkpoint_is_reported_as_damage() -> None:
    machine = Machine()
    machine.publish(b"a", b"1")
    machine.commit()
    machine.store.checkpoint(machines())
    machine.committer.kick()
    for path in [path for path in machine.disk.files if "/log/" in path]:
        machine.disk.remove(path)
    machine.open()
    ((position, length),) = machine.heard.corrupt
    assert position == 0 and length == machine.store.end_position
    assert machine.publish(b"b", b"2") == length, "no position is used again"


def test_a_shard_without_its_key_value_store_is_refused_when_the_log_does_not_say_all() -> None:
    machine = Machine()
    machine.publish(b"a", b"1")
    machine.commit()
    machine.kv = MemoryKeyValue()
    machine.open()
    assert machine.values(b"a") == [b"1"], "the log has all"
    for number in range(60):
        machine.publish(b"a", b"%d" % number)
        machine.commit()
    first, *others = sorted(path for path in machine.disk.files if "/log/" in path)
    assert others
    machine.disk.remove(first)
    machine.kv = MemoryKeyValue()
    with pytest.raises(DataDirectoryError, match="restore the shard"):
        machine.open()


def test_a_file_of_another_name_beside_the_log_keeps_no_shard_from_opening() -> None:
    machine = Machine()
    machine.publish(b"t", b"one")
    machine.commit()
    for name in ("notes.log", "0123.log", "old.kept", "0-1.kept"):
        machine.disk.append(f"/0000/log/{name}", [b"an operator's own"])
    store = machine.open()
    assert store.light.high_watermark(b"t") == 1 and not machine.heard.corrupt
    assert len(store.log.files.files) == 1
