"""Share groups with the clients that know them: what the members of one group get, in every way
that they can acknowledge it.
"""

from __future__ import annotations

import subprocess
import time
import uuid
from collections.abc import Iterator

import pytest
from confluent_kafka import AcknowledgeType, Message, Producer, ShareConsumer

from tests.broker import BrokerProcess
from tests.clients.kafka_programs import java
from tests.kafka.sharing import GROUP_RESOURCE, configure, make_topic
from tests.kafka.wire import SocketClient


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrokerProcess]:
    with BrokerProcess(tmp_path_factory.mktemp("share"), 2) as running:
        yield running


def test_the_java_client_shares_acknowledges_renews_and_administers(broker: BrokerProcess) -> None:
    command = [*java("Share"), f"127.0.0.1:{broker.kafka}"]
    done = subprocess.run(command, check=False, capture_output=True, text=True, timeout=150)
    assert done.stdout.splitlines()[-1:] == ["ok"], done.stdout + done.stderr


@pytest.mark.parametrize("mode", ["implicit", "explicit"])
def test_librdkafka_shares_and_acknowledges(broker: BrokerProcess, mode: str) -> None:
    group = uuid.uuid4().hex
    with SocketClient(broker.kafka) as client:
        topic, _ = make_topic(client, 2)
        configure(client, GROUP_RESOURCE, group, share_auto_offset_reset="earliest")
    servers = {"bootstrap.servers": f"127.0.0.1:{broker.kafka}"}
    producer = Producer(servers)
    for number in range(100):
        producer.produce(topic, str(number).encode(), str(number).encode())
    assert producer.flush(20) == 0
    settings = {**servers, "group.id": group, "share.acknowledgement.mode": mode}
    seen: dict[bytes, int] = {}
    released: set[bytes] = set()
    deadline = time.monotonic() + 40
    with ShareConsumer(settings) as one, ShareConsumer(settings) as two:
        one.subscribe([topic])
        two.subscribe([topic])
        while sum(seen.values()) < 100 and time.monotonic() < deadline:
            for consumer in (one, two):
                for message in consumer.poll(0.3):
                    assert message.error() is None
                    if mode == "explicit" and _released(consumer, message, released):
                        continue
                    value = message.value()
                    assert value is not None
                    seen[value] = seen.get(value, 0) + 1
                consumer.commit_sync(10.0)
    assert len(seen) == 100
    assert set(seen.values()) == {1}
    assert len(released) == (10 if mode == "explicit" else 0)


def test_a_read_committed_group_is_given_what_is_committed_and_nothing_else(
    broker: BrokerProcess,
) -> None:
    group = uuid.uuid4().hex
    with SocketClient(broker.kafka) as client:
        topic, _ = make_topic(client)
        level = {"share_isolation_level": "read_committed", "share_auto_offset_reset": "earliest"}
        assert configure(client, GROUP_RESOURCE, group, **level) == 0
    servers = {"bootstrap.servers": f"127.0.0.1:{broker.kafka}"}
    producer = Producer({**servers, "transactional.id": group})
    producer.init_transactions(30)
    for kind in ("aborted", "committed", "aborted", "committed", "open"):
        producer.begin_transaction()
        for number in range(5):
            producer.produce(topic, f"{kind} {number}".encode())
        assert producer.flush(20) == 0
        if kind == "committed":
            producer.commit_transaction(30)
        elif kind == "aborted":
            producer.abort_transaction(30)
    seen: list[bytes | None] = []
    with ShareConsumer({**servers, "group.id": group}) as consumer:
        consumer.subscribe([topic])
        deadline = time.monotonic() + 20
        while len(seen) < 10 and time.monotonic() < deadline:
            seen += [message.value() for message in consumer.poll(0.3)]
        assert list(consumer.poll(0.5)) == [], "an open transaction is waited for"
        producer.commit_transaction(30)
        while len(seen) < 15 and time.monotonic() < deadline:
            seen += [message.value() for message in consumer.poll(0.3)]
    expected = [f"committed {number}".encode() for number in range(5)]
    assert seen == expected * 2 + [f"open {number}".encode() for number in range(5)]


def _released(consumer: ShareConsumer, message: Message, released: set[bytes]) -> bool:
    """Every tenth record is released once, all else is accepted."""
    value = message.value()
    assert value is not None
    again = value.endswith(b"7") and value not in released
    consumer.acknowledge(message, AcknowledgeType.RELEASE if again else AcknowledgeType.ACCEPT)
    if again:
        released.add(value)
    return again
