"""Answers of one session leave in order, whatever the storage thread is doing."""

from __future__ import annotations

import itertools

import pytest

from robustmq.core.hashing import key_hash, topic_hash
from robustmq.mqtt import codec
from robustmq.mqtt.packets import (
    Ack,
    Connect,
    Packet,
    PacketType,
    Publish,
    Subscribe,
    SubscriptionOptions,
)
from robustmq.shard.client import MqttClient
from robustmq.shard.placement import SESSION_KIND
from tests.simulation.world import World

VERSION = 5
TOPIC = b"t"
SHARDS = 16
SHARD = topic_hash(TOPIC, 0) % SHARDS


def client_id() -> bytes:
    """Of a session in the topic's shard."""
    names = (b"c%d" % number for number in itertools.count())
    return next(name for name in names if key_hash(SESSION_KIND, name) % SHARDS == SHARD)


class Peer:
    """A client by hand: its packets, and the bytes that came."""

    def __init__(self, world: World, name: bytes) -> None:
        self.came = bytearray()
        server = world.accept(name, self.came.extend, lambda: None)
        assert server is not None
        self.server: MqttClient = server
        self.send(Connect(VERSION, name, True, 0))
        world.scheduler.run(50)

    def send(self, packet: Packet) -> None:
        self.server.received(bytes(codec.encode(packet, VERSION)))


@pytest.mark.parametrize("seed", range(20))
def test_pubrel_follows_pubrel_though_only_one_of_them_met_a_commit(seed: int) -> None:
    world = World(seed, 1)
    broker = world.brokers[0]
    assert broker is not None
    subscriber, publisher = Peer(world, client_id()), Peer(world, b"publisher")
    subscriber.send(Subscribe(1, ((TOPIC, SubscriptionOptions(2)),)))
    world.scheduler.run(50)
    for number in (1, 2):
        publisher.send(Publish(TOPIC, b"x", 2, packet_id=number))
    world.scheduler.run(100)
    subscriber.came.clear()
    publisher.send(Publish(TOPIC, b"other", 1, packet_id=9))
    world.scheduler.run(0)
    subscriber.send(Ack(PacketType.PUBREC, 1))
    for _ in range(20):
        if not broker.stores[SHARD].uncommitted_bytes:
            break
        world.scheduler.run(1)
    subscriber.send(Ack(PacketType.PUBREC, 2))
    world.scheduler.run(100)
    first = bytes(codec.encode(Ack(PacketType.PUBREL, 1), VERSION))
    second = bytes(codec.encode(Ack(PacketType.PUBREL, 2), VERSION))
    came = bytes(subscriber.came)
    assert 0 <= came.find(first) < came.find(second)
