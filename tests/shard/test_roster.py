"""Sessions are listed in slices while others come and go."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from robustmq.mqtt.capabilities import Capabilities
from robustmq.mqtt.session import Session
from robustmq.shard.roster import Roster
from robustmq.shard.subscriber import Subscriber

NAMES = [b"%d" % number for number in range(12)]
STEP = "step"


def subscriber(name: bytes) -> Subscriber:
    return Subscriber(name, 0, 0, Session(name, Capabilities()), 0)


@given(st.lists(st.sampled_from([STEP, *NAMES]), max_size=80), st.sets(st.sampled_from(NAMES)))
def test_a_walk_meets_everybody_who_is_there_all_the_time(
    events: list[bytes | str], first: set[bytes]
) -> None:
    roster = Roster()
    for name in sorted(first):
        roster.add(subscriber(name))
    walk, met, stayed = roster.walk(), set(), set(first)
    for event in events:
        if event == STEP:
            one = next(walk, None)
            met |= {one.client_id} if one is not None else set()
            continue
        assert isinstance(event, bytes)
        if event in roster:
            roster.remove(event)
            stayed.discard(event)
        else:
            roster.add(subscriber(event))
        assert {one.client_id for one in roster.all()} == {n for n in NAMES if n in roster}
        assert len(roster) == len(roster.all())
    met |= {one.client_id for one in walk}
    assert stayed <= met
