"""Transactions on one partition against a model: random producers, markers and crashes.

What a reader of committed transactions gets, the last stable offset, the list of aborted
transactions of any range, and what is a repetition, all come from a plain list of what was written.
"""

from __future__ import annotations

import uuid
from typing import NamedTuple

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from robustmq.core import batches
from robustmq.kafka.gateway import ADDS, ProduceResult
from robustmq.promises import resolved
from robustmq.records import Record
from robustmq.shard.broker import Broker
from tests.simulation.world import World

LIGHT, DECLARED = (b"m/light", 0), (b"m/declared", 0)
IDS = (11, 12, 13)


class Written(NamedTuple):
    """A batch or marker of the model: who, how many offsets, what."""

    producer_id: int
    kind: str
    base_offset: int
    count: int  # type: ignore[assignment]


class Machine:
    """A node of one worker, and the model of one of its partitions."""

    def __init__(self, partition: tuple[bytes, int]) -> None:
        self.world = World(1, workers=1)
        self.world.checkpoint_bytes = 3_000
        view = next(iter(self.world.cluster.views.values()))
        view.create_topic(DECLARED[0], 1, {}, uuid.UUID(int=1))
        self.partition = partition
        self.world.scheduler.run(50)
        if partition == LIGHT:
            self.broker.kafka.logs.light_topic(LIGHT[0], "create")
            self.world.scheduler.run(50)
        self.model: list[Written] = []
        self.epochs = dict.fromkeys(IDS, 0)
        self.sequences = dict.fromkeys(IDS, 0)
        self.open: dict[int, int] = {}
        self._verify()

    @property
    def broker(self) -> Broker:
        broker = self.world.brokers[0]
        assert broker is not None, "the worker lives"
        return broker

    def _verify(self) -> None:
        """Every partition is part of the transaction."""
        self.broker.kafka.logs.transaction_partition = lambda *asked: resolved(0)

    @property
    def end(self) -> int:
        last = self.model[-1] if self.model else None
        return last.base_offset + last.count if last else 0

    def _batch(self, producer_id: int, count: int, sequence: int) -> ProduceResult:
        batch = batches.build(
            [Record(None, b"%d" % producer_id) for _ in range(count)],
            1,
            0,
            batches.TRANSACTIONAL,
            producer_id,
            self.epochs[producer_id],
            sequence,
        )
        info = batches.validate(batch, 0, len(batch))
        done = self.broker.kafka.gateway.produce(
            *self.partition, bytearray(batch), -1, 1000, info, "id", ADDS
        )
        self.world.scheduler.run(20)
        return done.result()

    def write(self, producer_id: int, count: int) -> None:
        result = self._batch(producer_id, count, self.sequences[producer_id])
        assert (result.error, result.base_offset) == (0, self.end)
        # Sent again it has its first offset, also after a crash.
        self.last = (producer_id, count, self.sequences[producer_id], self.end)
        self.model.append(Written(producer_id, "data", self.end, count))
        self.open.setdefault(producer_id, result.base_offset)
        self.sequences[producer_id] += count

    def mark(self, producer_id: int, commit: bool) -> None:
        self.epochs[producer_id] += 1
        self.sequences[producer_id] = 0
        done = self.broker.kafka.gateway.write_marker(
            *self.partition, producer_id, self.epochs[producer_id], 1, commit, 2
        )
        self.world.scheduler.run(20)
        assert done.result() == 0
        kind = "commit" if commit else "abort"
        self.model.append(Written(producer_id, kind, self.end, 1))
        self.open.pop(producer_id, None)

    def repeat(self) -> None:
        last = getattr(self, "last", None)
        if last is not None and last[0] in self.open:
            producer_id, count, sequence, offset = last
            assert self._batch(producer_id, count, sequence).base_offset == offset

    def crash(self) -> None:
        self.world.kill(0)
        self.world.start(0)
        self._verify()
        self.world.scheduler.run(50)

    # -- the model's answers -----------------------------------------------------------------------

    def stable(self) -> int:
        return min([self.end, *self.open.values()])

    def aborted(self, offset: int, end: int) -> set[tuple[int, int]]:
        """Those whose records can lie in a range: begun before its end, ended at or behind its
        begin."""
        found = set()
        begun: dict[int, int] = {}
        for one in self.model:
            if one.kind == "data":
                begun.setdefault(one.producer_id, one.base_offset)
            else:
                first = begun.pop(one.producer_id, None)
                wanted = one.kind == "abort" and first is not None and first < end
                if wanted and one.base_offset >= offset:
                    found.add((one.producer_id, first or 0))
        return found

    def check(self) -> None:
        logs = self.broker.kafka.logs
        stable = self.stable()
        assert logs.list_offset(*self.partition, -1, -1, 1).offset == stable
        assert logs.list_offset(*self.partition, -1, -1, 0).offset == self.end
        for offset in {0, stable // 2, stable}:
            result = logs.read(*self.partition, offset, 150, -1, 1)
            assert (result.error, result.last_stable_offset) == (0, stable)
            data = b"".join(bytes(buffer) for buffer in result.buffers)
            infos = [info for _, info in batches.headers(data, 0, len(data))]
            ends = [info.base_offset + info.last_offset_delta + 1 for info in infos]
            assert all(end <= stable for end in ends)
            assert bool(infos) == (offset < stable)
            if infos:
                listed = {(row.producer_id, row.first_offset) for row in result.aborted}
                assert listed == self.aborted(offset, ends[-1])
        shown = logs.describe_producers(*self.partition)[1]
        opened = {one.producer_id: one.first_offset for one in shown if one.first_offset >= 0}
        assert opened == self.open


STEPS = st.lists(
    st.one_of(
        st.tuples(st.just("write"), st.sampled_from(IDS), st.integers(1, 4)),
        st.tuples(st.just("commit"), st.sampled_from(IDS), st.just(0)),
        st.tuples(st.just("abort"), st.sampled_from(IDS), st.just(0)),
        st.tuples(st.sampled_from(("crash", "repeat")), st.just(0), st.just(0)),
    ),
    min_size=4,
    max_size=40,
)


@pytest.mark.parametrize("partition", [LIGHT, DECLARED], ids=["light", "declared"])
@settings(
    max_examples=100,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
@given(steps=STEPS)
def test_a_partition_answers_as_its_model(
    partition: tuple[bytes, int], steps: list[tuple[str, int, int]]
) -> None:
    machine = Machine(partition)
    for kind, producer_id, count in steps:
        if kind == "write":
            machine.write(producer_id, count)
        elif kind in ("commit", "abort"):
            machine.mark(producer_id, kind == "commit")
        elif kind == "repeat":
            machine.repeat()
        else:
            machine.crash()
        machine.check()
