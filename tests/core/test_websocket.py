"""A client's WebSocket frames in pieces of any size, against the wsproto package (RFC 6455)."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterable
from itertools import pairwise

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st
from wsproto.frame_protocol import CloseReason, FrameProtocol, Opcode

from robustmq.core.websocket import Deframer, close_frame, frame_head, may_be_sent

MASK = b"\x11\x22\x33\x44"


def frame(first: int, payload: bytes, *, mask: bytes | None = MASK, length: bytes = b"") -> bytes:
    """One frame as a client sends it; `length` overrides how its length is written."""
    if not length:
        size = len(payload)
        if size < 126:
            length = bytes((size,))
        elif size < 65_536:
            length = b"\x7e" + size.to_bytes(2, "big")
        else:
            length = b"\x7f" + size.to_bytes(8, "big")
    if mask is None:
        return bytes((first,)) + length + payload
    mixed = bytes(byte ^ mask[at % 4] for at, byte in enumerate(payload))
    return bytes((first, length[0] | 0x80)) + length[1:] + mask + mixed


def carried(deframer: Deframer, pieces: Iterable[bytes], room: int = 0) -> bytes:
    """The bytes that frames in these pieces carry; `room` bytes of the buffer are in use before."""
    out = b""
    for piece in pieces:
        buffer = bytearray(b"x" * room + piece + b"behind")
        end = deframer.absorb(buffer, room, room + len(piece))
        assert room <= end <= room + len(piece)
        assert buffer[:room] == b"x" * room and buffer[room + len(piece) :] == b"behind"
        out += buffer[room:end]
    return out


def cut(data: bytes, places: Iterable[int]) -> list[bytes]:
    edges = [0, *sorted(place % (len(data) + 1) for place in places), len(data)]
    return [data[begin:end] for begin, end in pairwise(edges)]


@st.composite
def conversations(draw: st.DrawFn) -> tuple[bytes, bytes, list[bytes]]:
    """What wsproto sends for messages in fragments with pings between them: the bytes on the wire,
    what they carry, and the payloads of the pings."""
    client = FrameProtocol(client=True, extensions=[])
    sent, payload, pings = b"", b"", []
    for _ in range(draw(st.integers(1, 5))):
        fragments = draw(st.lists(st.binary(max_size=300) | big, min_size=1, max_size=4))
        for number, fragment in enumerate(fragments):
            final = number == len(fragments) - 1
            sent += client.send_data(fragment, final)
            payload += fragment
            if draw(st.booleans()):
                pings.append(draw(st.binary(max_size=125)))
                sent += client.ping(pings[-1])
            elif draw(st.booleans()):
                sent += client.pong(b"unasked")
    return sent, payload, pings


big = st.integers(60_000, 70_000).map(lambda size: bytes(range(251)) * (size // 251))


@settings(max_examples=80, deadline=None)
@given(conversations(), st.lists(st.integers(0, 1 << 20), max_size=40), st.integers(0, 40))
def test_messages_arrive_however_they_are_cut(
    conversation: tuple[bytes, bytes, list[bytes]], places: list[int], room: int
) -> None:
    sent, payload, pings = conversation
    deframer = Deframer()
    assert carried(deframer, cut(sent, places), room) == payload
    assert deframer.status == 0
    answer = deframer.take_pong()
    if pings:
        answers = FrameProtocol(client=True, extensions=[])
        answers.receive_bytes(answer)
        (pong,) = answers.received_frames()
        assert pong.opcode is Opcode.PONG and pong.payload == pings[-1]
    assert deframer.take_pong() == b""


def test_single_bytes_are_enough() -> None:
    sent = frame(0x02, b"ab") + frame(0x89, b"?") + frame(0x00, b"") + frame(0x80, b"c" * 200)
    deframer = Deframer()
    assert carried(deframer, [bytes((byte,)) for byte in sent]) == b"ab" + b"c" * 200
    assert deframer.take_pong() == b"\x8a\x01?"


SOUND = frame(0x82, b"before")
FAULTS = {
    "text": (frame(0x81, b"a"), 1003),
    "text in fragments": (frame(0x01, b"a"), 1003),
    "no mask": (frame(0x82, b"abcd", mask=None), 1002),
    "reserved bit": (frame(0xC2, b"a"), 1002),
    "reserved data opcode": (frame(0x83, b"a"), 1002),
    "reserved control opcode": (frame(0x8B, b"a"), 1002),
    "continuation of nothing": (frame(0x80, b"a"), 1002),
    "message within a message": (frame(0x02, b"") + frame(0x82, b"a"), 1002),
    "ping in fragments": (frame(0x09, b"a"), 1002),
    "long ping": (frame(0x89, b"a" * 126), 1002),
    "16 bits for a short length": (frame(0x82, b"a", length=b"\x7e\x00\x01"), 1002),
    "64 bits for a short length": (frame(0x82, b"", length=b"\x7f" + bytes(6) + b"\xff\xff"), 1002),
    "negative length": (frame(0x82, b"", length=b"\x7f\x80" + bytes(7)), 1002),
    "close with one byte": (frame(0x88, b"\x03"), 1002),
    "close with 1005": (frame(0x88, b"\x03\xed"), 1002),
    "close with 999": (frame(0x88, b"\x03\xe7"), 1002),
    "close whose reason is not UTF-8": (frame(0x88, b"\x03\xe8\xff"), 1007),
}


@pytest.mark.parametrize("name", FAULTS)
@pytest.mark.parametrize("piece", [1, 1000])
def test_what_is_not_sound_ends_the_stream_behind_what_came_before(name: str, piece: int) -> None:
    bad, status = FAULTS[name]
    sent = SOUND + bad + frame(0x82, b"never read")
    deframer = Deframer()
    pieces = [sent[at : at + piece] for at in range(0, len(sent), piece)]
    assert carried(deframer, pieces) == b"before"
    assert deframer.status == status and deframer.why


@pytest.mark.parametrize(
    ("payload", "status", "answer"),
    [
        (b"", 1005, b"\x88\x00"),
        (b"\x03\xe8", 1000, b"\x88\x02\x03\xe8"),
        (b"\x03\xe9going", 1001, b"\x88\x02\x03\xe9"),
        (b"\x0f\xa0", 4000, b"\x88\x02\x0f\xa0"),
    ],
)
def test_a_close_is_answered_with_its_status(payload: bytes, status: int, answer: bytes) -> None:
    deframer = Deframer()
    assert carried(deframer, [SOUND + frame(0x88, payload) + SOUND]) == b"before"
    assert (deframer.status, deframer.why) == (status, "")
    assert close_frame(status) == answer


@settings(max_examples=30, deadline=None)
@given(st.lists(st.binary(max_size=300) | big, max_size=6), st.lists(st.integers(0, 1 << 20)))
def test_a_client_undoes_the_frames_of_a_server(messages: list[bytes], places: list[int]) -> None:
    server = FrameProtocol(client=False, extensions=[])
    sent = b"".join(server.send_data(message) for message in messages) + server.ping(b"?")
    deframer = Deframer(masked=False)
    assert carried(deframer, cut(sent, places)) == b"".join(messages)
    assert deframer.take_pong() and deframer.status == 0
    carried(deframer, [frame(0x82, b"masked")])
    assert deframer.status == 1002


@pytest.mark.parametrize("size", [0, 1, 125, 126, 65_535, 65_536, 70_000])
def test_our_frames_are_read_by_others(size: int) -> None:
    payload = bytes(size)
    client = FrameProtocol(client=True, extensions=[])
    client.receive_bytes(frame_head(size) + payload + close_frame(1001))
    first, *others = client.received_frames()
    assert first.opcode is Opcode.BINARY and first.message_finished
    assert first.payload == payload
    assert others[-1].payload[0] == CloseReason.GOING_AWAY


def test_statuses_that_may_be_sent_are_those_of_the_registry() -> None:
    allowed = [status for status in range(5500) if may_be_sent(status)]
    assert allowed == [1000, 1001, 1002, 1003, *range(1007, 1015), *range(3000, 5000)]


def outcomes(seed: int, make: Callable[[], Deframer] = Deframer) -> list[object]:
    """What damaged frames lead to, as a function of the seed alone."""
    chance = random.Random(seed)
    data = bytearray()
    for _ in range(chance.randrange(1, 8)):
        payload = chance.randbytes(chance.choice((0, 1, 5, 125, 126, 700, 66_000)))
        data += frame(chance.choice((0x82, 0x02, 0x80, 0x89, 0x8A, 0x88)), payload)
    for _ in range(chance.randrange(4)):
        data[chance.randrange(len(data))] = chance.randrange(256)
    deframer = make()
    places = [chance.randrange(len(data)) for _ in range(chance.randrange(5))]
    payload = carried(deframer, cut(bytes(data), places))
    return [payload, deframer.status, deframer.why, deframer.take_pong()]


@settings(max_examples=200, deadline=None)
@given(st.integers(0, 1 << 40))
@example(0)
def test_damaged_frames_end_the_stream_and_nothing_else(seed: int) -> None:
    payload, status, why, _ = outcomes(seed)
    assert isinstance(payload, bytes) and isinstance(status, int)
    assert not why or status in (1002, 1003, 1007)
