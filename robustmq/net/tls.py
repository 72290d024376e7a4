"""TLS for connections: the contexts of a listener, and one connection's bytes.

A listener's contexts are made before the workers are forked, so that they share the keys of session
tickets: a client resumes its session at any worker. A reload makes new contexts, for handshakes
from then on; when they cannot be made the old ones stay. Renegotiation is off.

A carrier reads and writes an `ssl.SSLSocket` that does not block. It reads whole records where
there is room for one, so what a client has sent waits in the kernel, where epoll sees it; when a
part of one stays inside OpenSSL, the carrier is `waiting`, and its owner has to read it again.
"""

from __future__ import annotations

import re
import socket
import ssl
from collections.abc import Mapping
from pathlib import Path
from typing import Any, cast

from robustmq.listener import Listener
from robustmq.net.socket_io import AGAIN, GONE

RECORD_BYTES = 16_384
MAX_RECORDS = 64
"""Read at once of one connection: records of a byte would hold the loop for a second otherwise."""
VERSIONS = {"1.2": ssl.TLSVersion.TLSv1_2, "1.3": ssl.TLSVersion.TLSv1_3}


class TlsError(Exception):
    """Certificates or ciphers that cannot be used; the message names the listener and the file."""


class HandshakeError(Exception):
    """A handshake that failed; the message is OpenSSL's reason."""


class ServerTls:
    """The certificates of one listener."""

    def __init__(self, listener: Listener) -> None:
        """Reads the files; raises TlsError."""
        self._by_name: dict[str, ssl.SSLContext] = {}
        self.reload(listener)

    def reload(self, listener: Listener) -> None:
        """Read the files again; raises TlsError, and then nothing has changed."""
        context = _context(listener, listener.certificate, listener.key)
        by_name = {}
        for extra in listener.server_names:
            one = _context(listener, extra.certificate, extra.key)
            by_name.update(dict.fromkeys((name.lower() for name in extra.names), one))
        self.context, self._by_name = context, by_name
        if by_name:
            # Nothing but the names: a reference to all of this would keep an old context alive.
            context.sni_callback = lambda sock, name, _: _choose(by_name, sock, name)

    def wrap(self, sock: socket.socket) -> ssl.SSLSocket:
        """The server's side of a connection whose handshake is to come; `sock` gives up its
        descriptor."""
        return self.context.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)


def _choose(
    by_name: dict[str, ssl.SSLContext], sock: ssl.SSLSocket | ssl.SSLObject, name: str | None
) -> None:
    """The certificate for the name that a client asks for: its own, or that of `*.` its parent."""
    if name is None:
        return
    wanted = name.lower()
    context = by_name.get(wanted) or by_name.get("*." + wanted.partition(".")[2])
    if context is not None:
        sock.context = context


def _context(listener: Listener, certificate: str, key: str) -> ssl.SSLContext:
    where = f"listener {listener.name!r}"
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.minimum_version = VERSIONS[listener.tls_minimum]
    context.options |= ssl.OP_NO_RENEGOTIATION | ssl.OP_NO_COMPRESSION
    context.options |= ssl.OP_CIPHER_SERVER_PREFERENCE | ssl.OP_SINGLE_ECDH_USE
    try:
        if listener.ciphers:
            context.set_ciphers(listener.ciphers)
    except ssl.SSLError:
        raise TlsError(f"{where}: ciphers = {listener.ciphers!r} names none we have") from None
    for file in filter(None, (certificate, key, listener.client_ca)):
        try:
            Path(file).read_bytes()
        except OSError as error:
            raise TlsError(f"{where}: cannot read {file}: {error.strerror}") from None
    try:
        context.load_cert_chain(certificate, key or None, password=_no_password)
    except (ssl.SSLError, ValueError) as error:
        reason = getattr(error, "reason", None) or error
        raise TlsError(f"{where}: {certificate} with its key cannot be used: {reason}") from None
    if listener.client_ca:
        try:
            context.load_verify_locations(listener.client_ca)
        except ssl.SSLError as error:
            raise TlsError(f"{where}: {listener.client_ca}: {error.reason}") from None
        required = listener.require_client_certificate
        context.verify_mode = ssl.CERT_REQUIRED if required else ssl.CERT_OPTIONAL
    return context


def _no_password() -> str:
    """A key that needs a password would have the start wait for a person."""
    raise ValueError("the key is encrypted; store it without a password, mode 0600")


def handshake_reason(error: Exception) -> HandshakeError:
    """Why it failed, in OpenSSL's words."""
    reason = getattr(error, "verify_message", None) or getattr(error, "reason", None)
    if reason:
        return HandshakeError(str(reason).lower().replace("_", " "))
    return HandshakeError(getattr(error, "strerror", None) or str(error))


def common_name(sock: ssl.SSLSocket) -> str:
    """The common name of the client's certificate; empty without one."""
    certificate = sock.getpeercert()
    if not certificate:
        return ""
    subject = cast(tuple[tuple[tuple[str, str], ...], ...], certificate.get("subject", ()))
    names = [value for part in subject for name, value in part if name == "commonName"]
    return names[0] if names else ""


SHORT_NAMES = {
    "commonName": "CN",
    "countryName": "C",
    "domainComponent": "DC",
    "localityName": "L",
    "organizationName": "O",
    "organizationalUnitName": "OU",
    "stateOrProvinceName": "ST",
    "streetAddress": "STREET",
    "userId": "UID",
}
_SPECIAL = re.compile(r'([,+"\\<>;])')


def distinguished_name(certificate: Mapping[str, Any]) -> str:
    """The subject of a certificate (as `getpeercert` has it), written as RFC 2253 has it: the last
    part first."""
    parts = []
    for relative in reversed(certificate.get("subject", ())):
        parts.append(
            "+".join(f"{SHORT_NAMES.get(name, name)}={_escaped(value)}" for name, value in relative)
        )
    return ",".join(parts)


def _escaped(value: str) -> str:
    text = _SPECIAL.sub(r"\\\1", value)
    if text[:1] in ("#", " "):
        text = "\\" + text
    return text[:-1] + "\\ " if len(text) > 1 and text[-1] == " " else text


class TlsCarrier:
    """The bytes of one connection after its handshake."""

    __slots__ = ("_accepted", "_end", "_head", "_inside", "_sock", "file")

    def __init__(self, sock: ssl.SSLSocket, accepted: object, head: bytes = b"") -> None:
        """`head` has been read already; `accepted` is the socket object that counts as an open
        connection, and lives as long as this one."""
        self._sock = sock
        self._accepted = accepted
        self._head = head
        self._end = AGAIN
        self._inside = False
        self.file = sock.fileno()

    @property
    def waiting(self) -> bool:
        """True when there is something to be told that epoll does not see."""
        return self._inside or bool(self._head) or self._end != AGAIN

    def receive(self, buffer: bytearray, at: int) -> int:
        """Read what is there into the buffer from a place on; 0 at the end of the stream, AGAIN
        when there is nothing, GONE when the connection is broken."""
        begin = at
        view = memoryview(buffer)
        if self._head:
            piece = self._head[: len(buffer) - at]
            self._head = self._head[len(piece) :]
            view[at : at + len(piece)] = piece
            at += len(piece)
        if self._end == AGAIN and (at == begin or len(buffer) - at >= RECORD_BYTES):
            at = self._fill(view, at)
        return at - begin if at > begin else self._end

    def _fill(self, view: memoryview, at: int) -> int:
        """One record, even in parts, and on while there is room for a whole one. (To stop behind a
        short record saves the call that finds nothing, and costs five times as much: many clients
        write a record a packet, and each would be a turn of its own.)"""
        sock = self._sock
        try:
            for _ in range(MAX_RECORDS):
                size = sock.recv_into(view[at:])
                if not size:
                    self._end = 0
                    break
                at += size
                if len(view) - at < RECORD_BYTES:
                    break
            self._inside = sock.pending() > 0
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            self._inside = False
        except OSError:
            self._end = GONE
        return at

    def transmit(self, data: bytes | bytearray | memoryview) -> int:
        """Write as much as goes; how many bytes, AGAIN for none, or GONE. What did not go must come
        first the next time: OpenSSL may have begun with it."""
        sock = self._sock
        sent = 0
        view = memoryview(data)
        try:
            while sent < len(view):
                sent += sock.send(view[sent:])
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            return sent or AGAIN
        except OSError:
            return GONE
        return sent

    def shut(self) -> None:
        """Nothing more will be written: close_notify, and the end of the stream under it. Raises
        OSError when the connection is broken. What comes after it is not decrypted."""
        sock = self._sock
        try:
            sock.unwrap()
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError):
            # It is sent; the peer's own is not waited for.
            self._end = AGAIN
        except ValueError:
            # Shut before.
            return
        sock.shutdown(socket.SHUT_WR)

    def close(self) -> None:
        """Close the socket."""
        self._sock.close()
        self._accepted = None
