"""Light topics of mode tiered in a lost data directory: the log of each shard that has some in the
object store is read there once, entry by entry, with every checksum tested.

No record is copied. What is made is the topic index, with each topic's end and the position of its
last batch, what LevelDB knows of topics, and a log that goes on at the position where the store
ends. Of what is lost in the store the table of bridges leads over it, so everything else is served;
so do ways over what was never there, as a topic was of another mode for some time.
"""

from __future__ import annotations

from pathlib import Path

import msgspec

from robustmq.config import StorageSettings
from robustmq.core.hashing import set_topic_secret
from robustmq.shard.subscribing import encode_cursors
from robustmq.storage.cold_scan import Lost, scan
from robustmq.storage.cold_segments import ColdSegment
from robustmq.storage.committer import InlineCommitter
from robustmq.storage.data_directory import shard_directory
from robustmq.storage.disk import RealDisk
from robustmq.storage.kv import KeyValueSettings, open_key_value
from robustmq.storage.manifest import LOG, SECRET, Head, object_name, read_rows
from robustmq.storage.object_store import ObjectStore
from robustmq.storage.shard_log import HEAD
from robustmq.storage.shard_store import (
    BLOCK,
    CURSOR,
    NobodyListens,
    ShardStore,
    StoreSettings,
)

FLUSH_ENTRIES = 10_000


class ShardObjects(msgspec.Struct):
    """What was found of the log of a shard."""

    head: Head
    rows: list[ColdSegment]
    sizes: dict[int, int]
    """What objects take, by their first position; those that are missing are not there."""
    topics: int = 0
    lost: list[Lost] = []

    @property
    def damaged(self) -> list[Lost]:
        """What is known to be missing, or not whole, before it is read."""
        return [
            Lost(row.base_offset, row.next_offset)
            for row in self.rows
            if self.sizes.get(row.base_offset) != row.size
        ]


def look_at_log(store: ObjectStore, prefix: str, head: Head) -> ShardObjects:
    """What there is of a shard's log; no object is read."""
    there = dict(store.list(prefix))
    rows = read_rows(store, prefix, head)
    names = {row.base_offset: prefix + _name(row) for row in rows}
    sizes = {base: there[name] for base, name in names.items() if name in there}
    return ShardObjects(head, rows, sizes)


def secret_in(logs: list[ShardObjects]) -> bytes | None:
    """The secret under which the keys in the objects were made."""
    found = {one.head.topic.configs.get(SECRET, "") for one in logs} - {""}
    return bytes.fromhex(found.pop()) if len(found) == 1 else None


def write_logs(
    store: ObjectStore,
    directory: Path,
    logs: list[ShardObjects],
    epoch: int,
    storage: StorageSettings,
    prefix_of: dict[int, str],
    now_ms: int,
) -> None:
    """Make the shards of a data directory whose logs the store has; `prefix_of` says where."""
    secret = secret_in(logs)
    assert secret is not None, "it was looked for"
    set_topic_secret(secret)
    for log in logs:
        _write_log(store, directory, log, epoch, storage, prefix_of[log.head.partition], now_ms)


def _write_log(
    objects: ObjectStore,
    directory: Path,
    log: ShardObjects,
    epoch: int,
    storage: StorageSettings,
    prefix: str,
    now_ms: int,
) -> None:
    disk = RealDisk()
    place = shard_directory(directory, log.head.partition)
    disk.make_directory(place)
    kv = open_key_value(
        place,
        storage.key_value,
        KeyValueSettings(storage.key_value_cache_bytes, storage.key_value_write_buffer_bytes),
    )
    committer = InlineCommitter()
    shard = ShardStore(
        place, StoreSettings(), disk, kv, committer, epoch, NobodyListens(), lambda at, size: None
    )
    _replay(objects, shard, committer, log, prefix)
    shard.log.begin_at(log.head.end_offset)
    shard.cold.adopt(log.head.end_offset)
    shard.append(CURSOR, encode_cursors({}), 0, 0, now_ms)
    shard.checkpoint(())
    committer.kick()
    log.topics = len(shard.light)
    shard.close()
    disk.close()


def _replay(
    objects: ObjectStore,
    shard: ShardStore,
    committer: InlineCommitter,
    log: ShardObjects,
    prefix: str,
) -> None:
    count = 0
    for row in log.rows:
        size = log.sizes.get(row.base_offset)
        if size is None:
            _lose(shard, log, Lost(row.base_offset, row.next_offset))
            continue
        for found in scan(objects, prefix + _name(row), size, row):
            if isinstance(found, Lost):
                _lose(shard, log, found)
                continue
            payload = bytes(found.data[HEAD.size :])
            if found.kind == BLOCK:
                shard.light.lead_over_gaps(found.position, payload)
            shard.light.replay(found.position, found.kind, payload)
            count += 1
            if count % FLUSH_ENTRIES == 0:
                shard.light.keep_names()
                shard.flush(False)
                committer.kick()


def _lose(shard: ShardStore, log: ShardObjects, lost: Lost) -> None:
    log.lost.append(lost)
    shard.light.damaged(lost.begin, lost.end)


def _name(row: ColdSegment) -> str:
    return object_name(row.base_offset, row.leader_epoch) + LOG


def lines_of(log: ShardObjects) -> list[str]:
    """What was found, for people."""
    head = log.head
    lines = [
        f"light topics of shard {head.partition}: positions up to {head.end_offset},"
        f" {len(log.rows)} objects" + (f", {log.topics} topics" if log.topics else "")
    ]
    for lost in log.lost or log.damaged:
        lines.append(f"  {head.partition}: MISSING positions {lost.begin} to {lost.end}")
    return lines
