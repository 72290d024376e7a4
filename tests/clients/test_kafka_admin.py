"""Administration with stock clients, and a cluster of workers as clients see it."""

from __future__ import annotations

import uuid
from collections.abc import Iterator
from pathlib import Path

import confluent_kafka
import kafka
import pytest
from confluent_kafka.admin import AdminClient
from confluent_kafka.admin._config import ConfigResource
from confluent_kafka.cimpl import NewPartitions, NewTopic

from tests.broker import BrokerProcess, until


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrokerProcess]:
    with BrokerProcess(tmp_path_factory.mktemp("admin"), 2) as running:
        yield running


def write_and_read(bootstrap: str, topic: str, partitions: int) -> None:
    """A record to every partition, and all of them back."""
    producer = confluent_kafka.Producer({"bootstrap.servers": bootstrap})
    for partition in range(partitions):
        producer.produce(topic, b"%d" % partition, partition=partition)
    assert producer.flush(20) == 0
    consumer = confluent_kafka.Consumer(
        {"bootstrap.servers": bootstrap, "group.id": uuid.uuid4().hex}
    )
    consumer.assign([confluent_kafka.TopicPartition(topic, n, 0) for n in range(partitions)])
    seen: set[bytes] = set()
    while len(seen) < partitions:
        message = consumer.poll(10)
        assert message is not None and message.error() is None
        seen.add(message.value() or b"")
    consumer.close()


def test_librdkafka_creates_grows_describes_and_deletes_a_topic(broker: BrokerProcess) -> None:
    admin = AdminClient({"bootstrap.servers": f"127.0.0.1:{broker.kafka}"})
    name = uuid.uuid4().hex
    admin.create_topics([NewTopic(name, 2, config={"retention.ms": "1000"})])[name].result(10)
    assert len(admin.list_topics(name, timeout=10).topics[name].partitions) == 2
    with pytest.raises(confluent_kafka.KafkaException) as refused:
        admin.create_topics([NewTopic(name, 2)])[name].result(10)
    assert refused.value.args[0].code() == confluent_kafka.KafkaError.TOPIC_ALREADY_EXISTS
    admin.create_partitions([NewPartitions(name, 5)])[name].result(10)
    assert len(admin.list_topics(name, timeout=10).topics[name].partitions) == 5
    write_and_read(f"127.0.0.1:{broker.kafka}", name, 5)
    resource = ConfigResource(ConfigResource.Type.TOPIC, name)
    found = admin.describe_configs([resource])[resource].result(10)
    assert found["retention.ms"].value == "1000"
    assert found["max.message.bytes"].value == str(16 * 1024 * 1024)
    cluster = admin.describe_cluster().result(10)
    assert [node.port for node in cluster.nodes] == broker.worker_ports
    admin.delete_topics([name])[name].result(10)
    assert name not in admin.list_topics(timeout=10).topics


def test_kafka_python_lists_describes_and_deletes_groups(broker: BrokerProcess) -> None:
    address = f"127.0.0.1:{broker.kafka}"
    topic, group = uuid.uuid4().hex, uuid.uuid4().hex
    admin = kafka.KafkaAdminClient(bootstrap_servers=address)
    admin.create_topics([kafka.admin.NewTopic(topic, 3, 1)])
    consumer = kafka.KafkaConsumer(
        topic, bootstrap_servers=address, group_id=group, enable_auto_commit=False
    )
    until(lambda: consumer.poll(100) is not None and consumer.assignment(), 30, "an assignment")
    consumer.commit({kafka.TopicPartition(topic, 0): kafka.OffsetAndMetadata(7, "", -1)})
    other = AdminClient({"bootstrap.servers": address})
    listed = [entry.group_id for entry in other.list_consumer_groups().result(10).valid]
    assert listed.count(group) == 1
    described = admin.describe_groups([group])
    assert "Stable" in str(described)
    consumer.close()
    offsets = admin.list_group_offsets(group)
    assert "7" in str(offsets)
    admin.delete_groups([group])
    listed = [entry.group_id for entry in other.list_consumer_groups().result(10).valid]
    assert group not in listed
    admin.close()


def test_a_client_that_knows_one_worker_reaches_the_partitions_of_all(
    broker: BrokerProcess,
) -> None:
    for port in broker.worker_ports:
        name = uuid.uuid4().hex
        admin = AdminClient({"bootstrap.servers": f"127.0.0.1:{port}"})
        admin.create_topics([NewTopic(name, 8)])[name].result(10)
        partitions = admin.list_topics(name, timeout=10).topics[name].partitions.values()
        assert {partition.leader for partition in partitions} == {0, 1}
        write_and_read(f"127.0.0.1:{port}", name, 8)


def test_a_topic_that_is_asked_for_is_made_with_one_partition_or_not_at_all(
    broker: BrokerProcess, tmp_path: Path
) -> None:
    name = uuid.uuid4().hex
    write_and_read(f"127.0.0.1:{broker.kafka}", name, 1)
    with BrokerProcess(tmp_path, 1, KAFKA__AUTO_CREATE="false") as other:
        producer = confluent_kafka.Producer(
            {
                "bootstrap.servers": f"127.0.0.1:{other.kafka}",
                "topic.metadata.propagation.max.ms": 200,
            }
        )
        failed: list[confluent_kafka.KafkaError | None] = []
        producer.produce(name, b"x", on_delivery=lambda error, message: failed.append(error))
        assert producer.flush(20) == 0
        assert failed[0] is not None
        codes = (
            confluent_kafka.KafkaError._UNKNOWN_TOPIC,
            confluent_kafka.KafkaError.UNKNOWN_TOPIC_OR_PART,
        )
        assert failed[0].code() in codes


def test_with_a_single_port_clients_see_one_broker_and_reach_everything(tmp_path: Path) -> None:
    with BrokerProcess(tmp_path, 2, KAFKA__SINGLE_PORT="true") as single:
        address = f"127.0.0.1:{single.kafka}"
        admin = AdminClient({"bootstrap.servers": address})
        admin.create_topics([NewTopic("wide", 8)])["wide"].result(10)
        nodes = admin.describe_cluster().result(10).nodes
        assert [node.port for node in nodes] == [single.kafka]
        assert single.worker_ports == []
        write_and_read(address, "wide", 8)
        consumer = confluent_kafka.Consumer(
            {"bootstrap.servers": address, "group.id": "g", "auto.offset.reset": "earliest"}
        )
        consumer.subscribe(["wide"])
        seen: set[bytes] = set()
        while len(seen) < 8:
            message = consumer.poll(10)
            assert message is not None and message.error() is None
            seen.add(message.value() or b"")
        consumer.commit(asynchronous=False)
        consumer.close()
