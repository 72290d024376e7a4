"""SCRAM, the server's side (RFC 5802, RFC 7677), without channel binding: bytes in, bytes out.

client-first     n,,n=<user>,r=<client nonce>
server-first     r=<client nonce><server nonce>,s=<salt>,i=<iterations>
client-final     c=biws,r=<both nonces>,p=<proof>
server-final     v=<signature>

The proof shows that the client knows the salted password, the signature that the server knows the
ServerKey. An unknown user gets a salt of its own that is always the same, and fails at the end like
a wrong password, so that nobody learns which users there are. Passwords are UTF-8 as they come, as
Kafka's clients have them (no SASLprep). Extensions of the client's first message are ignored.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import hmac

from robustmq.credentials import MIN_ITERATIONS, ScramCredential, ScramName

HASHES: dict[ScramName, str] = {"SCRAM-SHA-256": "sha256", "SCRAM-SHA-512": "sha512"}
MAX_MESSAGE_BYTES = 4_096


class ScramError(Exception):
    """A message that is not SCRAM's, or a proof that is wrong."""


def derive(
    user: str, mechanism: ScramName, password: bytes, salt: bytes, iterations: int = MIN_ITERATIONS
) -> ScramCredential:
    """The verifiers of a password: milliseconds by design, so never on an event loop."""
    name = HASHES[mechanism]
    salted = hashlib.pbkdf2_hmac(name, password, salt, iterations)
    return of_salted(user, mechanism, salted, salt, iterations)


def of_salted(
    user: str, mechanism: ScramName, salted: bytes, salt: bytes, iterations: int
) -> ScramCredential:
    """The verifiers of a salted password, which is what AlterUserScramCredentials carries."""
    name = HASHES[mechanism]
    client_key = hmac.digest(salted, b"Client Key", name)
    stored_key = hashlib.new(name, client_key).digest()
    server_key = hmac.digest(salted, b"Server Key", name)
    return ScramCredential(user, mechanism, iterations, salt, stored_key, server_key)


def holds(credential: ScramCredential, password: bytes) -> bool:
    """Is this the password? As slow as `derive`."""
    made = derive(
        credential.user, credential.mechanism, password, credential.salt, credential.iterations
    )
    return hmac.compare_digest(made.stored_key, credential.stored_key)


def decoy(user: str, mechanism: ScramName, secret: bytes) -> ScramCredential:
    """A credential of a user that is not there: always the same, and no password fits."""
    seed = hmac.digest(secret, f"{mechanism}:{user}".encode(), HASHES[mechanism])
    return ScramCredential(user, mechanism, MIN_ITERATIONS, seed[:16], seed, seed)


def user_of(client_first: bytes) -> str:
    """Whom the first message names."""
    return _first(client_first)[0]


class ScramServer:
    """One exchange. `first` and then `final`; either raises ScramError."""

    def __init__(self, credential: ScramCredential, server_nonce: str) -> None:
        """`server_nonce` is fresh and printable."""
        self._credential = credential
        self._server_nonce = server_nonce
        self._nonce = ""
        self._header = b""
        self._transcript = b""

    def first(self, client_first: bytes) -> bytes:
        """Answer the first message with salt and nonce."""
        _, client_nonce, bare = _first(client_first)
        one = self._credential
        self._header = client_first[: len(client_first) - len(bare)]
        self._nonce = client_nonce + self._server_nonce
        salt = base64.b64encode(one.salt).decode()
        answer = f"r={self._nonce},s={salt},i={one.iterations}".encode()
        self._transcript = bare + b"," + answer
        return answer

    def final(self, client_final: bytes) -> bytes:
        """Check the proof and answer with the server's signature."""
        bare, divider, proof_text = client_final.rpartition(b",p=")
        fields = _fields(bare, "c", "r")
        if not divider or _decoded(fields["c"]) != self._header:
            raise ScramError("the last message has no proof, or binds a channel")
        if not hmac.compare_digest(fields["r"].encode(), self._nonce.encode()):
            raise ScramError("the nonce is another")
        one = self._credential
        name = HASHES[one.mechanism]
        transcript = self._transcript + b"," + bare
        signature = hmac.digest(one.stored_key, transcript, name)
        proof = _decoded(proof_text.decode("ascii", "replace"))
        if len(proof) != len(signature):
            raise ScramError("the proof has another length")
        client_key = bytes(a ^ b for a, b in zip(proof, signature, strict=True))
        if not hmac.compare_digest(hashlib.new(name, client_key).digest(), one.stored_key):
            raise ScramError("the proof is wrong")
        return b"v=" + base64.b64encode(hmac.digest(one.server_key, transcript, name))


def _first(message: bytes) -> tuple[str, str, bytes]:
    """User, client nonce, and the part that is signed; before that is the header."""
    if len(message) > MAX_MESSAGE_BYTES:
        raise ScramError("the message is too long")
    flag, _, behind = message.partition(b",")
    authorization, divider, bare = behind.partition(b",")
    # y: the client could bind a channel and sees that we cannot, which is so.
    if flag not in (b"n", b"y") or not divider:
        raise ScramError("the first message binds a channel, or is none")
    fields = _fields(bare, "n", "r")
    user = _unescaped(fields["n"])
    if authorization and authorization != b"a=" + fields["n"].encode():
        raise ScramError("nobody acts for another")
    if not user or not fields["r"]:
        raise ScramError("the first message has no user or no nonce")
    return user, fields["r"], bare


def _fields(message: bytes, *names: str) -> dict[str, str]:
    """The values of `name=value` fields, which begin a message in this order."""
    try:
        parts = message.decode("utf-8").split(",")
    except UnicodeDecodeError:
        raise ScramError("not UTF-8") from None
    found = {}
    for place, name in enumerate(names):
        if place >= len(parts) or not parts[place].startswith(name + "="):
            raise ScramError(f"there is no {name}=")
        found[name] = parts[place][2:]
    return found


def _unescaped(name: str) -> str:
    """A user name as the message has it: `=2C` is a comma, `=3D` an equals sign."""
    pieces = name.split("=")
    text = pieces[0]
    for piece in pieces[1:]:
        if piece[:2] not in ("2C", "3D"):
            raise ScramError("the user name has an = that is no escape")
        text += ("," if piece[:2] == "2C" else "=") + piece[2:]
    return text


def _decoded(text: str) -> bytes:
    try:
        return base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        raise ScramError("not base64") from None
