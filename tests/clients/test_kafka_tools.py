"""The command-line tools of Apache Kafka do what their documentation says.

All run in one virtual machine (tests/clients/kafka/java/Tools.java): one for each would take longer
to start than what they do.
"""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.broker import BrokerProcess, until
from tests.clients.kafka_programs import java

TOOLS = {
    "kafka-acls": "org.apache.kafka.tools.AclCommand",
    "kafka-broker-api-versions": "org.apache.kafka.tools.BrokerApiVersionsCommand",
    "kafka-cluster": "org.apache.kafka.tools.ClusterTool",
    "kafka-configs": "kafka.admin.ConfigCommand",
    "kafka-console-consumer": "org.apache.kafka.tools.consumer.ConsoleConsumer",
    "kafka-console-producer": "org.apache.kafka.tools.ConsoleProducer",
    "kafka-console-share-consumer": "org.apache.kafka.tools.consumer.ConsoleShareConsumer",
    "kafka-consumer-groups": "org.apache.kafka.tools.consumer.group.ConsumerGroupCommand",
    "kafka-consumer-perf-test": "org.apache.kafka.tools.ConsumerPerformance",
    "kafka-delete-records": "org.apache.kafka.tools.DeleteRecordsCommand",
    "kafka-features": "org.apache.kafka.tools.FeatureCommand",
    "kafka-get-offsets": "org.apache.kafka.tools.GetOffsetShell",
    "kafka-groups": "org.apache.kafka.tools.GroupsCommand",
    "kafka-leader-election": "org.apache.kafka.tools.LeaderElectionCommand",
    "kafka-log-dirs": "org.apache.kafka.tools.LogDirsCommand",
    "kafka-producer-perf-test": "org.apache.kafka.tools.ProducerPerformance",
    "kafka-reassign-partitions": "org.apache.kafka.tools.reassign.ReassignPartitionsCommand",
    "kafka-share-groups": "org.apache.kafka.tools.consumer.group.ShareGroupCommand",
    "kafka-topics": "org.apache.kafka.tools.TopicCommand",
    "kafka-transactions": "org.apache.kafka.tools.TransactionsCommand",
    "kafka-verifiable-producer": "org.apache.kafka.tools.VerifiableProducer",
}
WORD_COUNT = "WordCount"
"""Not a tool, but it takes a virtual machine."""
ENDED = "\x04"


class Shell:
    """Runs tools against a broker."""

    def __init__(self, broker: BrokerProcess, errors: Path) -> None:
        self.address = f"127.0.0.1:{broker.kafka}"
        with errors.open("w") as said:
            self._process = subprocess.Popen(
                java("Tools"), stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=said, text=True
            )

    def run(self, command: str, given: str = "") -> tuple[int, str]:
        """The exit code and all that it printed; `--bootstrap-server` is added."""
        name, *arguments = command.split()
        words = [TOOLS[name], given.replace("\n", "\x1e"), "--bootstrap-server", self.address]
        return self._run([*words, *arguments])

    def run_plain(self, command: str) -> tuple[int, str]:
        """The same without `--bootstrap-server`; ADDRESS stands for it."""
        name, *arguments = command.replace("ADDRESS", self.address).split()
        return self._run([TOOLS[name], "", *arguments])

    def _run(self, words: list[str]) -> tuple[int, str]:
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write("\x1f".join(words) + "\n")
        self._process.stdin.flush()
        printed: list[str] = []
        for line in self._process.stdout:
            if line.startswith(ENDED):
                return int(line[1:]), "".join(printed)
            printed.append(line)
        raise AssertionError("the virtual machine has ended: " + "".join(printed))

    def ok(self, command: str, given: str = "") -> str:
        """What it printed; it ended with 0."""
        code, printed = self.run(command, given)
        assert code == 0, printed
        return printed

    def count_words(self, *arguments: str) -> tuple[int, str]:
        """Kafka Streams: tests/clients/kafka/java/WordCount.java."""
        return self._run([WORD_COUNT, "", self.address, *arguments])

    def close(self) -> None:
        """End the virtual machine."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.close()
        self._process.wait(20)
        self._process.stdout.close()


@pytest.fixture(scope="module")
def broker(tmp_path_factory: pytest.TempPathFactory) -> Iterator[BrokerProcess]:
    directory = tmp_path_factory.mktemp("tools")
    with BrokerProcess(directory, 2, KAFKA__GROUP_INITIAL_REBALANCE_DELAY_MS="0") as running:
        yield running
        assert "Traceback" not in running.log


@pytest.fixture(scope="module")
def shell(broker: BrokerProcess, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Shell]:
    opened = Shell(broker, tmp_path_factory.mktemp("shell") / "errors.txt")
    yield opened
    opened.close()


def rows(text: str) -> list[list[str]]:
    """The words of each line."""
    return [line.split() for line in text.splitlines() if line.strip()]


def write(shell: Shell, topic: str, lines: str) -> None:
    """With kafka-console-producer, which sends the last ones when its process ends."""
    shell.ok(f"kafka-console-producer --topic {topic}", lines)
    count = len(lines.splitlines())
    until(lambda: shell.ok(f"kafka-get-offsets --topic {topic}").split() == [f"{topic}:0:{count}"])


def test_kafka_topics(shell: Shell) -> None:
    shell.ok("kafka-topics --create --topic t --partitions 3 --config retention.ms=100000")
    code, printed = shell.run("kafka-topics --create --topic t")
    assert (code, "already exists" in printed) == (1, True)
    shell.ok("kafka-topics --create --topic t --if-not-exists")
    shell.ok("kafka-topics --alter --topic t --partitions 4")
    head, *parts = shell.ok("kafka-topics --describe --topic t").splitlines()
    assert "PartitionCount: 4\tReplicationFactor: 1\tConfigs: retention.ms=100000" in head
    assert len([part for part in parts if "Leader: " in part]) == 4
    assert "t" in shell.ok("kafka-topics --list --exclude-internal").split()
    assert "x24SYS" not in shell.ok("kafka-topics --list --exclude-internal")
    assert "\tt\n" not in shell.ok("kafka-topics --describe --under-replicated-partitions")
    shell.ok("kafka-topics --delete --topic t")
    assert "t" not in shell.ok("kafka-topics --list").split()
    code, printed = shell.run("kafka-topics --delete --topic t")
    assert (code, "does not exist" in printed) == (1, True)


def test_console_producer_and_consumer_and_kafka_consumer_groups(shell: Shell) -> None:
    shell.ok("kafka-topics --create --topic console --partitions 2")
    keyed = "--reader-property parse.key=true --reader-property parse.headers=true"
    shell.ok(f"kafka-console-producer --topic console {keyed}", "a:1,b:2\tk1\tv1\nc:3\tk1\tv2\n")
    shell.ok("kafka-console-producer --topic console --compression-codec zstd", "plain\n")
    shown = "--formatter-property print.key=true --formatter-property print.headers=true"
    printed = shell.ok(
        "kafka-console-consumer --topic console --from-beginning --max-messages 3 --group g"
        f" --timeout-ms 20000 {shown}"
    )
    assert {"a:1,b:2\tk1\tv1", "c:3\tk1\tv2", "NO_HEADERS\tnull\tplain"} <= set(
        printed.splitlines()
    )
    assert "g" in shell.ok("kafka-consumer-groups --list").split()
    assert ["g", "Empty"] in rows(shell.ok("kafka-consumer-groups --list --state"))
    described = rows(shell.ok("kafka-consumer-groups --describe --group g"))
    lags = {row[2]: row[3:6] for row in described if row[:2] == ["g", "console"]}
    assert set(lags) == {"0", "1"}
    assert sum(int(row[0]) for row in lags.values()) == 3
    assert all(row[0] == row[1] and row[2] == "0" for row in lags.values())
    reset = "kafka-consumer-groups --group g --topic console --reset-offsets"
    moved = rows(shell.ok(f"{reset} --to-earliest --execute"))
    assert sorted(row[2:] for row in moved if row[0] == "g") == [["0", "0"], ["1", "0"]]
    shell.ok("kafka-consumer-groups --delete-offsets --group g --topic console")
    shell.ok("kafka-consumer-groups --delete --group g")
    assert "g" not in shell.ok("kafka-consumer-groups --list").split()
    assert "GroupIdNotFound" in shell.run("kafka-consumer-groups --describe --group g")[1]
    offsets = rows(shell.ok("kafka-get-offsets --topic console"))
    assert sum(int(row[0].split(":")[2]) for row in offsets) == 3
    assert shell.ok("kafka-get-offsets --topic console --time -2").split() == [
        "console:0:0",
        "console:1:0",
    ]


def test_kafka_configs(shell: Shell) -> None:
    shell.ok("kafka-topics --create --topic settings")
    add = "--add-config retention.ms=5000,cleanup.policy=[compact,delete]"
    shell.ok(f"kafka-configs --alter --topic settings {add}")
    printed = shell.ok("kafka-configs --describe --topic settings")
    assert "cleanup.policy=compact,delete" in printed and "retention.ms=5000" in printed
    shell.ok("kafka-configs --alter --topic settings --delete-config retention.ms")
    assert "retention.ms=5000" not in shell.ok("kafka-configs --describe --topic settings")
    code, printed = shell.run("kafka-configs --alter --topic settings --add-config no.such=1")
    assert (code, "no.such" in printed) == (1, True)
    assert "broker.id=1" in shell.ok("kafka-configs --describe --broker 1 --all")


def test_kafka_broker_api_versions_and_the_cluster(shell: Shell, broker: BrokerProcess) -> None:
    printed = shell.ok("kafka-broker-api-versions")
    for port in broker.worker_ports:
        assert f"127.0.0.1:{port} (id: " in printed
    assert "Produce(0): 0 to 13 [usable: 13]" in printed
    assert "UNKNOWN" not in printed
    listed = shell.run_plain("kafka-cluster list-endpoints --bootstrap-server ADDRESS")[1]
    found = [row[2] for row in rows(listed) if row[0] in ("0", "1")]
    assert found == [str(port) for port in broker.worker_ports]
    code, printed = shell.run_plain("kafka-cluster cluster-id --bootstrap-server ADDRESS")
    assert (code, "Cluster ID: " in printed) == (0, True)
    code, printed = shell.run_plain("kafka-features --bootstrap-server ADDRESS describe")
    assert (code, "transaction.version" in printed) == (0, True)


def test_the_performance_tests_and_a_verifiable_producer(shell: Shell) -> None:
    perf = "kafka-producer-perf-test --topic perf --num-records 5000 --record-size 100"
    printed = shell.ok(f"{perf} --throughput -1 --command-property acks=all")
    assert "5000 records sent" in printed
    read = rows(shell.ok("kafka-consumer-perf-test --topic perf --num-records 5000"))
    assert any(len(row) > 5 and row[6] == "5000," for row in read), read
    code, _ = shell.run("kafka-verifiable-producer --topic verified --max-messages 10 --acks -1")
    assert code == 0
    until(lambda: shell.ok("kafka-get-offsets --topic verified").split() == ["verified:0:10"])


def test_what_a_partition_holds(shell: Shell, tmp_path: Path) -> None:
    shell.ok("kafka-topics --create --topic held")
    write(shell, "held", "1\n2\n3\n")
    printed = shell.ok("kafka-log-dirs --describe --topic-list held")
    found = json.loads(printed.splitlines()[-2 if not printed.splitlines()[-1] else -1])
    parts = [
        part
        for node in found["brokers"]
        for folder in node["logDirs"]
        for part in folder["partitions"]
    ]
    assert [part["partition"] for part in parts] == ["held-0"] and parts[0]["size"] > 0
    wanted = tmp_path / "delete.json"
    wanted.write_text(
        '{"version": 1, "partitions": [{"topic": "held", "partition": 0, "offset": 2}]}'
    )
    printed = shell.ok(f"kafka-delete-records --offset-json-file {wanted}")
    assert "low_watermark: 2" in printed
    assert shell.ok("kafka-get-offsets --topic held --time -2").split() == ["held:0:2"]
    shell.ok("kafka-leader-election --election-type preferred --all-topic-partitions")
    assert "No partition reassignments" in shell.ok("kafka-reassign-partitions --list")


def test_transactions_share_groups_and_access_rules(shell: Shell) -> None:
    shell.ok("kafka-topics --create --topic work")
    write(shell, "work", "1\n2\n")
    producers = rows(shell.ok("kafka-transactions describe-producers --topic work --partition 0"))
    assert len(producers) == 2 and producers[1][4] != ""
    assert "TransactionalId" in shell.ok("kafka-transactions list")
    shell.ok("kafka-transactions find-hanging --broker-id 1")
    shell.run("kafka-configs --alter --group shared --add-config share.auto.offset.reset=earliest")
    read = "kafka-console-share-consumer --topic work --group shared --max-messages 2"
    printed = shell.ok(f"{read} --timeout-ms 20000")
    assert {"1", "2"} <= set(printed.split()), printed
    assert "shared" in shell.ok("kafka-share-groups --list").split()
    assert ["shared", "Share", "share"] in rows(shell.ok("kafka-groups --list"))
    rule = "--allow-principal User:ann --operation Read --topic elsewhere"
    shell.ok(f"kafka-acls --add {rule}")
    assert "User:ann" in shell.ok("kafka-acls --list --topic elsewhere")
    shell.ok(f"kafka-acls --remove --force {rule}")
    assert "User:ann" not in shell.ok("kafka-acls --list")


def test_kafka_streams_count_words_exactly_once_and_go_on_from_their_changelog(
    shell: Shell, tmp_path: Path
) -> None:
    for topic in ("lines", "counts"):
        shell.ok(f"kafka-topics --create --topic {topic} --partitions 2")
    code, printed = shell.count_words("exactly_once_v2", "lines", "counts", str(tmp_path))
    assert (code, "counted 8 and 6" in printed) == (0, True), printed
    made = "counter-exactly_once_v2-counts-changelog"
    assert "cleanup.policy=compact" in shell.ok(f"kafka-topics --describe --topic {made}")
