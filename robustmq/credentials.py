"""What the cluster keeps of a user who was made at run time: SCRAM verifiers (RFC 5802).

Neither the password nor its salted form is kept: StoredKey proves a client, ServerKey proves the
server, and neither can be turned into the other.
"""

from __future__ import annotations

from typing import Literal

import msgspec

ScramName = Literal["SCRAM-SHA-256", "SCRAM-SHA-512"]
SCRAM_NUMBERS: dict[int, ScramName] = {1: "SCRAM-SHA-256", 2: "SCRAM-SHA-512"}
"""Kafka's numbers of the mechanisms (KIP-554)."""
MIN_ITERATIONS = 4_096
MAX_ITERATIONS = 16_384
"""Kafka's bound: what is more is work that a client makes for the server."""


class ScramCredential(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """How one user proves itself by one mechanism."""

    user: str
    mechanism: ScramName
    iterations: int
    salt: bytes
    stored_key: bytes
    server_key: bytes


class SaltedPassword(msgspec.Struct, frozen=True, gc=False):
    """What AlterUserScramCredentials brings; the credential is made of it."""

    user: str
    mechanism: ScramName
    iterations: int
    salt: bytes
    salted_password: bytes


def credential_key(user: str, mechanism: str) -> str:
    """What two credentials may not share; a mechanism has no colon in it."""
    return f"{mechanism}:{user}"
