"""The stress script for very many topics, small: it finds what is wrong, and nothing is."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest

from robustmq import names
from robustmq.records import Record

ROOT = Path(__file__).resolve().parent.parent.parent
TOPICS = 5_000


@pytest.fixture
def kafka(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    monkeypatch.syspath_prepend(str(ROOT / "perf"))
    import topics_kafka as load

    return load


@pytest.fixture
def plans(kafka: ModuleType) -> ModuleType:
    import topics_plan as plans

    return plans


def stressed(tmp_path: Path, *options: str) -> dict[str, Any]:
    command = [sys.executable, str(ROOT / "scripts" / "million_topics"), "--json"]
    command += ["--topics", str(TOPICS), "--sample", "200", "--keep", str(tmp_path / "kept")]
    done = subprocess.run(
        [*command, *options], capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stderr[-5_000:]
    report: dict[str, Any] = json.loads(done.stdout)
    return report


def test_topics_written_by_both_protocols_survive_a_kill_half_way(tmp_path: Path) -> None:
    report = stressed(
        tmp_path, "--messages", "2", "--by", "both", "--follow", "--restart", "kill"
    )  # fmt: skip
    assert report["wrong"] == report["follow_lost"] == 0
    assert report["followed"] == TOPICS * 2
    assert report["restart_middle_s"] > 0
    assert report["restart_s"] > 0
    assert report["rss_mb"] < report["rss_sum_mb"]
    assert report["fetch_us_p50"] <= report["fetch_us_p99"]


def test_a_topic_that_lacks_doubles_or_mixes_records_is_found_out(
    kafka: ModuleType, plans: ModuleType
) -> None:
    plan = plans.Plan(10, 3, 40)

    def wrong(*held: tuple[int, int]) -> list[str]:
        records = [
            Record(value=plans.payload_of(number, round_, 40, 1), offset=offset)
            for offset, (number, round_) in enumerate(held)
        ]
        found: list[str] = kafka._wrong(7, records, plan)
        return found

    assert wrong((7, 0), (7, 1), (7, 2)) == []
    assert wrong((7, 0), (7, 1), (7, 0), (7, 1), (7, 2)) == [], "sent again after a restart"
    assert wrong((7, 0), (7, 2))
    assert wrong((7, 0), (6, 1), (7, 2))
    assert wrong((7, 1), (7, 0), (7, 2))
    gap = [Record(value=plans.payload_of(7, 0, 40, 1), offset=1)]
    assert kafka._wrong(7, gap, plan)


def test_kafka_finds_the_topics_under_their_names(plans: ModuleType) -> None:
    for number in (0, 999, 1_000, 999_999, 12_345_678):
        assert plans.kafka_name(number) == names.to_kafka(plans.topic_of(number))


def test_both_ways_of_writing_meet_on_every_topic(plans: ModuleType) -> None:
    rounds = list(plans.jobs(plans.Plan(100, 4), "both"))
    for given in rounds:
        assert sorted((job.begin, job.end) for job in given.values()) == [(0, 50), (50, 100)]
    assert {given["mqtt"].begin for given in rounds} == {0, 50}
