"""Hashes, filter trie and topic index."""

from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robustmq.core import batches, blocks, hashing
from robustmq.core.filters import FilterTrie
from robustmq.core.hash_table import HashTable
from robustmq.core.hashing import topic_key
from robustmq.core.topic_index import NO_POSITION, PARTS, TopicIndex
from robustmq.errors import BrokerError
from robustmq.records import Record
from tests.core.tables import by_topic


def test_hashes_are_those_of_the_data_directories_that_exist() -> None:
    assert hashing.topic_hash(b"abc", 0) == 0x8887386F6840DAE4
    assert hashing.topic_hash(b"", 0) == hashing.mix(b"", 0)
    assert hashing.topic_hash(b"abc", 1) != hashing.topic_hash(b"abc", 0)
    assert hashing.key_hash(b"session", b"a") != hashing.key_hash(b"group", b"a")


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        (b"21", -973932308),
        (b"foobar", -790332482),
        (b"a-little-bit-long-string", -985981536),
        (b"abc", 479470107),
    ],
)
def test_murmur2_is_kafkas(key: bytes, expected: int) -> None:
    assert hashing.murmur2(key) == expected & 0x7FFFFFFF


def test_crc32c_is_castagnolis() -> None:
    assert hashing.crc32c(b"x123456789y", 1, 10) == 0xE3069283
    assert hashing.crc32c(bytearray(32), 0, 32) == 0x8A9136AA


def _matches(filter_: bytes, topic: bytes) -> bool:
    """The rule of section 4.7, level by level."""
    if topic[:1] == b"$" and filter_[:1] in (b"+", b"#"):
        return False
    wanted, levels = filter_.split(b"/"), topic.split(b"/")
    for index, level in enumerate(wanted):
        if level == b"#":
            return True
        if index >= len(levels) or (level != b"+" and level != levels[index]):
            return False
    return len(wanted) == len(levels)


_level = st.sampled_from([b"a", b"b", b"", b"$s"])
_topics = st.lists(_level, min_size=1, max_size=4).map(b"/".join).filter(bool)
_filters = st.tuples(
    st.lists(st.one_of(_level, st.just(b"+")), max_size=3), st.sampled_from([b"#", b"+", b"a"])
).map(lambda pair: b"/".join([*pair[0], pair[1]]))


@settings(derandomize=True, max_examples=300, deadline=None)
@given(st.lists(_filters, max_size=12), st.lists(_topics, max_size=8), st.data())
def test_the_trie_matches_as_the_rule_says_also_after_removals(
    filters: list[bytes], topics: list[bytes], data: st.DataObject
) -> None:
    trie = FilterTrie()
    present = list(enumerate(filters))
    for number, filter_ in present:
        trie.insert(filter_, number)
    for _ in range(data.draw(st.integers(0, len(present)))):
        number, filter_ = present.pop(data.draw(st.integers(0, len(present) - 1)))
        assert trie.remove(filter_, number)
        assert not trie.remove(filter_, number)
    assert len(trie) == len(present)
    for topic in topics:
        assert sorted(trie.match(topic)) == [n for n, f in present if _matches(f, topic)]  # type: ignore[type-var]
    for number, filter_ in present:
        trie.remove(filter_, number)
    assert not trie.root.children and trie.root.plus is None and not trie.exact


def _block(topics: list[int], counts: list[int]) -> bytearray:
    builder = blocks.BlockBuilder(0, False)
    for topic, count in zip(topics, counts, strict=True):
        batch = batches.build([Record(None, b"v")] * count, 5)
        builder.append_entry(blocks.build_entry(b"t/%d" % topic, b"", 0, 0, 1, 0, batch))
    block = builder.take()
    return bytearray() if block is None else block


@settings(derandomize=True, max_examples=60, deadline=None)
@given(
    st.lists(st.tuples(st.integers(0, 400), st.integers(1, 3)), max_size=300),
    st.sets(st.integers(0, 400)),
)
def test_the_index_keeps_dense_offsets_and_chains(
    pairs: list[tuple[int, int]], removed: set[int]
) -> None:
    index = TopicIndex()
    block = _block([topic for topic, _ in pairs], [count for _, count in pairs])
    new: list[bytes] = []
    index.assign(block, 1000, 3, new)
    model: dict[bytes, tuple[int, int]] = {}
    for entry, (_, count) in zip(blocks.entries(block), pairs, strict=True):
        offset, position = model.get(entry.topic, (0, NO_POSITION))
        info = batches.validate(block, entry.batch_begin, entry.end)
        assert (entry.base_offset, entry.previous) == (offset, position)
        assert (info.base_offset, info.leader_epoch, info.crc_ok) == (offset, 3, True)
        model[entry.topic] = offset + count, 1000 + entry.begin
    assert sorted(new) == sorted(model)
    replayed, loaded = TopicIndex(), TopicIndex()
    replayed.replay(block, 0, len(block), 1000)
    loaded.load(index.dump())
    for topic in removed:
        assert index.remove(b"t/%d" % topic) == (b"t/%d" % topic in model)
    for name, expected in model.items():
        assert replayed.lookup(name) == loaded.lookup(name) == expected
        assert index.lookup(name) == (None if int(name[2:]) in removed else expected)
    assert len(loaded) == len(model)


@settings(derandomize=True, max_examples=60, deadline=None)
@given(
    st.lists(st.integers(0, 400), max_size=300),
    st.lists(
        st.tuples(
            st.sampled_from(["append", "set", "remove", "replay", "dump"]), st.integers(0, 400)
        ),
        max_size=120,
    ),
)
def test_a_dump_in_slices_is_of_the_moment_it_was_begun(
    before: list[int], changes: list[tuple[str, int]]
) -> None:
    index = TopicIndex()
    index.assign(_block(before, [1] * len(before)), 1000, 3, [])
    expected = {name: index.lookup(name) for name in (b"t/%d" % topic for topic in range(401))}
    sliced = [index.begin_dump()]
    for number, (what, topic) in enumerate(changes):
        name = b"t/%d" % topic
        if what == "append":
            index.assign(_block([topic, topic], [1, 2]), 50_000 + number * 1000, 4, [])
        elif what == "set":
            index.set(name, number)
        elif what == "remove":
            index.remove(name)
        elif what == "replay":
            index.replay(block := _block([topic], [3]), 0, len(block), 90_000 + number)
        elif len(sliced) <= PARTS:
            sliced.append(index.dump_part(len(sliced) - 1))
    sliced += [index.dump_part(part) for part in range(len(sliced) - 1, PARTS)]
    assert index.kept_slots() == 0, "what is written is kept no longer"
    index.end_dump()
    loaded, later = TopicIndex(), TopicIndex()
    loaded.load(b"".join(sliced))
    later.load(index.dump())
    for name, found in expected.items():
        assert loaded.lookup(name) == found
        assert later.lookup(name) == index.lookup(name), "and the next one is of its own moment"
    assert len(loaded) == len(set(before))


def test_a_checkpoint_that_is_cut_short_is_refused() -> None:
    index = TopicIndex()
    index.set(b"a", 7)
    assert index.lookup(b"a") == (7, NO_POSITION)
    with pytest.raises(BrokerError):
        TopicIndex().load(index.dump()[:-1])


def test_a_block_is_split_by_who_wants_its_topics() -> None:
    block = _block([1, 2, 1], [1, 1, 1])
    masks = by_topic({b"t/1": 1})

    def resolve(topic: bytes) -> int:
        masks.put(topic_key(topic), 6)
        return 6

    assert blocks.split(block, masks, resolve) == (7, False, 0)
    assert [e.topic for e in blocks.entries(blocks.select(block, masks, 4))] == [b"t/2"]
    assert blocks.select(memoryview(block), by_topic(), 1) == block
    with pytest.raises(BrokerError):
        blocks.entries(block[:-1])


@given(st.lists(st.tuples(st.integers(1, 40), st.integers(0, 9)), max_size=200))
def test_a_hash_table_is_a_dictionary_until_it_is_full(puts: list[tuple[int, int]]) -> None:
    table = HashTable(20)
    model: dict[int, int] = {}
    for small, value in puts:
        # Keys that meet in the same slots.
        key = small * 64
        if (key not in model and len(model) == 20) or len(table) == 20:
            model.clear()
        table.put(key, value)
        model[key] = value
        assert len(table) == len(model)
        assert all(table.find(one * 64) == model.get(one * 64) for one in range(1, 41))
    table.clear()
    assert len(table) == 0 and table.find(64) is None
