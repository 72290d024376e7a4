"""A batch of a light topic that may be in the object store is lost, or where it leads to: the last
one before it is looked for, in the objects and in the local files, so that readers go on with that.

What is found is kept in memory alone. Nothing that is stored changes by it, and what is lost stays
an error for those who read it.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable
from typing import Any

from robustmq.core.hashing import topic_key
from robustmq.core.topic_index import NO_POSITION
from robustmq.errors import BrokerError
from robustmq.shard.file_cleaning import Step
from robustmq.shard.tier_steps import Apart, ShardTier, Wait
from robustmq.storage.cold_scan import Lost, scan
from robustmq.storage.cold_segments import ColdSegment
from robustmq.storage.light_mending import Found, Search, Tear
from robustmq.storage.log_survey import Entry, block_entries
from robustmq.storage.object_store import ObjectMissingError, ObjectStore

OBJECTS = 64
"""So many are read for one batch; where it is in none of them its topic's older records are given
up."""
NO_OFFSET = 1 << 64
"""Above all."""

Way = Generator[Step | Apart | Wait | None, Any, Found | None]


def way_round(
    one: ShardTier, objects: ObjectStore, topic: bytes, position: int
) -> Generator[Step | Apart | Wait | None, Any, tuple[int, int] | None]:
    """(the offset behind it, its position) of the last batch of a topic before a position;
    NO_POSITION: there is none. None: nobody can say."""
    rows = [row for row in one.cold.table if row.base_offset < position]
    found: Found | None = None
    for row in rows[: -OBJECTS - 1 : -1]:
        found = yield Apart(lambda row=row: _last_away(objects, one, row, topic, position))  # type: ignore[misc]
        if found is not None:
            break
    if found is None and len(rows) > OBJECTS:
        return None
    above = found.position if found is not None else 0
    found = (yield from _last_here(one, topic, position, above)) or found
    if found is None or not one.store.light.lives(topic, found.position, found.end_offset):
        return 0, NO_POSITION
    return found.end_offset, found.position


def _last_away(
    objects: ObjectStore, one: ShardTier, row: ColdSegment, topic: bytes, position: int
) -> Found | None:
    try:
        found = scan(objects, one.path(row), row.size, row)
        return _last((entry for entry in found if not isinstance(entry, Lost)), topic, position)
    except ObjectMissingError:
        return None


def _last(found: Iterable[Entry], topic: bytes, position: int) -> Found | None:
    best: Found | None = None
    key = topic_key(topic)
    for entry in found:
        for batch, place, end_offset in block_entries(entry):
            if place < position and topic_key(batch.topic) == key:
                best = Found(place, end_offset)
    return best


def _last_here(one: ShardTier, topic: bytes, position: int, above: int) -> Way:
    while True:
        search = Search(one.store.log.files, Tear(topic, position, NO_OFFSET, position), above)
        while not search.over:
            failure = yield Step(lambda search=search: _step(search))  # type: ignore[misc]
            if failure is not None:
                raise failure
        if search.found is not None or search.in_vain:
            return search.found


def _step(search: Search) -> BrokerError | None:
    try:
        search.step()
    except BrokerError as error:
        return error
    return None
