"""Ranges of keys by what they begin with."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from robustmq.storage.lookups import LAST_KEY, after

BYTES = st.lists(st.sampled_from([0, 1, 0x61, 0xFE, 0xFF]), max_size=4).map(bytes)


@given(BYTES.filter(lambda prefix: prefix.strip(b"\xff")), BYTES)
def test_the_key_behind_a_prefix_lies_behind_all_that_begin_with_it_and_before_no_other(
    prefix: bytes, rest: bytes
) -> None:
    assert prefix + rest < after(prefix)
    # An id of a topic may end in bytes 255.
    assert after(prefix).startswith(prefix.rstrip(b"\xff")[:-1])
    assert not prefix < prefix.rstrip(b"\xff") + b"\xff" * 9 >= after(prefix)


def test_behind_all_keys_is_what_no_key_lies_behind() -> None:
    assert after(b"") == after(b"\xff\xff") == LAST_KEY
