"""Mount points, topic rewriting and automatic subscriptions, with clients on different workers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from robustmq.mqtt.packets import PacketType, Publish, SubscriptionOptions, Will
from tests.broker import BrokerProcess
from tests.mqtt.wire import Wire, client_id_on, resumed

CONFIG = """
[[listener]]
name = "open"
port = 0
[[listener]]
name = "red"
port = 0
mount_point = "red/"
[[listener]]
name = "blue"
port = 0
mount_point = "blue/"
[[listener]]
name = "each"
port = 0
mount_point = "by/%c/"
[[listener]]
name = "user"
port = 0
mount_point = "of/%u/"

[[rewrite]]
filter = "old/#"
pattern = "^old/(.+)/(.+)$"
destination = "new/$2/$1"
[[rewrite]]
filter = "mine/#"
pattern = "^mine/(.+)$"
destination = "own/%c/$1"
[[rewrite]]
action = "publish"
filter = "slow/#"
pattern = "^slow/(.+)$"
destination = "$delayed/1/fast/$1"
[[rewrite]]
action = "subscribe"
filter = "heard/#"
pattern = "^heard/"
destination = "said/x"

[[auto_subscribe]]
filter = "to/%c"
qos = 1
[[auto_subscribe]]
filter = "from/%u/%h"
retain_handling = 1
"""


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrokerProcess]:
    with BrokerProcess(tmp_path_factory.mktemp("broker"), 2, CONFIG) as process:
        yield process
        assert "Traceback" not in process.log
        assert process.stop() == 0


class Client(Wire):
    """A connected client."""

    def __init__(self, broker: BrokerProcess, listener: str, worker: int = 0, **options: object):
        super().__init__(broker.listeners[listener])
        self.client_id = client_id_on(worker, 2)
        assert self.connect(self.client_id, **options).reason_code == 0  # type: ignore[arg-type]


@pytest.mark.parametrize("qos", [0, 1, 2])
def test_clients_under_a_mount_point_hear_each_other_and_nobody_else(
    broker: BrokerProcess, qos: int
) -> None:
    with (
        Client(broker, "red", 0) as red,
        Client(broker, "red", 1) as other,
        Client(broker, "blue", 1) as blue,
        Client(broker, "open", 1) as all_,
    ):
        other.subscribe(b"#", b"a/+", qos=2)
        blue.subscribe(b"#", qos=2)
        all_.subscribe(b"red/#", qos=2)
        red.publish(b"a/b", b"x", qos)
        packet = other.receive()
        assert (packet.topic, packet.payload, packet.qos) == (b"a/b", b"x", qos)
        assert all_.receive().topic == b"red/a/b"
        all_.publish(b"red/c", b"y", qos)
        assert other.receive().topic == b"c"
        all_.publish(b"red", b"the mount point itself is outside", qos)
        assert all_.receive().topic == b"red/c"
        assert all_.receive().topic == b"red"
        all_.publish(b"red/$x/y", b"$ at its beginning", qos)
        other.expect_nothing()
        blue.expect_nothing()


def test_a_client_cannot_get_out_of_its_mount_point(broker: BrokerProcess) -> None:
    with Client(broker, "red") as red, Client(broker, "open") as all_:
        red.subscribe(b"$SYS/#", b"+/+", b"../blue/#", b"/#")
        all_.subscribe(b"red/#")
        red.publish(b"/x", b"1", 1)
        assert all_.receive().topic == b"red//x"
        red.receive()
        assert red.publish(b"$SYS/broker/version", b"2", 1) == 0x87
        red.publish(b"blue/x", b"3")
        assert all_.receive().topic == b"red/blue/x"
        red.receive()
        assert red.subscribe(b"", b"a/#/b", b"$share/g/") == (0x8F, 0x8F, 0x8F)
        all_.publish(b"blue/x", b"4", 1)
        red.expect_nothing()


def test_retained_delayed_and_shared_messages_and_wills_stay_under_the_mount_point(
    broker: BrokerProcess,
) -> None:
    with Client(broker, "blue", 1) as one, Client(broker, "open", 0) as all_:
        all_.subscribe(b"blue/#", qos=1)
        one.publish(b"kept", b"1", 1, retain=True)
        one.publish(b"$delayed/1/later", b"2", 1)
        assert [all_.receive().topic for _ in range(2)] == [b"blue/kept", b"blue/later"]
        one.subscribe(b"+", b"$share/g/shared/#", qos=1)
        packet = one.receive()
        assert (packet.topic, packet.retain) == (b"kept", True)
        all_.publish(b"blue/shared/x", b"3", 1)
        assert one.receive().topic == b"shared/x"
        all_.receive()
        assert one.unsubscribe(b"$share/g/shared/#", b"+", b"none") == (0, 0, 0x11)
        with Client(broker, "blue", 0, will=Will(b"dead", b"4", 1, False)) as dying:
            dying.drop()
        assert all_.receive().topic == b"blue/dead"
        one.publish(b"kept", b"", 1, retain=True)


def test_a_mount_point_may_be_each_clients_own(broker: BrokerProcess) -> None:
    with (
        Client(broker, "each") as one,
        Client(broker, "each") as other,
        Client(broker, "open") as all_,
    ):
        all_.subscribe(b"by/#")
        for client in (one, other):
            client.subscribe(b"#")
            client.publish(b"t", client.client_id, 1)
            assert client.receive().payload == client.client_id
            assert all_.receive().topic == b"by/" + client.client_id + b"/t"
        one.expect_nothing()
    for name in (b"a/b", b"a+", b"#"):
        with Wire(broker.listeners["each"]) as wire:
            assert wire.connect(name).reason_code == 0x87
    with Wire(broker.listeners["user"]) as wire:
        assert wire.connect(b"nobody").reason_code == 0x87
    with Wire(broker.listeners["user"]) as wire, Client(broker, "open") as all_:
        all_.subscribe(b"of/#")
        wire.connect(b"somebody", user_name="ann")
        wire.publish(b"t", b"x", 1)
        assert all_.receive().topic == b"of/ann/t"


def test_a_session_stays_with_its_mount_point(broker: BrokerProcess) -> None:
    with Wire(broker.listeners["red"]) as wire:
        wire.connect(b"mover", expiry=100)
        wire.subscribe(b"t", qos=1)
    with resumed(broker.listeners["red"], b"mover", expiry=100) as wire:
        wire.publish(b"t", b"x", 1)
        assert wire.receive().topic == b"t"
    with Wire(broker.listeners["blue"]) as wire, Client(broker, "open") as all_:
        assert not wire.connect(b"mover", False, expiry=100).session_present
        all_.publish(b"red/t", b"x", 1)
        wire.expect_nothing()


@pytest.mark.parametrize("qos", [0, 1, 2])
def test_topics_and_filters_are_rewritten(broker: BrokerProcess, qos: int) -> None:
    with Client(broker, "open", 0) as one, Client(broker, "open", 1) as other:
        other.subscribe(b"new/#", qos=2)
        one.subscribe(b"old/a/b", b"$share/g/old/c/d", qos=2)
        one.publish(b"old/a/b", b"1", qos)
        assert one.receive().topic == other.receive().topic == b"new/b/a"
        other.publish(b"new/d/c", b"2", qos)
        assert one.receive().topic == other.receive().topic == b"new/d/c"
        assert one.unsubscribe(b"old/a/b", b"$share/g/old/c/d") == (0, 0)
        one.publish(b"old/x", b"the pattern finds nothing", qos)
        other.expect_nothing()


def test_a_rewritten_name_may_be_the_clients_own_or_delayed_or_for_one_side(
    broker: BrokerProcess,
) -> None:
    with Client(broker, "open", 0) as one, Client(broker, "open", 1) as other:
        other.subscribe(b"own/#", b"fast/#", b"heard/#", qos=1)
        one.publish(b"mine/t", b"1", 1)
        assert other.receive().topic == b"own/" + one.client_id + b"/t"
        one.publish(b"slow/t", b"2", 1)
        other.expect_nothing()
        assert other.receive().topic == b"fast/t"
        one.publish(b"heard/t", b"only filters are rewritten", 1)
        one.publish(b"said/x", b"3", 1)
        assert other.receive().payload == b"3"
        assert one.publish(b"old/" + b"x" * 600 + b"/y", b"too long to be looked at", 1) == 0x90


def test_topic_aliases_stand_for_what_the_client_said(broker: BrokerProcess) -> None:
    with Client(broker, "red") as red:
        red.subscribe(b"new/#", b"t")
        for topic in (b"old/a/b", b"t"):
            for name in (topic, b""):
                red.publish(name, b"x", 0, topic_alias=1)
            wanted = b"new/b/a" if topic != b"t" else b"t"
            assert [red.receive().topic for _ in range(2)] == [wanted] * 2


def test_clients_are_subscribed_when_they_connect(broker: BrokerProcess) -> None:
    with Client(broker, "open", 0) as one:
        one.publish(b"from/ann/127.0.0.1", b"kept", 1, retain=True)
        with Client(broker, "open", 1, user_name="ann") as ann:
            packet = ann.receive()
            assert (packet.topic, packet.retain) == (b"from/ann/127.0.0.1", True)
            one.publish(b"to/" + ann.client_id, b"hello", 2)
            packet = ann.receive()
            assert (packet.payload, packet.qos) == (b"hello", 1)
            assert ann.unsubscribe(b"to/" + ann.client_id, b"from/#") == (0, 0x11)
            one.publish(b"to/" + ann.client_id, b"gone", 1)
            ann.expect_nothing()
        one.publish(b"to/" + one.client_id, b"me", 1)
        assert one.receive().payload == b"me"
    with Client(broker, "red", 0) as red:
        red.publish(b"to/" + red.client_id, b"under the mount point", 1)
        assert red.receive().topic == b"to/" + red.client_id
    with Wire(broker.listeners["open"]) as strange:
        assert strange.connect(b"#").reason_code == 0
        strange.publish(b"to/x", b"not mine", 1)
        strange.expect_nothing()


def test_a_rewriting_broker_drops_what_old_clients_may_not_write(broker: BrokerProcess) -> None:
    with Wire(broker.listeners["red"], 4) as old:
        old.connect(b"old")
        old.subscribe_each((b"t", SubscriptionOptions(1)))
        old.publish(b"t", b"x", 1)
        assert old.receive().topic == b"t"
        old.send(Publish(b"$SYS/x", b"", 1, packet_id=1))
        old.expect_ack(PacketType.PUBACK, 1)
        old.expect_nothing()


def test_sessions_under_a_mount_point_survive_kill_9(tmp_path: Path) -> None:
    with BrokerProcess(tmp_path, 2, CONFIG) as mortal:
        with Wire(mortal.listeners["red"]) as wire:
            wire.connect(b"s", expiry=100)
            wire.subscribe(b"t", qos=1)
        with Wire(mortal.listeners["open"]) as all_:
            all_.connect(b"p")
            all_.publish(b"red/t", b"before", 1)
        mortal.kill()
        mortal.start()
        with resumed(mortal.listeners["red"], b"s", expiry=100) as wire:
            assert wire.receive().topic == b"t"
            wire.publish(b"t", b"after", 1)
            assert wire.receive().payload == b"after"
