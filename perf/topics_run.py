"""The phases of the load on very many topics: make and append (with a restart in between), let the
subscriber catch up, restart again, ask every topic for its end, read a sample back, measure.

Memory is the sum over the broker's processes: proportional (a page that several share is counted
once, which is what the machine must have) and resident (what `ps` shows, summed).
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable
from pathlib import Path

from own_broker import OwnBroker
from topics_kafka import KafkaLoader, Read, read_sample, short_topics
from topics_mqtt import MqttLoader, WildcardSubscriber
from topics_plan import (
    STALLED_S,
    Bar,
    Job,
    Loader,
    LoadFailed,
    Plan,
    Progress,
    jobs,
    payload_of,
    percentiles,
)

from robustmq.bench import result
from robustmq.core import batches
from robustmq.records import Record

SEED = 20_240
SAMPLE_EVERY_S = 0.5
Report = dict[str, float]


class Sampler:
    """What a broker uses, as time passes: for the plot, and for the peak."""

    def __init__(self, pid: Callable[[], int], progress: Progress) -> None:
        self._pid = pid
        self._progress = progress
        self._begin = time.monotonic()
        self._ended = threading.Event()
        self.rows: list[tuple[float, int, int]] = []
        """(seconds, acknowledged messages, proportional bytes)"""
        self._thread = threading.Thread(target=self._run, daemon=True)

    def start(self) -> None:
        """Begin."""
        self._thread.start()

    def stop(self) -> None:
        """End."""
        self._ended.set()
        self._thread.join()

    def _run(self) -> None:
        while not self._ended.wait(SAMPLE_EVERY_S):
            memory = result.tree_use(self._pid()).rss_bytes
            self.rows.append((time.monotonic() - self._begin, self._progress.total, memory))

    @property
    def peak_bytes(self) -> int:
        """The most that was seen."""
        return max((memory for _, _, memory in self.rows), default=0)


class Stress:
    """One run against a broker of its own, or (`own` None) one that runs already."""

    def __init__(
        self,
        plan: Plan,
        by: str,
        ports: tuple[int, int],
        own: OwnBroker | None,
        restart: str,
        follow: bool,
    ) -> None:
        self.plan = plan
        self.by = by
        self.own = own
        self.restart = restart if own is not None else "no"
        self.progress = Progress()
        self.report: Report = {"topics": plan.topics, "messages": plan.messages, "size": plan.size}
        self.wrong: list[str] = []
        mqtt_port, self._kafka_port = ports
        self._loaders: dict[str, Loader] = {}
        if by in ("mqtt", "both"):
            self._loaders["mqtt"] = MqttLoader(mqtt_port, plan, self.progress)
        if by in ("kafka", "both"):
            self._loaders["kafka"] = KafkaLoader(self._kafka_port, plan, self.progress)
        self._follower = WildcardSubscriber(mqtt_port, plan) if follow else None
        self._restart_at = plan.total + 1
        if self.restart != "no":
            # In the middle of a round, so that something is under way.
            self._restart_at = plan.total // 2 + plan.topics // 4 * (plan.messages % 2 == 0)
        self._load_cpu = 0.0

    # -- writing -----------------------------------------------------------------------------------

    def write(self) -> None:
        """All rounds; the first one makes the topics."""
        if self._follower is not None:
            self._follower.start()
            self.progress.followed = self._follower
        bar = Bar("write", self.plan.total)
        cpu = time.process_time()
        spent: list[float] = []
        for round_jobs in jobs(self.plan, self.by):
            spent.append(self._round(round_jobs, bar))
        self._load_cpu = time.process_time() - cpu
        made, rest = spent[0], sum(spent[1:])
        self.report |= {
            "seconds": round(made, 3),
            "topics_per_second": round(self.plan.topics / made, 1),
            "resent": self.progress.resent,
            "load_cpu": round(self._load_cpu / sum(spent), 3),
        }
        if rest:
            self.report["append_seconds"] = round(rest, 3)
            self.report["appends_per_second"] = round(
                self.plan.topics * (self.plan.messages - 1) / rest, 1
            )

    def _round(self, given: dict[str, Job], bar: Bar) -> float:
        """One round by all loaders; its seconds, without those of a restart."""
        for way, job in given.items():
            self._loaders[way].give(job)
        begin = time.monotonic()
        away = 0.0
        while not self._drive(list(given), bar):
            began = time.monotonic()
            ready = self._start_again()
            self.report["restart_middle_s"] = round(ready, 3)
            away += time.monotonic() - began
        return time.monotonic() - begin - away

    def _drive(self, ways: list[str], bar: Bar) -> bool:
        """Run loaders until they are done (True), or until it is time to end the broker."""
        errors: list[Exception] = []

        def work(loader: Loader) -> None:
            try:
                loader.run()
            except (OSError, LoadFailed) as error:
                errors.append(error)

        threads = [threading.Thread(target=work, args=(self._loaders[way],)) for way in ways]
        for thread in threads:
            thread.start()
        ended = False
        while any(thread.is_alive() for thread in threads):
            for thread in threads:
                thread.join(0.02)
            bar.show(self.progress.total)
            if not ended and self.progress.total >= self._restart_at:
                ended = True
                self._end_broker()
        if ended:
            self._restart_at = self.plan.total + 1
            errors = [error for error in errors if not isinstance(error, OSError)]
        if errors:
            raise errors[0]
        return not ended

    def _end_broker(self) -> None:
        assert self.own is not None, "only a broker of our own is ended"
        if self.restart == "kill":
            self.own.kill()
        else:
            self.report["stop_s"] = round(self.own.stop(), 3)

    def _start_again(self) -> float:
        assert self.own is not None, "only a broker of our own is started"
        if self._follower is not None:
            self._follower.stop()
        ready = self.own.start()
        if self._follower is not None:
            self._follower.start()
        return ready

    # -- checking ----------------------------------------------------------------------------------

    def follow(self) -> None:
        """The subscriber gets every message once. One that was sent again may come twice, and, with
        DUP, one that it had not acknowledged when the broker went away. After a kill (QoS 1) so may
        one that was sent when that was not in the session's log yet: nobody knows it was."""
        follower = self._follower
        if follower is None:
            return
        bar = Bar("follow", self.plan.total)
        last, since = -1, time.monotonic()
        while follower.received < self.plan.total:
            if follower.received != last:
                last, since = follower.received, time.monotonic()
            elif time.monotonic() - since > STALLED_S / 4:
                break
            bar.show(follower.received)
            time.sleep(0.02)
        bar.show(follower.received)
        lost = self.plan.total - follower.received
        twice = follower.tally.duplicates
        self.report |= {
            "followed": follower.received,
            "follow_lost": lost,
            "follow_twice": twice,
            "follow_dup": follower.redelivered,
            "follow_reordered": follower.tally.reordered,
        }
        if lost:
            self.wrong.append(f"the subscriber to all topics lacks {lost} messages")
        if self.restart != "kill" and twice > self.progress.resent + follower.redelivered:
            self.wrong.append(f"the subscriber to all topics got {twice} messages twice")
        if follower.tally.foreign:
            self.wrong.append("the subscriber to all topics got messages that nobody sent")

    def restart_full(self) -> None:
        """Restart with all topics there."""
        if self.restart == "no":
            return
        self._end_broker()
        self.report["restart_s"] = round(self._start_again(), 3)

    def check(self, sample: int) -> Read:
        """Every topic's end, and some topics' records."""
        bar = Bar("verify", self.plan.topics)
        begin = time.monotonic()
        short: list[str] = []
        for done, short in short_topics(self._kafka_port, self.plan):  # noqa: B007
            bar.show(done)
        self.wrong += short
        self.report["verify_seconds"] = round(time.monotonic() - begin, 3)
        numbers = random.Random(SEED).sample(range(self.plan.topics), sample)
        bar = Bar("read", sample)
        begin = time.monotonic()
        for read in read_sample(self._kafka_port, numbers, self.plan):
            bar.show(len(read.fetch_s))
        self.wrong += read.wrong
        self.report |= {
            "sample": sample,
            "sample_seconds": round(time.monotonic() - begin, 3),
            "wrong": len(self.wrong),
            **{f"find_us_{name}": value for name, value in percentiles(read.find_s).items()},
            **{f"fetch_us_{name}": value for name, value in percentiles(read.fetch_s).items()},
        }
        return read

    # -- cost --------------------------------------------------------------------------------------

    def cost(self, process: int, before: result.TreeUse, name: str) -> None:
        """Memory of all processes now, and CPU since `before`."""
        now = result.tree_use(process)
        self.report |= {
            f"{name}rss_mb": round(now.rss_bytes / 1e6, 1),
            f"{name}rss_sum_mb": round(_resident(process) / 1e6, 1),
        }
        if not name:
            self.report["rss_growth_mb"] = round((now.rss_bytes - before.rss_bytes) / 1e6, 1)
            self.report["cpu_seconds"] = round(now.cpu_seconds - before.cpu_seconds, 2)

    def disk(self, directory: Path) -> None:
        """Bytes on disk, and what a topic costs above its records (as Kafka record batches)."""
        used = disk_bytes(directory)
        record = Record(value=payload_of(0, 0, self.plan.size, 0))
        records = self.plan.total * len(batches.build([record], 0))
        self.report |= {
            "disk_mb": round(used / 1e6, 1),
            "disk_records_mb": round(records / 1e6, 1),
            "disk_bytes_a_topic": round((used - records) / self.plan.topics, 1),
        }

    def close(self) -> None:
        """Leave."""
        if self._follower is not None:
            self._follower.stop()


def _resident(process: int) -> int:
    """What `ps` shows of a tree, summed."""
    total = 0
    for one in result.process_tree(process):
        try:
            total += int(Path(f"/proc/{one}/statm").read_text().split()[1]) * 4096
        except OSError:
            continue
    return total


def disk_bytes(directory: Path) -> int:
    """What a directory takes on disk."""
    total = 0
    for path in directory.rglob("*"):
        try:
            total += path.stat().st_blocks * 512 if path.is_file() else 0
        except OSError:
            continue
    return total
