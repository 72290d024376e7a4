"""The machine starts again, as after a loss of power that took nothing: positions of the logs go on
far behind, and everything that goes by them finds what was there before."""

from __future__ import annotations

from pathlib import Path

import plyvel
import pytest

from tests.broker import BrokerProcess, until
from tests.cli.test_storage import storage
from tests.faults.light_tiering import CONFIG, numbers_in, objects, publish
from tests.faults.load import read_log
from tests.faults.tiering import PATIENCE_S, number_of
from tests.mqtt.wire import Wire

BOOT = b"B"
TIERED, LIGHT, DECLARED = "t/a", "other/a", "declared"
STREAM = f"""
[[streams]]
filter = "d/#"
topic = "{DECLARED}"
partitions = 4
"""


def reboot(broker: BrokerProcess) -> None:
    """Whoever starts next finds that another machine, or another boot, has written all this."""
    broker.kill()
    for path in broker.data.glob("[0-9]*/leveldb"):
        with plyvel.DB(str(path)) as database:
            assert len(database.get(BOOT)) == 16
            database.put(BOOT, bytes(16))
    broker.start()


def lag(broker: BrokerProcess) -> int:
    """Bytes that are not in the store yet, or not known to be for no topic there."""
    return broker.metric("robustmq_storage_tier_light_lag_bytes")


@pytest.mark.timeout(120)
@pytest.mark.parametrize("workers", [1, 2])
def test_everything_is_found_behind_a_reboot(tmp_path: Path, workers: int) -> None:
    config = CONFIG + STREAM
    store = {"STORAGE__TIERING__URL": f"file://{tmp_path}/store"}
    (tmp_path / "store").mkdir()
    with BrokerProcess(tmp_path, workers, config, **store) as broker:
        with Wire(broker.mqtt) as away:
            away.connect(b"away", expiry=3600)
            away.subscribe(b"d/#", qos=1)
            away.subscribe(b"other/#", qos=1)
        sent = 0
        for _ in range(3):
            numbers = range(sent, sent + 120)
            publish(broker, [TIERED, LIGHT, "d/a"], numbers)
            sent = numbers.stop
            reboot(broker)
        until(lambda: objects(broker) and lag(broker) < 2 << 20, PATIENCE_S, "uploads")
        assert numbers_in(broker, TIERED) == list(range(0, sent, 3))
        assert numbers_in(broker, LIGHT) == list(range(1, sent, 3))
        declared = [one.encode() for values in read_log(broker, DECLARED, 4) for one in values]
        assert [number_of(one) for one in declared] == list(range(2, sent, 3))
        with Wire(broker.mqtt) as away:
            away.connect(b"away", False, expiry=3600)
            got = [number_of(away.receive().payload) for _ in range(2 * sent // 3)]
        assert sorted(got) == [number for number in range(sent) if number % 3]
        assert storage(broker.data, "verify")[0] == 0
        broker.kill()
        broker.start()
        assert numbers_in(broker, TIERED) == list(range(0, sent, 3))
        assert "Traceback" not in broker.log
