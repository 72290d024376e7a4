"""One broker for all conformance tests, with two workers and then with one; client names and
topics are fresh for each test."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack

import pytest

from tests.broker import BrokerProcess
from tests.mqtt.wire import Wire, client_id_on, topic_on

GROUPS = """
[[shared_subscription]]
group = "random"
strategy = "random"

[[shared_subscription]]
group = "sticky"
strategy = "sticky"

[[shared_subscription]]
group = "hash-topic"
strategy = "hash_topic"

[[shared_subscription]]
group = "hash-client"
strategy = "hash_client"

[[shared_subscription]]
group = "least"
strategy = "least_inflight"

[[shared_subscription]]
group = "local"
strategy = "local_first"
"""
FOR_TESTS = {"MQTT__SYS_INTERVAL_S": "1", "LIMITS__TOPIC_ALIAS_MAXIMUM": "10"}


@pytest.fixture(scope="session", params=[2, 1], ids=["2 workers", "1 worker"])
def broker(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[BrokerProcess]:
    """A broker that all tests of the directory share."""
    directory = tmp_path_factory.mktemp("broker")
    with BrokerProcess(directory, request.param, GROUPS, **FOR_TESTS) as process:
        yield process
        assert process.running, "no test may end the broker"
        assert "Traceback" not in process.log, "no test may raise in the broker"
        assert process.stop() == 0


Open = Callable[..., Wire]


@pytest.fixture
def wire(broker: BrokerProcess) -> Iterator[Open]:
    """Makes raw connections; what is open at the end is cut."""
    with ExitStack() as stack:

        def make(version: int = 5) -> Wire:
            return stack.enter_context(Wire(broker.mqtt, version))

        yield make


class Names:
    """Fresh names on chosen workers."""

    def __init__(self, workers: int) -> None:
        self.workers = workers

    def client(self, worker: int = 0) -> bytes:
        """A client id whose session lives on this worker (modulo the number of workers)."""
        return client_id_on(worker, self.workers)

    def topic(self, worker: int = 0) -> bytes:
        """A topic whose log lives on this worker (modulo the number of workers)."""
        return topic_on(worker, self.workers)


@pytest.fixture
def names(broker: BrokerProcess) -> Names:
    """Fresh client ids and topics."""
    return Names(broker.workers)
