"""Reading a shard's objects in the object store out of the block cache: they are cleaned files
(`cleaned_log`), whose index, at the end, tells which slot has a position.

Heads of runs and log entries have checksums: they are tested when something of a slot is read for
the first time, as who reads a head alone could not see where it leads astray. What is wrong is
fetched anew once. Chains of light topics are walked backwards, so the blocks before the one that is
wanted are fetched ahead.
"""

from __future__ import annotations

from bisect import bisect_right
from collections import OrderedDict

from robustmq.errors import BrokerError, Fault
from robustmq.promises import Promise
from robustmq.storage import cleaned_log
from robustmq.storage.block_cache import BlockCache
from robustmq.storage.block_fetcher import CachedObject
from robustmq.storage.cleaned_log import FOOTER, Run, Slots
from robustmq.storage.cold_segments import ColdSegment
from robustmq.storage.log_files import Away, Gone
from robustmq.storage.log_survey import entries
from robustmq.storage.manifest import LOG, object_name

MAX_OBJECTS = 64
"""Indexes of so many objects stay in memory: 64 KiB for one of 64 MiB."""
MAX_DAMAGED = 256
MAX_TESTED = 65_536
"""So many slots are known to be sound, or what of them is not."""
BLOCKS_BEFORE = 4
"""So many blocks before the one that is wanted are fetched ahead."""


class LogObjects:
    """The objects of one shard's log."""

    def __init__(self, cache: BlockCache, prefix: str) -> None:
        """`prefix` is that of the shard's objects, with its /."""
        self._cache = cache
        self._prefix = prefix
        self._reader = hash(prefix)
        self._size = cache.settings.block_bytes
        self._objects: OrderedDict[str, tuple[CachedObject, list[Slots]]] = OrderedDict()
        self._again: OrderedDict[tuple[int, int], None] = OrderedDict()
        # By object and slot, from where to where nothing in it can be said, by position.
        self._tested: OrderedDict[tuple[int, int], list[tuple[int, int]]] = OrderedDict()

    def read(self, row: ColdSegment, position: int, length: int) -> bytes | memoryview:
        """Bytes at a position of the log: fewer where a run ends."""
        source, known = self._object(row)
        if not known:
            known.append(self._index(row, source))
        slots = known[0]
        number = cleaned_log.slot_of(slots, position)
        if number < 0:
            raise Gone(position)
        begin, end = cleaned_log.slot_area(slots, number)
        data = self._area(source, begin, end, BLOCKS_BEFORE)
        rows, whole = cleaned_log.runs(data)
        lost = self._tested.get((row.base_offset, number))
        if lost is None:
            lost, sound = _lost_in(data, rows)
            if not (sound or (row.base_offset, begin) in self._again):
                raise self._wrong(row, source, begin, end)
            self._tested[row.base_offset, number] = lost
            if len(self._tested) > MAX_TESTED:
                self._tested.popitem(last=False)
        if any(first <= position < last for first, last in lost):
            raise BrokerError(Fault.CORRUPT_RECORD, f"{source.path} is damaged at {begin}")
        at = bisect_right(rows, position, key=lambda run: run.position) - 1
        if at >= 0:
            run = rows[at]
            inside = position - run.position
            if inside < run.length:
                stop = run.begin + min(inside + length, run.length)
                self._cache.served(stop - run.begin - inside)
                return data[run.begin + inside : stop]
        if not whole and at == len(rows) - 1:
            raise BrokerError(Fault.CORRUPT_RECORD, f"{source.path} is damaged at {begin}")
        raise Gone(position)

    def anew(self, row: ColdSegment, position: int) -> Promise[None] | None:
        """What was read there is damaged: it is fetched again, once."""
        source, known = self._object(row)
        if not known:
            return None
        number = max(0, cleaned_log.slot_of(known[0], position))
        error = self._wrong(row, source, *cleaned_log.slot_area(known[0], number))
        return error.coming if isinstance(error, Away) else None

    def _object(self, row: ColdSegment) -> tuple[CachedObject, list[Slots]]:
        name = object_name(row.base_offset, row.leader_epoch) + LOG
        found = self._objects.get(name)
        if found is None:
            found = self._objects[name] = CachedObject(self._prefix + name, row.size), []
            if len(self._objects) > MAX_OBJECTS:
                self._objects.popitem(last=False)
        else:
            self._objects.move_to_end(name)
        return found

    def _index(self, row: ColdSegment, source: CachedObject) -> Slots:
        footer = self._area(source, row.size - FOOTER.size, row.size, 0)
        _, count, *_, index_at = FOOTER.unpack(footer)
        if index_at + 16 * count + FOOTER.size != row.size:
            raise self._wrong(row, source, row.size - FOOTER.size, row.size)
        slots = cleaned_log.index_of(bytes(self._area(source, index_at, row.size, 0)), index_at)
        if slots is None:
            raise self._wrong(row, source, index_at, row.size)
        return slots

    def _wrong(self, row: ColdSegment, source: CachedObject, begin: int, end: int) -> BrokerError:
        """An area is damaged: on its way again, or for good."""
        key = (row.base_offset, begin)
        if key in self._again:
            return BrokerError(Fault.CORRUPT_RECORD, f"{source.path} is damaged at {begin}")
        self._again[key] = None
        if len(self._again) > MAX_DAMAGED:
            self._again.popitem(last=False)
        first, last = begin // self._size, (end - 1) // self._size
        for number in range(first, last + 1):
            self._cache.damaged(source, number)
        return Away(self._cache.want(source, first, last, self._reader))

    def _area(self, source: CachedObject, begin: int, end: int, before: int) -> memoryview:
        """Bytes of an object; Away when they are not in memory."""
        size = self._size
        first, last = begin // size, (end - 1) // size
        missing = [one for one in range(first, last + 1) if not self._cache.has(source, one)]
        if missing:
            for number in missing:
                if self._cache.failure(source, number) is not None:
                    raise BrokerError(Fault.STORAGE_FAILED, "the object store fails")
            coming = self._cache.want(source, missing[0], missing[-1], self._reader)
            if before and first:
                self._cache.ahead(source, max(0, first - before), first - 1, self._reader)
            raise Away(coming)
        parts: list[memoryview] = []
        for number in range(first, last + 1):
            block = self._cache.block(source, number)
            assert block is not None, "it is in memory"
            parts.append(memoryview(block.data))
        if len(parts) == 1:
            found = parts[0][begin - first * size : end - first * size]
        else:
            parts[0] = parts[0][begin - first * size :]
            parts[-1] = parts[-1][: end - last * size]
            found = memoryview(b"".join(parts))
        if len(found) < end - begin:
            raise BrokerError(Fault.CORRUPT_RECORD, f"{source.path} is shorter than it was")
        return found


def _lost_in(data: memoryview, rows: list[Run]) -> tuple[list[tuple[int, int]], bool]:
    """From where to where a slot with these runs has nothing that checks, by position; and whether
    all of it is sound."""
    found: list[tuple[int, int]] = []
    behind = 0
    for run in rows:
        behind = run.begin + run.length
        at = run.position
        for entry in entries((run.position, data[run.begin : behind])):
            if entry is None:
                found.append((at, run.position + run.length))
                break
            at = entry.position + len(entry.data)
    return found, not found and behind == len(data)
