"""How far a client has proven who it is (KIP-43, KIP-152, KIP-368): the states of one connection.

    START       only ApiVersions and SaslHandshake are served
    TOKENS      only SaslAuthenticate is served (after a handshake of version 1)
    RAW         frames are bare tokens (after a handshake of version 0)
    BUSY        a token is being looked at, and nothing is served
    PROVEN      everything is served, until the session ends where it does
    FAILED      nothing is served; the connection ends

What is not served closes the connection without an answer. A proven client may prove itself again,
as the same principal and by the same mechanism, where sessions end.
"""

from __future__ import annotations

import enum
from typing import Protocol

import msgspec

from robustmq.errors import BrokerError, Fault
from robustmq.promises import Promise

SASL_HANDSHAKE = 17
API_VERSIONS = 18
SASL_AUTHENTICATE = 36


class Step(msgspec.Struct, frozen=True, gc=False):
    """What became of a token: the server's token, and who the client is when that is proven; or
    why it is refused."""

    token: bytes = b""
    principal: str = ""
    refused: str | None = None


class Exchange(Protocol):
    """One way to proof, by one mechanism."""

    def step(self, token: bytes) -> Promise[Step]:
        """Look at a token of the client's. Never fails; refusals are late, so that passwords are
        not tried fast."""


class Verifier(Protocol):
    """What a listener asks of its clients."""

    mechanisms: tuple[str, ...]
    max_reauth_ms: int
    """A session ends after this; 0: never."""

    def exchange(self, mechanism: str) -> Exchange:
        """Begin."""


class Phase(enum.Enum):
    """See the module."""

    START = 0
    TOKENS = 1
    RAW = 2
    BUSY = 3
    PROVEN = 4
    FAILED = 5


class SaslState:
    """The state of one connection."""

    __slots__ = (
        "_ends_ms",
        "_exchange",
        "_mechanism",
        "_phase",
        "_principal",
        "_proven_by",
        "_raw",
        "verifier",
    )

    def __init__(self, verifier: Verifier) -> None:
        self.verifier = verifier
        self._phase = Phase.START
        self._exchange: Exchange | None = None
        self._mechanism = ""
        self._raw = False
        self._principal = ""
        self._proven_by = ""
        self._ends_ms = 0

    @property
    def wants_tokens(self) -> bool:
        """Is the next frame a bare token?"""
        return self._raw and self._phase in (Phase.RAW, Phase.BUSY)

    @property
    def may_begin(self) -> bool:
        """Does a handshake make sense now?"""
        return self._phase is Phase.START or bool(self.verifier.max_reauth_ms)

    @property
    def awaits_token(self) -> bool:
        """Does a token make sense now?"""
        return self._phase in (Phase.TOKENS, Phase.RAW)

    def admit(self, api_key: int, now_ms: int) -> None:
        """Raises BrokerError for a request that is not served in this state."""
        phase = self._phase
        if phase is Phase.PROVEN:
            if self._ends_ms and now_ms >= self._ends_ms:
                if api_key not in (SASL_HANDSHAKE, API_VERSIONS):
                    raise BrokerError(Fault.NOT_AUTHORIZED, "the session of the client is over")
            return
        served = phase is Phase.START and api_key in (SASL_HANDSHAKE, API_VERSIONS)
        if not served and not (phase is Phase.TOKENS and api_key == SASL_AUTHENTICATE):
            raise BrokerError(
                Fault.NOT_AUTHORIZED, f"API {api_key} before the client has proven who it is"
            )

    def begin(self, mechanism: str, raw: bool) -> None:
        """A handshake for one of the listener's mechanisms."""
        self._mechanism = mechanism
        self._raw = raw
        self._exchange = self.verifier.exchange(mechanism)
        self._phase = Phase.RAW if raw else Phase.TOKENS

    def fail(self) -> None:
        """Nothing is served from now on."""
        self._phase = Phase.FAILED
        self._exchange = None

    async def step(self, token: bytes, now_ms: int) -> Step:
        """A token of the client's."""
        assert self._exchange is not None, "a handshake has begun it"
        self._phase = Phase.BUSY
        step = await self._exchange.step(token)
        if self._principal and step.refused is None:
            step = self._same(step)
        if step.refused is not None:
            self.fail()
        elif step.principal:
            self._exchange = None
            self._phase = Phase.PROVEN
            self._principal, self._proven_by = step.principal, self._mechanism
            lifetime_ms = self.verifier.max_reauth_ms
            self._ends_ms = now_ms + lifetime_ms if lifetime_ms else 0
        else:
            self._phase = Phase.RAW if self._raw else Phase.TOKENS
        return step

    def _same(self, step: Step) -> Step:
        """A client that proves itself again stays who it is."""
        if self._mechanism != self._proven_by:
            return Step(refused=f"the mechanism stays {self._proven_by}")
        if step.principal not in ("", self._principal):
            return Step(refused=f"the client stays {self._principal}")
        return step
