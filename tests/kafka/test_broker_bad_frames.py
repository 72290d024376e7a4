"""Requests of every API and version, sound and damaged, cost a real broker nothing but the
connections they came by; what they declare and do not carry costs it no memory."""

from __future__ import annotations

import contextlib
import struct

import pytest

from robustmq.kafka import codec
from tests.broker import BrokerProcess
from tests.kafka.fuzzing import CASES, LENGTHS, MIB, Attack, bomb, bugs
from tests.kafka.wire import SocketClient, batch

FRAMES = 4000
GROWTH_BYTES = 32 * MIB
"""Of two workers: tables with a bound, and what a busy process keeps of memory that it used."""


@pytest.mark.parametrize("seed", [1, 2])
def test_requests_of_every_kind_end_their_connection_at_most(
    broker: BrokerProcess, seed: int
) -> None:
    workers, read = broker.worker_pids(), len(broker.log)
    attack = Attack(broker, seed)
    attack.run(FRAMES)
    assert attack.answered > FRAMES // 4, "most sound requests are answered"
    assert attack.closed > FRAMES // 10, "bad bytes end their connection"
    assert attack.witness_failed is None
    assert broker.worker_pids() == workers
    assert not bugs(broker.log[read:])


def test_lengths_that_are_not_carried_and_batches_that_grow_cost_no_memory(
    broker: BrokerProcess,
) -> None:
    attack = Attack(broker, 3)
    attack.run(500)
    before = attack.resident_bytes()
    for api, version in CASES:
        head = codec.encode_header(api.key, version, 7, "c")
        for length in LENGTHS:
            with SocketClient(broker.kafka, 0.05) as client, contextlib.suppress(OSError):
                client.send_frame(head + length)
                client.send_frame(head + bytes(8) + length + bytes(60))
                client.read_frame()
    for size in (2**31 - 1, -1, 200 * MIB):
        with SocketClient(broker.kafka) as client:
            client.socket.sendall(struct.pack(">i", size) + b"\0" * 100)
            assert client.read_frame() is None
    topic = {"name": "one", "partition_data": [{"index": 0, "records": bomb(4)}]}
    for _ in range(20):
        with SocketClient(broker.kafka) as client:
            client.ask(0, 9, acks=1, timeout_ms=100, topic_data=[topic])
    assert attack.resident_bytes() - before < GROWTH_BYTES
    with SocketClient(broker.kafka) as client:
        topic["partition_data"] = [{"index": 0, "records": batch(b"served")}]
        answer = client.ask(0, 9, acks=-1, timeout_ms=5000, topic_data=[topic])
        assert answer.responses[0].partition_responses[0].error_code in (0, 3)
