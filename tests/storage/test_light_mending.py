"""What lies before a tear in a light topic's chain is looked for in the log: its newest batch, in
whatever file and wherever the pieces end that are read; nothing of another topic, of a deleted one
with its name, or that is damaged."""

from __future__ import annotations

import random

import pytest

from robustmq.errors import Fault
from robustmq.storage import light_mending
from robustmq.storage.light_mending import Found, Search, Tear
from robustmq.storage.shard_log import HEAD
from robustmq.storage.shard_store import StoreSettings
from tests.storage.stores import Machine
from tests.storage.test_cleaned_log import Log
from tests.storage.test_light_damage import read, read_over

TOPICS = (b"a", b"a/b", b"aa", b"other")


def torn(topic: bytes, position: int, offset: int) -> Tear:
    """Before the batch there nothing of the topic is known."""
    return Tear(topic, position, offset, 17)


class Written(Log):
    """The log of a shard with records of light topics, of which all is known."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.machine = Machine(StoreSettings(segment_bytes=3_000, hot_bytes=1))
        self.disk, self.log = self.machine.disk, self.machine.store.log
        self.rows: list[tuple[bytes, int, int]] = []
        """(topic, log position, offset) of all records, in order."""
        ends = dict.fromkeys(TOPICS, 0)
        for _ in range(120):
            topic = self.chance.choice(TOPICS)
            # A value that looks like a name is none.
            value = topic * self.chance.choice((1, 20, 150, 900))
            position = self.machine.publish(topic, value) + HEAD.size
            self.machine.commit()
            self.rows.append((topic, position, ends[topic]))
            ends[topic] += 1

    def clean_some(self) -> None:
        """Some neighbours are cleaned, of which some entries are kept, and some files go."""
        files = self.log.files.files
        for first in (6, 2):
            chosen = files[first : first + 3]
            inside = [row for row in self.rows if chosen[0].start <= row[1] < chosen[-1].end]
            kept = [row for row in inside if self.chance.random() < 0.4]
            self.clean(list(chosen), {position - HEAD.size for _, position, _ in kept})
            self.rows = [row for row in self.rows if row not in inside or row in kept]

    def newest(self, topic: bytes, tear: int, after: int = 0) -> Found | None:
        """What is to be found."""
        rows = [row for row in self.rows if row[0] == topic and after <= row[1] < tear]
        return Found(rows[-1][1], rows[-1][2] + 1) if rows else None

    def search(self, tear: Tear, after: int = 0) -> Search:
        search = Search(self.log.files, tear, after)
        while not search.over:
            search.step()
        return search


@pytest.mark.parametrize("size", [1, 70, 1_000, 1 << 20])
@pytest.mark.parametrize("cleaned", [False, True])
def test_the_newest_batch_before_a_tear_is_found(
    size: int, cleaned: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(light_mending, "READ_BYTES", size)
    for seed in range(2 if size == 1 else 6):
        written = Written(seed)
        if cleaned:
            written.clean_some()
        for topic, position, offset in written.rows[:: 30 if size == 1 else 3]:
            search = written.search(torn(topic, position, offset))
            assert search.found == written.newest(topic, position)
            assert search.in_vain == (search.found is None)
            after = written.rows[len(written.rows) // 3][1]
            buried = written.search(torn(topic, position, offset), after)
            assert buried.found == written.newest(topic, position, after)


def test_what_is_damaged_or_too_new_is_passed_over() -> None:
    written = Written(7)
    rows = [row for row in written.rows if row[0] == b"other"]
    (_, found, offset), (_, damaged, _), (_, tear, first) = rows[-3:]
    file = written.log.files.files[written.log.files.find(damaged)]
    written.disk.files[file.path][damaged - file.start + 100] ^= 1
    search = written.search(torn(b"other", tear, first))
    assert search.found == Found(found, offset + 1)
    search = written.search(torn(b"other", tear, 0))
    assert search.in_vain, "all that is there is not before offset 0"


def test_files_that_become_others_meanwhile_prove_nothing() -> None:
    written = Written(8)
    search = Search(written.log.files, torn(b"other", written.log.end_position, 0), 0)
    search.step()
    written.clean_some()
    while not search.over:
        search.step()
    assert not search.found and not search.in_vain


def test_a_deleted_topic_of_the_same_name_stays_hidden() -> None:
    machine = Machine(StoreSettings(hot_bytes=1))
    light = machine.store.light
    for number in range(3):
        machine.publish(b"again", b"old %d" % number)
        machine.commit()
    light.delete(b"again")
    machine.commit()
    places = []
    for number in range(6):
        places.append(machine.publish(b"again", b"new %d" % number))
        machine.commit()
    machine.store.checkpoint([])
    machine.committer.kick()
    (path,) = [name for name in machine.disk.files if "/log/" in name]
    # Of the first batch: then there is nothing before the second.
    machine.disk.files[path][places[0] + HEAD.size + 41] ^= 1
    machine.open()
    light = machine.store.light
    assert read(light, b"again", 0, 1).error == Fault.CORRUPT_RECORD.kafka
    assert light.next_search() is None, "what was looked for in vain is not looked for again"
    values, errors = read_over(machine, b"again")
    assert errors == {0} and values == {one: b"new %d" % one for one in range(1, 6)}
