"""Client telemetry (KIP-714): what is asked of which client, when it may push, and what OTLP is."""

from __future__ import annotations

from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from robustmq.errors import BrokerError, Fault
from robustmq.kafka import telemetry
from robustmq.kafka.telemetry import Instances, count_points, problem_of, subscription_for

ME = UUID(int=7)
CLIENT = {
    "client_id": "app-1",
    "client_software_name": "apache-kafka-java",
    "client_software_version": "4.3.0",
    "client_source_address": "10.0.0.1",
    "client_source_port": "5000",
    "client_instance_id": str(ME),
}


@pytest.mark.parametrize(
    ("subscriptions", "metrics", "interval_ms"),
    [
        ([], (), 300_000),
        ([{"metrics": "org.apache.kafka.producer."}], ("org.apache.kafka.producer.",), 300_000),
        ([{"metrics": "b,a", "interval.ms": "100"}, {"metrics": "a"}], ("a", "b"), 100),
        ([{"metrics": "*"}, {"metrics": "a"}], ("",), 300_000),
        ([{"metrics": "a", "match": "client_id=app-.*"}], ("a",), 300_000),
        ([{"metrics": "a", "match": "client_id=app"}], (), 300_000),
        ([{"metrics": "a", "match": "client_id=.*,client_source_port=1"}], (), 300_000),
        ([{"interval.ms": "100", "match": "client_id=x"}], (), 300_000),
    ],
    ids=range(8),
)
def test_subscriptions_ask_the_clients_that_they_are_for(
    subscriptions: list[dict[str, str]], metrics: tuple[str, ...], interval_ms: int
) -> None:
    asked = subscription_for(ME, CLIENT, subscriptions)
    assert (asked.metrics, asked.interval_ms) == (metrics, interval_ms)
    assert -(2**31) <= asked.subscription_id < 2**31
    # The same at every worker, and another one for what is asked instead.
    assert asked == subscription_for(ME, CLIENT, subscriptions)
    other = subscription_for(ME, CLIENT, [*subscriptions, {"metrics": "more"}])
    assert ("more" in other.metrics) is (other.subscription_id != asked.subscription_id)


@pytest.mark.parametrize(
    ("settings", "good"),
    [
        ({}, True),
        ({"metrics": "a", "interval.ms": "100", "match": "client_id=a.*, client_id=b"}, True),
        ({"interval.ms": "99"}, False),
        ({"interval.ms": "3600001"}, False),
        ({"interval.ms": "soon"}, False),
        ({"match": "planet=x"}, False),
        ({"match": "client_id"}, False),
        ({"match": "client_id=("}, False),
        ({"colour": "red"}, False),
    ],
    ids=range(9),
)
def test_settings_of_a_subscription_are_checked(settings: dict[str, str], good: bool) -> None:
    assert (problem_of(settings) is None) is good


def test_a_client_pushes_as_often_as_it_was_told() -> None:
    known = Instances()
    asked = subscription_for(ME, CLIENT, [{"metrics": "a", "interval.ms": "1000"}])
    assert known.asks(ME, asked, 0) == 0
    assert known.asks(ME, asked, 999) == 89
    assert known.pushes(ME, asked, asked.subscription_id, False, 500) == 0
    assert known.pushes(ME, asked, asked.subscription_id, False, 1_499) == 89
    assert known.pushes(ME, asked, asked.subscription_id, False, 1_500) == 0
    # Another subscription: it is told so, and may ask at once.
    changed = subscription_for(ME, CLIENT, [{"metrics": "b", "interval.ms": "1000"}])
    assert known.pushes(ME, changed, asked.subscription_id, False, 2_600) == 117
    assert known.asks(ME, changed, 2_601) == 0
    assert known.pushes(ME, changed, changed.subscription_id, True, 2_602) == 0
    assert known.pushes(ME, changed, changed.subscription_id, True, 2_603) == 42


def test_what_is_kept_of_clients_is_bounded() -> None:
    known = Instances()
    asked = subscription_for(ME, CLIENT, [])
    for number in range(telemetry.MAX_INSTANCES + 10):
        known.asks(UUID(int=number + 1), asked, 0)
    assert len(known) == telemetry.MAX_INSTANCES


def field(number: int, content: bytes) -> bytes:
    assert len(content) < 128
    return bytes([number << 3 | 2, len(content)]) + content


def test_data_points_are_counted() -> None:
    gauge = field(5, field(1, b"") + field(1, field(4, b"x")))
    total = field(1, b"name") + field(7, field(1, b"") + bytes([3 << 3, 1]))
    metrics = field(2, gauge) + field(2, total)
    assert count_points(field(1, field(1, b"") + field(2, metrics))) == 3
    assert count_points(b"") == 0


@given(st.binary(max_size=60))
def test_what_is_no_otlp_is_refused_and_nothing_else_happens(data: bytes) -> None:
    try:
        assert count_points(data) >= 0
    except BrokerError as error:
        assert error.fault is Fault.CORRUPT_RECORD
