"""Who may not connect: what a ban names, and the table that is asked.

A ban is cluster state (robustmq/cluster); every worker keeps the same `BanTable`. It names a client
id, a user name, patterns of either, or an address or a network. Looking up costs a dictionary each,
and one for every length of prefix that some network has; only patterns are tried one by one, so
their number is bounded by MAX_PATTERNS. An empty table costs one look at `any` or `any_address`.
A ban that is over counts no more, whether it is still in the table or not.
"""

from __future__ import annotations

import fnmatch
import ipaddress
import re
from collections.abc import Callable, Iterator
from typing import Literal, get_args

import msgspec

Kind = Literal["client_id", "user_name", "address", "client_id_pattern", "user_name_pattern"]
KINDS: tuple[Kind, ...] = get_args(Kind)
MAX_PATTERNS = 100
MAX_VALUE = 1_024
MAX_REASON = 256
FOR_EVER = 0


class Ban(msgspec.Struct, frozen=True, array_like=True):
    """One ban. `until_ms` is wall time; FOR_EVER has no end."""

    kind: Kind
    value: str
    reason: str = ""
    by: str = ""
    at_ms: int = 0
    until_ms: int = FOR_EVER

    def holds(self, now_ms: int) -> bool:
        """Is it not over yet?"""
        return self.until_ms == FOR_EVER or now_ms < self.until_ms


def key(kind: str, value: str) -> str:
    """What two bans may not share."""
    return f"{kind}:{value}"


def normal_value(kind: Kind, value: str) -> str:
    """The one way to write what a ban names; raises ValueError, with words for people."""
    if not 0 < len(value) <= MAX_VALUE:
        raise ValueError(f"a ban names something of 1 to {MAX_VALUE} characters")
    if kind != "address":
        return value
    try:
        network = ipaddress.ip_network(value, strict=False)
    except ValueError:
        raise ValueError(f"{value!r} is no IP address and no network (10.0.0.0/8)") from None
    whole = network.prefixlen == network.max_prefixlen
    return str(network.network_address) if whole else str(network)


class BanTable:
    """The bans in force, ready to be asked."""

    def __init__(self) -> None:
        self.any = False
        """Is there any ban at all?"""
        self.any_address = False
        self._bans: dict[str, Ban] = {}
        self._patterns: dict[str, tuple[Ban, Callable[[str], object]]] = {}
        # IP version, length of the prefix -> prefixes of the banned networks.
        self._networks: dict[tuple[int, int], dict[int, Ban]] = {}
        self._earliest_ms = FOR_EVER

    def __len__(self) -> int:
        return len(self._bans)

    def all(self) -> Iterator[Ban]:
        """Every ban, in no order that means anything; the table must not change meanwhile."""
        return iter(self._bans.values())

    def set(self, ban: Ban) -> None:
        """Take a ban in; one of the same kind and value makes way."""
        self._bans[key(ban.kind, ban.value)] = ban
        if ban.kind == "address":
            network = ipaddress.ip_network(ban.value)
            length = (network.version, network.prefixlen)
            prefix = int(network.network_address) >> (network.max_prefixlen - network.prefixlen)
            self._networks.setdefault(length, {})[prefix] = ban
        elif ban.kind.endswith("_pattern"):
            matches = re.compile(fnmatch.translate(ban.value)).match
            self._patterns[key(ban.kind, ban.value)] = (ban, matches)
        if ban.until_ms != FOR_EVER:
            earliest = self._earliest_ms
            self._earliest_ms = min(earliest, ban.until_ms) if earliest else ban.until_ms
        self._note()

    def remove(self, kind: str, value: str) -> None:
        """Take a ban out, if it is there."""
        ban = self._bans.pop(key(kind, value), None)
        if ban is None:
            return
        self._patterns.pop(key(kind, value), None)
        if ban.kind == "address":
            network = ipaddress.ip_network(ban.value)
            length = (network.version, network.prefixlen)
            prefix = int(network.network_address) >> (network.max_prefixlen - network.prefixlen)
            del self._networks[length][prefix]
            if not self._networks[length]:
                del self._networks[length]
        self._note()

    def client(self, client_id: bytes, user_name: str | None, now_ms: int) -> Ban | None:
        """The ban that keeps a client out by what it calls itself."""
        name = client_id.decode()
        found = self._held(key("client_id", name), now_ms)
        if found is None and user_name is not None:
            found = self._held(key("user_name", user_name), now_ms)
        if found is not None:
            return found
        for ban, matches in self._patterns.values():
            asked = name if ban.kind == "client_id_pattern" else user_name
            if asked is not None and ban.holds(now_ms) and matches(asked):
                return ban
        return None

    def address(self, address: str, now_ms: int) -> Ban | None:
        """The ban of a remote address, `host:port`; what is no IP address is not banned."""
        try:
            ip = ipaddress.ip_address(address.rpartition(":")[0].strip("[]"))
        except ValueError:
            return None
        if isinstance(ip, ipaddress.IPv6Address) and ip.ipv4_mapped is not None:
            ip = ip.ipv4_mapped
        number = int(ip)
        for (version, length), prefixes in self._networks.items():
            if version == ip.version:
                ban = prefixes.get(number >> (ip.max_prefixlen - length))
                if ban is not None and ban.holds(now_ms):
                    return ban
        return None

    def has_expired(self, now_ms: int) -> bool:
        """Is there a ban that is over, and to be removed?"""
        if not self._earliest_ms or now_ms < self._earliest_ms:
            return False
        ends = [ban.until_ms for ban in self._bans.values() if ban.until_ms != FOR_EVER]
        self._earliest_ms = min(ends, default=FOR_EVER)
        return bool(self._earliest_ms) and self._earliest_ms <= now_ms

    def _held(self, wanted: str, now_ms: int) -> Ban | None:
        ban = self._bans.get(wanted)
        return ban if ban is not None and ban.holds(now_ms) else None

    def _note(self) -> None:
        self.any = bool(self._bans)
        self.any_address = bool(self._networks)
