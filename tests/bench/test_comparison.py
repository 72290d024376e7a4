"""The table of the comparison: its rows can be run, its targets are judged as they read."""

from __future__ import annotations

import re
from pathlib import Path
from types import ModuleType

import pytest

from robustmq.bench import plan
from robustmq.bench.main import parse

PERF = Path(__file__).resolve().parent.parent.parent / "perf"


@pytest.fixture
def rows(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(PERF))
    import rows as table

    return table


@pytest.fixture
def brokers(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(PERF))
    import brokers as table

    return table


def test_every_mqtt_row_is_a_run_of_the_load_generator(
    rows: ModuleType, brokers: ModuleType
) -> None:
    for row in rows.ROWS.values():
        if row.kind == "mqtt":
            chosen = dict(row.options)
            assert chosen.pop("listener", "tcp") in brokers.LISTENERS
            arguments = [chosen.pop("scenario")]
            for name, value in chosen.items():
                arguments += [f"--{name}", str(value)]
            options, _ = parse(arguments)
            assert options.scenario in plan.SCENARIOS


def test_every_broker_of_a_row_can_be_started(rows: ModuleType, brokers: ModuleType) -> None:
    for row in rows.ROWS.values():
        assert set(row.brokers) <= set(brokers.ALL)
        for target in row.targets:
            known = not target.than or target.than in row.brokers or target.than[4:] in rows.ROWS
            assert known, f"{row.name} is held against {target.than}"


def test_configurations_name_only_values_that_are_put_in(brokers: ModuleType) -> None:
    known = {"directory", "kafka_port", "controller_port", "workers", "profile", "certificate"}
    known |= {f"{name}_port" for name in brokers.LISTENERS}
    for peer in brokers.ALL.values():
        text = (PERF / "peers" / peer.config).read_text()
        assert set(re.findall(r"\{(\w+)\}", text)) <= known


def test_targets_are_least_or_largest_ratios_by_the_direction_of_the_row(rows: ModuleType) -> None:
    medians = {
        "q0_one": {"robustmq": 500.0, "mosquitto": 100.0, "rumqttd": 501.0},
        "q0_topics": {"robustmq": 400.0},
        "latency_p50": {"robustmq": 30.0, "mosquitto": 20.0},
        "q0_cpu": {"robustmq": 2.5},
    }
    verdicts = {
        name: [verdict.reached for verdict in rows.judge(rows.ROWS[name], medians)]
        for name in (*medians, "q1_pairs")
    }
    assert verdicts == {
        "q0_one": [True, False],
        "q0_topics": [True],
        "latency_p50": [True],
        "q0_cpu": [False],
        "q1_pairs": [None],
    }
