"""One real broker with two workers for the tests of this folder that speak over sockets."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.broker import BrokerProcess


@pytest.fixture(scope="session")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrokerProcess]:
    directory = tmp_path_factory.mktemp("kafka")
    with BrokerProcess(directory, 2, KAFKA__GROUP_INITIAL_REBALANCE_DELAY_MS="0") as running:
        yield running
