"""How share groups spread messages: what holds for any members and any messages."""

from __future__ import annotations

from collections import Counter
from itertools import count

import pytest
from hypothesis import given
from hypothesis import strategies as st

from robustmq.core.hashing import key_hash
from robustmq.mqtt.capabilities import Capabilities
from robustmq.mqtt.session import Session
from robustmq.mqtt.subscriptions import Subscription
from robustmq.shard.share_homes import FULL, NEVER, READY, WAITING, Home, ShareHomes
from robustmq.shard.shares import HomeGroup, Member
from robustmq.shard.strategies import Dice, rendezvous, wheel
from robustmq.shard.subscriber import Subscriber

KEYS = [b"topic/%d" % number for number in range(400)]
counts = st.dictionaries(st.integers(0, 31), st.integers(1, 12), min_size=1, max_size=10)


class Peer:
    """The connection of a member that reads nothing."""

    writing = False


def homes(members: dict[int, int], strategy: str, here: int = 0, seed: int = 1) -> ShareHomes:
    share = ShareHomes(b"g", b"t/#", strategy, here, Dice(seed))
    for shard, connected in members.items():
        share.set(Home(shard, shard % 2, connected, 0, shard, READY))
    return share


def dealt(share: ShareHomes, batches: list[int], topic: bytes = b"t/1") -> Counter[int]:
    found: Counter[int] = Counter()
    for batch in batches:
        seen: list[int] = []
        for shard, indexes in share.deal(batch, topic, 0):
            seen += range(batch) if indexes is None else indexes
            found[shard] += batch if indexes is None else len(indexes)
        assert sorted(seen) == list(range(batch)), "each record goes to one home"
    return found


@given(counts, st.lists(st.integers(1, 300), min_size=1, max_size=20))
def test_homes_take_turns_in_proportion_to_their_members(
    members: dict[int, int], batches: list[int]
) -> None:
    found = dealt(homes(members, "round_robin"), batches)
    total, size = sum(batches), sum(members.values())
    for shard, connected in members.items():
        # Never further from its part than one round of the wheel.
        assert abs(found[shard] - total * connected / size) <= connected + 1


@given(counts, st.integers(0, 31), st.integers(1, 12))
def test_few_keys_move_when_a_member_comes_and_only_to_its_home(
    members: dict[int, int], home: int, grown: int
) -> None:
    before = homes(members, "hash_topic")
    after = homes({**members, home: members.get(home, 0) + grown}, "hash_topic", here=1, seed=9)
    moved = 0
    for key in KEYS:
        ((old, _),) = before.deal(3, key, 7)
        ((new, _),) = after.deal(3, key, 7)
        assert new in (old, home)
        moved += new != old
    share = grown / (sum(members.values()) + grown)
    assert moved <= len(KEYS) * share + 60


@given(counts, st.integers(1, 2**63))
def test_every_owner_comes_to_the_same_home_for_a_publisher_or_a_group(
    members: dict[int, int], origin: int
) -> None:
    for strategy in ("hash_client", "sticky"):
        one, two = homes(members, strategy), homes(members, strategy, here=1, seed=77)
        first = {one.deal(5, key, origin)[0][0] for key in KEYS[:20]}
        assert first == {two.deal(1, key, origin)[0][0] for key in KEYS[20:40]}
        assert len(first) == 1


@given(st.dictionaries(st.integers(0, 2**63), st.integers(1, 9), min_size=1, max_size=9))
def test_a_key_changes_its_candidate_only_for_one_that_changed(weights: dict[int, int]) -> None:
    rows = list(weights.items())
    for key in KEYS[:50]:
        winner = rendezvous(key, rows)
        without = rendezvous(key, [row for row in rows if row[0] != rows[0][0]])
        assert without == winner or winner == rows[0][0]


def test_keys_fall_to_candidates_by_their_weight() -> None:
    won = Counter(rendezvous(b"%d" % n, [(1, 1), (2, 2), (3, 5)]) for n in range(8_000))
    assert [round(won[one] / 1000) for one in (1, 2, 3)] == [1, 2, 5]


@given(counts)
def test_a_wheel_has_everybody_as_often_as_he_weighs(members: dict[int, int]) -> None:
    assert Counter(wheel(members)) == Counter(members)


def test_the_wheel_of_a_large_group_is_bounded_and_nobody_is_left_out() -> None:
    slots = wheel(dict.fromkeys(range(15), 10000) | {15: 1})
    assert len(slots) <= 1100
    assert set(slots) == set(range(16))


@pytest.mark.parametrize("strategy", ["round_robin", "random", "least_inflight", "local_first"])
def test_a_home_without_room_is_passed_over_while_another_has_some(strategy: str) -> None:
    share = homes({0: 1, 2: 3, 4: 1}, strategy)
    share.load(2, WAITING, 50)
    assert set(dealt(share, [1] * 30 + [40])) == {0, 4}
    for shard in (0, 4):
        share.load(shard, WAITING, 900)
    # None has room: the one that has the least to do takes them.
    assert set(dealt(share, [1] * 10)) == {2}


@pytest.mark.parametrize("strategy", ["hash_topic", "hash_client", "sticky"])
def test_a_key_leaves_its_home_only_when_that_would_lose_it(strategy: str) -> None:
    share = homes({0: 1, 2: 3, 4: 1}, strategy)
    ((home, _),) = share.deal(1, b"t/1", 5)
    share.load(home, WAITING, 50)
    assert share.deal(1, b"t/1", 5)[0][0] == home
    share.load(home, FULL, 5_000)
    assert share.deal(1, b"t/1", 5)[0][0] != home
    share.load(home, READY, 0)
    assert share.deal(1, b"t/1", 5)[0][0] == home


def test_local_first_prefers_homes_of_the_owners_worker() -> None:
    members = {0: 1, 1: 5, 2: 1}
    assert set(dealt(homes(members, "local_first", here=0), [30])) == {0, 2}
    assert set(dealt(homes(members, "local_first", here=1), [30])) == {1}
    assert set(dealt(homes({1: 5}, "local_first", here=0), [30])) == {1}


def test_least_inflight_evens_out_what_waits() -> None:
    share = homes({0: 1, 1: 1, 2: 1, 3: 1}, "least_inflight")
    share.load(0, READY, 100)
    found = dealt(share, [25] * 8)
    assert found[0] < 20
    assert all(50 <= found[shard] <= 80 for shard in (1, 2, 3))


def test_members_that_are_away_get_messages_only_when_nobody_is_there() -> None:
    share = homes({0: 1}, "round_robin")
    share.set(Home(1, 1, 0, 3, NEVER, READY))
    assert share.kept
    assert set(dealt(share, [10])) == {0}
    share.set(Home(0, 0, 0, 0, NEVER, READY))
    assert share.empty
    assert set(dealt(share, [10])) == {1}


# -- the members of one home -----------------------------------------------------------------------

_names = count(1)


def member(qos: int = 1, connected: bool = True, joined: int = 0, window: int = 10) -> Member:
    client_id = b"member-%d" % next(_names)
    session = Session(client_id, Capabilities())
    session.open(5, 100, window)
    subscriber = Subscriber(client_id, key_hash(b"session", client_id), 0, session, 1000)
    if connected:
        subscriber.connect(Peer(), 0, 0)  # type: ignore[arg-type]
        subscriber.serve()
    subscription = Subscription(b"$share/g/t", qos, share_group=b"g")
    return Member(b"t", subscriber, subscription, True, joined)


def group(strategy: str, *members: Member) -> HomeGroup:
    found = HomeGroup(b"g", b"t", 0, strategy, Dice(3))
    found.members += members
    return found


@pytest.mark.parametrize("strategy", ["round_robin", "random", "least_inflight"])
@pytest.mark.parametrize("counts_", [True, False])
def test_members_of_a_home_have_equal_shares(strategy: str, counts_: bool) -> None:
    found = group(strategy, *(member(window=60_000) for _ in range(5)))
    got: Counter[int] = Counter()
    for batch in [1, 1, 3, 1, 256, 7, 2, 40] * 20:
        hands = found.deal(range(batch), counts_, b"t", 1)
        assert sorted(i for _, mine in hands for i in mine) == list(range(batch))
        for one, mine in hands:
            got[id(one)] += len(mine)
            one.subscriber.unqueued += len(mine) if counts_ else 0
    mean = sum(got.values()) / 5
    slack = 0.15 if strategy == "random" else 0.02
    if strategy != "least_inflight" or counts_:
        assert all(abs(one - mean) <= mean * slack for one in got.values())


def test_a_member_with_a_full_window_is_passed_over_and_then_the_least_loaded_is_taken() -> None:
    stuck, free = member(window=5), member(window=100)
    found = group("round_robin", stuck, free)
    stuck.subscriber.unqueued = 5
    assert [one for one, _ in found.deal(range(50), True, b"t", 1)] == [free]
    free.subscriber.unqueued = 100
    assert found.state() == WAITING
    (first, mine), *_ = found.deal(range(10), True, b"t", 1)
    assert first is stuck
    assert len(mine) == 10


def test_members_that_are_away_get_nothing_while_one_is_there() -> None:
    away, here, plain = member(connected=False), member(), member(qos=0, connected=False)
    found = group("round_robin", away, here, plain)
    assert [one for one, _ in found.deal(range(4), True, b"t", 1)] == [here]
    assert found.counts() == (1, 2, 0)
    here.subscriber.disconnect()
    assert {id(one) for one, _ in found.deal(range(4), True, b"t", 1)} == {id(away), id(here)}


def test_sticky_stays_with_the_first_member_until_it_goes() -> None:
    young, old = member(joined=20), member(joined=10)
    found = group("sticky", young, old)
    assert found.deal(range(9), True, b"t", 1) == [(old, range(9))]
    oldest = member(joined=30)
    found.members.append(oldest)
    found.changed()
    assert found.deal(range(1), True, b"u", 2) == [(old, range(1))]
    old.subscriber.disconnect()
    found.changed()
    assert found.deal(range(1), True, b"u", 2) == [(young, range(1))]


@given(st.integers(2, 9))
def test_a_key_stays_with_its_member_when_another_joins(size: int) -> None:
    members = [member() for _ in range(size)]
    found = group("hash_topic", *members)
    before = {key: found.deal(range(2), True, key, 1)[0][0] for key in KEYS[:100]}
    joined = member()
    found.members.append(joined)
    found.changed()
    for key, one in before.items():
        assert found.deal(range(2), True, key, 1)[0][0] in (one, joined)
