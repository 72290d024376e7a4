"""A Kafka batch as MQTT subscribers get it.

A stored batch is delivered as it is when it is uncompressed and its topic is the MQTT topic. A compressed one is
rebuilt once, only when somebody wants it. A record of a stream's topic is a message of the MQTT topic that its key
names, if the stream's filter matches it; any other is a message of the stream's own topic. Control batches
(transaction markers) are no messages.
"""

from __future__ import annotations

from robustmq.core import batches, blocks
from robustmq.core.publish import build_entry
from robustmq.records import Record
from robustmq.shard.interest import OwnerInterest
from robustmq.shard.placement import ENTRY_KAFKA, Placement

CONTROL = 0x20
COMPRESSION = 0x07


def deliverable(
    block: bytes | bytearray | memoryview, placement: Placement, interest: OwnerInterest
) -> bytearray:
    """The block with its Kafka entries made readable; entries that are no messages are left out."""
    shown = bytearray()
    for entry in blocks.entries(block):
        data = block[entry.begin : entry.end]
        if not entry.flags & ENTRY_KAFKA:
            shown += data
            continue
        log_topic = entry.log_name or entry.topic
        stream = placement.is_stream(log_topic)
        if entry.topic[:1] == b"\0" and not stream:
            continue
        attributes = batches.attributes(block, entry.batch_begin)
        if attributes & CONTROL:
            continue
        if not stream and not attributes & COMPRESSION:
            shown += data
        elif stream or interest.wants(entry.topic):
            shown += _rebuilt(block, entry, placement, log_topic if stream else b"")
    return shown


def _rebuilt(
    block: bytes | bytearray | memoryview,
    entry: blocks.Entry,
    placement: Placement,
    stream: bytes,
) -> bytes:
    """One entry for each run of records of one MQTT topic, at the offsets they have."""
    runs: list[tuple[bytes, list[Record]]] = []
    for record in batches.parse(bytes(block[entry.batch_begin : entry.end])):
        topic = entry.topic
        if stream and record.key and placement.stream_filters_match(stream, record.key):
            topic = record.key
        if runs and runs[-1][0] == topic:
            runs[-1][1].append(record)
        else:
            runs.append((topic, [record]))
    rebuilt = bytearray()
    for topic, records in runs:
        batch = batches.build(records, records[0].timestamp_ms)
        part = bytearray(
            build_entry(topic, stream, entry.partition, entry.flags, entry.origin, 0, batch)
        )
        blocks.set_base_offset(part, 0, records[0].offset)
        rebuilt += part
    return bytes(rebuilt)
