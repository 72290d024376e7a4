"""A lost data directory, made again from the object store up to the last upload.

Everything is read from the manifests: topics with ids and settings, where each partition begins and
ends, and which transactions were aborted. No record is copied: partitions begin with their cold
segments, and the next record gets the offset behind the last that was uploaded. The directory is
made beside its place and renamed when it is whole.

First the store is claimed: its mark and all manifests get an epoch far above any that was there.
So a cluster that still lives is fenced, whatever it does; and it is refused to begin with when its
mark is young.
"""

from __future__ import annotations

import os
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from uuid import UUID

import msgspec

from robustmq.cluster.commands import DeclaredTopic
from robustmq.cluster.meta_log import MetaLog
from robustmq.cluster.state import ClusterState
from robustmq.config import StorageSettings
from robustmq.core.hashing import topic_hash
from robustmq.process.recover_light import (
    ShardObjects,
    lines_of,
    look_at_log,
    secret_in,
    write_logs,
)
from robustmq.storage import partition_state
from robustmq.storage.cluster_mark import ALIVE_MS, Mark, read_mark, write_mark
from robustmq.storage.cold_segments import ColdSegment
from robustmq.storage.data_directory import new_data_directory, shard_directory
from robustmq.storage.disk import RealDisk
from robustmq.storage.kv import KeyValueSettings, open_key_value
from robustmq.storage.lookups import Lookups
from robustmq.storage.manifest import (
    ABORTED,
    INDEX,
    LOG,
    DamagedError,
    Head,
    Manifest,
    log_prefix_of,
    object_name,
    prefix_of,
    read_head,
    read_rows,
)
from robustmq.storage.object_store import ObjectMissingError, ObjectStore
from robustmq.storage.partition_state import PartitionState
from robustmq.storage.stored_producers import Aborted, StoredProducers, declared_key
from robustmq.storage.uploads import read_aborted

EPOCHS_APART = 1 << 20
"""A recovered cluster's epochs begin so far above: the lost one cannot reach them."""
PRODUCER_IDS_BITS = 24
"""And its producer ids at its epoch times 2 to the power of this."""
DEFAULT_SHARDS = 16
_PARTITION = re.compile(r"([0-9a-f]{32})-([0-9]{1,9})")
_SHARD = re.compile(r"light-([0-9]{1,9})")


class RecoverError(Exception):
    """Nothing was recovered; the message says why, and what to do."""


class Partition(msgspec.Struct, frozen=True):
    """What was found of a partition."""

    head: Head
    rows: list[ColdSegment]
    aborted: list[Aborted]
    missing: list[ColdSegment]
    """Segments that the manifest tells of and that are not there, or not whole."""


class Found(msgspec.Struct):
    """What is in the store of one cluster."""

    mark: Mark
    version: str
    partitions: list[Partition] = []
    logs: list[ShardObjects] = []
    """What light topics have, by shard."""
    notes: list[str] = []


def choose_cluster(store: ObjectStore, cluster_id: str) -> str:
    """The cluster that is meant; where there is one alone it need not be named."""
    known = list(store.folders())
    if cluster_id:
        if cluster_id not in known:
            raise RecoverError(f"there is no cluster {cluster_id}; there are: {_listed(known)}")
        return cluster_id
    if len(known) != 1:
        raise RecoverError(f"say which with --cluster-id; there are: {_listed(known)}")
    return known[0]


def _listed(names: list[str]) -> str:
    return ", ".join(names) or "none: is this the URL that was in storage.tiering.url?"


def look(store: ObjectStore, cluster_id: str) -> Found:
    """Read all that is in the store of a cluster; nothing is changed."""
    try:
        found = Found(*read_mark(store, cluster_id))
    except (ObjectMissingError, DamagedError):
        found = Found(Mark(cluster_id, DEFAULT_SHARDS, 0, 0), "")
        found.notes.append(f"the cluster's mark is not there: {DEFAULT_SHARDS} shards are assumed")
    for name in store.folders(f"{cluster_id}/"):
        light = _SHARD.fullmatch(name)
        if _PARTITION.fullmatch(name) is None and light is None:
            continue
        prefix = f"{cluster_id}/{name}/"
        try:
            head, _ = read_head(store, prefix)
        except ObjectMissingError:
            found.notes.append(f"{name} has no manifest: nothing of it was told of")
            continue
        if light is not None:
            found.logs.append(look_at_log(store, prefix, head))
            continue
        if head.deleted:
            found.notes.append(f"{name} of topic {_text(head)} was deleted: left out")
            continue
        found.partitions.append(_look_at(store, prefix, head))
    return found


def _look_at(store: ObjectStore, prefix: str, head: Head) -> Partition:
    sizes = dict(store.list(prefix))
    rows = read_rows(store, prefix, head)
    aborted: list[Aborted] = []
    missing = []
    for row in rows:
        name = prefix + object_name(row.base_offset, row.leader_epoch)
        if sizes.get(name + LOG) != row.size or name + INDEX not in sizes:
            missing.append(row)
        if name + ABORTED in sizes:
            aborted += read_aborted(store, name + ABORTED)
    return Partition(head, rows, aborted, missing)


def topics_of(found: Found) -> dict[bytes, DeclaredTopic]:
    """The topics by name. Of two with one name the later owner's is the one; and what a manifest of
    a higher partition does not know yet another may."""
    topics: dict[bytes, tuple[int, DeclaredTopic]] = {}
    for partition in found.partitions:
        head = partition.head
        info, epoch = head.topic, head.leader_epoch
        if not info.name:
            continue
        topic_id = UUID(bytes=info.topic_id)
        known_epoch, known = topics.get(info.name, (-1, None))
        if known is not None and known.topic_id != topic_id and known_epoch > epoch:
            continue
        count = max(info.partitions, head.partition + 1)
        if known is not None and known.topic_id == topic_id:
            count = max(count, known.partitions)
            if known_epoch > epoch:
                info = msgspec.structs.replace(info, configs=known.configs)
                epoch = known_epoch
        topic = DeclaredTopic(info.name, topic_id, count, dict(info.configs), info.created_ms)
        topics[info.name] = (epoch, topic)
    return {name: topic for name, (_, topic) in topics.items()}


def check(found: Found, data_dir: Path, now_ms: int, take_over: bool) -> None:
    """Raises RecoverError when it must not be."""
    if data_dir.exists() and (not data_dir.is_dir() or any(data_dir.iterdir())):
        raise RecoverError(f"{data_dir} is not empty: recover into a new directory")
    if not found.partitions and not found.logs:
        raise RecoverError("there is no partition in the store: nothing was uploaded")
    wrong = [one.head.partition for one in found.logs if one.head.partition >= found.mark.shards]
    if wrong:
        raise RecoverError(
            f"the cluster has {found.mark.shards} shards, and the store has a log of"
            f" shard {wrong[0]}"
        )
    if found.logs and secret_in(found.logs) is None:
        raise RecoverError("the manifests of shards' logs do not agree on one topic secret")
    age_ms = now_ms - found.mark.written_ms
    if not found.mark.stopped and age_ms < ALIVE_MS and not take_over:
        raise RecoverError(
            f"a cluster wrote to this store {max(0, age_ms) // 1000} s ago: stop it, or wait until"
            f" it is {ALIVE_MS // 1000} s; if it is surely dead, say --take-over"
        )


def recover(
    store: ObjectStore,
    found: Found,
    data_dir: Path,
    storage: StorageSettings,
    now_ms: int,
    say: Callable[[str], None],
) -> None:
    """Claim the store, and make the data directory."""
    heads = [one.head for one in found.partitions] + [one.head for one in found.logs]
    epochs = [head.leader_epoch for head in heads]
    epoch = (max(*epochs, found.mark.epoch) // EPOCHS_APART + 1) * EPOCHS_APART
    mark = found.mark
    claimed = Mark(mark.cluster_id, mark.shards, epoch, now_ms, True)
    write_mark(store, claimed, found.version)
    topics = topics_of(found)
    living = [one for one in found.partitions if _is_of(one, topics)]
    for partition in living:
        _claim(store, partition.head, epoch)
    for log in found.logs:
        _claim(store, log.head, epoch)
    fresh = data_dir.with_name(data_dir.name + ".recovering")
    shutil.rmtree(fresh, ignore_errors=True)
    new_data_directory(fresh, mark.shards, mark.cluster_id, secret_in(found.logs))
    _write_partitions(fresh, mark.shards, living, storage)
    if found.logs:
        places = {one.head.partition: _prefix(one.head) for one in found.logs}
        write_logs(store, fresh, found.logs, epoch, storage, places, now_ms)
    state = ClusterState(
        cluster_id=mark.cluster_id,
        topics=topics,
        topic_names={topic.topic_id: name for name, topic in topics.items()},
        next_producer_id=epoch << PRODUCER_IDS_BITS,
        last_epoch=epoch,
    )
    meta = MetaLog(fresh / "meta")
    meta.open()
    meta.checkpoint(state, force=True)
    meta.close()
    os.sync()
    if data_dir.exists():
        data_dir.rmdir()
    fresh.rename(data_dir)
    for line in report(found, topics):
        say(line)


def _is_of(partition: Partition, topics: dict[bytes, DeclaredTopic]) -> bool:
    topic = topics.get(partition.head.topic.name)
    return topic is not None and topic.topic_id.bytes == partition.head.topic.topic_id


def _prefix(head: Head) -> str:
    if not head.topic.name:
        return log_prefix_of(head.cluster_id, head.partition)
    return prefix_of(head.cluster_id, head.topic.topic_id, head.partition)


def _claim(store: ObjectStore, head: Head, epoch: int) -> None:
    prefix = _prefix(head)
    manifest = Manifest(store, prefix, msgspec.structs.replace(head, leader_epoch=epoch))
    manifest.load()
    if manifest.head.end_offset != head.end_offset:
        raise RecoverError(f"{prefix} was written meanwhile: is the cluster stopped?")
    manifest.describe(head.topic)


def _write_partitions(
    directory: Path, shards: int, partitions: list[Partition], storage: StorageSettings
) -> None:
    disk = RealDisk()
    by_shard: dict[int, list[Partition]] = {}
    for partition in partitions:
        shard = topic_hash(partition.head.topic.name, partition.head.partition) % shards
        by_shard.setdefault(shard, []).append(partition)
    for shard, some in by_shard.items():
        place = shard_directory(directory, shard)
        disk.make_directory(place)
        kv = open_key_value(
            place,
            storage.key_value,
            KeyValueSettings(storage.key_value_cache_bytes, storage.key_value_write_buffer_bytes),
        )
        lookups = Lookups(kv)
        producers = StoredProducers(lookups)
        for partition in some:
            head = partition.head
            name = f"{head.topic.topic_id.hex()}-{head.partition}"
            inside = f"{place}/segments/{name}"
            disk.make_directory(inside)
            # With a hole for what is missing: its offsets stay what they were.
            state = PartitionState(
                start_offset=head.start_offset,
                gaps_until=head.end_offset,
                tiered_until=head.end_offset,
            )
            partition_state.save(inside, disk, state)
            for row in partition.aborted:
                producers.add_aborted(declared_key(head.topic.topic_id, head.partition), row)
        kv.write(list(lookups.take().items()), True)
        kv.close()
    disk.close()


def report(found: Found, topics: dict[bytes, DeclaredTopic]) -> list[str]:
    """What was recovered, and what may be missing, for people."""
    lines = []
    size = 0
    by_topic: dict[bytes, list[Partition]] = {}
    for partition in found.partitions:
        by_topic.setdefault(partition.head.topic.topic_id, []).append(partition)
    for name, topic in sorted(topics.items()):
        some = {one.head.partition: one for one in by_topic.get(topic.topic_id.bytes, [])}
        lines.append(f"topic {name.decode('utf-8', 'replace')}: {topic.partitions} partitions")
        for number in range(topic.partitions):
            one = some.get(number)
            if one is None:
                lines.append(f"  {number}: nothing was uploaded, it begins at 0")
                continue
            size += sum(row.size for row in one.rows)
            head = one.head
            lines.append(
                f"  {number}: offsets {head.start_offset} to {head.end_offset},"
                f" {len(one.rows)} segments"
            )
            lines += [
                f"  {number}: MISSING offsets {row.base_offset} to {row.next_offset}"
                for row in one.missing
            ]
    for log in found.logs:
        size += sum(row.size for row in log.rows)
        lines += lines_of(log)
    lines += found.notes
    lines.append(f"{len(topics)} topics, {size} bytes in the object store")
    lines.append(
        "Not there: records behind the last upload of each partition and shard, topics that were"
        " not tiered, light topics of which the store has no record (they begin at 0 again),"
        " retained messages, sessions, committed offsets and other state of groups, users, access"
        " rules, quotas and bans made at run time."
    )
    return lines


def _text(head: Head) -> str:
    return head.topic.name.decode("utf-8", "replace")
