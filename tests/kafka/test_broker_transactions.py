"""Transactions on a real broker by raw frames: time-outs, topics that go, what is fenced."""

from __future__ import annotations

import uuid
from typing import Any

import pytest

from robustmq.core import batches
from tests.broker import until
from tests.kafka.wire import SocketClient, batch

PRODUCE, INIT, ADD, END, DESCRIBE = 0, 22, 24, 26, 65


class Raw:
    """A producer whose every request is one frame."""

    def __init__(self, client: SocketClient, topic: str, timeout_ms: int = 60_000) -> None:
        self.client, self.topic = client, topic
        self.name = uuid.uuid4().hex
        self.timeout_ms = timeout_ms
        self.pid, self.epoch = self.init()

    def init(self) -> tuple[int, int]:
        answer: Any = None

        def there() -> bool:
            nonlocal answer
            answer = self.client.ask(
                INIT,
                4,
                transactional_id=self.name,
                transaction_timeout_ms=self.timeout_ms,
                producer_id=-1,
                producer_epoch=-1,
            )
            return bool(answer.error_code != 51)

        until(there, 10, "the end of the transaction before")
        assert answer.error_code == 0
        return answer.producer_id, answer.producer_epoch

    def produce(self, sequence: int = 0, version: int = 12) -> int:
        data = batch(
            b"v",
            producer_id=self.pid,
            producer_epoch=self.epoch,
            base_sequence=sequence,
            attributes=batches.TRANSACTIONAL,
        )
        topics = [{"name": self.topic, "partition_data": [{"index": 0, "records": data}]}]
        answer = self.client.ask(
            PRODUCE,
            version,
            transactional_id=self.name,
            acks=-1,
            timeout_ms=5_000,
            topic_data=topics,
        )
        return int(answer.responses[0].partition_responses[0].error_code)

    def end(self, committed: bool = True, version: int = 5) -> int:
        answer = self.client.ask(
            END,
            version,
            transactional_id=self.name,
            producer_id=self.pid,
            producer_epoch=self.epoch,
            committed=committed,
        )
        if not answer.error_code and version >= 5:
            self.pid, self.epoch = answer.producer_id, answer.producer_epoch
        return int(answer.error_code)

    def state(self) -> str:
        answer = self.client.ask(DESCRIBE, 0, transactional_ids=[self.name])
        return str(answer.transaction_states[0].transaction_state)


def test_a_batch_of_no_open_transaction_is_refused(client: SocketClient, topic: str) -> None:
    one = Raw(client, topic)
    assert (one.produce(version=10), one.produce(version=11)) == (48, 120)
    assert one.state() == "Empty"
    assert one.produce() == 0, "from version 12 on the partition is added by it"
    assert one.state() == "Ongoing"
    assert one.end() == 0
    one.epoch -= 1
    assert (one.produce(1), one.produce(1, 11)) == (47, 47), "of the epoch before"
    one.epoch, one.name = one.epoch + 1, "of nobody"
    assert one.produce() == 49


def test_a_late_transaction_is_aborted_and_the_producer_goes_on(
    client: SocketClient, topic: str
) -> None:
    one = Raw(client, topic, timeout_ms=300)
    assert one.produce() == 0
    until(lambda: one.state() == "CompleteAbort", 10, "the time-out")
    assert one.produce(1) == 47
    assert one.end() == 48, "it cannot be committed"
    assert one.end(committed=False) == 0
    assert one.produce() == 0
    assert one.end() == 0


def test_a_transaction_ends_though_its_topic_is_gone(client: SocketClient, topic: str) -> None:
    one = Raw(client, topic)
    assert one.produce() == 0
    gone = client.ask(
        20, 6, topics=[{"name": topic, "topic_id": uuid.UUID(int=0)}], timeout_ms=5_000
    )
    assert gone.responses[0].error_code == 0
    assert one.end() == 0
    until(lambda: one.state() == "CompleteCommit", 10, "the end of the transaction")


@pytest.mark.parametrize("version", [3, 5])
def test_a_producer_of_the_same_id_fences(client: SocketClient, topic: str, version: int) -> None:
    one = Raw(client, topic)
    assert one.produce() == 0
    old = one.pid, one.epoch
    one.pid, one.epoch = one.init()
    new, (one.pid, one.epoch) = (one.pid, one.epoch), old
    assert one.end(version=version) == 90
    assert one.produce(1) == 47
    one.pid, one.epoch = new
    assert (one.produce(), one.end()) == (0, 0)
