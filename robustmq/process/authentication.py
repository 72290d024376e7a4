"""`security.Authenticator` for connections: what takes long runs on a thread of its own.

A verification takes tens of milliseconds by design. Clients with the same name and password (a
fleet that comes back) share one; at most `limits.max_password_checks` different ones wait, and who
comes then is told that the server is busy: 0x89 in 5.0, return code 3 in 3.x.
"""

from __future__ import annotations

import asyncio
import concurrent.futures

from robustmq.config import Settings
from robustmq.errors import BrokerError, Fault
from robustmq.listener import Listener
from robustmq.promises import Promise
from robustmq.security.authenticator import Authenticator


class Authentication:
    """The verdicts of one worker on CONNECT."""

    def __init__(self, settings: Settings, loop: asyncio.AbstractEventLoop) -> None:
        self._loop = loop
        self._inner = Authenticator(settings)
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
        mark = self._inner.mark(user_name, password)
        checking = self._checking.get(mark)
        if checking is not None:
            return checking
        if len(self._checking) >= self._most:
            decided.fail(BrokerError(Fault.SERVER_BUSY, "too many passwords wait to be checked"))
            return decided
        self._checking[mark] = decided
        if self._pool is None:
            self._pool = concurrent.futures.ThreadPoolExecutor(1, "passwords")
        work = self._loop.run_in_executor(
            self._pool, self._inner.verify_slowly, user_name, password
        )
        work.add_done_callback(lambda done: self._decide(mark, user_name, password, done))
        return decided

    def _decide(self, mark: bytes, user: str, password: bytes, done: asyncio.Future[bool]) -> None:
        decided = self._checking.pop(mark)
        if done.cancelled() or done.exception() is not None or not done.result():
            decided.fail(BrokerError(Fault.BAD_USER_NAME_OR_PASSWORD))
            return
        if mark == self._inner.mark(user, password):
            # Another password file may have come meanwhile.
            self._inner.remember(mark)
        decided.resolve(None)
