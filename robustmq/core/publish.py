# cython: annotation_typing=False, cdivision=True

"""From the PUBLISH packets of a read buffer to entries in the blocks of their shards (MQTT 5.0
section 3.3).

`Publisher` is the receiving side of one connection. `absorb` passes twice over a run of packets:
the first pass checks each one and sorts it to its topic's chain; the second writes one entry, so
one record batch, for each topic. Messages of one topic keep their order; those of different topics
may change places, which MQTT allows (4.6.0). A packet that is not sound raises, after all that
precedes it has been written.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable
from typing import Any

import robustmq.core.batches as batches
import robustmq.core.blocks as blocks
import robustmq.core.frames as frames
import robustmq.core.hashing as hashing
import robustmq.core.memory as memory
import robustmq.core.properties as properties
from robustmq.core.blocks import BlockBuilder, build_entry
from robustmq.core.hash_table import HashTable
from robustmq.errors import BrokerError, Fault

__all__ = ["BlockBuilder", "Publisher", "Tally", "TopicRoute", "build_entry"]

ROUTES_MAX = 32_768
TOPIC_LEVELS_MAX = 128
# A row of the work table: payload begin, payload end, QoS, RETAIN, properties begin, properties
# end, size of the record's body, number of headers, the next row of the same topic.
COLUMNS = 9

_QOS_HEADER = b"\x10mqtt.qos\x02"
_RETAIN_HEADER = b"\x16mqtt.retain\x021"
_FORMAT_HEADER = b"\x26mqtt.payload-format\x02"
_EXPIRY_NAME = b"\x26mqtt.message-expiry"
_CONTENT_TYPE_NAME = b"\x22mqtt.content-type"
_RESPONSE_TOPIC_NAME = b"\x26mqtt.response-topic"
_CORRELATION_DATA_NAME = b"\x2amqtt.correlation-data"
_RESERVED_PREFIX = b"mqtt."
_USER_PREFIX = b"mqtt.user."

_place = array("q", [0] * properties.COLUMNS)
_work = array("i", [0] * (COLUMNS * 256))


class TopicRoute:
    """What a publisher needs to know of a topic: where its records go, and whether it may send
    them."""

    def __init__(
        self,
        topic: bytes,
        shard: int,
        builder: int,
        partition: int,
        flags: int,
        log_name: bytes,
        refusal: Fault | None = None,
        asked: bytes | None = None,
        delay_ms: int = 0,
        meter: Any = None,
    ) -> None:
        """`builder` indexes the publisher's builders; `flags` are entry flags; `log_name` is a
        stream's or b"". `refusal` says why nothing may be sent there; `asked` is the name that
        publishers use, if it is another; a message with a delay is due then, and is acknowledged
        alone. `meter` counts what is published, if somebody wants to know."""
        self.topic = topic
        self.key = hashing.topic_key(topic)
        self.shard = shard
        self.builder = builder
        self.partition = partition
        self.flags = flags
        self.log_name = log_name
        self.refusal = refusal
        self.asked = topic if asked is None else asked
        self.delay_ms = delay_ms
        self.meter = meter
        self.plain = refusal is None and not delay_ms
        # The chain of the run being absorbed.
        self.head = -1
        self.tail = -1
        self.count = 0
        self.run_bytes = 0
        self.run_flags = 0


class Tally:
    """What all publishers of a worker have taken in, and what they might not write."""

    def __init__(self) -> None:
        self.messages = 0
        self.denied = 0


class RouteTable:
    """Topic -> route, found by the bytes of a read buffer without making an object of them."""

    def __init__(self, capacity: int = ROUTES_MAX) -> None:
        """The route beyond `capacity` empties the table."""
        self.table = HashTable(capacity)

    def __len__(self) -> int:
        return len(self.table)

    def find(self, source: bytes | bytearray, begin: int, end: int) -> TopicRoute | None:
        """The route of a topic name in a buffer."""
        route: TopicRoute | None = self.table.find(hashing.mix_area(source, begin, end, 1))
        if route is None:
            return None
        name = route.asked
        if len(name) != end - begin or not memory.same(source, begin, name, 0, end - begin):
            return None
        return route

    def get(self, topic: bytes) -> TopicRoute | None:
        """The route of a topic."""
        return self.find(topic, 0, len(topic))

    def put(self, route: TopicRoute) -> None:
        """Add a route; one whose name has the same hash makes way."""
        self.table.put(hashing.mix(route.asked, 1), route)

    def forget(self, topic: bytes) -> None:
        """Another answer may be right for this topic."""
        self.table.put(hashing.mix(topic, 1), None)

    def clear(self) -> None:
        """Other answers may be right for all."""
        self.table.clear()


class Publisher:
    """One connection's PUBLISH packets: aliases, verdicts, and what waits for an
    acknowledgement."""

    def __init__(
        self,
        version: int,
        origin: int,
        routes: RouteTable,
        resolve: Callable[[bytes], TopicRoute],
        builders: list[BlockBuilder],
        topic_alias_maximum: int = 0,
        retain_available: bool = True,
        maximum_qos: int = 2,
        topic_length_max: int = 65_535,
        topic_levels_max: int = TOPIC_LEVELS_MAX,
        properties_length_max: int = 268_435_455,
        user_properties_max: int = 268_435_455,
        tally: Tally | None = None,
        retain_alone: bool = False,
    ) -> None:
        """`resolve` is asked once for each topic that is not in `routes`, which is emptied when it
        is full. `retain_alone`: each packet with RETAIN is handled alone."""
        self.retain_alone = retain_alone
        self.version = version
        self.origin = origin
        self.routes = routes
        self.resolve = resolve
        self.builders = builders
        self.topic_alias_maximum = topic_alias_maximum
        self.retain_available = retain_available
        self.maximum_qos = maximum_qos
        self.topic_length_max = topic_length_max
        self.topic_levels_max = topic_levels_max
        self.properties_length_max = properties_length_max
        self.user_properties_max = user_properties_max
        self.aliases: dict[int, bytes] = {}
        self.packet_ids: array[int] = array("H")
        self.ack_builders: list[int] = []
        self.tally = Tally() if tally is None else tally
        self.refusal: Fault | None = None
        """Why the packet that `absorb_one` looked at last may not be sent."""
        # The packet being read: see _read.
        self.topic_begin = 0
        self.topic_end = 0
        self.alias = 0
        self.packet_id = 0
        self.properties_begin = 0
        self.properties_end = 0
        self.payload_begin = 0

    def absorb(
        self, buffer: bytes | bytearray, table: array[int], first: int, last: int, timestamp_ms: int
    ) -> int:
        """Take in rows until one that Python must handle; the next row.

        That is a packet other than PUBLISH, one of QoS 2, one of QoS 1 to a topic that may not be
        written, or one whose answer may be another than that of the rest.
        """
        touched: list[TopicRoute] = []
        if (last - first) * COLUMNS > len(_work):
            _work.extend([0] * ((last - first) * COLUMNS - len(_work)))
        try:
            return self._gather(buffer, table, first, last, touched)
        finally:
            try:
                for route in touched:
                    self._write(buffer, route, 0, 0, timestamp_ms)
            finally:
                # Routes are shared: none keeps a chain that points into another run's work table.
                for route in touched:
                    route.head = -1

    def absorb_stream(
        self,
        buffer: bytes | bytearray,
        end: int,
        table: array[int],
        max_packet_size: int,
        timestamp_ms: int,
    ) -> int:
        """Take in the QoS 0 packets at the buffer's beginning; where the first other one begins, or
        one that is not whole. `table` holds what is being looked at."""
        rows = memory.ints(table)
        plain = 247 if self.retain_alone else 246
        begin = 0
        while begin < end:
            count, after = frames.scan(buffer, begin, end, table, max_packet_size)
            number = 0
            while number < count and rows[number * 4] & plain == 48:
                number += 1
            if number == 0:
                break
            self.absorb(buffer, table, 0, number, timestamp_ms)
            if number < count:
                return rows[number * 4 + 3]
            begin = after
        return begin

    def _gather(
        self,
        buffer: bytes | bytearray,
        table: array[int],
        first: int,
        last: int,
        touched: list[TopicRoute],
    ) -> int:
        source = buffer
        rows = memory.ints(table)
        route: TopicRoute | None = None
        before_begin = 0
        before_size = -1
        row = first
        number = 0
        alone = 1 if self.retain_alone else 0
        while row < last:
            header = rows[row * 4]
            qos = header >> 1 & 3
            if header >> 4 != 3 or qos == 2 or header & alone:
                break
            end = rows[row * 4 + 2]
            self._read(buffer, header, rows[row * 4 + 1], end)
            size = self.topic_end - self.topic_begin
            if (
                route is None
                or size == 0
                or self.alias
                or size != before_size
                or not memory.same(source, self.topic_begin, source, before_begin, size)
            ):
                route = self._route(buffer)
                before_size = size if size else -1
                before_begin = self.topic_begin
            if not route.plain and (qos or route.refusal is not None):
                if qos:
                    break
                self.tally.denied += 1
            else:
                if self._chain(buffer, header, end, number, route):
                    touched.append(route)
                number += 1
                if qos:
                    memory.push(self.packet_ids, self.packet_id)
                self.tally.messages += 1
            row += 1
        return row

    def absorb_one(
        self,
        buffer: bytes | bytearray,
        table: array[int],
        row: int,
        timestamp_ms: int,
        generation: int = 0,
    ) -> tuple[int, int, int]:
        """Take in one packet of any QoS as an entry of its own: (packet id, QoS, builder), builder
        -1 if refused. `generation` is that of the packet id of QoS 2."""
        header = table[row * 4]
        end = table[row * 4 + 2]
        qos = header >> 1 & 3
        self._read(buffer, header, table[row * 4 + 1], end)
        route = self._route(buffer)
        self.refusal = route.refusal
        if route.refusal is not None:
            self.tally.denied += 1
            return self.packet_id, qos, -1
        self._chain(buffer, header, end, 0, route)
        flags = 0
        if qos == 2:
            flags = 136 if header & 8 else 8
        builder = self.builders[route.builder]
        begin = builder.size
        self._write(buffer, route, flags, self.packet_id, timestamp_ms)
        builder.data[begin + 5] = generation
        self.tally.messages += 1
        return self.packet_id, qos, route.builder

    def peek(
        self, buffer: bytes | bytearray, table: array[int], row: int
    ) -> tuple[bytes, int, bool, bool, int]:
        """(topic, QoS, RETAIN, DUP, packet id) of a PUBLISH; checks it, and learns its alias."""
        header = table[row * 4]
        self._read(buffer, header, table[row * 4 + 1], table[row * 4 + 2])
        topic = self._route(buffer).topic
        return topic, header >> 1 & 3, bool(header & 1), bool(header & 8), self.packet_id

    def _read(self, buffer: bytes | bytearray, header: int, begin: int, end: int) -> None:
        """Find the parts of one packet and check all but its topic."""
        source = buffer
        qos = header >> 1 & 3
        if qos == 3 or (qos == 0 and header & 8):
            raise BrokerError(Fault.MALFORMED_PACKET, "QoS 3, or DUP with QoS 0 [MQTT-3.3.1-2, -4]")
        if qos > self.maximum_qos:
            raise BrokerError(Fault.QOS_NOT_SUPPORTED)
        if header & 1 and not self.retain_available:
            raise BrokerError(Fault.RETAIN_NOT_SUPPORTED)
        at = properties.string_end(source, begin, end)
        self.topic_begin = begin + 2
        self.topic_end = at
        self.packet_id = 0
        self.alias = 0
        if qos:
            if at + 2 > end:
                raise BrokerError(Fault.MALFORMED_PACKET, "PUBLISH is cut short")
            self.packet_id = source[at] << 8 | source[at + 1]
            at += 2
            if self.packet_id == 0:
                raise BrokerError(Fault.PROTOCOL_ERROR, "packet identifier 0 [MQTT-2.2.1-3]")
        self.properties_begin = at
        self.properties_end = at
        if self.version == 5:
            if at >= end:
                raise BrokerError(Fault.MALFORMED_PACKET, "PUBLISH is cut short")
            if source[at]:
                at = self._read_properties(buffer, at, end)
            else:
                at += 1
        self.payload_begin = at

    def _read_properties(self, buffer: bytes | bytearray, at: int, end: int) -> int:
        source = buffer
        length = 0
        shift = 0
        while True:
            if at >= end or shift > 21:
                raise BrokerError(Fault.MALFORMED_PACKET, "the length of the properties is bad")
            byte = source[at]
            at += 1
            length |= (byte & 127) << shift
            shift += 7
            if byte < 128:
                break
        if (byte == 0 and shift > 7) or length > end - at:
            raise BrokerError(Fault.MALFORMED_PACKET, "the length of the properties is bad")
        if length > self.properties_length_max:
            raise BrokerError(Fault.PACKET_TOO_LARGE, "too many bytes of properties")
        place = memory.longs(_place)
        properties.check(source, at, at + length, _place)
        if place[9] > self.user_properties_max:
            raise BrokerError(Fault.PROTOCOL_ERROR, "too many user properties")
        if place[0] >= 0:
            self.alias = place[0]
            if self.alias > self.topic_alias_maximum:
                raise BrokerError(Fault.TOPIC_ALIAS_INVALID)
        if place[0] < 0 or length > 3:
            self.properties_begin = at
            self.properties_end = at + length
        return at + length

    def _route(self, buffer: bytes | bytearray) -> TopicRoute:
        """The route of the packet that was read; learns its alias."""
        source = buffer
        if self.topic_begin < self.topic_end:
            route = self.routes.find(source, self.topic_begin, self.topic_end)
            if route is None:
                route = self._learn(memory.cut(source, self.topic_begin, self.topic_end))
        else:
            topic = self.aliases.get(self.alias) if self.alias else None
            if topic is None:
                raise BrokerError(Fault.PROTOCOL_ERROR, "neither a topic nor a known alias")
            route = self.routes.find(topic, 0, len(topic))
            if route is None:
                route = self._learn(topic)
        if self.alias:
            self.aliases[self.alias] = route.asked
        return route

    def _learn(self, topic: bytes) -> TopicRoute:
        """A topic that is not in the table."""
        self._check_topic(topic)
        route = self.resolve(topic)
        self.routes.put(route)
        return route

    def _check_topic(self, topic: bytes) -> None:
        source = topic
        size = len(topic)
        if not properties.is_text(source, 0, size):
            raise BrokerError(Fault.MALFORMED_PACKET, "the topic is not UTF-8 [MQTT-1.5.4-1]")
        levels = 1
        for at in range(size):
            byte = source[at]
            if byte == 35 or byte == 43:
                raise BrokerError(Fault.TOPIC_NAME_INVALID, "a wildcard in a topic [MQTT-3.3.2-2]")
            if byte == 47:
                levels += 1
        if size > self.topic_length_max or levels > self.topic_levels_max:
            raise BrokerError(Fault.TOPIC_NAME_INVALID, "the topic is too long or too deep")

    def _chain(
        self, buffer: bytes | bytearray, header: int, end: int, number: int, route: TopicRoute
    ) -> bool:
        """Add the packet that was read to its topic's chain; True when it is the first."""
        work = memory.ints(_work)
        place = number * 9
        payload = end - self.payload_begin
        qos = header >> 1 & 3
        retain = header & 1
        work[place] = self.payload_begin
        work[place + 1] = end
        work[place + 2] = qos
        work[place + 3] = retain
        work[place + 4] = self.properties_begin
        work[place + 5] = self.properties_end
        headers = 0
        size = 3 + batches.varint_size(route.count) + batches.varint_size(payload) + payload
        if qos:
            headers += 1
            size += 11
        if retain:
            headers += 1
            size += 14
        if self.properties_end > self.properties_begin:
            size += header_bytes(buffer, self.properties_begin, self.properties_end)
            headers += header_count()
        size += batches.varint_size(headers) - 1
        if route.log_name:
            topic = len(route.topic)
            size += batches.varint_size(topic) + topic - 1
        # attributes, timestamp delta, key (null), and the header count are 1 byte each
        size += 1
        work[place + 6] = size
        work[place + 7] = headers
        work[place + 8] = -1
        first = route.head < 0
        if first:
            route.head = number
            route.count = 0
            route.run_bytes = 0
            route.run_flags = 0
        else:
            work[route.tail * 9 + 8] = number
        route.tail = number
        route.count += 1
        route.run_bytes += batches.varint_size(size) + size
        route.run_flags |= (1 if qos else 0) | (2 if retain else 0)
        return first

    def _write(
        self,
        buffer: bytes | bytearray,
        route: TopicRoute,
        flags: int,
        packet_id: int,
        timestamp_ms: int,
    ) -> None:
        """Write one topic's chain as one entry, and empty the chain."""
        source = buffer
        work = memory.ints(_work)
        builder = self.builders[route.builder]
        data = builder.data
        begin = len(data)
        size = 48 + len(route.topic) + len(route.log_name) + 61 + route.run_bytes
        memory.resize(data, begin + size)
        target = data
        end = begin + size
        flags |= route.run_flags | route.flags
        batch = blocks.write_head(
            target, begin, end, flags, route.topic, route.key, route.log_name,
            route.partition, packet_id, self.origin,
        )  # fmt: skip
        if route.delay_ms:
            memory.put64(target, begin + 32, timestamp_ms + route.delay_ms)
        at = batch + 61
        number = route.head
        index = 0
        while number >= 0:
            place = number * 9
            at = batches.put_varint(target, at, work[place + 6])
            target[at] = 0
            target[at + 1] = 0
            at = batches.put_varint(target, at + 2, index)
            if route.log_name:
                at = batches.put_varint(target, at, len(route.topic))
                memory.copy(target, at, route.topic, 0, len(route.topic))
                at += len(route.topic)
            else:
                target[at] = 1
                at += 1
            payload = work[place + 1] - work[place]
            at = batches.put_varint(target, at, payload)
            memory.copy(target, at, source, work[place], payload)
            at = batches.put_varint(target, at + payload, work[place + 7])
            if work[place + 7]:
                at = write_headers(
                    target, at, buffer, work[place + 2], work[place + 3],
                    work[place + 4], work[place + 5],
                )  # fmt: skip
            number = work[place + 8]
            index += 1
        assert at == end, "the first pass foresees what the second writes"
        batches.write_header(
            target, batch, end, 0, route.count, timestamp_ms, timestamp_ms, -1, -1, -1
        )
        self._account(route)
        route.head = -1
        route.count = 0

    def _account(self, route: TopicRoute) -> None:
        """What was written of one topic is acknowledged, and counted by QoS if somebody wants to
        know."""
        if route.run_flags & 1 and route.builder not in self.ack_builders:
            self.ack_builders.append(route.builder)
        if route.meter is not None:
            self._measure(route)

    def _measure(self, route: TopicRoute) -> None:
        work = memory.ints(_work)
        qos0 = 0
        qos1 = 0
        qos2 = 0
        number = route.head
        while number >= 0:
            if work[number * 9 + 2] == 0:
                qos0 += 1
            elif work[number * 9 + 2] == 1:
                qos1 += 1
            else:
                qos2 += 1
            number = work[number * 9 + 8]
        route.meter.came(qos0, qos1, qos2)


def header_count() -> int:
    """How many record headers the properties checked last become."""
    place = memory.longs(_place)
    count = place[9]
    if place[1] >= 0:
        count += 1
    if place[2] >= 0:
        count += 1
    if place[3] >= 0:
        count += 1
    if place[5] >= 0:
        count += 1
    if place[7] >= 0:
        count += 1
    return count


def digits_of(value: int) -> int:
    """Decimal digits of a number."""
    digits = 1
    while value >= 10:
        value //= 10
        digits += 1
    return digits


def header_bytes(buffer: bytes | bytearray, begin: int, end: int) -> int:
    """The size of the record headers that the properties checked last become."""
    source = buffer
    place = memory.longs(_place)
    size = 0
    if place[1] >= 0:
        size += 22
    if place[2] >= 0:
        size += 21 + digits_of(place[2])
    if place[3] >= 0:
        size += 18 + batches.varint_size(place[4] - place[3]) + place[4] - place[3]
    if place[5] >= 0:
        size += 20 + batches.varint_size(place[6] - place[5]) + place[6] - place[5]
    if place[7] >= 0:
        size += 22 + batches.varint_size(place[8] - place[7]) + place[8] - place[7]
    at = begin
    while at < end:
        name = source[at]
        at += 1
        if name != 38:
            at = after_property(source, at, name)
            continue
        for part in range(2):
            length = source[at] << 8 | source[at + 1]
            at += 2
            if part == 0 and is_reserved(source, at, length):
                size += batches.varint_size(length + 10) + length + 10
            else:
                size += batches.varint_size(length) + length
            at += length
    return size


def is_reserved(source: bytes | bytearray, at: int, length: int) -> bool:
    """Does a user property's name begin as ours do?"""
    return length >= 5 and memory.same(source, at, _RESERVED_PREFIX, 0, 5)


def after_property(source: bytes | bytearray, at: int, name: int) -> int:
    """The place behind the value of a property that was checked."""
    if name == 35:
        return at + 2
    if name == 1:
        return at + 1
    if name == 2:
        return at + 4
    return at + 2 + (source[at] << 8 | source[at + 1])


def write_bytes(target: bytearray, at: int, data: bytes) -> int:
    """Copy constant bytes; the place after them."""
    memory.copy(target, at, data, 0, len(data))
    return at + len(data)


def write_value(
    target: bytearray, at: int, name: bytes, buffer: bytes | bytearray, begin: int, end: int
) -> int:
    """One header: its name as it is written, and a value from the buffer."""
    source = buffer
    at = write_bytes(target, at, name)
    at = batches.put_varint(target, at, end - begin)
    memory.copy(target, at, source, begin, end - begin)
    return at + end - begin


def write_headers(
    target: bytearray,
    at: int,
    buffer: bytes | bytearray,
    qos: int,
    retain: int,
    begin: int,
    end: int,
) -> int:
    """The headers of one record, in the order of `robustmq.records`; the place after them."""
    if qos:
        at = write_bytes(target, at, _QOS_HEADER)
        target[at] = 48 + qos
        at += 1
    if retain:
        at = write_bytes(target, at, _RETAIN_HEADER)
    if end == begin:
        return at
    place = memory.longs(_place)
    properties.check(buffer, begin, end, _place)
    if place[1] >= 0:
        at = write_bytes(target, at, _FORMAT_HEADER)
        target[at] = 48 + place[1]
        at += 1
    if place[2] >= 0:
        at = write_bytes(target, at, _EXPIRY_NAME)
        digits = digits_of(place[2])
        at = batches.put_varint(target, at, digits)
        rest = place[2]
        for index in range(digits):
            target[at + digits - 1 - index] = 48 + rest % 10
            rest //= 10
        at += digits
    if place[3] >= 0:
        at = write_value(target, at, _CONTENT_TYPE_NAME, buffer, place[3], place[4])
    if place[5] >= 0:
        at = write_value(target, at, _RESPONSE_TOPIC_NAME, buffer, place[5], place[6])
    if place[7] >= 0:
        at = write_value(target, at, _CORRELATION_DATA_NAME, buffer, place[7], place[8])
    return write_user_properties(target, at, buffer, begin, end)


def write_user_properties(
    target: bytearray, at: int, buffer: bytes | bytearray, begin: int, end: int
) -> int:
    """The user properties in their order, each as a header."""
    source = buffer
    while begin < end:
        name = source[begin]
        begin += 1
        if name != 38:
            begin = after_property(source, begin, name)
            continue
        for part in range(2):
            length = source[begin] << 8 | source[begin + 1]
            begin += 2
            if part == 0 and is_reserved(source, begin, length):
                at = batches.put_varint(target, at, length + 10)
                at = write_bytes(target, at, _USER_PREFIX)
            else:
                at = batches.put_varint(target, at, length)
            memory.copy(target, at, source, begin, length)
            at += length
            begin += length
    return at
