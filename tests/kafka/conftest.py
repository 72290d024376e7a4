"""One real broker with two workers for the tests of this folder that speak over sockets."""

from __future__ import annotations

import uuid
from collections.abc import Iterator

import pytest

from tests.broker import BrokerProcess
from tests.kafka.wire import SocketClient, new_topic


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrokerProcess]:
    directory = tmp_path_factory.mktemp("kafka")
    with BrokerProcess(directory, 2, KAFKA__GROUP_INITIAL_REBALANCE_DELAY_MS="0") as running:
        yield running


@pytest.fixture(params=[0, 1], ids=["worker0", "worker1"])
def client(request: pytest.FixtureRequest, broker: BrokerProcess) -> Iterator[SocketClient]:
    """A connection to each worker in turn: what one does not own it asks of the other."""
    with SocketClient(broker.worker_ports[request.param]) as connected:
        yield connected


@pytest.fixture
def topic(client: SocketClient) -> str:
    """A new topic of one partition."""
    name = uuid.uuid4().hex
    # The records of these tests are of 1970.
    lasting = new_topic(name, configs=[{"name": "retention.ms", "value": "-1"}])
    made = client.ask(19, 7, topics=[lasting], timeout_ms=5000, validate_only=False)
    assert made.topics[0].error_code == 0
    return name
