"""Frames with random contents and broken bytes cost a real broker nothing but their connection."""

from __future__ import annotations

import contextlib
import io
import random

import pytest
from kio.serial import entity_writer

from robustmq.kafka import codec
from tests.broker import BrokerProcess
from tests.kafka.test_codec_against_kio import CASES, fill, kio_class
from tests.kafka.wire import SocketClient

FRAMES = 1500


def frames(chance: random.Random) -> list[bytes]:
    """One well-formed request of every version, filled at random."""
    found = []
    for api, version in CASES:
        shape = kio_class(api, version, "Request")
        body = io.BytesIO()
        entity_writer(shape)(body, fill(shape, chance))
        found.append(codec.encode_header(api.key, version, 7, "c") + body.getvalue())
    return found


@pytest.mark.parametrize("seed", [1, 2])
def test_mutated_requests_end_their_connection_at_most(broker: BrokerProcess, seed: int) -> None:
    chance = random.Random(seed)
    known = frames(chance)
    before, read = broker.worker_pids(), len(broker.log)
    for _ in range(FRAMES):
        frame = bytearray(chance.choice(known))
        for _ in range(chance.choice((0, 0, 1, 2, 5))):
            frame[chance.randrange(8, len(frame))] = chance.randrange(256)
        # What is answered late (a parked fetch or join) is not waited for.
        with SocketClient(broker.kafka, 0.02) as client, contextlib.suppress(TimeoutError, OSError):
            client.send_frame(bytes(frame))
            client.read_frame()
    with SocketClient(broker.kafka) as client:
        assert client.ask(18, 0).error_code == 0
    assert broker.worker_pids() == before
    assert '"level": "error"' not in broker.log[read:]
