"""Whatever members do and lose, every generation hands disjoint assignments to the members of that
generation.
"""

from __future__ import annotations

import random

import pytest

from robustmq.groups.classic import GroupSettings
from robustmq.groups.group import Group
from robustmq.groups.records import decode_record, encode_record
from robustmq.groups.timers import TimeWheel
from robustmq.kafka import group_events as events
from tests.groups.topics import Topics

PARTITIONS = 12
SETTINGS = GroupSettings(min_session_timeout_ms=100, initial_rebalance_delay_ms=20)


class Client:
    """A consumer as the Java client behaves, with answers that may get lost."""

    def __init__(self, number: int, instance: str | None) -> None:
        self.number = number
        self.instance = instance
        self.member_id = ""
        self.generation = -1
        self.protocol = "range"
        self.step = "join"
        self.token = 0
        self.members: list[str] = []


class World:
    """One group, some clients, a clock, all under one seed."""

    def __init__(self, seed: int) -> None:
        self.random = random.Random(seed)
        self.group = Group("g", Topics(), SETTINGS)
        self.wheel: TimeWheel[str] = TimeWheel()
        self.now_ms = 0
        self.tokens = 0
        self.log: list[bytes] = []
        self.clients: list[Client] = []
        self.waiting: dict[int, Client] = {}
        self.answered: set[int] = set()
        self.given: dict[int, dict[str, set[int]]] = {}
        self.membership: dict[int, set[str]] = {}

    def send(self, event: events.GroupEvent, client: Client | None = None) -> None:
        self.tokens += 1
        if client is not None:
            client.token = self.tokens
            self.waiting[self.tokens] = client
        effects = self.group.handle(event, self.now_ms, self.tokens)
        self.log += [encode_record(record) for record in effects.records]
        for deadline, key in effects.timers:
            self.wheel.set(key, deadline)
        for token, reply in effects.replies:
            assert token not in self.answered, "a token is answered once"
            self.answered.add(token)
            owner = self.waiting.pop(token, None)
            if owner is not None and owner.token == token:
                owner.token = 0
                if self.random.random() < 0.95:
                    self.receive(owner, reply)

    def receive(self, client: Client, reply: events.GroupReply) -> None:
        if isinstance(reply, events.JoinReply):
            if reply.error:
                client.member_id = reply.member_id if reply.error in (79, 27) else ""
                return
            client.member_id = reply.member_id
            client.generation = reply.generation_id
            client.members = [member.member_id for member in reply.members]
            if reply.leader == reply.member_id and not reply.skip_assignment:
                known = self.membership.setdefault(reply.generation_id, set(client.members))
                assert known == set(client.members), "a generation has one membership"
            client.step = "sync"
        elif isinstance(reply, events.SyncReply):
            if reply.error:
                client.step = "join"
                if reply.error != 27:
                    client.member_id = ""
                return
            client.step = "live"
            self.check(client, reply.assignment)
        elif isinstance(reply, events.ErrorReply) and reply.error:
            client.step = "join"
            if reply.error in (25, 82):
                client.member_id = ""

    def check(self, client: Client, assignment: bytes) -> None:
        generation = self.given.setdefault(client.generation, {})
        mine = {int(part) for part in assignment.split()}
        who = client.instance or client.member_id
        for other, parts in generation.items():
            assert other == who or not parts & mine, "assignments of a generation are disjoint"
        assert generation.get(who, mine) == mine, "an assignment does not change in a generation"
        generation[who] = mine

    def act(self, client: Client) -> None:
        if client.step == "join":
            self.send(
                events.JoinGroup(
                    client.member_id,
                    client.instance,
                    f"m{self.tokens}",
                    client.number % 2 == 0,
                    "c",
                    "h",
                    1_000,
                    self.random.choice([200, 500]),
                    "consumer",
                    [("range", b""), ("sticky", b"")],
                    client.number % 3 == 0,
                ),
                client,
            )
        elif client.step == "sync":
            shares: list[tuple[str, bytes]] = []
            for place, member in enumerate(client.members):
                mine = range(place, PARTITIONS, len(client.members))
                shares.append((member, " ".join(map(str, mine)).encode()))
            self.send(
                events.SyncGroup(
                    client.member_id, client.instance, client.generation, None, None, shares
                ),
                client,
            )
        else:
            self.send(
                events.Heartbeat(client.member_id, client.instance, client.generation), client
            )

    def restart(self) -> None:
        self.group = Group("g", Topics(), SETTINGS)
        for record in self.log:
            self.group.replay(decode_record(record))
        twin = Group("g", Topics(), SETTINGS)
        for entry in self.group.snapshot():
            twin.replay(decode_record(encode_record(entry)))
        assert twin.snapshot() == self.group.snapshot(), "a snapshot says it all"
        self.wheel = TimeWheel()
        for client in self.waiting.values():
            client.token = 0
        self.waiting.clear()
        self.send(events.Resumed())

    def turn(self) -> None:
        self.now_ms += self.random.randrange(60)
        for key in self.wheel.due(self.now_ms):
            self.send(events.TimerFired(key))
        chance = self.random.random()
        if chance < 0.01:
            self.restart()
        elif chance < 0.06 and len(self.clients) < 6:
            number = self.tokens
            self.clients.append(Client(number, f"i{number}" if number % 4 == 0 else None))
        elif chance < 0.08 and self.clients:
            gone = self.clients.pop(self.random.randrange(len(self.clients)))
            if self.random.random() < 0.5:
                self.send(events.LeaveGroup([events.LeavingMember(gone.member_id, None)]))
        elif self.clients:
            client = self.random.choice(self.clients)
            if client.token == 0 or self.random.random() < 0.05:
                self.act(client)

    def settle(self) -> None:
        """Without faults everybody becomes a live member of one generation."""
        for _ in range(4_000):
            self.now_ms += 20
            for key in self.wheel.due(self.now_ms):
                self.send(events.TimerFired(key))
            for client in self.clients:
                if client.token == 0:
                    self.act(client)


@pytest.mark.parametrize("seed", range(20))
def test_every_generation_ends_with_disjoint_assignments(seed: int) -> None:
    world = World(seed)
    for _ in range(1_500):
        world.turn()
    assert len(world.given) > 3
    world.settle()
    live = [client for client in world.clients if client.step == "live"]
    assert live == world.clients
    assert len({client.generation for client in live}) <= 1
    if live:
        shares = world.given[live[0].generation]
        mine = [shares[client.instance or client.member_id] for client in live]
        assert set().union(*mine) == set(range(PARTITIONS))
    assert len(world.wheel) <= 2 * len(world.clients) + 8
