"""Topic settings: what is taken and what is refused."""

from __future__ import annotations

import pytest

from robustmq.kafka.topic_configs import (
    TIERS,
    TOPIC_SETTINGS,
    check,
    check_all,
    check_together,
    check_turned_off,
    effective,
)


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


TIERED = {"remote.storage.enable": "true"}
STORE = {TIERS: "true"}


@pytest.mark.parametrize(
    ("configs", "broker", "words"),
    [
        (TIERED, STORE, ""),
        (TIERED, {}, "disabled in the broker"),
        ({"robustmq.storage.mode": "tiered"}, STORE, ""),
        ({**TIERED, "cleanup.policy": "compact"}, STORE, "compacted"),
        ({**TIERED, "cleanup.policy": "compact,delete"}, STORE, "compacted"),
        ({**TIERED, "robustmq.storage.mode": "memory"}, STORE, "segment"),
        ({**TIERED, "robustmq.storage.engine": "shared"}, STORE, "segment"),
        ({**TIERED, "local.retention.ms": "5", "retention.ms": "5"}, STORE, ""),
        ({**TIERED, "local.retention.ms": "6", "retention.ms": "5"}, STORE, "must not be more"),
        ({**TIERED, "local.retention.ms": "-1", "retention.ms": "5"}, STORE, "must not be -1"),
        ({**TIERED, "local.retention.ms": "6", "retention.ms": "-1"}, STORE, ""),
        ({**TIERED, "local.retention.bytes": "6", "retention.bytes": "5"}, STORE, "not be more"),
        ({**TIERED, "local.retention.bytes": "6"}, STORE, ""),
        ({"local.retention.bytes": "6", "retention.bytes": "5"}, {}, ""),
        ({**TIERED, "remote.log.copy.disable": "true"}, STORE, ""),
        (
            {**TIERED, "remote.log.copy.disable": "true", "local.retention.ms": "5"},
            STORE,
            "identical value",
        ),
    ],
)  # fmt: skip
def test_settings_of_tiered_topics_go_together_as_in_kafka(
    configs: dict[str, str], broker: dict[str, str], words: str
) -> None:
    refused = check_together(configs, broker)
    assert (refused is None) == (words == "")
    assert refused is None or (refused.error == 40 and words in refused.message)


def test_a_topic_ceases_to_be_tiered_only_with_what_is_in_the_store() -> None:
    off = {"remote.storage.enable": "false"}
    refused = check_turned_off(TIERED, off, STORE)
    assert refused is not None and "without deleting remote data" in refused.message
    refused = check_turned_off({"robustmq.storage.mode": "tiered"}, {}, STORE)
    assert refused is not None
    assert check_turned_off(TIERED, {**off, "remote.log.delete.on.disable": "true"}, STORE) is None
    assert check_turned_off(TIERED, TIERED, STORE) is None
    assert check_turned_off({}, off, STORE) is None
