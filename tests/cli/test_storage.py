"""`robustmq storage` against real brokers and the files they leave, as an operator types it."""

from __future__ import annotations

import contextlib
import io
import json
from array import array
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import confluent_kafka
import pytest
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic
from paho.mqtt import publish as paho_publish

from robustmq.cli.main import main
from robustmq.core import hashing
from robustmq.storage import segment_index
from robustmq.storage.disk import RealDisk
from robustmq.storage.inspection import Batch, segment_batches
from robustmq.storage.kv import KeyValueSettings, open_key_value
from robustmq.storage.segment_file import SegmentFile
from tests.broker import BrokerProcess, until

CONFIG = """
[[storage.rules]]
filter = "fleeting/#"
mode = "memory"
"""


def storage(data: Path, *arguments: str) -> tuple[int, str, str]:
    """In this process, whose own secret of topics comes back afterwards: it takes a moment less."""
    out, error = io.StringIO(), io.StringIO()
    try:
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(error):
            code = main(["storage", *arguments, "--data-dir", str(data)])
    finally:
        hashing.set_topic_secret(bytes(16))
    return code, out.getvalue(), error.getvalue()


def rows(data: Path, *arguments: str, code: int = 0) -> list[dict[str, Any]]:
    found, told, error = storage(data, *arguments, "--json")
    assert found == code, error
    return [json.loads(line) for line in told.splitlines()]


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrokerProcess]:
    with BrokerProcess(tmp_path_factory.mktemp("storage"), config=CONFIG) as broker:
        config: dict[str, Any] = {"bootstrap.servers": f"127.0.0.1:{broker.kafka}"}
        admin = AdminClient(config)
        compacted = {"cleanup.policy": "compact", "min.cleanable.dirty.ratio": "1"}
        made = admin.create_topics(
            [NewTopic("files", 2, 1), NewTopic("keys", 1, 1, config=compacted)]
        )
        for future in made.values():
            future.result(30)
        producer = confluent_kafka.Producer(config)
        for number in range(50):
            producer.produce("files", b"%04d" % number * 100, partition=number % 2)
            producer.produce("keys", b"value %d" % number * 20, b"key %d" % (number % 2))
            producer.produce("a.large", b"x" * 1_000)
            producer.flush(30)
        messages: list[Any] = [
            {"topic": f"light/{number}", "payload": b"hello %d" % number, "qos": 1}
            for number in range(100)
        ]
        messages += [{"topic": "fleeting/one", "payload": b"soon gone", "qos": 1}]
        paho_publish.multiple(messages, port=broker.mqtt)
        yield broker


def test_shards_are_listed_with_what_they_hold(broker: BrokerProcess) -> None:
    shards = rows(broker.data, "list")
    assert [row["shard"] for row in shards] == list(range(16))
    assert sum(row["light_topics"] for row in shards) >= 102
    assert sum(row["partitions"] for row in shards) == 3
    memory = [row["memory_bytes"] for row in shards if row["memory_bytes"]]
    assert len(memory) == 1 and 100 < memory[0] < 300
    assert all(row["end_position"] - row["start_position"] >= 0 for row in shards)
    # What nobody waits for is committed a moment later.
    until(
        lambda: all(row["log_bytes"] == row["end_position"] for row in rows(broker.data, "list")),
        what="the commit of all that was appended",
    )
    assert storage(broker.data, "list")[1].startswith("shard")


def test_topics_of_every_kind_are_listed_by_size(broker: BrokerProcess) -> None:
    topics = rows(broker.data, "topics", "--limit", "4")
    assert [row["bytes"] for row in topics] == sorted(
        (row["bytes"] for row in topics), reverse=True
    )
    kinds = {
        (row["topic"], row["partition"]): row for row in rows(broker.data, "topics", "--limit", "0")
    }
    large, file, memory = kinds["a/large", 0], kinds["files", 1], kinds["fleeting/one", 0]
    assert (large["mode"], large["engine"], large["records"]) == ("hybrid", "light", 50)
    assert (file["engine"], file["records"], file["next_offset"]) == ("segment", 25, 25)
    assert (memory["mode"], memory["engine"], memory["records"]) == ("memory", "memory", 1)
    matched = rows(broker.data, "topics", "--match", "light/9?", "--limit", "0")
    assert sorted(row["topic"] for row in matched) == [
        f"light/{number}" for number in range(90, 100)
    ]
    oldest = rows(broker.data, "topics", "--by", "age", "--match", "light", "--limit", "5")
    assert [row["last_ms"] for row in oldest] == sorted(row["last_ms"] for row in oldest)


def test_everything_is_verified_while_the_broker_runs(broker: BrokerProcess) -> None:
    code, told, _ = storage(broker.data, "verify")
    assert code == 0
    assert told.rstrip().endswith("nothing is damaged")


def test_log_segments_and_look_ups_are_dumped_with_their_records(broker: BrokerProcess) -> None:
    shard = next(row["shard"] for row in rows(broker.data, "topics", "--match", "light/[7]"))
    entries = rows(broker.data, "dump", "log", "--shard", str(shard))
    found = [
        one["batch"]["data"][0]
        for row in entries
        for one in row.get("entries", ())
        if one["topic"] == "light/7"
    ]
    assert [record["value"] for record in found] == ["hello 7"]
    assert found[0]["headers"] == [["mqtt.qos", "1"]]
    keys = rows(broker.data, "dump", "leveldb", "--shard", str(shard), "--prefix", "tlight")
    assert "tlight/7" in [row["key"] for row in keys]
    segments = [path for path in broker.data.glob("*/segments/*/*.log") if path.stat().st_size]
    batches = rows(broker.data, "dump", "segment", str(segments[0]), "--from", "3", "--limit", "2")
    assert [row["base_offset"] for row in batches] == [3, 4]
    assert batches[0]["data"][0]["value"]


def test_a_compacted_topic_is_compacted_when_it_is_asked_for(broker: BrokerProcess) -> None:
    [done] = rows(broker.data, "compact", "keys")
    assert done["reason"] == ""
    assert 0 < done["bytes_after"] < done["bytes_before"] / 5
    log = next(row for row in rows(broker.data, "compact", "--shard", "3") if not row["topic"])
    assert (log["shard"], log["partition"]) == (3, -1)
    [refused] = rows(broker.data, "compact", "files", code=1)[:1]
    assert refused["reason"] == "its cleanup.policy is not compact"
    code, _, told = storage(broker.data, "compact", "nowhere")
    assert (code, told) == (1, "robustmq: nowhere has no partition to compact\n")


def test_a_log_is_sound_when_it_was_cleaned_of_a_topic(broker: BrokerProcess) -> None:
    [large] = rows(broker.data, "topics", "--match", "a/large")
    shard = str(large["shard"])
    admin = AdminClient({"bootstrap.servers": f"127.0.0.1:{broker.kafka}"})
    admin.delete_topics(["a.large"])["a.large"].result(30)
    done = rows(broker.data, "compact", "--shard", shard)[-1]
    assert done["bytes_after"] < done["bytes_before"] - 40_000
    code, told, _ = storage(broker.data, "verify", "--shard", shard)
    assert (code, told.rstrip().endswith("nothing is damaged")) == (0, True)
    assert all("damaged" not in row for row in rows(broker.data, "dump", "log", "--shard", shard))


def test_wrong_use_is_told_what_to_do(broker: BrokerProcess, tmp_path: Path) -> None:
    assert "leave --offline out" in storage(broker.data, "verify", "--offline")[2]
    assert "no data directory" in storage(tmp_path, "list")[2]
    assert "--shard N" in storage(broker.data, "dump", "log")[2]
    assert "0 to 15" in storage(broker.data, "verify", "--shard", "99")[2]
    assert "no segment file" in storage(broker.data, "dump", "segment", "/etc/passwd")[2]
    assert storage(broker.data, "topics", "--match", "[" * 300)[0] == 1
    assert storage(broker.data, "list")[0] == 0, "the broker is well"


def test_damage_is_found_and_named_when_the_broker_is_stopped(tmp_path: Path) -> None:
    with BrokerProcess(tmp_path, workers=1) as broker:
        config: dict[str, Any] = {"bootstrap.servers": f"127.0.0.1:{broker.kafka}"}
        admin = AdminClient(config)
        admin.create_topics([NewTopic("files", 1, 1)])["files"].result(30)
        producer = confluent_kafka.Producer(config)
        for number in range(5):
            producer.produce("files", b"%04d" % number * 100)
            producer.flush(30)
        for number in range(5):
            paho_publish.single("one/topic", b"message %d" % number * 10, 1, port=broker.mqtt)
        assert "--offline" in storage(tmp_path / "data", "verify", "--offline")[2]
        assert broker.stop() == 0
        data = broker.data
    assert storage(data, "verify", "--offline")[1].rstrip().endswith("nothing is damaged")
    _mislead(data)
    [segment] = [path for path in data.glob("*/segments/*/*.log") if path.stat().st_size]
    log = max(data.glob("*/log/*.log"), key=lambda path: path.read_bytes().count(b"message 2"))
    _flip(segment, b"0002")
    _flip(log, b"message 2")
    index = max(data.glob("*/index-*"), key=lambda path: path.stat().st_size)
    _flip(index, index.read_bytes()[16:24])
    _forget_name(data, b"one/topic")
    faults = rows(data, "verify", "--offline", code=1)
    whats = sorted((row["where"].rpartition("/")[2], row["what"]) for row in faults)
    assert (log.name, "no sound entry of the log") in whats
    assert (segment.name, "no sound batch at offset 2") in whats
    assert (index.name, "the checkpoint of the topic index is damaged") in whats
    assert [row["topic"] for row in faults if "the name of a topic" in row["what"]] == ["one/topic"]
    # What follows the hole in the topic says that there was something before it.
    assert [row["topic"] for row in faults if "the batch before it" in row["what"]] == ["one/topic"]
    [shard] = {row["shard"] for row in faults if row["where"] == str(log)}
    dumped = rows(data, "dump", "log", "--shard", str(shard), "--offline")
    assert [row["damaged"] for row in dumped if "damaged" in row] == [True]


def _forget_name(data: Path, topic: bytes) -> None:
    """The look-ups lose the name of a topic."""
    for path in data.glob("*/leveldb"):
        kv = open_key_value(str(path.parent), "", KeyValueSettings())
        if kv.get(b"t" + topic) is not None:
            kv.write([(b"t" + topic, None)], True)
        kv.close()


def _mislead(data: Path) -> None:
    """An index that would be believed, and says something else, is found out."""
    [path] = [path for path in data.glob("*/segments/*/*.log") if path.stat().st_size]
    batches = [found for found in segment_batches(path) if isinstance(found, Batch)]
    file, last = SegmentFile(0, str(path)), batches[-1]
    wrong = segment_index.Snapshot(
        file,
        last.position + last.info.length,
        last.info.base_offset + 1,
        -1,
        last.info.max_timestamp,
        last.position,
        (),
        array("q", [1]).tobytes(),
        array("q", [batches[0].position]).tobytes(),
        array("q", [last.info.max_timestamp]).tobytes(),
    )
    wrong.write(RealDisk())
    faults = rows(data, "verify", "--offline", code=1)
    assert ["the index beside it says otherwise" in fault["what"] for fault in faults] == [True]
    Path(file.index_path).unlink()


def _flip(path: Path, needle: bytes) -> None:
    data = bytearray(path.read_bytes())
    data[data.index(needle)] ^= 0x10
    path.write_bytes(data)
