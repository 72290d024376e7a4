"""What is stored, as JSON: entries of the log, batches with their records, keys and values.

Bytes are text where they are printable UTF-8, else `{"base64": ...}`: so every byte can be had
back. Kinds and layouts are those of docs/formats.md.
"""

from __future__ import annotations

import base64
from collections.abc import Iterator
from typing import Any

import msgspec

from robustmq.core import batches, blocks
from robustmq.core.batches import BatchInfo
from robustmq.core.topic_index import NO_POSITION
from robustmq.errors import BrokerError
from robustmq.storage import shard_log, shared
from robustmq.storage.inspection import Batch, Damage, Entry, Tail

Shown = dict[str, Any]
KINDS = {
    getattr(shard_log, name): name
    for name in (
        "BLOCK", "MACHINE", "INBOX", "DECLARED_MARKER", "CURSOR", "TOPIC_DELETED", "TOPIC_CREATED",
        "DELAYED_BLOCK", "DELAYED_OVER", "DEALT", "RETAINED_BLOCK", "TOPIC_TRIMMED", "RELEASE",
        "SHARED_BLOCK", "TOPIC_PLACED",
    )
}  # fmt: skip
_COMPRESSION = ("none", "gzip", "snappy", "lz4", "zstd")
_NAMED = (shard_log.TOPIC_DELETED, shard_log.TOPIC_CREATED)
_BLOCKS = (shard_log.BLOCK, shard_log.DELAYED_BLOCK, shard_log.RETAINED_BLOCK)
_UNPACKED = (
    shard_log.MACHINE,
    shard_log.INBOX,
    shard_log.DECLARED_MARKER,
    shard_log.CURSOR,
    shard_log.DEALT,
    shard_log.RELEASE,
)
_MAX_DEPTH = 12


def shown(value: Any, depth: int = 0) -> Any:
    """Anything that MessagePack holds, as JSON can hold it."""
    if isinstance(value, (bytes, bytearray, memoryview)):
        return _text(bytes(value))
    if depth < _MAX_DEPTH and isinstance(value, (list, tuple)):
        return [shown(one, depth + 1) for one in value]
    if depth < _MAX_DEPTH and isinstance(value, dict):
        return {str(shown(key)): shown(one, depth + 1) for key, one in value.items()}
    if value is None or isinstance(value, (str, int, float, bool)):
        return value
    return str(value)


def _text(data: bytes) -> Any:
    try:
        text = data.decode()
    except UnicodeDecodeError:
        text = None
    if text is not None and (text.isprintable() or text.strip("\r\n\t ").isprintable()):
        return text
    return {"base64": base64.b64encode(data).decode()}


def unpacked(data: bytes) -> Any:
    """MessagePack as JSON, whatever it is; what is none, as bytes."""
    try:
        found = msgspec.msgpack.decode(data)
    except msgspec.DecodeError:
        return shown(data)
    if isinstance(found, list):
        found = [_nested(one) for one in found]
    return shown(found)


def _nested(value: Any) -> Any:
    """Records of machines are MessagePack within MessagePack."""
    if isinstance(value, list):
        return [_nested(one) for one in value]
    if not isinstance(value, bytes) or not value or not 0x80 <= value[0] <= 0x9F:
        return value
    try:
        return msgspec.msgpack.decode(value)
    except msgspec.DecodeError:
        return value


def batch_of(info: BatchInfo, data: bytes, records: bool) -> Shown:
    """A record batch, with its records if wanted."""
    row: Shown = {
        "base_offset": info.base_offset,
        "records": info.count,
        "bytes": info.length,
        "compression": _COMPRESSION[min(info.attributes & 7, 4)],
        "max_timestamp": info.max_timestamp,
    }
    if info.producer_id >= 0:
        row |= {"producer_id": info.producer_id, "producer_epoch": info.producer_epoch}
    if info.attributes & batches.TRANSACTIONAL:
        row["transactional"] = True
    if info.attributes & batches.CONTROL:
        row["control"] = True
    if records:
        try:
            row["data"] = [_record(one) for one in batches.parse(data)]
        except BrokerError as error:
            row["error"] = str(error)
    return row


def _record(record: Any) -> Shown:
    return {
        "offset": record.offset,
        "timestamp": record.timestamp_ms,
        "key": shown(record.key),
        "value": shown(record.value),
        "headers": [[name, shown(value)] for name, value in record.headers],
    }


def entries_of(payload: bytes, records: bool) -> Iterator[Shown]:
    """The entries of a block."""
    for entry in blocks.entries(payload):
        stored = shared.named(entry.topic)
        data = payload[entry.batch_begin : entry.end]
        row: Shown = {
            "topic": shown(entry.topic),
            "partition": stored[1] if stored is not None else entry.partition,
            "flags": entry.flags,
            "origin": entry.origin,
            "base_offset": entry.base_offset,
            "previous": None if entry.previous == NO_POSITION else entry.previous,
        }
        if entry.log_name:
            row["log_name"] = shown(entry.log_name)
        try:
            info = batches.validate(data, 0, len(data))
            row |= {"crc_ok": info.crc_ok, "batch": batch_of(info, data, records)}
        except BrokerError as error:
            row["error"] = str(error)
        yield row


def entry_of(entry: Entry, records: bool) -> Shown:
    """An entry of the log."""
    row: Shown = {
        "position": entry.position,
        "kind": KINDS.get(entry.kind, entry.kind),
        "source": entry.source,
        "sequence": entry.sequence,
        "timestamp": entry.timestamp_ms,
        "bytes": entry.end - entry.position,
    }
    try:
        row |= _content(entry, records)
    except (BrokerError, AssertionError, ValueError, IndexError) as error:
        row["error"] = f"cannot be read: {error}"
    return row


def _content(entry: Entry, records: bool) -> Shown:
    payload = entry.payload
    if entry.kind in _BLOCKS:
        return {"entries": list(entries_of(payload, records))}
    if entry.kind == shard_log.SHARED_BLOCK:
        marker, block = shared.parts(payload)
        return {"marker": unpacked(marker), "entries": list(entries_of(block, records))}
    if entry.kind in _NAMED:
        return {"topic": shown(payload)}
    if entry.kind == shard_log.TOPIC_TRIMMED:
        return {"topic": shown(payload[8:]), "offset": int.from_bytes(payload[:8], "little")}
    if entry.kind in _UNPACKED:
        return {"content": unpacked(payload)}
    return {"content": shown(payload)} if payload else {}


def item_of(found: Entry | Batch | Damage | Tail, records: bool) -> Shown:
    """Whatever was read of a file."""
    if isinstance(found, Entry):
        return entry_of(found, records)
    if isinstance(found, Batch):
        return {"position": found.position, **batch_of(found.info, found.data, records)}
    row: Shown = {"file": found.file, "position": found.position, "bytes": found.length}
    row["damaged" if isinstance(found, Damage) else "unfinished"] = True
    return row


def pair_of(key: bytes, value: bytes) -> Shown:
    """A key and its value of the look-ups; eight bytes are a number there."""
    number = len(value) == 8
    return {
        "key": shown(key),
        "value": int.from_bytes(value, "little") if number else unpacked(value),
    }
