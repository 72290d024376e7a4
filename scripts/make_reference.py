#!/usr/bin/env python3
"""Write config.toml and docs/reference/*.md from the tables in the code.

`scripts/make_reference.py` writes, `scripts/make_reference.py --check` only says what has drifted
(exit code 1).
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import msgspec

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from robustmq.config import SECTIONS  # noqa: E402
from robustmq.errors import Fault, KafkaCode  # noqa: E402
from robustmq.limits import Row, rows  # noqa: E402
from robustmq.listener import Listener  # noqa: E402
from robustmq.topic_rules import AutoSubscribe, Rewrite, TopicMetric  # noqa: E402

NOTE = "<!-- Written by scripts/make_reference.py from the code; do not edit. -->\n\n"
EXAMPLES = """\
# Topics that match a filter use a mode, or an engine, of their own; the first rule that matches
# counts. [reloadable]
# [[storage.rules]]
# filter = "metrics/#"
# mode = "memory"          # memory, hybrid, persistent or tiered; default: storage.default_mode
# engine = ""              # of declared topics' partitions; default: storage.default_engine

# A Kafka client that proves who it is by a password (sasl_mechanisms). [reloadable]
# [[kafka.user]]
# name = "app"
# password = "secret"      # keep the file to yourself: chmod 600

# A stream: MQTT topics that match a filter are one Kafka topic, keyed by the MQTT topic.
# [[streams]]
# filter = "sensors/+/temp"
# topic = "sensors-temp"
# partitions = 6           # default 1
# mode = ""                # default: by the rules above
# engine = ""              # default: by the rules above

# How one share group, or one of its filters, spreads its messages. [reloadable]
# [[shared_subscription]]
# group = "workers"        # of $share/workers/...; $queue is that of $queue/...
# filter = ""              # default: all of the group
# strategy = "sticky"      # as mqtt.share_strategy
# when_away = "pass_on"    # as mqtt.share_when_away

"""
TABLES: dict[str, tuple[type[msgspec.Struct], tuple[str, ...], dict[str, Any]]] = {
    "listener": (
        Listener,
        (
            "Where clients come in; with any such table of a protocol, bind, port and backlog of",
            "[mqtt] do not count, or what [kafka] says of its listener.",
        ),
        {"name": "inside"},
    ),
    "rewrite": (
        Rewrite,
        ("Topics get another name; the first rule whose filter matches decides.",),
        {"filter": "old/#", "pattern": "^old/(.+)$", "destination": "new/$1"},
    ),
    "auto_subscribe": (
        AutoSubscribe,
        ("Every client is subscribed to this when it connects.",),
        {"filter": "devices/%c/commands"},
    ),
    "topic_metrics": (
        TopicMetric,
        ("Messages of topics that match are counted: in /metrics and robustmq topics.",),
        {"filter": "sensors/#"},
    ),
}
"""Struct, what it is for, and what stands in the example."""


def toml(value: Any) -> str:
    """A default as TOML."""
    return json.dumps(list(value) if isinstance(value, tuple) else value)


def note(row: Row) -> str:
    """The line above a setting: why, unit, whether SIGHUP takes it over."""
    marks = [row.unit] if row.unit else []
    marks += ["reloadable"] if row.reloadable else []
    return f"# {row.why}" + (f" [{', '.join(marks)}]" if marks else "")


def config_text() -> str:
    """config.toml: every setting with its default, unit and one line of why."""
    parts = [
        "# Every setting of RobustMQ with its default. Written by scripts/make_reference.py.",
        "# ROBUSTMQ_<SECTION>__<KEY> in the environment goes before this file;",
        "# SIGHUP takes over what is marked reloadable.",
    ]
    for section, struct in SECTIONS.items():
        about = (struct.__doc__ or "").strip()
        parts += ["", f"# {about}", f"[{section}]"]
        for row in rows(struct):
            parts += [note(row), f"{row.name} = {toml(row.default)}"]
    tables = "\n".join(table_example(name) for name in TABLES)
    return "\n".join(parts) + "\n\n" + EXAMPLES + tables


def table_example(name: str) -> str:
    """A table that may come many times, with everything that can be set in it, commented out."""
    struct, about, given = TABLES[name]
    parts = [*(f"# {line}" for line in about), f"# [[{name}]]"]
    for row in rows(struct):
        parts += [f"#{note(row)}", f"# {row.name} = {toml(given.get(row.name, row.default))}"]
    return "\n".join(parts) + "\n"


def settings_text() -> str:
    """docs/reference/settings.md."""
    parts = [NOTE + "# Settings\n", "config.toml holds all of them with their defaults.\n"]
    tables: dict[str, type[msgspec.Struct]] = {
        **SECTIONS,
        **{f"[{name}]": struct for name, (struct, _, _) in TABLES.items()},
    }
    for section, struct in tables.items():
        parts += [f"## [{section}]\n", (struct.__doc__ or "").strip() + "\n"]
        parts += [
            "| setting | default | unit | range | reload | why |",
            "|---|---|---|---|---|---|",
        ]
        for row in rows(struct):
            low = "" if row.low is None else str(row.low)
            high = "" if row.high is None else str(row.high)
            span = f"{low}..{high}" if low or high else ""
            reload = "yes" if row.reloadable else "restart"
            given = row.default is not msgspec.NODEFAULT
            default = f"`{toml(row.default)}`" if given else ""
            parts.append(f"| {row.name} | {default} | {row.unit} | {span} | {reload} | {row.why} |")
        parts.append("")
    return "\n".join(parts)


def metrics_text() -> str:
    """docs/reference/metrics.md."""
    from robustmq.observability.counters import COUNTERS

    parts = [NOTE + "# Metrics\n", "| metric | type | labels | meaning |", "|---|---|---|---|"]
    for counter in COUNTERS:
        if counter.kind == "histogram" and counter.le != "+Inf":
            continue
        labels = ", ".join(f"{name}={value}" for name, value in counter.labels)
        parts.append(f"| {counter.metric} | {counter.kind} | {labels} | {counter.help} |")
    return "\n".join(parts) + "\n"


def errors_text() -> str:
    """docs/reference/errors.md."""
    parts = [
        NOTE + "# Errors\n",
        "| fault | MQTT 5.0 reason | MQTT 3.x CONNACK | Kafka code | HTTP |",
        "|---|---|---|---|---|",
    ]
    for name, fault in Fault.__members__.items():
        kafka = KafkaCode(fault.kafka)
        parts.append(
            f"| {name} | 0x{fault.mqtt5:02x} | {fault.mqtt3 or 'close'} | {int(kafka)} {kafka.name}"
            f" | {fault.http} |"
        )
    return "\n".join(parts) + "\n"


ABOUT_APIS = """\
Versions are those of Apache Kafka 4.3.0's broker listener; tests hold the two side by side
(`tests/kafka/test_apache_versions.py`) and call each version on a real broker of two workers. Where
a row says nothing, the API does what Kafka's does on one node.
"""
LIMITED = {
    22: "two-phase commit (version 6, unstable in Kafka) is refused",
    34: "there is one log directory",
    38: "refused: 61",
    39: "refused: 61",
    40: "refused: 61",
    41: "refused: 61",
    43: "there is nobody else to elect: 84",
    45: "partitions stay where they are: 39",
    46: "none is under way",
    71: "always there",
    72: "taken and counted",
}


def apis_text() -> str:
    """docs/reference/kafka.md: the APIs that are offered, with their versions."""
    from robustmq.kafka.api_versions import SHOWN_FROM
    from robustmq.kafka.apis import APIS, NOT_OFFERED
    from robustmq.kafka.group_configs import GROUP_SETTINGS
    from robustmq.kafka.topic_configs import TOPIC_SETTINGS
    from tests.kafka.test_every_version import CALLS

    parts = [NOTE + "# Kafka APIs\n", ABOUT_APIS]
    parts += [
        "| key | API | versions | state | called in every version by |",
        "|---|---|---|---|---|",
    ]
    for api in sorted(APIS.values(), key=lambda entry: entry.key):
        state = LIMITED.get(api.key, "")
        if api.key in SHOWN_FROM:
            state = f"ApiVersions shows {SHOWN_FROM[api.key]}, as librdkafka needs it to compress"
        versions = f"{api.min_version}-{api.max_version}"
        test = CALLS[api.name].__module__.replace(".", "/") + ".py"
        parts.append(f"| {api.key} | {api.name} | {versions} | {state} | `{test}` |")
    parts += ["\n## Not offered\n", "| key | API | because |", "|---|---|---|"]
    for key, (name, reason) in NOT_OFFERED.items():
        parts.append(f"| {key} | {name} | {reason} |")
    parts += ["\n## Topic settings\n", "| setting | default | |", "|---|---|---|"]
    for setting in TOPIC_SETTINGS.values():
        parts.append(f"| {setting.name} | `{setting.default}` | {setting.documentation} |")
    parts += ["\n## Group settings\n", "| setting | default | |", "|---|---|---|"]
    for row in GROUP_SETTINGS.values():
        parts.append(f"| {row.name} | `{row.default}` | {row.documentation} |")
    return "\n".join(parts) + "\n"


DOCUMENTS: dict[str, Callable[[], str]] = {
    "config.toml": config_text,
    "docs/reference/settings.md": settings_text,
    "docs/reference/metrics.md": metrics_text,
    "docs/reference/errors.md": errors_text,
    "docs/reference/kafka.md": apis_text,
}


def drifted() -> list[str]:
    """Documents that are not what the code says."""
    return [
        path
        for path, write in DOCUMENTS.items()
        if not (ROOT / path).exists() or (ROOT / path).read_text(encoding="utf-8") != write()
    ]


def main(arguments: list[str]) -> int:
    """Write or check all documents."""
    changed = drifted()
    for path in changed:
        print(f"{path} has drifted" if "--check" in arguments else f"wrote {path}")
        if "--check" not in arguments:
            (ROOT / path).parent.mkdir(parents=True, exist_ok=True)
            (ROOT / path).write_text(DOCUMENTS[path](), encoding="utf-8")
    return 1 if changed and "--check" in arguments else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
