"""What a client quota is (KIP-13, KIP-124, KIP-257, KIP-546, KIP-599, KIP-612): whom it is for, and
the bounds.

An entity is a user, a client id, both, or an address; `DEFAULT` stands for everybody who has none
of their own. Quotas are cluster state (robustmq/cluster); `security.client_quotas` enforces them.
"""

from __future__ import annotations

from typing import Literal

import msgspec

EntityType = Literal["user", "client-id", "ip"]
DEFAULT = None
"""The name of the default entity of a type."""

USER_KEYS = (
    "producer_byte_rate",
    "consumer_byte_rate",
    "request_percentage",
    "controller_mutation_rate",
)
"""What may be bounded for users and client ids. Rates are in bytes and in partitions a second;
100 percent are one event loop."""
ADDRESS_KEYS = ("connection_creation_rate",)
"""What may be bounded for addresses: new connections a second."""
WHOLE_NUMBERS = frozenset({"producer_byte_rate", "consumer_byte_rate", "connection_creation_rate"})


class QuotaEntity(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """Whom a quota is for: (type, name) by type; None as a name is the default of the type."""

    parts: tuple[tuple[EntityType, str | None], ...]

    @property
    def key(self) -> str:
        """What two entities may not share."""
        return entity_key(self)


class QuotaSetting(msgspec.Struct, frozen=True, array_like=True):
    """The bounds of an entity, by key."""

    entity: QuotaEntity
    values: dict[str, float]


def entity_key(entity: QuotaEntity) -> str:
    """One text for one entity; names are written with their length, so that no two are the same."""
    parts = (
        f"{kind}=" if name is None else f"{kind}:{len(name)}:{name}" for kind, name in entity.parts
    )
    return ";".join(parts)


def entity_of(parts: dict[str, str | None]) -> QuotaEntity:
    """The entity of these names; raises ValueError, with words for people."""
    if not parts:
        raise ValueError("an entity names a user, a client id, or an address")
    for kind, name in parts.items():
        if kind not in ("user", "client-id", "ip"):
            raise ValueError(f"there is no entity type {kind!r}")
        if name == "":
            raise ValueError(f"the name of the {kind} is empty")
    if "ip" in parts and len(parts) > 1:
        raise ValueError("an address stands alone")
    ordered: list[tuple[EntityType, str | None]] = []
    for kind in ("ip", "user", "client-id"):
        if kind in parts:
            ordered.append((_type(kind), parts[kind]))
    return QuotaEntity(tuple(ordered))


def problem_of(entity: QuotaEntity, key: str, value: float | None) -> str | None:
    """Why a bound cannot be set; None when it can. A value of None takes the bound away."""
    known = ADDRESS_KEYS if entity.parts[0][0] == "ip" else USER_KEYS
    if key not in known:
        return f"there is no quota {key!r} for {entity.parts[0][0]}: {', '.join(known)}"
    if value is None:
        return None
    if not 0 < value < 2**63:
        return f"{key} is above 0"
    if key in WHOLE_NUMBERS and value != int(value):
        return f"{key} is a whole number"
    return None


def _type(kind: str) -> EntityType:
    if kind == "user":
        return "user"
    return "ip" if kind == "ip" else "client-id"
