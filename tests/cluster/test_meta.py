"""The cluster state, its log, and meta."""

from __future__ import annotations

import uuid
from pathlib import Path

import pytest

from robustmq.acls import AclBinding
from robustmq.cluster.commands import (
    AllocateProducerIds,
    AlterResource,
    AlterTopicConfig,
    Change,
    ChangeAcls,
    ChangeQuotas,
    ChangeScram,
    Command,
    CreatePartitions,
    CreateTopic,
    DeleteTopic,
    OwnShards,
    RegisterWorker,
    SetShardMap,
    UnregisterWorker,
)
from robustmq.cluster.meta import Meta
from robustmq.cluster.meta_log import MetaCorrupt, MetaLog
from robustmq.cluster.state import ClusterState, apply
from robustmq.credentials import ScramCredential
from robustmq.errors import KafkaCode
from robustmq.limits import Limits
from robustmq.quotas import entity_of

ID = uuid.UUID(int=7)
RULE = AclBinding(2, "t", 3, "User:a", "*", 3, 3)
OTHER_RULE = AclBinding(2, "t", 3, "User:b", "*", 3, 3)
CREDENTIAL = ScramCredential("a:b", "SCRAM-SHA-256", 4096, b"salt", b"stored", b"server")
ENTITY = entity_of({"client-id": None, "user": "a"})


def commands() -> list[object]:
    """A few of each."""
    return [
        CreateTopic(b"a/b", 3, {"x": "1"}, ID),
        CreateTopic(b"a/b", 3, {}, uuid.UUID(int=8)),
        CreatePartitions(b"a/b", 6),
        CreatePartitions(b"a/b", 6),
        AlterTopicConfig(b"a/b", {"x": None, "y": "2"}),
        AllocateProducerIds(1000),
        AllocateProducerIds(1000),
        RegisterWorker(0, "127.0.0.1", 9093, 11),
        OwnShards(0, (0, 1)),
        SetShardMap({0: 0, 1: 1}),
        DeleteTopic(b"none"),
        AlterResource(32, "g/1", {"a": "1", "b": "2"}),
        AlterResource(32, "g/1", {"a": None}),
        ChangeAcls((RULE, OTHER_RULE)),
        ChangeAcls((RULE,), (OTHER_RULE,)),
        ChangeScram((CREDENTIAL,)),
        ChangeScram((), ("SCRAM-SHA-512:nobody",)),
        ChangeQuotas(ENTITY, {"producer_byte_rate": 1.0, "request_percentage": 2.5}),
        ChangeQuotas(ENTITY, {"producer_byte_rate": None}),
    ]


def test_every_command_is_decided_and_survives_a_restart(tmp_path: Path) -> None:
    meta = Meta(tmp_path, "cluster")
    results = meta.propose([(b"%d" % n, c) for n, c in enumerate(commands())], 5)  # type: ignore[misc]
    exists, invalid = int(KafkaCode.TOPIC_ALREADY_EXISTS), int(KafkaCode.INVALID_PARTITIONS)
    refused = {n: result.error for n, result in enumerate(results) if result.error}
    assert refused == {1: exists, 3: invalid, 10: 3, 16: 91}
    assert [r.value for r in results[5:7]] == [0, 1000]
    assert (results[8].value, results[9].value) == (1, 2)
    meta.close()
    again = Meta(tmp_path, "other")
    state = again.state
    topic = state.topic_by_id(ID)
    assert topic is not None and (topic.partitions, topic.configs) == (6, {"y": "2"})
    assert state.resource(32, "g/1") == {"b": "2"} and state.resource_names(32) == ["g/1"]
    assert list(state.acls) == [RULE] and state.scram == {"SCRAM-SHA-256:a:b": CREDENTIAL}
    assert state.quotas[ENTITY.key].values == {"request_percentage": 2.5}
    assert state == meta.state and state.cluster_id == "cluster"
    assert [state.shards[n].worker_id for n in (0, 1)] == [0, 1]
    assert again.propose([(b"x", AllocateProducerIds(1))], 6)[0].value == 2000
    again.close()


def test_a_retried_command_is_answered_and_not_applied_again(tmp_path: Path) -> None:
    meta = Meta(tmp_path, "cluster")
    first = meta.propose([(b"id", AllocateProducerIds(10))], 5)
    meta.close()
    again = Meta(tmp_path, "")
    assert again.propose([(b"id", AllocateProducerIds(10))], 5) == first
    assert again.state.next_producer_id == 10
    again.close()


def test_deciding_changes_nothing() -> None:
    state = ClusterState()
    for command in commands():
        apply(state, command, 0)  # type: ignore[arg-type]
    assert state == ClusterState()


def test_an_old_incarnation_cannot_unregister_a_newer_one(tmp_path: Path) -> None:
    meta = Meta(tmp_path, "c")
    meta.propose([(b"1", RegisterWorker(0, "h", 1, 1)), (b"2", RegisterWorker(0, "h", 2, 2))], 0)
    meta.propose([(b"3", UnregisterWorker(0, 1))], 0)
    assert meta.state.workers[0].port == 2
    meta.propose([(b"4", UnregisterWorker(0, 2))], 0)
    assert meta.state.brokers() == []
    meta.close()


def test_a_log_cut_anywhere_recovers_a_prefix(tmp_path: Path) -> None:
    meta = Meta(tmp_path, "c")
    for n in range(5):
        meta.propose([(b"%d" % n, AllocateProducerIds(1))], 0)
    meta.close()
    whole = (tmp_path / "log").read_bytes()
    seen = set()
    for length in range(len(whole) + 1):
        (tmp_path / "log").write_bytes(whole[:length])
        log = MetaLog(tmp_path)
        seen.add(log.open().next_producer_id)
        log.close()
    assert seen == {0, 1, 2, 3, 4, 5}


def test_damage_with_valid_records_behind_is_not_cut_off(tmp_path: Path) -> None:
    meta = Meta(tmp_path, "c")
    for n in range(5):
        meta.propose([(b"%d" % n, AllocateProducerIds(1))], 0)
    meta.close()
    damaged = bytearray((tmp_path / "log").read_bytes())
    damaged[20] ^= 1
    (tmp_path / "log").write_bytes(damaged)
    with pytest.raises(MetaCorrupt, match="byte 8"):
        MetaLog(tmp_path).open()


def test_changes_left_in_the_log_behind_a_snapshot_are_known(tmp_path: Path) -> None:
    meta = Meta(tmp_path, "c")
    meta.propose([(b"1", AllocateProducerIds(5))], 0)
    log = (tmp_path / "log").read_bytes()
    meta._log.checkpoint(meta.state, force=True)
    meta.close()
    (tmp_path / "log").write_bytes(log)
    again = Meta(tmp_path, "")
    assert (again.state.version, again.state.next_producer_id) == (1, 5)
    again.close()


def test_subscribers_are_told_in_order_after_the_disk(tmp_path: Path) -> None:
    meta = Meta(tmp_path, "c")
    told: list[Change] = []
    stop = meta.subscribe(told.extend)
    meta.propose([(b"%d" % n, AllocateProducerIds(1)) for n in range(3)], 0)
    stop()
    meta.propose([(b"9", AllocateProducerIds(1))], 0)
    assert [change.version for change in told] == [1, 2, 3]
    meta.close()


def test_rules_users_and_quotas_are_bounded(tmp_path: Path) -> None:
    limits = Limits(max_acls=1, max_scram_credentials=1, max_client_quotas=1)
    meta = Meta(tmp_path, "cluster", limits)
    other = ScramCredential("c", "SCRAM-SHA-256", 4096, b"salt", b"stored", b"server")
    asked: list[Command] = [
        ChangeAcls((RULE,)),
        ChangeAcls((OTHER_RULE,)),
        ChangeAcls((), (RULE,)),
        ChangeScram((CREDENTIAL,)),
        ChangeScram((other,)),
        ChangeQuotas(ENTITY, {"producer_byte_rate": 1.0}),
        ChangeQuotas(ENTITY, {"producer_byte_rate": 2.0}),
        ChangeQuotas(entity_of({"user": "b"}), {"producer_byte_rate": 1.0}),
    ]
    results = meta.propose([(b"%d" % number, one) for number, one in enumerate(asked)], 5)
    refused = int(KafkaCode.POLICY_VIOLATION)
    assert [one.error for one in results] == [0, refused, 0, 0, refused, 0, 0, refused]
