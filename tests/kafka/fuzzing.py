"""Requests of every offered API and version that make sense as far as they can, and then do not.

A request is filled from the schema tables under a seed. Names, groups, members, producers and topic
ids are mostly such as are there, so that what is asked gets past the first check. Then it is sent
as it is, or with bytes changed, cut, repeated, or with a length blown up.

Run as a program it attacks a broker of its own: `python -m tests.kafka.fuzzing SECONDS SEED`.
"""

from __future__ import annotations

import contextlib
import os
import random
import struct
import sys
import tempfile
import threading
import time
import uuid
from collections import Counter
from pathlib import Path
from typing import Any

import cramjam
import zstandard

from robustmq.core import batches
from robustmq.kafka import codec, messages, schema
from robustmq.kafka.apis import APIS, Api
from robustmq.kafka.schema import Field
from robustmq.records import Record
from tests.broker import BrokerProcess
from tests.kafka.wire import SocketClient, batch, new_topic

RULES = frozenset({30, 49})
"""CreateAcls and AlterClientQuotas: what they set would stop the others."""
CASES = [
    (api, version)
    for api in APIS.values()
    if api.key not in RULES
    for version in range(api.min_version, api.max_version + 1)
]
TOPICS = ("one", "three", "compacted", "light")
OTHER_NAMES = ("", ".", "a" * 249, "a" * 250, "größe-温度", "_x24SYS.broker.version", "new")
NUMBERS = (0, 1, 2, 3, 5, 100, -1, -2, -3, -4, -5)
WIDTHS = {"int8": 8, "int16": 16, "int32": 32, "int64": 64, "uint16": 16}
LENGTHS = (
    b"\x7f\xff\xff\xff",
    b"\xff\xff\xff\xff\x07",
    b"\xff\xff\xff\xff\x0f",
    b"\x80" * 6,
    b"\x7f\xff",
    b"\x00\x01\x86\xa1",
    b"\xff",
    b"\x80\x00\x00\x00",
)
ANSWER_S = 0.02
"""What is answered later (a parked fetch or join) is not waited for."""
SERVED_WITHIN_S = 10.0
MIB = 1 << 20


def bomb(codec_number: int) -> bytes:
    """A batch of a few thousand bytes that is a thousand times as large when opened."""
    plain = batch(bytes(2 * MIB))
    if codec_number == 1:
        packed = bytes(cramjam.gzip.compress(plain[61:]))
    else:
        packed = zstandard.ZstdCompressor().compress(plain[61:])
    out = bytearray(plain[:61] + packed)
    batches.write_header(out, 0, len(out), codec_number, 1, 0, 0, -1, -1, -1)
    return bytes(out)


class Requests:
    """Frames of every API, from what a broker has and what it has not."""

    def __init__(self, chance: random.Random, topic_ids: list[uuid.UUID]) -> None:
        self.chance = chance
        self.topic_ids = topic_ids
        self.members = ["", "nobody"]
        self.producers = [-1, 0, 1]
        self.bombs = [bomb(1), bomb(4)]

    def frame(self) -> tuple[Api, int, bytes]:
        """One request as it should be encoded."""
        api, version = self.chance.choice(CASES)
        name = f"{api.name}Request"
        request = self._struct(name, schema.messages()[name], version)
        body = codec.encode_request(api.key, version, request)
        head = codec.encode_header(api.key, version, 7, self.chance.choice(("c", None, "")))
        return api, version, head + b"".join(body)

    def damaged(self, frame: bytes) -> bytes:
        """The same with something wrong behind the key and the version."""
        chance, out = self.chance, bytearray(frame)
        kind = chance.randrange(6)
        if kind == 0:
            return frame[: chance.randrange(8, len(frame) + 1)]
        if kind == 1:
            at = chance.randrange(8, len(frame) + 1)
            return frame[:at] + frame[at // 2 : at] + frame[at:]
        if kind == 2:
            at = chance.randrange(8, len(frame) + 1)
            length = chance.choice(LENGTHS)
            return frame[:at] + length + frame[at + len(length) * chance.randrange(2) :]
        if kind == 3:
            out[:4] = struct.pack(">hh", chance.randrange(-2, 120), chance.randrange(-2, 20))
            return bytes(out)
        for _ in range(chance.choice((1, 1, 2, 4, 16))):
            out[chance.randrange(8, len(out))] = chance.choice((0, 1, 0x7F, 0x80, 0xFF, 3, 0x41))
        return bytes(out)

    def _struct(self, name: str, fields: tuple[Field, ...], version: int) -> Any:
        values = {
            field.name: self._value(field, version)
            for field in fields
            if version in field.versions and (field.tag is None or self.chance.random() < 0.7)
        }
        return getattr(messages, name)(**values)

    def _value(self, field: Field, version: int) -> Any:
        chance = self.chance
        if version in field.nullable and chance.random() < 0.2:
            return None
        if field.is_array:
            count = chance.choice((0, 1, 1, 1, 2, 3)) if chance.random() < 0.98 else 200
            element = schema.element_of(field)
            return [self._value(element, version) for _ in range(count)]
        if field.is_struct:
            return self._struct(field.type, field.fields, version)
        return self._scalar(field.name, field.type)

    def _scalar(self, name: str, kind: str) -> Any:
        chance = self.chance
        match kind:
            case "bool":
                return chance.random() < 0.5
            case "string":
                return self._text(name)
            case "uuid":
                return chance.choice((*self.topic_ids, uuid.UUID(int=0), uuid.UUID(int=5)))
            case "float64":
                return chance.choice((0.0, 1.0, -1.0, 1e9, float("inf"), float("nan")))
            case "records" | "batches":
                return self._records()
            case "bytes":
                return chance.randbytes(chance.choice((0, 1, 20, 500)))
            case _:
                return self._number(name, kind)

    def _text(self, name: str) -> str:
        chance = self.chance
        if chance.random() < 0.05:
            return chance.choice(OTHER_NAMES)
        if "member" in name:
            return chance.choice(self.members)
        if "group" in name or name == "key":
            return chance.choice(("classic", "consumer", "share", "empty"))
        if "transactional" in name:
            return chance.choice(("copy", "other"))
        if "protocol" in name or "assignor" in name:
            return chance.choice(("consumer", "range", "uniform", "share"))
        if "value" in name:
            return chance.choice(("1", "-1", "compact", "delete", "", "9" * 30, "producer"))
        return chance.choice((*TOPICS, "retention.ms", "cleanup.policy", "one"))

    def _number(self, name: str, kind: str) -> int:
        chance = self.chance
        width = WIDTHS[kind]
        top = (1 << (width - 1)) - 1
        if kind == "uint16":
            return chance.choice((0, 1, 9092, 65535))
        if "ms" in name.split("_") or "timeout" in name or "wait" in name:
            return min(chance.choice((0, 1, 50, 6000)), top)
        if chance.random() < 0.1:
            return chance.choice((top, -top - 1, chance.randrange(-top, top)))
        if name == "producer_id":
            return chance.choice(self.producers)
        if name.endswith("bytes"):
            return min(chance.choice((0, 1, MIB)), top)
        return chance.choice(NUMBERS)

    def _records(self) -> bytes:
        chance = self.chance
        kind = chance.randrange(12)
        if kind == 0:
            return chance.choice(self.bombs)
        if kind == 1:
            return chance.randbytes(chance.choice((0, 1, 61, 300)))
        header = {}
        if kind > 6:
            producer = chance.choice(self.producers)
            header = {"producer_id": producer, "producer_epoch": 0, "base_sequence": 0}
        made = bytearray(batch(b"a", b"b" * chance.choice((1, 2000)), **header))
        if kind in (2, 3):
            made[chance.randrange(len(made))] = chance.randrange(256)
        if kind == 4:
            attributes = chance.choice((1, 2, 3, 4, 5, 7, 0x10, 0x20, 0x30))
            batches.write_header(made, 0, len(made), attributes, 1, 0, 0, -1, -1, -1)
        return bytes(made) * (2 if kind == 5 else 1)

    def learn(self, api: Api, version: int, data: bytes) -> None:
        """Members and producers that the broker has made."""
        head = codec.response_header(api.key, version, 0)
        answer = codec.decode_response(api.key, version, data, len(head))
        member = getattr(answer, "member_id", None)
        if member:
            self.members = [*self.members[-6:], member]
        producer = getattr(answer, "producer_id", -1)
        if producer >= 0:
            self.producers = [*self.producers[-6:], producer]


class Attack:
    """Connections that ask one thing after the other, and a witness that is served all the time."""

    def __init__(self, broker: BrokerProcess, seed: int) -> None:
        self.broker = broker
        self.chance = random.Random(seed)
        self.requests = Requests(self.chance, self._prepare())
        self.sent = self.answered = self.closed = 0
        self.slowest_s = 0.0
        self.witness_failed: Exception | None = None

    def _prepare(self) -> list[uuid.UUID]:
        compacted = {"name": "cleanup.policy", "value": "compact"}
        wanted = [
            new_topic("one"),
            new_topic("three", 3),
            new_topic("compacted", configs=[compacted]),
            new_topic("witness"),
        ]
        with SocketClient(self.broker.kafka) as client:
            made = client.ask(19, 7, topics=wanted, timeout_ms=5000, validate_only=False)
            return [topic.topic_id for topic in made.topics[:3]]

    def run(self, frames: int, seconds: float = 1e9) -> None:
        """So many frames, or for so long."""
        stopped = threading.Event()
        witness = threading.Thread(target=self._watch, args=(stopped,))
        witness.start()
        deadline = time.monotonic() + seconds
        try:
            while self.sent < frames and time.monotonic() < deadline:
                self._converse()
        finally:
            stopped.set()
            witness.join()

    def _converse(self) -> None:
        port = self.chance.choice((self.broker.kafka, *self.broker.worker_ports))
        with (
            SocketClient(port, ANSWER_S) as client,
            contextlib.suppress(TimeoutError, BrokenPipeError, ConnectionResetError),
        ):
            for _ in range(self.chance.randint(1, 20)):
                api, version, frame = self.requests.frame()
                sound = self.chance.random() < 0.5
                self.sent += 1
                client.send_frame(frame if sound else self.requests.damaged(frame))
                data = client.read_frame()
                if data is None:
                    self.closed += 1
                    return
                self.answered += 1
                if sound:
                    self.requests.learn(api, version, data)

    def _watch(self, stopped: threading.Event) -> None:
        try:
            self._witness(stopped)
        except (AssertionError, OSError) as error:
            self.witness_failed = error

    def _witness(self, stopped: threading.Event) -> None:
        """Another client writes and reads, and never waits long."""
        part = {"partition": 0, "partition_max_bytes": MIB}
        number = 0
        with SocketClient(self.broker.kafka, SERVED_WITHIN_S) as client:
            while not stopped.is_set():
                begin = time.monotonic()
                # Of now: what is older than the topic's retention goes.
                record = Record(None, b"%d" % number, [], int(time.time() * 1000), 0)
                records = {"index": 0, "records": batches.build([record], 0)}
                topic = {"name": "witness", "partition_data": [records]}
                made = client.ask(0, 9, acks=-1, timeout_ms=5000, topic_data=[topic])
                (row,) = made.responses[0].partition_responses
                assert row.error_code == 0, f"the witness is refused with {row.error_code}"
                offset = row.base_offset
                wanted = {"topic": "witness", "partitions": [{**part, "fetch_offset": offset}]}
                found = client.ask(
                    1, 12, max_wait_ms=1000, min_bytes=1, max_bytes=MIB, topics=[wanted]
                )
                (read,) = found.responses[0].partitions
                assert read.error_code == 0, f"the witness is refused with {read.error_code}"
                assert b"%d" % number in b"".join(bytes(buffer) for buffer in read.records)
                self.slowest_s = max(self.slowest_s, time.monotonic() - begin)
                number += 1
                time.sleep(0.02)

    def resident_bytes(self) -> int:
        """Of all workers."""
        page = os.sysconf("SC_PAGESIZE")
        files = [Path(f"/proc/{pid}/statm") for pid in self.broker.worker_pids()]
        return sum(int(file.read_text().split()[1]) * page for file in files)


def main(seconds: float, seed: int) -> None:
    """Attack a broker of two workers, and say what became of it."""
    with (
        tempfile.TemporaryDirectory() as folder,
        BrokerProcess(Path(folder), 2, KAFKA__GROUP_INITIAL_REBALANCE_DELAY_MS="0") as broker,
    ):
        workers, attack = broker.worker_pids(), Attack(broker, seed)
        end = time.monotonic() + seconds
        while time.monotonic() < end and broker.worker_pids() == workers:
            attack.run(1 << 60, 10)
            print(
                f"{attack.sent} frames, {attack.answered} answered, {attack.closed} closed,"
                f" slowest {attack.slowest_s:.2f} s, {attack.resident_bytes() >> 20} MiB",
                flush=True,
            )
        print("the witness:", attack.witness_failed or "served")
        print("workers are the same:", broker.worker_pids() == workers)
        for what, count in bugs(broker.log).most_common():
            print(count, what)


def bugs(log: str) -> Counter[str]:
    """What went wrong in the broker itself: the end of each stack, and how often."""
    found: Counter[str] = Counter()
    lines: list[str] = []
    for line in log.splitlines():
        if line.startswith("{"):
            if '"level": "error"' in line:
                found[line] += 1
            lines = []
        else:
            lines.append(line)
            if not line.startswith((" ", "Traceback")) and len(lines) > 1:
                found["\n".join(lines[-9:])] += 1
                lines = []
    return found


if __name__ == "__main__":
    main(float(sys.argv[1]), int(sys.argv[2]))
