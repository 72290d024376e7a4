"""Every key-value store keeps the one contract: the same changes leave the same map."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from paho.mqtt import publish, subscribe

from robustmq.storage.data_directory import DataDirectoryError
from robustmq.storage.kv import STORES, Change, KeyValue, KeyValueSettings, open_key_value
from tests.broker import BrokerProcess

simple: Any = subscribe.simple
SETTINGS = KeyValueSettings(64 * 1024, 64 * 1024)
KEYS = st.binary(min_size=1, max_size=3)
BATCHES = st.lists(st.lists(st.tuples(KEYS, st.none() | st.binary(max_size=40)), max_size=8))


def opened(directory: Path, kind: str) -> KeyValue:
    pytest.importorskip(STORES[kind][0])
    return open_key_value(str(directory), kind, SETTINGS)


@pytest.mark.parametrize("kind", STORES)
@given(batches=BATCHES, bounds=st.tuples(KEYS, KEYS))
@settings(max_examples=20, deadline=None)
def test_it_is_an_ordered_map_that_lasts(
    tmp_path_factory: pytest.TempPathFactory,
    kind: str,
    batches: list[list[Change]],
    bounds: tuple[bytes, bytes],
) -> None:
    directory = tmp_path_factory.mktemp("kv")
    store = opened(directory, kind)
    model: dict[bytes, bytes] = {}
    for number, batch in enumerate(batches):
        store.write(batch, sync=number % 3 == 0)
        for key, value in batch:
            if value is None:
                model.pop(key, None)
            else:
                model[key] = value
    for _ in range(2):
        assert dict(store.range(b"", b"\xff" * 4)) == model
        assert [store.get(key) for key in model] == list(model.values())
        first, last = bounds
        wanted = sorted(key for key in model if first <= key < last)
        assert [key for key, _ in store.range(first, last)] == wanted
        assert store.get(b"nowhere") is None
        store.close()
        store = open_key_value(str(directory), "", SETTINGS)
    store.close()


@pytest.mark.parametrize("kind", STORES)
def test_what_was_written_outlives_its_process(tmp_path: Path, kind: str) -> None:
    pytest.importorskip(STORES[kind][0])
    child = os.fork()
    if not child:
        store = opened(tmp_path, kind)
        store.write([(b"%d" % number, b"x" * 100) for number in range(1000)])
        os._exit(0)
    assert os.waitpid(child, 0)[1] == 0
    store = open_key_value(str(tmp_path), "", SETTINGS)
    assert len(list(store.range(b"", b"\xff"))) == 1000
    store.close()


def test_a_shard_keeps_its_kind_of_store(tmp_path: Path) -> None:
    opened(tmp_path, "rocksdb").close()
    with pytest.raises(DataDirectoryError, match="key_value = 'rocksdb'"):
        open_key_value(str(tmp_path), "leveldb", SETTINGS)
    open_key_value(str(tmp_path), "rocksdb", SETTINGS).close()
    assert [path.name for path in tmp_path.iterdir()] == ["rocksdb"]


def test_a_store_whose_package_is_not_there_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def absent(path: str, settings: KeyValueSettings) -> KeyValue:
        raise ImportError

    monkeypatch.setitem(STORES, "absent", ("no-such-package", absent))
    with pytest.raises(DataDirectoryError, match="pip install no-such-package"):
        open_key_value(str(tmp_path), "absent", SETTINGS)


def test_a_broker_on_rocksdb_keeps_what_is_retained(tmp_path: Path) -> None:
    pytest.importorskip("rocksdict")
    with BrokerProcess(tmp_path, STORAGE__KEY_VALUE="rocksdb") as broker:
        messages: list[Any] = [(f"kept/{number}", str(number), 1, True) for number in range(50)]
        publish.multiple(messages, port=broker.mqtt)
        for _ in range(2):
            found = simple("kept/#", qos=1, msg_count=50, port=broker.mqtt)
            assert {one.topic: one.payload for one in found} == {
                topic: text.encode() for topic, text, _, _ in messages
            }
            broker.kill()
            broker.start()
        assert len(list(broker.data.glob("*/rocksdb"))) == 16
        assert not list(broker.data.glob("*/leveldb"))
