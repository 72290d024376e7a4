"""The matrix of Kafka clients that users have: each library does the same job, all of them at once
against one broker, which restarts in the middle.

The job (tests/clients/kafka/, one program a library; kafka_programs.py builds and runs them):

1. Create a topic of six partitions with a setting. Produce to it with keys and headers, by an
   idempotent producer with acks=all, in each compression that the library knows; the same to a
   topic for each compression, and one record to a topic that nobody has created.
2. A consumer of a group reads all of it and commits. A second one joins: each has three partitions,
   and what is produced now comes to one of them. Both commit, and when the second one leaves the
   first one has everything again.
3. The broker restarts. The same producer produces on, and the same consumer reads that and nothing
   else. What is committed, the offsets of a time, the members of the group, settings described and
   changed, more partitions, the end of the group and of the topic.
4. Read what every library wrote in each compression, with all keys, values and headers.

kcat creates no topics and changes none: it does the rest. aiokafka has no call to delete a group.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator

import pytest
from _pytest.outcomes import Skipped
from confluent_kafka.admin import AdminClient
from confluent_kafka.cimpl import NewTopic

from tests.broker import BrokerProcess
from tests.clients.kafka_programs import LIBRARIES, Run
from tests.kafka.wire import SocketClient

RECORDS = 60
CODECS = ("none", "gzip", "snappy", "lz4", "zstd")
PLACES = {"2workers": (2, "false"), "1worker-1port": (1, "true")}
FETCH = 1
LENGTH = struct.Struct(">i")
ATTRIBUTES = 22
"""The lower byte of a batch's attributes: its lowest bits are the compression."""
CELLS = [pytest.param(place, name, id=f"{place} {name}") for place in PLACES for name in LIBRARIES]


class Place:
    """A broker, and what each program printed about it."""

    def __init__(self, broker: BrokerProcess, names: list[str]) -> None:
        self.broker = broker
        self.skipped: dict[str, str] = {}
        self.runs: dict[str, Run] = {}
        self.stored: dict[str, set[str]] = {}
        """The compressions of the batches in the topic of each compression."""
        self._start(names)
        self._finish()

    def _start(self, names: list[str]) -> None:
        address = f"127.0.0.1:{self.broker.kafka}"
        admin = AdminClient({"bootstrap.servers": address})
        admin.create_topics([NewTopic("kcat", 6)])["kcat"].result(10)
        for name in names:
            errors = self.broker.directory / f"{name}.txt"
            try:
                self.runs[name] = Run(errors, LIBRARIES[name](name), name, address)
            except Skipped as reason:
                self.skipped[name] = str(reason)

    def _finish(self) -> None:
        runs = self.runs.values()
        for run in runs:
            run.wait_for("first")
        self.broker.restart()
        codecs = [codec for run in runs for codec in written(run)]
        counts = " ".join(f"{codec}={codecs.count(codec) * RECORDS}" for codec in set(codecs))
        for run in runs:
            run.say(counts)
        for run in runs:
            run.end()
        self.stored = {codec: self._compressions(f"cross.{codec}") for codec in set(codecs)}

    def _compressions(self, topic: str) -> set[str]:
        """Of all batches of a topic of one partition."""
        records = b""
        wanted = {"partition": 0, "fetch_offset": 0, "partition_max_bytes": 10_000_000}
        with SocketClient(self.broker.kafka) as client:
            answer = client.ask(
                FETCH, 4, max_wait_ms=0, min_bytes=0, max_bytes=10_000_000,
                topics=[{"topic": topic, "partitions": [wanted]}],
            )  # fmt: skip
            for part in answer.responses[0].partitions:
                records += b"".join(bytes(buffer) for buffer in part.records)
        found = set()
        while records:
            found.add(CODECS[records[ATTRIBUTES] & 7])
            records = records[LENGTH.unpack_from(records, 8)[0] + 12 :]
        return found


def written(run: Run) -> list[str]:
    """The compressions that a program wrote with."""
    return [line.split()[1] for line in run.lines if line.startswith("wrote ")]


class Places:
    """Both places; a program runs in one only if one of its tests is asked for."""

    def __init__(self, directory: pytest.TempPathFactory, items: list[pytest.Item]) -> None:
        self._directory = directory
        self._names = {item.name for item in items}
        self._brokers: list[BrokerProcess] = []
        self._places: dict[str, Place] = {}

    def place(self, name: str) -> Place:
        if name not in self._places:
            workers, single_port = PLACES[name]
            folder = self._directory.mktemp("matrix")
            broker = BrokerProcess(
                folder, workers, KAFKA__SINGLE_PORT=single_port,
                KAFKA__GROUP_INITIAL_REBALANCE_DELAY_MS="100",
            )  # fmt: skip
            self._brokers.append(broker)
            broker.start()
            wanted = [one for one in LIBRARIES if any(f"[{name} {one}]" in n for n in self._names)]
            self._places[name] = Place(broker, wanted)
        return self._places[name]

    def close(self) -> None:
        for broker in self._brokers:
            if broker.running:
                broker.kill()


@pytest.fixture(scope="module")
def places(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[Places]:
    found = Places(tmp_path_factory, request.session.items)
    yield found
    found.close()


@pytest.mark.parametrize(("place", "library"), CELLS)
def test_a_client_that_users_have_does_its_job(places: Places, place: str, library: str) -> None:
    found = places.place(place)
    if library in found.skipped:
        pytest.skip(found.skipped[library])
    run = found.runs[library]
    assert run.lines[-1:] == ["ok"], "\n".join([*run.lines, run.errors])
    read = {line for line in run.lines if line.startswith("read ")}
    wanted = {
        f"read {other} {codec} {RECORDS}"
        for other, its in found.runs.items()
        for codec in set(written(run)).intersection(written(its))
    }
    assert read == wanted
    assert found.broker.running, "no client may end the broker"
    assert "Traceback" not in found.broker.log


@pytest.mark.parametrize("place", PLACES)
def test_what_a_client_compresses_is_stored_so(places: Places, place: str) -> None:
    """librdkafka compresses only where ApiVersions shows what it looks for."""
    stored = places.place(place).stored
    assert stored
    assert stored == {codec: {codec} for codec in stored}
