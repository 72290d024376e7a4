"""Workers that are killed while a Kafka share group consumes: what was acknowledged never comes
again, and everything is delivered.
"""

from __future__ import annotations

import threading
import time
import uuid
from pathlib import Path

import pytest

from tests.broker import BrokerProcess, until
from tests.kafka.sharing import (
    ACCEPT,
    GROUP_RESOURCE,
    RELEASE,
    Member,
    configure,
    join,
    make_topic,
    offsets_of,
    produce,
)
from tests.kafka.wire import SocketClient

RECORDS = 600
KILLS = 2
LIMIT = 25


class Consumer(threading.Thread):
    """A member that comes again after every lost connection; it releases each seventh record once.
    What happens goes into `events`, which all share: ("taken", offset, delivery count), and
    ("done", offset, 0) when it was told that the record is acknowledged.
    """

    def __init__(
        self,
        broker: BrokerProcess,
        group: str,
        topic_id: uuid.UUID,
        events: list[tuple[str, int, int]],
    ) -> None:
        super().__init__(daemon=True)
        self.broker = broker
        self.group = group
        self.topic_id = topic_id
        self.events = events
        self.stopping = False

    def run(self) -> None:
        while not self.stopping:
            try:
                with SocketClient(self.broker.kafka) as client:
                    self.consume(Member(client, self.group, self.topic_id))
            except (OSError, AssertionError):
                time.sleep(0.05)

    def consume(self, member: Member) -> None:
        while not self.stopping:
            for first, last, count in member.take(wait_ms=200, most=8):
                offsets = range(first, last + 1)
                self.events += [("taken", offset, count) for offset in offsets]
                kinds = [RELEASE if one % 7 == 0 and count == 1 else ACCEPT for one in offsets]
                if member.acknowledge(first, last, *kinds) == 0:
                    accepted = [
                        one for one, kind in zip(offsets, kinds, strict=True) if kind == ACCEPT
                    ]
                    self.events += [("done", offset, 0) for offset in accepted]


@pytest.mark.parametrize("workers", [1, 2])
def test_a_killed_worker_loses_no_record_and_no_acknowledgement(
    tmp_path: Path, workers: int
) -> None:
    group = uuid.uuid4().hex
    with BrokerProcess(tmp_path, workers) as broker:
        with SocketClient(broker.kafka) as client:
            settings = {
                "share_auto_offset_reset": "earliest",
                "share_record_lock_duration_ms": "2000",
                "share_delivery_count_limit": str(LIMIT),
            }
            assert configure(client, GROUP_RESOURCE, group, **settings) == 0
            topic, topic_id = make_topic(client)
            join(client, group, topic)
            for begin in range(0, RECORDS, 20):
                produce(client, topic, *[b"%d" % number for number in range(begin, begin + 20)])
        events: list[tuple[str, int, int]] = []
        consumers = [Consumer(broker, group, topic_id, events) for _ in range(4)]
        for consumer in consumers:
            consumer.start()
        for kill in range(KILLS):
            goal = RECORDS * (kill + 1) // (KILLS + 2)
            until(lambda goal=goal: done(events) >= goal, 40, "progress")  # type: ignore[misc]
            for worker in range(workers):
                broker.kill_worker(worker)
        until(lambda: is_over(broker, group, topic), 60, "the end of the work")
        for consumer in consumers:
            consumer.stopping = True
        for consumer in consumers:
            consumer.join(20)
    finished: set[int] = set()
    taken: set[int] = set()
    for kind, offset, count in events:
        assert offset not in finished, "what is acknowledged does not come again"
        (taken if kind == "taken" else finished).add(offset)
        assert count <= LIMIT
    assert taken == set(range(RECORDS)), "every record was delivered"


def done(events: list[tuple[str, int, int]]) -> int:
    """How many records are known to be done with."""
    return sum(one[0] == "done" for one in list(events))


def is_over(broker: BrokerProcess, group: str, topic: str) -> bool:
    """Has the group come to the end?"""
    try:
        with SocketClient(broker.kafka) as client:
            return offsets_of(client, group, topic) == (RECORDS, 0)
    except (OSError, AssertionError):
        return False
