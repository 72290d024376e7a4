"""Light topics of mode tiered at more length: with ROBUSTMQ_TEST_ALL alone."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from confluent_kafka import TopicPartition

from robustmq.storage.remote_store import open_object_store
from robustmq.tiering_settings import TieringSettings
from tests.broker import BrokerProcess, until
from tests.faults.light_tiering import (
    CONFIG,
    numbers_in,
    objects,
    publish,
    reload,
    wait_away,
    wait_even,
)
from tests.faults.test_tiering import opened
from tests.faults.tiering import admin, produce, run_recover, watermarks
from tests.object_stores import S3Server

ALL = bool(os.environ.get("ROBUSTMQ_TEST_ALL"))
PLACES = [("s3", 2), ("file", 1)]

__test__ = bool(os.environ.get("ROBUSTMQ_TEST_ALL"))
PLACES = [("s3", 2), ("file", 1)]


def verify(broker: BrokerProcess) -> subprocess.CompletedProcess[str]:
    """`robustmq storage verify` of a broker that runs."""
    command = [sys.executable, "-m", "robustmq.cli.main", "storage", "verify"]
    command += ["--data-dir", str(broker.data)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize(("kind", "workers"), PLACES)
def test_older_records_are_read_from_the_store_when_no_local_file_has_them(
    tmp_path: Path, s3_server: S3Server, kind: str, workers: int
) -> None:
    url = s3_server.fresh_url() if kind == "s3" else (tmp_path / "objects").as_uri()
    settings = s3_server.settings(url)
    if kind == "file":
        del settings["STORAGE__TIERING__OPTIONS"]
    with BrokerProcess(tmp_path, workers, CONFIG, **settings) as broker:
        topics = [f"t/{n}" for n in range(4)]
        publish(broker, topics, range(400))
        assert produce(broker, "t.0", range(1_000, 1_040)) == list(range(100, 140))
        publish(broker, topics, range(400, 800))
        wait_away(broker, 6)
        for _ in range(2):
            for n, topic in enumerate(topics):
                mine = list(range(n, 400, 4)) + (list(range(1_000, 1_040)) if not n else [])
                assert numbers_in(broker, topic) == mine + list(range(400 + n, 800, 4))
            broker.restart()
        verified = verify(broker)
        assert verified.returncode == 0 and "nothing is damaged" in verified.stdout, verified


@pytest.mark.parametrize(("kind", "workers"), PLACES)
def test_a_lost_disk_is_made_again_with_its_light_topics(
    tmp_path: Path, s3_server: S3Server, kind: str, workers: int
) -> None:
    url = s3_server.fresh_url() if kind == "s3" else (tmp_path / "objects").as_uri()
    options = s3_server.options if kind == "s3" else {}
    settings = s3_server.settings(url)
    if kind == "file":
        del settings["STORAGE__TIERING__OPTIONS"]
    with BrokerProcess(tmp_path, workers, CONFIG, **settings) as broker:
        topics = [f"t/{n}" for n in range(4)]
        publish(broker, [*topics, "other"], range(500))
        client = admin(broker)
        next(iter(client.delete_records([TopicPartition("t.1", 0, 30)]).values())).result(20)
        publish(broker, topics, range(500, 700))
        wait_away(broker, 6)
        before = {topic: numbers_in(broker, topic) for topic in topics}
        broker.kill()
        shutil.rmtree(broker.data)
        looked = run_recover(broker, url, options, "--look")
        assert looked.returncode == 0 and "light topics of shard 1" in looked.stdout
        done = run_recover(broker, url, options, "--take-over")
        assert done.returncode == 0, done.stderr
        assert "MISSING" not in done.stdout and "topics" in done.stdout
        broker.start()
        for topic in topics:
            low, high = watermarks(broker, topic.replace("/", "."))
            found = numbers_in(broker, topic)
            assert found == before[topic][: len(found)] and len(found) > 60
            assert low == (30 if topic == "t/1" else 0) and high == low + len(found)
        again = numbers_in(broker, "t/2")
        assert produce(broker, "t.2", range(5)) == list(range(len(again), len(again) + 5))
        publish(broker, topics, range(1_000, 1_300))
        wait_away(broker, objects(broker) + 1)
        broker.restart()
        assert numbers_in(broker, "t/2") == again + list(range(5)) + list(range(1_002, 1_300, 4))
        wait_even(broker, open_object_store(TieringSettings(url, options)))


LIMITS = (
    CONFIG
    + """
[[storage.rules]]
filter = "b/+"
mode = "tiered"
local_retention_ms = 0
retention_bytes = 2000000
"""
)


def test_modes_change_and_what_nobody_needs_leaves_the_store(
    tmp_path: Path, s3_server: S3Server
) -> None:
    url = s3_server.fresh_url()
    store = opened(s3_server, url)
    persistent = LIMITS.replace('filter = "t/+"\nmode = "tiered"', 'filter = "t/+"')
    with BrokerProcess(tmp_path, 1, LIMITS, **s3_server.settings(url)) as broker:
        publish(broker, ["t/0"], range(120))
        publish(broker, ["b/0"], range(300))
        wait_away(broker, 1)
        reload(broker, persistent)
        publish(broker, ["t/0"], range(120, 240))
        reload(broker, LIMITS)
        publish(broker, ["t/0"], range(240, 360))
        until(lambda: watermarks(broker, "b.0")[0] > 0, 40, "the end of what is too much")
        numbers = numbers_in(broker, "b/0")
        assert 100 <= len(numbers) < 250 and numbers[-1] == 299
        assert numbers_in(broker, "t/0") == list(range(360))
        broker.restart()
        assert numbers_in(broker, "t/0") == list(range(360))
        client = admin(broker)
        next(iter(client.delete_records([TopicPartition("t.0", 0, 200)]).values())).result(20)
        assert watermarks(broker, "t.0") == (200, 360)
        assert numbers_in(broker, "t/0") == list(range(200, 360))
        reload(broker, LIMITS.replace("[storage]", "[storage]\ntopic_idle_expiry_s = 3", 1))
        until(lambda: objects(broker) == 0, 60, "the end of what idle topics had")
        wait_even(broker, store)
        publish(broker, ["t/0"], range(5))
        assert numbers_in(broker, "t/0") == list(range(5))
