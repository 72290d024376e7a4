"""A persistent session whose topics are quiet does not make a restart look through all that came
on others since."""

from __future__ import annotations

from pathlib import Path

import pytest

from robustmq.shard.subscribing import decode_cursors
from robustmq.storage.shard_log import CURSOR, HEAD
from tests.broker import BrokerProcess, until
from tests.faults.load import MqttSubscriber
from tests.mqtt.wire import Wire

MIB = 1 << 20


def cursors(data: Path) -> dict[int, int]:
    """The greatest position of each source shard that any log's CURSOR entries say."""
    found: dict[int, int] = {}
    for path in data.glob("*/log/*.log"):
        content = path.read_bytes()
        at = 0
        while at + HEAD.size <= len(content):
            length, _, kind, *_ = HEAD.unpack_from(content, at)
            if length < HEAD.size or at + length > len(content):
                break
            if kind == CURSOR:
                for shard, position in decode_cursors(
                    content[at + HEAD.size : at + length]
                ).items():
                    found[shard] = max(position, found.get(shard, -1))
            at += length
    return found


@pytest.mark.timeout(60)
@pytest.mark.parametrize("workers", [1, 2])
def test_the_cursor_of_a_quiet_session_follows_the_log(tmp_path: Path, workers: int) -> None:
    with BrokerProcess(tmp_path, workers, NODE__SHARDS="2") as broker:
        quiet = MqttSubscriber(broker, "quiet", {"quiet/+": 1}, 5)
        quiet.close()
        with Wire(broker.mqtt) as writer:
            writer.connect()
            for number in range(64):
                for topic in (b"loud/%d" % n for n in range(4)):
                    assert writer.publish(topic, bytes(50_000), 1) in (0, 0x10), number
        until(lambda: min(cursors(broker.data).values(), default=0) > 2 * MIB, 20, "the cursors")
        with Wire(broker.mqtt) as writer:
            writer.connect()
            assert writer.publish(b"quiet/1", b"heard", 1) in (0, 0x10)
        broker.kill()
        broker.start()
        back = MqttSubscriber(broker, "quiet", {}, 5)
        back.wait_for([("quiet/1", "heard")])
        back.close()
