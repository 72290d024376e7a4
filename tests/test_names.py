"""Names across the protocols (design section 7)."""

from __future__ import annotations

import re

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from robustmq import names
from robustmq.errors import BrokerError

_characters = st.sampled_from(list("ab/._x5f-$é \U0001f600")) | st.characters(
    exclude_characters="\0+#", exclude_categories=["Cs"]
)
_topics = st.text(_characters, min_size=1, max_size=30).map(str.encode)


@settings(derandomize=True, max_examples=500, deadline=None)
@given(_topics)
def test_every_topic_that_has_a_kafka_name_comes_back_from_it(topic: bytes) -> None:
    name = names.to_kafka(topic)
    if name is not None:
        assert re.fullmatch("[a-zA-Z0-9._-]{1,249}", name) and name not in (".", "..")
        assert names.from_kafka(name) == topic


@settings(derandomize=True, max_examples=500, deadline=None)
@given(st.text("abx_.-0259f", min_size=1, max_size=12))
def test_every_kafka_name_is_kept_or_comes_back(name: str) -> None:
    assert names.to_kafka(names.from_kafka(name)) == name


@pytest.mark.parametrize(
    ("topic", "name"),
    [
        (b"a/b/c", "a.b.c"),
        (b"a.b", "a_x2eb"),
        (b"_x", "_x5fx"),
        (b"/", "_x2f"),
        (b"a_b", "a_b"),
        (b"\xc3\xa9", "_xc3_xa9"),
    ],
)
def test_known_names(topic: bytes, name: str) -> None:
    assert names.to_kafka(topic) == name
    assert names.from_kafka(name) == topic


def test_a_name_that_is_too_long_is_not_shown() -> None:
    assert names.to_kafka(b"." * 100) is None


def test_topic_ids_differ_by_generation_and_stay() -> None:
    assert names.topic_id(b"a", 0) == names.topic_id(b"a", 0) != names.topic_id(b"a", 1)


@pytest.mark.parametrize("topic", [b"", b"a/+", b"#", b"a\0", b"\xed\xa0\x80", b"a" * 65_536])
def test_bad_topics_are_refused(topic: bytes) -> None:
    with pytest.raises(BrokerError):
        names.validate_topic(topic)


@pytest.mark.parametrize(
    "filter_",
    [
        b"",
        b"a+",
        b"a/#/b",
        b"a#",
        b"$share",
        b"$share/g",
        b"$share/g/",
        b"$share//a",
        b"$share/g+/a",
        b"$queue",
        b"$queue/",
        b"$queue/a#",
    ],
)
def test_bad_filters_are_refused(filter_: bytes) -> None:
    with pytest.raises(BrokerError):
        names.validate_filter(filter_)


def test_good_filters_and_shares() -> None:
    for filter_ in (b"#", b"+", b"a/+/#", b"/", b"$share/g/a/#"):
        names.validate_filter(filter_)
    assert names.split_share(b"$share/g//a") == (b"g", b"/a")
    assert names.split_share(b"a/b") == (None, b"a/b")
    assert names.split_share(b"$queue/a/+") == (b"$queue", b"a/+")
    assert names.split_share(b"$share/$queue/a/+") == (b"$queue", b"a/+")
