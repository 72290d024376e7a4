"""The verdict on who somebody says to be: anonymous, or user name and password. For all protocols.

A user's secret is the first that there is of: a hash (and SCRAM verifiers) of the password file, a
password of the configuration, SCRAM verifiers of the cluster's state.

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
from collections.abc import Callable, Mapping
from typing import get_args

import msgspec

from robustmq.config import Settings
from robustmq.credentials import ScramCredential, ScramName, credential_key
from robustmq.errors import BrokerError, Fault
from robustmq.listener import Listener
from robustmq.security import passwords, scram

REMEMBERED = 10_000
Credentials = Callable[[], Mapping[str, ScramCredential]]


def _none() -> Mapping[str, ScramCredential]:
    return {}


class Authenticator:
    """Users of one worker; `reload` after SIGHUP."""

    def __init__(self, settings: Settings, credentials: Credentials = _none) -> None:
        """Reads the password file; raises PasswordFileError. `credentials` gives the verifiers of
        the cluster's state, by credential_key."""
        self.secret = os.urandom(32)
        self._credentials = credentials
        self._seen: OrderedDict[bytes, None] = OrderedDict()
        self._users: passwords.Users = {}
        self._configured: dict[str, str] = {}
        self._made: dict[str, ScramCredential] = {}
        self._decoy = ""
        self.reload(settings)

    def reload(self, settings: Settings) -> None:
        """Take settings and password file over; what was verified before is forgotten."""
        file = settings.security.password_file
        users = passwords.read(file) if file else {}
        self._decoy = next(iter(users.values()), "")
        self._users = users
        self._configured = {user.name: user.password for user in settings.kafka.user}
        self._made.clear()
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
        if not self._users and not self._secret_of(user):
            if anonymous_allowed:
                return True
            raise BrokerError(Fault.BAD_USER_NAME_OR_PASSWORD)
        if password is None:
            raise BrokerError(Fault.BAD_USER_NAME_OR_PASSWORD)
        return self.recalls(user, password)

    def recalls(self, user: str, password: bytes) -> bool:
        """Were these verified a moment ago?"""
        mark = self.mark(user, password)
        if mark in self._seen:
            self._seen.move_to_end(mark)
            return True
        return False

    def verify_slowly(self, user: str, password: bytes) -> bool:
        """The verification; safe on another thread (it changes nothing)."""
        hashed = self._users.get(user)
        if hashed is not None:
            return passwords.verify(hashed, password)
        configured = self._configured.get(user)
        if configured is not None:
            return hmac.compare_digest(configured.encode(), password)
        verifier = next(iter(self._verifiers(user)), None)
        if verifier is not None:
            return len(password) <= passwords.MAX_PASSWORD_BYTES and scram.holds(verifier, password)
        if self._decoy:
            passwords.verify(self._decoy, password)
        return False

    def scram(self, user: str, mechanism: ScramName) -> ScramCredential | None:
        """A verifier of a user that is there; None: there is none, or `make_scram` makes it."""
        hashed = self._users.get(user)
        if hashed is not None:
            return passwords.scram_verifier(user, hashed, mechanism)
        key = credential_key(user, mechanism)
        if user in self._configured:
            return self._made.get(key)
        return self._credentials().get(key)

    def must_make(self, user: str, mechanism: ScramName) -> bool:
        """Is there a password of the configuration, and no verifier made of it yet?"""
        key = credential_key(user, mechanism)
        return user in self._configured and user not in self._users and key not in self._made

    def make_scram(self, user: str, mechanism: ScramName) -> ScramCredential:
        """The verifier of a password of the configuration; safe on another thread."""
        password = self._configured.get(user, "").encode()
        return scram.derive(user, mechanism, password, os.urandom(24))

    def keep_scram(self, made: ScramCredential) -> None:
        """It was made; call it on the loop's thread."""
        self._made[credential_key(made.user, made.mechanism)] = made

    def remember(self, mark: bytes) -> None:
        """The credentials of this mark were verified; call it on the loop's thread."""
        self._seen[mark] = None
        if len(self._seen) > REMEMBERED:
            self._seen.popitem(last=False)

    def mark(self, user: str, password: bytes) -> bytes:
        """What stands for a name, a password and the secret that it is held against."""
        name = user.encode()
        text = len(name).to_bytes(4, "little") + name + self._secret_of(user)
        return hmac.digest(self.secret, text + b"\0" + password, hashlib.sha256)

    def _secret_of(self, user: str) -> bytes:
        """What the password of a user is held against; empty: there is no such user."""
        known = self._users.get(user) or self._configured.get(user)
        if known is not None:
            return known.encode()
        return b"".join(msgspec.msgpack.encode(one) for one in self._verifiers(user))

    def _verifiers(self, user: str) -> list[ScramCredential]:
        known = self._credentials()
        keys = (credential_key(user, mechanism) for mechanism in get_args(ScramName))
        return [known[key] for key in keys if key in known]
