"""The records of the log as MQTT subscribers get them.

Stored batches are delivered as they are (the fan-out opens compressed ones), but for two kinds. A
record that Kafka wrote to a stream's topic needs a look: it is a message of the MQTT topic that its
key names, if the stream's filter matches it; any other is a message of the stream's own topic. What
is part of a transaction is not delivered where it stands, but where the log says that the
transaction is committed (`releases`); a marker is no message at all.
"""

from __future__ import annotations

from robustmq.core import batches, blocks
from robustmq.core.publish import build_entry
from robustmq.records import Record
from robustmq.shard.partitions import Partitions, is_transactional
from robustmq.shard.placement import ENTRY_KAFKA, Placement
from robustmq.storage.shard_store import BLOCK, DECLARED_MARKER, RELEASE, SHARED_BLOCK


def deliverable(
    block: bytes | bytearray | memoryview, placement: Placement, committed: bool = False
) -> bytes | bytearray:
    """The block with the Kafka entries of streams parted by MQTT topic, and without those of
    transactions; `committed`: there are none, or their transactions are."""
    if not placement.has_streams and (committed or not blocks.all_flags(block) & ENTRY_KAFKA):
        return block if isinstance(block, (bytes, bytearray)) else bytes(block)
    shown = bytearray()
    for entry in blocks.entries(block):
        log_topic = entry.log_name or entry.topic
        kafka = entry.flags & ENTRY_KAFKA
        if kafka and not committed and is_transactional(block, entry.batch_begin):
            continue
        if kafka and placement.is_stream(log_topic):
            shown += _rebuilt(block, entry, placement, log_topic)
        else:
            shown += block[entry.begin : entry.end]
    return shown


def shown(
    kind: int, payload: bytes | memoryview, partitions: Partitions, placement: Placement
) -> bytes | bytearray:
    """The block of an entry of a shard's log as subscribers get it; of one that tells nothing an
    empty one."""
    if kind == RELEASE:
        return deliverable(partitions.read_release(payload), placement, True)
    if kind == DECLARED_MARKER:
        return deliverable(partitions.read_marker(payload), placement)
    if kind == SHARED_BLOCK:
        return deliverable(partitions.read_shared(payload), placement)
    return deliverable(payload, placement) if kind == BLOCK else b""


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
