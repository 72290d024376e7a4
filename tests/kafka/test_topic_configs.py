"""Topic settings: what is taken and what is refused."""

from __future__ import annotations

import pytest

from robustmq.kafka.topic_configs import TOPIC_SETTINGS, check, check_all, effective


@pytest.mark.parametrize(
    ("name", "good", "bad"),
    [
        ("cleanup.policy", ["delete", "compact", "compact,delete"], ["", "no", "delete,delete"]),
        ("retention.ms", ["-1", "0", "604800000"], ["-2", "x", "", "1.5", "9" * 30, None]),
        ("segment.bytes", ["1048576"], ["1", "2147483648"]),
        ("max.message.bytes", ["0", "1048588"], ["-1"]),
        ("message.timestamp.type", ["CreateTime", "LogAppendTime"], ["never"]),
        ("compression.type", ["producer", "zstd"], ["lzma"]),
        ("min.insync.replicas", ["1"], ["2"]),
        ("robustmq.storage.mode", ["memory", "hybrid", "persistent", "tiered"], ["Memory", ""]),
        ("robustmq.storage.engine", ["segment", "shared"], ["memory", "none", ""]),
    ],
)
def test_a_setting_takes_only_what_is_done(
    name: str, good: list[str], bad: list[str | None]
) -> None:
    assert all(check(name, value) is None for value in good)
    for value in bad:
        refused = check(name, value)
        assert refused is not None and refused.error == 40


def test_unknown_and_repeated_names_are_refused() -> None:
    unknown = check("flush.ms", "1")
    assert unknown is not None and unknown.error == 40
    twice = check_all([("retention.ms", "1"), ("retention.ms", "2")])
    assert twice is not None and twice.error == 40


def test_every_default_is_a_value() -> None:
    for name, setting in TOPIC_SETTINGS.items():
        assert check(name, setting.default) is None
        assert effective({}, {}, name) == setting.default
        assert effective({}, {name: "broker"}, name) == "broker"
        assert effective({name: "set"}, {name: "broker"}, name) == "set"
