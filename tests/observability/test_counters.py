"""Counters, metrics, logs and $SYS topics."""

from __future__ import annotations

import io
import json
import logging
import os
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from robustmq.kafka import dispatch
from robustmq.limits import TIER_GET_CELLS, commit_cells
from robustmq.observability import logs
from robustmq.observability.counters import COUNTERS, INDEX, Counters
from robustmq.observability.prometheus import metrics_text
from robustmq.observability.sys_topics import LoadAverages, Status, sys_topics


def test_a_forked_worker_counts_in_memory_that_the_parent_reads() -> None:
    counters = Counters(2)
    child = os.fork()
    if child == 0:
        counters.row(1).add("mqtt_messages_received", 7)
        os._exit(0)
    os.waitpid(child, 0)
    assert counters.value("mqtt_messages_received", 1) == 7
    assert counters.total("mqtt_messages_received") == 7
    assert counters.value("mqtt_messages_received", 0) == 0


def test_a_restarted_worker_keeps_counters_and_loses_gauges() -> None:
    row = Counters(1).row(0)
    row.begin(10)
    row.add("kafka_requests", 3)
    row.set("mqtt_connections", 5)
    row.add("no_such_counter")
    row.begin(11)
    assert (row.get("kafka_requests"), row.get("mqtt_connections"), row.get("starts")) == (3, 0, 2)


def test_the_table_has_no_name_twice_and_one_help_text_a_metric() -> None:
    assert len({counter.name for counter in COUNTERS}) == len(COUNTERS)
    series = {(counter.metric, counter.labels, counter.le) for counter in COUNTERS}
    assert len(series) == len(COUNTERS)
    for metric in {counter.metric for counter in COUNTERS}:
        assert len({(c.help, c.kind) for c in COUNTERS if c.metric == metric}) == 1


def test_metrics_show_every_counter_with_its_labels() -> None:
    counters = Counters(2)
    counters.row(1).begin(os.getpid())
    counters.row(1).add("mqtt_messages_received", 4)
    text = metrics_text(counters).decode()
    wanted = 'robustmq_messages_total{direction="in",protocol="mqtt",worker="1"} 4.0'
    assert wanted in text
    assert all(f"# HELP {counter.metric} " in text for counter in COUNTERS)
    assert 'robustmq_worker_resident_bytes{worker="1"}' in text


@pytest.fixture
def logger() -> Iterator[None]:
    """The package's logger, as it was when the test ends: it is the process's own."""
    package = logging.getLogger("robustmq")
    before = (package.handlers[:], package.propagate, package.level)
    yield
    package.handlers[:], package.propagate, package.level = before


@pytest.mark.usefixtures("logger")
def test_a_peer_cannot_forge_a_log_line() -> None:
    for form in ("text", "json"):
        stream = io.StringIO()
        logs.configure("info", form, stream)
        log = logs.get_logger("net")
        log.debug("not shown")
        log.info("refused", client=b"x\n2026 forged\xff", count=3)
        lines = stream.getvalue().splitlines()
        assert len(lines) == 1
        if form == "json":
            entry = json.loads(lines[0])
            assert (entry["event"], entry["count"], entry["source"]) == ("refused", 3, "net")


def test_sys_topics_have_mosquittos_names() -> None:
    totals = Counters(1).totals() | {"mqtt_connections": 2, "mqtt_sessions": 5}
    status = Status("n@h", "1.0", 93_784, "2026-01-01T00:00:00+00:00", {"mqtt_connections": 9}, 7)
    shown = dict(sys_topics(totals, status))
    assert shown[b"$SYS/broker/clients/connected"] == b"2"
    assert shown[b"$SYS/broker/clients/disconnected"] == b"3"
    assert shown[b"$SYS/broker/uptime"] == b"93784 seconds"
    assert shown[b"$SYS/broker/clients/maximum"] == b"9"
    assert shown[b"$SYS/brokers"] == b"n@h"
    assert shown[b"$SYS/brokers/n@h/uptime"] == b"1 days, 2 hours, 3 minutes, 4 seconds"
    assert shown[b"$SYS/brokers/n@h/stats/connections/max"] == b"9"
    loads = LoadAverages()
    assert loads.update(totals, 0) == []
    later = dict(loads.update(totals | {"mqtt_messages_received": 600}, 60_000))
    assert 370 < float(later[b"$SYS/broker/load/publish/received/1min"]) < 390


def test_every_counter_that_kafka_handlers_add_to_exists() -> None:
    assert set(dispatch.COUNTERS) <= set(INDEX)


def test_every_counter_is_counted_somewhere_and_every_name_that_is_counted_exists() -> None:
    """By the text of the code: `Row.add` lets an unknown name pass."""
    source = ""
    for file in sorted((Path(__file__).parents[2] / "robustmq").rglob("*.py")):
        if file.name not in ("sys_topics.py", "limits.py", "config.py"):
            source += file.read_text()
    used = set(re.findall(r'(?:count|add|set|_count)\(\s*"(\w+)"', source))
    used |= set(re.findall(r'^ +"(\w+)": ', source, re.MULTILINE))
    used |= {*commit_cells("os"), *commit_cells("disk"), *TIER_GET_CELLS}
    assert {name for name in INDEX if name not in used} == set()
    counted = set(re.findall(r'(?:\bcount|row\.add|row\.set|_count)\(\s*"(\w+)"', source))
    assert counted <= set(INDEX)
