"""Cleaning the files of a shard's log: what is needed stays where it was, the rest goes."""

from __future__ import annotations

import random
from array import array
from itertools import count
from typing import Any

import pytest

from robustmq.core.publish import build_entry
from robustmq.errors import Fault
from robustmq.shard.file_cleaning import FileCleaning, Steps
from robustmq.shard.light_needs import Cleanable
from robustmq.storage.light_retention import LightRetention, LightRule
from robustmq.storage.log_files import Gone
from robustmq.storage.shard_store import INBOX, MACHINE, StoreSettings
from tests.storage.stores import NOW_MS, Machine, batch, values_of

TOPICS = [b"a", b"b/c", b"d", b"e"]
SETTINGS = StoreSettings(segment_bytes=2_000, hot_bytes=500)
FOR_EVER = LightRetention(-1)


def nothing() -> Steps:
    """Everything is committed."""
    yield from ()


class Cleaned:
    """A shard that is cleaned."""

    def __init__(self) -> None:
        self.machine = Machine(SETTINGS)
        self.counted: dict[str, int] = {}
        self.begin()

    def begin(self) -> None:
        ticks = count(step=1_000)
        self.files = FileCleaning(lambda: next(ticks), self._count, nothing)
        self.files.again_ms = 0
        self.files.smaller_than = 1.0

    def _count(self, name: str, amount: int) -> None:
        self.counted[name] = self.counted.get(name, 0) + amount

    def checkpoint(self) -> None:
        self.machine.commit()
        self.machine.store.checkpoint([])
        self.machine.committer.kick()

    def run(self, steps: Steps) -> None:
        result: Any = None
        while True:
            try:
                step = steps.send(result)
            except StopIteration:
                return
            result = step.work() if step is not None else None

    def clean(
        self,
        inbox: list[int] = [],  # noqa: B006
        retention: LightRetention = FOR_EVER,
        now_ms: int = NOW_MS,
        over: bool = False,
        merge: bool = False,
    ) -> None:
        """All closed files behind the checkpoint."""
        store = self.machine.store
        on = Cleanable(store, retention, now_ms, array("Q", sorted(inbox)), True)
        table = store.log.files
        self.files.begin_round()
        for file in table.files[:-1]:
            if file.end <= store.durable_checkpoint:
                self.run(self.files.clean(on, file, over))
        cleaned = [file for file in table.files[:-1] if file.cleaned]
        if merge and len(cleaned) > 1:
            group = [cleaned[0]]
            for file in cleaned[1:]:
                if file.start == group[-1].end:
                    group.append(file)
            self.run(self.files.merge(on, group))
        for _ in store.light.sweep_graves(table.forgettable_to()):
            pass

    def values(self, topic: bytes) -> tuple[int, list[bytes]]:
        """Where a topic begins, and its values from there on."""
        light = self.machine.store.light
        start = at = light.start_offset(topic)
        found: list[bytes] = []
        while True:
            result = light.read(topic, at, 300)
            assert not result.error and not result.out_of_range, (topic, at, result)
            if not result.buffers:
                assert at == result.high_watermark
                return start, found
            data = b"".join(map(bytes, result.buffers))
            base = int.from_bytes(data[:8], "big")
            found += values_of(data, base)[at - base :]
            at = start + len(found)


def publish(machine: Machine, topics: list[bytes], numbers: Any, now_ms: int = NOW_MS) -> None:
    """One block with an entry of each topic."""
    block = bytearray()
    for topic in topics:
        data = batch(b"%d" % next(numbers), timestamp_ms=now_ms)
        block += build_entry(topic, b"", 0, 1, 7, 0, data)
    machine.store.append_block(block, 0, 0, now_ms)


class Model:
    """What a shard must have, whatever happens to it."""

    def __init__(self, seed: int) -> None:
        self.chance = random.Random(seed)
        self.cleaned = Cleaned()
        self.topics: dict[bytes, list[bytes]] = {}
        self.starts: dict[bytes, int] = {}
        self.inbox: dict[int, bytes] = {}
        self.done: set[int] = set()
        self.number = 0

    def publish(self) -> None:
        chance = self.chance
        block = bytearray()
        for topic in chance.sample(TOPICS, chance.randrange(1, 4)):
            values = [b"%d" % (self.number + n) for n in range(chance.randrange(1, 4))]
            self.number += len(values)
            block += build_entry(topic, b"", 0, 1, 7, 0, batch(*values))
            self.topics.setdefault(topic, []).extend(values)
        self.cleaned.machine.store.append_block(block, 0, 0, NOW_MS)

    def receive(self) -> None:
        store = self.cleaned.machine.store
        data = self.chance.randbytes(self.chance.randrange(10, 300))
        self.inbox[store.append(INBOX, data, 0, 0, NOW_MS)] = data
        store.append(MACHINE, data, 0, 0, NOW_MS)

    def acknowledge(self) -> None:
        if self.inbox:
            position = self.chance.choice(sorted(self.inbox))
            del self.inbox[position]
            self.done.add(position)

    def delete(self) -> None:
        if self.topics:
            topic = self.chance.choice(sorted(self.topics))
            self.cleaned.machine.store.light.delete(topic)
            del self.topics[topic]
            self.starts.pop(topic, None)

    def trim(self) -> None:
        if self.topics:
            topic = self.chance.choice(sorted(self.topics))
            offset = self.chance.randrange(len(self.topics[topic]) + 1)
            self.starts[topic] = max(self.starts.get(topic, 0), offset)
            self.cleaned.machine.store.light.trim(topic, offset, NOW_MS)

    def clean(self) -> None:
        self.cleaned.checkpoint()
        self.cleaned.clean(list(self.inbox), merge=self.chance.random() < 0.5)

    def restart(self) -> None:
        machine = self.cleaned.machine
        machine.commit()
        # Offsets of a topic without any records stand in the index alone.
        light = machine.store.light
        empty = [one for one in self.topics if light.start_offset(one) == light.end_offset(one)]
        if not empty and self.chance.random() < 0.3:
            for name in [one for one in machine.disk.files if "/index-" in one]:
                machine.disk.files[name][-1] ^= 1
        machine.open()
        self.cleaned.begin()

    def step(self) -> None:
        steps = (self.publish, self.receive, self.acknowledge, self.delete, self.trim)
        more = (self.clean, self.restart)
        self.chance.choices([*steps, *more], (50, 12, 8, 6, 6, 10, 8))[0]()
        self.cleaned.machine.commit()

    def check(self) -> None:
        store = self.cleaned.machine.store
        for topic in TOPICS:
            assert store.light.exists(topic) == (topic in self.topics)
        for topic, values in self.topics.items():
            begin = self.starts.get(topic, 0)
            assert self.cleaned.values(topic) == (begin, values[begin:]), topic
        for position, data in self.inbox.items():
            assert bytes(store.read_entry(position)[1]) == data


@pytest.mark.parametrize("seed", range(25))
def test_a_model_of_topics_sessions_cleanings_and_restarts(seed: int) -> None:
    """Random publishing, deleting, trimming, inbox entries, cleanings, restarts and lost indexes;
    what is there is compared with a model all the time."""
    model = Model(seed)
    for _ in range(120):
        model.step()
        model.check()
    model.clean()
    model.check()
    store = model.cleaned.machine.store
    assert model.cleaned.counted.get("storage_log_files_cleaned", 0) > 0
    kept_to = store.log.files.files[-1].start
    for position in [one for one in model.done if one < kept_to]:
        with pytest.raises(Gone):
            store.read_entry(position)


def test_a_topic_that_was_deleted_and_made_again_has_nothing_of_the_old_one() -> None:
    cleaned, numbers = Cleaned(), count()
    machine = cleaned.machine
    for _ in range(30):
        publish(machine, [b"a", b"b"], numbers)
    machine.store.light.delete(b"a")
    publish(machine, [b"a"], numbers)
    for _ in range(30):
        publish(machine, [b"b"], numbers)
    cleaned.checkpoint()
    cleaned.clean()
    assert cleaned.values(b"a") == (0, [b"60"])
    for name in [one for one in machine.disk.files if "/index-" in one]:
        del machine.disk.files[name]
    machine.open()
    assert cleaned.values(b"a") == (0, [b"60"]), "also when the index is made again"


def test_limits_in_time_records_and_bytes_let_the_oldest_go() -> None:
    cleaned, numbers = Cleaned(), count()
    for step in range(120):
        publish(cleaned.machine, TOPICS, numbers, NOW_MS + step * 1000)
    cleaned.checkpoint()
    retention = LightRetention(
        -1,
        [
            LightRule("a", retention_ms=60_000),
            LightRule("b/+", retention_records=10),
            LightRule("d", retention_bytes=2_000),
            LightRule("#", retention_ms=-1),
        ],
    )
    now_ms = NOW_MS + 120_000
    cleaned.clean(retention=retention, now_ms=now_ms)
    kept = {topic: cleaned.values(topic) for topic in TOPICS}
    for topic in TOPICS:
        start, found = kept[topic]
        assert start + len(found) == 120, "the end stays"
        if start:
            assert cleaned.machine.store.light.read(topic, start - 1, 1000).out_of_range
    assert 59 <= kept[b"a"][0] <= 62
    assert 100 <= kept[b"b/c"][0] <= 110 and 90 <= kept[b"d"][0] <= 110
    assert kept[b"e"][0] == 0
    cleaned.machine.open()
    assert {topic: cleaned.values(topic) for topic in TOPICS} == kept, "a restart changes nothing"


def test_what_is_over_by_time_goes_without_a_look_but_for_what_sessions_refer_to() -> None:
    cleaned, numbers = Cleaned(), count()
    store = cleaned.machine.store
    for _ in range(20):
        publish(cleaned.machine, TOPICS, numbers)
    quiet = store.append(INBOX, b"for a quiet session", 0, 0, NOW_MS)
    for _ in range(40):
        publish(cleaned.machine, TOPICS, numbers)
    cleaned.checkpoint()
    before = sum(len(data) for name, data in cleaned.machine.disk.files.items() if "/log/" in name)
    cleaned.clean([quiet], over=True)
    after = sum(len(data) for name, data in cleaned.machine.disk.files.items() if "/log/" in name)
    assert after < before / 5 and bytes(store.read_entry(quiet)[1]) == b"for a quiet session"
    start, found = cleaned.values(b"a")
    assert start + len(found) == 60 and start > 40
    assert store.light.read(b"a", 0, 100).out_of_range
    publish(cleaned.machine, [b"a"], numbers)
    cleaned.machine.commit()
    assert store.light.end_offset(b"a") == 61


def test_bad_bytes_are_left_where_they_are() -> None:
    cleaned, numbers = Cleaned(), count()
    machine = cleaned.machine
    for _ in range(40):
        publish(machine, [b"a"], numbers)
        machine.store.append(MACHINE, bytes(100), 0, 0, NOW_MS)
    cleaned.checkpoint()
    first = machine.store.log.files.files[0]
    machine.disk.files[first.path][600] ^= 1
    machine.open()
    cleaned.begin()
    cleaned.clean()
    assert machine.store.log.files.files[0].damaged
    assert first.path in machine.disk.files
    assert all(file.cleaned for file in machine.store.log.files.files[1:-1])


def test_a_damaged_batch_answers_for_its_own_offsets_alone() -> None:
    cleaned = Cleaned()
    machine = cleaned.machine
    for number in range(40):
        machine.publish(b"a", b"value %02d" % number)
    cleaned.checkpoint()
    (path,) = [name for name, data in machine.disk.files.items() if b"value 05" in data]
    machine.disk.files[path][machine.disk.files[path].index(b"value 05")] ^= 1
    machine.open()
    light = machine.store.light
    answers = [light.read(b"a", offset, 1 << 20) for offset in range(40)]
    assert [one.error for one in answers] == [
        Fault.CORRUPT_RECORD.kafka if offset == 5 else 0 for offset in range(40)
    ]
    lengths = [len(one.buffers) for one in answers]
    assert lengths == [5, 4, 3, 2, 1, 0, *range(34, 0, -1)], "up to the hole, and from behind it"
