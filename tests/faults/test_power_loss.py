"""A loss of power under a running broker (files.py: each file is cut behind what was synced of it).
The rounds of faults have one among others; here nearly all that partitions have is in the logs of
shards alone.
"""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.broker import BrokerProcess
from tests.faults.files import FaultyFiles
from tests.faults.load import read_log
from tests.faults.test_kill import seed
from tests.mqtt.wire import Wire

PARTITIONS = 24
MESSAGES = 400
CONFIG = f"""
[storage]
default_mode = "persistent"
sync = "disk"
[[streams]]
filter = "t/#"
topic = "stream"
partitions = {PARTITIONS}
engine = "segment"
"""


@pytest.mark.timeout(120)
@pytest.mark.parametrize("workers", [1, 2])
def test_a_turn_syncs_no_file_of_a_partition_and_a_loss_of_power_takes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int
) -> None:
    chosen = random.Random(seed())
    files = FaultyFiles(tmp_path)
    files.preload(monkeypatch)
    sent = [f"{number}" for number in range(MESSAGES)]

    def publish(client: Wire, part: list[str]) -> None:
        for value in part:
            client.publish(b"t/%d" % (int(value) % (4 * PARTITIONS)), value.encode(), 1)

    with BrokerProcess(tmp_path, workers, CONFIG) as broker:
        for part in (sent[: MESSAGES // 2], sent[MESSAGES // 2 :]):
            with Wire(broker.mqtt) as client:
                client.connect(b"c")
                publish(client, part)
            broker.kill()
            cut = files.lose_power(broker.data, chosen)
            assert cut and all("/segments/" in path for path in cut)
            broker.start()
        found = [value for values in read_log(broker, "stream", PARTITIONS) for value in values]
        assert sorted(found, key=int) == sent
