"""Members of Kafka's share groups that wait for records."""

from __future__ import annotations

from uuid import UUID

from robustmq.groups.timers import TimeWheel
from robustmq.kafka.share_events import ShareKey
from robustmq.shard.share_waits import ShareWaits

KEY = ShareKey("group", b"topic", UUID(int=1), 0)


def test_a_wait_whose_client_has_gone_is_not_woken_in_the_place_of_another() -> None:
    ready = False
    wheel: TimeWheel[tuple[str, ...]] = TimeWheel()
    waits = ShareWaits(wheel, lambda: 0, lambda topic, partition: 0, lambda key: ready)
    gone = waits.wait([KEY], 0, 10_000)
    there = waits.wait([KEY], 0, 10_000)
    gone.resolve(None)
    assert len(waits) == 1
    ready = True
    waits.committed(0)
    assert there.settled
    assert not len(waits) and not waits.awaited(0)
