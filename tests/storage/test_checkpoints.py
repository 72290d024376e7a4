"""Checkpoints in slices: whatever is appended, made and deleted between two slices, and wherever
the machine stops, any prefix of the writes recovers."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from robustmq.storage.checkpoints import CheckpointWriter
from robustmq.storage.disk import Crash
from robustmq.storage.engine import PartitionLog, PartitionSettings
from robustmq.storage.shard_store import MACHINE, StoreSettings
from tests.storage.stores import NOW_MS, Machine, batch, values_of

TOPICS = [b"t/%d" % number for number in range(6)]
SHARED = b"the partition in the log"
STEPS = st.lists(
    st.tuples(
        st.sampled_from(
            ["publish"] * 5
            + ["delete", "create", "trim", "machine", "shared", "shared", "commit", "commit"]
            + ["begin", "slice", "slice", "slice", "finish", "abandon", "restart"]
        ),
        st.sampled_from(TOPICS),
    ),
    max_size=50,
)
Seen = tuple[dict[bytes, tuple[int, tuple[bytes, ...]] | None], tuple[bytes, ...]]
"""What a reader of each topic sees (where it begins and what it has; None: there is no such topic)
and the records of a machine."""


class Sliced:
    """A shard whose checkpoints are made a part of the index at a time; after each entry of the log
    what one would see if that was the last that was written."""

    def __init__(self, sync: bool) -> None:
        self.machine = Machine(StoreSettings(segment_bytes=1 << 20, hot_bytes=300, sync=sync))
        self.writer: CheckpointWriter | None = None
        self.topics: dict[bytes, tuple[int, int, tuple[bytes, ...]]] = {}
        """First offset, next offset, values."""
        self.records: tuple[bytes, ...] = ()
        self.history: dict[int, Seen] = {0: ({}, ())}
        self.safe = 0
        self.number = 0
        self.partition = self.open_partition()

    def open_partition(self) -> PartitionLog:
        """A partition of a declared topic, in the shard's log."""
        return self.machine.store.open_partition("07" * 16 + "-0", "shared", PartitionSettings())

    def restart(self) -> None:
        """The process dies and is started again: what was not written is gone."""
        self.machine.open()
        self.writer = None
        self.check()

    def check(self) -> None:
        """One sees what there was at some moment, not before the last commit; it goes on there."""
        store = self.machine.store
        end = store.end_position
        assert end >= self.safe, "what was committed is there"
        if end not in self.history:
            # Who never came to its first commit may have lost power: positions go on elsewhere.
            end = store.log.files.files[-1].end
        assert end in self.history, "the log ends where an entry ended"
        topics, records = self.history[end]
        told = [payload for kind, payload in self.machine.heard.entries if kind == MACHINE]
        snapshots = [value for kind, _, value in self.machine.heard.snapshots if kind == b"kind"]
        found = tuple(snapshots[0].split(b",")) if snapshots and snapshots[0] else ()
        assert (*found, *told) == records
        self.partition = self.open_partition()
        for topic in TOPICS:
            expected = topics.get(topic)
            assert store.light.exists(topic) == (expected is not None), topic
            if expected is not None:
                first, values = expected
                assert store.light.end_offset(topic) == first + len(values)
                assert self.read(topic, first) == values
        _, values = topics.get(SHARED) or (0, ())
        data = b"".join(map(bytes, self.partition.read(0, 1 << 20).buffers))
        assert tuple(values_of(data, 0)) == values and self.partition.end_offset == len(values)
        self.topics = {
            topic: (seen[0], seen[0] + len(seen[1]), seen[1])
            for topic, seen in topics.items()
            if seen is not None
        }
        self.records = records
        self.history = {at: seen for at, seen in self.history.items() if at <= end}
        assert self.machine.heard.corrupt == []

    def read(self, topic: bytes, first: int) -> tuple[bytes, ...]:
        """All values from an offset on."""
        light = self.machine.store.light
        found: list[bytes] = []
        while (result := light.read(topic, first + len(found), 300)).buffers:
            found += values_of(b"".join(map(bytes, result.buffers)), first + len(found))
        return tuple(found)

    def step(self, what: str, topic: bytes) -> None:
        """One of STEPS."""
        machine, store = self.machine, self.machine.store
        if what == "commit":
            end = store.end_position
            machine.commit()
            self.safe = end
        elif what == "restart":
            self.restart()
        elif what == "begin":
            self.writer = store.begin_checkpoint([(b"kind", b"name", b",".join(self.records))])
            machine.committer.kick()
        elif what == "slice" and self.writer is not None:
            self.writer.write_parts(1)
            machine.committer.kick()
        elif what == "finish" and self.writer is not None:
            writer, self.writer = self.writer, None
            end = store.end_position
            store.finish_checkpoint(writer)
            machine.committer.kick()
            self.safe = end
            assert store.checkpoint_position == writer.position
        elif what == "abandon" and self.writer is not None:
            # As another one does that is begun.
            self.writer = None
            store.checkpoint([(b"kind", b"name", b",".join(self.records))])
        else:
            self.append(what, topic)
            seen = {name: (first, values) for name, (first, _, values) in self.topics.items()}
            self.history[store.end_position] = (dict(seen), self.records)

    def append(self, what: str, topic: bytes) -> None:
        """What goes into the log."""
        store = self.machine.store
        self.number += 1
        value = b"%d" % self.number
        first, end, values = self.topics.get(topic, (0, 0, ()))
        if what == "publish":
            self.machine.publish(topic, value)
            self.topics[topic] = first, end + 1, (*values, value)
        elif what == "delete":
            store.light.delete(topic)
            self.topics.pop(topic, None)
        elif what == "create" and topic not in self.topics:
            store.light.create(topic)
            self.topics[topic] = 0, 0, ()
        elif what == "trim" and values:
            store.light.trim(topic, first + 1, NOW_MS)
            self.topics[topic] = first + 1, end, values[1:]
        elif what == "shared":
            self.partition.append(bytearray(batch(value)), 3)
            _, end, values = self.topics.get(SHARED, (0, 0, ()))
            self.topics[SHARED] = 0, end + 1, (*values, value)
        elif what == "machine":
            store.append(MACHINE, value, 0, 0, NOW_MS)
            self.records = (*self.records, value)


@settings(derandomize=True, max_examples=200, deadline=None)
@given(steps=STEPS, crash_after=st.integers(0, 6_000))
def test_a_crash_at_any_byte_of_a_checkpoint_in_slices_loses_nothing(
    steps: list[tuple[str, bytes]], crash_after: int
) -> None:
    shard = Sliced(sync=False)
    shard.machine.disk.crash_after = crash_after
    try:
        for step in steps:
            shard.step(*step)
    except Crash:
        pass
    shard.machine.disk.crash_after = None
    for _ in range(2):
        shard.restart()
    for step in (("publish", TOPICS[0]), ("begin", b""), ("publish", TOPICS[1]), ("finish", b"")):
        shard.step(*step)
    shard.restart()
    names = [path for path in shard.machine.disk.files if "/index-" in path]
    assert len(names) == 2, "nothing is left of a checkpoint that was not finished"


@settings(derandomize=True, max_examples=200, deadline=None)
@given(steps=STEPS, crash_after=st.integers(0, 6_000), keep=st.floats(0, 1))
def test_neither_does_a_loss_of_power(
    steps: list[tuple[str, bytes]], crash_after: int, keep: float
) -> None:
    shard = Sliced(sync=True)
    shard.machine.disk.crash_after = crash_after
    try:
        for step in steps:
            if step[0] != "restart":
                shard.step(*step)
    except Crash:
        pass
    shard.machine.disk.crash_after = None
    shard.machine.lose_power(keep)
    shard.check()
    shard.machine.lose_power(0)
    shard.check()
