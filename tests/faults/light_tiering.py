"""Light topics of mode tiered in a real broker: filled over MQTT and Kafka, read, and looked at in
the object store."""

from __future__ import annotations

import os
import re
import signal
import threading

import paho.mqtt.client as paho
from confluent_kafka import Consumer, KafkaError, Message, Producer, TopicPartition
from paho.mqtt.enums import CallbackAPIVersion

from robustmq.storage.cleaned_log import FOOTER, index_of, runs, slot_area
from robustmq.storage.cold_scan import Lost, scan
from robustmq.storage.manifest import LOG, NAME, Head, object_name, read_head, read_rows
from robustmq.storage.object_store import ObjectMissingError, ObjectStore
from tests.broker import BrokerProcess, until
from tests.faults.tiering import PATIENCE_S, consume, number_of, value

CONFIG = """
[node]
shards = 2
[storage]
segment_bytes = 1048576
hot_bytes = 1048576
checkpoint_bytes = 1048576
light_retention_ms = -1
[[storage.rules]]
filter = "t/+"
mode = "tiered"
local_retention_ms = 0
"""
"""Small files, and nothing stays on the local disk that is in the store."""


def publish(broker: BrokerProcess, topics: list[str], numbers: range) -> None:
    """Numbered values of 20 KB by MQTT, QoS 1, to topics in turn, until all are acknowledged."""
    client = paho.Client(CallbackAPIVersion.VERSION2, client_id="fills")
    client.max_inflight_messages_set(20)
    client.max_queued_messages_set(0)
    client.connect("127.0.0.1", broker.mqtt)
    client.loop_start()
    try:
        infos = [
            client.publish(topics[number % len(topics)], value(number), 1) for number in numbers
        ]
        until(lambda: all(info.is_published() for info in infos), PATIENCE_S, "PUBACK of all")
    finally:
        client.disconnect()
        client.loop_stop()


def numbers_in(broker: BrokerProcess, topic: str) -> list[int]:
    """What a topic has, from its first offset on; offsets must be dense."""
    found = consume(broker, topic.replace("/", "."))
    assert [offset for offset, _ in found] == list(
        range(found[0][0] if found else 0, (found[-1][0] if found else -1) + 1)
    )
    return [number for _, number in found]


def logs_in(store: ObjectStore) -> dict[str, Head]:
    """The heads of the manifests of all shards' logs, by their prefix."""
    found = {}
    for cluster in store.folders():
        for name in store.folders(f"{cluster}/"):
            if not name.startswith("light-"):
                continue
            prefix = f"{cluster}/{name}/"
            try:
                found[prefix] = read_head(store, prefix)[0]
            except ObjectMissingError:
                continue
    return found


def check_logs(store: ObjectStore) -> int:
    """All that manifests of shards' logs tell of is there, and whole, and nothing else is; how many
    objects."""
    count = 0
    for prefix, head in logs_in(store).items():
        there = dict(store.list(prefix))
        names = {prefix + NAME}
        for row in read_rows(store, prefix, head):
            name = prefix + object_name(row.base_offset, row.leader_epoch) + LOG
            assert there[name] == row.size
            data = store.get(name)[0]
            begin = FOOTER.unpack(data[-FOOTER.size :])[-1]
            slots = index_of(data[begin:], begin)
            assert slots is not None
            for slot in range(len(slots.offsets)):
                low, high = slot_area(slots, slot)
                assert runs(data[low:high])[1], "runs are whole"
            names.add(name)
            count += 1
        assert set(there) == names
    return count


def log_files(broker: BrokerProcess) -> int:
    """Bytes of shards' logs on the local disk."""
    return sum(file.stat().st_size for file in broker.data.glob("*/log/*"))


def objects(broker: BrokerProcess) -> int:
    """Objects that are told of."""
    return broker.metric("robustmq_storage_tier_light_objects")


def reload(broker: BrokerProcess, config: str) -> None:
    """Other settings, taken over by SIGHUP."""
    broker.config.write_text(config)
    taken = broker.log.count("settings reloaded")
    os.kill(broker.pid, signal.SIGHUP)
    until(lambda: broker.log.count("settings reloaded") == taken + broker.workers, 20, "them")


def wait_away(broker: BrokerProcess, more_than: int = 0) -> None:
    """Until all that is closed is in the store, more objects than so many, and not here."""
    until(lambda: objects(broker) > more_than, PATIENCE_S, "uploads")
    until(
        lambda: (
            broker.metric("robustmq_storage_tier_light_lag_bytes") < 2 * (1 << 20) + (1 << 19)
            and log_files(broker) < 5 * (1 << 20)
        ),
        PATIENCE_S,
        "local files that are gone",
    )


class Producing:
    """An idempotent Kafka producer to light topics in turn that goes on until it is stopped."""

    def __init__(self, broker: BrokerProcess, topics: list[str]) -> None:
        publish(broker, topics, range(len(topics)))
        self.acked = {topic: [number] for number, topic in enumerate(topics)}
        settings = {"bootstrap.servers": f"127.0.0.1:{broker.kafka}", "linger.ms": 5}
        self._producer = Producer(
            {**settings, "enable.idempotence": True, "reconnect.backoff.max.ms": 200}
        )
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        topics = list(self.acked)
        number = len(topics)
        while not self._stopped.is_set():
            if len(self._producer) < 50:
                topic = topics[number % len(topics)].replace("/", ".")
                self._producer.produce(topic, value(number), on_delivery=self._delivered)
                number += 1
            self._producer.poll(0.001)

    def _delivered(self, error: KafkaError | None, message: Message) -> None:
        if error is None:
            topic = (message.topic() or "").replace(".", "/")
            self.acked[topic].append(number_of(message.value()))

    @property
    def count(self) -> int:
        """Records that were acknowledged."""
        return sum(map(len, self.acked.values()))

    def more(self, count: int) -> None:
        """Wait until so many more are acknowledged."""
        begun = self.count
        until(lambda: self.count >= begun + count, PATIENCE_S, "more records")

    def stop(self) -> None:
        """Wait for what was sent."""
        self._stopped.set()
        self._thread.join()
        assert self._producer.flush(PATIENCE_S) == 0


def sent_once(broker: BrokerProcess, topic: str, numbers: range) -> list[int]:
    """What became of each record that was sent once, one behind the other, until one is refused: 0,
    or the error's code."""
    outcomes: list[int] = []

    def delivered(error: KafkaError | None, _: Message) -> None:
        outcomes.append(0 if error is None else error.code())

    producer = Producer({"bootstrap.servers": f"127.0.0.1:{broker.kafka}", "retries": 0})
    for number in numbers:
        producer.produce(topic, value(number), on_delivery=delivered)
        assert producer.flush(PATIENCE_S) == 0
        if outcomes[-1]:
            break
    return outcomes


def read_at(broker: BrokerProcess, topic: str, offset: int, timeout_s: float = PATIENCE_S) -> int:
    """The number at an offset, or less than 0 what the broker says of it instead: minus the error's
    code."""
    consumer = Consumer(
        {
            "bootstrap.servers": f"127.0.0.1:{broker.kafka}",
            "group.id": "looks",
            "enable.auto.commit": False,
            "auto.offset.reset": "error",
        }
    )
    try:
        consumer.assign([TopicPartition(topic.replace("/", "."), 0, offset)])
        found = consumer.poll(timeout_s)
        if found is None:
            return -KafkaError._TIMED_OUT
        error = found.error()
        return number_of(found.value()) if error is None else -abs(error.code())
    finally:
        consumer.close()


def wait_even(broker: BrokerProcess, store: ObjectStore) -> None:
    """Until the store has what the broker says, and nothing else."""

    def even() -> bool:
        try:
            return check_logs(store) == objects(broker)
        except (AssertionError, KeyError, ObjectMissingError):
            # Something is on its way there.
            return False

    until(even, PATIENCE_S, "an even store")


def numbers_of(data: bytes) -> set[int]:
    """Of the values in an object, or a part of it."""
    return {int(one) for one in re.findall(rb"(\d+) x{100}", data)}


def sound_numbers(store: ObjectStore, path: str) -> set[int]:
    """Those that the sound entries of an object have."""
    prefix = path.rpartition("/")[0] + "/"
    rows = read_rows(store, prefix, read_head(store, prefix)[0])
    (row,) = (one for one in rows if path == f"{prefix}{object_name(one[0], one.leader_epoch)}.log")
    found = scan(store, path, row.size, row)
    return set().union(*(numbers_of(bytes(e.data)) for e in found if not isinstance(e, Lost)))
