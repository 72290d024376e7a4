# cython: annotation_typing=False, cdivision=True

"""The properties of a PUBLISH from a client (MQTT 5.0 section 3.3.2.3), checked in place.

`check` walks them once and leaves in a table of int64 where the values lie; nothing is made an
object. A string is well-formed UTF-8 without surrogates and U+0000 [MQTT-1.5.4-1, -2].
"""

from __future__ import annotations

from array import array

import robustmq.core.memory as memory
from robustmq.errors import BrokerError, Fault

# Columns of the table; the pairs are begin and end, begin -1 when the property is absent.
ALIAS = 0
FORMAT = 1
EXPIRY = 2
CONTENT_TYPE = 3
RESPONSE_TOPIC = 5
CORRELATION_DATA = 7
USER_COUNT = 9
COLUMNS = 10


def check(source: bytes | bytearray, begin: int, end: int, table: array[int]) -> None:
    """Check the properties between begin and end, and fill the table (array('q') of COLUMNS
    items)."""
    place = memory.longs(table)
    place[0] = -1
    place[1] = -1
    place[2] = -1
    place[3] = -1
    place[5] = -1
    place[7] = -1
    place[9] = 0
    at = begin
    while at < end:
        name = source[at]
        at += 1
        if name == 38:
            at = pair_end(source, at, end)
            place[9] += 1
            continue
        column = column_of(name)
        if place[column] != -1:
            raise BrokerError(Fault.PROTOCOL_ERROR, "a property is there twice")
        if column < 3:
            width = 2 if column == 0 else 1 if column == 1 else 4
            if at + width > end:
                raise BrokerError(Fault.MALFORMED_PACKET, "a property is cut short")
            value = 0
            for _ in range(width):
                value = value << 8 | source[at]
                at += 1
            if column == 0 and value == 0:
                raise BrokerError(Fault.TOPIC_ALIAS_INVALID)
            if column == 1 and value > 1:
                raise BrokerError(Fault.PROTOCOL_ERROR, "payload format indicator is 0 or 1")
            place[column] = value
            continue
        stop = string_end(source, at, end)
        place[column] = at + 2
        place[column + 1] = stop
        if column != 7:
            check_text(source, at + 2, stop)
        if column == 5:
            check_response_topic(source, at + 2, stop)
        at = stop


def column_of(name: int) -> int:
    """The column of a property; the fault when a client may not send it in a PUBLISH."""
    if name == 35:
        return 0
    if name == 1:
        return 1
    if name == 2:
        return 2
    if name == 3:
        return 3
    if name == 8:
        return 5
    if name == 9:
        return 7
    if name == 11:
        raise BrokerError(Fault.PROTOCOL_ERROR, "a subscription identifier from a client")
    raise BrokerError(Fault.MALFORMED_PACKET, "a property that PUBLISH does not have")


def string_end(source: bytes | bytearray, at: int, end: int) -> int:
    """The end of a string or binary datum with its two bytes of length."""
    if at + 2 <= end:
        stop = at + 2 + (source[at] << 8 | source[at + 1])
        if stop <= end:
            return stop
    raise BrokerError(Fault.MALFORMED_PACKET, "a string is cut short")


def pair_end(source: bytes | bytearray, at: int, end: int) -> int:
    """The end of a user property, its two strings checked."""
    for _ in range(2):
        stop = string_end(source, at, end)
        check_text(source, at + 2, stop)
        at = stop
    return at


def check_text(source: bytes | bytearray, at: int, end: int) -> None:
    """Raise MALFORMED_PACKET unless the area is an MQTT UTF-8 string."""
    if not is_text(source, at, end):
        raise BrokerError(Fault.MALFORMED_PACKET, "a string is not UTF-8")


def check_response_topic(source: bytes | bytearray, at: int, end: int) -> None:
    """A response topic is a topic name: no wildcards, not empty [MQTT-3.3.2-14]."""
    if at == end:
        raise BrokerError(Fault.PROTOCOL_ERROR, "the response topic is empty")
    while at < end:
        if source[at] == 35 or source[at] == 43:
            raise BrokerError(Fault.PROTOCOL_ERROR, "a wildcard in the response topic")
        at += 1


def is_text(source: bytes | bytearray, at: int, end: int) -> bool:  # noqa: C901  (a table)
    """Well-formed UTF-8 (Unicode table 3-7) without U+0000."""
    while at < end:
        byte = source[at]
        at += 1
        if byte < 128:
            if byte == 0:
                return False
            continue
        low = 128
        high = 191
        if 194 <= byte <= 223:
            more = 1
        elif 224 <= byte <= 239:
            more = 2
            if byte == 224:
                low = 160
            elif byte == 237:
                high = 159
        elif 240 <= byte <= 244:
            more = 3
            if byte == 240:
                low = 144
            elif byte == 244:
                high = 143
        else:
            return False
        if at + more > end or source[at] < low or source[at] > high:
            return False
        at += 1
        while more > 1:
            if source[at] & 192 != 128:
                return False
            at += 1
            more -= 1
    return True
