"""SASL for Kafka's clients: `kafka.sasl.Verifier` over the users of this worker.

PLAIN is held against whatever the user has: a hash of the password file, a password of the
configuration, a SCRAM verifier. SCRAM needs a verifier: of the cluster, of the password file
(`robustmq passwd --scram`), or made of a password of the configuration. What takes long runs on the
thread of `process.authentication`. A refusal is told after REFUSAL_DELAY_S, as Kafka does it.
"""

from __future__ import annotations

import asyncio
import os
from typing import get_args

from robustmq.credentials import ScramCredential, ScramName
from robustmq.errors import BrokerError
from robustmq.kafka.sasl import Exchange, Step
from robustmq.listener import Listener
from robustmq.process.authentication import Authentication
from robustmq.promises import Promise, start
from robustmq.security import scram

REFUSAL_DELAY_S = 0.1
PLAIN_REFUSED = "Authentication failed: Invalid username or password"
SCRAM_REFUSED = "Authentication failed during authentication due to invalid credentials with SASL"


class SaslVerifier:
    """What one listener asks of its clients."""

    def __init__(
        self, listener: Listener, max_reauth_ms: int, authentication: Authentication
    ) -> None:
        self.mechanisms: tuple[str, ...] = listener.sasl_mechanisms
        self.max_reauth_ms = max_reauth_ms
        self._authentication = authentication

    def exchange(self, mechanism: str) -> Exchange:
        """Begin."""
        for known in get_args(ScramName):
            if mechanism == known:
                return ScramExchange(known, self._authentication)
        return PlainExchange(self._authentication)


class PlainExchange:
    """PLAIN (RFC 4616): one token with everything."""

    def __init__(self, authentication: Authentication) -> None:
        self._authentication = authentication

    def step(self, token: bytes) -> Promise[Step]:
        """The only token."""
        return start(self._step(token))

    async def _step(self, token: bytes) -> Step:
        try:
            authorization, user, password = token.split(b"\0")
            name = user.decode()
        except (ValueError, UnicodeDecodeError):
            return await _refused("the token is not one of PLAIN")
        if not name or not password or authorization not in (b"", user):
            return await _refused(PLAIN_REFUSED)
        try:
            await self._authentication.verify(name, password)
        except BrokerError:
            return await _refused(PLAIN_REFUSED)
        return Step(principal=f"User:{name}")


class ScramExchange:
    """SCRAM: two tokens each way."""

    def __init__(self, mechanism: ScramName, authentication: Authentication) -> None:
        self._mechanism = mechanism
        self._authentication = authentication
        self._server: scram.ScramServer | None = None
        self._user = ""

    def step(self, token: bytes) -> Promise[Step]:
        """The next token."""
        return start(self._step(token))

    async def _step(self, token: bytes) -> Step:
        try:
            if self._server is not None:
                return Step(self._server.final(token), f"User:{self._user}")
            self._user = scram.user_of(token)
            credential = await self._credential()
            self._server = scram.ScramServer(credential, os.urandom(24).hex())
            return Step(self._server.first(token))
        except scram.ScramError:
            return await _refused(f"{SCRAM_REFUSED} mechanism {self._mechanism}")

    async def _credential(self) -> ScramCredential:
        found = await self._authentication.scram(self._user, self._mechanism)
        if found is not None:
            return found
        return scram.decoy(self._user, self._mechanism, self._authentication.secret)


def _refused(reason: str) -> Promise[Step]:
    late: Promise[Step] = Promise()
    loop = asyncio.get_running_loop()
    loop.call_later(REFUSAL_DELAY_S, late.resolve, Step(refused=reason))
    return late
