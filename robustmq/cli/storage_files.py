"""The data directory that `robustmq storage` looks at, with its broker or without one."""

from __future__ import annotations

import contextlib
import fcntl
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec

from robustmq.cli.node import Node, NodeError
from robustmq.core.hashing import set_topic_secret
from robustmq.errors import BrokerError
from robustmq.storage.data_directory import DataDirectoryError, read_identity
from robustmq.storage.inspection import (
    PARTITIONS,
    Damage,
    EnginePartition,
    Tail,
    engine_partitions,
    opened,
    segment_batches,
    shard_directories,
)
from robustmq.storage.kv import STORES, KeyValue, KeyValueSettings, open_key_value
from robustmq.storage.topic_sizes import TopicSizes
from robustmq.storage.verification import readable

PACE_S = 0.02
LOCK_FILE = "lock"


class SizeRow(msgspec.Struct, frozen=True):
    """One topic, or one partition; -1, "" and None where something is not known."""

    topic: str
    partition: int
    shard: int
    engine: str
    mode: str
    tiered: bool | None
    bytes: int
    records: int
    first_offset: int
    next_offset: int
    last_ms: int


class Pace:
    """Holds whoever reads to so many megabytes a second; 0: no bound."""

    def __init__(self, megabytes: int) -> None:
        self._per_s = megabytes * 1e6
        self._begin = time.monotonic()
        self.bytes = 0

    def passed(self, number: int) -> None:
        """So many bytes were read."""
        self.bytes += number
        if self._per_s > 0:
            ahead = self.bytes / self._per_s - (time.monotonic() - self._begin)
            if ahead > PACE_S:
                time.sleep(ahead)


class Files:
    """A data directory; `node` is its broker, None where none runs."""

    def __init__(self, data_dir: str, node: Node | None) -> None:
        self.data_dir = data_dir
        self.node = node
        self._open: dict[int, KeyValue] = {}

    def shards(self) -> dict[int, Path]:
        """The folders of all shards."""
        return shard_directories(self.data_dir)

    def chosen(self, shard: int) -> dict[int, Path]:
        """One shard, or (-1) all."""
        found = self.shards()
        if shard >= 0 and shard not in found:
            raise NodeError(f"{self.data_dir} has the shards 0 to {len(found) - 1}, not {shard}")
        return {shard: found[shard]} if shard >= 0 else found

    def one(self, shard: int) -> dict[int, Path]:
        """The shard that must be named."""
        if shard < 0:
            raise NodeError("name a shard: --shard N")
        return self.chosen(shard)

    def look_ups(self, shard: int) -> KeyValue | None:
        """Its key-value store, which a broker that runs has for itself."""
        directory = self.shards()[shard]
        if self.node is not None or not any((directory / kind).is_dir() for kind in STORES):
            return None
        if shard not in self._open:
            try:
                kv = open_key_value(str(directory), "", KeyValueSettings())
            except OSError as error:
                raise NodeError(f"the look-ups of shard {shard}: {error}") from None
            self._open[shard] = kv
        return self._open[shard]

    def close(self) -> None:
        """Close what was opened."""
        for kv in self._open.values():
            kv.close()


@contextlib.contextmanager
def _held(data_dir: str) -> Iterator[None]:
    """Nobody else has the data directory, and no broker starts in it meanwhile."""
    try:
        file = (Path(data_dir) / LOCK_FILE).open("rb")
    except OSError as error:
        raise NodeError(f"{data_dir} cannot be used: {error.strerror}") from None
    with file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise NodeError(
                f"a broker runs in {data_dir}: leave --offline out, and it is asked"
            ) from None
        yield


@contextlib.contextmanager
def open_files(data_dir: str, offline: bool) -> Iterator[Files]:
    """The data directory, held against a broker that would start meanwhile if `offline`."""
    try:
        identity = read_identity(data_dir)
    except DataDirectoryError as error:
        raise NodeError(str(error)) from None
    set_topic_secret(identity.topic_secret)
    with contextlib.ExitStack() as stack:
        if offline:
            stack.enter_context(_held(data_dir))
            files = Files(data_dir, None)
        else:
            try:
                files = Files(data_dir, Node(data_dir))
            except NodeError as error:
                raise NodeError(f"{error}; of a stopped broker: --offline") from None
        stack.callback(files.close)
        yield files


def light_sizes(
    files: Files, by: str, limit: int, fits: Callable[[str], bool], pace: Pace
) -> list[SizeRow]:
    """The first topics in an order of those that lie in the logs of shards."""
    rows: list[SizeRow] = []
    for shard, directory in files.shards().items():
        sizes = TopicSizes(directory, lambda name: fits(readable(name)))
        for read in sizes.read():
            pace.passed(read)
        rows += [
            SizeRow(
                *_named(one.name), shard, "", "", None, one.bytes, one.records, one.first_offset,
                one.next_offset, one.last_ms,
            )
            for one in sizes.rows(by, limit)
        ]  # fmt: skip
    return rows


def _named(name: bytes) -> tuple[str, int]:
    shown = readable(name)
    if name[:2] != b"\0\0":
        return shown, 0
    topic_id, _, partition = shown.partition("-")
    return topic_id, int(partition)


def declared_sizes(files: Files, fits: Callable[[str], bool]) -> list[SizeRow]:
    """The partitions with files of their own, by the ids of their topics: their names are in the
    cluster's state, which a broker is needed for."""
    rows = []
    for shard, directory in files.shards().items():
        for stored in engine_partitions(directory):
            topic_id, _, partition = stored.path.name.partition("-")
            if fits(topic_id):
                sizes = _engine_sizes(stored)
                rows.append(
                    SizeRow(topic_id, int(partition), shard, stored.engine, "", None, *sizes)
                )
        for folder in sorted((directory / "segments").glob(PARTITIONS)):
            topic_id, _, partition = folder.name.partition("-")
            paths = sorted(folder.glob("*.log"))
            if not paths or not fits(topic_id):
                continue
            first, following, last_ms = int(paths[0].name[:20]), int(paths[-1].name[:20]), -1
            for one in segment_batches(paths[-1]):
                if not isinstance(one, (Damage, Tail)):
                    following = one.info.base_offset + one.info.last_offset_delta + 1
                    last_ms = max(one.info.max_timestamp, last_ms)
            rows.append(
                SizeRow(
                    topic_id, int(partition), shard, "segment", "", None,
                    sum(path.stat().st_size for path in paths), following - first, first, following,
                    last_ms,
                )
            )  # fmt: skip
    return rows


def _engine_sizes(partition: EnginePartition) -> tuple[int, int, int, int, int]:
    """Bytes, records, first and next offset, last time of a partition in another engine."""
    with contextlib.suppress(BrokerError, FileNotFoundError), opened(partition) as stored:
        if stored is not None:
            first, following = stored.start_offset, stored.end_offset
            last_ms = max((info.max_timestamp for info in stored.last_batches(1)), default=-1)
            return stored.size, following - first, first, following, last_ms
    return partition.size, -1, -1, -1, -1


def sorted_rows(rows: list[SizeRow], by: str, limit: int) -> list[SizeRow]:
    """The first so many in an order."""
    keys: dict[str, Callable[[SizeRow], int]] = {
        "size": lambda row: -row.bytes,
        "records": lambda row: -row.records,
        "age": lambda row: row.last_ms,
    }
    rows = sorted(rows, key=keys[by])
    return rows[:limit] if limit else rows
