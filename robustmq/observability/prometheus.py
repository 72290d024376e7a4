"""/metrics: the counters in Prometheus' text format.

Each worker's row is shown with the label `worker`; sums are the reader's work, as Prometheus wants
it. Memory and CPU of the processes are read when asked.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

import psutil
from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)
from prometheus_client.registry import Collector

from robustmq import __version__
from robustmq.observability.counters import COUNTERS, Counters, Labels

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"


class CounterCollector(Collector):
    """Turns rows into metric families, one a metric name."""

    def __init__(self, counters: Counters) -> None:
        self._counters = counters

    def collect(self) -> Iterable[Metric]:
        """All families: counters, build information, processes."""
        build = GaugeMetricFamily("robustmq_build_info", "Version that runs.", labels=["version"])
        build.add_metric([__version__], 1)
        yield build
        yield from self._families()
        yield self._topics()
        yield from self._processes()

    def _topics(self) -> Metric:
        family = CounterMetricFamily(
            "robustmq_topic_messages",
            "Messages of the topics that [[topic_metrics]] chooses.",
            labels=["filter", "direction", "qos", "worker"],
        )
        for cell in self._counters.topics.cells():
            labels = [cell.filter, cell.direction, str(cell.qos), str(cell.worker)]
            family.add_metric(labels, cell.value)
        return family

    def _families(self) -> Iterator[Metric]:
        families: dict[str, CounterMetricFamily | GaugeMetricFamily] = {}
        for counter in COUNTERS:
            if counter.kind == "histogram":
                continue
            family = families.get(counter.metric)
            if family is None:
                names = [*(name for name, _ in counter.labels), "worker"]
                kind = CounterMetricFamily if counter.kind == "counter" else GaugeMetricFamily
                family = families[counter.metric] = kind(counter.metric, counter.help, labels=names)
            values = [value for _, value in counter.labels]
            for worker in range(self._counters.workers):
                value = self._counters.value(counter.name, worker)
                family.add_metric([*values, str(worker)], value)
        yield from families.values()
        yield from self._histograms()

    def _histograms(self) -> Iterator[Metric]:
        """The cells of a histogram belong together: those of one metric and labels."""
        families: dict[str, HistogramMetricFamily] = {}
        cells: dict[tuple[str, Labels], dict[str, str]] = {}
        for counter in COUNTERS:
            if counter.kind == "histogram":
                cells.setdefault((counter.metric, counter.labels), {})[counter.le] = counter.name
                names = [*(name for name, _ in counter.labels), "worker"]
                if counter.metric not in families:
                    families[counter.metric] = HistogramMetricFamily(
                        counter.metric, counter.help, labels=names
                    )
        for (metric, labels), names_by_le in cells.items():
            for worker in range(self._counters.workers):
                values = {
                    le: self._counters.value(name, worker) for le, name in names_by_le.items()
                }
                sum_s = values.pop("sum") / 1e6
                where = [*(value for _, value in labels), str(worker)]
                buckets = [(le, float(value)) for le, value in values.items()]
                families[metric].add_metric(where, buckets, sum_s)
        yield from families.values()

    def _processes(self) -> Iterator[Metric]:
        memory = GaugeMetricFamily(
            "robustmq_worker_resident_bytes", "Resident memory of the worker.", labels=["worker"]
        )
        cpu = CounterMetricFamily(
            "robustmq_worker_cpu_seconds", "CPU time of the worker.", labels=["worker"]
        )
        for worker in range(self._counters.workers):
            pid = self._counters.value("pid", worker)
            if not pid:
                continue
            try:
                process = psutil.Process(pid)
                times = process.cpu_times()
                memory.add_metric([str(worker)], process.memory_info().rss)
            except psutil.Error:
                continue
            cpu.add_metric([str(worker)], times.user + times.system)
        yield memory
        yield cpu


def metrics_text(counters: Counters) -> bytes:
    """The body of /metrics."""
    registry = CollectorRegistry(auto_describe=False)
    registry.register(CounterCollector(counters))
    return generate_latest(registry)
