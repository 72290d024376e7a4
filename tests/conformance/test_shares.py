"""Share groups over one worker and over two (MQTT 5.0 section 4.8.2): who gets what, and that
nobody starves. docs/how-to/shared-subscriptions.md promises what is tested here."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Sequence

import pytest

from robustmq.mqtt.packets import Publish, Subscribe
from robustmq.mqtt.packets import SubscriptionOptions as Options
from tests.broker import until
from tests.conformance.conftest import Names, Open
from tests.mqtt.sharing import answer, collect, ended, publish
from tests.mqtt.wire import PUBACK, Closed, Wire


def group(
    wire: Open, names: Names, share: bytes, homes: Sequence[int], qos: int, expiry: int = 0
) -> list[Wire]:
    """Members whose sessions live on these workers."""
    members = []
    for home in homes:
        one = wire()
        one.connect(names.client(home), expiry=expiry)
        one.subscribe(share, qos=qos)
        members.append(one)
    return members


@pytest.mark.parametrize("expiry", [0, 100])
@pytest.mark.parametrize(("qos", "count"), [(0, 2100), (1, 630)])
@pytest.mark.parametrize("topics", [1, 21])
@pytest.mark.parametrize("batch", [1, 256, (1, 2, 7, 1, 40, 3)])
def test_equal_members_get_equal_parts_wherever_they_are(
    wire: Open,
    names: Names,
    batch: int | tuple[int, ...],
    topics: int,
    qos: int,
    count: int,
    expiry: int,
) -> None:
    if batch == 1:
        count //= 2
    root = names.topic(0).split(b"/")[0]
    # Five on one worker and two on the other: the parts are the members', not the workers'.
    members = group(
        wire, names, b"$share/equal/" + root + b"/+", (0, 0, 0, 0, 0, 1, 1), qos, expiry
    )
    publisher = wire()
    publisher.connect(names.client(1))
    publish(publisher, [root + b"/%d" % n for n in range(topics)], count, batch, qos)
    got = collect(members, count)
    numbers = sorted(int(one.payload) for row in got for one in row)
    assert numbers == list(range(count))
    part = count / len(members)
    assert all(abs(len(row) - part) <= part * 0.05 for row in got), list(map(len, got))


def test_a_queue_is_a_group_without_a_name(wire: Open, names: Names) -> None:
    topic, publisher = names.topic(0), wire()
    publisher.connect(names.client(0))
    publisher.publish(topic, b"retained", 1, True)
    members = group(wire, names, b"$queue/" + topic, (0, 1), 1)
    members += group(wire, names, b"$share/$queue/" + topic, (0, 1), 1)
    (other,) = group(wire, names, b"$share/other/" + topic, (0,), 1)
    publish(publisher, [topic], 40, 1, 1)
    got = collect([*members, other], 80)
    # Nobody got what was retained, the group of its own got all, the four share one group.
    assert [int(one.payload) for one in got[4]] == list(range(40))
    assert sorted(int(one.payload) for row in got[:4] for one in row) == list(range(40))
    assert all(8 <= len(row) <= 12 for row in got[:4])
    assert members[0].unsubscribe(b"$queue/" + topic, b"$queue/" + topic) == (0, 0x11)


def test_no_local_on_a_queue_is_a_protocol_error(wire: Open, names: Names) -> None:
    client = wire()
    client.connect(names.client(1))
    client.send(Subscribe(1, ((b"$queue/" + names.topic(), Options(1, no_local=True)),)))
    client.expect_end(0x82)


@pytest.mark.parametrize("filter_", [b"#", b"+/broker/#"])
def test_a_group_of_a_leading_wildcard_gets_no_topics_that_begin_with_a_dollar(
    wire: Open, names: Names, filter_: bytes
) -> None:
    (member,) = group(wire, names, b"$share/dollar/" + filter_, (1,), 0)
    (system,) = group(wire, names, b"$share/dollar/$SYS/broker/uptime", (1,), 0)
    assert system.expect(Publish).topic == b"$SYS/broker/uptime"
    while True:
        try:
            packet = member.read(0.2)
        except TimeoutError:
            break
        assert isinstance(packet, Publish)
        assert not packet.topic.startswith(b"$")


@pytest.mark.parametrize("home", [0, 1])
@pytest.mark.parametrize("expiry", [0, 100])
def test_a_member_that_acknowledges_nothing_holds_only_its_window(
    wire: Open, names: Names, home: int, expiry: int
) -> None:
    topic, publisher, stuck = names.topic(0), wire(), wire()
    share = b"$share/stuck/" + topic
    publisher.connect(names.client(0))
    stuck.connect(names.client(home), receive_maximum=3, expiry=expiry)
    stuck.subscribe(share, qos=1)
    members = group(wire, names, share, (0, 1, 1), 1, expiry)
    for first in range(0, 600, 20):
        # The others keep up with it, so they have room all the time.
        for number in range(first, first + 20):
            publisher.send(Publish(topic, b"%d" % number, 1, packet_id=number + 1))
        for _ in range(20):
            publisher.expect_ack(PUBACK)
        collect(members, 20 - (_arrived(stuck, 3) if first == 0 else 0))


def _arrived(stuck: Wire, most: int) -> int:
    """How many messages come to a member that answers none."""
    count = 0
    try:
        while True:
            stuck.expect(Publish, 0.5)
            count += 1
    except (TimeoutError, Closed):
        pass
    assert 0 < count <= most
    return count


def test_what_waits_for_a_member_goes_to_others_when_it_goes_away(wire: Open, names: Names) -> None:
    topic, publisher, away = names.topic(1), wire(), wire()
    share = b"$share/away/" + topic
    publisher.connect(names.client(0))
    away.connect(client_id := names.client(1), receive_maximum=2, expiry=100)
    away.subscribe(share, qos=2)
    for number in range(10):
        publisher.publish(topic, b"%d" % number, 1 + number % 2)
    sent = [away.expect(Publish) for _ in range(2)]
    (other,) = group(wire, names, share, (0,), 2)
    away.disconnect()
    (got,) = collect([other], 8)
    assert sorted(int(one.payload) for one in got) == list(range(2, 10))
    again = wire()
    again.connect(client_id, False, expiry=100)
    # What was sent to it is still its own [MQTT-4.8.2-4].
    assert [again.receive().payload for _ in range(2)] == [one.payload for one in sent]
    again.expect_nothing()
    assert not ended(other)


def test_what_waits_for_a_member_goes_to_others_when_it_unsubscribes(
    wire: Open, names: Names
) -> None:
    topic, publisher, leaving = names.topic(1), wire(), wire()
    share = b"$share/leaving/" + topic
    publisher.connect(names.client(0))
    leaving.connect(names.client(0), receive_maximum=2)
    leaving.subscribe(share, qos=1)
    publish(publisher, [topic], 10, 10, 1)
    assert [leaving.expect(Publish).payload for _ in range(2)] == [b"0", b"1"]
    (other,) = group(wire, names, share, (1,), 1)
    leaving.unsubscribe(share)
    (got,) = collect([other], 8)
    assert sorted(int(one.payload) for one in got) == list(range(2, 10))
    leaving.drop()
    # What it had not acknowledged follows when its session ends.
    (got,) = collect([other], 2)
    assert sorted(one.payload for one in got) == [b"0", b"1"]


def test_messages_wait_for_a_group_that_is_away_and_no_member_starves(
    wire: Open, names: Names
) -> None:
    topic, publisher = names.topic(0), wire()
    publisher.connect(names.client(1))
    clients = [names.client(home) for home in (0, 0, 1)]
    for client_id in clients:
        one = wire()
        one.connect(client_id, expiry=100)
        one.subscribe(b"$share/sleeping/" + topic, qos=2)
        one.disconnect()
    for number in range(90):
        publisher.publish(topic, b"%d" % number, 1 + number % 2)
    members = []
    for client_id in clients:
        one = wire()
        assert one.connect(client_id, False, expiry=100).session_present
        members.append(one)
    got = collect(members, 90)
    assert sorted(int(one.payload) for row in got for one in row) == list(range(90))
    assert all(row for row in got)


# -- strategies (tests/conformance/conftest.py configures the groups) ------------------------------


def parts(got: list[list[Publish]]) -> list[set[bytes]]:
    return [{one.topic for one in row} for row in got]


@pytest.mark.parametrize("qos", [0, 1])
def test_random_spreads_over_all_members(wire: Open, names: Names, qos: int) -> None:
    topic, publisher = names.topic(0), wire()
    members = group(wire, names, b"$share/random/" + topic, (0, 0, 1, 1), qos)
    publisher.connect(names.client(0))
    publish(publisher, [topic], 800, 40, qos)
    got = [len(row) for row in collect(members, 800)]
    assert all(130 <= one <= 270 for one in got), got


@pytest.mark.parametrize("qos", [0, 1])
def test_sticky_keeps_to_one_member_until_it_goes(wire: Open, names: Names, qos: int) -> None:
    root, publisher = names.topic(0).split(b"/")[0], wire()
    topics = [root + b"/%d" % n for n in range(20)]
    members = group(wire, names, b"$share/sticky/" + root + b"/+", (1, 0, 1), qos)
    publisher.connect(names.client(0))

    def chosen() -> list[int]:
        publish(publisher, topics, 60, 20, qos)
        return [at for at, row in enumerate(collect(members, 60)) if row]

    (first,) = chosen()
    members += group(wire, names, b"$share/sticky/" + root + b"/+", (0,), qos)
    assert chosen() == [first]
    members.pop(first).disconnect()
    # Another worker may not have heard of it yet.
    until(lambda: len(chosen()) == 1)
    assert chosen() == chosen()


def test_the_hash_of_a_topic_keeps_it_with_one_member(wire: Open, names: Names) -> None:
    root = names.topic(0).split(b"/")[0]
    topics = [root + b"/%d" % n for n in range(60)]
    share = b"$share/hash-topic/" + root + b"/+"
    members = group(wire, names, share, (0, 0, 1, 1), 1)
    publishers = [wire() for _ in range(2)]
    for at, one in enumerate(publishers):
        one.connect(names.client(at))
        publish(one, topics, 120, 30, 1)
    before = parts(collect(members, 240))
    assert sum(map(len, before)) == 60, "each topic has one member"
    assert all(before), "all members have some"
    members += group(wire, names, share, (1,), 1)
    publish(publishers[0], topics, 120, 30, 1)
    after = parts(collect(members, 120))
    assert sum(map(len, after)) == 60
    moved = sum(len(old - new) for old, new in zip(before, after, strict=False))
    assert moved <= 35, "few topics move to a new member"
    members.pop().disconnect()

    def back() -> bool:
        publish(publishers[1], topics, 120, 30, 1)
        return parts(collect(members, 120)) == before

    until(back, what="what the member had, with those who had it before")


def test_the_hash_of_a_publisher_keeps_it_with_one_member(wire: Open, names: Names) -> None:
    root = names.topic(0).split(b"/")[0]
    topics = [root + b"/%d" % n for n in range(20)]
    members = group(wire, names, b"$share/hash-client/" + root + b"/+", (0, 1, 0, 1), 0)
    chosen: Counter[int] = Counter()
    for home in range(16):
        publisher = wire()
        publisher.connect(names.client(home))
        publish(publisher, topics, 40, 20, 0)
        got = [len(row) for row in collect(members, 40)]
        assert sorted(got) == [0, 0, 0, 40], "whoever owns the topic"
        chosen[got.index(40)] += 1
    assert len(chosen) >= 2


def test_least_inflight_gives_a_slow_member_less(wire: Open, names: Names) -> None:
    topic, publisher, slow = names.topic(0), wire(), wire()
    share = b"$share/least/" + topic
    publisher.connect(names.client(0))
    members = group(wire, names, share, (0, 1, 1), 1)
    slow.connect(names.client(0))
    slow.subscribe(share, qos=1)
    total = 0
    for _ in range(20):
        publish(publisher, [topic], 30, 30, 1)
        # The members answer all they have; the slow one answers nothing.
        deadline = time.monotonic() + 0.1
        while time.monotonic() < deadline:
            for one in members:
                try:
                    total += answer(one, one.read(0.005)) is not None
                except TimeoutError:
                    continue
    assert total >= 500, "a member that does not answer keeps little"


def test_local_first_keeps_to_the_members_of_the_topics_worker(wire: Open, names: Names) -> None:
    near, far = names.topic(0), names.topic(1)
    shares = [b"$share/local/" + near, b"$share/local/" + far]
    members = []
    for home in (0, 0, 1, 1):
        one = wire()
        one.connect(names.client(home))
        one.subscribe(*shares, qos=1)
        members.append(one)
    publisher = wire()
    publisher.connect(names.client(1))
    publish(publisher, [near], 40, 10, 1)
    got = [len(row) for row in collect(members, 40)]
    if names.workers == 2:
        assert got[0] >= 15 and got[1] >= 15 and got[2:] == [0, 0], got
    for one in members[:2]:
        one.disconnect()
    publish(publisher, [near], 40, 10, 1)
    got = [len(row) for row in collect(members[2:], 40)]
    assert all(one >= 15 for one in got), "and to others when there is none"
