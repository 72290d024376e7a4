"""`robustmq topics`."""

from __future__ import annotations

import argparse

from robustmq.cli.commands import Verb, no_arguments, run_single
from robustmq.cli.node import Node
from robustmq.cli.tables import Column, print_rows, print_table
from robustmq.control.messages import ShowTopicMetrics
from robustmq.topic_rules import TopicCount

DIRECTIONS = ("in", "out", "dropped")


def run_topics(arguments: list[str]) -> int:
    """`robustmq topics`."""
    return run_single("topics", TOPICS, arguments)


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


TOPICS = Verb(
    "Messages of the topics that [[topic_metrics]] chooses: in, out, dropped.", no_arguments, _show
)
