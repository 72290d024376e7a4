"""The plot of a run over very many topics: acknowledged messages a second and memory as time
passes, and how long finding and reading one topic took. Needs matplotlib; without it, none."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

from topics_kafka import Read


def draw(rows: list[tuple[float, int, int]], read: Read, path: Path) -> str:
    """Write the plot; why there is none, or nothing."""
    try:
        import matplotlib as plotting
    except ImportError:
        return "no plot: matplotlib is not installed (pip install matplotlib)"
    plotting.use("Agg")
    from matplotlib import pyplot

    figure, (rates, memory, times) = pyplot.subplots(3, 1, figsize=(8, 8))
    steps = list(pairwise(rows))
    rates.plot(
        [after[0] for _, after in steps],
        [(after[1] - before[1]) / (after[0] - before[0]) for before, after in steps],
        color="#2a6f97",
    )
    rates.set_title("messages acknowledged a second", fontsize=9)
    memory.plot([row[0] for row in rows], [row[2] / 1e6 for row in rows], color="#c9743c")
    memory.set_title("memory of all processes, proportional, MB", fontsize=9)
    memory.set_xlabel("seconds", fontsize=8)
    for name, found, colour in (
        ("find (Metadata)", read.find_s, "#888888"),
        ("read (Fetch)", read.fetch_s, "#5a8f5a"),
    ):
        ordered = sorted(found)
        parts = [(place + 1) / len(ordered) for place in range(len(ordered))]
        times.step([one * 1e6 for one in ordered], parts, label=name, color=colour)
    times.set_xscale("log")
    times.set_title(
        "one topic by its name: part that took at most so many microseconds", fontsize=9
    )
    times.legend(fontsize=8)
    for axes in (rates, memory):
        axes.set_ylim(bottom=0)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
    return ""
