"""A bit flipped in what is stored: it is reported and set aside, its readers hear the protocol's
error for what is lost, and all else is served, over restarts too."""

from __future__ import annotations

import random
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]

from robustmq.core import batches
from robustmq.storage.light_topics import PREVIOUS_AT
from robustmq.storage.shard_log import HEAD
from tests.broker import BrokerProcess, until
from tests.faults.damage import blocks_of, flip, flip_in_log, flip_in_segment
from tests.faults.load import read_log
from tests.faults.test_kill import seed
from tests.kafka.wire import SocketClient

COUNT = 120
CORRUPT_MESSAGE = 2
OFTEN = "[storage]\nretention_check_s = 1\n"


def read_over(broker: BrokerProcess, topic: str) -> tuple[list[str], list[int]]:
    """The values of partition 0, and the offsets that are answered with CORRUPT_MESSAGE."""
    values: dict[int, str] = {}
    holes: list[int] = []
    offset = 0
    with SocketClient(broker.worker_ports[0]) as kafka:
        while True:
            part = {"partition": 0, "fetch_offset": offset, "partition_max_bytes": 1 << 20}
            asked = [{"topic": topic, "partitions": [part]}]
            answer: Any = kafka.ask(
                1, 11, max_wait_ms=0, min_bytes=0, max_bytes=1 << 20, topics=asked, session_epoch=-1
            )
            found = answer.responses[0].partitions[0]
            if found.error_code:
                assert found.error_code == CORRUPT_MESSAGE, found.error_code
                holes.append(offset)
                offset += 1
                continue
            if offset >= found.high_watermark:
                return [values[one] for one in sorted(values)], holes
            data = b"".join(map(bytes, found.records or ()))
            assert data, f"offset {offset} is answered with nothing"
            for begin, info in batches.headers(data, 0, len(data), True):
                assert info.crc_ok, "nobody gets what is damaged"
                for place, record in enumerate(batches.parse(data, begin, begin + info.length)):
                    values[info.base_offset + place] = (record.value or b"").decode()
                offset = info.base_offset + info.last_offset_delta + 1


def write(broker: BrokerProcess, topic: str, rest: str = "") -> None:
    """A batch for each value."""
    producer = Producer({"bootstrap.servers": f"127.0.0.1:{broker.kafka}", "linger.ms": 0})
    for number in range(COUNT):
        producer.produce(topic, f"{topic} {number} {rest}".rstrip(), partition=0)
        producer.flush(20)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("workers", [1, 2])
def test_what_a_flipped_bit_destroys_is_told_and_all_else_is_served(
    tmp_path: Path, workers: int
) -> None:
    chosen = seed()
    print(f"replay with ROBUSTMQ_FAULTS_SEED={chosen}")
    choose = random.Random(chosen)
    topics = ("declared", "light")
    with BrokerProcess(tmp_path, workers) as broker:
        admin = AdminClient({"bootstrap.servers": f"127.0.0.1:{broker.kafka}", "log_level": 2})
        admin.create_topics([NewTopic("declared", 1)])["declared"].result(30)
        for topic in topics:
            write(broker, topic)
        broker.kill()
        print(flip_in_log(broker.data, b"light", choose), flip_in_segment(broker.data, choose))
        lost: dict[str, set[str]] = {}
        for _ in range(2):
            broker.start()
            for topic in topics:
                values, holes = read_over(broker, topic)
                all_of_them = [f"{topic} {number}" for number in range(COUNT)]
                missing = set(all_of_them) - set(values)
                assert values == [one for one in all_of_them if one not in missing], "in order"
                assert values[-1] == all_of_them[-1], "what lies behind it is there"
                assert len(holes) == len(missing), "each loss is told"
                assert lost.setdefault(topic, missing) == missing, "no more with each start"
            assert "Traceback" not in broker.log
            assert "set aside" in broker.log or "damage" in broker.log
            broker.kill()
        assert all(len(missing) <= 1 for missing in lost.values()), "one batch each"
        print({topic: len(missing) for topic, missing in lost.items()})


@pytest.mark.timeout(120)
@pytest.mark.parametrize("workers", [1, 2])
def test_what_a_damaged_entry_leads_to_is_found_without_it(tmp_path: Path, workers: int) -> None:
    """Before the last checkpoint, where recovery does not look: a consumer is none the wiser."""
    choose = random.Random(seed())
    with BrokerProcess(tmp_path, workers) as broker:
        write(broker, "light")
        assert broker.stop() == 0
        (path,) = [one for one in broker.data.glob("*/log/*.log") if blocks_of(one, b"light")]
        begin, _ = choose.choice(blocks_of(path, b"light")[1:-1])
        data = bytearray(path.read_bytes())
        at = begin + HEAD.size + PREVIOUS_AT
        leads_to = int.from_bytes(data[at : at + 8], "little")
        bit = choose.choice([bit for bit in range(64) if leads_to >> bit & 1])
        data[at + bit // 8] ^= 1 << bit % 8
        path.write_bytes(data)
        broker.start()
        assert read_log(broker, "light") == [[f"light {number}" for number in range(COUNT)]]
        until(lambda: "all that is sound is served again" in broker.log)


@pytest.mark.timeout(120)
@pytest.mark.parametrize("workers", [1, 2])
def test_damage_below_an_index_that_is_believed_is_found_by_who_reads_it(
    tmp_path: Path, workers: int
) -> None:
    """In the last file of a partition it was given out, to clients that look at no checksum."""
    with BrokerProcess(tmp_path, workers, OFTEN) as broker:
        admin = AdminClient({"bootstrap.servers": f"127.0.0.1:{broker.kafka}", "log_level": 2})
        admin.create_topics([NewTopic("declared", 1)])["declared"].result(30)
        # So much that a start need not read it again.
        write(broker, "declared", "x" * 1_000)
        assert broker.stop() == 0
        (path,) = broker.data.glob("*/segments/*/*.log")
        data = bytearray(path.read_bytes())
        data[data.index(b"declared 70 xxx") + 500] ^= 1
        path.write_bytes(data)
        for _ in range(2):
            broker.start()
            values, holes = read_over(broker, "declared")
            assert holes == [70]
            assert [int(value.split()[1]) for value in values] == [*range(70), *range(71, COUNT)]
            assert broker.metric("robustmq_storage_corrupt_records_total") == 1
            until(lambda: [*path.parent.glob("quarantine/*.bad")], what="a copy of the bad bytes")
            assert broker.stop() == 0


def offset_of(broker: BrokerProcess, topic: str, value: str) -> int:
    """Where a record is that is sent now."""
    offsets: list[int | None] = []
    producer = Producer({"bootstrap.servers": f"127.0.0.1:{broker.kafka}", "log_level": 2})
    producer.produce(
        topic, value, partition=0, on_delivery=lambda error, sent: offsets.append(sent.offset())
    )
    assert not producer.flush(30)
    assert offsets[0] is not None
    return offsets[0]


@pytest.mark.timeout(120)
@pytest.mark.parametrize("workers", [1, 2])
def test_the_offsets_of_an_acknowledged_end_that_is_lost_are_not_given_again(
    tmp_path: Path, workers: int
) -> None:
    choose = random.Random(seed())
    engines = {"segment": "*/segments/*/*.log", "rocksdb": "*/engines/rocksdb/*/*.log"}
    with BrokerProcess(tmp_path, workers) as broker:
        admin = AdminClient({"bootstrap.servers": f"127.0.0.1:{broker.kafka}", "log_level": 2})
        for engine in engines:
            config = {"robustmq.storage.engine": engine}
            admin.create_topics([NewTopic(engine, 1, config=config)])[engine].result(30)
            write(broker, engine)
        broker.kill()
        for pattern in engines.values():
            # The last bytes of the last batch, and the checksum finds it.
            path = max(broker.data.glob(pattern), key=lambda one: one.stat().st_size)
            flip(path, path.stat().st_size - 3, choose)
        for number in range(2):
            broker.start()
            for engine in engines:
                values, holes = read_over(broker, engine)
                assert values[: COUNT - 1] == [f"{engine} {one}" for one in range(COUNT - 1)]
                assert values[COUNT - 1 :] == ["later"] * number, "all else is there"
                assert holes == [COUNT - 1], "the loss is told"
                assert offset_of(broker, engine, "later") == COUNT + number, "and nothing else is"
            assert "Traceback" not in broker.log
            assert broker.log.count("set aside") >= 1
            broker.kill()


@pytest.mark.timeout(60)
@pytest.mark.parametrize("stops", [True, False])
def test_indexes_that_are_lost_are_made_anew_for_a_topic_that_nobody_writes_to(
    tmp_path: Path, stops: bool
) -> None:
    """Without them each start reads all of its records: by a clean stop they are there, or when
    retention is looked at."""
    check_s = "3600" if stops else "1"
    with BrokerProcess(tmp_path, 1, STORAGE__RETENTION_CHECK_S=check_s) as broker:
        admin = AdminClient({"bootstrap.servers": f"127.0.0.1:{broker.kafka}", "log_level": 2})
        config = {"segment.bytes": str(1 << 20)}
        admin.create_topics([NewTopic("large", 1, config=config)])["large"].result(30)
        producer = Producer({"bootstrap.servers": f"127.0.0.1:{broker.kafka}", "linger.ms": 0})
        for number in range(50):
            producer.produce("large", f"{number}".zfill(100_000), partition=0)
            assert not producer.flush(30)
        assert broker.stop() == 0
        paths = sorted(broker.data.glob("*/segments/*/*.index"))
        assert len(paths) >= 4
        for path in paths:
            path.unlink()
        broker.start()
        if stops:
            assert broker.stop() == 0
        # Of the last file little is read without one, but it too has one at a clean stop.
        wanted = paths if stops else paths[:-1]
        until(lambda: all(path.exists() for path in wanted), 10, "the indexes")
        if not stops:
            broker.kill()
        broker.start()
        values, holes = read_over(broker, "large")
        assert values == [f"{number}".zfill(100_000) for number in range(50)]
        assert not holes


@pytest.mark.timeout(60)
@pytest.mark.parametrize("workers", [1, 2])
def test_a_damaged_end_of_a_shards_log_costs_no_record_of_a_declared_topic(
    tmp_path: Path, workers: int
) -> None:
    """The records have files of their own; the log alone says that they are committed."""
    choose = random.Random(seed())
    with BrokerProcess(tmp_path, workers) as broker:
        admin = AdminClient({"bootstrap.servers": f"127.0.0.1:{broker.kafka}", "log_level": 2})
        admin.create_topics([NewTopic("declared", 1)])["declared"].result(30)
        for number in range(5):
            assert offset_of(broker, "declared", f"{number}") == number
        broker.kill()
        (segment,) = [one for one in broker.data.glob("*/segments/*/*.log") if one.stat().st_size]
        log = max((segment.parents[2] / "log").glob("*.log"))
        flip(log, log.stat().st_size - 3, choose)
        for number in range(2):
            broker.start()
            values = [str(one) for one in range(5)] + ["later"] * number
            assert read_over(broker, "declared") == (values, [])
            assert offset_of(broker, "declared", "later") == 5 + number
            assert number or "set aside" in broker.log, "the damage is told"
            broker.kill()
