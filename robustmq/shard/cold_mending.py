"""A batch of a light topic is lost in the object store, and with it the way to those before it: the
last one before it is looked for, in the objects and in the local files, so that readers go on with
that.

What is found is kept in memory alone. Nothing that is stored changes by it, and what is lost stays
an error for those who read it.
"""

from __future__ import annotations

from collections.abc import Generator, Iterable
from typing import Any, NamedTuple

from robustmq.core.blocks import EntryView
from robustmq.core.hashing import topic_key
from robustmq.core.topic_index import NO_POSITION
from robustmq.shard.file_cleaning import Step
from robustmq.shard.tier_steps import Apart, ShardTier, Wait
from robustmq.storage.cold_scan import Lost, scan
from robustmq.storage.cold_segments import ColdSegment
from robustmq.storage.log_survey import Entry, Pieces, block_entries, entries
from robustmq.storage.object_store import ObjectMissingError, ObjectStore

OBJECTS = 64
"""So many are read for one batch; where it is in none of them its topic's older records are given
up."""

Way = Generator[Step | Apart | Wait | None, Any, "Batch | None"]


class Batch(NamedTuple):
    """A batch of the topic."""

    entry: EntryView
    position: int
    end_offset: int


def way_round(
    one: ShardTier, objects: ObjectStore, key: int, position: int
) -> Generator[Step | Apart | Wait | None, Any, tuple[int, int] | None]:
    """(the offset behind it, its position) of the last batch of the topic with this key before a
    position; NO_POSITION: there is none. None: nobody can say."""
    rows = [row for row in one.cold.table if row.base_offset < position]
    found: Batch | None = None
    for row in rows[: -OBJECTS - 1 : -1]:
        found = yield Apart(lambda row=row: _last_away(objects, one, row, key, position))  # type: ignore[misc]
        if found is not None:
            break
    if found is None and len(rows) > OBJECTS:
        return None
    above = found.position if found is not None else 0
    for file in reversed(list(one.store.log.files.files)):
        if file.start >= position or file.end <= above:
            continue
        if file.cleaned:
            one.store.log.files.slots(file)
        pieces = Pieces(one.store.disk, file)
        here: Batch | None = None
        more = True
        while more:
            more, last = yield Step(lambda pieces=pieces: _last_here(pieces, key, position))  # type: ignore[misc]
            here = last or here
        if not pieces.sound:
            return None
        if here is not None and here.position > above:
            found = here
            break
    if found is None or not one.store.light.lives(*found):
        return 0, NO_POSITION
    return found.end_offset, found.position


def _last_away(
    objects: ObjectStore, one: ShardTier, row: ColdSegment, key: int, position: int
) -> Batch | None:
    try:
        found = scan(objects, one.path(row), row.size, row)
        return _last((entry for entry in found if not isinstance(entry, Lost)), key, position)
    except ObjectMissingError:
        return None


def _last_here(pieces: Pieces, key: int, position: int) -> tuple[bool, Batch | None]:
    found = pieces.read()
    sound = (entry for piece in found for entry in entries(piece) if entry is not None)
    return bool(found), _last(sound, key, position)


def _last(found: Iterable[Entry], key: int, position: int) -> Batch | None:
    best: Batch | None = None
    for entry in found:
        for batch in block_entries(entry):
            if batch[1] < position and topic_key(batch[0].topic) == key:
                best = Batch(*batch)
    return best
