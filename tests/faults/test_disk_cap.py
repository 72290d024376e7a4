"""A shard at storage.shard_max_bytes: producers hear a clear error, nothing that was acknowledged
goes, consumers and deletions go on, and it takes records again when it is below."""

from __future__ import annotations

from pathlib import Path

import pytest
from confluent_kafka import KafkaError, Producer, TopicPartition
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]

from tests.broker import BrokerProcess, until
from tests.faults.load import read_log
from tests.faults.test_full_disk import Answers

MIB = 1 << 20
PAYLOAD = "x" * 100_000


def fill(broker: BrokerProcess, topic: str) -> tuple[int, KafkaError]:
    """Produce until that is refused: how many were taken, and the error."""
    errors: list[KafkaError | None] = []
    producer = Producer(
        {
            "bootstrap.servers": f"127.0.0.1:{broker.kafka}",
            "acks": "all",
            "message.timeout.ms": 5_000,
            "retries": 0,
            "log_level": 2,
        }
    )
    for taken in range(1000):
        producer.produce(topic, PAYLOAD, partition=0, on_delivery=lambda e, _: errors.append(e))
        producer.flush(30)
        error = errors[-1]
        if error is not None:
            return taken, error
    raise AssertionError("it is refused")


@pytest.mark.timeout(90)
@pytest.mark.parametrize("workers", [1, 2])
def test_at_the_cap_producers_are_refused_and_all_else_goes_on(
    tmp_path: Path, workers: int
) -> None:
    settings = {"STORAGE__SHARD_MAX_BYTES": str(4 * MIB), "STORAGE__RETENTION_CHECK_S": "1"}
    with BrokerProcess(tmp_path, workers, **settings) as broker:
        admin = AdminClient({"bootstrap.servers": f"127.0.0.1:{broker.kafka}", "log_level": 2})
        small = NewTopic("declared", 1, config={"segment.bytes": str(MIB)})
        admin.create_topics([small])["declared"].result(30)
        answers = Answers(broker)
        # A declared topic: its files count.
        taken, error = fill(broker, "declared")
        assert taken > 40 and error.code() in (
            KafkaError.KAFKA_STORAGE_ERROR,
            KafkaError._TIMED_OUT,
        )
        assert "storage.shard_max_bytes" in broker.log
        until(lambda: broker.metric("robustmq_storage_shards_capped") == 1, what="the metric")
        assert len(read_log(broker, "declared")[0]) == taken, "what was taken is read"
        assert answers.publish("other") in (0, 0x10), "other shards take theirs"
        admin.delete_records([TopicPartition("declared", 0, taken - 5)])
        until(lambda: "takes records again" in broker.log, 20, "room")
        until(lambda: not broker.metric("robustmq_storage_shards_capped"))
        again, _ = fill(broker, "declared")
        assert again > 5
        # A light topic over MQTT.
        until(lambda: answers.publish(PAYLOAD) == 0x97, 40, "a refusal by MQTT")
        broker.kill()
        broker.start()
        (values,) = read_log(broker, "full.a")
        accepted = sum(code != 0x97 for code in answers.codes.values())
        assert len(values) >= accepted
