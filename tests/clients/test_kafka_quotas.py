"""Client quotas with clients that people use: they are told to wait, and held to the rate."""

from __future__ import annotations

import time
import uuid
from collections.abc import Iterator
from typing import Any

import confluent_kafka.admin
import pytest

from tests.broker import BrokerProcess
from tests.kafka.wire import SocketClient, batch, new_topic

admin: Any = confluent_kafka.admin
TIMEOUT_S = 30.0
RATE = 400_000


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrokerProcess]:
    with BrokerProcess(tmp_path_factory.mktemp("quotas"), 2) as running:
        yield running


def bounds(broker: BrokerProcess, entity: dict[str, str | None], **values: float | None) -> None:
    """Set bounds of an entity, or take them away (None)."""
    parts = [{"entity_type": kind, "entity_name": name} for kind, name in entity.items()]
    ops = [
        {"key": key, "value": value or 0.0, "remove": value is None}
        for key, value in values.items()
    ]
    with SocketClient(broker.kafka) as client:
        entries = [{"entity": parts, "ops": ops}]
        answer = client.ask(49, 1, entries=entries, validate_only=False)
        assert [one.error_code for one in answer.entries] == [0]


def made_topic(broker: BrokerProcess) -> str:
    name = uuid.uuid4().hex
    with SocketClient(broker.kafka) as client:
        made = client.ask(19, 5, topics=[new_topic(name)], timeout_ms=5000, validate_only=False)
        assert made.topics[0].error_code == 0
    return name


def produce(broker: BrokerProcess, topic: str, client_id: str, size: int) -> tuple[float, int]:
    """Produce so many bytes; the seconds it took, and the longest throttle the client was told."""
    told: list[int] = []
    settings = {
        "bootstrap.servers": f"127.0.0.1:{broker.kafka}",
        "client.id": client_id,
        "throttle_cb": lambda event: told.append(event.throttle_time),
        "linger.ms": 5,
        "batch.size": 50_000,
    }
    producer = confluent_kafka.Producer(settings)
    began = time.monotonic()
    for _ in range(size // 10_000):
        producer.produce(topic, bytes(10_000), partition=0)
    assert producer.flush(TIMEOUT_S) == 0
    return time.monotonic() - began, max(told, default=0)


def test_a_producer_is_held_to_its_rate_and_told_so(broker: BrokerProcess) -> None:
    topic, client_id = made_topic(broker), uuid.uuid4().hex
    took_s, told = produce(broker, topic, client_id, RATE * 12)
    assert took_s < 6 and told == 0
    bounds(broker, {"client-id": client_id}, producer_byte_rate=RATE)
    # A window of ten seconds may come at once; the rest comes at the rate.
    took_s, told = produce(broker, topic, client_id, RATE * 13)
    assert took_s > 1.5 and told > 0
    # Others are not held, and neither is this one without the quota.
    assert produce(broker, topic, "other", RATE)[1] == 0
    bounds(broker, {"client-id": client_id}, producer_byte_rate=None)
    assert produce(broker, topic, client_id, RATE * 2)[1] == 0


def test_answers_say_how_long_and_the_connection_is_not_read_meanwhile(
    broker: BrokerProcess,
) -> None:
    topic = made_topic(broker)
    bounds(
        broker,
        {"user": "ANONYMOUS", "client-id": "c"},
        producer_byte_rate=100,
        consumer_byte_rate=100,
    )
    try:
        parts = [{"index": 0, "records": batch(bytes(1_000))}]
        data = [{"name": topic, "partition_data": parts}]
        values = {"acks": 1, "timeout_ms": 1000, "topic_data": data, "transactional_id": None}
        with SocketClient(broker.kafka) as client:
            answer = client.ask(0, 9, **values)
            assert answer.responses[0].partition_responses[0].error_code == 0
            waits_ms = answer.throttle_time_ms
            assert 300 <= waits_ms <= 1_500
            began = time.monotonic()
            client.ask(18, 0)
            assert time.monotonic() - began >= waits_ms / 1000 - 0.05
            fetch = {
                "replica_id": -1,
                "max_wait_ms": 0,
                "min_bytes": 0,
                "max_bytes": 1_000_000,
                "isolation_level": 0,
                "topics": [
                    {
                        "topic": topic,
                        "partitions": [
                            {
                                "partition": 0,
                                "fetch_offset": 0,
                                "partition_max_bytes": 1_000_000,
                                "log_start_offset": -1,
                            }
                        ],
                    }
                ],
            }
            assert client.ask(1, 4, **fetch).throttle_time_ms >= 300
    finally:
        bounds(
            broker,
            {"user": "ANONYMOUS", "client-id": "c"},
            producer_byte_rate=None,
            consumer_byte_rate=None,
        )


def test_changes_to_the_cluster_are_refused_above_their_quota(broker: BrokerProcess) -> None:
    bounds(broker, {"client-id": "c"}, controller_mutation_rate=1.0)
    try:
        with SocketClient(broker.kafka) as client:
            topics = [new_topic(uuid.uuid4().hex, 15)]
            made = client.ask(19, 7, topics=topics, timeout_ms=5000, validate_only=False)
            assert made.topics[0].error_code == 0 and made.throttle_time_ms == 0
            topics = [new_topic(uuid.uuid4().hex)]
            refused = client.ask(19, 7, topics=topics, timeout_ms=5000, validate_only=False)
            assert refused.topics[0].error_code == 89 and refused.throttle_time_ms > 0
    finally:
        bounds(broker, {"client-id": "c"}, controller_mutation_rate=None)


def test_an_address_opens_so_many_connections_a_second(broker: BrokerProcess) -> None:
    bounds(broker, {"ip": "127.0.0.1"}, connection_creation_rate=5)
    try:
        refused = 0
        for _ in range(40):
            with SocketClient(broker.worker_ports[0]) as client:
                try:
                    client.send(18, 0)
                    refused += client.socket.recv(1) == b""
                except OSError:
                    refused += 1
        assert refused >= 20
    finally:
        time.sleep(0.3)
        bounds(broker, {"ip": "127.0.0.1"}, connection_creation_rate=None)


def test_quotas_are_there_after_a_kill(broker: BrokerProcess) -> None:
    user = uuid.uuid4().hex
    bounds(broker, {"user": user, "client-id": None}, consumer_byte_rate=7)
    broker.kill()
    broker.start()
    component = {"entity_type": "user", "match_type": 0, "match": user}
    for port in broker.worker_ports:
        with SocketClient(port) as client:
            answer = client.ask(48, 1, components=[component], strict=False)
            (entry,) = answer.entries
            assert [(one.key, one.value) for one in entry.values] == [("consumer_byte_rate", 7)]
