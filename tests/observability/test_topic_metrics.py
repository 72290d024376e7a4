"""Messages of chosen topics are counted by QoS, on all workers, and shown."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import urllib.request
from collections.abc import Iterator

import pytest

from robustmq.observability.topic_metrics import TopicCounters
from tests.broker import BrokerProcess, until
from tests.mqtt.wire import Wire, client_id_on, resumed, topic_on

CONFIG = """
[limits]
max_queued_messages = 3
[[topic_metrics]]
filter = "m/#"
[[topic_metrics]]
filter = "m/one/x"
[[topic_metrics]]
filter = "never"
"""
Counts = dict[str, dict[str, list[int]]]


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrokerProcess]:
    with BrokerProcess(tmp_path_factory.mktemp("broker"), 2, CONFIG) as process:
        yield process
        assert "Traceback" not in process.log
        assert process.stop() == 0


def client(broker: BrokerProcess, worker: int) -> Wire:
    wire = Wire(broker.mqtt)
    assert wire.connect(client_id_on(worker, 2)).reason_code == 0
    return wire


def shown(broker: BrokerProcess) -> Counts:
    """What /metrics shows, by filter and direction: one number a QoS."""
    found: Counts = {}
    with urllib.request.urlopen(f"http://127.0.0.1:{broker.metrics}/metrics") as page:
        for row in page.read().decode().splitlines():
            if row.startswith("robustmq_topic_messages_total{"):
                labels, _, value = row.partition("} ")
                parts = dict(part.split("=") for part in labels.partition("{")[2].split(","))
                named = {name: text.strip('"') for name, text in parts.items()}
                by_qos = found.setdefault(named["filter"], {}).setdefault(
                    named["direction"], [0, 0, 0]
                )
                by_qos[int(named["qos"])] += int(float(value))
    return found


def test_what_comes_goes_and_is_dropped_is_counted_once_for_each_filter(
    broker: BrokerProcess,
) -> None:
    before = shown(broker)
    assert set(before) == {"m/#", "m/one/x", "never"}
    assert before["m/#"] == {"in": [0] * 3, "out": [0] * 3, "dropped": [0] * 3}
    topics = [topic_on(owner, 2, "m/t") for owner in (0, 1)]
    away = client_id_on(1, 2)
    with resumed(broker.mqtt, away, expiry=1000) as wire:
        wire.subscribe(b"m/one/x", qos=1)
    with client(broker, 0) as one, client(broker, 1) as other:
        other.subscribe(b"m/#", qos=2)
        one.subscribe(b"m/#", qos=0)
        for qos, count in ((0, 5), (1, 4), (2, 3)):
            for _ in range(count):
                for topic in topics:
                    one.publish(topic, b"x", qos)
                    one.receive()
                    other.receive()
        for _ in range(5):
            one.publish(b"m/one/x", b"x", 1)
            one.receive()
            other.receive()
        one.publish(b"$delayed/1/m/late", b"x", 1)
        one.receive()
        other.receive()
        one.publish(b"elsewhere", b"x", 1)
    wanted = {
        "m/#": {"in": [10, 14, 6], "out": [10 + 30, 14, 6], "dropped": [0, 2, 0]},
        "m/one/x": {"in": [0, 5, 0], "out": [5, 5, 0], "dropped": [0, 2, 0]},
        "never": {"in": [0] * 3, "out": [0] * 3, "dropped": [0] * 3},
    }
    until(lambda: shown(broker) == wanted, what=f"{wanted}")
    with resumed(broker.mqtt, away, expiry=1000) as wire:
        for _ in range(3):
            wire.receive()
    wanted["m/one/x"]["out"] = [5, 8, 0]
    wanted["m/#"]["out"] = [40, 17, 6]
    until(lambda: shown(broker) == wanted, what=f"{wanted}")


def test_the_command_line_shows_counts_and_rates(broker: BrokerProcess) -> None:
    def asked(*options: str) -> str:
        command = [sys.executable, "-m", "robustmq.cli.main", "topics", *options]
        command += ["--data-dir", str(broker.data)]
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout

    def rate() -> float:
        rows = [json.loads(line) for line in asked("--json").splitlines()]
        return next(float(row["rate_in"]) for row in rows if row["filter"] == "m/#")

    with client(broker, 0) as one:
        ends = time.monotonic() + 4
        while time.monotonic() < ends:
            one.publish(b"m/rate", b"x", 1)
            if rate() > 0:
                break
    assert rate() > 0
    assert "m/one/x" in asked()


def test_counters_of_one_worker_are_seen_in_the_sums_of_all() -> None:
    counters = TopicCounters(2, ("a/#", "a/b"))
    first, second = counters.meters(0), counters.meters(1)
    assert first.of(b"c") is None
    both, wide = first.of(b"a/b"), second.of(b"a/c")
    assert both is not None and wide is not None
    assert first.of(b"a/b") is both
    both.came(1, 2, 3)
    wide.came(10, 0, 0)
    wide.sent(1, 7)
    both.dropped(2, 1)
    a, b = counters.totals()
    assert (a.messages_in, a.messages_out, a.messages_dropped) == ((11, 2, 3), (0, 7, 0), (0, 0, 1))
    assert (b.messages_in, b.messages_out, b.messages_dropped) == ((1, 2, 3), (0, 0, 0), (0, 0, 1))
    assert TopicCounters(2, ()).meters(0).of(b"a") is None
