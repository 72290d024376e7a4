# cython: annotation_typing=False, cdivision=True

"""Where the newest record of each key stands: digest of the key (128 bits) -> offset.

Open addressing with linear probing over three arrays of u64, 24 bytes a slot, of which at most
three quarters are used. The size is what the memory allows and never changes: when it is full,
`put` says so and the caller makes do with what fits. The digest 0 stands for an empty slot; no key
that anybody will ever send has it.
"""

from __future__ import annotations

from array import array

import robustmq.core.memory as memory

SLOT_BYTES = 24


class OffsetMap:
    """A map of one compaction."""

    def __init__(self, max_bytes: int) -> None:
        """The largest power of two slots that fit into `max_bytes`, and 16 at least."""
        slots = 16
        while slots * 2 * SLOT_BYTES <= max_bytes:
            slots *= 2
        self.mask = slots - 1
        self.capacity = slots // 4 * 3
        self.size = 0
        self.low: array[int] = array("Q", bytes(8 * slots))
        self.high: array[int] = array("Q", bytes(8 * slots))
        self.offsets: array[int] = array("Q", bytes(8 * slots))

    def put(self, digest: bytes, offset: int) -> bool:
        """Note a record of a key; the greatest offset stays. False: there is no room for the
        key."""
        source = digest
        low = memory.get64(source, 0)
        high = memory.get64(source, 8)
        lows = memory.unsigned_longs(self.low)
        highs = memory.unsigned_longs(self.high)
        offsets = memory.unsigned_longs(self.offsets)
        at = self._slot(low, high)
        if lows[at] or highs[at]:
            if offset > offsets[at]:
                offsets[at] = offset
            return True
        if self.size >= self.capacity:
            return False
        lows[at] = low
        highs[at] = high
        offsets[at] = offset
        self.size += 1
        return True

    def get(self, digest: bytes) -> int:
        """The offset of the newest record of a key; -1: it was not noted."""
        source = digest
        low = memory.get64(source, 0)
        high = memory.get64(source, 8)
        at = self._slot(low, high)
        if memory.unsigned_longs(self.low)[at] or memory.unsigned_longs(self.high)[at]:
            return memory.unsigned_longs(self.offsets)[at]
        return -1

    def _slot(self, low: int, high: int) -> int:
        """The slot of a digest, or the free one where it belongs."""
        lows = memory.unsigned_longs(self.low)
        highs = memory.unsigned_longs(self.high)
        at = low & self.mask
        while (lows[at] or highs[at]) and not (lows[at] == low and highs[at] == high):
            at = (at + 1) & self.mask
        return at
