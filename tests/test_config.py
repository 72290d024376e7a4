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
from robustmq.listener import DEFAULT

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
        there = shipped
        for part in section.split("."):
            there = there[part]
        assert {key for key in there if f"{section}.{key}" not in config.SECTIONS} == documented
        others = {field.name for field in msgspec.structs.fields(struct)} - documented
        assert others <= {"rules", "user", "tiering"}


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
    assert not settings.anonymous_allowed(DEFAULT)
    assert config.Settings().anonymous_allowed(DEFAULT)
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


def test_listeners_are_the_tables_or_else_the_mqtt_section() -> None:
    (only,) = config.parse({"mqtt": {"port": 7, "bind": ["::1"]}}).listeners
    assert (only.port, only.bind, only.transport) == (7, ("::1",), "tcp")
    assert config.parse({"mqtt": {"bind": []}}).listeners == ()
    tables = [{"name": "inside"}, {"name": "other", "port": 0}]
    settings = config.parse({"mqtt": {"port": 7}, "listener": tables})
    assert [(one.name, one.port) for one in settings.listeners] == [("inside", 1883), ("other", 0)]


@pytest.mark.parametrize(
    ("table", "words"),
    [
        ({}, "listener[0]"),
        ({"name": "a b"}, "listener[0].name"),
        ({"name": "a", "prot": 1}, "listener[0].prot"),
        ({"name": "a", "bind": []}, "no address in bind"),
        ({"name": "twice"}, "'twice'"),
        ({"name": "a", "bind": ["example.org"]}, "listener 'a': bind"),
        ({"name": "a", "bind": ["0.0.0.0"]}, "without a password"),
        ({"name": "a", "bind": ["::"], "allow_anonymous": False}, "without a password"),
    ],
)
def test_a_bad_listener_is_named(table: dict[str, object], words: str) -> None:
    with pytest.raises(config.ConfigError) as error:
        config.parse({"listener": [table, {"name": "twice"}]})
    assert words in str(error.value)


def test_each_listener_decides_on_anonymous_clients() -> None:
    tables = [
        {"name": "inside", "allow_anonymous": True},
        {"name": "outside", "bind": ["0.0.0.0"]},
        {"name": "strict", "allow_anonymous": False},
        {"name": "open", "bind": ["0.0.0.0"], "allow_anonymous": True},
    ]
    settings = config.parse({"listener": tables, "security": {"password_file": "p"}})
    allowed = [settings.anonymous_allowed(one) for one in settings.listeners]
    assert allowed == [True, False, False, True]


def test_a_reload_takes_the_bounds_of_a_listener_and_leaves_its_place() -> None:
    old = config.parse({"listener": [{"name": "a"}, {"name": "b"}]})
    changed = {"name": "b", "port": 1, "max_connections": 5}
    new = config.parse({"listener": [{"name": "a"}, changed]})
    assert config.diff(old, new) == (["listener.b.max_connections"], ["listener.b.port"])
    kept = config.merge(old, new).listeners[1]
    assert (kept.port, kept.max_connections) == (1883, 5)
    named = {"name": "b", "transport": "tls", "certificate": "c"}
    more = named | {"server_names": [{"names": ["x"], "certificate": "d"}]}
    before, after = config.parse({"listener": [named]}), config.parse({"listener": [more]})
    assert config.diff(before, after) == (["listener.b.server_names"], [])
    assert config.merge(before, after).listeners[0].server_names[0].certificate == "d"
    fewer = config.parse({"listener": [changed]})
    assert config.diff(old, fewer)[1] == ["listener", "listener.b.port"]
    assert config.merge(old, fewer).listeners[0] == old.listeners[0]
