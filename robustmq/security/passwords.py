"""The password file: one `user:argon2id hash` a line, mode 0600, made by `robustmq passwd`.

With `--scram` the hash is followed by `|` and a verifier for each of Kafka's SCRAM mechanisms, as
PostgreSQL writes them: `SCRAM-SHA-256$<iterations>:<salt>$<StoredKey>:<ServerKey>`, in base64.

Hashes are argon2id with the parameters of the argon2-cffi library; lines that begin with # and
empty lines are skipped. A file that others can read, or with a line that is no hash, is refused
when the broker starts.
"""

from __future__ import annotations

import base64
import os
from pathlib import Path

from argon2 import PasswordHasher
from argon2.exceptions import InvalidHashError, VerificationError

from robustmq.credentials import MAX_ITERATIONS, ScramCredential, ScramName
from robustmq.security import scram

MAX_USERS = 100_000
MAX_PASSWORD_BYTES = 4_096
Users = dict[str, str]


class PasswordFileError(Exception):
    """A password file that cannot be used; the message says where and what to do."""


def read(path: str | Path) -> Users:
    """Users and hashes; a missing file is an error."""
    file = Path(path)
    try:
        mode = file.stat().st_mode
        written = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise PasswordFileError(f"cannot read the password file {file}: {error}") from None
    if mode & 0o077:
        raise PasswordFileError(f"{file} can be read by others: chmod 600 {file}")
    users: Users = {}
    for number, line in enumerate(written.splitlines(), 1):
        if not line or line.startswith("#"):
            continue
        user, _, hashed = line.partition(":")
        if not user or not hashed.startswith("$argon2id$") or not _whole(user, hashed):
            raise PasswordFileError(f"{file}:{number}: not `user:hash`; use `robustmq passwd`")
        users[user] = hashed
    if len(users) > MAX_USERS:
        raise PasswordFileError(f"{file} has more than {MAX_USERS} users")
    return users


def write(path: str | Path, users: Users) -> None:
    """Replace the file in one step."""
    file = Path(path)
    fresh = file.with_name(file.name + ".new")
    descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    with os.fdopen(descriptor, "w", encoding="utf-8") as out:
        out.writelines(f"{user}:{users[user]}\n" for user in sorted(users))
        out.flush()
        os.fsync(out.fileno())
    os.replace(fresh, file)


def set_password(
    users: Users, user: str, password: bytes, mechanisms: tuple[ScramName, ...] = ()
) -> Users:
    """The users with a new password for one of them."""
    if not user or any(c in user for c in ":\r\n") or user.startswith("#"):
        raise PasswordFileError("a user name has no colon, no line break and no leading #")
    if not password or len(password) > MAX_PASSWORD_BYTES:
        raise PasswordFileError(f"a password has 1 to {MAX_PASSWORD_BYTES} bytes")
    hashes = [PasswordHasher().hash(password)]
    for mechanism in mechanisms:
        one = scram.derive(user, mechanism, password, os.urandom(24), MAX_ITERATIONS)
        salt, stored, server = (
            base64.b64encode(part).decode() for part in (one.salt, one.stored_key, one.server_key)
        )
        hashes.append(f"{mechanism}${one.iterations}:{salt}${stored}:{server}")
    return {**users, user: "|".join(hashes)}


def scram_verifier(user: str, hashed: str, mechanism: ScramName) -> ScramCredential | None:
    """The verifier that a line of the file has for a mechanism; raises ValueError for one that is
    none."""
    for part in hashed.split("|")[1:]:
        name, counted, keys = part.split("$")
        if name == mechanism:
            iterations, salt = counted.split(":")
            stored, server = keys.split(":")
            salt_bytes, stored_key, server_key = map(base64.b64decode, (salt, stored, server))
            return ScramCredential(
                user, mechanism, int(iterations), salt_bytes, stored_key, server_key
            )
    return None


def _whole(user: str, hashed: str) -> bool:
    try:
        for mechanism in scram.HASHES:
            scram_verifier(user, hashed, mechanism)
    except ValueError:
        return False
    return True


def verify(hashed: str, password: bytes) -> bool:
    """Is this the password? Takes tens of milliseconds by design: never on an event loop."""
    if len(password) > MAX_PASSWORD_BYTES:
        return False
    try:
        return PasswordHasher().verify(hashed.partition("|")[0], password)
    except (VerificationError, InvalidHashError):
        return False
