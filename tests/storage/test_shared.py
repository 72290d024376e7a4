"""The shared engine: partitions of declared topics in the shard's log."""

from __future__ import annotations

import uuid

from robustmq.core.blocks import ENTRY_HEADER
from robustmq.storage.engine import PartitionSettings
from robustmq.storage.light_topics import PREVIOUS_AT
from robustmq.storage.shared import SharedPartition
from tests.storage.stores import NOW_MS, Machine, batch, values_of

TOPIC = uuid.UUID(int=7)
SETTINGS = PartitionSettings()


def name(number: int, topic: uuid.UUID = TOPIC) -> str:
    return f"{topic.hex}-{number}"


def opened(
    machine: Machine, number: int = 0, settings: PartitionSettings = SETTINGS
) -> SharedPartition:
    log = machine.store.open_partition(name(number), "shared", settings)
    assert isinstance(log, SharedPartition)
    log.log_topic = b"orders"
    return log


def values(log: SharedPartition, offset: int | None = None) -> list[bytes]:
    offset = log.start_offset if offset is None else offset
    data = b"".join(map(bytes, log.read(offset, 1 << 20).buffers))
    return values_of(data, int.from_bytes(data[:8], "big")) if data else []


def test_a_thousand_partitions_are_one_file_and_one_write() -> None:
    machine = Machine()
    logs = [opened(machine, number) for number in range(1000)]
    for number, log in enumerate(logs):
        assert log.append(bytearray(batch(b"%d" % number)), 3) == 0
    files = len(machine.disk.files)
    machine.commit()
    assert not [path for path in machine.disk.files if "segments" in path], files
    assert values(logs[999]) == [b"999"] and machine.store.light.topics(10) == []
    assert len(machine.store.light) == 0, "no light topic was made"


def test_partitions_are_there_after_a_restart_with_and_without_a_checkpoint() -> None:
    machine = Machine()
    opened(machine, 1).append(bytearray(batch(b"a", b"b")), 3)
    machine.store.checkpoint([])
    machine.committer.kick()
    opened(machine, 2).append(bytearray(batch(b"c")), 3)
    opened(machine, 1).append(bytearray(batch(b"d")), 3)
    machine.commit()
    for _ in range(2):
        machine.open()
        assert values(opened(machine, 1)) == [b"a", b"b", b"d"]
        assert values(opened(machine, 2)) == [b"c"]
        assert sorted(machine.store.shared.of_topic(TOPIC.bytes)) == [1, 2]
        assert machine.store.shared.topic_ids() == [TOPIC.bytes]
        assert len(machine.store.light) == 0


def test_a_partition_and_a_light_topic_do_not_meet() -> None:
    machine = Machine()
    log = opened(machine)
    machine.publish(b"orders", b"light")
    log.append(bytearray(batch(b"shared")), 3)
    machine.publish(b"orders", b"light 2")
    machine.commit()
    assert machine.values(b"orders") == [b"light", b"light 2"]
    assert values(log) == [b"shared"]


def test_what_is_not_committed_is_read_by_who_asks_for_it() -> None:
    machine = Machine()
    log = opened(machine)
    log.append(bytearray(batch(b"a")), 3)
    assert log.read(0, 100).buffers == [] and log.high_watermark == 0
    assert len(log.read(0, 100, committed=False).buffers) == 1
    machine.commit()
    assert log.high_watermark == 1


def test_a_trim_and_a_deletion_last() -> None:
    machine = Machine()
    log = opened(machine)
    for number in range(4):
        log.append(bytearray(batch(b"%d" % number)), 3)
    log.trim(2)
    opened(machine, 9).append(bytearray(batch(b"gone")), 3)
    machine.store.drop_partition(opened(machine, 9))
    machine.commit()
    machine.open()
    log = opened(machine)
    assert (log.start_offset, log.end_offset, values(log)) == (2, 4, [b"2", b"3"])
    assert opened(machine, 9).end_offset == 0
    assert list(machine.store.shared.of_topic(TOPIC.bytes)) == [0]


def test_old_records_go_by_time_and_by_size() -> None:
    machine = Machine()
    log = opened(machine, settings=PartitionSettings(retention_ms=1000))
    for number in range(6):
        log.append(bytearray(batch(b"%d" % number, timestamp_ms=NOW_MS + 500 * number)), 3)
    machine.commit()
    assert log.retain(NOW_MS) == 0
    assert log.retain(NOW_MS + 2_001) > 0 and log.start_offset == 3
    size = log.size
    log.configure(PartitionSettings(retention_bytes=size // 2))
    assert log.retain(NOW_MS + 2_001) > 0 and log.start_offset == 4, "not less than that is kept"
    assert size // 2 <= log.size < size


def test_records_of_another_engine_keep_their_offsets_and_the_gaps_between() -> None:
    source = Machine()
    old = opened(source)
    for number in range(6):
        old.append(bytearray(batch(b"%d" % number)), 3)
    source.commit()
    found = old.read(0, 1 << 20).buffers
    machine = Machine()
    log = opened(machine)
    log.skip_to(1)
    for number in (1, 2, 5):
        log.restore(bytearray(found[number]))
    log.skip_to(9)
    machine.commit()
    for _ in range(2):
        assert (log.start_offset, log.end_offset) == (1, 9)
        assert int.from_bytes(bytes(log.read(3, 1).buffers[0])[:8], "big") == 5
        assert log.read(7, 1).buffers == []
        machine.open()
        log = opened(machine)
    assert log.append(bytearray(batch(b"next")), 3) == 9


def test_a_log_that_was_in_memory_does_not_use_an_offset_again() -> None:
    machine = Machine()
    machine.store.note_end(name(0), 12)
    log = opened(machine)
    assert (log.start_offset, log.end_offset) == (12, 12)
    assert log.append(bytearray(batch(b"a")), 3) == 12


def test_no_time_is_found_of_a_record_that_lies_before_the_beginning_and_a_gap() -> None:
    machine = Machine()
    log = opened(machine)
    log.append(bytearray(batch(b"a")), 3)
    log.skip_to(3)
    machine.commit()
    log.trim(2)
    assert log.offset_for_time(0) is None and log.offset_for_time(-3) is None


def test_a_damaged_batch_does_not_keep_a_partition_from_telling_its_size_and_its_end() -> None:
    machine = Machine()
    log = opened(machine)
    for number in range(9):
        log.append(bytearray(batch(b"%d" % number)), 3)
        machine.commit()
    machine.store.checkpoint([])
    machine.committer.kick()
    whole = log.size
    part = log.offset_of_tail(whole // 3)
    assert 0 < part < 8 and log.offset_of_tail(whole) == 0
    found = machine.store.light._index.lookup(log._name)
    assert found is not None
    # Of the last but one the key: neither it nor what lies before it is known at once.
    last = machine.store.log.read(found[1], ENTRY_HEADER)
    place = int.from_bytes(last[PREVIOUS_AT : PREVIOUS_AT + 8], "little") + 40
    files = machine.store.log.files
    file = files.files[files.find(place)]
    machine.disk.files[file.path][place - file.start] ^= 1
    machine.open()
    log = opened(machine)
    assert 0 < log.size < whole, "what cannot be counted counts nothing"
    assert log.offset_of_tail(whole // 3) == 0, "nothing is left out that may be there"
