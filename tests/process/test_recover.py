"""What recovery finds in an object store, and when it must not be."""

from __future__ import annotations

from pathlib import Path

import pytest

from robustmq.process.recover import (
    Found,
    RecoverError,
    check,
    choose_cluster,
    look,
    report,
    topics_of,
)
from robustmq.storage.cluster_mark import ALIVE_MS, Mark, read_mark, write_mark
from robustmq.storage.cold_segments import ColdSegment
from robustmq.storage.disk import MemoryDisk
from robustmq.storage.manifest import (
    INDEX,
    LOG,
    FencedError,
    Head,
    Manifest,
    TopicInfo,
    object_name,
    prefix_of,
)
from tests.storage.memory_objects import MemoryObjects

NOW_MS = 1_700_000_000_000


def partition(
    store: MemoryObjects, topic: TopicInfo, number: int, epoch: int, segments: int = 2
) -> Manifest:
    """A partition with segments of ten records and a hundred bytes."""
    prefix = prefix_of("c", topic.topic_id, number)
    manifest = Manifest(store, prefix, Head("c", topic, number, epoch))
    manifest.load()
    manifest.describe(topic)
    for base in range(0, 10 * segments, 10):
        name = prefix + object_name(base, epoch)
        store.put(name + LOG, [bytes(100)])
        store.put(name + INDEX, [b"x"])
        manifest.add(ColdSegment(base, base + 10, 100, 5, epoch))
    return manifest


def two_topics() -> MemoryObjects:
    store = MemoryObjects(MemoryDisk())
    a = TopicInfo(b"a", b"a" * 16, 2, {"retention.ms": "7"}, 3)
    partition(store, a, 1, 4)
    partition(store, TopicInfo(b"b", b"b" * 16, 1), 0, 2, 1)
    write_mark(store, Mark("c", 8, 4, NOW_MS), "")
    return store


def test_topics_are_found_with_all_their_partitions() -> None:
    found = look(two_topics(), "c")
    topics = topics_of(found)
    assert found.mark.shards == 8
    assert {name: topic.partitions for name, topic in topics.items()} == {b"a": 2, b"b": 1}
    assert topics[b"a"].configs == {"retention.ms": "7"}
    lines = report(found, topics)
    assert "  0: nothing was uploaded, it begins at 0" in lines
    assert "  1: offsets 0 to 20, 2 segments" in lines
    assert not any("MISSING" in line for line in lines)


def test_a_segment_that_is_gone_is_told() -> None:
    store = two_topics()
    store.delete([prefix_of("c", b"a" * 16, 1) + object_name(10, 4) + LOG])
    found = look(store, "c")
    assert "  1: MISSING offsets 10 to 20" in report(found, topics_of(found))


def test_what_was_deleted_stays_so() -> None:
    store = two_topics()
    prefix = prefix_of("c", b"b" * 16, 0)
    buried = Manifest(store, prefix, Head("c", TopicInfo(b"b", b"b" * 16, 1), 0, 2))
    buried.load()
    store.plan = iter(["", "before"]).__next__
    with pytest.raises(Exception, match="on demand"):
        buried.bury()
    store.plan = lambda: ""
    found = look(store, "c")
    assert list(topics_of(found)) == [b"a"]
    assert any("was deleted" in note for note in found.notes)


def test_of_two_topics_with_one_name_the_later_owners_is_the_one() -> None:
    store = two_topics()
    partition(store, TopicInfo(b"b", b"c" * 16, 3), 0, 9)
    assert topics_of(look(store, "c"))[b"b"].topic_id.bytes == b"c" * 16


def test_a_cluster_is_named_where_there_are_several() -> None:
    store = two_topics()
    assert choose_cluster(store, "") == "c"
    store.put("d/cluster", [b"x"])
    assert choose_cluster(store, "d") == "d"
    for name in ("", "e"):
        with pytest.raises(RecoverError, match="c, d"):
            choose_cluster(store, name)


def test_a_cluster_that_may_live_is_not_recovered(tmp_path: Path) -> None:
    found = look(two_topics(), "c")
    fresh = tmp_path / "data"
    with pytest.raises(RecoverError, match="--take-over"):
        check(found, fresh, NOW_MS + ALIVE_MS - 1, False)
    check(found, fresh, NOW_MS + ALIVE_MS, False)
    check(found, fresh, NOW_MS, True)
    found.mark = Mark("c", 8, 4, NOW_MS, True)
    check(found, fresh, NOW_MS, False)
    fresh.mkdir()
    check(found, fresh, NOW_MS, False)
    (fresh / "file").touch()
    with pytest.raises(RecoverError, match="not empty"):
        check(found, fresh, NOW_MS, True)
    with pytest.raises(RecoverError, match="no partition"):
        check(Found(found.mark, ""), tmp_path / "other", NOW_MS, True)


def test_a_cluster_that_was_recovered_elsewhere_is_fenced() -> None:
    store = two_topics()
    mine = Mark("c", 8, 5, NOW_MS)
    version = write_mark(store, mine, "")
    version = write_mark(store, mine, version)
    write_mark(store, Mark("c", 8, 1 << 20, NOW_MS), "")
    for known in (version, ""):
        with pytest.raises(FencedError):
            write_mark(store, mine, known)
    assert read_mark(store, "c")[0].epoch == 1 << 20
