"""What of a shard's log is needed: entries of light topics as long as their topic and its limits
keep them, inbox entries as long as a session refers to them.

Two ask: the cleaning of local files (`file_cleaning`), for which that is also what the object store
does not have or what is to stay here beside it; and the freeing of objects (`light_tiers`), which
looks at the whole topic, wherever its batches lie.
"""

from __future__ import annotations

from array import array
from bisect import bisect_left
from collections.abc import Iterator

import msgspec

from robustmq.core.blocks import EntryView
from robustmq.promises import Promise
from robustmq.storage.cold_log import LightModes
from robustmq.storage.light import is_dense
from robustmq.storage.light_retention import NO_LIMIT, LightRetention
from robustmq.storage.log_files import LogFile
from robustmq.storage.log_survey import Judge
from robustmq.storage.shard_store import ShardStore

HEADS_A_LOOK = 200
"""So many heads of a topic's batches are read at a time to see what its limit in bytes keeps."""
MAX_REMEMBERED = 4096


class Cleanable(msgspec.Struct, frozen=True):
    """What a round of one shard goes by."""

    store: ShardStore
    retention: LightRetention
    now_ms: int
    inbox: array[int]
    """Positions of the inbox entries that sessions refer to, in order."""
    forced: bool
    """Look at every file, whether it is worth it or not."""
    modes: LightModes = LightModes(())
    """Which light topics are tiered now."""

    def inbox_in(self, file: LogFile) -> int:
        """How many of those stand in a file."""
        return bisect_left(self.inbox, file.end) - bisect_left(self.inbox, file.start)

    def refers_to(self, position: int) -> bool:
        """Does a session refer to the inbox entry there?"""
        at = bisect_left(self.inbox, position)
        return at < len(self.inbox) and self.inbox[at] == position


class LightNeeds:
    """Judges by what topics' limits keep; what it found out of them it knows for a round."""

    def __init__(self, looks_away: bool) -> None:
        """`looks_away`: limits in bytes are found out in the object store, too."""
        self._looks_away = looks_away
        self._walks: dict[
            tuple[bytes, int], tuple[Iterator[tuple[int, int] | Promise[None]], int | None]
        ] = {}
        self.coming: Promise[None] | None = None
        """When it looks away: what was judged to be needed may not be, once this has settled."""

    def begin_round(self) -> None:
        """What topics' limits in bytes keep is to be found again."""
        self._walks.clear()

    def judge(self, on: Cleanable, over: bool) -> Judge:
        """What is needed; `over`: nothing of light topics."""
        cold, modes = on.store.cold, on.modes
        light, retention, now_ms = on.store.light, on.retention, on.now_ms

        def lives(entry: EntryView, position: int, end_offset: int, written_ms: int) -> bool:
            if not is_dense(entry.topic):
                # A partition has its own retention, and says where it begins.
                return light.lives(entry.topic, position, end_offset)
            if over:
                return False
            limits = retention.of(entry.topic)
            if NO_LIMIT < limits.retention_ms < now_ms - written_ms:
                return False
            if not light.lives(entry.topic, position, end_offset):
                return False
            records = limits.retention_records
            if records > NO_LIMIT and end_offset <= light.next_offset(entry.topic) - records:
                return False
            begins = limits.retention_bytes
            if begins > NO_LIMIT and end_offset <= self._begins(on, entry.topic, begins):
                return False
            # Of what follows one needs an entry here alone.
            if not modes.tiered(entry.topic) or not cold.chosen(entry.topic, position):
                return True
            if NO_LIMIT < limits.local_retention_ms < now_ms - written_ms:
                return False
            begins = limits.local_retention_bytes
            return begins <= NO_LIMIT or end_offset > self._begins(on, entry.topic, begins)

        return Judge(lives, on.refers_to, on.store.log.files.forgettable_to())

    def _begins(self, on: Cleanable, topic: bytes, max_bytes: int) -> int:
        """Where a topic begins by its limit in bytes; 0 as long as that is not found out."""
        key = topic, max_bytes
        found = self._walks.get(key)
        if found is None:
            if len(self._walks) >= MAX_REMEMBERED:
                self._walks.clear()
            walk = on.store.light.newer_bytes(topic, max_bytes, self._looks_away)
            found = self._walks[key] = (walk, None)
        walk, begin = found
        if begin is not None:
            return begin
        for _ in range(HEADS_A_LOOK):
            row = next(walk, None)
            if isinstance(row, Promise):
                self.coming = row
                return 0
            if row is None or row[1] >= max_bytes:
                begin = row[0] if row is not None else 0
                self._walks[key] = (walk, begin)
                return begin
        return 0
