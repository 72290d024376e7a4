"""The plot of a comparison: for each row the figures relative to this broker. Needs matplotlib;
without it, none.
"""

from __future__ import annotations

from pathlib import Path

import rows

COLOURS = {
    "robustmq": "#2a6f97",
    "mosquitto": "#888888",
    "rumqttd": "#c9743c",
    "kafka": "#5a8f5a",
    "edge": "#61a5c2",
}


def draw(medians: dict[str, dict[str, float]], path: Path) -> str:
    """Write the plot; what to add to the message of the caller."""
    shown = [name for name, figures in medians.items() if len(figures) > 1]
    if not shown:
        return ""
    try:
        import matplotlib as plotting
    except ImportError:
        return " (no plot: matplotlib is not installed)"
    plotting.use("Agg")
    from matplotlib import pyplot

    figure, all_axes = pyplot.subplots(
        len(shown), 1, figsize=(8, 1.3 * len(shown) + 0.5), squeeze=False
    )
    for place, name in enumerate(shown):
        axes = all_axes[place][0]
        row = rows.ROWS[name]
        brokers = list(medians[name])
        values = [medians[name][broker] for broker in brokers]
        bars = axes.barh(
            brokers, values, color=[COLOURS.get(broker, "#444444") for broker in brokers]
        )
        axes.bar_label(bars, labels=[f" {value:,.4g}" for value in values], fontsize=7)
        axes.set_title(
            f"{row.title} [{row.unit}, {'more' if row.higher else 'less'} is better]", fontsize=8
        )
        axes.tick_params(labelsize=7)
        axes.invert_yaxis()
        axes.margins(x=0.15)
    figure.tight_layout()
    figure.savefig(path, dpi=120)
    pyplot.close(figure)
    return f", {path.name}"
