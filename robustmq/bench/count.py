# cython: annotation_typing=False, cdivision=True

"""What the load generator does once a message: stamp what it sends, check what it receives.

A payload begins with 16 bytes, little-endian: u32 stream, u32 sequence, u64 time of sending in ns.
A stream is one topic of one publisher, the unit whose order MQTT keeps [MQTT-4.6.0-5, 4.6.0-6]; its
sequence begins at 0. A receiver keeps for each stream the next sequence and a window of what it has
seen below, so that a late message is told from a second copy. Latency goes into a histogram of 32
steps to the power of two, so it is right within 3%. Compiled like the core, from this text and
`count.pxd`; interpreted without a compiler.
"""

from __future__ import annotations

from array import array

import robustmq.core.memory as memory

STAMP = 16
BUCKETS = 1_536
WINDOW = 62


class Tally:
    """What all connections of one run have seen."""

    def __init__(self, publishers: int, topics: int) -> None:
        assert publishers >= 1 and topics >= 1, "a tally is of somebody's messages"
        self.topics = topics
        self.streams = publishers * topics
        self.timing = False
        self.histogram = array("q", bytes(8 * BUCKETS))
        self.delivered = array("q", bytes(8 * publishers))
        self.messages = 0
        self.bytes = 0
        self.gaps = 0
        self.duplicates = 0
        self.reordered = 0
        self.foreign = 0


class Inbox:
    """One connection: its place in each stream, and the packet ids that it owes an answer.

    `pubacks`, `pubrecs` and `pubcomps` are to be sent; `released` came as PUBREC and are to be
    answered with PUBREL. `others` are the packets that the caller handles: first byte, begin and
    end of the body.
    """

    def __init__(self, version: int, first_stream: int, streams: int) -> None:
        self.version = version
        self.first_stream = first_stream
        self.streams = array("q", bytes(16 * streams))
        self.messages = 0
        self.completed = 0
        self.pubacks = array("H")
        self.pubrecs = array("H")
        self.pubcomps = array("H")
        self.released = array("H")
        self.others: list[tuple[int, int, int]] = []


def walk(buffer: bytearray, begin: int, end: int, inbox: Inbox, tally: Tally, now_ns: int) -> int:
    """Take every whole packet between `begin` and `end`; the end of the last one."""
    source = buffer
    at = begin
    while end - at >= 2:
        header = source[at]
        body = at + 1
        length = 0
        shift = 0
        while body < end and shift < 28:
            length |= (source[body] & 127) << shift
            shift += 7
            body += 1
            if source[body - 1] < 128:
                shift = 99
        if shift < 99:
            if shift == 28:
                raise ValueError("a Remaining Length of more than four bytes")
            break
        if length > end - body:
            break
        at = body + length
        if header >> 4 == 3:
            _publish(buffer, header, body, at, inbox, tally, now_ns)
        elif length < 2 or not _answer(header >> 4, source[body] << 8 | source[body + 1], inbox):
            inbox.others.append((header, body, at))
    return at


def _answer(kind: int, packet_id: int, inbox: Inbox) -> bool:
    """Take an acknowledgement (sections 3.4 to 3.7); False when it is another packet."""
    if kind == 4 or kind == 7:
        inbox.completed += 1
    elif kind == 5:
        memory.push(inbox.released, packet_id)
    elif kind == 6:
        memory.push(inbox.pubcomps, packet_id)
    else:
        return False
    return True


def _publish(
    buffer: bytearray, header: int, begin: int, end: int, inbox: Inbox, tally: Tally, now_ns: int
) -> None:
    source = buffer
    qos = header >> 1 & 3
    at = end
    if end - begin >= 2:
        at = begin + 2 + (source[begin] << 8 | source[begin + 1])
    if qos and at + 2 <= end:
        packet_id = source[at] << 8 | source[at + 1]
        memory.push(inbox.pubacks if qos == 1 else inbox.pubrecs, packet_id)
        at += 2
    if inbox.version == 5 and at < end:
        length = source[at]
        if length >= 128 and at + 1 < end:
            at += 1
            length = (length & 127) | source[at] << 7
        at += 1 + length
    inbox.messages += 1
    tally.messages += 1
    tally.bytes += end - begin
    if end - at < 16:
        tally.foreign += 1
        return
    stream = memory.get32(source, at)
    _check(stream, memory.get32(source, at + 4), inbox, tally)
    if tally.timing and stream < tally.streams:
        elapsed = now_ns - memory.get64(source, at + 8)
        rows = memory.longs(tally.histogram)
        rows[bucket(elapsed)] += 1


def _check(stream: int, sequence: int, inbox: Inbox, tally: Tally) -> None:
    """Compare a sequence with the stream's place: next, later (a gap), late (out of order), or seen
    before.
    """
    row = stream - inbox.first_stream
    if row < 0 or row * 2 >= len(inbox.streams) or stream >= tally.streams:
        tally.foreign += 1
        return
    delivered = memory.longs(tally.delivered)
    state = memory.longs(inbox.streams)
    ahead = sequence - state[row * 2]
    if ahead >= 0:
        tally.gaps += ahead
        seen = state[row * 2 + 1]
        moved = ahead + 1
        seen = (seen << moved) & 0x3FFFFFFFFFFFFFFF if moved < 62 else 0
        state[row * 2] = sequence + 1
        state[row * 2 + 1] = seen | 1
        delivered[stream // tally.topics] += 1
        return
    back = -ahead - 1
    if back >= 62 or (state[row * 2 + 1] >> back) & 1:
        tally.duplicates += 1
        return
    one = 1
    state[row * 2 + 1] |= one << back
    tally.reordered += 1
    tally.gaps -= 1
    delivered[stream // tally.topics] += 1


def bucket(elapsed_ns: int) -> int:
    """The place of a duration in the histogram."""
    value = elapsed_ns
    if value < 64:
        return max(value, 0)
    shift = 0
    while value >= 64:
        value >>= 1
        shift += 1
    place = shift * 32 + value
    return place if place < 1_536 else 1_535


def bucket_ns(place: int) -> float:
    """The middle of a place of the histogram."""
    if place < 64:
        return float(place)
    shift = place // 32 - 1
    return (place - shift * 32 + 0.5) * (1 << shift)


def fill(
    buffer: bytearray,
    frame_size: int,
    packet_id_at: int,
    payload_at: int,
    slot: int,
    first: int,
    count: int,
    topics: int,
    packet_id: int,
    now_ns: int,
) -> int:
    """Stamp `count` frames of equal size from `slot` on as the messages `first` ...; the next
    packet id.

    Message n goes to topic n mod `topics`, where it is number n div `topics`.
    """
    assert (slot + count) * frame_size <= len(buffer), "frames stay inside their buffer"
    target = buffer
    at = slot * frame_size
    sequence = first // topics
    rest = first % topics
    for _ in range(count):
        memory.put32(target, at + payload_at + 4, sequence)
        memory.put64(target, at + payload_at + 8, now_ns)
        if packet_id_at:
            memory.put16be(target, at + packet_id_at, packet_id)
            packet_id = 1 if packet_id == 65_535 else packet_id + 1
        at += frame_size
        rest += 1
        if rest == topics:
            rest = 0
            sequence += 1
    return packet_id
