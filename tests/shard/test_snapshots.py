"""A checkpoint looks at the machines of a shard in steps, between which clients have their turn."""

from __future__ import annotations

import time

from robustmq.groups.records import OffsetRecord, decode_record, encode_record
from robustmq.shard.placement import GROUP_KIND
from robustmq.shard.snapshots import RECORDS_A_LOOK, Row, Snapshots, decode_snapshot
from tests.simulation.world import World

OFFSETS = 100_000


def test_a_group_with_a_hundred_thousand_offsets_does_not_hold_the_loop() -> None:
    world = World(1, workers=1)
    world.scheduler.run(1_000)
    broker = world.brokers[0]
    assert broker is not None
    machines = broker.kafka.machines
    offsets = [OffsetRecord(b"t", number, number, 0, "", 1) for number in range(OFFSETS)]
    machines.replay(GROUP_KIND, b"large", [encode_record(one) for one in offsets])
    shard = broker.placement.machine_shard(GROUP_KIND, "large")
    rows: list[Row] = []
    steps: list[float] = []
    looks = Snapshots(broker).machines(shard, broker.stores[shard])
    while True:
        began = time.thread_time()
        row = next(looks, looks)
        steps.append(time.thread_time() - began)
        if row is looks:
            break
        if len(steps) == 2:
            # What comes meanwhile the log has behind the snapshot.
            late = OffsetRecord(b"t", OFFSETS - 1, 7, 0, "", 2)
            machines.replay(GROUP_KIND, b"large", [encode_record(late)])
        if isinstance(row, tuple):
            rows.append(row)
    assert len(steps) > OFFSETS // RECORDS_A_LOOK
    print(f"the longest step: {max(steps) * 1e3:.1f} ms of CPU time")
    assert max(steps) < 0.02, "it took 40 ms in one step"
    (value,) = (value for kind, key, value in rows if (kind, key) == (GROUP_KIND, b"large"))
    found = decode_snapshot(value)
    assert found.records is not None
    assert [decode_record(one) for one in found.records] == offsets
