"""`robustmq storage list|topics|verify|dump|compact`.

What lies in files is read here, beside the broker, and costs it nothing; what only the broker
knows is asked for over its control sockets. With `--offline` nobody is asked: the broker is
stopped, and the look-ups can be read, too. Exit codes: 0 done, 1 damage was found or something
could not be done, 2 wrong use.
"""

from __future__ import annotations

import argparse
import base64
import json
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import msgspec

from robustmq.cli.commands import add_common, add_limit
from robustmq.cli.node import Node, NodeError, settings_of
from robustmq.cli.storage_files import (
    Files,
    Pace,
    SizeRow,
    declared_sizes,
    light_sizes,
    open_files,
    sorted_rows,
)
from robustmq.cli.tables import Column, ago, print_rows, print_table
from robustmq.control.contract import Refused, pattern
from robustmq.control.messages import (
    CompactedRow,
    CompactStorage,
    HeldRow,
    KeptRow,
    ListHeld,
    ListLookups,
    ListShards,
    LookupRow,
    ShardRow,
    ShowKept,
)
from robustmq.storage.inspection import disk_use, log_entries, segment_batches
from robustmq.storage.lookups import after
from robustmq.storage.showing import item_of, pair_of
from robustmq.storage.topic_sizes import ORDERS
from robustmq.storage.verification import Fault, Verification

VERIFY_MB_PER_S = 100
NAMES_ASKED = 200


class ShardUse(msgspec.Struct, frozen=True):
    """One shard: bytes in mode memory and on disk, and where its log stands. Of a stopped broker
    memory and topics are not known (-1)."""

    shard: int
    worker: int
    log_bytes: int
    segment_bytes: int
    engine_bytes: int
    key_value_bytes: int
    quarantine_bytes: int
    start_position: int
    end_position: int
    checkpoint_position: int
    light_topics: int
    partitions: int
    memory_bytes: int
    dead_bytes: int


def run_storage(arguments: list[str]) -> int:
    """`robustmq storage`."""
    parser = argparse.ArgumentParser(
        prog="robustmq storage", description="Look into what is stored, check it, make it smaller."
    )
    verbs = parser.add_subparsers(metavar="VERB", required=True)
    for word, (help_text, add, run) in VERBS.items():
        verb = verbs.add_parser(word, help=help_text, description=help_text)
        add(verb)
        add_common(verb)
        verb.set_defaults(run=run)
    options = parser.parse_args(arguments)
    try:
        run_verb: Callable[[Files, argparse.Namespace], int] = options.run
        settings = settings_of(options)
        offline = getattr(options, "offline", False)
        with open_files(settings.node.data_dir, offline) as files:
            code = run_verb(files, options)
            return (files.node.complain() if files.node is not None else 0) or code
    except (NodeError, Refused) as error:
        print(f"robustmq: {error}", file=sys.stderr)
        return 1


def _node(files: Files) -> Node:
    if files.node is None:
        raise NodeError(
            f"no broker runs with the data directory {files.data_dir}, and this needs one"
        )
    return files.node


# -- list ------------------------------------------------------------------------------------------


def _list_arguments(parser: argparse.ArgumentParser) -> None:
    _offline(parser)


def _list(files: Files, options: argparse.Namespace) -> int:
    known: dict[int, ShardRow] = {}
    if files.node is not None:
        known = {row.shard: row for row in files.node.ask(ListShards(), ShardRow)}
    rows = []
    for shard, directory in files.shards().items():
        use, told = disk_use(directory), known.get(shard)
        rows.append(
            ShardUse(
                shard,
                told.worker if told is not None else -1,
                use.log,
                use.segments,
                use.engines,
                use.key_value,
                use.quarantine,
                use.log_start if told is None else told.start_position,
                use.log_end if told is None else told.end_position,
                use.checkpoint if told is None else told.checkpoint_position,
                told.light_topics if told is not None else -1,
                told.partitions if told is not None else -1,
                told.memory_bytes if told is not None else -1,
                told.dead_bytes if told is not None else -1,
            )
        )
    if options.json:
        print_rows(rows)
        return 0
    headings = (
        "shard", "worker", "memory", "log", "dead", "segments", "engines", "look-ups", "quarantine",
        "begins", "ends", "not checkpointed", "light topics", "partitions",
    )  # fmt: skip
    print_table([Column(name, True) for name in headings], map(_shard_cells, rows))
    return 0


def _shard_cells(row: ShardUse) -> tuple[object, ...]:
    return (
        row.shard,
        row.worker if row.worker >= 0 else None,
        sized(row.memory_bytes) if row.memory_bytes >= 0 else None,
        sized(row.log_bytes),
        sized(row.dead_bytes) if row.dead_bytes >= 0 else None,
        sized(row.segment_bytes),
        sized(row.engine_bytes),
        sized(row.key_value_bytes),
        sized(row.quarantine_bytes),
        row.start_position,
        row.end_position,
        sized(row.end_position - row.checkpoint_position),
        row.light_topics if row.light_topics >= 0 else None,
        row.partitions if row.partitions >= 0 else None,
    )


def sized(number: int) -> str:
    """Bytes for people."""
    for unit, size in (("GB", 1e9), ("MB", 1e6), ("kB", 1e3)):
        if number >= size:
            return f"{number / size:.1f} {unit}"
    return f"{number} B"


# -- topics ----------------------------------------------------------------------------------------


def _topics_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--by", choices=ORDERS, default="size", help="largest, most records, or longest idle first"
    )
    parser.add_argument(
        "--match", default="", metavar="PATTERN", help="names that fit (*, ?, [a-z]), or a part"
    )
    add_limit(parser)
    _pace(parser)
    _offline(parser)


def _topics(files: Files, options: argparse.Namespace) -> int:
    fits = pattern(options.match)
    rows = light_sizes(files, options.by, options.limit, fits, Pace(options.rate))
    if files.node is not None:
        held = files.node.ask(ListHeld(filter=options.match), HeldRow)
        rows += [
            SizeRow(
                row.topic, row.partition, row.shard, row.engine, row.mode, row.tiered, row.bytes,
                row.end_offset - row.start_offset, row.start_offset, row.end_offset, row.last_ms,
            )
            for row in held
        ]  # fmt: skip
        rows = _kept(files.node, sorted_rows(rows, options.by, options.limit))
    else:
        rows = sorted_rows(rows + declared_sizes(files, fits), options.by, options.limit)
    if options.json:
        print_rows(rows)
        return 0
    columns = [
        Column("topic"), Column("partition", True), Column("shard", True), Column("engine"),
        Column("mode"), Column("tiered"), Column("bytes", True), Column("records", True),
        Column("offsets", True), Column("last", True),
    ]  # fmt: skip
    print_table(columns, map(_topic_cells, rows))
    return 0


def _topic_cells(row: SizeRow) -> tuple[object, ...]:
    offsets = f"{row.first_offset}-{row.next_offset}" if row.next_offset >= 0 else None
    return (
        row.topic, row.partition, row.shard, row.engine or None, row.mode or None, row.tiered,
        sized(row.bytes), row.records if row.records >= 0 else None, offsets,
        ago(row.last_ms) if row.last_ms > 0 else None,
    )  # fmt: skip


def _kept(node: Node, rows: list[SizeRow]) -> list[SizeRow]:
    """With mode and engine of the topics that lie in the logs of shards."""
    asked = sorted({row.topic for row in rows if not row.mode})
    known: dict[str, KeptRow] = {}
    for first in range(0, len(asked), NAMES_ASKED):
        request = ShowKept(tuple(asked[first : first + NAMES_ASKED]))
        known |= {row.topic: row for row in node.ask_one(request, KeptRow)}
    return [
        msgspec.structs.replace(
            row,
            topic=known[row.topic].name,
            mode=known[row.topic].mode,
            tiered=known[row.topic].mode == "tiered",
            engine=known[row.topic].engine,
        )
        if not row.mode and row.topic in known
        else row
        for row in rows
    ]


# -- verify ----------------------------------------------------------------------------------------


def _verify_arguments(parser: argparse.ArgumentParser) -> None:
    _shard(parser)
    _pace(parser)
    _offline(parser)


def _verify(files: Files, options: argparse.Namespace) -> int:
    committed: dict[int, int] = {}
    if files.node is not None:
        rows = files.node.ask(ListShards(), ShardRow)
        committed = {row.shard: row.committed_position for row in rows}
    pace = Pace(options.rate)
    serious = topics = entries = batches = 0
    for shard, directory in files.chosen(options.shard).items():
        end = committed.get(shard) if files.node is not None else None
        check = Verification(shard, directory, end, files.look_ups(shard))
        for step in check.steps():
            if isinstance(step, int):
                pace.passed(step)
                continue
            serious += step.serious
            print_rows([step]) if options.json else print(_told(step))
        topics += check.topics
        entries += check.entries
        batches += check.batches
    said = (
        f"{sized(pace.bytes)} read: {entries:,} entries, {batches:,} batches, {topics:,} topics;"
        f" {'nothing is damaged' if not serious else f'{serious} DAMAGED'}"
    )
    print(said, file=sys.stderr if options.json else sys.stdout)
    return 1 if serious else 0


def _told(fault: Fault) -> str:
    parts = [f"shard {fault.shard}", fault.where]
    parts += [f"at {fault.position}"] if fault.position >= 0 else []
    parts += [f"{fault.length} bytes"] if fault.length else []
    parts += [f"topic {fault.topic}"] if fault.topic else []
    parts += [f"offset {fault.offset}"] if fault.offset >= 0 else []
    return f"{'damaged' if fault.serious else 'note   '}  {', '.join(parts)}: {fault.what}"


# -- dump ------------------------------------------------------------------------------------------


def _dump_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("what", choices=["segment", "log", "leveldb"])
    parser.add_argument("file", nargs="?", default="", help="of a segment: the file")
    _shard(parser)
    parser.add_argument("--from", dest="begin", type=int, default=0, help="position, or offset")
    parser.add_argument("--to", dest="end", type=int, default=None, help="position, or offset")
    parser.add_argument("--prefix", default="", help="of keys of the look-ups")
    parser.add_argument("--no-records", action="store_true", help="of batches the headers alone")
    add_limit(parser)
    _offline(parser)


def _dump(files: Files, options: argparse.Namespace) -> int:
    rows = _DUMPS[options.what](files, options)
    for number, row in enumerate(rows):
        if options.limit and number >= options.limit:
            print(f"... and more: --limit {options.limit} cut the list", file=sys.stderr)
            break
        sys.stdout.write(json.dumps(row, ensure_ascii=False) + "\n")
    return 0


def _dump_segment(files: Files, options: argparse.Namespace) -> Iterator[dict[str, object]]:
    path = Path(options.file)
    if not path.is_file() or not path.name[:20].isdigit():
        raise NodeError(
            f"{options.file or 'nothing'} is no segment file (00000000000000000000.log)"
        )
    for found in segment_batches(path):
        row = item_of(found, not options.no_records)
        offset = row.get("base_offset")
        if isinstance(offset, int) and options.end is not None and offset >= options.end:
            return
        if not isinstance(offset, int) or offset + int(row["records"]) > options.begin:
            yield row


def _dump_log(files: Files, options: argparse.Namespace) -> Iterator[dict[str, object]]:
    for directory in files.one(options.shard).values():
        for found in log_entries(directory, options.begin, options.end):
            if found.position >= options.begin:
                yield item_of(found, not options.no_records)


def _dump_lookups(files: Files, options: argparse.Namespace) -> Iterable[dict[str, object]]:
    prefix = options.prefix.encode()
    shard = next(iter(files.one(options.shard)))
    if files.node is not None:
        shown = base64.b64encode(prefix).decode()
        limit = options.limit + 1 if options.limit else 0
        rows = files.node.ask(ListLookups(limit, shard, shown), LookupRow)
        return (pair_of(row.key, row.value) for row in rows)
    kv = files.look_ups(shard)
    if kv is None:
        raise NodeError(f"the look-ups of shard {shard} cannot be opened")
    return (pair_of(*pair) for pair in kv.range(prefix, after(prefix)))


_DUMPS: dict[str, Callable[[Files, argparse.Namespace], Iterable[dict[str, object]]]] = {
    "segment": _dump_segment,
    "log": _dump_log,
    "leveldb": _dump_lookups,
}


# -- compact ---------------------------------------------------------------------------------------


def _compact_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("topic", nargs="?", default="", help="its MQTT or Kafka name")
    _shard(parser)


def _compact(files: Files, options: argparse.Namespace) -> int:
    if options.topic and options.shard >= 0:
        raise NodeError("name a topic or a shard, not both")
    request = CompactStorage(options.topic, options.shard)
    rows = list(_node(files).ask(request, CompactedRow))
    if options.json:
        print_rows(rows)
    else:
        columns = [
            Column("topic"), Column("partition", True), Column("before", True),
            Column("after", True), Column(""),
        ]  # fmt: skip
        print_table(
            columns,
            (
                (row.topic or f"log of shard {row.shard}",
                 row.partition if row.topic else None, sized(row.bytes_before),
                 sized(row.bytes_after), row.reason or "compacted")
                for row in rows
            ),
        )  # fmt: skip
    if options.topic and not rows:
        print(f"robustmq: {options.topic} has no partition to compact", file=sys.stderr)
        return 1
    return 1 if any(row.reason for row in rows) else 0


# -- options ---------------------------------------------------------------------------------------


def _offline(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--offline", action="store_true", help="the broker is stopped: read its files alone"
    )


def _shard(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--shard", type=int, default=-1, metavar="N", help="one shard alone")


def _pace(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--rate",
        type=int,
        default=VERIFY_MB_PER_S,
        metavar="MB",
        help=f"megabytes read a second at most (default {VERIFY_MB_PER_S}; 0: no bound)",
    )


Adder = Callable[[argparse.ArgumentParser], None]
Runner = Callable[[Files, argparse.Namespace], int]
VERBS: dict[str, tuple[str, Adder, Runner]] = {
    "list": ("Shards: bytes on disk, positions, topics.", _list_arguments, _list),
    "topics": ("Topics by size, records or age.", _topics_arguments, _topics),
    "verify": ("Read every byte and say what is damaged.", _verify_arguments, _verify),
    "dump": ("A segment file, a log or look-ups as JSON lines.", _dump_arguments, _dump),
    "compact": ("Compact topics, and clean the logs of shards, now.", _compact_arguments, _compact),
}
