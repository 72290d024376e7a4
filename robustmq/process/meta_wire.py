"""Frames between the meta process and workers: u32 length (little-endian), then msgpack of one
message.

A bad frame from either side is a bug or another version; the link is closed and made again.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

import msgspec

from robustmq.cluster.commands import Change, Command, Result

VERSION = 1
MAX_FRAME_BYTES = 256 * 1024 * 1024
_LENGTH = struct.Struct("<I")


class Subscribe(msgspec.Struct, frozen=True, tag="subscribe", array_like=True):
    """A worker wants the state and every change."""

    version: int


class Propose(msgspec.Struct, frozen=True, tag="propose", array_like=True):
    """A command; its id marks a retry."""

    command_id: bytes
    command: Command


class Applied(msgspec.Struct, frozen=True, tag="applied", array_like=True):
    """The worker knows the state up to this version."""

    version: int


class FullState(msgspec.Struct, frozen=True, tag="state", array_like=True):
    """The whole state (msgpack of ClusterState)."""

    state: bytes


class Changed(msgspec.Struct, frozen=True, tag="changed", array_like=True):
    """Changes in order."""

    changes: tuple[Change, ...]


class Answer(msgspec.Struct, frozen=True, tag="answer", array_like=True):
    """The result of a command; sent when every worker knows the change that it made."""

    command_id: bytes
    result: Result


ToMeta = Subscribe | Propose | Applied
FromMeta = FullState | Changed | Answer
Message = ToMeta | FromMeta


class BadFrame(Exception):
    """Bytes that are no message of this version."""


def encode(message: Message) -> bytes:
    """One frame."""
    payload = msgspec.msgpack.encode(message)
    return _LENGTH.pack(len(payload)) + payload


class Splitter:
    """Bytes in, whole frames out; holds at most one frame that is not whole."""

    def __init__(self) -> None:
        self._buffer = bytearray()

    def feed(self, data: bytes) -> Iterator[bytes]:
        """The payloads that are whole now."""
        buffer = self._buffer
        buffer += data
        begin = 0
        payloads = []
        while len(buffer) - begin >= _LENGTH.size:
            (length,) = _LENGTH.unpack_from(buffer, begin)
            if length > MAX_FRAME_BYTES:
                raise BadFrame(f"a frame of {length} bytes")
            end = begin + _LENGTH.size + length
            if end > len(buffer):
                break
            payloads.append(bytes(buffer[begin + _LENGTH.size : end]))
            begin = end
        del buffer[:begin]
        return iter(payloads)
