"""A connection that asks for nothing is closed; one that waits for an answer is not."""

from __future__ import annotations

import time
from pathlib import Path

from tests.broker import BrokerProcess
from tests.kafka.test_broker_records import fetch_request, produce
from tests.kafka.wire import SocketClient, batch


def test_an_idle_connection_is_closed_and_a_parked_one_is_not(tmp_path: Path) -> None:
    with (
        BrokerProcess(tmp_path, 1, KAFKA__CONNECTIONS_MAX_IDLE_MS="1000") as broker,
        SocketClient(broker.kafka) as idle,
        SocketClient(broker.kafka) as parked,
    ):
        idle.ask(3, 9, topics=[{"name": "t"}], allow_auto_topic_creation=True)
        assert produce(parked, "t", batch(b"x")).error_code == 0
        begin = time.monotonic()
        parked.send(1, 12, **fetch_request("t", 1, max_wait_ms=3_500))
        assert idle.read_frame() is None, "it is closed without an answer"
        assert 0.9 < time.monotonic() - begin < 3.4
        assert parked.read(1, 12).error_code == 0
        assert time.monotonic() - begin > 3.4
