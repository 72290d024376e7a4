"""The disk of meta: a log of changes and a snapshot, in `<data_dir>/meta/`.

`log` is the 8 bytes `RMQMETA1`, then records: u32 length, u32 CRC-32C of the payload
(little-endian), payload (msgpack of `Change`). `snapshot` is one such record with the whole state,
replaced by rename. A change counts when it is fsynced. A torn last record was never answered and
is cut; a bad record with valid ones behind it is corruption and refuses to start. A crash between
snapshot and truncation leaves old changes in the log: their versions are known, so they are
skipped. A failed write or fsync leaves the file unknown: the process must end.
"""

from __future__ import annotations

import os
import struct
from pathlib import Path

import crc32c
import msgspec

from robustmq.cluster.commands import Change
from robustmq.cluster.state import ClusterState, advance

MAGIC = b"RMQMETA1"
SNAPSHOT_EVERY_BYTES = 4 * 1024 * 1024
_HEAD = struct.Struct("<II")


class MetaCorrupt(Exception):
    """Files in meta/ that cannot be trusted; the message says which and what to do."""


class MetaLog:
    """The open log of one meta member."""

    def __init__(self, directory: Path, snapshot_every_bytes: int = SNAPSHOT_EVERY_BYTES) -> None:
        self._directory = directory
        self._snapshot_every_bytes = snapshot_every_bytes
        self._log = directory / "log"
        self._snapshot = directory / "snapshot"
        self._file = -1
        self._size = 0

    def open(self) -> ClusterState:
        """Recover the state and open the log for appending."""
        self._directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        state = ClusterState()
        if self._snapshot.exists():
            payload, _ = _record(self._snapshot.read_bytes(), 0)
            if payload is None:
                raise MetaCorrupt(f"{self._snapshot} is damaged: restore meta/ from a backup")
            state = msgspec.msgpack.decode(payload, type=ClusterState)
        self._file = os.open(self._log, os.O_RDWR | os.O_CREAT | os.O_APPEND, 0o600)
        written = self._log.read_bytes()
        if len(written) < len(MAGIC):
            self._restart()
        else:
            self._size = self._replay(written, state)
            if self._size < len(written):
                os.ftruncate(self._file, self._size)
                os.fsync(self._file)
        return state

    def append(self, changes: list[Change]) -> None:
        """Make changes durable: one write and one fsync for all of them."""
        records = bytearray()
        for change in changes:
            records += _framed(msgspec.msgpack.encode(change))
        _write_all(self._file, records)
        os.fdatasync(self._file)
        self._size += len(records)

    def checkpoint(self, state: ClusterState, force: bool = False) -> bool:
        """Write a snapshot and begin the log anew, when the log has grown enough."""
        if not force and self._size < self._snapshot_every_bytes:
            return False
        fresh = self._directory / "snapshot.new"
        file = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
        try:
            _write_all(file, _framed(msgspec.msgpack.encode(state)))
            os.fsync(file)
        finally:
            os.close(file)
        os.replace(fresh, self._snapshot)
        self._sync_directory()
        self._restart()
        return True

    def close(self) -> None:
        """Close the file; what was appended is on disk already."""
        if self._file >= 0:
            os.close(self._file)
            self._file = -1

    def _restart(self) -> None:
        os.ftruncate(self._file, 0)
        _write_all(self._file, MAGIC)
        os.fsync(self._file)
        self._sync_directory()
        self._size = len(MAGIC)

    def _sync_directory(self) -> None:
        directory = os.open(self._directory, os.O_RDONLY | os.O_DIRECTORY)
        try:
            os.fsync(directory)
        finally:
            os.close(directory)

    def _replay(self, written: bytes, state: ClusterState) -> int:
        """Apply all valid records; the position behind the last one."""
        if not written.startswith(MAGIC):
            raise MetaCorrupt(f"{self._log} is not a meta log of this version")
        position = len(MAGIC)
        while position < len(written):
            payload, end = _record(written, position)
            if payload is None:
                if _valid_behind(written, position):
                    raise MetaCorrupt(
                        f"{self._log} is damaged at byte {position}, with valid records behind:"
                        " restore meta/ from a backup"
                    )
                break
            advance(state, msgspec.msgpack.decode(payload, type=Change))
            position = end
        return position


def _framed(payload: bytes) -> bytes:
    return _HEAD.pack(len(payload), crc32c.crc32c(payload)) + payload


def _record(written: bytes, position: int) -> tuple[bytes | None, int]:
    """The payload at a position and where it ends; None if there is no whole valid record."""
    if position + _HEAD.size > len(written):
        return None, position
    length, checksum = _HEAD.unpack_from(written, position)
    begin = position + _HEAD.size
    payload = written[begin : begin + length]
    if not length or len(payload) < length or crc32c.crc32c(payload) != checksum:
        return None, position
    return payload, begin + length


def _valid_behind(written: bytes, bad: int) -> bool:
    """Is there a valid record anywhere behind the bad one? (the log is a few MiB at most)."""
    for position in range(bad + 1, len(written) - _HEAD.size):
        length, _ = _HEAD.unpack_from(written, position)
        if 0 < length <= len(written) - position and _record(written, position)[0] is not None:
            return True
    return False


def _write_all(file: int, content: bytes | bytearray) -> None:
    view = memoryview(content)
    while view:
        view = view[os.write(file, view) :]
