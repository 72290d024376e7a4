"""Mode persistent: what an acknowledgement that waits for fdatasync costs, beside the disk itself.

`python perf/storage_sync.py [--clients N] [--rounds M] [--quick]`. Real brokers; every client has
one message in flight (QoS 1, 64 B, a topic of its own), so a full group is one message of each
client. Rows, measured in turns in every round, messages a second:

  disk      the bytes of a full group appended to one file, and fdatasync: perfect grouping, where
            nothing but the disk takes time
  hybrid    the same clients without fdatasync: what the broker and its clients can do
  bound     a full group pays for both, one after the other: 1 / (1/disk + 1/hybrid)
  light     mode persistent, light topics
  segment   mode persistent, a stream of 64 partitions, in files of their own
  shared    the same in the shards' logs

The target is half of the bound. Beside the last three: synced commits of a shard for 1,000
messages (those of a turn go to the disk together), and which part of the bound they reach.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from tests.broker import BrokerProcess  # noqa: E402

PAYLOAD_BYTES = 64
ENTRY_BYTES = PAYLOAD_BYTES + 36 + 48 + 16 + 61 + 10
"""Of a message in the log: the heads of its entry, of the block's, and of the batch and record."""
CONFIGS = {
    "hybrid": "",
    "light": '[storage]\ndefault_mode = "persistent"\nsync = "disk"\n',
    "segment": "",
    "shared": "",
}
for engine in ("segment", "shared"):
    CONFIGS[engine] = (
        CONFIGS["light"] + f'[[streams]]\nfilter = "bench/#"\ntopic = "bench"\npartitions = 64\n'
        f'engine = "{engine}"\n'
    )
TARGET = 0.5


def disk_rate(directory: str, clients: int, seconds: float) -> float:
    """Messages a second with perfect grouping, by the disk alone."""
    path = f"{directory}/group"
    file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    group = bytes(ENTRY_BYTES * clients)
    groups, began = 0, time.perf_counter()
    while time.perf_counter() - began < seconds:
        os.write(file, group)
        os.fdatasync(file)
        groups += 1
    passed = time.perf_counter() - began
    os.close(file)
    os.unlink(path)
    return groups * clients / passed


def broker_rate(kind: str, directory: str, clients: int, seconds: float) -> tuple[float, float]:
    """(messages a second, synced commits for a message) of one run of the load generator."""
    place = Path(directory) / kind
    place.mkdir()
    with BrokerProcess(place, 0, CONFIGS[kind]) as broker:
        before = broker.metric("robustmq_storage_syncs_total")
        command = [sys.executable, "-m", "robustmq.cli.main", "bench", "pub", "--json"]
        for name, value in {
            "port": broker.mqtt,
            "clients": clients,
            "qos": 1,
            "window": 1,
            "payload": PAYLOAD_BYTES,
            "warmup": 0.5,
            "duration": seconds,
        }.items():
            command += [f"--{name}", str(value)]
        done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        found = json.loads(done.stdout)
        syncs = broker.metric("robustmq_storage_syncs_total") - before
    return found["publish_rate"], syncs / max(1, found["published"])


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    rounds, seconds = (2, 1.5) if options.quick else (options.rounds, 4.0)
    rates: dict[str, list[float]] = {name: [] for name in ("disk", "bound", *CONFIGS)}
    syncs: dict[str, list[float]] = {name: [] for name in CONFIGS}
    for number in range(rounds):
        with tempfile.TemporaryDirectory(dir=ROOT, prefix=".sync-") as directory:
            rates["disk"].append(disk_rate(directory, options.clients, seconds))
            for kind in CONFIGS:
                rate, synced = broker_rate(kind, directory, options.clients, seconds)
                rates[kind].append(rate)
                syncs[kind].append(synced)
        bound = 1 / (1 / rates["disk"][-1] + 1 / rates["hybrid"][-1])
        rates["bound"].append(bound)
        print(f"round {number + 1} of {rounds}", file=sys.stderr)
    bound = statistics.median(rates["bound"])
    print(f"{options.clients} clients, QoS 1, one in flight each, {PAYLOAD_BYTES} B")
    print(f"{'':9} {'messages/s':>11} {'of the bound':>13} {'syncs/1000':>11}")
    for name in ("disk", "hybrid", "bound", "light", "segment", "shared"):
        rate = statistics.median(rates[name])
        row = f"{name:9} {rate:11,.0f}"
        if name in ("light", "segment", "shared"):
            row += f" {rate / bound:12.0%} {statistics.median(syncs[name]) * 1000:11.1f}"
        print(row)
    reached = statistics.median(rates["light"]) / bound
    print(f"target: {TARGET:.0%} of the bound; light topics reach {reached:.0%}")
    return 0 if reached >= TARGET else 1


if __name__ == "__main__":
    sys.exit(main())
