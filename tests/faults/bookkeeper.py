"""A transactional producer that goes on through every fault, and its own record of what it has
committed, aborted, or does not know of.
"""

from __future__ import annotations

import threading
import time
from collections import Counter, defaultdict
from collections.abc import Callable

from confluent_kafka import KafkaError, KafkaException, Producer, TopicPartition

from tests.broker import until
from tests.clients.test_kafka_transactions import consumer
from tests.faults.load import MqttSubscriber

SIZE = 5
PAUSE_S = 0.02
ABORT_EVERY = 6
# When all brokers are down, librdkafka 2.16 begins anew and may wait for ever for a broker that it
# has given up itself.
SETTINGS = {
    "transactional.id": "bookkeeper",
    "metadata.recovery.strategy": "none",
    "retry.backoff.max.ms": 100,
    "reconnect.backoff.max.ms": 200,
    "linger.ms": 1,
    "transaction.timeout.ms": 20_000,
    "log_level": 2,
}


class Bookkeeper:
    """Transactions of SIZE records over all partitions of some topics, one after the other."""

    def __init__(self, servers: str, topics: dict[str, int]) -> None:
        """`topics` says how many partitions each has."""
        self._servers = servers
        self._places = [(topic, n) for topic, count in topics.items() for n in range(count)]
        self.committed: list[int] = []
        self.aborted: list[int] = []
        self.unknown: list[int] = []
        self.failures: list[str] = []
        self._stopped = threading.Event()
        self._thread = threading.Thread(target=self._run, name="bookkeeper", daemon=True)
        self._thread.start()

    def _run(self) -> None:
        number = 0
        producer: Producer | None = None
        while not self._stopped.wait(PAUSE_S):
            number += 1
            try:
                if producer is None:
                    producer = Producer({"bootstrap.servers": self._servers, **SETTINGS})
                    producer.init_transactions(30)
                self._transaction(producer, number)
            except KafkaException as error:
                self.failures.append(str(error))
                producer = None

    def _transaction(self, producer: Producer, number: int) -> None:
        """One of them; raises KafkaException when the producer can go on no more."""
        self.unknown.append(number)
        commit = number % ABORT_EVERY != 0
        try:
            producer.begin_transaction()
            for at in range(SIZE):
                topic, partition = self._place(number, at)
                producer.produce(topic, f"{number} {at}", partition=partition)
            if commit:
                _again(lambda: producer.commit_transaction(20), self._stopped)
            else:
                _again(lambda: producer.abort_transaction(20), self._stopped)
        except KafkaException as error:
            if not error.args[0].txn_requires_abort():
                raise
            _again(lambda: producer.abort_transaction(20), self._stopped)
            commit = False
        self.unknown.remove(number)
        (self.committed if commit else self.aborted).append(number)

    def finish(self) -> None:
        """End behind the transaction that runs."""
        self._stopped.set()
        self._thread.join(60)
        assert not self._thread.is_alive(), f"a transaction does not end: {self.failures[-3:]}"

    def stop(self) -> None:
        """Whatever it does."""
        self._stopped.set()

    def check(self) -> None:
        """Committed transactions are there once, aborted ones never; others whole or not at
        all."""
        found = Counter(self._read())
        whole = {n: {f"{n} {at}" for at in range(SIZE)} for n in (*self.committed, *self.unknown)}
        doubled = [value for value, count in found.items() if count > 1]
        assert not doubled, f"twice in the log: {doubled[:5]}"
        missing = [n for n in self.committed if not whole[n] <= found.keys()]
        assert not missing, f"committed and not there: {missing[:5]}, {self.failures[-3:]}"
        aborted = {f"{n} {at}" for n in self.aborted for at in range(SIZE)} & found.keys()
        assert not aborted, f"aborted and there: {sorted(aborted)[:5]}"
        for number in self.unknown:
            part = whole[number] & found.keys()
            assert not part or part == whole[number], f"a part of a transaction: {part}"

    def check_told(self, subscriber: MqttSubscriber) -> None:
        """MQTT has heard of the committed ones, and of no aborted one."""
        subscriber.wait_for(self._rows(self.committed))
        told = set(self._rows(self.aborted)).intersection(subscriber.received)
        assert not told, f"aborted and told: {sorted(told)[:5]}"

    def _rows(self, numbers: list[int]) -> list[tuple[str, str]]:
        """The topics and values of what these transactions have written."""
        return [(self._place(n, at)[0], f"{n} {at}") for n in numbers for at in range(SIZE)]

    def _place(self, number: int, at: int) -> tuple[str, int]:
        return self._places[(number + at) % len(self._places)]

    def _read(self) -> list[str]:
        """All committed values, each partition in the order of their transactions."""
        reader = consumer(self._servers, "auditor", **{"metadata.recovery.strategy": "none"})
        reader.assign([TopicPartition(topic, n, 0) for topic, n in self._places])
        values: dict[tuple[str | None, int | None], list[str]] = defaultdict(list)
        ended: set[tuple[str | None, int | None]] = set()

        def more() -> bool:
            for message in reader.consume(500, 0.2):
                error, place = message.error(), (message.topic(), message.partition())
                if error is None:
                    values[place].append((message.value() or b"").decode())
                else:
                    assert error.code() == KafkaError._PARTITION_EOF, error
                    ended.add(place)
            return len(ended) == len(self._places)

        until(more, 40, "the ends of the partitions: a transaction may be open")
        reader.close()
        for rows in values.values():
            numbers = [int(value.split()[0]) for value in rows]
            assert numbers == sorted(numbers), "transactions are out of order"
        return [value for rows in values.values() for value in rows]


def _again(call: Callable[[], object], stopped: threading.Event) -> None:
    """Call again while the client says that it may; raises KafkaException."""
    deadline = time.monotonic() + 60
    while True:
        try:
            call()
        except KafkaException as error:
            if not error.args[0].retriable() or time.monotonic() > deadline:
                raise
            stopped.wait(0.1)
        else:
            return
