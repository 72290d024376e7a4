"""A topic of a thousand partitions and a request for all of them: served in slices, and nobody else
waits for it; what was never written has no file.
"""

from __future__ import annotations

import time
import uuid
from pathlib import Path
from typing import Any

from tests.broker import BrokerProcess
from tests.kafka.test_broker_records import fetch_request, produce
from tests.kafka.wire import SocketClient, batch, new_topic

PARTITIONS = 1_000


def holds(part: Any) -> bool:
    return any(len(found) for found in part.records or [])


def test_thousands_of_partitions_are_fetched_by_one_request(
    broker: BrokerProcess, client: SocketClient
) -> None:
    name = uuid.uuid4().hex
    topics = [new_topic(name, PARTITIONS)]
    made = client.ask(19, 7, topics=topics, timeout_ms=5000, validate_only=False)
    assert made.topics[0].error_code == 0
    for number in (0, 678, PARTITIONS - 1):
        assert produce(client, name, batch(b"%d" % number), partition=number).error_code == 0
    topic_id = made.topics[0].topic_id.hex
    kept = sorted(path.name for path in Path(broker.directory).rglob(f"segments/{topic_id}-*"))
    assert kept == sorted(f"{topic_id}-{number}" for number in (0, 678, PARTITIONS - 1))
    request = fetch_request(name)
    (place,) = request["topics"][0]["partitions"]
    request["topics"][0]["partitions"] = [
        {**place, "partition": number} for number in range(PARTITIONS)
    ]
    answer = client.ask(1, 12, **request)
    (found,) = answer.responses
    assert [part.partition_index for part in found.partitions] == list(range(PARTITIONS))
    assert [part.partition_index for part in found.partitions if holds(part)] == [
        0,
        678,
        PARTITIONS - 1,
    ]


def test_a_parked_fetch_of_many_partitions_is_woken_by_any_and_leaves_with_its_client(
    broker: BrokerProcess, client: SocketClient
) -> None:
    name = uuid.uuid4().hex
    topics = [new_topic(name, 200)]
    client.ask(19, 7, topics=topics, timeout_ms=5000, validate_only=False)
    request = fetch_request(name, max_wait_ms=60_000)
    (place,) = request["topics"][0]["partitions"]
    request["topics"][0]["partitions"] = [{**place, "partition": number} for number in range(200)]

    def parked() -> float:
        return broker.metric("robustmq_kafka_fetches_parked")

    with SocketClient(broker.worker_ports[0]) as reader:
        reader.send(1, 12, **request)
        _until(lambda: parked() == 2, "it waits at both workers")
        assert produce(client, name, batch(b"x"), partition=150).error_code == 0
        (found,) = reader.read(1, 12).responses
        assert [part.partition_index for part in found.partitions if holds(part)] == [150]
        _until(lambda: parked() == 0, "nothing waits any more, here or there")
        del request["topics"][0]["partitions"][150]
        reader.send(1, 12, **request)
        _until(lambda: parked() == 2, "it waits at both workers")
    _until(lambda: parked() == 0, "its client is gone")


def _until(condition: object, what: str) -> None:
    assert callable(condition)
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline, what
        time.sleep(0.05)
