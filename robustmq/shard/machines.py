"""The kinds of durable machines that a worker runs, and the one form in which their records stand
in the log of a shard.

A kind says how its machines are made, where they live, and how what they take and give becomes
bytes. Adding a kind is adding a row where the runtime is made.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import msgspec

from robustmq.groups import transaction_records
from robustmq.groups.classic import GroupSettings
from robustmq.groups.consumer import ConsumerSettings, GroupView
from robustmq.groups.contract import Machine
from robustmq.groups.group import Group
from robustmq.groups.records import decode_record, encode_record
from robustmq.groups.transactions import TransactionCoordinator, TransactionSettings
from robustmq.kafka import transaction_events
from robustmq.kafka.gateway import TRANSACTION
from robustmq.kafka.group_events import (
    Resumed,
    TimerFired,
    decode_event,
    decode_reply,
    encode_event,
    encode_reply,
)
from robustmq.kafka_settings import KafkaSettings
from robustmq.shard.placement import GROUP_KIND


class MachineKind(msgspec.Struct, frozen=True):
    """One kind of machine (robustmq.groups.contract)."""

    name: bytes
    """In the log and on the bus; never changed."""
    make: Callable[[str], Machine[Any, Any, Any]]
    encode_record: Callable[[Any], bytes]
    decode_record: Callable[[bytes], Any]
    encode_event: Callable[[Any], bytes]
    decode_event: Callable[[bytes], Any]
    encode_reply: Callable[[Any], bytes]
    decode_reply: Callable[[bytes], Any]
    resumed: Callable[[], Any]
    """The event that follows recovery."""
    timer_fired: Callable[[str], Any]
    """The event of a timer, by its key."""


class MachineEntry(msgspec.Struct, frozen=True, array_like=True, gc=False):
    """What one machine wrote in one step: the payload of a log entry of kind 2."""

    kind: bytes
    key: bytes
    records: list[bytes]


_encoder = msgspec.msgpack.Encoder()
_decoder = msgspec.msgpack.Decoder(MachineEntry)


def encode_machine_entry(kind: bytes, key: bytes, records: list[bytes]) -> bytes:
    """A log entry's payload."""
    return _encoder.encode(MachineEntry(kind, key, records))


def decode_machine_entry(payload: bytes | memoryview) -> MachineEntry:
    """The entry in a payload."""
    return _decoder.decode(payload)


def group_kind(kafka: KafkaSettings, view: GroupView) -> MachineKind:
    """Consumer groups."""
    settings = GroupSettings(
        kafka.group_min_session_timeout_ms,
        kafka.group_max_session_timeout_ms,
        kafka.group_max_size,
        kafka.group_initial_rebalance_delay_ms,
        offsets_retention_ms=kafka.offsets_retention_s * 1000,
    )
    consumer_settings = ConsumerSettings(
        kafka.group_consumer_session_timeout_ms,
        kafka.group_consumer_heartbeat_interval_ms,
        kafka.group_consumer_max_size,
        kafka.group_consumer_assignors,
        kafka.group_consumer_migration_policy,
        kafka.group_consumer_assignment_interval_ms,
        kafka.group_consumer_regex_refresh_interval_ms,
    )
    return MachineKind(
        GROUP_KIND,
        lambda group_id: Group(group_id, view, settings, consumer_settings),
        encode_record,
        decode_record,
        encode_event,
        decode_event,
        encode_reply,
        decode_reply,
        Resumed,
        TimerFired,
    )


def transaction_kind(kafka: KafkaSettings, wall_ms: Callable[[], int]) -> MachineKind:
    """Coordinators of transactional ids."""
    settings = TransactionSettings(
        kafka.transaction_max_timeout_ms, kafka.transactional_id_expiration_ms
    )
    return MachineKind(
        TRANSACTION,
        lambda transactional_id: TransactionCoordinator(transactional_id, settings),
        transaction_records.encode_record,
        transaction_records.decode_record,
        transaction_events.encode_event,
        transaction_events.decode_event,
        transaction_events.encode_reply,
        transaction_events.decode_reply,
        lambda: transaction_events.Resumed(wall_ms()),
        lambda timer: transaction_events.TimerFired(timer, wall_ms()),
    )
