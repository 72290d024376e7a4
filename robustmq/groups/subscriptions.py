"""What a consumer says it reads: the subscription in the metadata of JoinGroup (protocol type
"consumer").

Only the topics are read (version int16, array of strings); everything behind them is the assignor's
own business. Metadata that is not a subscription names no topics.
"""

from __future__ import annotations

import struct

from robustmq import names


def subscribed_topics(metadata: bytes) -> set[bytes]:
    """The keys of the topics a member is subscribed to."""
    topics: set[bytes] = set()
    try:
        _version, count = struct.unpack_from(">hi", metadata, 0)
        position = 6
        for _ in range(count):
            (length,) = struct.unpack_from(">h", metadata, position)
            position += 2
            if length < 0 or position + length > len(metadata):
                return set()
            topics.add(names.from_kafka(metadata[position : position + length].decode()))
            position += length
    except (struct.error, UnicodeDecodeError):
        return set()
    return topics
