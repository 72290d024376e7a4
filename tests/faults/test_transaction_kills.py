"""A copy from topic to topic in transactions, while topics get other engines and processes are
killed: every record is there once, and the group's offsets say so. Real processes, a stock client.
"""

from __future__ import annotations

import threading
import uuid
from pathlib import Path

import pytest
from confluent_kafka import Consumer, KafkaException, Producer, TopicPartition
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from tests.broker import BrokerProcess, until
from tests.clients.test_kafka_transactions import PARTITIONS, consumer, producer, read, some
from tests.faults.load import ENGINE, alter_topic

# When all brokers are down, librdkafka 2.16 begins anew and may wait for ever for a broker that it
# has given up itself.
LASTING = {"metadata.recovery.strategy": "none"}
RECORDS, BATCH = 240, 8
KILLS = ("worker 0", "worker 1", "all")
ENGINES = ("segment", "shared", "rocksdb")


class Copier:
    """Consume, produce and commit offsets in transactions, until all is copied; what fails is
    aborted and done again, by a new producer where the old one cannot go on."""

    def __init__(self, servers: str, source: str, target: str) -> None:
        self.servers, self.source, self.target = servers, source, target
        self.committed = 0
        self.failures: list[str] = []
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    @property
    def done(self) -> bool:
        return self._ended.is_set()

    def stop(self) -> None:
        self._ended.set()
        self._thread.join(30)

    def _run(self) -> None:
        while not self.done:
            reader = consumer(self.servers, self.source, **LASTING)
            try:
                writer = producer(self.servers, self.source, **LASTING)
                reader.assign([TopicPartition(self.source, n) for n in range(PARTITIONS)])
                self._copy(reader, writer)
            except KafkaException as error:
                self.failures.append(str(error))
            finally:
                reader.close()

    def _copy(self, reader: Consumer, writer: Producer) -> None:
        while not self.done:
            batch = [one for one in reader.consume(BATCH, 0.5) if one.error() is None]
            if not batch:
                places = reader.committed(reader.assignment(), 10)
                if sum(max(place.offset, 0) for place in places) >= RECORDS:
                    self._ended.set()
                continue
            writer.begin_transaction()
            try:
                for message in batch:
                    writer.produce(self.target, message.value(), partition=message.partition() or 0)
                offsets = reader.position(reader.assignment())
                group = reader.consumer_group_metadata()
                writer.send_offsets_to_transaction(offsets, group, 20)
                writer.commit_transaction(20)
                self.committed += 1
            except KafkaException as error:
                self.failures.append(str(error))
                if not error.args[0].txn_requires_abort():
                    raise
                writer.abort_transaction(20)
                for place in reader.committed(reader.assignment(), 10):
                    reader.seek(TopicPartition(self.source, place.partition, max(place.offset, 0)))


@pytest.fixture
def broker(tmp_path: Path) -> BrokerProcess:
    return BrokerProcess(tmp_path, 2, KAFKA__GROUP_INITIAL_REBALANCE_DELAY_MS="0")


def test_a_copy_is_exactly_once_whoever_is_killed(broker: BrokerProcess) -> None:
    source, target = uuid.uuid4().hex, uuid.uuid4().hex
    with broker:
        servers = f"127.0.0.1:{broker.kafka}"
        admin = AdminClient({"bootstrap.servers": servers})
        made = admin.create_topics([NewTopic(name, PARTITIONS) for name in (source, target)])
        for future in made.values():
            future.result(10)
        plain = Producer({"bootstrap.servers": servers, "enable.idempotence": True})
        values = some("v", RECORDS)
        for number, value in enumerate(values):
            plain.produce(source, value, partition=number % PARTITIONS)
        assert plain.flush(20) == 0
        copier = Copier(servers, source, target)
        try:
            for number, who in enumerate(KILLS):
                goal = (number + 1) * RECORDS // BATCH // (len(KILLS) + 2)
                until(lambda goal=goal: copier.committed >= goal, 60, "transactions")  # type: ignore[misc]
                admin = AdminClient({"bootstrap.servers": servers, "log_level": 2})
                alter_topic(admin, source, {ENGINE: ENGINES[number - 1]})
                alter_topic(admin, target, {ENGINE: ENGINES[number - 2]})
                if who == "all":
                    broker.kill()
                    broker.start()
                else:
                    broker.kill_worker(int(who[-1]))
            until(lambda: copier.done, 60, "the end of the copy")
        finally:
            copier.stop()
        assert read(servers, target) == values, copier.failures[:5]
        broker.restart()
        assert read(servers, target) == values
        reader = consumer(servers, source)
        places = reader.committed([TopicPartition(source, n) for n in range(PARTITIONS)], 20)
        reader.close()
        assert sum(place.offset for place in places) == RECORDS
