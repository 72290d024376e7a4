"""Commands of the kind `robustmq clients list`: a subject, a verb, and the running broker.

Each subject is a table of verbs in a module of its own; here is what they have in common.
Exit codes: 0 done, 1 not found, refused, or a worker was silent, 2 wrong use.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Mapping
from typing import NamedTuple

from robustmq.cli.node import Node, NodeError, find, node_options

DEFAULT_LIMIT = 100


class Verb(NamedTuple):
    """What can be done with a subject."""

    help: str
    arguments: Callable[[argparse.ArgumentParser], None]
    run: Callable[[Node, argparse.Namespace], int]


def run_subject(name: str, help_text: str, verbs: Mapping[str, Verb], arguments: list[str]) -> int:
    """Parse `VERB options`, find the broker, and do it."""
    parser = argparse.ArgumentParser(prog=f"robustmq {name}", description=help_text)
    parts = parser.add_subparsers(metavar="VERB", required=True)
    for word, verb in verbs.items():
        part = parts.add_parser(word, help=verb.help, description=verb.help)
        verb.arguments(part)
        add_common(part)
        part.set_defaults(verb=verb)
    return run(parser.parse_args(arguments))


def run_single(name: str, verb: Verb, arguments: list[str]) -> int:
    """The same for a command that is one verb."""
    parser = argparse.ArgumentParser(prog=f"robustmq {name}", description=verb.help)
    verb.arguments(parser)
    add_common(parser)
    parser.set_defaults(verb=verb)
    return run(parser.parse_args(arguments))


def add_common(parser: argparse.ArgumentParser) -> None:
    """Options of every verb."""
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    node_options(parser)


def add_limit(parser: argparse.ArgumentParser) -> None:
    """The option of every list."""
    parser.add_argument(
        "--limit",
        type=int,
        default=DEFAULT_LIMIT,
        metavar="N",
        help=f"rows at most (default {DEFAULT_LIMIT}; 0: all)",
    )


def no_arguments(_parser: argparse.ArgumentParser) -> None:
    """For a verb that needs none."""


def run(options: argparse.Namespace) -> int:
    """Do what the options say."""
    try:
        node = find(options)
        code: int = options.verb.run(node, options)
        return node.complain() or code
    except NodeError as error:
        print(f"robustmq: {error}", file=sys.stderr)
        return 1


def say_cut(node: Node, options: argparse.Namespace) -> None:
    """Tell people that there is more."""
    if node.cut:
        print(f"... and more: --limit {options.limit} cut the list", file=sys.stderr)
