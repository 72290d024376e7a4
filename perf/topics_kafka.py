"""Kafka's side of the load on very many topics: producers with acks=all, reads of single topics by
name, and the end of every topic.

Raw frames by the broker's own codec: a client library keeps so much of each topic that a million of
them would measure the client.
"""

from __future__ import annotations

import socket
import struct
import threading
import time
from collections import deque
from collections.abc import Iterable, Iterator
from types import TracebackType
from typing import Any, Self

from topics_plan import Job, LoadFailed, Plan, Progress, is_payload, kafka_name, payload_of

from robustmq.core import batches
from robustmq.kafka import codec, messages
from robustmq.records import Record

PRODUCE, FETCH, LIST_OFFSETS, METADATA = 0, 1, 2, 3
VERSIONS = {PRODUCE: 9, FETCH: 12, LIST_OFFSETS: 6, METADATA: 9}
"""The newest that name topics by their names, and are flexible where that is so."""
CHUNK = 250
TIMEOUT_S = 60.0
MAX_BYTES = 1_048_576
LATEST = -1


class KafkaConnection:
    """A connection whose requests are answered in their order; a context manager."""

    def __init__(self, host: str, port: int) -> None:
        self._socket = socket.create_connection((host, port), TIMEOUT_S)
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self._asked: deque[int] = deque()
        self._file = self._socket.makefile("rb", 262_144)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Leave."""
        self._file.close()
        self._socket.close()

    def send(self, key: int, request: Any) -> None:
        """Ask; several may be under way."""
        version = VERSIONS[key]
        head = codec.encode_header(key, version, 1, "many-topics")
        frame = head + b"".join(codec.encode_request(key, version, request))
        self._socket.sendall(struct.pack(">i", len(frame)) + frame)
        self._asked.append(key)

    def read(self) -> Any:
        """The answer to the first that has none."""
        key = self._asked.popleft()
        size = self._file.read(4)
        data = self._file.read(int.from_bytes(size, "big")) if len(size) == 4 else b""
        if not data:
            raise ConnectionResetError("the broker closed a connection")
        head = codec.response_header(key, VERSIONS[key], 1)
        return codec.decode_response(key, VERSIONS[key], data, len(head))

    def ask(self, key: int, request: Any) -> Any:
        """Ask and wait."""
        self.send(key, request)
        return self.read()


class Cluster:
    """Connections to every worker that leads something, found through one of them."""

    def __init__(self, port: int) -> None:
        self._first = KafkaConnection("127.0.0.1", port)
        self._brokers: dict[int, tuple[str, int]] = {}
        self._connections: dict[int, KafkaConnection] = {}

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Leave all."""
        for connection in (self._first, *self._connections.values()):
            connection.close()

    def leaders(self, numbers: Iterable[int], create: bool) -> dict[int, list[int]]:
        """Topics by the worker that leads them; made, if wanted and they are not there."""
        by_name = {kafka_name(number): number for number in numbers}
        wanted = [messages.MetadataRequestTopic(name=name) for name in by_name]
        answer = self._first.ask(
            METADATA, messages.MetadataRequest(topics=wanted, allow_auto_topic_creation=create)
        )
        for broker in answer.brokers:
            self._brokers[broker.node_id] = (broker.host, broker.port)
        found: dict[int, list[int]] = {}
        for topic in answer.topics:
            if topic.error_code:
                raise LoadFailed(f"{topic.name}: Kafka error {topic.error_code}")
            found.setdefault(topic.partitions[0].leader_id, []).append(by_name[topic.name])
        return found

    def of(self, leader: int) -> KafkaConnection:
        """The connection to a worker."""
        known = self._connections.get(leader)
        if known is None:
            known = self._connections[leader] = KafkaConnection(*self._brokers[leader])
        return known


def _batch(number: int, round_: int, size: int, now_ns: int, now_ms: int) -> bytes:
    return batches.build([Record(value=payload_of(number, round_, size, now_ns))], now_ms)


class KafkaLoader:
    """Produces by several threads: a chunk of topics a request, one batch for each."""

    def __init__(self, port: int, plan: Plan, progress: Progress) -> None:
        self._port = port
        self._plan = plan
        self._progress = progress
        self._chunks: deque[Job] = deque()
        self._lock = threading.Lock()
        self._error: Exception | None = None

    def give(self, job: Job) -> None:
        """Part a round into chunks."""
        for begin in range(job.begin, job.end, CHUNK):
            self._chunks.append(Job(job.round, begin, min(job.end, begin + CHUNK)))

    def run(self) -> None:
        """Produce until all is acknowledged."""
        self._error = None
        threads = [
            threading.Thread(target=self._work, daemon=True)
            for _ in range(max(1, self._plan.clients // 2))
        ]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if self._error is not None:
            raise self._error

    def _work(self) -> None:
        try:
            with Cluster(self._port) as cluster:
                while (job := self._next()) is not None:
                    self._produce_chunk(cluster, job)
        except (OSError, LoadFailed) as error:
            self._error = self._error or error

    def _next(self) -> Job | None:
        while not self._progress.may_send:
            time.sleep(0.002)
        with self._lock:
            if self._error is not None or not self._chunks:
                return None
            return self._chunks.popleft()

    def _produce_chunk(self, cluster: Cluster, job: Job) -> None:
        """One chunk; when the broker goes away meanwhile it is to be done again."""
        try:
            parts = cluster.leaders(range(job.begin, job.end), job.round == 0)
            for leader, numbers in parts.items():
                cluster.of(leader).send(PRODUCE, self._request(numbers, job.round))
            for leader in parts:
                answer = cluster.of(leader).read()
                for topic in answer.responses:
                    code = topic.partition_responses[0].error_code
                    if code:
                        raise LoadFailed(f"{topic.name}: Kafka error {code} to Produce")
        except OSError:
            with self._lock:
                self._chunks.appendleft(job)
            self._progress.sent_again(job.end - job.begin)
            raise
        self._progress.add("kafka", job.end - job.begin)

    def _request(self, numbers: list[int], round_: int) -> Any:
        now_ns, now_ms, size = time.monotonic_ns(), int(time.time() * 1000), self._plan.size
        return messages.ProduceRequest(
            acks=-1,
            timeout_ms=30_000,
            topic_data=[
                messages.TopicProduceData(
                    name=kafka_name(number),
                    partition_data=[
                        messages.PartitionProduceData(
                            index=0, records=_batch(number, round_, size, now_ns, now_ms)
                        )
                    ],
                )
                for number in numbers
            ],
        )


class Read:
    """What a sample of topics was read back as."""

    def __init__(self) -> None:
        self.wrong: list[str] = []
        self.find_s: list[float] = []
        """By Metadata, the name alone known."""
        self.fetch_s: list[float] = []
        """The first batches of a topic, by Fetch."""


def read_sample(port: int, numbers: list[int], plan: Plan) -> Iterator[Read]:
    """Find and read topics one by one; yields what is known so far, after each."""
    read = Read()
    with Cluster(port) as cluster:
        for number in numbers:
            begin = time.perf_counter()
            leader = next(iter(cluster.leaders([number], False)))
            read.find_s.append(time.perf_counter() - begin)
            connection = cluster.of(leader)
            begin = time.perf_counter()
            records = _records(connection, number, 0)
            read.fetch_s.append(time.perf_counter() - begin)
            while len(records) < plan.messages:
                more = _records(connection, number, records[-1].offset + 1 if records else 0)
                if not more:
                    break
                records += more
            read.wrong += _wrong(number, records, plan)
            yield read


def _records(connection: KafkaConnection, number: int, offset: int) -> list[Record]:
    answer = connection.ask(
        FETCH,
        messages.FetchRequest(
            max_wait_ms=0,
            min_bytes=0,
            max_bytes=MAX_BYTES,
            topics=[
                messages.FetchTopic(
                    topic=kafka_name(number),
                    partitions=[
                        messages.FetchPartition(
                            partition=0, fetch_offset=offset, partition_max_bytes=MAX_BYTES
                        )
                    ],
                )
            ],
        ),
    )
    part = answer.responses[0].partitions[0]
    if part.error_code:
        raise LoadFailed(f"{kafka_name(number)}: Kafka error {part.error_code} to Fetch")
    found: list[Record] = []
    for buffer in part.records or ():
        data = bytes(buffer)
        at = 0
        while at < len(data):
            end = at + 12 + int.from_bytes(data[at + 8 : at + 12], "big")
            found += batches.parse(data[at:end])
            at = end
    return [record for record in found if record.offset >= offset]


def _wrong(number: int, records: list[Record], plan: Plan) -> list[str]:
    """What a topic should hold and does not: every round, none but its own, dense offsets. A
    message that was sent again after a restart may stand twice."""
    name = kafka_name(number)
    if [record.offset for record in records] != list(range(len(records))):
        return [f"{name}: its offsets are {[record.offset for record in records]}"]
    rounds = []
    for record in records:
        value = record.value or b""
        round_ = int.from_bytes(value[4:8], "little")
        if not is_payload(value, number, round_, plan.size):
            return [f"{name}: holds {value[:40]!r}"]
        if round_ not in rounds:
            rounds.append(round_)
    if rounds != list(range(plan.messages)):
        return [f"{name}: holds the rounds {rounds} of {plan.messages}"]
    return []


def short_topics(port: int, plan: Plan) -> Iterator[tuple[int, list[str]]]:
    """Ask every topic for its end, all of one worker, which asks the others; yields (topics asked,
    those that lack something)."""
    short: list[str] = []
    asked = 0
    with KafkaConnection("127.0.0.1", port) as connection:
        connection.send(LIST_OFFSETS, _ends(range(min(CHUNK, plan.topics))))
        while asked < plan.topics:
            asked = min(plan.topics, asked + CHUNK)
            if asked < plan.topics:
                connection.send(LIST_OFFSETS, _ends(range(asked, min(plan.topics, asked + CHUNK))))
            for topic in connection.read().topics:
                row = topic.partitions[0]
                if row.error_code or row.offset < plan.messages:
                    short.append(f"{topic.name}: ends at {row.offset}, error {row.error_code}")
            yield asked, short


def _ends(numbers: Iterable[int]) -> Any:
    return messages.ListOffsetsRequest(
        replica_id=-1,
        topics=[
            messages.ListOffsetsTopic(
                name=kafka_name(number),
                partitions=[messages.ListOffsetsPartition(partition_index=0, timestamp=LATEST)],
            )
            for number in numbers
        ],
    )
