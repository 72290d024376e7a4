"""`robustmq topics`."""

from __future__ import annotations

import argparse

import msgspec

from robustmq.cli.commands import (
    Verb,
    add_limit,
    no_arguments,
    run_single,
    run_subject,
    say_cut,
)
from robustmq.cli.node import Node, NodeError
from robustmq.cli.tables import Column, print_rows, print_table
from robustmq.control.messages import ListTopics, SetTopic, ShowTopicMetrics, TopicRow
from robustmq.topic_rules import TopicCount

DIRECTIONS = ("in", "out", "dropped")
NUMBERS = ("partitions", "retention.ms", "retention.bytes", "moving")
OPTIONS = {
    "mode": ("robustmq.storage.mode", "memory, hybrid, persistent or tiered"),
    "engine": ("robustmq.storage.engine", "segment, shared, or one that a package brings"),
    "retention-ms": ("retention.ms", "how long records are kept, -1 for ever"),
    "retention-bytes": ("retention.bytes", "bytes of a partition that are kept, -1 no bound"),
    "cleanup-policy": ("cleanup.policy", "delete, compact or both with a comma"),
}
"""What can be set by a word of its own: the setting, and what it takes."""


def run_topics(arguments: list[str]) -> int:
    """`robustmq topics VERB`; without a verb, `metrics`."""
    if arguments and (arguments[0] in VERBS or arguments[0] in HELP):
        about = "Topics: how those that were declared are kept, and what was counted of some."
        return run_subject("topics", about, VERBS, arguments)
    return run_single("topics", VERBS["metrics"], arguments)


def _list_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--filter", default="", metavar="PATTERN", help="Kafka names of topics")
    add_limit(parser)


def _list(node: Node, options: argparse.Namespace) -> int:
    moving: dict[str, int] = {}
    rows: dict[str, TopicRow] = {}
    for row in node.ask(ListTopics(options.limit, options.filter), TopicRow):
        moving[row.topic] = moving.get(row.topic, 0) + row.moving
        rows[row.topic] = row
    found = [
        msgspec.structs.replace(row, moving=moving[name]) for name, row in sorted(rows.items())
    ]
    _print(found, options)
    say_cut(node, options)
    return 0


def _print(rows: list[TopicRow], options: argparse.Namespace) -> None:
    if options.json:
        print_rows(rows)
        return
    names = (
        "topic", "partitions", "mode", "engine", "tiered", "cleanup.policy", "retention.ms",
        "retention.bytes", "moving",
    )  # fmt: skip
    columns = [Column(name, name in NUMBERS) for name in names]
    print_table(columns, (msgspec.structs.astuple(row) for row in rows))


def _set_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("topic", help="its Kafka name")
    for option, (_, help_text) in OPTIONS.items():
        parser.add_argument(
            f"--{option}", metavar=option.rpartition("-")[2].upper(), help=help_text
        )
    parser.add_argument(
        "--set",
        dest="others",
        action="append",
        default=[],
        metavar="NAME=VALUE",
        help="any other setting of the topic",
    )
    parser.add_argument(
        "--reset",
        action="append",
        default=[],
        metavar="NAME",
        help="as by default from now on: one of the words above, or the name of a setting",
    )


def _set(node: Node, options: argparse.Namespace) -> int:
    changes: dict[str, str | None] = {}
    for option, (setting, _) in OPTIONS.items():
        value = getattr(options, option.replace("-", "_"))
        if value is not None:
            changes[setting] = value
    for written in options.others:
        name, sign, value = written.partition("=")
        if not sign:
            raise NodeError(f"--set {written}: write NAME=VALUE")
        changes[name] = value
    for name in options.reset:
        changes[OPTIONS[name][0] if name in OPTIONS else name] = None
    if not changes:
        raise NodeError("nothing to set: see robustmq topics set --help")
    _print(node.ask_one(SetTopic(options.topic, changes), TopicRow), options)
    return 0


def _show(node: Node, options: argparse.Namespace) -> int:
    rows = node.ask_one(ShowTopicMetrics(), TopicCount)
    if options.json:
        print_rows(rows)
        return 0
    columns = [Column("filter")]
    for direction in DIRECTIONS:
        columns += [Column(f"{direction} qos {qos}", True) for qos in range(3)]
        columns.append(Column(f"{direction}/s", True))
    print_table(columns, (_cells(row) for row in rows))
    return 0


def _cells(row: TopicCount) -> tuple[object, ...]:
    return (
        row.filter,
        *row.messages_in,
        f"{row.rate_in:.1f}",
        *row.messages_out,
        f"{row.rate_out:.1f}",
        *row.messages_dropped,
        f"{row.rate_dropped:.1f}",
    )


HELP = ("-h", "--help")
VERBS = {
    "list": Verb("Topics that were declared: mode, engine, retention.", _list_arguments, _list),
    "set": Verb("Change how a topic is kept; it goes on meanwhile.", _set_arguments, _set),
    "metrics": Verb(
        "Messages of the topics that [[topic_metrics]] chooses: in, out, dropped. What it does"
        " without a verb, too.",
        no_arguments,
        _show,
    ),
}
