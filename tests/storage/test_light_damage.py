"""A bit flipped in a light topic's batch that lies in the log: its reader hears of it, what lies
before it and behind it is read, other topics are whole, and nothing hangs."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from robustmq.core import batches, blocks
from robustmq.core.blocks import ENTRY_HEADER, NO_POSITION, build_entry
from robustmq.errors import Fault
from robustmq.storage.engine import ReadResult
from robustmq.storage.light_topics import PREVIOUS_AT, LightTopics
from robustmq.storage.shard_log import HEAD
from robustmq.storage.shard_store import StoreSettings
from tests.storage.stores import NOW_MS, Machine, batch

COUNT = 12
LOST = 6


def read(light: LightTopics, topic: bytes, offset: int, max_bytes: int) -> ReadResult:
    """Read, and again when what the reader has missed was looked for."""
    result = light.read(topic, offset, max_bytes)
    if result.error != Fault.STORAGE_FAILED.kafka:
        return result
    while (search := light.next_search()) is not None:
        while not search.over:
            search.step()
        light.mended(search)
    return light.read(topic, offset, max_bytes)


def read_over(machine: Machine, topic: bytes) -> tuple[dict[int, bytes], set[int]]:
    """Values by offset, and the offsets that cannot be read, each asked for by itself."""
    values: dict[int, bytes] = {}
    errors: set[int] = set()
    for offset in range(machine.store.light.high_watermark(topic)):
        result = read(machine.store.light, topic, offset, 1)
        if result.error:
            assert result.error == Fault.CORRUPT_RECORD.kafka
            errors.add(offset)
            continue
        data = b"".join(map(bytes, result.buffers))
        for begin, info in batches.headers(data, 0, len(data), True):
            assert info.crc_ok, "no reader gets what is damaged"
            for place, one in enumerate(batches.parse(data, begin, begin + info.length)):
                values[info.base_offset + place] = one.value or b""
    return values, errors


@given(byte=st.integers(0, 10_000), bit=st.integers(0, 7), checkpoint=st.booleans())
def test_damage_in_a_light_topic_is_told_and_all_else_is_read(
    byte: int, bit: int, checkpoint: bool
) -> None:
    machine = Machine(StoreSettings(hot_bytes=1))
    for number in range(COUNT):
        machine.publish(b"hit", b"%d" % number)
        machine.publish(b"other", b"%d" % number)
        machine.commit()
    if checkpoint:
        # Then recovery does not look at what lies before.
        machine.store.checkpoint([])
        machine.committer.kick()
    (path,) = [name for name in machine.disk.files if "/log/" in name]
    file = machine.disk.files[path]
    # Between the third and the last but third batch of the topic.
    begin, stop = len(file) // 4, len(file) * 3 // 4
    file[begin + byte % (stop - begin)] ^= 1 << bit
    machine.open()
    for topic in (b"hit", b"other"):
        values, errors = read_over(machine, topic)
        assert all(value == b"%d" % offset for offset, value in values.items())
        assert set(values) | errors == set(range(COUNT)), topic
        assert COUNT - 1 in values, "what lies behind it is read"
        assert len(errors) <= 1, "and what lies before it"
        assert checkpoint or not errors or machine.heard.corrupt


@pytest.mark.parametrize("checkpoint", [False, True])
@pytest.mark.parametrize("together", [1, 2])
def test_whatever_byte_of_an_entry_is_damaged_its_batch_alone_is_lost(
    together: int, checkpoint: bool
) -> None:
    """Also that which says where the batch before it is; recovery finds it behind a checkpoint, and
    before that the first reader does."""
    topics = (b"hit", b"other")[:together]
    step = 0
    while step >= 0:
        machine = Machine(StoreSettings(hot_bytes=1))
        begins = []
        for number in range(COUNT):
            begins.append(machine.store.log.end_position)
            for topic in topics:
                machine.publish(topic, b"%d" % number)
            machine.commit()
        if checkpoint:
            machine.store.checkpoint([])
            machine.committer.kick()
        (path,) = [name for name in machine.disk.files if "/log/" in name]
        machine.disk.files[path][begins[LOST] + step] ^= 1 << step % 8
        machine.open()
        for topic in topics:
            values, errors = read_over(machine, topic)
            assert set(values) | errors == set(range(COUNT))
            assert errors <= {LOST}, f"byte {step} of the entry"
        step = step + 1 if begins[LOST] + step + 1 < begins[LOST + 1] else -1


def two_topics() -> tuple[Machine, list[int]]:
    """Small files with the batches of two topics in turn; where those of the one stand."""
    machine = Machine(StoreSettings(segment_bytes=1_000, hot_bytes=1))
    places = []
    for number in range(COUNT):
        places.append(machine.publish(b"hit", b"%d" % number) + HEAD.size)
        machine.publish(b"other", b"%d" % number)
        machine.commit()
    return machine, places


@pytest.mark.parametrize("leads_to", ["a gap", "an older batch", "none", "itself", "behind it"])
def test_where_a_damaged_entry_leads_to_is_not_believed(leads_to: str) -> None:
    """It read as the beginning of its topic, or skipped what lies between."""
    machine, places = two_topics()
    machine.store.checkpoint([])
    machine.committer.kick()
    files = machine.store.log.files
    gone = files.files[0]
    machine.store.let_go([gone], None)
    first = next(number for number, place in enumerate(places) if place >= gone.end)
    assert 0 < first < LOST - 2
    wrong = {
        "a gap": places[0],
        "an older batch": places[LOST - 3],
        "none": NO_POSITION,
        "itself": places[LOST],
        "behind it": places[LOST + 1],
    }
    file = files.files[files.find(places[LOST])]
    lead = places[LOST] - file.start + PREVIOUS_AT
    machine.disk.files[file.path][lead : lead + 8] = wrong[leads_to].to_bytes(8, "little")
    for _ in range(2):
        machine.open()
        light = machine.store.light
        for offset in reversed(range(COUNT)):
            result = read(light, b"hit", offset, 1)
            assert not result.error
            assert result.out_of_range == (offset < first)
            if offset >= first:
                (found,) = batches.parse(bytes(result.buffers[0]))
                assert found.value == b"%d" % offset
        assert light.start_offset(b"hit") == first
        assert light.held(b"hit", 100, 10_000)[1] == first


def test_what_lies_before_a_lost_batch_and_skipped_offsets_is_read() -> None:
    machine = Machine(StoreSettings(hot_bytes=1))
    for number in range(3):
        lost = machine.publish(b"hit", b"%d" % number)
        machine.commit()
    machine.store.light.place(b"hit", 50)
    machine.publish(b"hit", b"50")
    machine.commit()
    (path,) = [name for name in machine.disk.files if "/log/" in name]
    machine.disk.files[path][lost + 100] ^= 1
    machine.open()
    assert machine.heard.corrupt
    light = machine.store.light
    for known in (False, True):
        for offset in (0, 1, 50):
            if not known:
                light.let_go()
            result = light.read(b"hit", offset, 1)
            assert not result.error and not result.out_of_range
            (found,) = batches.parse(bytes(result.buffers[0]))
            assert found.value == b"%d" % offset


def test_a_damaged_index_file_makes_no_batch_of_the_log_a_lost_one() -> None:
    """A reader used to be led over the batch at the checkpoint, from it to itself without an
    end."""
    machine = Machine(StoreSettings(hot_bytes=1))
    for number in range(COUNT // 2):
        machine.publish(b"hit", b"%d" % number)
        machine.commit()
    machine.store.checkpoint([])
    machine.committer.kick()
    for number in range(COUNT // 2, COUNT):
        machine.publish(b"hit", b"%d" % number)
        machine.commit()
    for name in [one for one in machine.disk.files if "/index-" in one]:
        machine.disk.files[name][-1] ^= 1
    for _ in range(2):
        machine.open()
        assert machine.heard.corrupt
        assert read_over(machine, b"hit") == ({n: b"%d" % n for n in range(COUNT)}, set())
        assert machine.store.light.held(b"hit", 100, 10_000)[1] == 0


def test_what_leads_from_a_batch_to_itself_leads_nowhere() -> None:
    machine = Machine(StoreSettings(hot_bytes=1))
    for number in range(3):
        machine.publish(b"hit", b"%d" % number)
        machine.commit()
    found = machine.store.light._index.lookup(b"hit")
    assert found is not None
    reader = machine.store.light._reader
    for lead in (found[1], found[1] + 1):
        reader.bridges[found[1]] = (3, lead)
        assert list(reader.newer_bytes(b"hit", 10_000)) == []
        assert reader.held(b"hit", 0, 100, 10_000) == (0, 0)
        assert read_over(machine, b"hit") == ({0: b"0", 1: b"1"}, {2}), "what is before is found"
        machine.store.light.let_go()


LAST = COUNT - 1
SMALL, LARGE = 5, 3_000
"""Of a value; an entry with the larger one is not read by one read."""


class Broken:
    """The last batches of two topics, in a log that recovery does not look at again."""

    def __init__(self, size: int = SMALL) -> None:
        self.machine = Machine(StoreSettings(hot_bytes=1))
        self.value = bytes(range(65, 90)) * (size // 25 + 1)
        for _ in range(COUNT):
            for topic in (b"other", b"hit"):
                self.machine.publish(topic, self.value)
                self.machine.commit()
        self.machine.store.checkpoint([])
        self.machine.committer.kick()
        self.machine.open()
        (path,) = [name for name in self.machine.disk.files if "/log/" in name]
        self.file = self.machine.disk.files[path]
        self.sound = bytes(self.file)
        self.end = len(self.file)
        """Of the last block entry, of topic `hit`, and of the file."""
        found = self.machine.store.light._index.lookup(b"hit")
        assert found is not None and found[0] == COUNT
        self.begin = found[1]

    def read(self, offset: int = LAST, topic: bytes = b"hit", known: bool = False) -> bool:
        """Is the record of an offset read, rather than said to be damaged? `known`: by a chain
        that was walked before."""
        light = self.machine.store.light
        if not known:
            light.let_go()
        result = read(light, topic, offset, 10_000)
        assert not result.out_of_range
        if result.error:
            assert result.error == Fault.CORRUPT_RECORD.kafka and not result.buffers
            return False
        data = bytes(result.buffers[0])
        info = batches.validate(data, 0, len(data))
        assert info.crc_ok and info.base_offset == offset
        assert [one.value for one in batches.parse(data)] == [self.value]
        return True

    def mend(self) -> None:
        self.file[:] = self.sound


@pytest.mark.parametrize("size", [SMALL, LARGE])
def test_a_bit_of_the_last_entry_that_is_flipped_is_told_or_changes_nothing(size: int) -> None:
    broken = Broken(size)
    batch = broken.begin + ENTRY_HEADER + len(b"hit")
    assert broken.read() and broken.read(known=True)
    # All of the head and of the batch's, and some of the records.
    heads = range(broken.begin, batch + batches.HEADER_SIZE)
    damaged = set()
    for at in [*heads, *range(heads.stop, broken.end, size // 20 + 1)]:
        for bit in range(8):
            broken.file[at] ^= 1 << bit
            fresh, known = broken.read(), broken.read(known=True)
            assert broken.read(topic=b"other"), "of another topic nothing is damaged"
            if not (fresh and known):
                damaged.add(at - broken.begin)
            broken.mend()
    covered = {at - broken.begin for at in [*range(batch + 16, heads.stop)]}
    assert damaged >= covered | {*range(4), *range(40, 48), batch - broken.begin}
    name = set(range(ENTRY_HEADER, ENTRY_HEADER + 3))
    assert not damaged & name, "what a batch's own bytes say is read by its key"


@pytest.mark.parametrize("last", [True, False])
@pytest.mark.parametrize(
    "length", [*range(0, 140, 3), 1, 5, 15, 16, 47, 48, 1 << 29, (1 << 32) - 1]
)
def test_an_entry_that_says_a_wrong_length_is_damaged_and_nothing_else(
    length: int, last: bool
) -> None:
    """A length below 16 used to have bytes read that lay behind the buffer."""
    broken = Broken()
    offset, begin = LAST, broken.begin
    if not last:
        head = broken.file[begin : begin + ENTRY_HEADER]
        offset, begin = LAST - 1, int.from_bytes(head[24:32], "little")
    if length == int.from_bytes(broken.file[begin : begin + 4], "little"):
        length += 1
    broken.file[begin : begin + 4] = length.to_bytes(4, "little")
    for known in (False, True):
        assert not broken.read(offset, known=known)
    for other in range(COUNT):
        assert broken.read(other) == (other != offset)


def test_a_file_that_is_cut_short_has_its_last_batch_damaged() -> None:
    for size in (SMALL, LARGE):
        broken = Broken(size)
        for end in [*range(broken.begin, broken.end, size // 50 + 1), broken.end - 1]:
            del broken.file[end:]
            assert not broken.read() and not broken.read(known=True)
            assert broken.read(topic=b"other")
            broken.mend()


def test_the_entry_of_another_topic_at_a_topics_place_is_not_given_out() -> None:
    broken = Broken()
    found = broken.machine.store.light._index.lookup(b"other")
    assert found is not None
    entry = blocks.entry_bytes(broken.sound, found[1])
    broken.file[broken.begin : broken.begin + len(entry)] = entry
    assert not broken.read() and not broken.read(known=True)


@pytest.mark.parametrize("size", [SMALL, LARGE])
def test_a_last_batch_that_was_damaged_in_memory_is_told(size: int) -> None:
    machine = Machine(StoreSettings(hot_bytes=1 << 20))
    machine.publish(b"hit", b"0")
    machine.publish(b"hit", b"v" * size)
    machine.commit()
    found = machine.store.light._index.lookup(b"hit")
    assert found is not None
    piece = machine.store.log.piece(found[1])
    assert piece is not None and isinstance(piece[0], bytearray)
    assert machine.store.light.read(b"hit", 1, 100).buffers
    piece[0][-3] ^= 1
    assert machine.store.light._reader._last_batch(b"hit", found[1], 1) is None


def test_what_leads_over_damage_is_forgotten_with_it() -> None:
    """Offsets of a lost batch were said to be damaged when all around them was gone long since."""
    machine, places = two_topics()
    files = machine.store.log.files
    second = files.files[1]
    hit = max(number for number, place in enumerate(places) if place < second.end)
    begin = places[hit] - second.start
    machine.disk.files[second.path][begin : begin + ENTRY_HEADER] = bytes(ENTRY_HEADER)
    machine.open()
    assert machine.heard.corrupt and bridges_of(machine) == [places[hit]]
    for _ in range(2):
        light, files = machine.store.light, machine.store.log.files
        for offset in range(COUNT):
            result = light.read(b"hit", offset, 1)
            assert result.out_of_range == (places[offset] < files.files[0].start)
            assert result.error == (Fault.CORRUPT_RECORD.kafka if offset == hit else 0)
        machine.store.let_go(files.files[:1], None)
    machine.commit()
    assert files.files[0].start > places[hit]
    for _ in range(2):
        for offset in range(COUNT):
            result = machine.store.light.read(b"hit", offset, 1)
            assert not result.error and result.out_of_range == (offset <= hit)
        assert machine.store.light.start_offset(b"hit") == hit + 1
        assert bridges_of(machine) == []
        # As when the broker was killed before that was known to LevelDB.
        machine.kv.write([(b"h" + places[hit].to_bytes(8, "big"), bytes(16))], True)
        machine.open()


LOOKS_TORN = range(4)
"""Of the head of the last log entry: how long it is."""
IS_BLOCK = range(8, 12)
"""In it: that it is a block, without which nobody knows of a new topic there."""
WHOSE = {*range(4), 6, 7, 14, 15, *range(32, 48)}
"""Of a block entry: where it ends, its offset, its topic; and the name of that."""


@pytest.mark.parametrize("known", [True, False])
@pytest.mark.parametrize("together", [1, 2])
def test_a_turn_that_is_damaged_at_the_end_costs_one_batch_and_no_offset(
    together: int, known: bool
) -> None:
    """What a turn brought is one entry of the log: one bit of it made all of it be lost, and the
    next records got its offsets."""
    topics = (b"hit", b"other", b"third")[:together]
    count = COUNT if known else 1
    step, size = 0, 1
    while step < size:
        machine = Machine(StoreSettings(segment_bytes=1 << 20, hot_bytes=1))
        for number in range(count):
            last = machine.store.log.end_position
            block = bytearray()
            for topic in topics:
                block += build_entry(topic, b"", 0, 1, 7, 0, batch(b"%d" % number, b"more"))
            machine.store.append_block(block, 0, 0, NOW_MS)
            machine.commit()
        begins = {entry.topic: entry.begin + HEAD.size for entry in blocks.entries(block)}
        (path,) = [name for name in machine.disk.files if "/log/" in name]
        file = machine.disk.files[path]
        size = len(file) - last
        file[last + step] ^= 1 << step % 8
        machine.open()
        hit = 0
        for topic in topics:
            name = range(ENTRY_HEADER, ENTRY_HEADER + len(topic))
            if step in LOOKS_TORN or step - begins[topic] in {*WHOSE, *name}:
                continue
            if step in IS_BLOCK and not known:
                continue
            assert machine.store.light.end_offset(topic) >= 2 * count, f"{topic!r} {step}"
            for offset in range(2 * count):
                result = machine.store.light.read(topic, offset, 1)
                if result.error:
                    assert result.error == Fault.CORRUPT_RECORD.kafka, "nothing is to be looked for"
                    assert offset >= 2 * count - 2, "all before it is read"
                    hit += offset % 2
                    continue
                rows = batches.parse(bytes(result.buffers[0]))
                assert [row.value for row in rows] == [b"%d" % (offset // 2), b"more"]
        assert hit <= 1
        step += 1


def bridges_of(machine: Machine) -> list[int]:
    """The positions of lost batches that LevelDB has."""
    machine.commit()
    return [int.from_bytes(key[1:], "big") for key, _ in machine.kv.range(b"h", b"i")]
