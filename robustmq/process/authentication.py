"""`security.Authenticator` for connections: what takes long runs on a thread of its own.

A verification takes tens of milliseconds by design. Clients with the same name and password (a
fleet that comes back) share one; at most `limits.max_password_checks` different ones wait, and who
comes then is told that the server is busy: 0x89 in 5.0, return code 3 in 3.x.
"""

from __future__ import annotations

import asyncio
import concurrent.futures
from collections.abc import Callable
from typing import TypeVar, TypeVarTuple

from robustmq.config import Settings
from robustmq.credentials import ScramCredential, ScramName
from robustmq.errors import BrokerError, Fault
from robustmq.listener import Listener
from robustmq.promises import Promise, resolved
from robustmq.security.authenticator import Authenticator, Credentials

T = TypeVar("T")
Arguments = TypeVarTuple("Arguments")


class Authentication:
    """The verdicts of one worker on CONNECT, and on Kafka's users."""

    def __init__(
        self,
        settings: Settings,
        loop: asyncio.AbstractEventLoop,
        credentials: Credentials | None = None,
    ) -> None:
        """`credentials` gives the verifiers of the cluster's state."""
        self._loop = loop
        self._inner = Authenticator(settings, credentials or dict)
        self.secret = self._inner.secret
        self._most = settings.limits.max_password_checks
        self._pool: concurrent.futures.ThreadPoolExecutor | None = None
        self._checking: dict[bytes, Promise[None]] = {}

    def reload(self, settings: Settings) -> None:
        """Take over settings and the password file."""
        self._inner.reload(settings)
        self._most = settings.limits.max_password_checks

    def authenticate(
        self, user_name: str | None, password: bytes | None, address: str, listener: Listener
    ) -> Promise[None]:
        """Settles when the client may connect; fails with BrokerError when it may not."""
        decided: Promise[None] = Promise()
        try:
            if self._inner.check(user_name, password, listener):
                decided.resolve(None)
                return decided
        except BrokerError as error:
            decided.fail(error)
            return decided
        assert user_name is not None and password is not None, "only passwords take long"
        return self._slowly(user_name, password)

    def verify(self, user: str, password: bytes) -> Promise[None]:
        """Settles when this is the user's password; fails with BrokerError when it is not."""
        if self._inner.recalls(user, password):
            return resolved(None)
        return self._slowly(user, password)

    def scram(self, user: str, mechanism: ScramName) -> Promise[ScramCredential | None]:
        """The SCRAM verifier of a user; None: there is none."""
        if not self._inner.must_make(user, mechanism):
            return resolved(self._inner.scram(user, mechanism))
        made: Promise[ScramCredential | None] = Promise()
        work = self._on_thread(self._inner.make_scram, user, mechanism)

        def keep(done: asyncio.Future[ScramCredential]) -> None:
            if done.cancelled() or done.exception() is not None:
                made.resolve(None)
                return
            self._inner.keep_scram(done.result())
            made.resolve(self._inner.scram(user, mechanism))

        work.add_done_callback(keep)
        return made

    def _slowly(self, user_name: str, password: bytes) -> Promise[None]:
        decided: Promise[None] = Promise()
        mark = self._inner.mark(user_name, password)
        checking = self._checking.get(mark)
        if checking is not None:
            return checking
        if len(self._checking) >= self._most:
            decided.fail(BrokerError(Fault.SERVER_BUSY, "too many passwords wait to be checked"))
            return decided
        self._checking[mark] = decided
        work = self._on_thread(self._inner.verify_slowly, user_name, password)
        work.add_done_callback(lambda done: self._decide(mark, user_name, password, done))
        return decided

    def _on_thread(self, run: Callable[[*Arguments], T], *given: *Arguments) -> asyncio.Future[T]:
        if self._pool is None:
            self._pool = concurrent.futures.ThreadPoolExecutor(1, "passwords")
        return self._loop.run_in_executor(self._pool, run, *given)

    def _decide(self, mark: bytes, user: str, password: bytes, done: asyncio.Future[bool]) -> None:
        decided = self._checking.pop(mark)
        if done.cancelled() or done.exception() is not None or not done.result():
            decided.fail(BrokerError(Fault.BAD_USER_NAME_OR_PASSWORD))
            return
        if mark == self._inner.mark(user, password):
            # Another password file may have come meanwhile.
            self._inner.remember(mark)
        decided.resolve(None)
