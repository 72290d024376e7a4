"""What a run has measured: a frozen record, its percentiles, and how it is written for people.

Rates count from the end of the warm-up to the end of the measured time; loss is found after the
drain, over the whole run. Broker figures are those of a process tree read from /proc, as the kernel
accounts them.
"""

from __future__ import annotations

import os
from array import array
from pathlib import Path

import msgspec

from robustmq.bench.count import bucket_ns

_TICKS_PER_SECOND = os.sysconf("SC_CLK_TCK")
_PAGE = os.sysconf("SC_PAGE_SIZE")


class TreeUse(msgspec.Struct, frozen=True):
    """CPU time and resident memory of a process and its descendants."""

    cpu_seconds: float
    rss_bytes: int


class Result(msgspec.Struct, frozen=True):
    """One run. Latencies are in microseconds; `broker_*` are 0 when no process was watched."""

    scenario: str
    seconds: float
    published: int
    delivered: int
    publish_rate: float
    delivery_rate: float
    bytes_rate: float
    latency_us: dict[str, float]
    lost: int
    duplicates: int
    reordered: int
    foreign: int
    connected: int
    connect_rate: float
    disconnected: int
    load_cpu: float
    broker_cpu_us_per_message: float = 0.0
    broker_rss_bytes: int = 0
    broker_rss_before_bytes: int = 0


def percentiles(histogram: array[int]) -> dict[str, float]:
    """p50, p90, p99, p99.9 and maximum, in microseconds; empty when nothing was timed."""
    total = sum(histogram)
    if not total:
        return {}
    wanted = [("p50", 0.5), ("p90", 0.9), ("p99", 0.99), ("p99.9", 0.999), ("max", 1.0)]
    found: dict[str, float] = {}
    seen = 0
    for place, number in enumerate(histogram):
        seen += number
        while number and wanted and seen >= wanted[0][1] * total:
            found[wanted.pop(0)[0]] = round(bucket_ns(place) / 1_000, 1)
    return found


def process_tree(root: int) -> list[int]:
    """A process and all its descendants, as /proc shows them now."""
    children: dict[int, list[int]] = {}
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            try:
                parent = int(_stat(int(entry.name))[1])
            except (OSError, IndexError):
                continue
            children.setdefault(parent, []).append(int(entry.name))
    tree = [root]
    for process in tree:
        tree += children.get(process, [])
    return tree


def tree_use(root: int) -> TreeUse:
    """CPU seconds (user and system, ended children included) and resident bytes of a tree.

    Pages shared after a fork are counted once, as the kernel's proportional share has them.
    """
    cpu = 0
    rss = 0
    for process in process_tree(root):
        try:
            stat = _stat(process)
            cpu += sum(int(ticks) for ticks in stat[11:15])
            rss += _proportional(process)
        except OSError:
            continue
    return TreeUse(cpu / _TICKS_PER_SECOND, rss)


def _stat(process: int) -> list[str]:
    return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()


def _proportional(process: int) -> int:
    try:
        for line in Path(f"/proc/{process}/smaps_rollup").read_text().splitlines():
            if line.startswith("Pss:"):
                return int(line.split()[1]) * 1024
    except OSError:
        pass
    return int(Path(f"/proc/{process}/statm").read_text().split()[1]) * _PAGE


def describe(result: Result) -> str:
    """The record as lines of text."""
    lines = [
        f"{result.scenario}: {result.seconds:.2f} s, {result.connected:,} connections"
        + (f" at {result.connect_rate:,.0f}/s" if result.connect_rate else ""),
        f"  published {result.published:>12,}   {result.publish_rate:>12,.0f}/s",
        f"  delivered {result.delivered:>12,}   {result.delivery_rate:>12,.0f}/s"
        f"   {result.bytes_rate / 1e6:,.1f} MB/s",
    ]
    if result.latency_us:
        shown = "  ".join(f"{name} {value:,.0f}" for name, value in result.latency_us.items())
        lines.append(f"  latency us   {shown}")
    lines.append(
        f"  lost {result.lost:,}  duplicates {result.duplicates:,}  reordered {result.reordered:,}"
        f"  foreign {result.foreign:,}  disconnected {result.disconnected:,}"
    )
    lines.append(f"  load generator {result.load_cpu:.0%} of a core")
    if result.broker_rss_bytes:
        lines.append(
            f"  broker {result.broker_cpu_us_per_message:.2f} us of CPU a delivered message,"
            f" {result.broker_rss_bytes / 1e6:,.1f} MB resident"
        )
    return "\n".join(lines)
