#!/usr/bin/env python3
"""Compare this broker with its peers: `python perf/compare.py [--quick] [--scenario NAME ...]
[--brokers a,b]`.

Each round runs every broker once, in turns, each time freshly started; medians over the rounds
count. Prints a table with targets and whether they are reached, writes perf/results/*.json and,
where matplotlib is there, a plot. Exit code 1 when a target with all its figures is not reached and
--strict is given.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import statistics
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
sys.path.insert(0, str(ROOT / "perf"))

import brokers  # noqa: E402
import chart  # noqa: E402
import measure  # noqa: E402
import rows  # noqa: E402

LOAD_LIMIT = 0.9
RESULTS = ROOT / "perf" / "results"
SHOWN = (
    "delivery_rate",
    "topics_per_second",
    "quick_topics_per_second",
    "load_cpu",
    "broker_cpu_us_per_message",
    "rss_mb",
    "lost",
    "p50",
    "p99",
)
Measured = dict[str, dict[str, list[measure.Figures]]]


def key_of(row: rows.Row) -> str:
    """Rows with the same key are figures of the same run."""
    return f"{row.kind} {json.dumps(row.options, sort_keys=True)}"


def measure_all(chosen: list[rows.Row], wanted: list[str], rounds: int, quick: bool) -> Measured:
    """Figures by key, broker and round."""
    measured: Measured = {}
    jobs: dict[tuple[str, tuple[str, ...]], rows.Row] = {}
    for row in chosen:
        jobs.setdefault((key_of(row), row.brokers), row)
    for (key, names), row in jobs.items():
        for number in range(rounds):
            for name in names:
                if name in wanted:
                    found = attempt(row, name, number, quick)
                    measured.setdefault(key, {}).setdefault(name, []).extend(found)
    return measured


def attempt(row: rows.Row, name: str, number: int, quick: bool) -> list[measure.Figures]:
    """One run; a failure is said, and leaves a gap."""
    begin = time.monotonic()
    try:
        with brokers.running(name) as broker:
            found = measure.KINDS[row.kind](broker, row.options, quick)
    except Exception as error:  # a broker that fails must not end the comparison  # noqa: BLE001
        print(f"  {row.name} {name} round {number + 1}: FAILED: {error}", file=sys.stderr)
        return []
    shown = {
        figure: found[figure] for figure in dict.fromkeys((row.figure, *SHOWN)) if figure in found
    }
    text = "  ".join(f"{figure} {value:,.6g}" for figure, value in shown.items())
    taken = time.monotonic() - begin
    print(f"  {row.name} {name} round {number + 1} ({taken:.0f} s): {text}", file=sys.stderr)
    return [found]


def medians_of(chosen: list[rows.Row], measured: Measured) -> dict[str, dict[str, float]]:
    """The figure of each row, by broker."""
    medians: dict[str, dict[str, float]] = {}
    for row in chosen:
        for name, found in measured.get(key_of(row), {}).items():
            values = [figures[row.figure] for figures in found if row.figure in figures]
            if values and name in row.brokers:
                medians.setdefault(row.name, {})[name] = statistics.median(values)
    return medians


def bound_by_load(row: rows.Row, measured: Measured) -> list[str]:
    """Brokers whose figure is a lower bound, as the load generator was at its own limit."""
    bound = []
    for name, found in measured.get(key_of(row), {}).items():
        loads = [figures.get("load_cpu", 0.0) for figures in found]
        if loads and statistics.median(loads) > LOAD_LIMIT and row.unit == "/s":
            bound.append(name)
    return bound


def table(
    chosen: list[rows.Row], medians: dict[str, dict[str, float]], measured: Measured
) -> tuple[str, bool]:
    """The table as text, and whether every target that could be judged is reached."""
    lines = []
    good = True
    for row in chosen:
        figures = medians.get(row.name, {})
        shown = (
            "   ".join(f"{name} {value:,.4g}" for name, value in figures.items()) or "not measured"
        )
        if row.unit == "/s":
            shown = "   ".join(f"{name} {value:,.0f}" for name, value in figures.items()) or shown
        lines.append(f"{row.title} [{row.unit}]\n    {shown}")
        bound = bound_by_load(row, measured)
        if bound:
            lines.append(f"    lower bound, the load generator is at its limit: {', '.join(bound)}")
        for verdict in rows.judge(row, medians):
            word = {True: "reached", False: "NOT REACHED", None: "no figure"}[verdict.reached]
            ratio = "" if verdict.ratio is None else f" ({verdict.ratio:.2f})"
            lines.append(f"    {verdict.text:<24} {word}{ratio}")
            good = good and verdict.reached is not False
    return "\n".join(lines), good


def machine() -> dict[str, Any]:
    """Where the figures come from."""
    model = next(
        (
            line.split(":", 1)[1].strip()
            for line in Path("/proc/cpuinfo").read_text().splitlines()
            if line.startswith("model name")
        ),
        platform.processor(),
    )
    return {
        "cpu": model,
        "cores": os.cpu_count(),
        "kernel": platform.release(),
        "python": platform.python_version(),
        "load": os.getloadavg()[0],
    }


def parse(arguments: list[str] | None = None) -> argparse.Namespace:
    """The options."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--quick", action="store_true", help="one short round")
    parser.add_argument("--scenario", action="append", choices=list(rows.ROWS), metavar="NAME")
    parser.add_argument("--brokers", default=",".join(brokers.ALL), help="comma separated")
    parser.add_argument("--rounds", type=int, default=0, help="default 3; 1 with --quick")
    parser.add_argument("--strict", action="store_true", help="exit code 1 when a target is missed")
    parser.add_argument("--list", action="store_true", help="list the scenarios")
    return parser.parse_args(arguments)


def main() -> int:
    """Measure, print, write."""
    options = parse()
    if options.list:
        for row in rows.ROWS.values():
            print(f"{row.name:<16} {row.title}")
        return 0
    chosen = [rows.ROWS[name] for name in options.scenario or rows.ROWS]
    wanted = []
    for name in options.brokers.split(","):
        if name not in brokers.ALL:
            print(f"no broker {name}; there are {', '.join(brokers.ALL)}", file=sys.stderr)
            return 2
        if brokers.ALL[name].found():
            wanted.append(name)
        else:
            print(f"{name} is left out: {brokers.ALL[name].advice}", file=sys.stderr)
    rounds = options.rounds or (1 if options.quick else 3)
    measured = measure_all(chosen, wanted, rounds, options.quick)
    medians = medians_of(chosen, measured)
    text, good = table(chosen, medians, measured)
    print(text)
    RESULTS.mkdir(exist_ok=True)
    name = time.strftime("compare-%Y%m%d-%H%M%S", time.gmtime())
    record = {"machine": machine(), "rounds": rounds, "medians": medians, "measured": measured}
    path = RESULTS / f"{name}.json"
    path.write_text(json.dumps(record, indent=1))
    print(f"\nwritten: {path.relative_to(ROOT)}" + chart.draw(medians, RESULTS / f"{name}.png"))
    return 1 if options.strict and not good else 0


if __name__ == "__main__":
    sys.exit(main())
