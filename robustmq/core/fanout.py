# cython: annotation_typing=False, cdivision=True

"""From blocks to the bytes of PUBLISH packets for many receivers (MQTT 5.0 section 3.3).

`deliver` is the way of QoS 0: each entry is encoded once for each variant of subscribers (version,
No Local, Retain As Published, subscription identifiers) and copied into the buffers of their
connections. What must be acknowledged is left to the sessions, which use `encode` for one record. A
record whose message expiry interval has passed is not sent; the others carry what remains of it
[MQTT-3.3.2-5, -6]. Headers turn into properties as
`robustmq.records` says. A batch whose records are not sound (a Kafka producer may send anything)
has no MQTT messages.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable

import robustmq.core.batches as batches
import robustmq.core.blocks as blocks
import robustmq.core.memory as memory
import robustmq.core.properties as properties
from robustmq.core.audience import DeliveryRoute, Sink, Variant
from robustmq.core.hash_table import HashTable
from robustmq.errors import BrokerError, Fault

# Columns of what `_inspect` finds in a record's headers: begin -1 when absent.
_QOS, _RETAIN, _FORMAT, _EXPIRY, _CONTENT, _RESPONSE, _CORRELATION, _SIZE = 0, 1, 2, 3, 4, 6, 8, 10
_RECORDS_A_SCAN = 256
_info = array("q", [0] * 12)
_records = array("i", [0] * (batches.RECORD_ROW * _RECORDS_A_SCAN))
_place = array("i", [0])

_NAME_QOS = b"mqtt.qos"
_NAME_RETAIN = b"mqtt.retain"
_NAME_FORMAT = b"mqtt.payload-format"
_NAME_EXPIRY = b"mqtt.message-expiry"
_NAME_CONTENT_TYPE = b"mqtt.content-type"
_NAME_RESPONSE_TOPIC = b"mqtt.response-topic"
_NAME_CORRELATION_DATA = b"mqtt.correlation-data"
_NAME_USER = b"mqtt.user."


class Cursor:
    """Where the record encoded last lies, so that encoding a batch record by record does not begin
    anew."""

    def __init__(self) -> None:
        self.block: object = None
        self.begin = 0
        self.index = 0
        self.at = 0


class Frames:
    """Encoded packets of one run: bytes, how many, and the size of the largest. And how many found
    a sink full, over all runs."""

    def __init__(self) -> None:
        self.dropped = 0
        self.data = bytearray()
        self.size = 0
        self.count = 0
        self.largest = 0

    def room(self, size: int) -> int:
        """Make room for one more packet; where it begins."""
        begin = self.size
        if begin + size > len(self.data):
            memory.resize(self.data, (begin + size) * 2)
        self.size = begin + size
        self.count += 1
        if size > self.largest:
            self.largest = size
        return begin

    def reset(self) -> None:
        """Forget what was encoded; a buffer that has grown large goes too."""
        self.size = 0
        self.count = 0
        self.largest = 0
        if len(self.data) > 1_048_576:
            self.data = bytearray()


_kept: list[Sink] = []
"""Sinks whose copies of the entry in work are kept elsewhere."""
_cursor = Cursor()
_frames = Frames()


def identifiers_property(identifiers: tuple[int, ...]) -> bytes:
    """The subscription identifier properties of a PUBLISH (3.3.2.3.8)."""
    out = bytearray()
    for identifier in identifiers:
        out.append(11)
        while identifier >= 128:
            out.append((identifier & 127) | 128)
            identifier >>= 7
        out.append(identifier)
    return bytes(out)


def deliver(
    block: bytes | bytearray | memoryview,
    routes: HashTable,
    resolve: Callable[[bytes], DeliveryRoute],
    dirty: list[Sink],
    above: list[tuple[int, DeliveryRoute]],
    kept: list[tuple[int, Sink]],
    now_ms_wall: int,
) -> int:
    """Encode every QoS 0 copy of a block into the sinks; the number of copies.

    `routes` has them by topic key; `resolve` makes those that are not there. Sinks that were not
    dirty are added to `dirty`; (entry begin, route) of what the sessions must handle to `above`,
    (entry begin, sink) of the clients that are away and for whom it is kept to `kept`.
    """
    data = memory.flat(block)
    source = data
    size = len(data)
    begin = 0
    delivered = 0
    while begin < size:
        end = blocks.check_entry(source, begin, size)
        route = routes.find(memory.get64(source, begin + 40))
        if route is None:
            name = begin + 48
            route = resolve(memory.cut(source, name, name + memory.get16(source, begin + 6)))
        topic = route.topic
        before = delivered
        lost = _frames.dropped
        acked = source[begin + 4] & 17
        if acked and route.above_qos0:
            above.append((begin, route))
        if route.always:
            delivered += _to_variants(data, begin, end, route.always, topic, dirty, now_ms_wall)
        if not acked and route.when_qos0:
            delivered += _to_variants(data, begin, end, route.when_qos0, topic, dirty, now_ms_wall)
        if route.meter is not None:
            if delivered > before:
                route.meter.sent(0, delivered - before)
            if _frames.dropped > lost:
                route.meter.dropped(0, _frames.dropped - lost)
        if _kept:
            for sink in _kept:
                kept.append((begin, sink))
            _kept.clear()
        begin = end
    return delivered


def _to_variants(
    data: bytes | bytearray,
    begin: int,
    end: int,
    variants: list[Variant],
    topic: bytes,
    dirty: list[Sink],
    now_ms_wall: int,
) -> int:
    delivered = 0
    source = data
    origin = memory.get64(source, begin + 16)
    if source[blocks.batch_begin(source, begin) + 22] & 7:
        try:
            data = blocks.plain_entry(data, begin)
        except BrokerError:
            return 0
        begin = 0
        end = len(data)
    for variant in variants:
        if variant.no_local_origin and variant.no_local_origin == origin:
            continue
        _frames.reset()
        try:
            shown = topic[variant.strip :] if variant.strip else topic
            _encode_entry(data, begin, end, variant, shown, now_ms_wall)
        except BrokerError:
            return delivered
        if not _frames.count:
            continue
        for sink in variant.sinks:
            delivered += _into_sink(sink, dirty)
    return delivered


def deal(
    block: bytes | bytearray | memoryview,
    begin: int,
    hands: list[Variant | None],
    dirty: list[Sink],
    now_ms_wall: int,
) -> int:
    """Encode each record of an entry for the only sink of the variant at its place in `hands`
    (None: nobody here) as QoS 0; the number of copies. Sinks become dirty as by `deliver`."""
    data = source = memory.flat(block)
    delivered = 0
    try:
        end = blocks.check_entry(source, begin, len(data))
        batch = blocks.batch_begin(source, begin)
        attributes = memory.get16be(source, batch + 21)
        if attributes & 32:
            return 0
        if attributes & 7:
            return deal(blocks.plain_entry(data, begin), 0, hands, dirty, now_ms_wall)
        topic = memory.cut(source, begin + 48, begin + 48 + memory.get16(source, begin + 6))
        rows = memory.ints(_records)
        info = memory.longs(_info)
        number = 0
        at = batch + 61
        while at < end:
            count = batches.scan_records(data, at, end, _records)
            for place in range(count):
                variant = hands[number] if number < len(hands) else None
                number += 1
                if variant is None:
                    continue
                row = place * 9
                age = _age(source, batch, attributes, rows[row + 8], now_ms_wall)
                if _inspect(data, rows[row + 4], rows[row + 5], rows[row + 6], age):
                    _frames.reset()
                    retain = variant.retain_as_published and info[1] == 1
                    shown = topic[variant.strip :] if variant.strip else topic
                    if _put_packet(
                        data, rows[row + 2], rows[row + 3], rows[row + 4], rows[row + 5], shown,
                        variant.version, 1 if retain else 0, 0, variant.subscription_ids, 0,
                    ):  # fmt: skip
                        delivered += _into_sink(variant.sinks[0], dirty)
            at = rows[(count - 1) * 9 + 6]
    except BrokerError:
        pass
    return delivered


def _into_sink(sink: Sink, dirty: list[Sink]) -> int:
    """Copy the packets encoded last into a sink; how many it took."""
    data = sink.data
    have = len(data)
    if have > sink.limit or sink.limit == 0:
        if sink.limit:
            sink.dropped += _frames.count
            _frames.dropped += _frames.count
        elif sink.kept:
            _kept.append(sink)
        return 0
    if not sink.dirty:
        sink.dirty = True
        dirty.append(sink)
    if sink.max_packet_size and _frames.largest > sink.max_packet_size:
        return _into_small_sink(sink)
    memory.resize(data, have + _frames.size)
    memory.copy(data, have, _frames.data, 0, _frames.size)
    sink.messages += _frames.count
    return _frames.count


def _into_small_sink(sink: Sink) -> int:
    """As above, for a client that does not accept all of these packets."""
    source = _frames.data
    at = 0
    taken = 0
    while at < _frames.size:
        body = at + 2
        length = source[at + 1] & 127
        shift = 7
        while source[body - 1] & 128:
            length |= (source[body] & 127) << shift
            shift += 7
            body += 1
        if body + length - at <= sink.max_packet_size:
            sink.data += memory.cut(source, at, body + length)
            taken += 1
        at = body + length
    sink.messages += taken
    return taken


def _encode_entry(
    data: bytes | bytearray, begin: int, end: int, variant: Variant, topic: bytes, now_ms_wall: int
) -> None:
    """All records of an entry as QoS 0 packets of one variant."""
    source = data
    batch = blocks.batch_begin(source, begin)
    attributes = memory.get16be(source, batch + 21)
    if attributes & 32:
        return
    assert not attributes & 7, "_to_variants has opened a compressed entry"
    rows = memory.ints(_records)
    info = memory.longs(_info)
    at = batch + 61
    while at < end:
        count = batches.scan_records(data, at, end, _records)
        for number in range(count):
            row = number * 9
            age = _age(source, batch, attributes, rows[row + 8], now_ms_wall)
            if _inspect(data, rows[row + 4], rows[row + 5], rows[row + 6], age):
                retain = variant.retain_as_published and info[1] == 1
                _put_packet(
                    data, rows[row + 2], rows[row + 3], rows[row + 4], rows[row + 5], topic,
                    variant.version, 1 if retain else 0, 0, variant.subscription_ids, 0,
                )  # fmt: skip
        at = rows[(count - 1) * 9 + 6]


def _age(
    source: bytes | bytearray, batch: int, attributes: int, delta: int, now_ms_wall: int
) -> int:
    """Whole seconds since a record was made."""
    stamp = _made_at(source, batch, attributes, delta)
    return (now_ms_wall - stamp) // 1000 if 0 <= stamp < now_ms_wall else 0


def _made_at(source: bytes | bytearray, batch: int, attributes: int, delta: int) -> int:
    """When a record was made, in milliseconds; -1 when it does not say so."""
    stamp = memory.get64be(source, batch + (35 if attributes & 8 else 27))
    if stamp < 0 or stamp > batches.STAMP_MAX:
        return -1
    return stamp if attributes & 8 else stamp + delta


def _inspect(data: bytes | bytearray, begin: int, number: int, end: int, age: int) -> bool:
    """Find the properties among a record's headers; False when the message has expired."""
    info = memory.longs(_info)
    info[0] = -1
    info[1] = 0
    info[2] = -1
    info[3] = -1
    info[4] = -1
    info[6] = -1
    info[8] = -1
    info[10] = 0
    if number == 0:
        if begin != end:
            raise BrokerError(Fault.CORRUPT_RECORD, "a record has bytes behind its headers")
        return True
    place = memory.ints(_place)
    at = begin
    for _ in range(number):
        length = batches.signed_varint(data, at, end, _place)
        name = place[0]
        if name < 0 or length < 0 or length > end - name:
            raise BrokerError(Fault.CORRUPT_RECORD, "a header is not sound")
        size = batches.signed_varint(data, name + length, end, _place)
        at = place[0]
        if at < 0 or size > end - at:
            raise BrokerError(Fault.CORRUPT_RECORD, "a header is not sound")
        null = size < 0
        if null:
            size = 0
        if not _known(data, name, length, at, at + size) and not null:
            info[10] += _user_size(data, name, length, at, size)
        at += size
    if at != end:
        raise BrokerError(Fault.CORRUPT_RECORD, "a record has bytes behind its headers")
    if info[3] >= 0:
        if age >= info[3]:
            return False
        info[3] -= age
    return True


def _known(data: bytes | bytearray, name: int, length: int, at: int, end: int) -> bool:
    """Take a header that is one of ours; False when it is a user property."""
    source = data
    if length < 8 or length > 21 or not memory.same(source, name, _NAME_QOS, 0, 5):
        return False
    info = memory.longs(_info)
    if length == 8 and memory.same(source, name, _NAME_QOS, 0, 8):
        info[0] = 0
        if end - at == 1 and (source[at] == 49 or source[at] == 50):
            info[0] = source[at] - 48
    elif length == 11 and memory.same(source, name, _NAME_RETAIN, 0, 11):
        info[1] = 1 if end - at == 1 and source[at] == 49 else 0
    elif length == 17 and memory.same(source, name, _NAME_CONTENT_TYPE, 0, 17):
        _span(data, 4, at, end, end - at <= 65_535 and properties.is_text(source, at, end))
    elif length == 21 and memory.same(source, name, _NAME_CORRELATION_DATA, 0, 21):
        _span(data, 8, at, end, end - at <= 65_535)
    elif length == 19 and memory.same(source, name, _NAME_FORMAT, 0, 19):
        if end - at == 1 and 48 <= source[at] <= 49:
            info[2] = source[at] - 48
    elif length == 19 and memory.same(source, name, _NAME_EXPIRY, 0, 19):
        _set_expiry(data, at, end)
    elif length == 19 and memory.same(source, name, _NAME_RESPONSE_TOPIC, 0, 19):
        _span(data, 6, at, end, _is_topic(data, at, end))
    else:
        return False
    return True


def _span(data: bytes | bytearray, column: int, at: int, end: int, sound: bool) -> None:
    if sound:
        info = memory.longs(_info)
        info[column] = at
        info[column + 1] = end


def _set_expiry(data: bytes | bytearray, at: int, end: int) -> None:
    source = data
    if end == at or end - at > 10:
        return
    value = 0
    while at < end:
        if source[at] < 48 or source[at] > 57:
            return
        value = value * 10 + source[at] - 48
        at += 1
    info = memory.longs(_info)
    info[3] = value if value < 0xFFFFFFFF else 0xFFFFFFFF


def _is_topic(data: bytes | bytearray, at: int, end: int) -> bool:
    source = data
    if end == at or end - at > 65_535 or not properties.is_text(source, at, end):
        return False
    while at < end:
        if source[at] == 35 or source[at] == 43:
            return False
        at += 1
    return True


def _name_skip(data: bytes | bytearray, name: int, length: int) -> int:
    """How much of a header's name is the prefix that keeps user properties apart from ours."""
    return 10 if length >= 10 and memory.same(data, name, _NAME_USER, 0, 10) else 0


def _user_size(data: bytes | bytearray, name: int, length: int, at: int, size: int) -> int:
    """The size of a header as a user property, 0 when it cannot be one."""
    skip = _name_skip(data, name, length)
    length -= skip
    if length > 65_535 or size > 65_535:
        return 0
    name += skip
    if not properties.is_text(data, name, name + length) or not properties.is_text(
        data, at, at + size
    ):
        return 0
    return 5 + length + size


def _properties_size(ids: bytes, topic_alias: int) -> int:
    """The size of the properties of a packet, from what `_inspect` has found."""
    info = memory.longs(_info)
    size = info[10] + len(ids)
    if info[2] >= 0:
        size += 2
    if info[3] >= 0:
        size += 5
    if info[4] >= 0:
        size += 3 + info[5] - info[4]
    if info[6] >= 0:
        size += 3 + info[7] - info[6]
    if info[8] >= 0:
        size += 3 + info[9] - info[8]
    if topic_alias:
        size += 3
    return size


def length_size(value: int) -> int:
    """Bytes of a variable byte integer."""
    return 1 if value < 128 else 2 if value < 16_384 else 3 if value < 2_097_152 else 4


def put_length(target: bytearray, at: int, value: int) -> int:
    """Write a variable byte integer; the place after it."""
    while value >= 128:
        target[at] = (value & 127) | 128
        value >>= 7
        at += 1
    target[at] = value
    return at + 1


def _put_packet(
    data: bytes | bytearray,
    payload_begin: int,
    payload_end: int,
    headers: int,
    number: int,
    topic: bytes,
    version: int,
    bits: int,
    packet_id: int,
    ids: bytes,
    topic_alias: int,
) -> bool:
    """Encode the record that `_inspect` has seen; `bits` are the low bits of the packet's first
    byte. False when no packet can hold it."""
    source = data
    payload = payload_end - payload_begin if payload_begin >= 0 else 0
    body = 2 + len(topic) + payload
    if bits & 6:
        body += 2
    inner = 0
    if version == 5:
        inner = _properties_size(ids, topic_alias)
        body += length_size(inner) + inner
    if body > 268_435_455:
        # Not to be said in four bytes (1.5.5): such a record is no MQTT message.
        return False
    at = _frames.room(1 + length_size(body) + body)
    target = _frames.data
    target[at] = 48 | bits
    at = put_length(target, at + 1, body)
    memory.put16be(target, at, len(topic))
    memory.copy(target, at + 2, topic, 0, len(topic))
    at += 2 + len(topic)
    if bits & 6:
        memory.put16be(target, at, packet_id)
        at += 2
    if version == 5:
        at = put_length(target, at, inner)
        if inner:
            at = _put_properties(target, at, data, headers, number, ids, topic_alias)
    if payload:
        memory.copy(target, at, source, payload_begin, payload)
    return True


def _put_properties(
    target: bytearray,
    at: int,
    data: bytes | bytearray,
    headers: int,
    number: int,
    ids: bytes,
    topic_alias: int,
) -> int:
    info = memory.longs(_info)
    if info[2] >= 0:
        target[at] = 1
        target[at + 1] = info[2]
        at += 2
    if info[3] >= 0:
        target[at] = 2
        memory.put32be(target, at + 1, info[3])
        at += 5
    if topic_alias:
        target[at] = 35
        memory.put16be(target, at + 1, topic_alias)
        at += 3
    if info[4] >= 0:
        at = _put_span(target, at, 3, data, info[4], info[5])
    if info[6] >= 0:
        at = _put_span(target, at, 8, data, info[6], info[7])
    if info[8] >= 0:
        at = _put_span(target, at, 9, data, info[8], info[9])
    memory.copy(target, at, ids, 0, len(ids))
    at += len(ids)
    return _put_user_properties(target, at, data, headers, number) if info[10] else at


def _put_span(
    target: bytearray, at: int, name: int, data: bytes | bytearray, begin: int, end: int
) -> int:
    target[at] = name
    memory.put16be(target, at + 1, end - begin)
    memory.copy(target, at + 3, data, begin, end - begin)
    return at + 3 + end - begin


def _put_user_properties(
    target: bytearray, at: int, data: bytes | bytearray, headers: int, number: int
) -> int:
    """The second walk over the headers, which the first has found sound."""
    place = memory.ints(_place)
    end = len(data)
    position = headers
    for _ in range(number):
        length = batches.signed_varint(data, position, end, _place)
        name = place[0]
        size = batches.signed_varint(data, name + length, end, _place)
        position = place[0]
        if size < 0:
            continue
        if not _known(data, name, length, position, position + size) and _user_size(
            data, name, length, position, size
        ):
            skip = _name_skip(data, name, length)
            at = _put_span(target, at, 38, data, name + skip, name + length)
            memory.put16be(target, at, size)
            memory.copy(target, at + 2, data, position, size)
            at += 2 + size
        position += size
    return at


def record_levels(block: bytes | bytearray | memoryview, begin: int) -> list[int]:
    """For each record of an entry its QoS, and 4 when it has the RETAIN flag; above these three
    bits the time at which it expires, in milliseconds, 0 for never. Empty for a batch that is not
    sound."""
    data = memory.flat(block)
    levels: list[int] = []
    try:
        end = blocks.check_entry(data, begin, len(data))
        batch = blocks.batch_begin(data, begin)
        attributes = memory.get16be(data, batch + 21)
        if attributes & 32:
            return levels
        if attributes & 7:
            return record_levels(blocks.plain_entry(data, begin), 0)
        unset = 1 if data[begin + 4] & 16 else 0
        rows = memory.ints(_records)
        info = memory.longs(_info)
        at = batch + 61
        while at < end:
            count = batches.scan_records(data, at, end, _records)
            for number in range(count):
                row = number * 9
                _inspect(data, rows[row + 4], rows[row + 5], rows[row + 6], 0)
                level = (unset if info[0] < 0 else info[0]) | (4 if info[1] else 0)
                if info[3] >= 0:
                    stamp = _made_at(data, batch, attributes, rows[row + 8])
                    if stamp >= 0:
                        level |= (stamp + 1000 * info[3]) << 3
                levels.append(level)
            at = rows[(count - 1) * 9 + 6]
    except BrokerError:
        return []
    return levels


def encode(
    block: bytes,
    entry_begin: int,
    record_index: int,
    version: int,
    qos: int,
    dup: bool,
    retain: bool,
    packet_id: int,
    subscription_ids: bytes | tuple[int, ...],
    now_ms_wall: int,
    topic_alias: int = 0,
    send_topic: bool = True,
    strip: int = 0,
) -> bytes:
    """One record as a PUBLISH packet; b"" when it has expired, or is not there.

    `subscription_ids` are the identifiers, or the bytes that `identifiers_property` made of them;
    `strip` is how much of the topic's name is not shown.
    """
    ids = (
        subscription_ids
        if isinstance(subscription_ids, bytes)
        else identifiers_property(subscription_ids)
    )
    bits = (8 if dup else 0) | qos << 1 | (1 if retain else 0)
    try:
        _frames.reset()
        _encode_one(
            block,
            entry_begin,
            record_index,
            version,
            bits,
            packet_id,
            ids,
            now_ms_wall,
            topic_alias,
            send_topic,
            strip,
        )
    except BrokerError:
        return b""
    return memory.cut(_frames.data, 0, _frames.size)


def _encode_one(
    block: bytes | bytearray | memoryview,
    begin: int,
    index: int,
    version: int,
    bits: int,
    packet_id: int,
    ids: bytes,
    now_ms_wall: int,
    topic_alias: int,
    send_topic: bool,
    strip: int,
) -> None:
    data = memory.flat(block)
    source = data
    end = blocks.check_entry(source, begin, len(data))
    batch = blocks.batch_begin(source, begin)
    attributes = memory.get16be(source, batch + 21)
    if attributes & 32:
        return
    if attributes & 7:
        opened = blocks.plain_entry(data, begin)
        _encode_one(
            opened,
            0,
            index,
            version,
            bits,
            packet_id,
            ids,
            now_ms_wall,
            topic_alias,
            send_topic,
            strip,
        )
        return
    at = batch + 61
    number = 0
    if _cursor.block is data and _cursor.begin == begin and _cursor.index <= index:
        at = _cursor.at
        number = _cursor.index
    rows = memory.ints(_records)
    while number < index and at < end:
        at = skip_record(data, at, end)
        number += 1
    if at >= end or not batches.scan_records(data, at, skip_record(data, at, end), _records):
        return
    if isinstance(data, bytes):
        _cursor.block = data
        _cursor.begin = begin
        _cursor.index = index
        _cursor.at = at
    age = _age(source, batch, attributes, rows[8], now_ms_wall)
    if _inspect(data, rows[4], rows[5], rows[6], age):
        topic = memory.cut(source, begin + 48 + strip, begin + 48 + memory.get16(source, begin + 6))
        _put_packet(
            data, rows[2], rows[3], rows[4], rows[5], topic if send_topic else b"",
            version, bits, packet_id, ids, topic_alias,
        )  # fmt: skip


def skip_record(data: bytes | bytearray, at: int, end: int) -> int:
    """The end of the record that begins there."""
    place = memory.ints(_place)
    length = batches.signed_varint(data, at, end, _place)
    if place[0] < 0 or length < 6 or length > end - place[0]:
        raise BrokerError(Fault.CORRUPT_RECORD, "a record is cut short")
    return place[0] + length
