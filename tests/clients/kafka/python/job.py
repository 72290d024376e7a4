"""What every Python client of Kafka does in the matrix; tests/clients/test_kafka_matrix.py says it
in words. A library is an adapter (with_*.py) with the few calls that the job asks of it."""

from __future__ import annotations

import sys
import time
from collections import Counter
from collections.abc import Callable, Sequence
from typing import NamedTuple, Protocol

COUNT = 60
PARTITIONS = 6
WAIT_S = 40.0
PADDING = "x" * 200
ALL_CODECS = ("none", "gzip", "snappy", "lz4", "zstd")
Header = tuple[str, bytes | None]


class Row(NamedTuple):
    """A record as a client sees it."""

    key: bytes | None
    value: bytes | None
    headers: Sequence[Header]


class Member(Protocol):
    """A consumer of a group that polls by itself until it is closed."""

    @property
    def assigned(self) -> set[int]: ...

    @property
    def rows(self) -> list[Row]: ...

    def commit(self) -> None: ...

    def close(self) -> None: ...


class Library(Protocol):
    """What the job asks of a client library."""

    @property
    def codecs(self) -> Sequence[str]: ...

    def create_topic(self, topic: str, partitions: int, settings: dict[str, str]) -> None: ...

    def send(self, topic: str, rows: Sequence[Row], codec: str) -> None:
        """By a producer that is kept for the next call."""

    def member(self, group: str, topic: str) -> Member: ...

    def read_all(self, topic: str, count: int) -> list[Row]: ...

    def committed(self, group: str, topic: str, partitions: int) -> list[int]: ...

    def offsets_at(self, topic: str, partitions: int, timestamp_ms: int) -> list[int | None]: ...

    def partitions_of(self, topic: str) -> int:
        """0 for a topic that is not there."""

    def setting(self, topic: str, name: str) -> str: ...

    def change_setting(self, topic: str, name: str, value: str) -> None: ...

    def add_partitions(self, topic: str, partitions: int) -> None: ...

    def members_of(self, group: str) -> int: ...

    def delete_group(self, group: str) -> None: ...

    def delete_topic(self, topic: str) -> None: ...


def wait(condition: Callable[[], object], what: str) -> None:
    deadline = time.monotonic() + WAIT_S
    while not condition():
        assert time.monotonic() < deadline, f"{what} did not come"
        time.sleep(0.02)


def rows_of(library: str, codec: str) -> list[Row]:
    return [
        Row(
            b"key %d" % number,
            f"{library} {codec} {number} {PADDING}".encode(),
            [("library", library.encode()), ("codec", codec.encode()), ("empty", b"")],
        )
        for number in range(COUNT)
    ]


def same(rows: Sequence[Row], wanted: Sequence[Row], what: str) -> None:
    """These rows, each once, with their keys and headers."""
    found = Counter((row.key, row.value, tuple(row.headers)) for row in rows)
    right = Counter((row.key, row.value, tuple(row.headers)) for row in wanted)
    assert found == right, f"{what}: {len(rows)} rows, {len(wanted)} wanted: " + str(
        list((found - right).items())[:2] + list((right - found).items())[:2]
    )


def first_part(name: str, library: Library) -> tuple[Member, list[Row], int]:
    """Until the broker restarts: the member that stays, what is in the topic, and a time in
    between."""
    library.create_topic(name, PARTITIONS, {"retention.ms": "1000000"})
    rows: list[Row] = []
    for codec in library.codecs:
        library.send(name, rows_of(name, codec), codec)
        library.send(f"cross.{codec}", rows_of(name, codec), codec)
        rows += rows_of(name, codec)
        print(f"wrote {codec}", flush=True)
    time.sleep(0.05)
    between_ms = int(time.time() * 1000)
    time.sleep(0.05)
    library.send(f"light.{name}", rows_of(name, "none")[:1], "none")
    first = library.member(name, name)
    everything = set(range(PARTITIONS))
    wait(lambda: first.assigned == everything, "the first member's assignment")
    wait(lambda: len(first.rows) >= len(rows), "all records at the first member")
    same(first.rows, rows, "the first member")
    first.commit()
    second = library.member(name, name)
    wait(
        lambda: len(second.assigned) == 3 and first.assigned == everything - second.assigned,
        "an even share",
    )
    more = rows_of(name, "both")
    library.send(name, more, library.codecs[-1])
    rows += more
    wait(lambda: len(first.rows) + len(second.rows) >= len(rows), "the records of both")
    same([*first.rows, *second.rows], rows, "both members")
    assert second.rows, "nothing at the second member"
    first.commit()
    second.commit()
    taken = second.rows
    second.close()
    wait(lambda: first.assigned == everything, "what the second member left")
    first.rows.extend(taken)
    return first, rows, between_ms


def second_part(
    name: str, library: Library, member: Member, rows: list[Row], between_ms: int
) -> None:
    """After the restart, with the same producers and the same member."""
    more = rows_of(name, "restarted")
    library.send(name, more, library.codecs[-1])
    wait(lambda: len(member.rows) >= len(rows) + COUNT, "the records after the restart")
    same(member.rows, rows + more, "after the restart")
    member.commit()
    committed = library.committed(name, name, PARTITIONS)
    assert sum(committed) == len(rows) + COUNT, f"{committed} are committed"
    before = len(library.codecs) * COUNT
    offsets = library.offsets_at(name, PARTITIONS, between_ms)
    assert sum(offset or 0 for offset in offsets) == before, f"{offsets} of {before}"
    beyond = library.offsets_at(name, PARTITIONS, int(time.time() * 1000) + 10_000_000)
    assert beyond == [None] * PARTITIONS, beyond
    assert library.members_of(name) == 1
    member.close()
    administer(name, library)


def administer(name: str, library: Library) -> None:
    assert library.partitions_of(name) == PARTITIONS
    assert library.partitions_of(f"light.{name}") == 1
    assert library.setting(name, "retention.ms") == "1000000"
    library.change_setting(name, "retention.ms", "2000000")
    assert library.setting(name, "retention.ms") == "2000000"
    library.add_partitions(name, PARTITIONS + 2)
    wait(lambda: library.partitions_of(name) == PARTITIONS + 2, "two more partitions")
    library.delete_group(name)
    library.delete_topic(name)
    wait(lambda: library.partitions_of(name) == 0, "the end of the topic")


def run(name: str, library: Library) -> None:
    """The whole job. The line that is read says how many records there are of each codec."""
    member, rows, between_ms = first_part(name, library)
    print("first", flush=True)
    counts = dict(word.split("=") for word in sys.stdin.readline().split())
    second_part(name, library, member, rows, between_ms)
    for codec in library.codecs:
        show_cross(library, codec, int(counts[codec]))
    print("ok", flush=True)


def show_cross(library: Library, codec: str, count: int) -> None:
    """What the other libraries wrote."""
    found = Counter(
        bytes(dict(row.headers)["library"] or b"").decode()
        for row in library.read_all(f"cross.{codec}", count)
        if (row.value or b"").decode().split()[1:]
        == [codec, (row.key or b"").decode()[4:], PADDING]
    )
    for other, number in sorted(found.items()):
        print(f"read {other} {codec} {number}", flush=True)
