"""`robustmq status`, `robustmq clients list|show|kick` and `robustmq subscriptions list`."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterable
from typing import TypeVar

from robustmq.cli.commands import Verb, add_limit, no_arguments, run_single, run_subject, say_cut
from robustmq.cli.node import Node
from robustmq.cli.tables import Column, ago, duration, print_facts, print_rows, print_table
from robustmq.control.messages import (
    ClientDetail,
    ClientRow,
    KickClient,
    Kicked,
    ListClients,
    Listing,
    ListSubscriptions,
    ShowClient,
    ShowWorker,
    SubscriptionRow,
    WorkerRow,
)

NEVER_EXPIRES = 0xFFFF_FFFF
R = TypeVar("R", bound="ClientRow | SubscriptionRow")


def run_status(arguments: list[str]) -> int:
    """`robustmq status`."""
    return run_single("status", STATUS, arguments)


def run_clients(arguments: list[str]) -> int:
    """`robustmq clients`."""
    return run_subject("clients", "Look at clients, and end them.", CLIENTS, arguments)


def run_subscriptions(arguments: list[str]) -> int:
    """`robustmq subscriptions`."""
    return run_subject("subscriptions", "Look at subscriptions.", SUBSCRIPTIONS, arguments)


def rows_of(node: Node, request: Listing, row: type[R], key: Callable[[R], object]) -> Iterable[R]:
    """The rows of a list: sorted, and no more than the limit, where there is one."""
    if not request.limit:
        return node.ask(request, row)
    rows = sorted(node.ask(request, row), key=key)  # type: ignore[arg-type]
    if len(rows) > request.limit:
        node.cut = True
    return rows[: request.limit]


def _status(node: Node, options: argparse.Namespace) -> int:
    rows = list(node.ask(ShowWorker(), WorkerRow))
    if options.json:
        print_rows(rows)
        return 0
    columns = ("worker", "pid", "up", "connections", "sessions", "subscriptions")
    version = rows[0].version if rows else "?"
    print(f"RobustMQ {version}, {node.workers} worker(s), data in {node.data_dir}\n")
    print_table(
        [Column(name, True) for name in columns],
        (
            (
                row.worker,
                row.pid,
                duration(row.uptime_s),
                row.connections,
                row.sessions,
                row.subscriptions,
            )
            for row in sorted(rows, key=lambda row: row.worker)
        ),
    )
    return 0


def _list_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--filter",
        default="",
        metavar="PATTERN",
        help="client ids that fit a pattern (*, ?, [a-z]), or contain a word",
    )
    parser.add_argument("--user", default="", metavar="PATTERN", help="the same for user names")
    parser.add_argument(
        "--address", default="", metavar="START", help="remote addresses that begin so"
    )
    there = parser.add_mutually_exclusive_group()
    there.add_argument("--connected", action="store_true", help="only those that are connected")
    there.add_argument("--away", action="store_true", help="only sessions whose client is away")
    add_limit(parser)


def _list(node: Node, options: argparse.Namespace) -> int:
    connected = True if options.connected else False if options.away else None
    request = ListClients(options.limit, options.filter, options.user, options.address, connected)
    rows = rows_of(node, request, ClientRow, lambda row: row.client_id)
    if options.json:
        print_rows(rows)
    else:
        columns = [
            Column("client"),
            Column("state"),
            Column("for", True),
            Column("user"),
            Column("address"),
            Column("mqtt"),
            Column("subscriptions", True),
            Column("in flight", True),
            Column("queued", True),
            Column("worker", True),
        ]
        print_table(columns, (_client_cells(row) for row in rows))
    say_cut(node, options)
    return 0


def _client_cells(row: ClientRow) -> tuple[object, ...]:
    return (
        row.client_id,
        "connected" if row.connected else "away",
        ago(row.since_ms),
        row.user_name,
        row.address or None,
        row.version,
        row.subscriptions,
        row.in_flight,
        row.queued,
        row.worker,
    )


def _client_argument(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("client_id", metavar="ID", help="the client id")


def _show(node: Node, options: argparse.Namespace) -> int:
    details = list(node.ask(ShowClient(options.client_id), ClientDetail))
    subscriptions = sorted(
        node.ask(ListSubscriptions(client_id=options.client_id), SubscriptionRow),
        key=lambda row: row.filter,
    )
    if options.json:
        print_rows([*details, *subscriptions])
    for detail in details if not options.json else ():
        print_facts(_facts(detail))
        if subscriptions:
            print()
            _print_subscriptions(subscriptions)
    return _found(node, options.client_id, bool(details))


def _facts(detail: ClientDetail) -> list[tuple[str, object]]:
    row = detail.client
    expiry = row.session_expiry_interval
    lasts = (
        "for ever" if expiry == NEVER_EXPIRES else duration(expiry) if expiry else "ends with it"
    )
    there = (
        f"connected for {ago(row.since_ms)}" if row.connected else f"away for {ago(row.since_ms)}"
    )
    facts: list[tuple[str, object]] = [("client", row.client_id), ("state", there)]
    if row.connected:
        facts += [
            ("user", row.user_name),
            ("address", f"{row.address}, listener {row.listener}"),
            ("keep alive", f"{row.keep_alive_s} s" if row.keep_alive_s else "none"),
            ("unsent", f"{detail.unsent_bytes} bytes"),
            ("largest packet", detail.maximum_packet_size or "any"),
            ("topic aliases", detail.topic_alias_maximum),
        ]
    return [
        *facts,
        ("mqtt", row.version),
        ("session after connection", lasts),
        ("will", detail.will_topic),
        ("in flight", f"{row.in_flight} of {detail.receive_maximum}"),
        ("queued", f"{row.queued} messages, {detail.queued_bytes} bytes"),
        ("dropped of late", detail.dropped),
        ("QoS 2 not released", detail.inbound_qos2),
        ("worker", row.worker),
    ]


def _kick_arguments(parser: argparse.ArgumentParser) -> None:
    _client_argument(parser)
    parser.add_argument(
        "--end-session",
        action="store_true",
        help="end the session too: its subscriptions and what waits for it are gone",
    )


def _kick(node: Node, options: argparse.Namespace) -> int:
    kicked = list(node.ask(KickClient(options.client_id, options.end_session), Kicked))
    if options.json:
        print_rows(kicked)
    for one in kicked if not options.json else ():
        was = "connection ended" if one.was_connected else "was not connected"
        print(f"{one.client_id}: {was}" + (", session ended" if one.session_ended else ""))
    return _found(node, options.client_id, bool(kicked))


def _found(node: Node, client_id: str, found: bool) -> int:
    if not found and not node.silent:
        print(f"robustmq: there is no client {client_id!r}", file=sys.stderr)
    return 0 if found else 1


def _subscription_arguments(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--client", default="", metavar="ID", help="those of one client")
    parser.add_argument(
        "--filter", default="", metavar="PATTERN", help="filters that fit a pattern, or contain it"
    )
    parser.add_argument(
        "--topic", default="", metavar="TOPIC", help="filters that match this topic: who gets it?"
    )
    add_limit(parser)


def _list_subscriptions(node: Node, options: argparse.Namespace) -> int:
    request = ListSubscriptions(options.limit, options.client, options.filter, options.topic)
    rows = rows_of(node, request, SubscriptionRow, lambda row: (row.client_id, row.filter))
    if options.json:
        print_rows(rows)
    else:
        _print_subscriptions(rows, with_client=True)
    say_cut(node, options)
    return 0


def _print_subscriptions(rows: Iterable[SubscriptionRow], with_client: bool = False) -> None:
    columns = [Column("client"), Column("filter"), Column("qos", True), Column("options")]
    first = 0 if with_client else 1
    print_table(
        columns[first:],
        ((row.client_id, row.filter, row.qos, _options(row))[first:] for row in rows),
    )


def _options(row: SubscriptionRow) -> str:
    said = (
        (row.no_local, "no local"),
        (row.retain_as_published, "retain as published"),
        (row.retain_handling, f"retain handling {row.retain_handling}"),
        (row.subscription_identifier, f"identifier {row.subscription_identifier}"),
    )
    return ", ".join(text for there, text in said if there)


STATUS = Verb("Show the workers of the running broker.", no_arguments, _status)
CLIENTS = {
    "list": Verb("List clients, connected or away.", _list_arguments, _list),
    "show": Verb("Show all about one client.", _client_argument, _show),
    "kick": Verb("End the connection of a client.", _kick_arguments, _kick),
}
SUBSCRIPTIONS = {
    "list": Verb("List subscriptions.", _subscription_arguments, _list_subscriptions),
}
