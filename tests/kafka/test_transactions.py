"""The error codes of the transaction APIs, by version, as Apache Kafka 4.3 gives them."""

from __future__ import annotations

from typing import Any

import pytest

from robustmq.kafka.access import Operation, Resource
from robustmq.kafka.transaction_events import State
from tests.kafka.fake_gateway import FakeGateway
from tests.kafka.wire import Client

INIT, ADD, OFFSETS, END, COMMIT, FETCH, DESCRIBE, LIST = 22, 24, 25, 26, 28, 9, 65, 66
ID = "one"


class Producer:
    """A client with a transactional id; each request may differ from the right one."""

    def __init__(self) -> None:
        self.gateway = FakeGateway()
        self.gateway.add(b"t", 2, True, {})
        self.client = Client(self.gateway)
        self.pid, self.epoch = -1, -1

    def init(self, version: int = 4, **changes: Any) -> int:
        fields = {
            "transactional_id": ID,
            "transaction_timeout_ms": 60_000,
            "producer_id": -1,
            "producer_epoch": -1,
            **changes,
        }
        answer = self.client.ask(INIT, version, **fields)
        if not answer.error_code:
            self.pid, self.epoch = answer.producer_id, answer.producer_epoch
        return int(answer.error_code)

    def who(self, **changes: Any) -> dict[str, Any]:
        return {
            "transactional_id": ID,
            "producer_id": self.pid,
            "producer_epoch": self.epoch,
            **changes,
        }

    def add(
        self, version: int = 3, topics: dict[str, list[int]] | None = None, **changes: Any
    ) -> dict[tuple[str, int], int] | int:
        wanted = topics or {"t": [0]}
        one = self.who(
            topics=[{"name": name, "partitions": parts} for name, parts in wanted.items()],
            **changes,
        )
        if version < 4:
            old = {f"v3_and_below_{name}": value for name, value in one.items()}
            results = self.client.ask(ADD, version, **old).results_by_topic_v3_and_below
        else:
            answer = self.client.ask(ADD, version, transactions=[one])
            if answer.error_code:
                return int(answer.error_code)
            results = answer.results_by_transaction[0].topic_results
        return {
            (topic.name, part.partition_index): part.partition_error_code
            for topic in results
            for part in topic.results_by_partition
        }

    def end(self, version: int = 3, committed: bool = True, **changes: Any) -> int:
        answer = self.client.ask(END, version, committed=committed, **self.who(**changes))
        if version >= 5 and not answer.error_code:
            self.pid, self.epoch = answer.producer_id, answer.producer_epoch
        return int(answer.error_code)

    def offsets(self, version: int = 3, **changes: Any) -> int:
        fields = self.who(group_id="g", **changes)
        return int(self.client.ask(OFFSETS, version, **fields).error_code)

    def commit(self, version: int = 5, **changes: Any) -> int:
        part = {"partition_index": 0, "committed_offset": 7, "committed_metadata": ""}
        part.update({name: changes.pop(name) for name in list(changes) if name in part})
        topic = {"name": changes.pop("topic", "t"), "partitions": [part]}
        fields = self.who(**{"group_id": "g", "topics": [topic], **changes})
        answer = self.client.ask(COMMIT, version, **fields)
        return int(answer.topics[0].partitions[0].error_code)

    def committed(self, require_stable: bool = True) -> tuple[int, int]:
        groups = [{"group_id": "g", "topics": [{"name": "t", "partition_indexes": [0]}]}]
        answer = self.client.ask(FETCH, 8, groups=groups, require_stable=require_stable)
        part = answer.groups[0].topics[0].partitions[0]
        return part.committed_offset, part.error_code

    def deny(self, operation: Operation, resource: Resource, name: str) -> None:
        self.gateway.denied.add((operation, resource, name))


@pytest.fixture
def one() -> Producer:
    producer = Producer()
    assert producer.init() == 0
    return producer


@pytest.mark.parametrize(
    ("version", "changes", "code"),
    [
        (4, {"transactional_id": ""}, 42),
        (4, {"transaction_timeout_ms": 0}, 50),
        (4, {"transaction_timeout_ms": 900_001}, 50),
        (4, {"producer_id": 5}, 42),
        (4, {"producer_epoch": 5}, 42),
        (4, {"producer_id": 4_000, "producer_epoch": 0}, 90),
        (3, {"producer_id": 4_000, "producer_epoch": 0}, 47),
        (6, {"enable2_pc": True}, 53),
        (6, {"keep_prepared_txn": True}, 35),
    ],
    ids=str,
)
def test_init_producer_id_refuses(
    one: Producer, version: int, changes: dict[str, Any], code: int
) -> None:
    assert one.init(version, **changes) == code


@pytest.mark.parametrize(
    ("version", "changes", "code"),
    [
        (3, {"transactional_id": ""}, 42),
        (3, {"transactional_id": "other"}, 49),
        (3, {"producer_id": 4_000}, 49),
        (3, {"producer_epoch": 1}, 90),
        (2, {"producer_epoch": 1}, 90),
        (1, {"producer_epoch": 1}, 47),
        (4, {"producer_epoch": 1}, 90),
        (5, {"verify_only": True}, 120),
    ],
    ids=str,
)
def test_a_partition_is_not_added(
    one: Producer, version: int, changes: dict[str, Any], code: int
) -> None:
    assert one.add(version, **changes) == {("t", 0): code}


def test_one_partition_that_is_not_there_lets_all_fail(one: Producer) -> None:
    codes = {("t", 0): 55, ("t", 2): 3, ("no", 0): 3, ("..", 0): 3}
    assert one.add(topics={"t": [0, 2], "no": [0], "..": [0]}) == codes
    assert one.end() == 48, "nothing was begun"


@pytest.mark.parametrize(
    ("version", "changes", "code"),
    [
        (3, {"transactional_id": ""}, 42),
        (3, {"transactional_id": "other"}, 49),
        (3, {"producer_id": 4_000}, 49),
        (3, {"producer_epoch": 1}, 90),
        (1, {"producer_epoch": 1}, 47),
        (3, {}, 48),
        (5, {}, 48),
        (5, {"committed": False}, 0),
        (5, {"producer_epoch": 1}, 90),
    ],
    ids=str,
)
def test_an_end_without_a_transaction(
    one: Producer, version: int, changes: dict[str, Any], code: int
) -> None:
    assert one.end(version, **changes) == code


def test_each_api_asks_for_its_rights(one: Producer) -> None:
    one.deny(Operation.READ, Resource.TOPIC, "t")
    assert one.commit() == 29
    one.deny(Operation.READ, Resource.GROUP, "g")
    assert (one.offsets(), one.commit()) == (30, 30)
    one.deny(Operation.WRITE, Resource.TOPIC, "t")
    assert one.add(topics={"t": [1]}) == {("t", 1): 29}
    assert one.add(4) == {("t", 0): 0}, "a broker's client was asked for it before"
    one.deny(Operation.WRITE, Resource.TRANSACTIONAL_ID, ID)
    assert one.add() == {("t", 0): 53}
    assert (one.init(), one.offsets(), one.end(), one.commit()) == (53, 53, 53, 53)
    one.deny(Operation.CLUSTER_ACTION, Resource.CLUSTER, "kafka-cluster")
    assert one.add(4) == 31
    one.deny(Operation.DESCRIBE, Resource.TRANSACTIONAL_ID, ID)
    (state,) = one.client.ask(DESCRIBE, 0, transactional_ids=[ID]).transaction_states
    assert state.error_code == 53
    assert one.client.ask(LIST, 0).transaction_states == []


@pytest.mark.parametrize(
    ("version", "changes", "code"),
    [
        (5, {"transactional_id": ""}, 42),
        (5, {"transactional_id": "other"}, 49),
        (5, {"producer_id": 4_000}, 49),
        (5, {"producer_epoch": 1}, 47),
        (5, {"group_id": ""}, 24),
        (5, {"topic": "no"}, 3),
        (5, {"partition_index": 2}, 3),
        (5, {"committed_metadata": "m" * 5_000}, 12),
        (5, {"generation_id": 3, "member_id": "m"}, 22),
        (5, {"generation_id": -1, "member_id": "m"}, 0),
        (4, {}, 120),
        (3, {}, 48),
        (0, {}, 48),
        (4, {"producer_epoch": 1}, 47),
        (5, {}, 0),
    ],
    ids=lambda value: str(value)[:60],
)
def test_offsets_are_committed_in_a_transaction(
    one: Producer, version: int, changes: dict[str, Any], code: int
) -> None:
    assert one.commit(version, **changes) == code


def test_offsets_count_when_the_transaction_is_committed(one: Producer) -> None:
    assert one.offsets() == 0
    assert one.commit(4) == 0
    assert one.committed() == (-1, 88)
    assert one.committed(require_stable=False) == (-1, 0)
    assert one.end() == 0
    assert one.committed() == (7, 0)
    assert one.commit(5, committed_offset=9) == 0
    assert one.end(5, committed=False) == 0
    assert one.committed() == (7, 0)


def test_who_names_a_member_must_be_one(one: Producer) -> None:
    assert one.commit() == 0
    assert one.commit(generation_id=3, member_id="m") == 25
    joined = {
        "session_timeout_ms": 10_000,
        "rebalance_timeout_ms": 10_000,
        "protocol_type": "consumer",
        "protocols": [{"name": "range", "metadata": b""}],
    }
    member = one.client.ask(11, 3, group_id="g", member_id="", **joined)
    assert one.commit(generation_id=1, member_id=member.member_id) == 0
    assert one.commit(generation_id=2, member_id=member.member_id) == 22
    assert one.commit(generation_id=1, member_id="m") == 25
    assert one.commit(generation_id=1, member_id=member.member_id, group_instance_id="i") == 25
    assert one.commit() == 0, "older clients cannot name one"


def test_transactions_are_described_and_listed(one: Producer) -> None:
    one.add(topics={"t": [1, 0]})
    one.offsets()
    found, none = one.client.ask(DESCRIBE, 0, transactional_ids=[ID, "no"]).transaction_states
    assert (found.error_code, found.transaction_state) == (0, State.ONGOING)
    assert (found.producer_id, found.producer_epoch) == (one.pid, one.epoch)
    assert (found.transaction_timeout_ms, found.transaction_start_time_ms) == (60_000, 1_000_000)
    topics = {topic.topic: topic.partitions for topic in found.topics}
    assert topics == {"t": [0, 1], "__consumer_offsets": [7]}
    assert none.error_code == 105


@pytest.mark.parametrize(
    ("version", "filters", "found"),
    [
        (0, {}, ["one", "two"]),
        (0, {"state_filters": ["Ongoing"]}, ["one"]),
        (0, {"state_filters": ["Ongoing", "Bogus"]}, ["one"]),
        (0, {"state_filters": ["PrepareEpochFence"]}, []),
        (0, {"producer_id_filters": [4_000]}, []),
        (1, {"duration_filter": 0}, ["one"]),
        (1, {"duration_filter": 1_000}, []),
        (2, {"transactional_id_pattern": "t.*"}, ["two"]),
        (2, {"transactional_id_pattern": "o"}, []),
        (2, {"transactional_id_pattern": ""}, ["one", "two"]),
    ],
    ids=str,
)
def test_transactions_are_listed_by_filters(
    one: Producer, version: int, filters: dict[str, Any], found: list[str]
) -> None:
    one.add()
    one.init(transactional_id="two")
    one.gateway.time_ms += 500
    answer = one.client.ask(LIST, version, **filters)
    assert answer.error_code == 0
    assert [state.transactional_id for state in answer.transaction_states] == found
    bogus = ["Bogus"] if "Bogus" in filters.get("state_filters", []) else []
    assert answer.unknown_state_filters == bogus


def test_a_pattern_that_is_none_is_refused(one: Producer) -> None:
    assert one.client.ask(LIST, 2, transactional_id_pattern="[").error_code == 128


def test_clients_are_told_of_the_second_version_of_transactions(one: Producer) -> None:
    for version, names in ((3, set()), (4, {"transaction.version"})):
        fields = {"client_software_name": "c", "client_software_version": "1"}
        answer = one.client.ask(18, version, **fields)
        assert {row.name for row in answer.supported_features} >= names
        levels = {row.name: row.max_version_level for row in answer.finalized_features}
        assert levels["transaction.version"] == 2
        assert answer.finalized_features_epoch >= 0
