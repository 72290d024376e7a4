"""How a share group scales: one partition, records that take a while to process, one member and
then many.

    python perf/share_group.py [--members 32] [--work-ms 10] [--seconds 4] [--workers 2]

A member is a process's thread with a connection of its own that fetches a few records at a time,
sleeps for each, and acknowledges them with its next fetch, as KafkaShareConsumer does. What is
measured is records acknowledged a second; the most that can be is members / work.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import threading
import time
import uuid
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from tests.broker import BrokerProcess
from tests.kafka.sharing import ACCEPT, GROUP_RESOURCE, Member, configure, make_topic, produce
from tests.kafka.wire import SocketClient

AT_ONCE = 10


def member(port: int, group: str, topic_id: uuid.UUID, work_s: float, until: float) -> int:
    """Process records until the time; how many were acknowledged."""
    done = 0
    with SocketClient(port) as client:
        one = Member(client, group, topic_id)
        taken: list[tuple[int, int, int]] = []
        while time.monotonic() < until:
            ready = [(first, last, [ACCEPT]) for first, last, _ in taken]
            done += sum(last - first + 1 for first, last, _ in taken)
            taken = one.take(acknowledge=ready, wait_ms=500, most=AT_ONCE)
            for first, last, _ in taken:
                time.sleep(work_s * (last - first + 1))
    return done


def rate(broker: BrokerProcess, members: int, work_s: float, seconds: float) -> float:
    """Records a second of a new group of so many members on a new topic of one partition."""
    group = uuid.uuid4().hex
    with SocketClient(broker.kafka) as client:
        topic, topic_id = make_topic(client)
        configure(client, GROUP_RESOURCE, group, share_auto_offset_reset="earliest")
        for _ in range(int(members * seconds / work_s / 200) + 1):
            produce(client, topic, *[b"x" * 100] * 200)
    until = time.monotonic() + seconds
    counts: list[int] = []
    threads = [
        threading.Thread(
            target=lambda: counts.append(member(broker.kafka, group, topic_id, work_s, until))
        )
        for _ in range(members)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts) / seconds


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--members", type=int, default=32)
    parser.add_argument("--work-ms", type=float, default=10)
    parser.add_argument("--seconds", type=float, default=4)
    parser.add_argument("--workers", type=int, default=2)
    asked = parser.parse_args()
    with (
        tempfile.TemporaryDirectory() as directory,
        BrokerProcess(Path(directory), asked.workers) as broker,
    ):
        one = rate(broker, 1, asked.work_ms / 1000, asked.seconds)
        many = rate(broker, asked.members, asked.work_ms / 1000, asked.seconds)
    print(f"1 member {one:,.0f}/s; {asked.members} members {many:,.0f}/s; {many / one:.1f}x")


if __name__ == "__main__":
    main()
