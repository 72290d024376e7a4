"""Share groups when a worker was killed, and when the settings change (docs/how-to/
shared-subscriptions.md)."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from tests.broker import BrokerProcess, until
from tests.mqtt.sharing import collect, ended, publish
from tests.mqtt.wire import Wire, client_id_on


@pytest.fixture
def broker(tmp_path: Path) -> Iterator[BrokerProcess]:
    """A broker of two workers, whose clients are cut at the end."""
    with BrokerProcess(tmp_path, 2) as process:
        yield process
        assert process.stop() == 0


def connect(broker: BrokerProcess, client_id: bytes, expiry: int, share: bytes = b"") -> Wire:
    """A client of a session that may be there already."""
    client = Wire(broker.mqtt)
    client.connect(client_id, False, expiry=expiry)
    if share:
        client.subscribe(share, qos=1)
    return client


TOPICS = [b"jobs/%d" % n for n in range(16)]
STICKY = """
[[shared_subscription]]
group = "workers"
strategy = "sticky"
"""
SHARE = b"$share/workers/jobs/+"


@pytest.mark.parametrize("expiry", [0, 1000])
def test_parts_are_equal_again_when_a_killed_worker_is_back(
    broker: BrokerProcess, expiry: int
) -> None:
    names = [client_id_on(home, 2) for home in (0, 0, 0, 1, 1)]
    with ExitStack() as stack:
        members = [stack.enter_context(connect(broker, one, expiry, SHARE)) for one in names]
        publisher = stack.enter_context(connect(broker, client_id_on(0, 2), 0))
        publish(publisher, TOPICS, 500, 50, 1)
        assert all(95 <= len(row) <= 105 for row in collect(members, 500))
        before = broker.worker_pids()
        broker.kill_worker(1)
        until(lambda: len(broker.worker_pids()) == 2 and broker.worker_pids() != before)
        for at in (3, 4):
            members[at] = stack.enter_context(connect(broker, names[at], expiry, SHARE))
            # What it had acknowledged last may come once more.
            ended(members[at])
        publish(publisher, TOPICS, 1000, 50, 1)
        got = collect(members, 1000)
        assert sorted(int(one.payload) for row in got for one in row) == list(range(1000))
        assert all(190 <= len(row) <= 210 for row in got), list(map(len, got))


def test_a_group_follows_the_settings_without_a_restart(broker: BrokerProcess) -> None:
    with ExitStack() as stack:
        members = [
            stack.enter_context(connect(broker, client_id_on(home, 2), 0, SHARE))
            for home in (0, 0, 1, 1)
        ]
        publisher = stack.enter_context(connect(broker, client_id_on(0, 2), 0))

        def busy() -> int:
            publish(publisher, TOPICS, 80, 20, 1)
            return sum(bool(row) for row in collect(members, 80))

        assert busy() == 4
        broker.config.write_text(
            '[[shared_subscription]]\ngroup = "workers"\nstrategy = "sticky"\n'
        )
        os.kill(broker.pid, signal.SIGHUP)
        until(lambda: busy() == 1, what="one member that gets everything")
        broker.config.write_text("")
        os.kill(broker.pid, signal.SIGHUP)
        until(lambda: busy() == 4, what="members that take turns")
