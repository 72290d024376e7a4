"""The records of a stream's topic as MQTT subscribers get them.

Stored batches are delivered as they are (the fan-out opens compressed ones and knows control
batches). Only a record that Kafka wrote to a stream's topic needs a look: it is a message of the
MQTT topic that its key names, if the stream's filter matches it; any other is a message of the
stream's own topic.
"""

from __future__ import annotations

from robustmq.core import batches, blocks
from robustmq.core.publish import build_entry
from robustmq.records import Record
from robustmq.shard.placement import ENTRY_KAFKA, Placement

CONTROL = 0x20


def deliverable(block: bytes | bytearray | memoryview, placement: Placement) -> bytes | bytearray:
    """The block with the Kafka entries of streams parted by MQTT topic."""
    if not placement.has_streams:
        return block if isinstance(block, (bytes, bytearray)) else bytes(block)
    shown = bytearray()
    for entry in blocks.entries(block):
        log_topic = entry.log_name or entry.topic
        if entry.flags & ENTRY_KAFKA and placement.is_stream(log_topic):
            if not _attributes(block, entry.batch_begin) & CONTROL:
                shown += _rebuilt(block, entry, placement, log_topic)
        else:
            shown += block[entry.begin : entry.end]
    return shown


def _attributes(block: bytes | bytearray | memoryview, batch_begin: int) -> int:
    return int.from_bytes(block[batch_begin + 21 : batch_begin + 23], "big")


def _rebuilt(
    block: bytes | bytearray | memoryview,
    entry: blocks.EntryView,
    placement: Placement,
    stream: bytes,
) -> bytes:
    """One entry for each run of records of one MQTT topic, at the offsets they have."""
    runs: list[tuple[bytes, list[Record]]] = []
    for record in batches.parse(bytes(block), entry.batch_begin, entry.end):
        topic = placement.topic_of_record(stream, record.key)
        if runs and runs[-1][0] == topic:
            runs[-1][1].append(record)
        else:
            runs.append((topic, [record]))
    rebuilt = bytearray()
    for topic, records in runs:
        batch = batches.build(records, records[0].timestamp_ms, records[0].offset)
        part = bytearray(
            build_entry(topic, stream, entry.partition, entry.flags, entry.origin, 0, batch)
        )
        blocks.set_base_offset(part, 0, records[0].offset)
        rebuilt += part
    return bytes(rebuilt)
