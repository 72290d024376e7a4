"""`robustmq bans list|add|remove`."""

from __future__ import annotations

import argparse
import getpass
import re
import time

from robustmq.bans import Kind
from robustmq.cli.commands import Verb, add_limit, run_subject, say_cut
from robustmq.cli.node import Node, NodeError
from robustmq.cli.tables import Column, ago, duration, print_rows, print_table
from robustmq.control.messages import AddBan, BanRow, ListBans, RemoveBan

KINDS: dict[str, tuple[Kind, str]] = {
    "client": ("client_id", "a client id"),
    "user": ("user_name", "a user name"),
    "address": ("address", "an address, or a network such as 10.0.0.0/8"),
    "client-pattern": ("client_id_pattern", "client ids that fit a pattern (*, ?, [a-z])"),
    "user-pattern": ("user_name_pattern", "user names that fit a pattern"),
}
WORDS = {kind: word for word, (kind, _) in KINDS.items()}
UNITS = {"s": 1, "m": 60, "h": 3_600, "d": 86_400}


def run_bans(arguments: list[str]) -> int:
    """`robustmq bans`."""
    about = "Keep clients out, on every worker and over restarts."
    return run_subject("bans", about, BANS, arguments)


def seconds(written: str) -> int:
    """`90`, `90s`, `15m`, `2h`, `7d`."""
    parts = re.fullmatch(r"(\d{1,9})([smhd]?)", written)
    if parts is None:
        raise argparse.ArgumentTypeError(f"{written!r} is no time: write 90s, 15m, 2h or 7d")
    return int(parts[1]) * UNITS[parts[2] or "s"]


def _who(parser: argparse.ArgumentParser) -> None:
    group = parser.add_mutually_exclusive_group(required=True)
    for word, (_, help_text) in KINDS.items():
        group.add_argument(f"--{word}", metavar=word.rpartition("-")[2].upper(), help=help_text)


def _named(options: argparse.Namespace) -> tuple[Kind, str]:
    for word, (kind, _) in KINDS.items():
        value: str | None = getattr(options, word.replace("-", "_"))
        if value is not None:
            return kind, value
    raise AssertionError("the parser wants one of them")


def _list_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--filter", default="", metavar="PATTERN", help="what is banned, or why")
    add_limit(parser)


def _list(node: Node, options: argparse.Namespace) -> int:
    rows = node.ask_one(ListBans(options.limit, options.filter), BanRow)
    rows.sort(key=lambda row: (row.kind, row.value))
    if options.json:
        print_rows(rows)
    else:
        columns = [Column(name) for name in ("banned", "who", "until", "since", "by", "reason")]
        print_table(columns, (_cells(row) for row in rows))
    say_cut(node, options)
    return 0


def _cells(row: BanRow) -> tuple[object, ...]:
    left_s = row.until_ms / 1000 - time.time()
    until = f"in {duration(max(0.0, left_s))}" if row.until_ms else "for ever"
    since = f"{ago(row.at_ms)} ago"
    return WORDS[row.kind], row.value, until, since, row.by, row.reason


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    _who(parser)
    parser.add_argument(
        "--for",
        dest="for_s",
        type=seconds,
        default=0,
        metavar="TIME",
        help="90s, 15m, 2h, 7d (default: for ever)",
    )
    parser.add_argument("--reason", default="", help="why; operators see it, clients do not")


def _add(node: Node, options: argparse.Namespace) -> int:
    kind, value = _named(options)
    request = AddBan(kind, value, options.for_s, options.reason, _operator())
    for row in _shown(node.ask_one(request, BanRow), options):
        until = f" for {duration(options.for_s)}" if options.for_s else ""
        print(f"{WORDS[row.kind]} {row.value}: banned{until}")
    return 0


def _remove(node: Node, options: argparse.Namespace) -> int:
    kind, value = _named(options)
    rows = node.ask_one(RemoveBan(kind, value), BanRow)
    if not rows:
        raise NodeError(f"there is no ban of {WORDS[kind]} {value!r}")
    for row in _shown(rows, options):
        print(f"{WORDS[row.kind]} {row.value}: may come in again")
    return 0


def _shown(rows: list[BanRow], options: argparse.Namespace) -> list[BanRow]:
    """The rows that are left to say in words."""
    if options.json:
        print_rows(rows)
        return []
    return rows


def _operator() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):
        return ""


BANS = {
    "list": Verb("List bans that are in force.", _list_arguments, _list),
    "add": Verb("Keep somebody out; who is connected has to go.", _add_arguments, _add),
    "remove": Verb("Let somebody in again.", _who, _remove),
}
