# cython: annotation_typing=False, cdivision=True

"""Runs of acknowledgements: PUBACK, PUBREC, PUBREL and PUBCOMP (MQTT 5.0 sections 3.4 to 3.7)."""

from __future__ import annotations

from array import array

import robustmq.core.memory as memory
from robustmq.errors import BrokerError, Fault


def encode(kind: int, packet_ids: array[int], begin: int, end: int) -> bytes:
    """A run of PUBACK (4), PUBREC (5), PUBREL (6) or PUBCOMP (7) with reason code 0, four bytes
    each."""
    assert 0 <= begin <= end <= len(packet_ids), "acknowledgements of ids that are there"
    ids = memory.shorts(packet_ids)
    out = bytearray((end - begin) * 4)
    target = out
    first = kind << 4 | (2 if kind == 6 else 0)
    at = 0
    for number in range(begin, end):
        target[at] = first
        target[at + 1] = 2
        memory.put16be(target, at + 2, ids[number])
        at += 4
    return bytes(out)


def parse(
    buffer: bytes | bytearray,
    table: array[int],
    first: int,
    last: int,
    kind: int,
    out: array[int],
) -> int:
    """Append the packet ids of a run of acknowledgements of one kind; the next row.

    One with a reason or properties, with other flags (DUP of 3.1) or cut short ends the run: the
    codec judges it.
    """
    source = buffer
    rows = memory.ints(table)
    row = first
    while row < last:
        header = rows[row * 4]
        begin = rows[row * 4 + 1]
        if header >> 4 != kind:
            break
        if header & 15 != (2 if kind == 6 else 0) or rows[row * 4 + 2] - begin != 2:
            break
        packet_id = source[begin] << 8 | source[begin + 1]
        if packet_id == 0:
            raise BrokerError(Fault.PROTOCOL_ERROR, "packet identifier 0 [MQTT-2.2.1-3]")
        memory.push(out, packet_id)
        row += 1
    return row
