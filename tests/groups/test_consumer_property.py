"""Whatever members do and lose, no two members of a consumer group hold one partition at a time,
and when it is quiet every partition has its reader, evenly (KIP-848).

Members behave as the Java client does: they own what they took from an answer, give up what an
answer leaves out (at once or later), and say what they own. Classic members join and leave among
them, answers get lost, topics come, grow and go, the coordinator is rebuilt from its log.
"""

from __future__ import annotations

import random
import struct
import uuid

import pytest

from robustmq.groups.classic import GroupSettings
from robustmq.groups.consumer import ConsumerGroup, ConsumerSettings
from robustmq.groups.group import Group
from robustmq.groups.records import decode_record, encode_record
from robustmq.groups.subscriptions import parse_assignment
from robustmq.groups.timers import TimeWheel
from robustmq.kafka import group_events as events
from robustmq.kafka.consumer_events import (
    ConsumerHeartbeat,
    ConsumerHeartbeatReply,
    TopicPartitions,
    TopicsChanged,
)
from tests.groups.topics import Topics

TOPICS = [b"a", b"b", b"c"]
SETTINGS = GroupSettings(min_session_timeout_ms=100, initial_rebalance_delay_ms=0)
CONSUMER = ConsumerSettings(session_timeout_ms=2_000, assignment_interval_ms=0)
Place = tuple[uuid.UUID, int]


def subscription(topics: set[bytes], owned: dict[bytes, list[int]]) -> bytes:
    """Version 1 of the embedded protocol."""
    data = struct.pack(">hi", 1, len(topics))
    for topic in sorted(topics):
        data += struct.pack(">h", len(topic)) + topic
    data += struct.pack(">ii", -1, len(owned))
    for topic, numbers in sorted(owned.items()):
        data += struct.pack(">h", len(topic)) + topic
        data += struct.pack(f">i{len(numbers)}i", len(numbers), *numbers)
    return data


class Client:
    """What both kinds of members have."""

    def __init__(self, name: str, topics: set[bytes], world: World) -> None:
        self.name = name
        self.topics = topics
        self.world = world
        self.owned: set[Place] = set()
        self.epoch = 0
        self.last_heard_ms = world.now_ms

    def give_up(self) -> None:
        """The session is over, as the client sees it, or it was fenced."""
        self.owned.clear()
        self.epoch = 0


class Consumer(Client):
    """Speaks the new protocol."""

    def __init__(
        self, name: str, topics: set[bytes], world: World, instance: str | None = None
    ) -> None:
        super().__init__(name, topics, world)
        self.instance = instance
        self.slow = False
        """Keeps for now what it should give up."""
        self.target: set[Place] | None = None

    def act(self) -> None:
        if self.target is not None and not self.slow:
            self.owned &= self.target
            self.owned |= self.target
            self.target = None
        event = ConsumerHeartbeat(
            self.name,
            self.epoch,
            self.instance,
            rebalance_timeout_ms=6_000,
            topics=sorted(self.topics),
            server_assignor=self.world.assignor,
            owned=listed(self.owned),
        )
        if self.epoch == 0:
            self.owned.clear()
            event = ConsumerHeartbeat(
                self.name, 0, self.instance, None, 6_000, sorted(self.topics), owned=[]
            )
        for reply in self.world.send(event):
            assert isinstance(reply, ConsumerHeartbeatReply)
            self.receive(reply)

    def receive(self, reply: ConsumerHeartbeatReply) -> None:
        self.last_heard_ms = self.world.now_ms
        if reply.error:
            if reply.error != 111:
                self.give_up()
                self.target = None
            return
        self.epoch = reply.epoch
        if reply.assignment is not None:
            self.target = places(reply.assignment)

    def leave(self, static: bool) -> None:
        self.give_up()
        epoch = -2 if static and self.instance else -1
        self.world.send(ConsumerHeartbeat(self.name, epoch, self.instance))


class Classic(Client):
    """Speaks the classic protocol, cooperatively."""

    def __init__(self, name: str, topics: set[bytes], world: World) -> None:
        super().__init__(name, topics, world)
        self.step = "join"
        self.member_id = name
        self.leads: list[str] = []
        self.known = False

    def act(self) -> None:
        if self.step == "join":
            self.join()
        elif self.step == "sync":
            self.sync()
        else:
            for reply in self.world.send(events.Heartbeat(self.member_id, None, self.epoch)):
                assert isinstance(reply, events.ErrorReply)
                self.last_heard_ms = self.world.now_ms
                if reply.error:
                    self.rejoin(reply.error)

    def rejoin(self, error: int) -> None:
        self.step = "join"
        if error != 27:
            self.give_up()
        if error == 25:
            self.known = False

    def join(self) -> None:
        names = {topic.topic_id: name for name, topic in self.world.topics.known.items()}
        owned: dict[bytes, list[int]] = {}
        for topic, number in sorted(self.owned):
            if topic in names:
                owned.setdefault(names[topic], []).append(number)
        event = events.JoinGroup(
            self.member_id if self.known else "",
            None,
            self.world.new_name("classic"),
            False,
            "c",
            "h",
            2_000,
            6_000,
            "consumer",
            [("cooperative-sticky", subscription(self.topics, owned))],
        )
        for reply in self.world.send(event, self):
            self.joined(reply)

    def joined(self, reply: events.GroupReply) -> None:
        assert isinstance(reply, events.JoinReply)
        if reply.error:
            self.rejoin(reply.error)
            return
        self.last_heard_ms = self.world.now_ms
        self.member_id, self.epoch, self.known = reply.member_id, reply.generation_id, True
        self.leads = [member.member_id for member in reply.members]
        self.step = "sync"

    def sync(self) -> None:
        # The assignor of a classic group here: everything stays away, so that what matters is
        # what the server assigns.
        event = events.SyncGroup(
            self.member_id, None, self.epoch, None, None, [(name, b"") for name in self.leads]
        )
        for reply in self.world.send(event, self):
            self.synced(reply)

    def synced(self, reply: events.GroupReply) -> None:
        assert isinstance(reply, events.SyncReply)
        if reply.error:
            self.rejoin(reply.error)
            return
        self.last_heard_ms = self.world.now_ms
        ids = {name: topic.topic_id for name, topic in self.world.topics.known.items()}
        self.owned = {
            (ids[name], number)
            for name, numbers in parse_assignment(reply.assignment)
            for number in numbers
            if name in ids
        }
        self.step = "live"

    def leave(self, static: bool) -> None:
        self.give_up()
        self.world.send(events.LeaveGroup([events.LeavingMember(self.member_id)]))


def listed(owned: set[Place]) -> TopicPartitions:
    by_topic: dict[bytes, list[int]] = {}
    for topic, number in sorted(owned):
        by_topic.setdefault(topic.bytes, []).append(number)
    return list(by_topic.items())


def places(listed: TopicPartitions) -> set[Place]:
    return {(uuid.UUID(bytes=topic), number) for topic, numbers in listed for number in numbers}


class World:
    """One group, its clients, topics and clock, all under one seed."""

    def __init__(self, seed: int, classic: bool) -> None:
        self.random = random.Random(seed)
        self.classic = classic
        self.assignor = self.random.choice(["uniform", "range", None])
        self.topics = Topics()
        self.topics.make(b"a", 4)
        self.group = Group("g", self.topics, SETTINGS, CONSUMER)
        self.wheel: TimeWheel[str] = TimeWheel()
        self.now_ms = 0
        self.tokens = 0
        self.log: list[bytes] = []
        self.clients: list[Consumer | Classic] = []
        self.waiting: dict[int, Classic] = {}
        self.lossy = True

    def new_name(self, kind: str) -> str:
        self.tokens += 1
        return f"{kind}-{self.tokens}"

    def send(
        self, event: events.GroupEvent, waits: Classic | None = None
    ) -> list[events.GroupReply]:
        """The answer of this event, if it comes now and is not lost."""
        self.tokens += 1
        token = self.tokens
        if waits is not None:
            self.waiting = {t: c for t, c in self.waiting.items() if c is not waits}
            self.waiting[token] = waits
        effects = self.group.handle(event, self.now_ms, token)
        self.log += [encode_record(record) for record in effects.records]
        for deadline, key in effects.timers:
            self.wheel.set(key, deadline)
        mine = []
        for answered, reply in effects.replies:
            if self.lossy and self.random.random() < 0.05:
                self.waiting.pop(answered, None)
            elif answered == token:
                self.waiting.pop(token, None)
                mine.append(reply)
            elif answered in self.waiting:
                client = self.waiting.pop(answered)
                if isinstance(reply, events.JoinReply):
                    client.joined(reply)
                else:
                    client.synced(reply)
        return mine

    def restart(self) -> None:
        """The coordinator's worker died: what is in the log is what there is."""
        rebuilt = Group("g", self.topics, SETTINGS, CONSUMER)
        for record in self.log:
            rebuilt.replay(decode_record(record))
        snapshot = [encode_record(record) for record in rebuilt.snapshot()]
        twin = Group("g", self.topics, SETTINGS, CONSUMER)
        for entry in snapshot:
            twin.replay(decode_record(entry))
        assert [encode_record(record) for record in twin.snapshot()] == snapshot
        self.log = snapshot
        self.group = twin
        self.wheel = TimeWheel()
        self.waiting.clear()
        self.send(events.Resumed())

    def change_topics(self) -> None:
        name = self.random.choice(TOPICS)
        known = self.topics.known.get(name)
        if known is None:
            self.topics.make(name, self.random.randrange(1, 6))
        elif self.random.random() < 0.3:
            self.topics.delete(name)
            self.send(events.ForgetTopic(name))
        else:
            self.topics.grow(name, known.partitions + 1)
        self.send(TopicsChanged())

    def come(self) -> None:
        topics = set(self.random.sample(TOPICS, self.random.randrange(1, 4)))
        name = self.new_name("m")
        if self.classic and self.random.random() < 0.5:
            self.clients.append(Classic(name, topics, self))
        else:
            instance = self.random.choice([None, None, "i1", "i2"])
            self.clients.append(Consumer(name, topics, self, instance))

    def turn(self) -> None:
        self.now_ms += self.random.randrange(60)
        self.fire()
        chance = self.random.random()
        if chance < 0.01:
            self.restart()
        elif chance < 0.02:
            self.change_topics()
        elif chance < 0.07 and len(self.clients) < 6:
            self.come()
        elif chance < 0.09 and self.clients:
            gone = self.clients.pop(self.random.randrange(len(self.clients)))
            if self.random.random() < 0.6:
                gone.leave(self.random.random() < 0.5)
        elif self.clients:
            client = self.random.choice(self.clients)
            if isinstance(client, Consumer):
                client.slow = self.random.random() < 0.3
            client.act()
        self.check()

    def fire(self) -> None:
        for key in self.wheel.due(self.now_ms):
            self.send(events.TimerFired(key))
        for client in self.clients:
            # A client that has not heard of the coordinator for its session gives up first.
            if self.now_ms - client.last_heard_ms > 1_000:
                client.give_up()
                client.last_heard_ms = self.now_ms

    def check(self) -> None:
        """What the members of the group own is disjoint. (In a classic group it is the leader's
        affair.)"""
        if not isinstance(self.group.membership, ConsumerGroup):
            return
        owner: dict[Place, str] = {}
        for client in self.clients:
            if isinstance(client, Classic) and client.step != "live":
                continue
            for place in client.owned:
                assert place not in owner, f"{place} is owned by {owner[place]} and {client.name}"
                owner[place] = client.name

    def settle(self) -> None:
        """Without faults everybody comes to its target."""
        self.lossy = False
        by_instance: dict[str, Client] = {}
        for client in [*self.clients]:
            if isinstance(client, Consumer) and client.instance:
                if client.instance in by_instance:
                    self.clients.remove(client)
                by_instance[client.instance] = client
        for _ in range(400):
            self.now_ms += 50
            self.fire()
            for client in self.clients:
                if isinstance(client, Consumer):
                    client.slow = False
                client.act()
            self.check()


@pytest.mark.parametrize("classic", [False, True], ids=["consumers", "both-protocols"])
@pytest.mark.parametrize("seed", range(8))
def test_a_partition_has_one_owner_and_in_the_end_each_has_one(seed: int, classic: bool) -> None:
    world = World(seed, classic)
    for _ in range(1_200):
        world.turn()
    world.settle()
    group = world.group.membership
    if not isinstance(group, ConsumerGroup):
        return
    assert group.state == ("Stable" if world.clients else "Empty")
    owned = [client.owned for client in world.clients]
    wanted = {
        (world.topics.known[name].topic_id, number)
        for client in world.clients
        for name in client.topics
        if name in world.topics.known
        for number in range(world.topics.known[name].partitions)
    }
    assert set().union(*owned) == wanted
    loads = [len(mine) for mine in owned]
    alike = len({frozenset(client.topics) for client in world.clients}) <= 1
    if alike and loads and group.assignor == "uniform":
        assert max(loads) - min(loads) <= 1
    assert len(world.wheel) <= 3 * len(world.clients) + 8
