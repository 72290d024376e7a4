"""Object stores as the tier asks them: servers of S3 and of Azure, and a local folder."""

from __future__ import annotations

import base64
from collections.abc import Callable
from pathlib import Path

import pytest

from robustmq.storage.object_store import (
    ObjectConflictError,
    ObjectMissingError,
    ObjectRefusedError,
    ObjectStore,
    ObjectStoreError,
)
from robustmq.storage.remote_store import PART_BYTES, open_object_store
from robustmq.tiering_settings import TieringSettings, problem_of, shown
from tests.azure_store import AzureServer
from tests.object_stores import S3Server


@pytest.fixture(params=["s3", "az", "file"])
def store(request: pytest.FixtureRequest, tmp_path: Path, s3_server: S3Server) -> ObjectStore:
    if request.param == "file":
        return open_object_store(TieringSettings((tmp_path / "objects").as_uri()))
    server: S3Server | AzureServer = s3_server
    if request.param == "az":
        server = request.getfixturevalue("azure_server")
    return open_object_store(TieringSettings(server.fresh_url(), server.options))


def test_what_was_put_is_got(store: ObjectStore) -> None:
    version = store.put("a/b", [b"one ", bytearray(b"two")])
    assert store.get("a/b") == (b"one two", version)
    assert bytes(store.get_range("a/b", 4, 2)) == b"tw"
    assert bytes(store.get_range("a/b", 4, 100)) == b"two"


def test_what_lies_behind_the_end_of_an_object_is_missing(store: ObjectStore) -> None:
    store.put("a", [b"ten bytes."])
    with pytest.raises(ObjectMissingError):
        store.get_range("a", 100, 10)


def test_an_object_that_is_not_there_is_missing(store: ObjectStore) -> None:
    with pytest.raises(ObjectMissingError):
        store.get("none")
    with pytest.raises(ObjectMissingError):
        store.get_range("none", 0, 1)
    store.delete(["none", "not/this"])


def test_of_two_who_make_an_object_one_succeeds(store: ObjectStore) -> None:
    version = store.put("one", [b"first"], if_version="")
    with pytest.raises(ObjectConflictError):
        store.put("one", [b"second"], if_version="")
    assert store.get("one") == (b"first", version)


def test_who_knows_an_old_version_cannot_write(store: ObjectStore) -> None:
    old = store.put("one", [b"first"])
    new = store.put("one", [b"second"], if_version=old)
    with pytest.raises(ObjectConflictError):
        store.put("one", [b"third"], if_version=old)
    with pytest.raises(ObjectConflictError):
        store.put("other", [b"third"], if_version=old)
    assert store.get("one") == (b"second", new)


def test_a_listing_is_in_order_and_may_begin_anywhere(store: ObjectStore) -> None:
    for name in ("c/2", "c/1", "c/3", "d/1"):
        store.put(name, [b"x"])
    assert list(store.list("c/")) == [("c/1", 1), ("c/2", 1), ("c/3", 1)]
    assert list(store.list("c/", "c/1")) == [("c/2", 1), ("c/3", 1)]
    assert list(store.folders()) == ["c", "d"]
    assert list(store.folders("c/")) == []
    store.delete(["c/1", "c/none", "c/2"])
    assert list(store.list("c/")) == [("c/3", 1)]


@pytest.mark.parametrize("size", [10, PART_BYTES + 7])
def test_so_much_of_a_file_is_uploaded_as_was_said(
    store: ObjectStore, tmp_path: Path, size: int
) -> None:
    data = bytes(range(256)) * (size // 256 + 2)
    (tmp_path / "file").write_bytes(data)
    store.put_file("big", str(tmp_path / "file"), size)
    found, _ = store.get("big")
    assert found == data[:size]
    with pytest.raises((ObjectStoreError, OSError, EOFError)):
        store.put_file("more", str(tmp_path / "file"), len(data) + 1)
    with pytest.raises((ObjectStoreError, OSError, EOFError)):
        store.put_file("more", str(tmp_path / "none"), size)


def test_what_will_never_do_is_refused(s3_server: S3Server) -> None:
    url = s3_server.fresh_url()
    wrong = {**s3_server.options, "secret_access_key": "another"}
    places = [("s3://nobody-made-this/x", s3_server.options)]
    if s3_server.checks_signatures:
        places.append((url, wrong))
    for place, options in places:
        store = open_object_store(TieringSettings(place, options))
        calls: list[Callable[[], object]] = [
            lambda store=store: store.put("a", [b"x"]), lambda store=store: store.get("a")  # type: ignore[misc]
        ]  # fmt: skip
        for call in calls:
            with pytest.raises(ObjectRefusedError) as raised:
                call()
            assert "another" not in str(raised.value)
    with pytest.raises(ObjectRefusedError):
        open_object_store(TieringSettings(url, {**s3_server.options, "endpiont": "x"}))


def test_what_azure_will_never_do_is_refused(azure_server: AzureServer) -> None:
    nobody = base64.b64encode(b"another key").decode()
    wrong = {**azure_server.options, "account_key": nobody}
    places = [("az://nobody-made-this/x", azure_server.options), (azure_server.fresh_url(), wrong)]
    for place, options in places:
        store = open_object_store(TieringSettings(place, options))
        with pytest.raises(ObjectRefusedError) as putting:
            store.put("a", [b"x"])
        with pytest.raises(ObjectRefusedError) as getting:
            store.get("a")
        assert nobody not in f"{putting.value} {getting.value}"


def test_more_is_removed_than_one_request_may_name(store: ObjectStore) -> None:
    names = [f"many/{number:04}" for number in range(300)]
    for name in names[::60]:
        store.put(name, [b"x"])
    store.put("other", [b"x"])
    store.delete(names)
    assert list(store.list("many/")) == []
    assert store.get("other")[0] == b"x"


def test_a_store_that_is_down_may_be_asked_again(tmp_path: Path) -> None:
    server = S3Server(tmp_path)
    store = open_object_store(
        TieringSettings(server.fresh_url(), server.options, timeout_ms=300, retries=1)
    )
    for call in (lambda: store.get("a"), lambda: store.put("a", [b"x"])):
        with pytest.raises(ObjectStoreError) as raised:
            call()
        assert type(raised.value) is ObjectStoreError


def test_secrets_are_not_shown() -> None:
    options = {"endpoint": "http://h", "secret_access_key": "x1", "sas_token": "x2"}
    assert shown(TieringSettings("s3://b/p", options)) == "s3://b/p endpoint=http://h"


@pytest.mark.parametrize(
    ("url", "right"),
    [
        ("", True), ("s3://bucket/prefix", True), ("file:///folder", True), ("az://c", True),
        ("s3:///prefix", False), ("file://folder", False), ("http://host/x", False), ("/x", False),
        ("s3://user:password@bucket", False), ("s3://b?x=1", False),
    ],
)  # fmt: skip
def test_a_url_that_cannot_be_one_is_seen_at_once(url: str, right: bool) -> None:
    assert (problem_of(TieringSettings(url)) is None) is right
