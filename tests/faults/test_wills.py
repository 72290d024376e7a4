"""The wills of connections that the death of their worker cuts, whatever becomes of their sessions.

[MQTT-3.1.2-8]: a will is published when its connection ends in any way but a DISCONNECT of its
client, so also by kill -9 of a worker, or of all. Client, topic, subscriber on different workers.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from robustmq.core.hashing import topic_hash
from robustmq.mqtt.packets import Will
from robustmq.storage.data_directory import shard_directory
from tests.broker import BrokerProcess, until
from tests.mqtt.wire import SHARDS, Closed, Wire, client_id_on, topic_on

MANY = 20


@pytest.fixture(params=[1, 2])
def broker(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[BrokerProcess]:
    """Snapshots come often."""
    with BrokerProcess(tmp_path, request.param, STORAGE__CHECKPOINT_BYTES=str(1 << 20)) as process:
        yield process
        assert "Traceback" not in process.log


def kill(broker: BrokerProcess, worker: int) -> None:
    """Kill -9 a worker, and wait until it is there again."""
    before = broker.worker_pids()
    broker.kill_worker(worker)
    until(lambda: len(broker.worker_pids()) == broker.workers and broker.worker_pids() != before)
    until(lambda: serves(broker, worker), what="the worker")


def serves(broker: BrokerProcess, worker: int) -> bool:
    """Does a worker take clients?"""
    try:
        with Wire(broker.mqtt) as wire:
            return wire.connect(client_id_on(worker, broker.workers)).reason_code == 0
    except (Closed, ConnectionError):
        return False


def take_snapshot(broker: BrokerProcess, worker: int) -> None:
    """Write so much to a shard of a worker that it takes a snapshot: recovery begins there."""
    topic = topic_on(worker, broker.workers, "fill")
    shard = topic_hash(topic, 0) % SHARDS
    with Wire(broker.mqtt) as filler:
        filler.connect()
        for _ in range(12):
            filler.publish(topic, bytes(100_000), 1)
    directory = Path(shard_directory(str(broker.data), shard))
    until(lambda: list(directory.glob("index-*.copy")), what="a snapshot")


def received(wire: Wire, count: int) -> list[bytes]:
    """The payloads of so many messages, and that no more come."""
    found = [wire.receive().payload for _ in range(count)]
    wire.expect_nothing()
    return sorted(found)


@pytest.mark.parametrize("expiry", [None, 60])
def test_the_wills_of_a_dead_worker_reach_those_on_the_others(
    broker: BrokerProcess, expiry: int | None
) -> None:
    dead = broker.workers - 1
    topics = [topic_on(number, broker.workers, "will") for number in (0, 1)]
    watcher = client_id_on(0, broker.workers)
    with ExitStack() as stack, Wire(broker.mqtt) as reader:
        reader.connect(watcher, expiry=60)
        for topic in topics:
            reader.subscribe(topic, qos=1)
        for number in range(MANY):
            wire = stack.enter_context(Wire(broker.mqtt))
            # With one worker the watcher is cut, too: what waits for it has QoS 1 at least.
            qos = number % 3 if broker.workers > 1 else 1 + number % 2
            will = Will(topics[number % 2], b"%02d" % number, qos, number == 0)
            wire.connect(client_id_on(dead, broker.workers), expiry=expiry, will=will)
        with Wire(broker.mqtt) as polite:
            polite.connect(client_id_on(dead, broker.workers), will=Will(topics[0], b"never"))
            polite.disconnect()
        take_snapshot(broker, dead)
        kill(broker, dead)
        wanted = [b"%02d" % number for number in range(MANY)]
        if broker.workers == 1:
            reader = stack.enter_context(Wire(broker.mqtt))
            reader.connect(watcher, False, expiry=60)
        assert received(reader, MANY) == wanted
        with Wire(broker.mqtt) as later:
            later.connect()
            later.subscribe(topics[0])
            assert received(later, 1) == [b"00"], "the one that was to be retained"


def test_the_wills_of_a_dead_node_are_there_when_it_is_back(broker: BrokerProcess) -> None:
    topics = [topic_on(number, broker.workers, "will") for number in (0, 1)]
    watchers = [client_id_on(number, broker.workers) for number in (0, 1)]
    with ExitStack() as stack:
        for name in watchers:
            with Wire(broker.mqtt) as reader:
                reader.connect(name, expiry=60)
                reader.subscribe(*topics, qos=1)
        for number in range(MANY):
            wire = stack.enter_context(Wire(broker.mqtt))
            will = Will(topics[number // 2 % 2], b"%02d" % number, 1 + number % 2)
            wire.connect(client_id_on(number, broker.workers), will=will)
        broker.kill()
        broker.start()
        for name in watchers:
            with Wire(broker.mqtt) as reader:
                reader.connect(name, False, expiry=60)
                assert received(reader, MANY) == [b"%02d" % number for number in range(MANY)]
                # What acknowledges the wills is committed before what follows it.
                reader.subscribe(b"after", qos=1)
                reader.disconnect()
        broker.kill()
        broker.start()
        for name in watchers:
            with Wire(broker.mqtt) as reader:
                reader.connect(name, False, expiry=60)
                reader.expect_nothing()
