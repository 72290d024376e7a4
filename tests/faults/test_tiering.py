"""Tiered topics when things go wrong: processes die in the middle of uploads, the object store is
down or silent, topics go away, and the whole disk is lost."""

from __future__ import annotations

import random
import shutil
import threading
import time
from pathlib import Path

import pytest
from confluent_kafka import KafkaError, Message, Producer, TopicPartition
from confluent_kafka.admin._config import AlterConfigOpType, ConfigEntry, ConfigResource
from confluent_kafka.admin._resource import ResourceType

from robustmq.storage.object_store import ObjectStore
from robustmq.storage.remote_store import open_object_store
from robustmq.tiering_settings import TieringSettings
from tests.azure_store import AzureServer
from tests.broker import BrokerProcess, until
from tests.faults.tiering import (
    PATIENCE_S,
    SEGMENT_BYTES,
    admin,
    check_store,
    consume,
    lag,
    local_segments,
    make_topic,
    number_of,
    partitions_in,
    produce,
    run_recover,
    said,
    uploaded,
    value,
    wait_uploaded,
    watermarks,
)
from tests.object_stores import S3Server, tiering_settings


def opened(server: S3Server, url: str) -> ObjectStore:
    return open_object_store(TieringSettings(url, server.options))


def alter(broker: BrokerProcess, topic: str, **configs: str) -> None:
    """Set settings of a topic; with _ in the place of dots."""
    rows = [
        ConfigEntry(name.replace("_", "."), text, incremental_operation=AlterConfigOpType.SET)
        for name, text in configs.items()
    ]
    resource = ConfigResource(ResourceType.TOPIC, topic, incremental_configs=rows)
    client = admin(broker)
    client.incremental_alter_configs([resource])[resource].result(PATIENCE_S)


def transactions(broker: BrokerProcess, topic: str) -> None:
    """A transaction that is aborted and one that is committed, each over more than a segment."""
    producer = Producer(
        {"bootstrap.servers": f"127.0.0.1:{broker.kafka}", "transactional.id": "tiers"}
    )
    producer.init_transactions(PATIENCE_S)
    for first, commit in ((1_000, False), (2_000, True)):
        producer.begin_transaction()
        for number in range(first, first + 60):
            producer.produce(topic, value(number), partition=0)
            producer.poll(0)
        if commit:
            producer.commit_transaction(PATIENCE_S)
        else:
            producer.abort_transaction(PATIENCE_S)


@pytest.mark.parametrize(("kind", "workers"), [("s3", 2), ("azure", 1), ("file", 1)])
def test_a_lost_disk_is_made_again_from_the_object_store(
    tmp_path: Path, request: pytest.FixtureRequest, kind: str, workers: int
) -> None:
    options: dict[str, str] = {}
    if kind == "file":
        url = (tmp_path / "objects").as_uri()
    else:
        server: S3Server | AzureServer = request.getfixturevalue(f"{kind}_server")
        url, options = server.fresh_url(), server.options
    settings = tiering_settings(url, options)
    with BrokerProcess(tmp_path, workers, **settings) as broker:
        make_topic(broker, "t", 2)
        produce(broker, "t", range(60))
        transactions(broker, "t")
        produce(broker, "t", range(60, 150))
        wait_uploaded(broker, 5)
        until(lambda: len(local_segments(broker)) == 1, PATIENCE_S, "local retention")
        before = consume(broker, "t", isolation="read_committed")
        broker.kill()
        full = run_recover(broker, url, options, "--take-over")
        assert full.returncode == 1 and "not empty" in full.stderr
        shutil.rmtree(broker.data)
        living = run_recover(broker, url, options)
        assert living.returncode == 1 and "--take-over" in living.stderr
        looked = run_recover(broker, url, options, "--look")
        assert looked.returncode == 0 and "topic t: 2 partitions" in looked.stdout
        assert not broker.data.exists()
        done = run_recover(broker, url, options, "--take-over")
        assert done.returncode == 0, done.stderr
        assert "MISSING" not in done.stdout and "1: nothing was uploaded" in done.stdout
        broker.start()
        low, high = watermarks(broker, "t")
        after = consume(broker, "t", isolation="read_committed")
        assert low == 0 and after == [row for row in before if row[0] < high]
        assert len(after) > 100 and {number for _, number in after} & set(range(2_000, 2_060))
        assert not {number for _, number in after} & set(range(1_000, 1_060))
        assert produce(broker, "t", range(200, 260)) == list(range(high, high + 60))
        assert produce(broker, "t", range(5), 1) == list(range(5))
        wait_uploaded(broker, 6)
        assert consume(broker, "t", isolation="read_committed")[-1] == (
            high + 59,
            259,
        )
        client = admin(broker)
        described = client.describe_configs([ConfigResource(ResourceType.TOPIC, "t")])
        configs = next(iter(described.values())).result(PATIENCE_S)
        assert configs["local.retention.bytes"].value == "1"


class Producing:
    """An idempotent producer that goes on until it is stopped."""

    def __init__(self, broker: BrokerProcess) -> None:
        self.acked: dict[int, list[int]] = {0: [], 1: []}
        settings = {"bootstrap.servers": f"127.0.0.1:{broker.kafka}", "linger.ms": 5}
        self._producer = Producer(
            {**settings, "enable.idempotence": True, "reconnect.backoff.max.ms": 200}
        )
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run)
        self._thread.start()

    def _run(self) -> None:
        number = 0
        while not self._stopped.is_set():
            if len(self._producer) < 50:
                partition = number % 2
                self._producer.produce(
                    "t", value(number), partition=partition, on_delivery=self._delivered
                )
                number += 1
            self._producer.poll(0.001)

    def _delivered(self, error: KafkaError | None, message: Message) -> None:
        if error is None:
            self.acked[message.partition() or 0].append(number_of(message.value()))

    @property
    def count(self) -> int:
        """Records that were acknowledged."""
        return sum(map(len, self.acked.values()))

    def stop(self) -> None:
        """Wait for what was sent."""
        self._stopped.set()
        self._thread.join()
        assert self._producer.flush(PATIENCE_S) == 0


@pytest.mark.parametrize("workers", [1, 2])
def test_kills_in_the_middle_of_uploads_lose_nothing(
    tmp_path: Path, s3_server: S3Server, workers: int
) -> None:
    dice = random.Random(workers)
    url = s3_server.fresh_url()
    store = opened(s3_server, url)
    with BrokerProcess(tmp_path, workers, **s3_server.settings(url)) as broker:
        make_topic(broker, "t", 2)
        producing = Producing(broker)
        try:
            for _ in range(4):
                begun = producing.count
                until(
                    lambda begun=begun: producing.count > begun + 60,  # type: ignore[misc]
                    PATIENCE_S,
                    "more records",
                )
                time.sleep(dice.random() * 0.4)
                if workers == 1 or dice.random() < 0.5:
                    broker.kill()
                    check_store(store)
                    broker.start()
                else:
                    broker.kill_worker(dice.randrange(2))
        finally:
            producing.stop()
        wait_uploaded(broker)
        for partition, numbers in producing.acked.items():
            found = consume(broker, "t", partition)
            assert [offset for offset, _ in found] == list(range(len(found)))
            assert [number for _, number in found] == numbers
        assert check_store(store) == uploaded(broker) >= 2
        for prefix, head in partitions_in(store).items():
            # What was uploaded and never told of is gone.
            names = [path for path, _ in store.list(prefix) if path.endswith(".log")]
            assert all(int(path.removeprefix(prefix)[:20]) < head.end_offset for path in names)


def test_a_store_that_is_away_holds_nobody_up(tmp_path: Path) -> None:
    (tmp_path / "s3").mkdir()
    server = S3Server(tmp_path / "s3")
    url = server.fresh_url()
    with BrokerProcess(tmp_path, 1, **server.settings(url)) as broker:
        make_topic(broker, "t")
        assert produce(broker, "t", range(150)) == list(range(150))
        until(lambda: lag(broker) >= 2, PATIENCE_S, "the lag")
        unavailable = "robustmq_storage_tier_unavailable"
        until(lambda: broker.metric(unavailable) == 1, PATIENCE_S, "the metric")
        assert broker.metric("robustmq_storage_tier_lag_bytes") > 1_000_000
        until(lambda: broker.metric("robustmq_storage_tier_lag_ms") > 0, PATIENCE_S, "its age")
        assert len(local_segments(broker)) == 3, "what is not uploaded stays"
        with server:
            wait_uploaded(broker, 2)
            assert broker.metric(unavailable) == 0
            assert said(broker, "the object store does not answer") == 1
            until(lambda: said(broker, "answers again") == 1, PATIENCE_S, "the word of it")
            server.hold()
            produce(broker, "t", range(150, 300))
            until(lambda: broker.metric(unavailable) == 1, PATIENCE_S, "a timeout")
            server.go_on()
            wait_uploaded(broker, 5)
            assert [number for _, number in consume(broker, "t")] == list(range(300))
            assert check_store(opened(server, url)) == uploaded(broker)


def test_uploads_take_no_more_of_the_network_than_they_may(
    tmp_path: Path, s3_server: S3Server
) -> None:
    rate, uploads = 1_000_000, 2
    settings = s3_server.settings(s3_server.fresh_url()) | {
        "STORAGE__TIERING__UPLOADS": str(uploads),
        "STORAGE__TIERING__UPLOAD_BYTES_PER_SECOND": str(rate),
    }
    with BrokerProcess(tmp_path, 1, **settings) as broker:
        make_topic(broker, "t", 2)
        begin = time.monotonic()
        for partition in range(2):
            produce(broker, "t", range(200), partition)
        done = 0

        def all_there() -> bool:
            nonlocal done
            done = broker.metric("robustmq_storage_tier_bytes_uploaded_total")
            allowed = rate * (time.monotonic() - begin) + uploads * SEGMENT_BYTES
            assert done <= allowed, "what is on its way when the bound is met may end"
            return uploaded(broker) >= 6 and not lag(broker)

        until(all_there, PATIENCE_S, "the last upload")
        assert time.monotonic() - begin > (done - uploads * SEGMENT_BYTES) / rate
        assert [number for _, number in consume(broker, "t")] == list(range(200))


def test_what_is_deleted_leaves_the_store(tmp_path: Path) -> None:
    (tmp_path / "s3").mkdir()
    with S3Server(tmp_path / "s3") as server:
        url = server.fresh_url()
        store = opened(server, url)
        with BrokerProcess(tmp_path, 2, **server.settings(url)) as broker:
            for name in ("gone", "records", "short", "off"):
                make_topic(broker, name)
                produce(broker, name, range(160))
            wait_uploaded(broker, 12)
            prefixes = {head.topic.name: prefix for prefix, head in partitions_in(store).items()}
            client = admin(broker)
            next(iter(client.delete_records([TopicPartition("records", 0, 120)]).values())).result()
            until(
                lambda: len(store.list(prefixes[b"records"])) == 3, PATIENCE_S, "two segments less"
            )
            assert watermarks(broker, "records") == (120, 160)
            assert [number for _, number in consume(broker, "records")] == list(range(120, 160))
            alter(broker, "short", local_retention_bytes="-2", retention_bytes="1300000")
            until(lambda: watermarks(broker, "short")[0] > 0, PATIENCE_S, "retention of the store")
            check_store(store)
            alter(broker, "off", remote_storage_enable="false", remote_log_delete_on_disable="true")
            until(lambda: not store.list(prefixes[b"off"]), PATIENCE_S, "the end of tiering")
            start, end = watermarks(broker, "off")
            assert 100 < start < end == 160, "what was in the store alone is gone"
            assert [number for _, number in consume(broker, "off")] == list(range(start, end))
            alter(broker, "off", remote_storage_enable="true")
            produce(broker, "off", range(end, 260))
            until(lambda: len(store.list(prefixes[b"off"])) > 4, PATIENCE_S, "it is tiered again")
            assert [number for _, number in consume(broker, "off")] == list(range(start, 260))
            server.kill()
            client.delete_topics(["gone"])["gone"].result(PATIENCE_S)
            until(lambda: broker.metric("robustmq_storage_tier_unavailable"), PATIENCE_S, "a try")
            broker.kill()
            server.start()
            broker.start()
            until(lambda: not store.list(prefixes[b"gone"]), PATIENCE_S, "the end of its objects")
            topic_id = prefixes[b"gone"].split("/")[1]
            until(
                lambda: not list(broker.data.glob(f"*/segments/{topic_id}")),
                PATIENCE_S,
                "the end of its directory",
            )
            assert store.list(prefixes[b"records"])
