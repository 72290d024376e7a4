"""Two minutes of damaged packets on both ports of a running broker.

Sequences of sound packets with bytes flipped, cut, repeated or replaced by the numbers that break
arithmetic; CONNECTs that stop half-way; Kafka frames with wrong lengths, counts, and records that
grow when they are opened. Afterwards the broker still serves both protocols, each worker is the one
that was started, and nothing was kept: no memory, no descriptor, no connection, no session.

ROBUSTMQ_FUZZ_SECONDS and ROBUSTMQ_FUZZ_SEED change how long and which; a failure names its seed.
"""

from __future__ import annotations

import contextlib
import gzip
import os
import random
import socket
import struct
import time
import urllib.request
from collections import deque
from pathlib import Path

import msgspec
import pytest
import zstandard

from robustmq.core import batches
from robustmq.kafka import apis
from robustmq.mqtt import codec
from robustmq.mqtt.packets import (
    Ack,
    Auth,
    Connect,
    Disconnect,
    PacketType,
    PingReq,
    Properties,
    Publish,
    Subscribe,
    SubscriptionOptions,
    Unsubscribe,
    Will,
)
from robustmq.records import Record
from tests.broker import BrokerProcess, until
from tests.core.fuzzing import batch, damage
from tests.kafka.wire import SocketClient, frame_of
from tests.mqtt.wire import Wire

SECONDS = float(os.environ.get("ROBUSTMQ_FUZZ_SECONDS", "120"))
SEED = int(os.environ.get("ROBUSTMQ_FUZZ_SEED", "1"))
WARM = 0.3
"""The part of the time after which caches are as full as they will be."""
GROWTH_BYTES = 48 << 20
"""Of two workers: bounded tables of topics that damage has made; 2 KiB lost a conversation would be
above it."""
HALF_OPEN = 100
SETTINGS = {
    "LIMITS__MAX_SESSION_EXPIRY_S": "1",
    "LIMITS__CONNECT_TIMEOUT_MS": "2000",
    "LIMITS__MAX_PACKET_BYTES": "100000",
    "LIMITS__MAX_DECOMPRESSED_BYTES": "4000000",
    "STORAGE__HOT_BYTES": "4194304",
    "STORAGE__MEMORY_BYTES": "4194304",
    "KAFKA__AUTO_CREATE": "false",
    "LOG__LEVEL": "warning",
}
TOPICS = (b"a", b"a/b", b"b/c/d", b"$SYS/x", b"caf\xc3\xa9")
FILTERS = (b"a", b"a/+", b"#", b"+/c/#", b"$share/g/a", b"$share/g/#", b"a//b")


def mqtt_packets(chance: random.Random, version: int) -> list[bytes]:
    """A conversation that a client could have, packet by packet."""

    def properties(**values: object) -> Properties:
        if version != 5 or chance.random() < 0.5:
            return Properties()
        return msgspec.structs.replace(Properties(user_properties=(("k", "v"),)), **values)

    def packet() -> object:
        packet_id = chance.randint(1, 5)
        kind = chance.randrange(8)
        if kind < 3:
            qos = chance.randrange(3)
            return Publish(
                chance.choice(TOPICS),
                bytes(chance.choice((0, 1, 50, 5000))),
                qos,
                chance.random() < 0.3,
                False,
                packet_id if qos else 0,
                properties(topic_alias=chance.randint(1, 9), content_type="c"),
            )
        if kind == 3:
            filters = [(f, SubscriptionOptions(chance.randrange(3))) for f in FILTERS]
            return Subscribe(packet_id, tuple(chance.sample(filters, 2)), properties())
        if kind == 4:
            return Unsubscribe(packet_id, (chance.choice(FILTERS),), properties())
        if kind == 5:
            return Ack(PacketType(chance.randint(4, 7)), packet_id)
        if kind == 6:
            return PingReq()
        if version == 5 and chance.random() < 0.3:
            return Auth(0x18, Properties(authentication_method="m"))
        return Disconnect(chance.choice((0, 4)) if version == 5 else 0)

    will = Will(b"will", b"w", chance.randrange(3), False) if chance.random() < 0.3 else None
    connect = Connect(
        version,
        b"fuzz-%d" % chance.randrange(40),
        chance.random() < 0.5,
        chance.choice((0, 1, 60)),
        will,
        None,
        None,
        properties(session_expiry_interval=1, receive_maximum=chance.choice((1, 20))),
    )
    packets = [codec.encode(connect, version)]
    for _ in range(chance.randrange(12)):
        packets.append(codec.encode(packet(), version))  # type: ignore[arg-type]
    return packets


def mqtt_bytes(chance: random.Random) -> bytes:
    """A conversation with damage: in one packet, or wherever it falls."""
    packets = mqtt_packets(chance, chance.choice((3, 4, 5, 5)))
    place = chance.randrange(3)
    if place == 0:
        at = chance.randrange(len(packets))
        packets[at] = damage(chance, packets[at])
    elif place == 1:
        at = chance.randrange(len(packets))
        packets[at:at] = [chance.randbytes(chance.randrange(30)), *packets[at : at + 2]]
    data = b"".join(packets)
    return damage(chance, data) if place == 2 else data


def bomb(chance: random.Random) -> bytes:
    """A batch that is a thousand times as large when it is opened."""
    plain = batches.build([Record(None, bytes(8_000_000))], 0)
    kind, pack = chance.choice(((1, gzip.compress), (4, zstandard.ZstdCompressor().compress)))
    out = bytearray(plain[:61] + pack(plain[61:]))
    batches.write_header(out, 0, len(out), kind, 1, 0, 0, -1, -1, -1)
    return bytes(out)


class KafkaFrames:
    """Frames of every API, sound and otherwise."""

    def __init__(self, chance: random.Random) -> None:
        self.chance = chance
        self.bombs = [bomb(chance) for _ in range(2)]
        self.plain: list[bytes] = []
        for key, api in apis.APIS.items():
            for version in range(api.min_version, api.max_version + 1):
                with contextlib.suppress(msgspec.ValidationError, AssertionError, TypeError):
                    self.plain.append(frame_of(key, version, 1))

    def produce(self, records: bytes) -> bytes:
        """A Produce to a topic that is there."""
        topic = {"name": "a", "partition_data": [{"index": 0, "records": records}]}
        acks = self.chance.choice((0, 1, -1, -1, 7))
        return frame_of(0, 9, 1, acks=acks, timeout_ms=100, topic_data=[topic])

    def frame(self) -> bytes:
        """What stands behind a length."""
        chance = self.chance
        kind = chance.randrange(10)
        if kind == 0:
            return self.produce(chance.choice(self.bombs))
        if kind < 4:
            return self.produce(batch(chance))
        frame = chance.choice(self.plain)
        if kind == 4:
            count = chance.choice((b"\x7f\xff\xff\xff", b"\xff\xff\xff\xff\x07", b"\0\x01\x86\xa1"))
            at = chance.randrange(len(frame))
            return frame[:at] + count + frame[at:]
        return damage(chance, frame)

    def next(self) -> bytes:
        """A few frames with their lengths, most of them right."""
        out = b""
        for _ in range(self.chance.randint(1, 4)):
            frame = self.frame()
            length = len(frame)
            if self.chance.random() < 0.15:
                length = self.chance.choice(
                    (0, 3, -1, 2**31 - 1, 100 << 20, length + 1, length - 1)
                )
            out += struct.pack(">i", length) + frame
        return out


class Attacker:
    """Opens connections, says wrong things, leaves in every manner."""

    def __init__(self, broker: BrokerProcess, seed: int) -> None:
        self.chance = random.Random(seed)
        self.broker = broker
        self.frames = KafkaFrames(self.chance)
        self.open: deque[socket.socket] = deque()
        self.conversations = 0

    def run(self, seconds: float) -> None:
        """Attack for so long."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline:
            self.conversations += 1
            if self.chance.random() < 0.6:
                self.talk(self.broker.mqtt, mqtt_bytes(self.chance))
            else:
                ports = (self.broker.kafka, *self.broker.worker_ports)
                self.talk(self.chance.choice(ports), self.frames.next())

    def talk(self, port: int, data: bytes) -> None:
        """One connection."""
        chance = self.chance
        sock = socket.create_connection(("127.0.0.1", port), 5)
        sock.settimeout(0.02)
        cut = chance.choice((len(data), len(data), chance.randint(0, len(data))))
        with contextlib.suppress(OSError):
            for piece in (data[: cut // 2], data[cut // 2 : cut]):
                sock.sendall(piece)
                if chance.random() < 0.3:
                    sock.recv(65_536)
        leave = chance.randrange(4)
        if leave == 0:
            self.open.append(sock)
            if len(self.open) > HALF_OPEN:
                self.open.popleft().close()
            return
        if leave == 1:
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        elif leave == 2:
            with contextlib.suppress(OSError):
                sock.shutdown(socket.SHUT_WR)
                sock.recv(65_536)
        sock.close()

    def leave(self) -> None:
        """Close what is still open."""
        while self.open:
            self.open.popleft().close()


def metrics(broker: BrokerProcess) -> dict[str, float]:
    """Sums over the workers, by name and labels other than the worker."""
    url = f"http://127.0.0.1:{broker.metrics}/metrics"
    sums: dict[str, float] = {}
    with urllib.request.urlopen(url, timeout=5) as answer:
        for line in answer.read().decode().splitlines():
            if line.startswith("#"):
                continue
            name, value = line.rsplit(" ", 1)
            name = name.partition(',worker="')[0].partition('{worker="')[0]
            sums[name] = sums.get(name, 0) + float(value)
    return sums


def resident(broker: BrokerProcess) -> int:
    """Resident bytes of all workers."""
    total = 0
    for pid in broker.worker_pids():
        total += int(Path(f"/proc/{pid}/statm").read_text().split()[1]) * os.sysconf("SC_PAGESIZE")
    return total


def settled(broker: BrokerProcess) -> bool:
    """Everybody has left, and what they left behind is over."""
    sums = metrics(broker)
    names = (
        'robustmq_connections{protocol="mqtt"',
        'robustmq_connections{protocol="kafka"',
        "robustmq_mqtt_sessions",
        "robustmq_mqtt_subscriptions",
    )
    return not any(sums[name] for name in names)


def serves_both_protocols(broker: BrokerProcess, payload: bytes) -> None:
    """A message passes from MQTT to MQTT and to Kafka."""
    with Wire(broker.mqtt) as reader, Wire(broker.mqtt) as writer:
        assert reader.connect(b"reader").reason_code == 0
        assert reader.subscribe(b"served", qos=1) == (1,)
        assert writer.connect(b"writer").reason_code == 0
        assert writer.publish(b"served", payload, 1) == 0
        assert reader.receive().payload == payload
    with SocketClient(broker.kafka) as client:
        partition = {
            "partition": 0,
            "fetch_offset": 0,
            "partition_max_bytes": 1 << 20,
            "current_leader_epoch": -1,
        }
        topic = {"topic": "served", "partitions": [partition]}
        answer = client.ask(1, 12, max_wait_ms=1000, min_bytes=1, max_bytes=1 << 20, topics=[topic])
        records = answer.responses[0].partitions[0].records
        assert payload in b"".join(bytes(part) for part in records)


@pytest.mark.timeout(SECONDS + 120)
def test_two_minutes_of_damaged_packets_end_connections_and_nothing_else(tmp_path: Path) -> None:
    with BrokerProcess(tmp_path, 2, **SETTINGS) as broker:
        workers = broker.worker_pids()
        serves_both_protocols(broker, b"before")
        with Wire(broker.mqtt) as writer:
            writer.connect(b"maker")
            writer.publish(b"a", b"a topic for Kafka", 1)
        attacker = Attacker(broker, SEED)
        attacker.run(SECONDS * WARM)
        attacker.leave()
        until(lambda: settled(broker), 30, "the end of all connections")
        resident_before, open_before = resident(broker), broker.open_sockets()
        attacker.run(SECONDS * (1 - WARM))
        attacker.leave()
        until(lambda: settled(broker), 30, "the end of all connections")
        serves_both_protocols(broker, b"after")
        until(lambda: settled(broker), 30, "the end of all connections")
        what = f"seed {SEED}, {attacker.conversations} conversations"
        assert broker.worker_pids() == workers, what
        assert "Traceback" not in broker.log, what
        assert broker.open_sockets() <= open_before, what
        grown = resident(broker) - resident_before
        assert grown < GROWTH_BYTES, f"{what}: {grown >> 20} MiB more"
        sums = metrics(broker)
        assert sums['robustmq_protocol_errors_total{protocol="mqtt"'] > 100, what
        assert sums['robustmq_protocol_errors_total{protocol="kafka"'] > 100, what
        assert broker.stop() == 0
