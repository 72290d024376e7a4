"""Share groups: members, epochs and assignments by steps; the assignor by random groups."""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from robustmq.errors import KafkaCode
from robustmq.groups.share_assignor import Partition, assign
from robustmq.groups.share_group import ShareGroup, ShareGroupSettings
from robustmq.groups.share_records import decode_group_record, encode_record
from robustmq.kafka import share_events as events
from robustmq.kafka.share_events import HeartbeatReply, ShareGroupResult, TopicShape

SESSION_MS = 10_000
A = TopicShape(b"a", b"A" * 16, 2)
B = TopicShape(b"b", b"B" * 16, 1)


class Group:
    """A machine with its log, its clock, and the topics that there are."""

    def __init__(self, max_size: int = 10) -> None:
        self.settings = ShareGroupSettings(SESSION_MS, max_size=max_size)
        self.topics = {topic.name: topic for topic in (A, B)}
        self.machine = ShareGroup("g", lambda: self.settings)
        self.log: list[bytes] = []
        self.timers: dict[str, int] = {}
        self.now_ms = 0

    def tell(self, event: events.ShareGroupEvent) -> events.ShareGroupReply | None:
        effects = self.machine.handle(event, self.now_ms, 1)
        self.log += [encode_record(record) for record in effects.records]
        for when, key in effects.timers:
            self.timers.pop(key, None)
            if when is not None:
                self.timers[key] = when
        return effects.replies[0][1] if effects.replies else None

    def beat(self, member: str, epoch: int = 0, *topics: bytes) -> HeartbeatReply:
        """A heartbeat, with the look-up that the handlers do."""
        event = events.ShareHeartbeat(member, epoch, "c", "/h", None, list(topics) or None)
        reply = self.tell(event)
        assert isinstance(reply, HeartbeatReply)
        if reply.error or not reply.look_up:
            return reply
        found = [self.topics[name] for name in reply.look_up if name in self.topics]
        newer = self.tell(events.TopicsSeen(member, reply.look_up, found))
        assert isinstance(newer, HeartbeatReply)
        return reply if newer.error or newer.assignment is None else newer

    def wait(self, ms: int) -> None:
        self.now_ms += ms
        for key, when in list(self.timers.items()):
            if when <= self.now_ms:
                del self.timers[key]
                self.tell(events.ShareTimer(key))

    def crash(self, snapshot: bool) -> None:
        records = self.machine.snapshot() if snapshot else map(decode_group_record, self.log)
        self.machine = ShareGroup("g", lambda: self.settings)
        for record in list(records):
            self.machine.replay(record)
        self.timers.clear()
        self.tell(events.ShareGroupResumed())

    def held(self, member: str) -> list[Partition]:
        described = self.tell(events.DescribeShareGroup())
        assert isinstance(described, events.ShareDescription)
        return [
            (topic, number)
            for one in described.members
            if one.member_id == member
            for _, topic, numbers in one.assignment
            for number in numbers
        ]


def test_members_share_the_partitions_of_their_topics() -> None:
    group = Group()
    first = group.beat("m", 0, b"a", b"b")
    assert first.assignment == [(A.topic_id, [0, 1]), (B.topic_id, [0])]
    second = group.beat("n", 0, b"a")
    assert second.member_epoch > first.member_epoch
    again = group.beat("m", first.member_epoch)
    assert again.member_epoch == second.member_epoch
    assert {*group.held("m"), *group.held("n")} == {(b"a", 0), (b"a", 1), (b"b", 0)}
    assert group.held("n")
    assert group.beat("m", again.member_epoch).assignment is None, "nothing has changed"


def test_a_member_with_another_epoch_than_its_last_two_is_fenced() -> None:
    group = Group()
    old = group.beat("m", 0, b"a").member_epoch
    group.beat("n", 0, b"a")
    new = group.beat("m", old).member_epoch
    assert group.beat("m", old).error == 0, "its answer may have been lost"
    assert group.beat("m", new + 1).error == KafkaCode.FENCED_MEMBER_EPOCH
    assert group.beat("x", new).error == KafkaCode.UNKNOWN_MEMBER_ID
    assert group.beat("m", 0, b"a").error == 0, "it may join again"


def test_a_silent_member_goes_and_the_group_stays() -> None:
    group = Group()
    group.beat("m", 0, b"a")
    epoch = group.beat("n", 0, b"a").member_epoch
    group.wait(SESSION_MS - 1)
    epoch = group.beat("n", epoch).member_epoch
    group.wait(1)
    assert group.held("m") == []
    group.beat("n", epoch)
    assert group.held("n") == [(b"a", 0), (b"a", 1)]
    assert group.machine.state == "Stable"
    group.wait(SESSION_MS)
    assert group.machine.state == "Empty"
    assert not group.machine.disposable


def test_a_group_has_a_greatest_size() -> None:
    group = Group(max_size=1)
    group.beat("m", 0, b"a")
    assert group.beat("n", 0, b"a").error == KafkaCode.GROUP_MAX_SIZE_REACHED
    assert group.beat("m", 0, b"a").error == 0


def test_topics_that_come_grow_and_go_are_seen_with_the_heartbeats() -> None:
    group = Group()
    epoch = group.beat("m", 0, b"new").member_epoch
    assert group.held("m") == []
    group.topics[b"new"] = TopicShape(b"new", b"N" * 16, 1)
    group.wait(2_000)
    reply = group.beat("m", epoch)
    assert reply.assignment == [(b"N" * 16, [0])]
    group.topics[b"new"] = TopicShape(b"new", b"N" * 16, 3)
    group.wait(2_000)
    reply = group.beat("m", reply.member_epoch)
    assert reply.assignment == [(b"N" * 16, [0, 1, 2])]
    del group.topics[b"new"]
    group.tell(events.DropShareTopic(b"new"))
    assert group.beat("m", reply.member_epoch).assignment == []


def test_only_an_empty_group_is_changed_or_deleted() -> None:
    group = Group()
    unknown = group.tell(events.DeleteShareGroup())
    assert unknown == ShareGroupResult(KafkaCode.GROUP_ID_NOT_FOUND)
    epoch = group.beat("m", 0, b"a").member_epoch
    for event in (
        events.DeleteShareGroup(),
        events.ForgetShareTopics([b"a"]),
        events.TouchShareTopics([A]),
    ):
        reply = group.tell(event)
        assert isinstance(reply, ShareGroupResult)
        assert reply.error == KafkaCode.NON_EMPTY_GROUP
    assert group.beat("m", -1).member_epoch == -1
    touched = group.tell(events.TouchShareTopics([B]))
    assert isinstance(touched, ShareGroupResult)
    assert (touched.error, touched.group_epoch > epoch) == (0, True)
    group.tell(events.ForgetShareTopics([b"a"]))
    described = group.tell(events.DescribeShareGroup())
    assert isinstance(described, events.ShareDescription)
    assert [topic.name for topic in described.topics] == [b"b"]
    assert group.tell(events.DeleteShareGroup()) == ShareGroupResult()
    assert group.machine.disposable


def test_a_group_is_the_same_after_a_crash() -> None:
    for snapshot in (False, True):
        group = Group()
        group.beat("m", 0, b"a", b"b")
        epoch = group.beat("n", 0, b"a").member_epoch
        before = group.tell(events.DescribeShareGroup())
        group.crash(snapshot)
        assert group.tell(events.DescribeShareGroup()) == before
        assert group.beat("n", epoch).error == 0
        group.wait(2 * SESSION_MS)
        assert group.machine.state == "Empty", "its sessions end after a crash too"
        group.crash(snapshot)
        assert group.machine.state == "Empty"


# The assignor

NAMES = (b"a", b"b", b"c")
subscriptions = st.dictionaries(
    st.sampled_from([f"m{number}" for number in range(8)]),
    st.frozensets(st.sampled_from(NAMES), min_size=1),
    max_size=8,
)
shapes = st.fixed_dictionaries({name: st.integers(0, 5) for name in NAMES})


def _check(
    wanted: dict[str, frozenset[bytes]],
    partitions: dict[bytes, int],
    given_: dict[str, set[Partition]],
) -> None:
    assert set(given_) == set(wanted)
    users: dict[Partition, int] = {}
    for member, held in given_.items():
        for topic, number in held:
            assert topic in wanted[member]
            assert number < partitions[topic]
            users[topic, number] = users.get((topic, number), 0) + 1
        able = sum(partitions[topic] for topic in wanted[member])
        assert bool(held) == bool(able), "every member that can have a partition has one"
    for topic in {topic for topics in wanted.values() for topic in topics}:
        for number in range(partitions[topic]):
            assert users.get((topic, number)), "every partition has a member"
    if len(set(wanted.values())) == 1 and users:
        counts = [len(held) for held in given_.values()]
        assert max(users.values()) - min(users.values()) <= 1
        assert max(counts) - min(counts) <= 1


@given(subscriptions, shapes, subscriptions, shapes)
@settings(max_examples=200, deadline=None, derandomize=True)
def test_every_member_and_every_partition_has_its_part(
    first: dict[str, frozenset[bytes]],
    before: dict[bytes, int],
    second: dict[str, frozenset[bytes]],
    after: dict[bytes, int],
) -> None:
    held = assign(first, before, {})
    _check(first, before, held)
    _check(second, after, assign(second, after, held))


@given(st.integers(1, 8), st.integers(1, 8), st.integers(0, 8))
@settings(max_examples=100, deadline=None, derandomize=True)
def test_members_that_are_alike_have_even_parts_and_keep_them(
    members: int, partitions: int, later: int
) -> None:
    wanted = {f"m{number}": frozenset({b"a"}) for number in range(members)}
    held = assign(wanted, {b"a": partitions}, {})
    _check(wanted, {b"a": partitions}, held)
    assert assign(wanted, {b"a": partitions}, held) == held, "what is even stays as it is"
    grown = {f"m{number}": frozenset({b"a"}) for number in range(later)}
    _check(grown, {b"a": partitions}, assign(grown, {b"a": partitions}, held))
