"""The table of bans says what a plain look through all of them would say."""

from __future__ import annotations

import fnmatch
import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from robustmq.bans import FOR_EVER, KINDS, Ban, BanTable, key, normal_value

names = st.text("ab", min_size=1, max_size=3)
patterns = st.text("ab*?", min_size=1, max_size=3)
v4 = st.builds(
    lambda number, length: f"{ipaddress.ip_address(number << 24)}/{length}",
    st.integers(0, 255),
    st.sampled_from([0, 1, 4, 6, 7, 8, 32]),
)
v6 = st.builds(
    lambda number, length: f"{ipaddress.ip_address(number << 120)}/{length}",
    st.integers(0, 255),
    st.sampled_from([0, 3, 5, 8, 128]),
)
values = {
    "client_id": names,
    "user_name": names,
    "address": st.one_of(v4, v6),
    "client_id_pattern": patterns,
    "user_name_pattern": patterns,
}
bans = st.sampled_from(KINDS).flatmap(
    lambda kind: st.builds(
        lambda value, until: Ban(kind, normal_value(kind, value), until_ms=until),
        values[kind],
        st.sampled_from([FOR_EVER, 5, 15]),
    )
)
addresses = st.one_of(
    st.integers(0, 255).map(lambda number: f"{ipaddress.ip_address(number << 24)}:1"),
    st.integers(0, 255).map(lambda number: f"[{ipaddress.ip_address(number << 120)}]:1"),
)
NOW = 10


def holds_out(ban: Ban, client_id: str, user: str | None, address: str) -> bool:
    if ban.until_ms and ban.until_ms <= NOW:
        return False
    if ban.kind == "address":
        host = ipaddress.ip_address(address.rpartition(":")[0].strip("[]"))
        return host in ipaddress.ip_network(ban.value)
    asked = client_id if ban.kind.startswith("client") else user
    if asked is None:
        return False
    if ban.kind.endswith("pattern"):
        return fnmatch.fnmatchcase(asked, ban.value)
    return asked == ban.value


@given(
    st.lists(st.tuples(st.booleans(), bans), max_size=12),
    names,
    st.one_of(st.none(), names),
    addresses,
)
def test_a_client_is_held_out_by_the_bans_that_name_it_and_no_other(
    changes: list[tuple[bool, Ban]], client_id: str, user: str | None, address: str
) -> None:
    table = BanTable()
    there: dict[str, Ban] = {}
    for is_set, ban in changes:
        if is_set:
            table.set(ban)
            there[key(ban.kind, ban.value)] = ban
        else:
            table.remove(ban.kind, ban.value)
            there.pop(key(ban.kind, ban.value), None)
    assert {key(ban.kind, ban.value): ban for ban in table.all()} == there
    by_name = [ban for ban in there.values() if ban.kind != "address"]
    by_address = [ban for ban in there.values() if ban.kind == "address"]
    named = table.client(client_id.encode(), user, NOW)
    assert (named is not None) == any(holds_out(b, client_id, user, address) for b in by_name)
    met = table.address(address, NOW)
    assert (met is not None) == any(holds_out(b, client_id, user, address) for b in by_address)
    assert (table.any, table.any_address) == (bool(there), bool(by_address))
    over = [ban for ban in there.values() if not ban.holds(NOW)]
    assert table.has_expired(NOW) == bool(over)


@pytest.mark.parametrize(
    ("written", "normal"),
    [
        ("10.1.2.3", "10.1.2.3"),
        ("10.1.2.3/8", "10.0.0.0/8"),
        ("10.1.2.3/32", "10.1.2.3"),
        ("FE80::1", "fe80::1"),
        ("fe80::1/16", "fe80::/16"),
    ],
)
def test_an_address_has_one_way_to_be_written(written: str, normal: str) -> None:
    assert normal_value("address", written) == normal


@pytest.mark.parametrize("written", ["", "nonsense", "10.0.0.256", "10.0.0.0/33", "x" * 2000])
def test_what_is_no_address_is_refused_with_words(written: str) -> None:
    with pytest.raises(ValueError, match=r"no IP address|1 to"):
        normal_value("address", written)


def test_an_address_in_ipv6_clothes_is_the_same_address() -> None:
    table = BanTable()
    table.set(Ban("address", "10.0.0.0/8"))
    assert table.address("[::ffff:10.2.3.4]:1883", NOW) is not None
    assert table.address("unix", NOW) is None
