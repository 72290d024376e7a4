"""Where a tiered partition's local disk begins, where the store ends and what is still to be
uploaded, as clients ask for it: -4 (KIP-405), -5 (KIP-1005) and -6 (KIP-1023) of ListOffsets, by
Kafka's own kafka-get-offsets and by raw requests to each worker."""

from __future__ import annotations

from pathlib import Path

from confluent_kafka.cimpl import NewTopic
from paho.mqtt import publish as paho_publish

from robustmq.storage.remote_store import open_object_store
from robustmq.tiering_settings import TieringSettings
from tests.broker import BrokerProcess, until
from tests.clients.test_kafka_tools import Shell
from tests.faults.light_tiering import CONFIG, logs_in, numbers_of, publish, wait_away
from tests.faults.tiering import (
    PATIENCE_S,
    admin,
    lag,
    local_segments,
    make_topic,
    partitions_in,
    produce,
    wait_uploaded,
)
from tests.kafka.wire import SocketClient
from tests.object_stores import S3Server

LIST_OFFSETS = 2
NAMES = {"earliest-local": -4, "latest-tiered": -5, "earliest-pending-upload": -6}
SINCE = {-4: 8, -5: 9, -6: 11}
"""The first version of the request that knows each."""


def raw(broker: BrokerProcess, topic: str, which: int, version: int = 11) -> tuple[int, int, int]:
    """(error, offset, time stamp), the same of every worker, while nothing changes."""
    (same,) = of_workers(broker, topic, which, version)
    return same


def of_workers(
    broker: BrokerProcess, topic: str, which: int, version: int = 11
) -> set[tuple[int, int, int]]:
    """(error, offset, time stamp) as the workers say it."""
    place = {"partition_index": 0, "timestamp": which, "current_leader_epoch": -1}
    topics = [{"name": topic, "partitions": [place]}]
    found = set()
    for port in broker.worker_ports:
        with SocketClient(port) as client:
            answer = client.ask(LIST_OFFSETS, version, replica_id=-1, topics=topics)
            one = answer.topics[0].partitions[0]
            found.add((one.error_code, one.offset, one.timestamp))
    return found


def told(shell: Shell, topic: str) -> dict[str, int]:
    """What the tool prints for each of the names; nothing where there is no such offset."""
    found = {}
    for name, number in NAMES.items():
        for time in (name, str(number)):
            printed = shell.ok(f"kafka-get-offsets --topic {topic} --time {time}").split()
            if printed:
                found[name] = int(printed[0].removeprefix(f"{topic}:0:"))
    return found


def test_clients_are_told_what_is_local_what_is_tiered_and_what_is_to_be_uploaded(
    tmp_path: Path,
) -> None:
    (tmp_path / "s3").mkdir()
    with S3Server(tmp_path / "s3") as server:
        url = server.fresh_url()
        store = open_object_store(TieringSettings(url, server.options))
        with BrokerProcess(tmp_path, 2, **server.settings(url)) as broker:
            shell = Shell(broker, tmp_path / "errors.txt")
            make_topic(broker, "tiered")
            client = admin(broker)
            client.create_topics([NewTopic("plain", 1)])["plain"].result(PATIENCE_S)
            assert told(shell, "tiered") == {"earliest-local": 0, "earliest-pending-upload": 0}
            produce(broker, "tiered", range(160))
            produce(broker, "plain", range(3))
            paho_publish.single("light/one", b"x", 1, port=broker.mqtt)
            wait_uploaded(broker, 3)
            until(lambda: len(local_segments(broker)) == 2, PATIENCE_S, "the local files' end")
            (head,) = partitions_in(store).values()
            local = max(int(path.name[:20]) for path in local_segments(broker))
            assert 0 < local == head.end_offset
            expected = {
                "earliest-local": local,
                "latest-tiered": head.end_offset - 1,
                "earliest-pending-upload": head.end_offset,
            }
            assert told(shell, "tiered") == expected
            for name, offset in expected.items():
                assert raw(broker, "tiered", NAMES[name]) == (0, offset, -1)
            # What is closed while the store is silent is pending, and stays on the local disk.
            server.hold()
            produce(broker, "tiered", range(160, 320))
            until(lambda: lag(broker) >= 2, PATIENCE_S, "closed segments")
            assert told(shell, "tiered") == expected
            server.go_on()
            wait_uploaded(broker, 6)
            later = told(shell, "tiered")
            assert later["latest-tiered"] > 250
            assert later["earliest-pending-upload"] == later["latest-tiered"] + 1
            broker.kill()
            broker.start()
            shell.close()
            for name, offset in later.items():
                if name != "earliest-local":
                    assert raw(broker, "tiered", NAMES[name]) == (0, offset, -1)
            for topic in ("plain", "light.one"):
                assert raw(broker, topic, -4) == (0, 0, -1), "all of it is local"
                assert raw(broker, topic, -5) == raw(broker, topic, -6) == (0, -1, -1)
            for which, version in SINCE.items():
                assert raw(broker, "tiered", which, version)[0] == 0
                assert raw(broker, "tiered", which, version - 1)[0] == 35
            assert raw(broker, "tiered", -7)[0] == 35


def test_they_are_told_the_same_of_light_topics(tmp_path: Path) -> None:
    (tmp_path / "s3").mkdir()
    with S3Server(tmp_path / "s3") as server:
        url = server.fresh_url()
        store = open_object_store(TieringSettings(url, server.options))
        with BrokerProcess(tmp_path, 2, CONFIG, **server.settings(url)) as broker:
            publish(broker, ["t/0"], range(1))
            assert [raw(broker, "t.0", which)[1] for which in SINCE] == [0, -1, 0]
            # A record's offset is its number.
            publish(broker, ["t/0"], range(1, 300))
            publish(broker, ["other"], range(1_000, 1_003))
            wait_away(broker, 3)
            logs = [path for prefix in logs_in(store) for path, _ in store.list(prefix)]
            away = [numbers_of(store.get(path)[0]) for path in logs if path.endswith(".log")]
            here = [numbers_of(path.read_bytes()) for path in broker.data.glob("*/log/*")]
            uploaded = set().union(*away)
            first = min(number for number in set().union(*here) if number < 1_000)
            assert 0 < first <= max(uploaded) + 1 < 300
            expected = [first, max(uploaded), max(uploaded) + 1]
            assert [raw(broker, "t.0", which)[1] for which in SINCE] == expected
            server.hold()
            publish(broker, ["t/0"], range(300, 400))
            assert [raw(broker, "t.0", which)[1] for which in SINCE][1:] == expected[1:]
            server.go_on()
            until(
                lambda: all(one[1] > 300 for one in of_workers(broker, "t.0", -5)),
                PATIENCE_S,
                "more uploads",
            )
            wait_away(broker, 4)
            last = raw(broker, "t.0", -5)[1]
            assert raw(broker, "t.0", -6)[1] == last + 1
            broker.kill()
            broker.start()
            assert raw(broker, "t.0", -5)[1] >= last
            assert raw(broker, "t.0", -4) == (0, raw(broker, "t.0", -4)[1], -1)
            assert [raw(broker, "other", which)[1] for which in SINCE] == [0, -1, -1]
