"""The scenarios of the comparison and their targets, as one table.

A row names what is measured and how (a run of the load generator, or a function of measure.py), the
figure that counts, and the targets: a least ratio to a peer, or to another row of our own, or an
absolute limit.
"""

from __future__ import annotations

from typing import Any, NamedTuple


class Target(NamedTuple):
    """`than`: a broker, `row:NAME` for our own figure in another row, or empty for an absolute
    limit.
    """

    limit: float
    than: str = ""


class Row(NamedTuple):
    """`higher`: whether more is better; a target holds when ours is at least (at most) limit times
    the other.
    """

    name: str
    title: str
    kind: str
    options: dict[str, Any]
    figure: str
    unit: str
    higher: bool
    targets: tuple[Target, ...]
    brokers: tuple[str, ...] = ("robustmq", "mosquitto", "rumqttd")


MQTT_ONE = {"scenario": "topics", "batch": 256}
PACED = {"scenario": "topics", "rate": 1_000.0}
KAFKA = ("robustmq", "kafka")
MOSQUITTO = ("robustmq", "mosquitto")
Q1_PAIRS = {"scenario": "pairs", "clients": 50, "qos": 1, "window": 20, "batch": 20}
SUBSCRIPTIONS = {"total": 1_000_000}


def _kafka_cells() -> list[Row]:
    """Produce and consume: sizes, partitions and acks without compression, and each compression."""
    plain: list[dict[str, Any]] = [
        {"size": size, "partitions": partitions, "acks": acks}
        for size in (1_024, 100)
        for partitions in (6, 1)
        for acks in ("all", "1")
    ]
    packed: list[dict[str, Any]] = [
        {"compression": name} for name in ("gzip", "snappy", "lz4", "zstd")
    ]
    rows: list[Row] = []
    for options in [{}, *plain[1:], *packed]:
        size, partitions = options.get("size", 1_024), options.get("partitions", 6)
        acks, packing = options.get("acks", "all"), options.get("compression", "")
        name = "".join(f"_{part}" for part in options.values())
        title = f"{size:,} B, {partitions} partitions, acks={acks}" + f", {packing}" * bool(packing)
        rows += [
            Row(f"kafka_{verb}{name}", f"Kafka {verb}, {title}", "kafka", options,
                f"{verb}_rate", "/s", True, (Target(1, "kafka"),), KAFKA)
            for verb in ("produce", "consume")
        ]  # fmt: skip
    return rows


ROWS = {
    row.name: row
    for row in (
        Row("q0_one", "QoS 0, 1 -> 1, 256 a write", "mqtt", MQTT_ONE, "delivery_rate", "/s", True,
            (Target(5, "mosquitto"), Target(1, "rumqttd"))),
        Row("q0_fanout", "QoS 0, 1 -> 500", "mqtt",
            {"scenario": "fanout", "clients": 500, "batch": 1},
            "delivery_rate", "/s", True, (Target(8, "mosquitto"), Target(1.5, "rumqttd"))),
        Row("q0_pairs", "QoS 0, 50 pairs, 16 a write", "mqtt",
            {"scenario": "pairs", "clients": 50, "batch": 16},
            "delivery_rate", "/s", True, (Target(5, "mosquitto"),)),
        Row("q0_topics", "QoS 0, 10,000 topics, 256 a write", "mqtt",
            {**MQTT_ONE, "topics": 10_000},
            "delivery_rate", "/s", True, (Target(0.8, "row:q0_one"),)),
        Row("q1_pairs", "QoS 1, 50 pairs, window 20", "mqtt",
            Q1_PAIRS, "delivery_rate", "/s", True, (Target(2, "mosquitto"),)),
        Row("q2_pairs", "QoS 2, 50 pairs, window 20", "mqtt", {**Q1_PAIRS, "qos": 2},
            "delivery_rate", "/s", True, (Target(2, "mosquitto"),)),
        Row("tls_one", "TLS, QoS 0, 1 -> 1, 256 a write", "mqtt", {**MQTT_ONE, "listener": "tls"},
            "delivery_rate", "/s", True, (Target(2, "mosquitto"),), MOSQUITTO),
        Row("ws_one", "WebSocket, QoS 0, 1 -> 1, 256 a write", "mqtt",
            {**MQTT_ONE, "listener": "ws"},
            "delivery_rate", "/s", True, (Target(2, "mosquitto_ws"),),
            ("robustmq", "mosquitto_ws")),
        Row("auth_one", "with passwords: QoS 0, 1 -> 1, 256 a write", "mqtt",
            {**MQTT_ONE, "listener": "auth"},
            "delivery_rate", "/s", True, (Target(5, "mosquitto"),), MOSQUITTO),
        Row("auth_q1_pairs", "with passwords: QoS 1, 50 pairs, window 20", "mqtt",
            {**Q1_PAIRS, "listener": "auth"},
            "delivery_rate", "/s", True, (Target(2, "mosquitto"),), MOSQUITTO),
        Row("storm", "5,000 clients connect at once", "mqtt",
            {"scenario": "conn", "clients": 5_000},
            "connect_rate", "/s", True, (Target(1, "mosquitto"),), MOSQUITTO),
        Row("closed_loop", "1 a write, closed loop, 200 clients, per core used", "mqtt",
            {"scenario": "echo", "clients": 200, "outstanding": 1},
            "messages_per_cpu_second", "/s", True, (Target(1, "mosquitto"),)),
        Row("q0_cpu", "broker CPU a delivered message, QoS 0, 1 -> 1", "mqtt", MQTT_ONE,
            "broker_cpu_us_per_message", "us", False, (Target(2),)),
        Row("latency_p50", "p50 at 1,000 msg/s, 1 -> 1", "mqtt", PACED, "p50", "us",
            False, (Target(1.5, "mosquitto"),)),
        Row("latency_p99", "p99 at 1,000 msg/s, 1 -> 1", "mqtt", PACED, "p99", "us",
            False, (Target(1.5, "mosquitto"),)),
        *_kafka_cells(),
        Row("kafka_p99", "Kafka end-to-end p99 at 1,000 records/s, acks=all", "kafka_latency", {},
            "p99", "ms", False, (Target(1, "kafka"),), KAFKA),
        Row("kafka_copy", "Kafka exactly-once copy, 1 KiB, 500 records a transaction", "kafka_copy",
            {}, "copy_rate", "/s", True, (Target(1, "kafka"),), KAFKA),
        Row("kafka_rss", "memory after producing and consuming 1 KiB", "kafka", {},
            "rss_mb", "MB", False, (Target(0.5, "kafka"),), KAFKA),
        Row("idle_rss", "idle memory, whole tree", "idle", {}, "rss_mb", "MB", False,
            (Target(200),)),
        Row("edge_rss", "idle memory, edge profile", "idle", {}, "rss_mb", "MB", False,
            (Target(60),), ("edge",)),
        Row("idle_connection", "memory of an idle connection", "mqtt",
            {"scenario": "conn", "clients": 5_000}, "bytes_per_connection", "B", False,
            (Target(8_192),)),
        Row("many_connected", "idle connections held, of 20,000", "connections",
            {"clients": 20_000, "each": 5_000, "listener": "tcp"}, "connected", "", True,
            (Target(20_000),), ("robustmq",)),
        Row("many_memory", "memory of one of 20,000 idle connections", "connections",
            {"clients": 20_000, "each": 5_000, "listener": "tcp"}, "bytes_per_connection", "B",
            False, (Target(8_192),), ("robustmq",)),
        Row("tls_connection", "memory of an idle TLS connection", "connections",
            {"clients": 1_000, "each": 1_000, "listener": "tls"}, "bytes_per_connection", "B",
            False, (), MOSQUITTO),
        Row("subscribe", "1,000,000 subscriptions, half with a wildcard", "subscriptions",
            SUBSCRIPTIONS, "subscriptions_per_second", "/s", True, (), MOSQUITTO),
        Row("subscription", "memory of a subscription", "subscriptions", SUBSCRIPTIONS,
            "bytes_per_subscription", "B", False, (), MOSQUITTO),
        Row("match_growth", "CPU of a publish among 1,000,000 filters, to that among 1,000",
            "subscriptions", SUBSCRIPTIONS, "growth", "", False, (Target(2),), MOSQUITTO),
        Row("million_topics", "1,000,000 topics published once", "million", {"topics": 1_000_000},
            "seconds", "s", False, (Target(60),), ("robustmq",)),
        Row("million_rss", "memory of all processes with 1,000,000 topics", "million",
            {"topics": 1_000_000},
            "rss_mb", "MB", False, (Target(300),), ("robustmq",)),
    )
}  # fmt: skip


class Verdict(NamedTuple):
    """One target with the figures put in; `reached` is None when a figure is not there."""

    text: str
    ratio: float | None
    reached: bool | None


def judge(row: Row, medians: dict[str, dict[str, float]]) -> list[Verdict]:
    """Hold a row's targets against the medians, by row and broker."""
    ours = medians.get(row.name, {}).get(row.brokers[0])
    verdicts = []
    sign = ">=" if row.higher else "<="
    for target in row.targets:
        if target.than.startswith("row:"):
            other = medians.get(target.than[4:], {}).get(row.brokers[0])
        else:
            other = medians.get(row.name, {}).get(target.than) if target.than else 1.0
        text = f"{sign} {target.limit:g}" + (f"x {target.than}" if target.than else f" {row.unit}")
        if ours is None or not other:
            verdicts.append(Verdict(text, None, None))
            continue
        ratio = ours / other
        reached = ratio >= target.limit if row.higher else ratio <= target.limit
        verdicts.append(Verdict(text, ratio, reached))
    return verdicts
