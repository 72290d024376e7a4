"""Storage as it is seen in /metrics: what is held, how long commits take, where reads come from."""

from __future__ import annotations

import re
import urllib.request
from pathlib import Path

from paho.mqtt import publish as paho_publish

from robustmq.limits import COMMIT_BOUNDS_US, commit_cells
from robustmq.observability.counters import INDEX
from robustmq.shard.commits import Latencies
from robustmq.shard.figures import gauges, totals
from tests.broker import BrokerProcess, until
from tests.simulation.world import World

CONFIG = """
[[storage.rules]]
filter = "safe/#"
mode = "persistent"
[[storage.rules]]
filter = "fleeting/#"
mode = "memory"
"""


def test_a_histogram_counts_each_commit_in_its_bounds() -> None:
    latencies = Latencies((10, 100))
    for taken_us in (3, 10, 11, 5_000):
        latencies.add(taken_us)
    assert latencies.cells() == [2, 3, 4, 5_024]


def test_every_figure_of_a_worker_has_a_counter() -> None:
    broker = World(1, 1).brokers[0]
    assert broker is not None
    assert set(gauges(broker)) | set(totals(broker)) <= set(INDEX)
    for kind in ("os", "disk"):
        assert len(commit_cells(kind)) == len(COMMIT_BOUNDS_US) + 2
        assert set(commit_cells(kind)) <= set(INDEX)


def test_commits_of_both_kinds_and_what_is_held_are_shown(tmp_path: Path) -> None:
    with BrokerProcess(tmp_path, config=CONFIG) as broker:
        for topic in ("safe/a", "hybrid/a", "fleeting/a"):
            paho_publish.single(topic, b"x" * 100, 1, port=broker.mqtt)
        name = "robustmq_storage_commit_seconds"

        def page() -> str:
            with urllib.request.urlopen(f"http://127.0.0.1:{broker.metrics}/metrics") as told:
                return str(told.read(), "utf-8")

        def seen(sync: str, part: str) -> float:
            found = re.findall(rf'{name}_{part}{{[^}}]*sync="{sync}"[^}}]*}} (\S+)', page())
            return sum(map(float, found))

        until(lambda: seen("disk", "count") >= 1 and seen("os", "count") >= 1, what="both kinds")
        assert seen("disk", "sum") > 0
        assert broker.metric("robustmq_storage_fsyncs_total") >= 1
        until(lambda: broker.metric("robustmq_storage_held_bytes") > 300, what="what is held")
        buckets = [
            float(value)
            for value in re.findall(
                rf'{name}_bucket{{le="[^"]+",sync="os",worker="0"}} (\S+)', page()
            )
        ]
        assert buckets == sorted(buckets) and len(buckets) == len(COMMIT_BOUNDS_US) + 1
        held = r'robustmq_storage_held_bytes{engine="memory",worker="\d"} [1-9]'
        until(lambda: re.search(held, page()), what="what is in memory, of its worker")
