"""The mark of a cluster in the object store, `<cluster id>/cluster`: how many shards it has, and
that it lives (docs/formats.md, "Object storage").

The owner of shard 0 writes it every MARK_MS, on condition that nobody else has: so recovery sees
whether there is a cluster that still writes, and a cluster sees that another one was recovered from
its objects (its epoch is greater), and writes no more.
"""

from __future__ import annotations

import msgspec

from robustmq.storage.manifest import DamagedError, FencedError, decode, encode
from robustmq.storage.object_store import ObjectConflictError, ObjectMissingError, ObjectStore

MAGIC = b"RMQTCLU2"
NAME = "cluster"
MARK_MS = 30_000
ALIVE_MS = 75_000
"""A cluster whose mark is younger than this may live."""


class Mark(msgspec.Struct, frozen=True, array_like=True):
    """What the mark says; the fields stand in this order."""

    cluster_id: str
    shards: int
    epoch: int
    """Of the owner of shard 0."""
    written_ms: int
    """Wall clock of the writer."""
    stopped: bool = False
    """The cluster was shut down in order."""


def read_mark(store: ObjectStore, cluster_id: str) -> tuple[Mark, str]:
    """The mark and its version. Raises ObjectMissingError, DamagedError."""
    path = f"{cluster_id}/{NAME}"
    data, version = store.get(path)
    try:
        return msgspec.msgpack.decode(decode(MAGIC, data, path), type=Mark), version
    except msgspec.MsgspecError as error:
        raise DamagedError(f"{path}: {error}") from None


def write_mark(store: ObjectStore, mark: Mark, version: str) -> str:
    """Write the mark in the place of the one that has this version (empty: none is known); the new
    version. Raises FencedError when a later epoch has written."""
    path = f"{mark.cluster_id}/{NAME}"
    data = encode(MAGIC, msgspec.msgpack.encode(mark))
    if version:
        try:
            return store.put(path, [data], if_version=version)
        except ObjectConflictError:
            # Another's, or our own whose answer was lost.
            version = ""
    try:
        known, version = read_mark(store, mark.cluster_id)
    except ObjectMissingError:
        return store.put(path, [data], if_version="")
    if known.epoch > mark.epoch:
        raise FencedError(
            "a cluster was recovered from these objects, with epoch"
            f" {known.epoch}: this one, with {mark.epoch}, writes no more"
        )
    return store.put(path, [data], if_version=version)
