"""`robustmq slow list|clear`."""

from __future__ import annotations

import argparse

from robustmq.cli.commands import Verb, add_limit, no_arguments, run_subject, say_cut
from robustmq.cli.node import Node
from robustmq.cli.tables import Column, ago, print_rows, print_table
from robustmq.control.messages import ClearSlow, ListSlow, SlowRow


def run_slow(arguments: list[str]) -> int:
    """`robustmq slow`."""
    return run_subject("slow", "Which clients and topics messages reach late.", SLOW, arguments)


def _list(node: Node, options: argparse.Namespace) -> int:
    rows = list(node.ask(ListSlow(options.limit), SlowRow))
    rows.sort(key=lambda row: -row.latency_ms)
    if options.limit and len(rows) > options.limit:
        node.cut = True
        del rows[options.limit :]
    if options.json:
        print_rows(rows)
    else:
        columns = [
            Column("latency ms", True),
            Column("times", True),
            Column("client"),
            Column("topic"),
            Column("seen"),
        ]
        print_table(columns, (_cells(row) for row in rows))
    say_cut(node, options)
    return 0


def _cells(row: SlowRow) -> tuple[object, ...]:
    return row.latency_ms, row.count, row.client_id, row.topic, f"{ago(row.at_ms)} ago"


def _clear(node: Node, _options: argparse.Namespace) -> int:
    list(node.ask(ClearSlow(), SlowRow))
    return 0


SLOW = {
    "list": Verb("List slow subscriptions, the slowest first.", add_limit, _list),
    "clear": Verb("Forget them, and begin anew.", no_arguments, _clear),
}
