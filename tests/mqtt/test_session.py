"""The session machine: its durable form, its window and its acknowledgements."""

from __future__ import annotations

import time
from array import array
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robustmq.errors import BrokerError
from robustmq.mqtt.capabilities import Capabilities
from robustmq.mqtt.inflight import DropPolicy
from robustmq.mqtt.packets import Properties, Will
from robustmq.mqtt.session import Session
from robustmq.mqtt.session_records import Queued, Record, decode_record, encode_record
from robustmq.mqtt.subscriptions import Subscription

CAPABILITIES = Capabilities(maximum_queued_messages=4)


def opened(capabilities: Capabilities = CAPABILITIES, receive_maximum: int = 3) -> Session:
    session = Session(b"c", capabilities)
    session.open(5, 100, receive_maximum)
    return session


steps = st.lists(
    st.one_of(
        st.tuples(st.just("offer"), st.integers(0, 2)),
        st.tuples(st.just("pump"), st.just(0)),
        st.tuples(st.just("puback"), st.integers(1, 8)),
        st.tuples(st.just("pubrec"), st.integers(1, 8)),
        st.tuples(st.just("refused"), st.integers(1, 8)),
        st.tuples(st.just("pubcomp"), st.integers(1, 8)),
        st.tuples(st.just("discard"), st.integers(1, 8)),
        st.tuples(st.just("publish"), st.integers(1, 4)),
        st.tuples(st.just("pubrel"), st.integers(1, 4)),
        st.tuples(st.just("subscribe"), st.integers(0, 3)),
        st.tuples(st.just("unsubscribe"), st.integers(0, 3)),
        st.tuples(st.just("close"), st.integers(0, 1)),
        st.tuples(st.just("open"), st.integers(1, 5)),
        st.tuples(st.just("advance"), st.integers(0, 20)),
    ),
    max_size=60,
)


def apply(session: Session, step: tuple[str, int], count: int) -> None:
    action, value = step
    single: dict[str, Callable[[int], object]] = {
        "puback": session.on_puback,
        "pubrec": session.on_pubrec,
        "pubcomp": session.on_pubcomp,
        "publish": session.on_publish,
        "pubrel": session.on_pubrel,
    }
    if action in single:
        single[action](value)
    elif action == "refused":
        session.on_pubrec(value, 0x97)
    elif action == "discard":
        session.discard((value,))
    elif action == "offer":
        session.offer(count, value, count & 1, (count,))
    elif action == "pump" and session.connected:
        session.pump()
    elif action == "subscribe":
        session.subscribe(Subscription(b"a/%d" % value, count % 3))
    elif action == "unsubscribe":
        session.unsubscribe(b"a/%d" % value)
    else:
        apply_to_connection(session, step, count)


def apply_to_connection(session: Session, step: tuple[str, int], count: int) -> None:
    action, value = step
    if action == "close":
        session.close(count * 1000, will_dropped=bool(value))
    elif action == "open" and not session.connected:
        delay = Properties(will_delay_interval=value)
        session.open(5, 100 + value, value, Will(b"w", b"", properties=delay))
        session.resume()
    elif action == "advance":
        session.advance(count * 1000 + value * 1000)


def state(session: Session) -> dict[str, list[Record]]:
    """What a session would be made again from, by kind. How the kinds stand among each other says
    only which messages the client may have seen: after a crash that is a guess."""
    found: dict[str, list[Record]] = {}
    for record in session.snapshot():
        found.setdefault(type(record).__name__, []).append(record)
    return found


@settings(derandomize=True, max_examples=400, deadline=None)
@given(steps, st.sampled_from(DropPolicy))
def test_replayed_records_give_the_live_state(
    steps: list[tuple[str, int]], policy: DropPolicy
) -> None:
    capabilities = Capabilities(maximum_queued_messages=4, drop_policy=policy)
    live = opened(capabilities)
    replayed = Session(b"c", capabilities)
    for count, step in enumerate(steps, 1):
        try:
            apply(live, step, count)
        except BrokerError:
            pass
        if step[0] == "offer":
            replayed.restore_offer(count, step[1], count & 1, (count,))
        for record in live.drain_records():
            replayed.replay(decode_record(encode_record(record)))
        assert state(replayed) == state(live)
        assert replayed.connected == live.connected
        assert replayed.next_deadline_ms == live.next_deadline_ms
    restored = Session.restore(b"c", capabilities, live.snapshot())
    assert state(restored) == state(live)
    restored.recover(10**9)
    live.close(10**9)
    assert state(restored) == state(live)


@settings(derandomize=True, max_examples=300, deadline=None)
@given(steps)
def test_every_reference_is_finished_once_or_still_held(steps: list[tuple[str, int]]) -> None:
    session = opened()
    offered = []
    for count, step in enumerate(steps, 1):
        if step[0] == "offer":
            offered.append(count)
        try:
            apply(session, step, count)
        except BrokerError:
            pass
        assert session.window.in_flight <= max(5, session.receive_maximum)
    assert sorted(session.take_finished() + session.references()) == offered


def test_identifiers_wrap_and_skip_those_in_use() -> None:
    session = opened(Capabilities(maximum_queued_messages=70_000, maximum_in_flight=65_535), 2)
    session.offer(0, 1)
    (first,) = session.pump()
    for reference in range(1, 65_536):
        session.offer(reference, 1)
        (delivery,) = session.pump()
        session.on_puback(delivery.packet_id)
    assert first.packet_id == 1
    assert delivery.packet_id == 2


def test_a_smaller_receive_maximum_holds_resent_messages_back() -> None:
    session = opened(receive_maximum=3)
    for reference in range(3):
        session.offer(reference, 1)
    session.pump()
    session.close(0)
    session.open(5, 100, 1)
    assert list(session.resume()) == []
    assert [(d.packet_id, d.dup) for d in session.pump()] == [(1, True)]
    assert session.pump() == []
    session.on_puback(1)
    assert [(d.packet_id, d.dup) for d in session.pump()] == [(2, True)]


def test_pubrels_are_resent_in_the_order_of_their_pubrecs() -> None:
    session = opened()
    for reference in range(3):
        session.offer(reference, 2)
    session.pump()
    session.on_pubrecs(array("H", (3, 1)))
    session.close(0)
    session.open(5, 100, 3)
    assert list(session.resume()) == [3, 1]
    assert [(d.packet_id, d.dup) for d in session.pump()] == [(2, True)]


@pytest.mark.parametrize(("qos", "answer"), [(1, "on_pubrec"), (2, "on_puback"), (2, "on_pubcomp")])
def test_an_acknowledgement_of_the_wrong_kind_is_a_protocol_error(qos: int, answer: str) -> None:
    session = opened()
    session.offer(1, qos)
    session.pump()
    with pytest.raises(BrokerError) as raised:
        getattr(session, answer)(1)
    assert raised.value.fault.name == "PROTOCOL_ERROR"
    assert session.references() == [1]


def test_acks_before_a_wrong_one_in_a_run_still_count() -> None:
    session = opened()
    session.offer(1, 1)
    session.offer(2, 2)
    session.pump()
    with pytest.raises(BrokerError):
        session.on_pubacks(array("H", (1, 2)))
    assert session.take_finished() == [1]
    assert session.references() == [2]


def test_unknown_identifiers_are_ignored_or_answered_0x92() -> None:
    session = opened()
    assert session.on_puback(9) == []
    session.on_pubcomp(9)
    reply, finished = session.on_pubrec(9)
    assert reply is not None
    assert (reply.reason_code, finished) == (0x92, [])
    assert session.on_pubrel(9).reason_code == 0x92


def test_a_session_with_expiry_0_writes_no_records() -> None:
    session = Session(b"c", CAPABILITIES)
    session.open(5, 0, 10)
    session.subscribe(Subscription(b"a"))
    session.offer(1, 2)
    session.pump()
    session.close(5)
    assert session.drain_records() == []
    assert session.snapshot() == []
    assert session.ended(5)


def test_qos_1_in_flight_is_queued_again_after_a_crash() -> None:
    session = opened()
    session.offer(7, 1)
    session.pump()
    assert Queued(7, 1, 0, ()) in session.snapshot()


def test_a_run_of_pubacks_is_cheap() -> None:
    session = opened(Capabilities(maximum_queued_messages=100_000, maximum_in_flight=20), 20)
    best = 1.0
    for start in range(0, 4000, 20):
        for reference in range(start, start + 20):
            session.offer(reference, 1)
        ids = array("H", [delivery.packet_id for delivery in session.pump()])
        began = time.perf_counter()
        session.on_pubacks(ids)
        best = min(best, time.perf_counter() - began)
        session.drain_records()
    assert best / 20 < 2e-6
