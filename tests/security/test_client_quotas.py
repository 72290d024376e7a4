"""Client quotas: which of them counts, and how long who is above one must wait."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from robustmq.quotas import QuotaEntity, QuotaSetting, entity_key, entity_of, problem_of
from robustmq.security.client_quotas import MAX_TRACKED, ClientQuotas

KEY = "producer_byte_rate"
LEVELS: list[dict[str, str | None]] = [
    {"client-id": None},
    {"client-id": "c"},
    {"user": None},
    {"user": None, "client-id": None},
    {"user": None, "client-id": "c"},
    {"user": "u"},
    {"user": "u", "client-id": None},
    {"user": "u", "client-id": "c"},
]
"""From the weakest to the strongest."""


def quotas(*rows: tuple[dict[str, str | None], dict[str, float]]) -> ClientQuotas:
    made = ClientQuotas(lambda: 0)
    settings = [QuotaSetting(entity_of(parts), values) for parts, values in rows]
    made.replace({one.entity.key: one for one in settings})
    return made


def test_the_nearest_entity_decides() -> None:
    rows = [(parts, {KEY: float(100 + place)}) for place, parts in enumerate(LEVELS)]
    for count in range(len(rows) + 1):
        wanted = 99.0 + count if count else None
        assert quotas(*rows[:count]).bound(KEY, "u", "c") == wanted
    # An entity without this bound does not hide one that has it.
    assert quotas(rows[1], ({"user": "u"}, {"consumer_byte_rate": 1.0})).bound(KEY, "u", "c") == 101


def test_who_is_within_the_quota_does_not_wait() -> None:
    one = quotas(({"user": "u"}, {KEY: 1000.0}))
    assert [one.charge(KEY, "u", "c", 450, ms) for ms in range(0, 60_000, 500)] == [0] * 120
    assert one.charge(KEY, "other", "c", 1e9, 0) == 0


def test_a_burst_waits_until_the_rate_is_down_to_the_bound() -> None:
    one = quotas(({"user": "u"}, {KEY: 1000.0}))
    assert one.charge(KEY, "u", "c", 9_000, 0) == 0
    assert one.charge(KEY, "u", "c", 6_000, 0) == 5_000
    # It has waited: 15,000 in 15 s.
    assert one.charge(KEY, "u", "c", 0, 15_000) == 0


def test_a_user_shares_its_quota_and_defaults_are_for_each() -> None:
    shared = quotas(({"user": "u"}, {KEY: 100.0}))
    assert shared.charge(KEY, "u", "a", 1_000, 0) == 0
    assert shared.charge(KEY, "u", "b", 1_000, 0) == 10_000
    each = quotas(({"user": None}, {KEY: 100.0}))
    assert each.charge(KEY, "u", "a", 1_000, 0) == 0
    assert each.charge(KEY, "v", "a", 1_000, 0) == 0
    assert each.charge(KEY, "v", "a", 1_000, 0) == 10_000


def test_the_time_of_requests_is_in_percent_of_a_loop() -> None:
    one = quotas(({"client-id": "c"}, {"request_percentage": 10.0}))
    key = "request_percentage"
    assert one.charge(key, "u", "c", 900_000, 0) == 0
    # 1.1 s of 10 s are 1% too much; the wait is never longer than a second.
    assert one.charge(key, "u", "c", 200_000, 0) == 1_000


def test_changes_to_the_cluster_take_tokens() -> None:
    one = quotas(({"user": "u"}, {"controller_mutation_rate": 1.0}))
    assert one.mutate("u", "c", 20, 0, strict=True) == (True, 0)
    assert one.mutate("u", "c", 1, 0, strict=True) == (False, 9_000)
    assert one.mutate("u", "c", 1, 9_000, strict=True) == (True, 0)
    assert one.mutate("u", "c", 1, 9_000, strict=False) == (True, 2_000)
    assert one.mutate("v", "c", 1_000, 0, strict=True) == (True, 0)


def test_addresses_open_so_many_connections_a_second() -> None:
    one = quotas(({"ip": "10.0.0.1"}, {"connection_creation_rate": 2.0}))
    assert not one.active and one.limits_addresses
    assert [one.admits("10.0.0.1", ms) for ms in (0, 0, 0, 499, 500)] == [
        True, True, False, False, True,
    ]  # fmt: skip
    assert all(one.admits("10.0.0.2", 0) for _ in range(100))
    everybody = quotas(({"ip": None}, {"connection_creation_rate": 1.0}))
    assert everybody.admits("10.0.0.1", 0) and not everybody.admits("10.0.0.1", 0)


def test_what_is_kept_of_clients_is_bounded() -> None:
    one = quotas(({"client-id": None}, {KEY: 1.0}))
    for number in range(MAX_TRACKED + 100):
        one.charge(KEY, "u", f"c{number}", 1, 0)
    assert len(one._windows) <= MAX_TRACKED and len(one._found) <= MAX_TRACKED


@given(st.lists(st.tuples(st.integers(0, 3_000), st.integers(0, 5_000)), min_size=5, max_size=60))
def test_who_waits_as_told_never_uses_more_than_the_bound(steps: list[tuple[int, int]]) -> None:
    one = quotas(({"user": "u"}, {KEY: 1000.0}))
    now_ms, used = 0, 0
    for pause_ms, amount in steps:
        now_ms += pause_ms + one.charge(KEY, "u", "c", amount, now_ms)
        used += amount
    # A burst of a window, and then the bound.
    assert used <= 1.001 * now_ms + 11_000 + 5_000


@pytest.mark.parametrize(
    "parts",
    [{}, {"planet": "x"}, {"user": ""}, {"ip": "1.2.3.4", "user": "u"}],
    ids=range(4),
)
def test_an_entity_that_cannot_be_is_refused(parts: dict[str, str | None]) -> None:
    with pytest.raises(ValueError, match=r"\w"):
        entity_of(parts)


@pytest.mark.parametrize(
    ("parts", "key", "value", "good"),
    [
        ({"user": "u"}, KEY, 1.0, True),
        ({"user": "u"}, KEY, None, True),
        ({"user": "u"}, KEY, 1.5, False),
        ({"user": "u"}, KEY, 0.0, False),
        ({"user": "u"}, "request_percentage", 0.5, True),
        ({"user": "u"}, "speed", 1.0, False),
        ({"user": "u"}, "connection_creation_rate", 1.0, False),
        ({"ip": None}, "connection_creation_rate", 1.0, True),
        ({"ip": None}, KEY, 1.0, False),
        ({"user": "u"}, KEY, float("nan"), False),
    ],
)
def test_a_bound_is_checked(
    parts: dict[str, str | None], key: str, value: float | None, good: bool
) -> None:
    assert (problem_of(entity_of(parts), key, value) is None) is good


def test_entities_do_not_share_a_key() -> None:
    one = QuotaEntity((("user", "a;client-id:1:b"),))
    two = QuotaEntity((("user", "a"), ("client-id", "b")))
    three = QuotaEntity((("user", None), ("client-id", "b")))
    assert len({entity_key(one), entity_key(two), entity_key(three)}) == 3
