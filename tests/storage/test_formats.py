"""What a broker leaves on disk, read with nothing but docs/formats.md in hand."""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Iterator
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple

import msgspec
import paho.mqtt.client as paho
import pytest
from crc32c import crc32c
from paho.mqtt.enums import CallbackAPIVersion

from tests.broker import BrokerProcess, until

MODULUS = 2**64


class Entry(NamedTuple):
    """An entry of a shard's log."""

    position: int
    kind: int
    payload: bytes


def mix(data: bytes, seed: int) -> int:
    """The hash that says which shard a name lives in."""
    state = seed ^ (len(data) * 0x9E3779B97F4A7C15) % MODULUS
    whole = len(data) // 8 * 8
    for at in range(0, whole, 8):
        word = int.from_bytes(data[at : at + 8], "little")
        state = (state ^ word) * 0xBF58476D1CE4E5B9 % MODULUS
        state ^= state >> 29
    state = (state ^ int.from_bytes(data[whole:], "little")) * 0x94D049BB133111EB % MODULUS
    for factor in (0xFF51AFD7ED558CCD, 0xC4CEB9FE1A85EC53):
        state ^= state >> 33
        state = state * factor % MODULUS
    return state ^ state >> 33


def log_entries(shard: Path) -> Iterator[Entry]:
    for segment in sorted((shard / "log").iterdir()):
        data = segment.read_bytes()
        start, at = int(segment.stem, 16), 0
        while at < len(data):
            length, crc, kind, version, mark = struct.unpack_from("<IIBBH", data, at)
            assert (version, mark) == (1, 0xB10C)
            assert crc32c(data[at + 8 : at + length]) == crc
            yield Entry(start + at, kind, data[at + 36 : at + length])
            at += length


def block_entries(block: bytes) -> Iterator[tuple[int, bytes, int, int, bytes]]:
    """(offset in the block, topic, previous position, base offset, record batch)."""
    at = 0
    while at < len(block):
        length, _, _, topic, _, _, name = struct.unpack_from("<IBBHIHH", block, at)
        _, previous, base_offset = struct.unpack_from("<QQQ", block, at + 16)
        begin = at + 48
        batch = begin + topic + name
        yield at, block[begin : begin + topic], previous, base_offset, block[batch : at + length]
        at += length


def shard_of(data: Path, count: int, topic: bytes) -> Path:
    return data / f"{mix(topic, 0) % count:04d}"


def publish(port: int, messages: list[tuple[str, bytes, bool]]) -> None:
    client = paho.Client(CallbackAPIVersion.VERSION2, protocol=paho.MQTTv5)
    client.connect("127.0.0.1", port)
    client.loop_start()
    for topic, payload, retain in messages:
        client.publish(topic, payload, 1, retain).wait_for_publish(10)
    client.disconnect()
    client.loop_stop()


def test_light_topics_are_chained_batches_in_the_log_that_their_name_leads_to(
    tmp_path: Path,
) -> None:
    with BrokerProcess(tmp_path, 2) as broker:
        messages = [(f"a/{number % 3}", b"<value %d>" % number, False) for number in range(9)]
        publish(broker.mqtt, messages)
        broker.kill()
    facts = json.loads((broker.data / "cluster.json").read_text())
    assert facts["format_version"] == 2
    for number in range(3):
        topic = b"a/%d" % number
        positions = [2**64 - 1]
        values: list[bytes] = []
        for entry in log_entries(shard_of(broker.data, facts["shard_count"], topic)):
            if entry.kind != 1:
                continue
            for at, name, previous, base_offset, batch in block_entries(entry.payload):
                if name != topic:
                    continue
                assert previous == positions[-1], "the position of the entry before it"
                head = entry.payload[at : at + 48]
                assert int.from_bytes(head[8:12], "little") == crc32c(head[:8] + head[12:])
                assert base_offset == len(values)
                assert int.from_bytes(batch[:8], "big") == base_offset
                positions.append(entry.position + 36 + at)
                values += re.findall(rb"<value \d>", batch)
        assert values == [payload for name, payload, _ in messages if name.encode() == topic]


def test_a_clean_stop_leaves_a_checkpoint_of_what_is_looked_up(tmp_path: Path) -> None:
    with BrokerProcess(tmp_path, 1) as broker:
        publish(broker.mqtt, [("kept", b"value", True), ("plain", b"x", False)])
        assert broker.stop() == 0
    facts = json.loads((broker.data / "cluster.json").read_text())
    shard = shard_of(broker.data, facts["shard_count"], b"kept")
    secret = bytes.fromhex(facts["topic_secret"])
    key = int.from_bytes(blake2b(b"kept", digest_size=8, key=secret).digest(), "little")
    database = pytest.importorskip("plyvel").DB(str(shard / "leveldb"))
    stored = dict(database)
    database.close()
    assert stored[b"tkept"] == b""
    ((_, topic, _, _, batch),) = block_entries(stored[b"rkept"])
    assert topic == b"kept" and b"value" in batch
    position, index_file, sources, _, partitions = msgspec.msgpack.decode(stored[b"c"])
    assert index_file == f"index-{position:016x}" and sources == {} and partitions == {}
    assert int.from_bytes(stored[b"p"], "little") <= position
    dump = (shard / index_file).read_bytes()
    assert crc32c(dump[:-4]) == int.from_bytes(dump[-4:], "little")
    version, size = struct.unpack_from("<QQ", dump)
    assert (version, len(dump)) == (1, 16 + size * 24 + 4)
    slots = dict(struct.unpack_from("<QQ", dump, 16 + 24 * n) for n in range(size))
    assert slots[key] == 1, "its next offset"


def test_segments_hold_kafkas_batches_and_the_log_says_where_they_end(tmp_path: Path) -> None:
    stream = '[[streams]]\nfilter = "s/#"\ntopic = "all"\npartitions = 1\n'
    with BrokerProcess(tmp_path, 1, stream) as broker:
        publish(broker.mqtt, [("s/1", b"first", False), ("s/2", b"second", False)])
        until(lambda: len(list(broker.data.glob("*/segments/*/*.log"))) == 1)
        broker.kill()
    (segment,) = broker.data.glob("*/segments/*/*.log")
    assert segment.name == f"{0:020d}.log"
    data = segment.read_bytes()
    bases, at = [], 0
    while at < len(data):
        base, length = struct.unpack_from(">qi", data, at)
        bases.append(base)
        at += length + 12
    assert bases == [0, 1] and at == len(data)
    shard = segment.parents[2]
    marks = [
        mark
        for entry in log_entries(shard)
        if entry.kind == 4
        for mark in msgspec.msgpack.decode(entry.payload)
    ]
    topic_id, partition = segment.parent.name.split("-")
    assert [(m[0], m[1], m[2], m[3], m[8].hex(), m[9]) for m in marks] == [
        (b"all", int(partition), 0, b"s/1", topic_id, 1),
        (b"all", int(partition), 1, b"s/2", topic_id, 2),
    ]
