"""Light topics of mode tiered: what they had in the shards' logs is in the object store, and read
from there alone, while processes die, the store is away, modes change, and objects rot."""

from __future__ import annotations

import random
import shutil
import time
from pathlib import Path

import msgspec
import pytest
from confluent_kafka import KafkaError

from robustmq.storage.manifest import Manifest, read_head
from tests.broker import BrokerProcess, until
from tests.faults.light_tiering import (
    CONFIG,
    Producing,
    log_files,
    logs_in,
    numbers_in,
    numbers_of,
    objects,
    publish,
    read_at,
    reload,
    sent_once,
    sound_numbers,
    wait_away,
    wait_even,
)
from tests.faults.proxy import Proxy
from tests.faults.test_tiering import opened
from tests.faults.tiering import VALUE_BYTES, consume, produce, run_recover, said
from tests.object_stores import S3Server

BY_DEFAULT = CONFIG.replace('filter = "t/+"\nmode = "tiered"', 'filter = "#"').replace(
    "[storage]", '[storage]\ndefault_mode = "tiered"'
)


@pytest.mark.parametrize(("workers", "config"), [(1, BY_DEFAULT), (2, CONFIG)])
def test_kills_in_the_middle_of_uploads_lose_nothing(
    tmp_path: Path, s3_server: S3Server, workers: int, config: str
) -> None:
    dice = random.Random(workers)
    url = s3_server.fresh_url()
    with BrokerProcess(tmp_path, workers, config, **s3_server.settings(url)) as broker:
        producing = Producing(broker, [f"t/{n}" for n in range(3)])
        try:
            for number in range(4):
                producing.more(100)
                time.sleep(dice.random() * 0.4)
                if number % 2:
                    broker.kill()
                    broker.start()
                else:
                    broker.kill_worker(dice.randrange(workers))
        finally:
            producing.stop()
        wait_away(broker, 4)
        for topic, numbers in producing.acked.items():
            assert numbers_in(broker, topic) == numbers
        wait_even(broker, opened(s3_server, url))


def test_a_store_that_is_away_holds_producers_up_at_the_cap_alone(tmp_path: Path) -> None:
    (tmp_path / "s3").mkdir()
    server = S3Server(tmp_path / "s3")
    config = CONFIG.replace("[storage]", f"[storage]\nshard_max_bytes = {8 << 20}")
    with server, Proxy(server.port) as proxy:
        url = server.fresh_url()
        settings = server.settings(url)
        options = "STORAGE__TIERING__OPTIONS"
        settings[options] = settings[options].replace(server.endpoint, proxy.endpoint)
        with BrokerProcess(tmp_path, 1, config, **settings) as broker:
            publish(broker, ["t/0"], range(200))
            wait_away(broker, 2)
            proxy.mode = "500"
            refused = sent_once(broker, "t.0", range(200, 1_000))
            taken = 200 + len(refused) - 1
            assert 400 < taken < 700
            assert refused[-1] == 56
            assert read_at(broker, "t/0", taken - 20) == taken - 20, "what is here is read"
            until(lambda: said(broker, "does not answer: logs of shards") == 1, 20, "the word")
            proxy.mode = ""
            until(lambda: sent_once(broker, "t.0", range(taken, taken + 1)) == [0], 20, "room")
            produce(broker, "t.0", range(taken + 1, taken + 100))
            wait_away(broker, 8)
            assert numbers_in(broker, "t/0") == list(range(taken + 100))
            server.kill()
            broker.restart()
            publish(broker, ["t/0"], range(taken + 100, taken + 150))
            assert read_at(broker, "t/0", taken + 120) == taken + 120
            assert read_at(broker, "t/0", 5, 5) in (-56, -KafkaError._TIMED_OUT)
            server.start()
            until(lambda: read_at(broker, "t/0", 5) == 5, 20, "the store")
            assert numbers_in(broker, "t/0") == list(range(taken + 150))
            wait_even(broker, opened(server, url))


def test_what_rots_in_the_store_is_a_hole_and_another_cluster_fences(
    tmp_path: Path, s3_server: S3Server
) -> None:
    url = s3_server.fresh_url()
    store = opened(s3_server, url)
    with BrokerProcess(tmp_path, 1, CONFIG, **s3_server.settings(url)) as broker:
        publish(broker, ["t/0"], range(400))
        wait_away(broker, 4)
        broker.stop()
        shutil.rmtree(broker.data / "tier-cache", ignore_errors=True)
        logs = [path for prefix in logs_in(store) for path, _ in store.list(prefix)]
        paths = sorted(path for path in logs if path.endswith(".log"))
        data = bytearray(store.get(paths[0])[0])
        begin = data.index(b"30 x")
        data[begin + 500] ^= 1
        store.put(paths[0], [bytes(data)])
        lost = numbers_of(bytes(data)) - sound_numbers(store, paths[0])
        assert 30 in lost and 0 not in lost
        broker.start()
        found = {number: read_at(broker, "t/0", number) for number in range(0, 400, 10)}
        assert found == {number: -2 if number in lost else number for number in found}
        broker.stop()
        shutil.rmtree(broker.data / "tier-cache", ignore_errors=True)
        whole = store.get(paths[1])[0]
        lost |= numbers_of(whole)
        store.put(paths[1], [whole[: len(whole) // 2]])
        broker.start()
        found = {number: read_at(broker, "t/0", number) for number in range(400)}
        expected = {number: -2 if number in lost else number for number in found}
        assert found == expected, "it is led over what is lost"
        assert not said(broker, "does not answer")
        (prefix, head), *_ = logs_in(store).items()
        theirs = msgspec.structs.replace(head, leader_epoch=head.leader_epoch + 100)
        other = Manifest(store, prefix, theirs)
        other.load()
        other.describe(head.topic)
        publish(broker, ["t/0"], range(400, 700))
        until(lambda: broker.metric("robustmq_storage_tier_light_stopped") == 1, 20, "the fence")
        time.sleep(1)
        assert log_files(broker) > 300 * VALUE_BYTES, "what is not told of stays"
        found = {number: read_at(broker, "t/0", number) for number in (10, 150, 399, 400, 699)}
        assert found == {number: number for number in found}
        assert read_head(store, prefix)[0].leader_epoch == theirs.leader_epoch
        broker.kill()
        shutil.rmtree(broker.data)
        done = run_recover(broker, url, s3_server.options, "--take-over")
        assert done.returncode == 0 and done.stdout.count("MISSING positions") == 2, done.stdout
        broker.start()
        again = {number: read_at(broker, "t/0", number) for number in range(0, 300, 5)}
        assert again == {number: -2 if number in lost else number for number in again}


def test_records_from_before_another_mode_come_back_with_a_lost_disk(
    tmp_path: Path, s3_server: S3Server
) -> None:
    url = s3_server.fresh_url()
    config = CONFIG.replace("shards = 2", "shards = 1")
    with BrokerProcess(tmp_path, 1, config, **s3_server.settings(url)) as broker:
        topics = [f"t/{n}" for n in range(3)]
        publish(broker, topics, range(150))
        wait_away(broker)
        reload(broker, config.replace('filter = "t/+"', 'filter = "u/+"'))
        publish(broker, topics, range(150, 300))
        uploads = objects(broker)
        publish(broker, ["u/0"], range(150))
        # In the order of the log: what stands before was looked at, too.
        until(lambda: objects(broker) > uploads + 1, 20, "uploads of the other topic")
        reload(broker, config)
        publish(broker, topics, range(300, 450))
        uploads = objects(broker)
        until(lambda: objects(broker) > uploads, 20, "uploads of the latest")
        assert all(numbers_in(broker, f"t/{n}") == list(range(n, 450, 3)) for n in range(3))
        broker.kill()
        shutil.rmtree(broker.data)
        done = run_recover(broker, url, s3_server.options, "--take-over")
        assert done.returncode == 0 and "MISSING" not in done.stdout, done
        broker.start()
        for n, topic in enumerate(topics):
            name = topic.replace("/", ".")
            # What was of another mode when its file was full is not in the store.
            found = consume(broker, name)
            assert [number for _, number in found if number < 90] == list(range(n, 90, 3))
            assert all(number == 3 * offset + n for offset, number in found)
            last = found[-1][0]
            assert last > 110
            assert len(found) < last + 1, "some had another mode when they were looked at"
            assert produce(broker, name, [9]) == [last + 1]
        broker.restart()
        assert consume(broker, "t.0")[:30] == [(n, 3 * n) for n in range(30)]
