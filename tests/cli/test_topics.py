"""`robustmq topics list` and `set`, on a broker that runs, as a user types them."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path

from confluent_kafka.admin import AdminClient, NewTopic  # type: ignore[attr-defined]
from paho.mqtt import publish as paho_publish

from tests.broker import BrokerProcess, until
from tests.cli.test_clients import robustmq
from tests.cli.test_storage import rows as storage_rows
from tests.faults.load import read_log

RULES = """
[[storage.rules]]
filter = "ruled"
mode = "memory"
engine = "shared"
"""


def test_topics_are_listed_and_set_while_the_broker_runs(tmp_path: Path) -> None:
    with BrokerProcess(tmp_path, 2, RULES) as broker:
        node = ("--data-dir", str(broker.data))
        admin = AdminClient({"bootstrap.servers": f"127.0.0.1:{broker.kafka}"})
        made = admin.create_topics([NewTopic("plain", 3), NewTopic("ruled", 1)])
        for one in made.values():
            one.result(20)

        def rows() -> dict[str, dict[str, object]]:
            code, said, told = robustmq("topics", "list", "--json", *node)
            assert not code, told
            return {row["topic"]: row for row in map(json.loads, said.splitlines())}

        found = rows()
        assert (found["plain"]["mode"], found["plain"]["engine"]) == ("hybrid", "segment")
        assert (found["ruled"]["mode"], found["ruled"]["engine"]) == ("memory", "")
        assert robustmq("pub", "-p", str(broker.mqtt), "-t", "plain", "-m", "x", "-q", "1")[0] == 0
        change = ("--mode", "persistent", "--engine", "shared", "--retention-ms", "-1")
        code, said, told = robustmq("topics", "set", "plain", *change, *node)
        assert code == 0 and "persistent" in said and "shared" in said, told
        until(lambda: not rows()["plain"]["moving"])
        assert not list(broker.data.glob("*/segments/*/*.log"))
        assert sorted(read_log(broker, "plain", 3)) == [[], [], ["x"]]
        assert robustmq("topics", "set", "plain", "--reset", "engine", *node)[0] == 0
        until(lambda: len(list(broker.data.glob("*/segments/*/*.log"))) == 1)
        assert sorted(read_log(broker, "plain", 3)) == [[], [], ["x"]]

        for asked, why in (
            (("plain", "--engine", "none"), "there is no engine 'none'; there are segment, shared"),
            (("plain", "--engine", "memory"), "memory is no engine but a mode"),
            (("plain", "--mode", "tiered"), "set url in [storage.tiering]"),
            (("plain", "--set", "no.such=1"), "Unknown topic config name: no.such"),
            (("nobody", "--mode", "memory"), "no such topic"),
            (("ruled", "--cleanup-policy", "compact"), "is not compacted"),
            (("plain",), "nothing to set"),
        ):
            code, said, told = robustmq("topics", "set", *asked, *node)
            assert code == 1 and why in told and not said, (asked, said, told)
        assert robustmq("topics", *node)[0] == 0, "the counters of [[topic_metrics]]"


TIERED_RULE = """
[[storage.rules]]
filter = "light/cold"
mode = "tiered"
"""


def test_a_topic_is_shown_to_be_tiered_however_it_was_said(tmp_path: Path) -> None:
    store = tmp_path / "store"
    store.mkdir()
    where = {"STORAGE__TIERING__URL": store.as_uri()}
    with BrokerProcess(tmp_path, 2, TIERED_RULE, **where) as broker:
        node = ("--data-dir", str(broker.data))
        enabled, mode = {"remote.storage.enable": "true"}, {"robustmq.storage.mode": "tiered"}
        client = AdminClient({"bootstrap.servers": f"127.0.0.1:{broker.kafka}"})
        made = client.create_topics(
            [
                NewTopic("enabled", 1, config=enabled),
                NewTopic("by-mode", 1, config=mode),
                NewTopic("plain", 1),
            ]
        )
        for one in made.values():
            one.result(20)
        names = ("enabled", "by-mode", "plain", "light/cold", "light/warm")
        paho_publish.multiple([(name, "x", 1, False) for name in names], port=broker.mqtt)

        def shown(rows: Iterable[dict[str, object]]) -> dict[object, object]:
            return {row["topic"]: (row["mode"], row["tiered"]) for row in rows}

        declared = {
            "enabled": ("hybrid", True),
            "by-mode": ("tiered", True),
            "plain": ("hybrid", False),
        }
        light = {"light/cold": ("tiered", True), "light/warm": ("hybrid", False)}
        assert shown(storage_rows(broker.data, "topics")) == {**declared, **light}
        listed = robustmq("topics", "list", "--json", *node)[1]
        assert shown(map(json.loads, listed.splitlines())) == declared
        off = ("--set", "remote.storage.enable=false", "--set", "remote.log.delete.on.disable=true")
        code, said, told = robustmq("topics", "set", "enabled", *off, *node)
        assert code == 0 and " no " in said, told
        until(
            lambda: shown(storage_rows(broker.data, "topics"))["enabled"] == ("hybrid", False),
            what="the change",
        )


def test_the_help_of_topics_names_its_verbs() -> None:
    code, said, _ = robustmq("topics", "--help")
    assert code == 0
    assert all(f"\n    {verb} " in said for verb in ("list", "set", "metrics"))
