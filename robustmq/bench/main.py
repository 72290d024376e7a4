"""The command line of the load generator; `pub` and `sub` stand in clients.py.

`robustmq bench pairs --clients 50 --qos 1 --window 20` prints what was delivered, lost and how
late; `--json` writes the same as one JSON object, for scripts.
"""

from __future__ import annotations

import argparse
import resource
import sys

import msgspec

from robustmq.bench import plan, result, run
from robustmq.bench.clients import run_pub, run_sub
from robustmq.bench.connection import LoadError
from robustmq.bench.stream import TRANSPORTS
from robustmq.errors import BrokerError

__all__ = ["run_bench", "run_pub", "run_sub"]

OPTIONS = (
    ("--host", "", "127.0.0.1", "address of the broker"),
    ("--port", "", 1883, "MQTT port"),
    ("--transport", "", "tcp", "tcp, tls, ws (WebSocket at /mqtt) or wss"),
    ("--ca-file", "", "", "authorities that the broker's certificate is held against; none: any"),
    ("--version", "", 4, "protocol level: 3, 4 (3.1.1) or 5"),
    ("--clients", "-c", 1, "publishers, subscribers or pairs"),
    ("--topics", "", 1, "topics of each publisher"),
    ("--qos", "-q", 0, "QoS of publishing and of subscriptions"),
    ("--payload", "-s", 64, "payload bytes, at least 16"),
    ("--batch", "-b", 1, "messages in one write"),
    ("--window", "-w", 20, "QoS 1 and 2: unacknowledged messages of a publisher"),
    (
        "--outstanding",
        "",
        0,
        "how far a publisher runs ahead of its subscribers; 0: by the scenario",
    ),
    ("--rate", "-r", 0.0, "messages a second of all publishers; 0: as fast as it goes"),
    ("--warmup", "", 1.0, "seconds before measuring"),
    ("--duration", "-d", 5.0, "seconds to measure"),
    ("--count", "-n", 0, "messages of each publisher, in place of a duration"),
    ("--prefix", "", "bench", "first level of the topics, and beginning of the client identifiers"),
    ("--user", "-u", "", "user name"),
    ("--password", "-P", "", "password"),
    ("--watch", "", 0, "process id of the broker: CPU and memory of its process tree"),
    ("--parallel", "", 200, "connections under way at once"),
)


def parse(arguments: list[str]) -> tuple[plan.Options, bool]:
    """The options, and whether JSON is wanted."""
    scenarios = "\n".join(f"  {name:<8} {row.why}" for name, row in plan.SCENARIOS.items())
    parser = argparse.ArgumentParser(
        prog="robustmq bench",
        description=f"Generate MQTT load and measure.\n\nscenarios:\n{scenarios}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("scenario", choices=list(plan.SCENARIOS), metavar="scenario")
    for name, short, default, help_text in OPTIONS:
        names = (name, short) if short else (name,)
        parser.add_argument(
            *names, type=type(default), default=default, help=f"{help_text} ({default!r})"
        )
    parser.add_argument("--json", action="store_true", help="print one JSON object")
    given = vars(parser.parse_args(arguments))
    as_json = bool(given.pop("json"))
    options = plan.Options(**given)
    for name, low, high in (
        ("qos", 0, 2),
        ("version", 3, 5),
        ("clients", 1, 1_000_000),
        ("batch", 1, 65_535),
    ):
        if not low <= getattr(options, name) <= high:
            parser.error(f"--{name} must be {low} to {high}")
    if options.transport not in TRANSPORTS:
        parser.error(f"--transport must be one of {', '.join(TRANSPORTS)}")
    if options.topics < 1 or options.window < 1:
        parser.error("--topics and --window must be at least 1")
    return options, as_json


def raise_descriptor_limit() -> None:
    """As many connections as the system lets us have."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def run_bench(arguments: list[str]) -> int:
    """`robustmq bench`: 0 done, 1 the run failed."""
    options, as_json = parse(arguments)
    raise_descriptor_limit()
    try:
        measured = run.execute(options)
    except (LoadError, BrokerError, OSError) as error:
        print(f"robustmq bench: {error}", file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 1
    print(msgspec.json.encode(measured).decode() if as_json else result.describe(measured))
    return 0
