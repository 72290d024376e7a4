"""One measurement of one broker: a kind and its options in, figures by name out."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any

import msgspec
from brokers import PASSWORD, ROOT, USER, Running

from robustmq.bench import result

Figures = dict[str, float]
IDLE_SECONDS = 3.0


def mqtt(broker: Running, options: dict[str, Any], quick: bool) -> Figures:
    """A run of the load generator, in a process of its own."""
    given: dict[str, Any] = {"watch": broker.process, "warmup": 1.0, "duration": 4.0}
    if quick:
        given |= {"warmup": 0.5, "duration": 1.5}
    if options.get("scenario") == "conn":
        given |= {"warmup": 0.0, "duration": 2.0}
    command = [sys.executable, "-m", "robustmq.cli.main", "bench"]
    chosen = {**given, **options}
    listener = str(chosen.pop("listener", "tcp"))
    chosen["port"] = broker.ports[listener]
    if listener == "auth":
        chosen |= {"user": USER, "password": PASSWORD}
    else:
        chosen["transport"] = listener
    command.append(str(chosen.pop("scenario")))
    for name, value in chosen.items():
        command += [f"--{name}", str(value)]
    done = subprocess.run(
        [*command, "--json"], cwd=ROOT, capture_output=True, text=True, timeout=180, check=False
    )
    if done.returncode:
        raise RuntimeError(done.stderr.strip()[-500:])
    measured = msgspec.json.decode(done.stdout, type=result.Result)
    return figures(measured)


def figures(measured: result.Result) -> Figures:
    """Every number of a result, and what derives from them."""
    found = {
        name: float(value)
        for name, value in msgspec.to_builtins(measured).items()
        if isinstance(value, (int, float))
    }
    found |= measured.latency_us
    cpu = measured.broker_cpu_us_per_message
    if cpu:
        found["messages_per_cpu_second"] = 1e6 / cpu
    found["rss_mb"] = measured.broker_rss_bytes / 1e6
    if measured.scenario == "conn" and measured.connected:
        grown = measured.broker_rss_bytes - measured.broker_rss_before_bytes
        found["bytes_per_connection"] = grown / measured.connected
    return found


def idle(broker: Running, _options: dict[str, Any], _quick: bool) -> Figures:
    """Memory of the process tree when nobody is connected."""
    time.sleep(IDLE_SECONDS)
    return {"rss_mb": result.tree_use(broker.process).rss_bytes / 1e6}


def kafka(broker: Running, options: dict[str, Any], quick: bool) -> Figures:
    """Produce a cell for a while, then read everything back."""
    import kafka_load

    partitions = int(options.get("partitions", kafka_load.PARTITIONS))
    kafka_load.create(broker.kafka_port, partitions)
    found = kafka_load.produce(broker.kafka_port, broker.process, 2.0 if quick else 5.0, **options)
    found |= kafka_load.consume(
        broker.kafka_port, broker.process, int(found["records"]), partitions
    )
    found["rss_mb"] = result.tree_use(broker.process).rss_bytes / 1e6
    return found


def kafka_latency(broker: Running, _options: dict[str, Any], quick: bool) -> Figures:
    """A record a millisecond, from the producer to the consumer."""
    import kafka_load

    kafka_load.create(broker.kafka_port)
    found = kafka_load.latency(broker.kafka_port, broker.process, 4.0 if quick else 15.0)
    found["rss_mb"] = result.tree_use(broker.process).rss_bytes / 1e6
    return found


def kafka_copy(broker: Running, _options: dict[str, Any], quick: bool) -> Figures:
    """Consume, produce and commit offsets in transactions."""
    import copy_load

    records = copy_load.prepare(broker.kafka_port, broker.process, 1.0 if quick else 3.0)
    found = copy_load.copy(broker.kafka_port, broker.process, records, 3.0 if quick else 10.0)
    found["rss_mb"] = result.tree_use(broker.process).rss_bytes / 1e6
    return found


def million(broker: Running, options: dict[str, Any], quick: bool) -> Figures:
    """scripts/million_topics; with `quick` fewer topics, whose figures meet no target."""
    topics = 20_000 if quick else int(options["topics"])
    command = [
        sys.executable, str(ROOT / "scripts" / "million_topics"), "--json",
        "--topics", str(topics), "--mqtt-port", str(broker.mqtt_port),
        "--kafka-port", str(broker.kafka_port), "--watch", str(broker.process),
        "--size", "33",
        "--directory", str(broker.directory),
    ]  # fmt: skip
    done = subprocess.run(
        command, cwd=ROOT, capture_output=True, text=True, timeout=900, check=False
    )
    if done.returncode:
        raise RuntimeError((done.stderr or done.stdout).strip()[-500:])
    found: Figures = json.loads(done.stdout.strip().splitlines()[-1])
    return {f"quick_{name}": value for name, value in found.items()} if quick else found


def subscriptions(broker: Running, options: dict[str, Any], quick: bool) -> Figures:
    """Many subscriptions, and publishing among few and among all of them."""
    import subscriptions_load

    total = 10_000 if quick else int(options["total"])
    found = subscriptions_load.measure(broker.mqtt_port, broker.process, total, 40_000)
    return {f"quick_{name}": value for name, value in found.items()} if quick else found


def connections(broker: Running, options: dict[str, Any], quick: bool) -> Figures:
    """Idle connections by several load generators, as one process may not have so many files."""
    total = 1_000 if quick else int(options["clients"])
    each = min(total, int(options["each"]))
    before = result.tree_use(broker.process).rss_bytes
    command = [
        sys.executable, "-m", "robustmq.cli.main", "bench", "conn", "--clients", str(each),
        "--port", str(broker.ports[options["listener"]]), "--transport", options["listener"],
        "--duration", "20", "--warmup", "0", "--json",
    ]  # fmt: skip
    loads = [
        subprocess.Popen([*command, "--prefix", f"load{number}"], cwd=ROOT, stdout=subprocess.PIPE)
        for number in range(total // each)
    ]
    rss, deadline = 0, time.monotonic() + IDLE_SECONDS * 5
    while time.monotonic() < deadline and all(load.poll() is None for load in loads):
        rss = max(rss, result.tree_use(broker.process).rss_bytes)
        time.sleep(0.5)
    done = [
        msgspec.json.decode(load.communicate(timeout=60)[0], type=result.Result) for load in loads
    ]
    connected = sum(one.connected - one.disconnected for one in done)
    return {
        "connected": connected,
        "bytes_per_connection": (rss - before) / max(connected, 1),
        "rss_mb": rss / 1e6,
    }


KINDS: dict[str, Callable[[Running, dict[str, Any], bool], Figures]] = {
    "mqtt": mqtt,
    "idle": idle,
    "kafka": kafka,
    "kafka_latency": kafka_latency,
    "kafka_copy": kafka_copy,
    "million": million,
    "subscriptions": subscriptions,
    "connections": connections,
}
