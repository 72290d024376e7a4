"""`$exclusive/{filter}` is held by one client of all workers, and passes on when that ends."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from robustmq.mqtt.packets import Subscribe, SubscriptionOptions, Unsubscribe
from robustmq.promises import Promise
from robustmq.shard import wire
from robustmq.shard.exclusive import Holders
from tests.broker import BrokerProcess, until
from tests.mqtt.wire import Wire, client_id_on, resumed, topic_on

QUOTA_EXCEEDED, TOPIC_FILTER_INVALID = 0x97, 0x8F


@pytest.fixture(scope="module", params=[2, 1], ids=["2 workers", "1 worker"])
def broker(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[BrokerProcess]:
    with BrokerProcess(tmp_path_factory.mktemp("broker"), request.param) as process:
        yield process
        assert "Traceback" not in process.log
        assert process.stop() == 0


def client(broker: BrokerProcess, worker: int = 0, version: int = 5, **options: object) -> Wire:
    wire = Wire(broker.mqtt, version)
    client_id = client_id_on(worker, broker.workers)
    assert wire.connect(client_id, **options).reason_code == 0  # type: ignore[arg-type]
    return wire


@pytest.mark.parametrize("number", range(4))
def test_one_client_holds_it_until_it_unsubscribes(broker: BrokerProcess, number: int) -> None:
    topic = topic_on(number, 2, f"x{number}")
    name = b"$exclusive/" + topic
    with client(broker, 0) as one, client(broker, 1) as other, client(broker, 1, 4) as old:
        assert one.subscribe(name, qos=1) == (1,)
        assert other.subscribe(name, topic, qos=1) == (QUOTA_EXCEEDED, 1)
        assert old.subscribe(name) == (0x80,)
        assert one.subscribe(name, qos=2) == (2,), "its holder may change it"
        old.publish(topic, b"x", 1)
        assert one.receive().topic == other.receive().topic == topic
        assert other.unsubscribe(name) == (0x11,)
        assert one.unsubscribe(name) == (0,)
        assert other.subscribe(name, qos=1) == (1,)
        assert one.subscribe(name) == (QUOTA_EXCEEDED,)


def test_who_hears_of_an_unsuback_has_it_at_once(broker: BrokerProcess) -> None:
    """Wherever it is decided, and whichever of both hands it over."""
    hands = 50
    name = b"$exclusive/" + topic_on(1, 2, "hands")
    with client(broker, 0) as one, client(broker, 1) as other:
        for number in range(hands):
            now, then = (one, other) if number % 2 else (other, one)
            assert now.subscribe(name, qos=1) == (1,), f"after {number}"
            assert then.subscribe(name, qos=1) == (QUOTA_EXCEEDED,)
            assert now.unsubscribe(name) == (0,)


def test_it_is_given_up_when_the_session_ends_and_not_when_the_connection_does(
    broker: BrokerProcess,
) -> None:
    name = b"$exclusive/kept/+"
    client_id = client_id_on(0, 2)
    with client(broker, 1) as other:
        with Wire(broker.mqtt) as one:
            one.connect(client_id, expiry=100)
            assert one.subscribe(name) == (0,)
        assert other.subscribe(name) == (QUOTA_EXCEEDED,)
        with resumed(broker.mqtt, client_id, expiry=100) as one:
            assert one.subscribe(name) == (0,)
            assert other.subscribe(name) == (QUOTA_EXCEEDED,)
        with Wire(broker.mqtt) as one:
            assert not one.connect(client_id, True).session_present
            until(lambda: other.subscribe(name) == (0,))
            assert one.subscribe(name) == (QUOTA_EXCEEDED,)
        other.disconnect()
    with client(broker, 1) as third:
        until(lambda: third.subscribe(name) == (0,))


def test_of_many_that_ask_at_once_one_gets_it(broker: BrokerProcess) -> None:
    clients = [client(broker, number) for number in range(10)]
    for number in range(5):
        packet = Subscribe(7, ((b"$exclusive/race/%d" % number, SubscriptionOptions(0)),))
        for one in clients:
            one.send(packet)
        codes = [one.read().reason_codes[0] for one in clients]  # type: ignore[union-attr]
        assert sorted(codes) == [0] + [QUOTA_EXCEEDED] * 9
    for one in clients:
        one.drop()


def test_packets_that_follow_each_other_count_in_their_order(broker: BrokerProcess) -> None:
    name = b"$exclusive/order"
    options = ((name, SubscriptionOptions(0)),)
    with client(broker, 0) as one, client(broker, 1) as other:
        for _ in range(20):
            one.send(Subscribe(1, options), Unsubscribe(2, (name,)), Subscribe(3, options))
            one.send(Unsubscribe(4, (name,)))
            codes = [one.read().reason_codes for _ in range(4)]  # type: ignore[union-attr]
            assert codes == [(0,), (0,), (0,), (0,)]
            assert other.subscribe(name) == (0,)
            assert other.unsubscribe(name) == (0,)


@pytest.mark.parametrize(
    "name",
    [
        b"$exclusive/",
        b"$exclusive/a/#/b",
        b"$share/g/$exclusive/a",
        b"$exclusive/$share/g/a",
        b"$exclusive/$exclusive/a",
    ],
)
def test_what_is_no_exclusive_filter_is_refused(broker: BrokerProcess, name: bytes) -> None:
    with client(broker) as one:
        assert one.subscribe(name) == (TOPIC_FILTER_INVALID,)


def test_it_stays_exact_through_the_death_of_either_worker(tmp_path: Path) -> None:
    """Filters whose owners and holders are on both workers; one session outlives its worker, the
    other does not."""
    names = [b"$exclusive/%d" % number for number in range(8)]
    with BrokerProcess(tmp_path, 2) as mortal:
        keeper, loser = client_id_on(0, 2), client_id_on(0, 2)
        with Wire(mortal.mqtt) as one:
            one.connect(keeper, expiry=100)
            assert one.subscribe(*names[:4]) == (0,) * 4
        passing = Wire(mortal.mqtt)
        passing.connect(loser)
        assert passing.subscribe(*names[4:]) == (0,) * 4
        for worker in (1, 0):
            before = mortal.worker_pids()[worker]
            mortal.kill_worker(worker)
            until(lambda: len(mortal.worker_pids()) == 2 and before not in mortal.worker_pids())  # noqa: B023
            with resumed(mortal.mqtt, client_id_on(1, 2)) as other:
                wanted = (QUOTA_EXCEEDED,) * 4 + (
                    (0,) * 4 if worker == 0 else (QUOTA_EXCEEDED,) * 4
                )
                assert other.subscribe(*names) == wanted
        mortal.kill()
        mortal.start()
        with resumed(mortal.mqtt, client_id_on(1, 2)) as other:
            assert other.subscribe(*names) == (QUOTA_EXCEEDED,) * 4 + (0,) * 4
        with resumed(mortal.mqtt, keeper, expiry=100) as one:
            assert one.unsubscribe(*names[:4]) == (0,) * 4
        with resumed(mortal.mqtt, client_id_on(1, 2)) as other:
            assert other.subscribe(*names[:4]) == (0,) * 4


def answer(promise: Promise[bool]) -> bool | None:
    return promise.result() if promise.settled else None


def test_an_owner_that_has_just_started_waits_for_every_worker() -> None:
    holders = Holders(3)
    holders.heard(0, [])
    holders.heard(1, [(b"held", b"a")])
    first = holders.claim(0, wire.ExclusiveClaim(b"held", b"b"))
    second = holders.claim(1, wire.ExclusiveClaim(b"free", b"c"))
    third = holders.claim(0, wire.ExclusiveClaim(b"free", b"d"))
    assert [answer(one) for one in (first, second, third)] == [None] * 3
    holders.heard(2, [])
    assert [answer(one) for one in (first, second, third)] == [False, True, False]
    holders.heard(1, [])
    assert answer(holders.claim(0, wire.ExclusiveClaim(b"held", b"b")))
    assert answer(holders.claim(0, wire.ExclusiveClaim(b"free", b"d")))
    assert len(holders) == 2
