# ruff: noqa: B023  (each lambda is called where it stands)
"""Seeded damage for every entry point of the core, and what each makes of it.

`outcomes` is a pure function of its seed: the compiled and the interpreted core must give the same.
An input is a sound one (packets, batches, blocks, checkpoints) with bytes flipped, cut, repeated,
spliced, or replaced by the numbers that break arithmetic. An outcome is the value, or the name of
the fault; any exception but `BrokerError` is let through: it is a bug.

Run as a program it prints a digest, one a seed: `python -m tests.core.fuzzing FIRST LAST`.
"""

from __future__ import annotations

import gzip
import hashlib
import random
import sys
import zlib
from array import array
from collections.abc import Callable

from robustmq.core import acks, batches, blocks, fanout, frames, hashing, properties, sound
from robustmq.core.audience import DeliveryRoute, Sink, Variant
from robustmq.core.filters import FilterTrie
from robustmq.core.publish import BlockBuilder, Publisher, RouteTable, TopicRoute
from robustmq.core.topic_index import TopicIndex
from robustmq.errors import BrokerError, Fault
from robustmq.records import Record
from tests.core.tables import by_topic

NASTY = (
    b"\0",
    b"\x01",
    b"\x7f",
    b"\x80",
    b"\xff",
    b"\xff\xff\xff\x7f",
    b"\x80\x80\x80\x80\x01",
    b"\x80\x00",
    b"\xfe\xff\xff\xff\xff\xff\xff\xff\xff\x01",
    b"\xff" * 9 + b"\x01",
    b"\xff" * 9 + b"\x7f",
    b"\xff" * 10,
    b"\x80" * 9 + b"\x01",
    b"\xfe\xff\xff\xff\x0f",
    b"\x80\x80\x80\x80\x10",
    b"\x80\x80\x80\x80\x20",
    b"\x7f\xff\xff\xff",
    b"\x80\0\0\0",
    b"\xff\xff\xff\xff",
    b"\x7f" + b"\xff" * 7,
    b"\x80" + b"\0" * 7,
    b"\xff\xff",
    b"\x26\0\0\0\0",
    b"\x23\0\x01",
    b"mqtt.",
    b"mqtt.user.",
    b"\xed\xa0\x80",
    b"\xf4\x90\x80\x80",
    b"\xc0\x80",
)
HEADERS = (
    ("mqtt.qos", b"1"),
    ("mqtt.qos", b"2"),
    ("mqtt.retain", b"1"),
    ("mqtt.payload-format", b"1"),
    ("mqtt.message-expiry", b"60"),
    ("mqtt.message-expiry", b"9999999999"),
    ("mqtt.content-type", b"c"),
    ("mqtt.response-topic", b"r/t"),
    ("mqtt.correlation-data", b"\0\xff"),
    ("mqtt.user.mqtt.x", b"v"),
    ("k", b"v"),
    ("k", None),
    ("", b""),
    ("mqtt.content-type", None),
)
TOPICS = (
    b"a",
    b"a/b",
    b"",
    b"+",
    b"$SYS/x",
    b"no",
    b"no/x",
    b"str",
    b"t" * 300,
    b"\xff",
    b"x\0",
    b"\xc3\xa9/1",
)
NOW_MS = 1_700_000_000_000


def damage(random_: random.Random, data: bytes, times: int = 3) -> bytes:
    """A few mutations."""
    out = bytearray(data)
    for _ in range(random_.randint(0, times)):
        at = random_.randint(0, len(out))
        kind = random_.randrange(6)
        if kind == 0 and at < len(out):
            out[at] = random_.randrange(256)
        elif kind == 1 and at < len(out):
            out[at] ^= 1 << random_.randrange(8)
        elif kind == 2:
            nasty = random_.choice(NASTY)
            out[at : at + len(nasty)] = nasty
        elif kind == 3:
            out[at:at] = random_.choice(NASTY)
        elif kind == 4:
            del out[at : at + random_.choice((1, 2, 8, 1000))]
        else:
            other = random_.randint(0, len(out))
            out[at:at] = out[other : other + random_.randint(1, 40)]
    return bytes(out)


def _text(data: bytes) -> bytes:
    return len(data).to_bytes(2, "big") + data


def _length(value: int) -> bytes:
    out = bytearray()
    while value >= 128:
        out.append(value & 127 | 128)
        value >>= 7
    return bytes(out) + bytes([value])


def sound_properties(random_: random.Random) -> bytes:
    """The properties of a PUBLISH, most of them sound."""
    rows = (
        b"\x01\x01",
        b"\x02\0\0\0\x3c",
        b"\x03" + _text(b"text"),
        b"\x08" + _text(b"r/t"),
        b"\x09" + _text(b"\0\1"),
        b"\x26" + _text(b"k") + _text(b"v"),
        b"\x26" + _text(b"mqtt.x") + _text(b""),
        b"\x23\0\x05",
        b"\x23\0\x06",
    )
    return b"".join(random_.sample(rows, random_.choice((0, 0, 1, 2, 4, 7))))


def packets(random_: random.Random) -> bytes:
    """A stream of PUBLISH packets and acknowledgements, damaged inside and as a whole."""
    out = b""
    for _ in range(random_.randint(1, 12)):
        if random_.random() < 0.2:
            kind = random_.randint(4, 7)
            out += bytes(
                [kind << 4 | (2 if kind == 6 else 0), 2, random_.randrange(3), random_.randrange(3)]
            )
            continue
        qos = random_.choice((0, 0, 1, 1, 2))
        inner = damage(random_, sound_properties(random_), 1)
        body = _text(random_.choice(TOPICS)) + (b"\0\x07" if qos else b"")
        body += _length(len(inner)) + inner + bytes(random_.choice((0, 1, 5, 300)))
        if random_.random() < 0.2:
            body = damage(random_, body, 2)
        out += bytes([0x30 | qos << 1 | random_.randrange(2)]) + _length(len(body)) + body
    return damage(random_, out, 2) if random_.random() < 0.3 else out


def batch(random_: random.Random) -> bytes:
    """A record batch, perhaps compressed, perhaps damaged; the CRC is often right."""
    records = [
        Record(
            random_.choice((None, b"", b"key", random_.choice(TOPICS))),
            random_.choice((None, b"", b"value", b"v" * 200)),
            random_.sample(HEADERS, random_.choice((0, 0, 1, 3, 8))),
            random_.choice((-1, 0, NOW_MS - 90_000, NOW_MS + 5000, 2**62)),
        )
        for _ in range(random_.choice((1, 1, 2, 5, 300)))
    ]
    plain = batches.build(records, NOW_MS)
    body = damage(random_, plain[61:], 2) if random_.random() < 0.6 else plain[61:]
    compression = random_.choice((0, 0, 0, 1, 2, 3, 4, 5))
    if compression == 1:
        body = gzip.compress(body, 1, mtime=0)
    elif compression:
        body = damage(random_, body, 2)
    out = bytearray(plain[:61] + body)
    count = random_.choice((len(records), len(records), len(records), 0, 1, 2**31 - 1))
    batches.write_header(
        out,
        0,
        len(out),
        compression | random_.choice((0, 0, 0, 8, 16, 32)),
        count,
        random_.choice((NOW_MS - 90_000, NOW_MS, -1, 0, 2**63 - 1, -(2**63))),
        random_.choice((NOW_MS, -1, 2**63 - 1, -(2**63))),
        -1,
        -1,
        -1,
    )
    if random_.random() < 0.3:
        head = damage(random_, bytes(out[:61]), 2)[:61]
        out[: len(head)] = head
    return bytes(out)


def block(random_: random.Random) -> bytes:
    """A block of entries whose batches are anything, perhaps damaged itself."""
    out = b""
    for _ in range(random_.randint(1, 4)):
        out += blocks.build_entry(
            random_.choice(TOPICS),
            random_.choice((b"", b"log")),
            random_.randrange(3),
            random_.choice((0, 1, 16, 17, 4)),
            random_.randrange(4),
            random_.randrange(3),
            batch(random_),
        )
    return damage(random_, out, 2) if random_.random() < 0.3 else out


class _Outcomes:
    """What came out, in one list."""

    def __init__(self) -> None:
        self.rows: list[object] = []

    def of(self, name: str, call: Callable[[], object]) -> object:
        """Note the result, or the fault; None for a fault."""
        try:
            value = call()
        except BrokerError as error:
            self.rows.append((name, error.fault.name))
            return None
        self.rows.append((name, bytes(value) if isinstance(value, bytearray) else value))
        return value


def _either(random_: random.Random, data: bytes) -> bytes | bytearray:
    return data if random_.random() < 0.5 else bytearray(data)


def _route(topic: bytes) -> TopicRoute:
    refusal = Fault.NOT_AUTHORIZED if topic[:2] == b"no" else None
    delay_ms = 5000 if topic[:2] == b"a/" else 0
    log_name = b"log" if topic == b"str" else b""
    return TopicRoute(topic, 0, len(topic) % 3, 0, 0, log_name, refusal, delay_ms=delay_ms)


def _publish(random_: random.Random, out: _Outcomes) -> None:
    data = _either(random_, packets(random_))
    table = array("i", [0] * 4 * random_.choice((1, 4, 64)))
    builders = [BlockBuilder(index, False) for index in range(3)]

    publisher = Publisher(
        random_.choice((3, 4, 5, 5, 5)),
        77,
        RouteTable(),
        _route,
        builders,
        random_.choice((0, 5, 65_535)),
        random_.random() < 0.9,
        random_.choice((2, 2, 1, 0)),
        random_.choice((200, 65_535)),
    )
    begin = 0
    if random_.random() < 0.3:
        stream = bytearray(data) + bytes(random_.randrange(9))
        out.of(
            "absorb_stream",
            lambda: publisher.absorb_stream(stream, len(data), table, 2**28, NOW_MS),
        )
    for _ in range(50):
        scanned = out.of(
            "scan", lambda: frames.scan(data, begin, len(data), table, random_.choice((200, 2**28)))
        )
        if not isinstance(scanned, tuple) or not scanned[0]:
            break
        count, begin = scanned
        out.rows.append(table[: 4 * count].tolist())
        row: object = 0
        while isinstance(row, int) and row < count:
            first = row
            kind = table[4 * first] >> 4
            if 4 <= kind <= 7:
                ids = array("H")
                row = out.of("parse_acks", lambda: acks.parse(data, table, first, count, kind, ids))
                out.rows.append((ids.tolist(), acks.encode(kind, ids, 0, len(ids))))
            else:
                row = out.of("absorb", lambda: publisher.absorb(data, table, first, count, NOW_MS))
            if row == first:
                if kind == 3:
                    out.of("peek", lambda: publisher.peek(data, table, first))
                    out.of("absorb_one", lambda: publisher.absorb_one(data, table, first, NOW_MS))
                row = first + 1
    out.rows.append((publisher.packet_ids.tolist(), publisher.aliases, publisher.ack_builders))
    out.rows.append((publisher.tally.messages, publisher.tally.denied))
    _stored(random_, out, builders)


def _stored(random_: random.Random, out: _Outcomes, builders: list[BlockBuilder]) -> None:
    for builder in builders:
        made = builder.take()
        if made:
            views = out.of("made", lambda: blocks.entries(made))
            for view in views if isinstance(views, list) else []:
                out.of("stored", lambda view=view: batches.parse(made, view.batch_begin, view.end))  # type: ignore[misc]
            _deliver(random_, out, bytes(made))


def _deliver(random_: random.Random, out: _Outcomes, data: bytes) -> None:
    sinks = [Sink(version, random_.choice((0, 64, 1 << 20))) for version in (3, 4, 5, 5)]
    sinks[3].max_packet_size = random_.choice((0, 20, 500))
    variants = [
        Variant(4, 2, False, b"", sinks[:2]),
        Variant(5, 0, True, fanout.identifiers_property((1, 300, 268_435_455)), sinks[2:]),
    ]
    route = DeliveryRoute(b"", variants[:1], variants[1:], True)
    dirty: list[Sink] = []
    above: list[tuple[int, DeliveryRoute]] = []
    now = random_.choice((NOW_MS, 0, 2**63 - 1))
    shape = random_.choice((bytes, bytearray, memoryview))
    out.of(
        "deliver",
        lambda: fanout.deliver(shape(data), by_topic(), lambda topic: route, dirty, above, [], now),
    )
    out.rows.append(([begin for begin, _ in above], len(dirty)))
    for sink in sinks:
        out.rows.append((bytes(sink.take()), sink.messages, sink.dropped))
    one_each = [Variant(one.version, 0, True, b"", [one]) for one in sinks]
    hands = [random_.choice((None, *one_each)) for _ in range(random_.randrange(9))]
    for begin in [0, *(begin for begin, _ in above)]:
        out.of("deal", lambda begin=begin: fanout.deal(shape(data), begin, hands, dirty, now))  # type: ignore[misc]
        out.rows.append([bytes(sink.take()) for sink in sinks])
        levels = out.of("record_levels", lambda begin=begin: fanout.record_levels(data, begin))  # type: ignore[misc]
        count = len(levels) if isinstance(levels, list) else 0
        for index in {0, 1, count - 1, count, random_.randint(0, 2 * count + 1)} - {-1}:
            out.of(
                "encode",
                lambda begin=begin, index=index: fanout.encode(  # type: ignore[misc]
                    data,
                    begin,
                    index,
                    random_.choice((4, 5)),
                    random_.randrange(3),
                    False,
                    True,
                    9,
                    (1, 2),
                    now,
                    random_.choice((0, 7)),
                    random_.random() < 0.5,
                ),
            )


def _batches(random_: random.Random, out: _Outcomes) -> None:
    data = _either(random_, damage(random_, batch(random_), 1))
    table = array("i", [0] * 9 * random_.choice((1, 3, 512)))
    out.of("batch_size", lambda: batches.batch_size(data, 0, len(data)))
    out.of("validate", lambda: batches.validate(data, 0, len(data)))
    out.of("headers", lambda: list(batches.headers(data + data, 0, 2 * len(data))))
    out.of("parse", lambda: batches.parse(data, max_decompressed=1 << 20))
    out.of("count_records", lambda: batches.count_records(data))
    area, most = bytes(data + data), random_.randint(0, 3)
    out.of("sound_until", lambda: sound.sound_until(area, -(1 << 63), (1 << 63) - 1, most))
    out.of("sound_until", lambda: sound.sound_until(area, 0, random_.randint(0, 9), most))
    begin = min(61, len(data))
    rows = out.of("scan_records", lambda: batches.scan_records(data, begin, len(data), table))
    if isinstance(rows, int):
        out.rows.append(table[: 9 * rows].tolist())
    place = array("i", [0])
    out.of(
        "varint",
        lambda: batches.signed_varint(data, random_.randint(0, len(data)), len(data), place),
    )
    out.rows.append(place[0])


def _log(random_: random.Random, out: _Outcomes, data: bytes) -> None:
    """Entries as a reader of the log asks for them, at the right places and at wrong ones."""
    begin = 0
    for _ in range(4):
        key = int.from_bytes(data[begin + 40 : begin + 48], "little")
        position = random_.choice((2**41, 2**64 - 1, random_.randrange(2**40)))
        topic = random_.choice((b"", data[begin + 48 : begin + 49], *TOPICS))
        there = data[: len(data) - random_.choice((0, 0, random_.randrange(80)))]
        for check in (True, False):
            out.of(
                "stored",
                lambda: blocks.stored_batch(there, begin, key, topic, position, check),
            )
        out.of("head", lambda: blocks.stored_head(there[begin:], key))
        following = begin + int.from_bytes(data[begin : begin + 4], "little")
        begin = following if following < len(data) else random_.randrange(len(data) + 50)


def _blocks(random_: random.Random, out: _Outcomes) -> None:
    data = block(random_)
    _deliver(random_, out, data)
    views = out.of("entries", lambda: blocks.entries(data))
    masks = by_topic({topic: 1 << index % 3 for index, topic in enumerate(TOPICS)})
    out.of("split", lambda: blocks.split(data, masks, lambda topic: len(topic) % 3))
    out.of("select", lambda: blocks.select(data, masks, 2))
    for view in views if isinstance(views, list) else []:
        out.of("entry", lambda view=view: blocks.entry_bytes(data, view.begin))  # type: ignore[misc]
        out.of("opened", lambda view=view: batches.parse(data, view.batch_begin, view.end, 1 << 20))  # type: ignore[misc]
    index = TopicIndex()
    index.set(b"a", random_.choice((0, 5, 2**64 - 1)), random_.randrange(2**64))
    new: list[bytes] = []
    copy = bytearray(data)
    out.of("assign", lambda: index.assign(copy, random_.choice((0, 2**40)), 3, new))
    out.of("replay", lambda: index.replay(copy, 0, len(copy), random_.randrange(2**40), new))
    out.rows.append((bytes(copy), new, len(index), [index.lookup(topic) for topic in TOPICS]))
    _log(random_, out, bytes(copy))
    dump = index.dump()
    other = TopicIndex()
    out.of("load", lambda: other.load(damage(random_, dump, 2)))
    out.of("load_part", lambda: other.load_part(random_.randbytes(24 * random_.randrange(20))))
    out.rows.append([other.lookup(topic) for topic in TOPICS])
    out.rows.append([other.remove(topic) for topic in TOPICS])
    out.rows.append(hashlib.sha256(other.dump()).hexdigest())


def _tables(random_: random.Random, out: _Outcomes) -> None:
    data = _either(random_, damage(random_, sound_properties(random_), 2))
    table = array("q", [0] * properties.COLUMNS)

    def check() -> None:
        properties.check(data, 0, len(data), table)

    out.of("check", check)
    out.rows.append([table[column] for column in (0, 1, 2, 3, 5, 7, 9)])
    raw = random_.choice(NASTY) + random_.choice(TOPICS) + random_.randbytes(random_.randrange(20))
    out.of("text", lambda: properties.is_text(raw, 0, len(raw)))
    out.of("string", lambda: properties.string_end(raw, 0, len(raw)))
    out.rows.append(
        (hashing.mix(raw, random_.randrange(2**64)), hashing.murmur2(raw), zlib.crc32(raw))
    )
    out.rows.append(hashing.crc32c(raw, 0, len(raw)))
    trie = FilterTrie()
    levels = (b"a", b"b", b"", b"$x", b"+")
    live: list[tuple[bytes, int]] = []
    for number in range(random_.randrange(30)):
        parts = [random_.choice(levels) for _ in range(random_.randint(1, 5))]
        if random_.random() < 0.3:
            parts.append(b"#")
        live.append((b"/".join(parts), number))
        trie.insert(*live[-1])
        if random_.random() < 0.3:
            gone = live.pop(random_.randrange(len(live)))
            out.rows.append((trie.remove(*gone), trie.remove(*gone)))
    for _ in range(5):
        topic = b"/".join(random_.choice(levels[:-1]) for _ in range(random_.randint(1, 6)))
        matched = sorted(trie.match(topic))  # type: ignore[type-var]
        assert matched == sorted(number for filter_, number in live if _matches(filter_, topic)), (
            live,
            topic,
        )
        out.rows.append(matched)


def _matches(filter_: bytes, topic: bytes) -> bool:
    """MQTT 5.0 section 4.7, the slow way."""
    if topic[:1] == b"$" and filter_[:1] in (b"+", b"#"):
        return False
    wanted, have = filter_.split(b"/"), topic.split(b"/")
    for number, level in enumerate(wanted):
        if level == b"#":
            return True
        if number >= len(have) or level not in (b"+", have[number]):
            return False
    return len(wanted) == len(have)


def outcomes(seed: int) -> list[object]:
    """Everything that the entry points make of what this seed stands for."""
    random_ = random.Random(seed)
    out = _Outcomes()
    for part in (_publish, _batches, _blocks, _tables):
        part(random_, out)
    return out.rows


def digest(seed: int) -> str:
    """The outcomes in short."""
    return hashlib.sha256(repr(outcomes(seed)).encode()).hexdigest()[:16]


if __name__ == "__main__":
    for one in range(int(sys.argv[1]), int(sys.argv[2])):
        print(one, digest(one))
