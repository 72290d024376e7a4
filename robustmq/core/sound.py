# cython: annotation_typing=False
"""Whether record batches are what was written, many at a time.

A batch is sound when its header can be one, its CRC-32C is right, and its offsets go up from those
of the batch before and stay below the end of its segment (Kafka's record batch format v2; offsets
in a segment that was compacted have gaps).
"""

from __future__ import annotations

import robustmq.core.sound_areas as sound_areas


def sound_until(
    data: bytes | memoryview, expected: int, next_offset: int, most: int
) -> tuple[int, int]:
    """Where the first batch of an area begins that is not sound, or its length if all are; and how
    many more than those might have been looked at, of `most`. The first offset is `expected` or
    above, the last below `next_offset`."""
    return sound_areas.sound_until(data, expected, next_offset, most)
