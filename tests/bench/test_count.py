"""The counter of the load generator: what it calls lost, doubled, out of order, and how it keeps
latencies.
"""

from __future__ import annotations

from array import array

import pytest

from robustmq.bench import count, plan, result
from robustmq.mqtt import codec
from robustmq.mqtt.packets import Ack, PacketType, PingResp, Properties, Publish


def message(stream: int, sequence: int, qos: int = 0, sent_ns: int = 0, version: int = 4) -> bytes:
    payload = (
        stream.to_bytes(4, "little")
        + sequence.to_bytes(4, "little")
        + sent_ns.to_bytes(8, "little")
    )
    packet_id = sequence + 1 if qos else 0
    properties = (
        Properties(user_properties=(("name", "v" * 200),)) if version == 5 else Properties()
    )
    packet = Publish(b"bench/1", payload + b"rest", qos, packet_id=packet_id, properties=properties)
    return bytes(codec.encode(packet, version))


def receive(*packets: bytes, version: int = 4, streams: int = 4) -> tuple[count.Inbox, count.Tally]:
    inbox, tally = count.Inbox(version, 0, streams), count.Tally(2, streams // 2)
    data = bytearray(b"".join(packets))
    assert count.walk(data, 0, len(data), inbox, tally, 1_000_000) == len(data)
    return inbox, tally


def faults(tally: count.Tally) -> tuple[int, int, int, int]:
    return tally.gaps, tally.duplicates, tally.reordered, tally.foreign


def test_messages_in_order_of_several_streams_are_without_fault() -> None:
    _, tally = receive(*(message(stream, number) for number in range(100) for stream in range(4)))
    assert tally.messages == 400
    assert faults(tally) == (0, 0, 0, 0)
    assert list(tally.delivered) == [200, 200]


def test_a_message_that_never_comes_is_a_gap() -> None:
    _, tally = receive(message(0, 0), message(0, 3))
    assert faults(tally) == (2, 0, 0, 0)


def test_a_second_copy_is_a_duplicate_and_is_not_delivered_twice() -> None:
    _, tally = receive(message(0, 0), message(0, 1), message(0, 0), message(0, 1))
    assert faults(tally) == (0, 2, 0, 0)
    assert tally.delivered[0] == 2


def test_a_late_message_closes_its_gap_and_counts_as_reordered() -> None:
    _, tally = receive(message(0, 0), message(0, 2), message(0, 1), message(0, 1))
    assert faults(tally) == (0, 1, 1, 0)
    assert tally.delivered[0] == 3


def test_a_gap_wider_than_the_window_forgets_what_was_seen() -> None:
    _, tally = receive(
        message(0, 0), message(0, 200), message(0, 199), message(0, 199), message(0, 0)
    )
    assert faults(tally) == (198, 2, 1, 0)


def test_payloads_of_others_are_foreign() -> None:
    short = bytes(codec.encode(Publish(b"a", b"hello"), 4))
    _, tally = receive(short, message(77, 0))
    assert faults(tally) == (0, 0, 0, 2)


def test_properties_of_any_length_are_stepped_over() -> None:
    _, tally = receive(message(1, 0, version=5), message(1, 1, 1, version=5), version=5)
    assert faults(tally) == (0, 0, 0, 0)


@pytest.mark.parametrize("cut", range(1, 34))
def test_a_packet_that_is_not_whole_waits(cut: int) -> None:
    whole, begun = message(0, 0), message(0, 1)
    inbox, tally = count.Inbox(4, 0, 4), count.Tally(2, 2)
    data = bytearray(whole + begun[: min(cut, len(begun) - 1)])
    assert count.walk(data, 0, len(data), inbox, tally, 0) == len(whole)
    assert tally.messages == 1


def test_answers_that_are_owed_and_packets_for_the_caller_are_set_apart() -> None:
    acks = [
        codec.encode(Ack(kind, 7), 4)
        for kind in (PacketType.PUBACK, PacketType.PUBREC, PacketType.PUBREL, PacketType.PUBCOMP)
    ]
    inbox, _ = receive(message(0, 0, 1), message(0, 1, 2), *acks, codec.encode(PingResp(), 4))
    assert list(inbox.pubacks) == [1]
    assert list(inbox.pubrecs) == [2]
    assert list(inbox.released) == [7]
    assert list(inbox.pubcomps) == [7]
    assert inbox.completed == 2
    assert [header for header, _, _ in inbox.others] == [0xD0]


def test_latency_is_kept_within_three_percent() -> None:
    for value in (0, 1, 63, 64, 1_000, 54_321, 10**6, 10**9, 3 * 10**10):
        middle = count.bucket_ns(count.bucket(value))
        assert abs(middle - value) <= max(1, value * 0.03), value
    assert count.bucket(-5) == 0
    assert count.bucket(1 << 62) == count.BUCKETS - 1


def test_percentiles_are_those_of_the_samples() -> None:
    histogram = array("q", bytes(8 * count.BUCKETS))
    for value in range(1, 1_001):
        histogram[count.bucket(value * 1_000)] += 1
    found = result.percentiles(histogram)
    assert found["p50"] == pytest.approx(500, rel=0.03)
    assert found["p99"] == pytest.approx(990, rel=0.03)
    assert found["max"] == pytest.approx(1_000, rel=0.03)
    assert result.percentiles(array("q", bytes(8 * count.BUCKETS))) == {}


@pytest.mark.parametrize("version", [4, 5])
@pytest.mark.parametrize("qos", [0, 1, 2])
def test_stamped_frames_are_valid_packets_in_order(version: int, qos: int) -> None:
    options = plan.Options(
        scenario="topics", version=version, qos=qos, topics=3, batch=4, payload=20
    )
    frames = plan.frames(options, 1)
    inbox, tally = count.Inbox(version, 3, 3), count.Tally(2, 3)
    packet_id, sent = 65_534, 0
    for _ in range(5):
        slot = sent % frames.slots
        number = min(4, frames.slots - slot)
        packet_id = count.fill(
            frames.buffer, frames.size, frames.packet_id_at, frames.payload_at,
            slot, sent, number, 3, packet_id, 5,
        )  # fmt: skip
        begin, end = slot * frames.size, (slot + number) * frames.size
        for at in range(begin, end, frames.size):
            packet = codec.decode(
                frames.buffer[at], frames.buffer, at + 2, at + frames.size, version
            )
            assert isinstance(packet, Publish)
            assert packet.qos == qos
            assert len(packet.payload) == 20
        count.walk(frames.buffer, begin, end, inbox, tally, 10)
        sent += number
    assert faults(tally) == (0, 0, 0, 0)
    assert list(tally.delivered) == [0, sent]
    ids = list(inbox.pubacks or inbox.pubrecs)
    assert ids[:4] == ([65_534, 65_535, 1, 2] if qos else [])
