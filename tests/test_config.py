"""Settings, their file, the environment, reloading, and the documents made from the tables."""

from __future__ import annotations

import importlib.util
import tomllib
from pathlib import Path
from types import ModuleType

import msgspec
import pytest

from robustmq import config
from robustmq.limits import rows

ROOT = Path(__file__).resolve().parent.parent


def reference() -> ModuleType:
    """scripts/make_reference.py as a module."""
    spec = importlib.util.spec_from_file_location("make", ROOT / "scripts/make_reference.py")
    assert spec is not None and spec.loader is not None, "the script is there"
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_shipped_file_names_every_setting_with_its_default() -> None:
    assert config.load(ROOT / "config.toml", {}) == config.Settings()
    shipped = tomllib.loads((ROOT / "config.toml").read_text())
    for section, struct in config.SECTIONS.items():
        documented = {row.name for row in rows(struct)}
        assert set(shipped[section]) == documented
        assert {field.name for field in msgspec.structs.fields(struct)} - documented <= {"rules"}


def test_every_default_is_within_its_range_and_has_a_reason() -> None:
    for struct in config.SECTIONS.values():
        msgspec.convert(msgspec.to_builtins(struct()), struct)
        assert all(len(row.why) > 10 for row in rows(struct))


def test_the_reference_has_not_drifted() -> None:
    assert reference().drifted() == []


@pytest.mark.parametrize(
    ("raw", "words"),
    [
        ({"mqtt": {"prt": 1}}, "mqtt.prt"),
        ({"mqtt": {"port": 99999}}, "mqtt.port"),
        ({"mqtt": {"port": "x"}}, "mqtt.port"),
        ({"mtt": {}}, "[mtt]"),
        ({"storage": {"rules": [{"filter": "a", "mode": "z"}]}}, "storage.rules[0].mode"),
        ({"streams": [{"filter": "a/#"}]}, "topic"),
        ({"mqtt": {"bind": ["0.0.0.0"]}}, "security.allow_anonymous"),
        ({"mqtt": {"bind": ["::"]}}, "password_file"),
        ({"kafka": {"bind": ["0.0.0.0"]}}, "kafka.bind"),
        ({"metrics": {"bind": "0.0.0.0"}}, "metrics.bind"),
        ({"mqtt": {"bind": ["example.org"]}}, "not an IP address"),
    ],
)
def test_a_bad_setting_is_named(raw: dict[str, object], words: str) -> None:
    with pytest.raises(config.ConfigError) as error:
        config.parse(raw)
    assert words in str(error.value)


def test_other_machines_are_let_in_only_when_asked_for() -> None:
    everywhere = {"mqtt": {"bind": ["0.0.0.0"]}}
    config.parse(everywhere | {"security": {"allow_anonymous": True}})
    settings = config.parse(everywhere | {"security": {"password_file": "p"}})
    assert not settings.anonymous_allowed
    assert config.Settings().anonymous_allowed
    with pytest.raises(config.ConfigError):
        config.parse({"kafka": {"bind": ["0.0.0.0"]}, "security": {"password_file": "p"}})


def test_the_environment_goes_before_the_file(tmp_path: Path) -> None:
    file = tmp_path / "c.toml"
    file.write_text("[node]\nworkers = 2\n[mqtt]\nport = 1\n")
    environment = {
        "ROBUSTMQ_NODE__WORKERS": "3",
        "ROBUSTMQ_NODE__DATA_DIR": "7",
        "ROBUSTMQ_PURE": "1",
    }
    settings = config.load(file, environment)
    assert (settings.node.workers, settings.node.data_dir, settings.mqtt.port) == (3, "7", 1)
    with pytest.raises(config.ConfigError, match="ROBUSTMQ_NODE__WRKERS"):
        config.load(None, {"ROBUSTMQ_NODE__WRKERS": "1"})


def test_a_reload_takes_what_it_can_and_says_what_it_cannot() -> None:
    old = config.Settings()
    new = config.parse(
        {"mqtt": {"port": 1}, "log": {"level": "debug"}, "limits": {"max_inflight": 7}}
    )
    assert config.diff(old, new) == (["log.level", "limits.max_inflight"], ["mqtt.port"])
    merged = config.merge(old, new)
    assert (merged.mqtt.port, merged.log.level, merged.limits.max_inflight) == (1883, "debug", 7)
