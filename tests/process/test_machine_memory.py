"""What the control groups of a process leave it of the machine's memory."""

from __future__ import annotations

from pathlib import Path

from robustmq.process.machine_memory import LEAST_RINGS, limits, ring_bytes


def test_limits_of_a_unit_and_of_what_it_is_in_are_found(tmp_path: Path) -> None:
    unit = tmp_path / "system.slice" / "robustmq.service"
    unit.mkdir(parents=True)
    (unit / "memory.max").write_text("1000\n")
    (unit.parent / "memory.max").write_text("max\n")
    assert list(limits("0::/system.slice/robustmq.service\n", tmp_path)) == [1_000]
    # A container sees the top of its own groups there, whatever its path says.
    (tmp_path / "memory.max").write_text("500\n")
    assert list(limits("0::/system.slice/robustmq.service\n", tmp_path)) == [1_000, 500]
    assert list(limits("0::/docker/0123\n", tmp_path)) == [500]


def test_limits_of_version_1_of_control_groups_are_found(tmp_path: Path) -> None:
    group = tmp_path / "memory" / "docker"
    group.mkdir(parents=True)
    (group / "memory.limit_in_bytes").write_text("2000\n")
    own = "12:cpu,cpuacct:/docker\n5:memory:/docker\n1:name=systemd:/docker\n"
    assert list(limits(own, tmp_path)) == [2_000]
    assert list(limits("", tmp_path)) == []


def test_a_worker_has_its_part_and_never_next_to_nothing() -> None:
    one, four = ring_bytes(1), ring_bytes(4)
    assert one // 4 - 1 <= four <= one and ring_bytes(1 << 30) == LEAST_RINGS
