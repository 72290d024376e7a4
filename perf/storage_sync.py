"""Mode persistent: what an acknowledgement that waits for fdatasync costs, beside the disk itself.

`python perf/storage_sync.py [--clients N] [--rounds M] [--quick]`. Real brokers; every client has
one message in flight (QoS 1, 64 B, a topic of its own), so a full group is one message of each
client. All is measured in turns in every round, and medians are said.

What bounds it, in messages a second:

  disk        the fdatasync bound, literally: the bytes of a full group appended to one file, and
              fdatasync, again and again. Perfect grouping, and nothing but the disk takes time. No
              broker and no client is in it: where an fdatasync is cheap it is far above what any
              closed loop of so many clients can ask for
  hybrid      the CPU bound: the same clients, acknowledged behind the write instead of the
              fdatasync. What the broker and the load generator can do on the cores they share
  sequential  a full group pays for both, one after the other: 1 / (1/disk + 1/hybrid)
  overlapped  while one group is synced the next is gathered, at no cost: min(disk, hybrid)

What is measured against them:

  light       mode persistent, light topics
  shared      mode persistent, a stream of 64 partitions, in the shards' logs
  segment     the same in files of their own, and copied into the shards' logs: those are synced
  one client  light topics and one client: what a lone one waits

The target is half of `sequential`, for all three. Beside them: messages of a group that a worker
hands to its storage thread (the thread takes all that has come meanwhile as one), fdatasyncs of
files, and CPU time of broker and generator a message. The load generator's part of the machine is
said at the end: it takes that from the broker.
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
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

from robustmq.bench.result import tree_use  # noqa: E402
from tests.broker import BrokerProcess  # noqa: E402

PAYLOAD_BYTES = 64
ENTRY_BYTES = PAYLOAD_BYTES + 36 + 48 + 16 + 61 + 10
"""Of a message in the log: the heads of its entry, of the block's, and of the batch and record."""
CONFIGS = {
    "hybrid": "",
    "light": '[storage]\ndefault_mode = "persistent"\nsync = "disk"\n',
    "shared": "",
    "segment": "",
}
ENGINES = ("light", "shared", "segment")
for engine in ENGINES[1:]:
    CONFIGS[engine] = (
        CONFIGS["light"] + f'[[streams]]\nfilter = "bench/#"\ntopic = "bench"\npartitions = 64\n'
        f'engine = "{engine}"\n'
    )
TARGET = 0.5
GENERATOR_LIMIT = 0.4
WARMUP_S = 0.5


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


class Run(NamedTuple):
    """One run of the load generator against a broker."""

    rate: float
    """Messages a second."""
    group: float
    """Messages of a group that was handed to the storage thread."""
    syncs_s: float
    """fdatasyncs a second."""
    broker_us: float
    """CPU microseconds a message of the workers."""
    generator_us: float
    """The same of the load generator."""
    generator_share: float
    """Its part of all CPU time of the machine."""


def cpu_s(pids: list[int]) -> float:
    """CPU seconds that processes have had."""
    return sum(tree_use(pid).cpu_seconds for pid in pids)


def broker_run(kind: str, directory: str, clients: int, seconds: float) -> Run:
    place = Path(directory) / f"{kind}-{clients}"
    place.mkdir()
    with BrokerProcess(place, 0, CONFIGS[kind]) as broker:
        counters = ("robustmq_storage_fsyncs_total", "robustmq_storage_commit_seconds_count")
        before = [broker.metric(name) for name in counters]
        command = [sys.executable, "-m", "robustmq.cli.main", "bench", "pub", "--json"]
        for name, value in {
            "port": broker.mqtt,
            "clients": clients,
            "qos": 1,
            "window": 1,
            "payload": PAYLOAD_BYTES,
            "warmup": WARMUP_S,
            "duration": seconds,
        }.items():
            command += [f"--{name}", str(value)]
        generator = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, text=True)
        # In the middle: not its start, nor its end.
        time.sleep(2 * WARMUP_S + seconds * 0.3)
        workers, began = broker.worker_pids(), time.monotonic()
        first = cpu_s(workers), cpu_s([generator.pid])
        time.sleep(seconds * 0.5)
        last, passed = (cpu_s(workers), cpu_s([generator.pid])), time.monotonic() - began
        said, _ = generator.communicate()
        assert generator.returncode == 0, "the load generator failed"
        found = json.loads(said)
        after = [broker.metric(name) for name in counters]
    rate = found["publish_rate"]
    syncs, handed = (now - then for now, then in zip(after, before, strict=True))
    broker_cores, generator_cores = (
        (now - then) / passed for now, then in zip(last, first, strict=True)
    )
    return Run(
        rate,
        found["published"] / max(1, handed),
        syncs * rate / max(1, found["published"]),
        broker_cores / rate * 1e6,
        generator_cores / rate * 1e6,
        generator_cores / (os.cpu_count() or 1),
    )


def median(runs: list[Run]) -> Run:
    return Run(*(statistics.median(column) for column in zip(*runs, strict=True)))


def report(clients: int, disk: float, runs: dict[str, Run]) -> float:
    """Print it; the part of the sequential bound that the slowest of the three reaches."""
    hybrid = runs["hybrid"].rate
    bounds = {
        "disk": disk,
        "hybrid": hybrid,
        "sequential": 1 / (1 / disk + 1 / hybrid),
        "overlapped": min(disk, hybrid),
    }
    print(f"{clients} clients, QoS 1, one in flight each, {PAYLOAD_BYTES} B")
    print(f"{'bound':11} {'messages/s':>11}")
    for name, bound in bounds.items():
        print(f"{name:11} {bound:11,.0f}")
    heads = ("of disk", "of sequential", "of overlapped", "in a group", "fdatasyncs/s")
    print(f"\n{'':11} {'messages/s':>11}", *(f"{head:>13}" for head in heads), "CPU us a message")
    for name in ("hybrid", *ENGINES):
        run = runs[name]
        parts = [run.rate / bounds[head.removeprefix("of ")] for head in heads[:3]]
        print(
            f"{name:11} {run.rate:11,.0f}",
            *(f"{part:13.0%}" for part in parts),
            f"{run.group:13.1f} {run.syncs_s:13,.0f}",
            f"broker {run.broker_us:.0f}, generator {run.generator_us:.0f}",
        )
    print(f"one client  {1e6 / runs['one client'].rate:,.0f} us a message")
    share = statistics.median(runs[name].generator_share for name in ENGINES)
    limit = ": it is a limit itself" if share >= GENERATOR_LIMIT else ""
    beside = statistics.median(
        runs[name].generator_us / (runs[name].generator_us + runs[name].broker_us)
        for name in ENGINES
    )
    print(
        f"\nthe load generator takes {share:.0%} of the machine's CPU time,"
        f" {beside:.0%} of what it and the broker use{limit}"
    )
    return min(runs[name].rate for name in ENGINES) / bounds["sequential"]


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
    parser.add_argument("--clients", type=int, default=200)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--quick", action="store_true")
    options = parser.parse_args()
    rounds, seconds = (2, 1.5) if options.quick else (options.rounds, 4.0)
    disk: list[float] = []
    runs: dict[str, list[Run]] = {name: [] for name in (*CONFIGS, "one client")}
    for number in range(rounds):
        with tempfile.TemporaryDirectory(dir=ROOT, prefix=".sync-") as directory:
            disk.append(disk_rate(directory, options.clients, seconds))
            for kind in CONFIGS:
                runs[kind].append(broker_run(kind, directory, options.clients, seconds))
            runs["one client"].append(broker_run("light", directory, 1, seconds / 2))
        print(f"round {number + 1} of {rounds}", file=sys.stderr)
    found = {name: median(rows) for name, rows in runs.items()}
    reached = report(options.clients, statistics.median(disk), found)
    print(f"target: {TARGET:.0%} of sequential; the slowest of {', '.join(ENGINES)}: {reached:.0%}")
    return 0 if reached >= TARGET else 1


if __name__ == "__main__":
    sys.exit(main())
