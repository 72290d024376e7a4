"""The rounds of cleaning on whole workers, in virtual time: what is over goes by itself."""

from __future__ import annotations

from collections.abc import Callable

from robustmq.config import NodeSettings, Settings, StorageRule, StorageSettings
from robustmq.kafka.group_events import CommitOffsets, OffsetToCommit
from robustmq.records import Message
from robustmq.shard.broker import Broker
from robustmq.shard.placement import GROUP_KIND
from tests.simulation.client import SimClient
from tests.simulation.world import World

SHARDS = 3


def made(storage: StorageSettings) -> World:
    """Two workers, whose log files are small and are looked at all the time."""
    settings = Settings(node=NodeSettings(shards=SHARDS), storage=storage)
    world = World(5, 2, settings, cleaned=True)
    world.scheduler.run(200)
    return world


def brokers(world: World) -> list[Broker]:
    """All workers."""
    return [broker for broker in world.brokers if broker is not None]


def owner(world: World, topic: bytes) -> Broker:
    """The worker that holds a topic's log."""
    return next(b for b in brokers(world) if b.placement.worker(topic, 0) == b.worker_id)


def publish(world: World, topic: bytes, payload: bytes, retain: bool = False) -> None:
    """One message of QoS 1."""
    brokers(world)[0].sessions.publish(Message(topic, payload, 1, retain), 7)
    world.scheduler.run(20)


def span(world: World, topic: bytes) -> tuple[int, int]:
    """Where a topic begins and ends, as ListOffsets says."""
    logs = owner(world, topic).kafka.logs
    return logs.list_offset(topic, 0, -2, -1).offset, logs.list_offset(topic, 0, -1, -1).offset


def exists(world: World, topic: bytes) -> bool:
    """Is there such a topic?"""
    broker = owner(world, topic)
    return broker.stores[broker.placement.shard(topic, 0)].light.exists(topic)


def until(world: World, condition: Callable[[], bool], limit_ms: int = 60_000) -> None:
    """Let time pass until that is so."""
    for _ in range(limit_ms // 200):
        world.scheduler.run(200)
        if condition():
            return
    raise AssertionError("it did not come")


def test_records_go_by_time_and_a_reader_is_told_where_the_topic_begins() -> None:
    rules = (StorageRule("long/+", retention_ms=-1),)
    world = made(StorageSettings(light_retention_ms=5_000, rules=rules))
    subscriber = SimClient(world, b"away", {b"short/+": 1})
    until(world, lambda: subscriber.subscribed)
    subscriber.rest()
    for number in range(60):
        publish(world, b"short/%d" % (number % 3), bytes(100))
        publish(world, b"long/%d" % (number % 3), bytes(100))
    until(world, lambda: all(span(world, b"short/%d" % n) == (20, 20) for n in range(3)))
    for number in range(3):
        assert span(world, b"long/%d" % number) == (0, 20)
        read = owner(world, b"short/%d" % number).kafka.logs.read(
            b"short/%d" % number, 0, 3, 99, -1
        )
        assert read.error == 1, "OFFSET_OUT_OF_RANGE"
    subscriber.wake()
    until(world, lambda: len(subscriber.received) == 60)
    for number in range(2):
        world.kill(number)
        world.start(number)
    world.scheduler.run(500)
    assert span(world, b"short/0") == (20, 20) and span(world, b"long/0") == (0, 20)
    publish(world, b"short/0", b"goes on")
    assert span(world, b"short/0") == (20, 21)


def test_a_shard_that_is_too_large_loses_its_oldest_records() -> None:
    world = made(StorageSettings(light_retention_ms=-1, shard_log_bytes=20_000))
    for number in range(300):
        publish(world, b"t/%d" % (number % 6), bytes(300))
    world.scheduler.run(5_000)
    for broker in brokers(world):
        for store in broker.stores.values():
            assert store.log.disk_bytes < 30_000
    assert all(0 < span(world, b"t/%d" % n)[0] < 50 for n in range(6))
    assert all(span(world, b"t/%d" % n)[1] == 50 for n in range(6))


def test_an_idle_topic_goes_unless_somebody_remembers_it() -> None:
    world = made(StorageSettings(light_retention_ms=-1, topic_idle_expiry_s=10))
    kept = [b"retained", b"committed"]
    topics = [b"idle/%d" % number for number in range(20)]
    for topic in topics:
        publish(world, topic, b"once")
    publish(world, b"retained", b"value", True)
    publish(world, b"committed", b"read")
    wanted = OffsetToCommit(b"committed", 0, 1, -1, "")
    keeper = next(
        broker
        for broker in brokers(world)
        if broker.placement.machine_shard(GROUP_KIND, "readers") in broker.stores
    )
    keeper.kafka.machines.handle(GROUP_KIND, "readers", CommitOffsets("", None, -1, [wanted], 7))
    keeper.turn()
    for _ in range(40):
        publish(world, b"busy", b"again and again")
        world.scheduler.run(1_000)
    until(world, lambda: not any(exists(world, topic) for topic in topics), 120_000)
    assert all(exists(world, topic) for topic in [*kept, b"busy"])
    assert span(world, b"committed") == (0, 1)
    publish(world, topics[0], b"anew")
    assert span(world, topics[0]) == (0, 1)


def test_clean_now_frees_what_can_go_at_once() -> None:
    world = made(StorageSettings(light_retention_ms=-1))
    for broker in brokers(world):
        broker.log_cleaning.interval_ms = 1 << 40
    world.scheduler.run(500)
    for number in range(100):
        publish(world, b"gone/%d" % (number % 10), bytes(500))
    for number in range(10):
        topic = b"gone/%d" % number
        owner(world, topic).kafka.logs.light_topic(topic, "delete")
    sizes: list[int] = []
    for broker in brokers(world):
        for shard in broker.stores:
            done = broker.log_cleaning.clean_now(shard)
            done.when_settled(lambda done=done: sizes.append(done.result()))  # type: ignore[misc]
    before = [row for b in brokers(world) for s in b.stores for row in b.log_cleaning.rows(s)]
    assert sum(row.size for row in before) > 50_000
    until(world, lambda: len(sizes) == SHARDS)
    assert sum(sizes) < 10_000
