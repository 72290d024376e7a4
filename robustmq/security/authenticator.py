"""The verdict on a CONNECT: anonymous, or user name and password.

`check` answers at once where it can: anonymous clients, a missing password, and a password that
was verified a moment ago (remembered as a keyed hash, not as the password). Everything else takes
an argon2 verification of tens of milliseconds, which `verify_slowly` does on a thread of the
caller's. An unknown user costs the same time as a known one. Fault.BAD_USER_NAME_OR_PASSWORD for
bad credentials, Fault.NOT_AUTHORIZED for anonymous clients that are not wanted.
"""

from __future__ import annotations

import hashlib
import hmac
import os
from collections import OrderedDict

from robustmq.config import Settings
from robustmq.errors import BrokerError, Fault
from robustmq.listener import Listener
from robustmq.security import passwords

REMEMBERED = 10_000


class Authenticator:
    """Users of one worker; `reload` after SIGHUP."""

    def __init__(self, settings: Settings) -> None:
        """Reads the password file; raises PasswordFileError."""
        self._key = os.urandom(32)
        self._seen: OrderedDict[bytes, None] = OrderedDict()
        self._users: passwords.Users = {}
        self._decoy = ""
        self.reload(settings)

    def reload(self, settings: Settings) -> None:
        """Take settings and password file over; what was verified before is forgotten."""
        file = settings.security.password_file
        users = passwords.read(file) if file else {}
        self._decoy = next(iter(users.values()), "")
        self._users = users
        self._seen.clear()
        self._anonymous_allowed = settings.anonymous_allowed

    def check(self, user: str | None, password: bytes | None, listener: Listener) -> bool:
        """True: welcome. False: `verify_slowly` must decide. Raises BrokerError: refused."""
        if listener.use_identity_as_username:
            if user:
                return True
            raise BrokerError(Fault.NOT_AUTHORIZED, "the certificate has no common name")
        anonymous_allowed = self._anonymous_allowed(listener)
        if user is None:
            if password is not None:
                raise BrokerError(Fault.BAD_USER_NAME_OR_PASSWORD)
            if not anonymous_allowed:
                raise BrokerError(Fault.NOT_AUTHORIZED, "anonymous clients are not allowed")
            return True
        if not self._users:
            if anonymous_allowed:
                return True
            raise BrokerError(Fault.BAD_USER_NAME_OR_PASSWORD)
        if password is None:
            raise BrokerError(Fault.BAD_USER_NAME_OR_PASSWORD)
        mark = self.mark(user, password)
        if mark in self._seen:
            self._seen.move_to_end(mark)
            return True
        return False

    def verify_slowly(self, user: str, password: bytes) -> bool:
        """The argon2 verification; safe on another thread (it changes nothing)."""
        hashed = self._users.get(user)
        if hashed is None:
            if self._decoy:
                passwords.verify(self._decoy, password)
            return False
        return passwords.verify(hashed, password)

    def remember(self, mark: bytes) -> None:
        """The credentials of this mark were verified; call it on the loop's thread."""
        self._seen[mark] = None
        if len(self._seen) > REMEMBERED:
            self._seen.popitem(last=False)

    def mark(self, user: str, password: bytes) -> bytes:
        """What stands for a name, a password and the hash that it is held against."""
        name = user.encode()
        text = len(name).to_bytes(4, "little") + name + self._users.get(user, "").encode()
        return hmac.digest(self._key, text + b"\0" + password, hashlib.sha256)
