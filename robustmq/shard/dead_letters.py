"""Dead letters of share groups: records that were rejected or delivered too often are appended to
the group's dead letter topic (KIP-1191).

The append is committed before the share-partition is told that a record is buried; until then it
stays in the state Archiving, in the log too. So none is lost: not in a crash, and not while the
topic is missing or refuses records either; then it is tried again. A crash between the append and
the telling makes a second copy. A dead letter goes to the partition of the topic that has its
source partition's number, counted round.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator

from robustmq import names
from robustmq.core import batches
from robustmq.errors import BrokerError, Fault, KafkaCode
from robustmq.groups.share_partition import REJECTED, Bury, SharePartition
from robustmq.groups.share_ranges import DeliveryState
from robustmq.kafka import group_configs
from robustmq.kafka.context import settled
from robustmq.kafka.gateway import SHARE_PARTITION, Gateway
from robustmq.kafka.share_events import Buried, BuryFailed, ShareKey, share_key
from robustmq.kafka.topic_configs import DEAD_LETTERS_ENABLE
from robustmq.promises import start
from robustmq.records import Record
from robustmq.shard.group_settings import Configs, GroupSettingsView
from robustmq.shard.local_log import LocalLogs
from robustmq.shard.runtime import MachineRuntime

AT_ONCE = 200
"""So many records at most are one batch of dead letters."""
AT_ONCE_BYTES = 256 * 1024
TIMEOUT_MS = 30_000
_MESSAGES = {REJECTED: b"rejected by a consumer"}
_LIMIT_MESSAGE = b"delivered as often as share.delivery.count.limit allows"


class _NotAtHand(Exception):
    """Records that are to be copied cannot be read now."""

    def __init__(self, offset: int) -> None:
        self.offset = offset


class DeadLetters:
    """Buries what the share-partitions of this worker give up."""

    def __init__(
        self,
        gateway: Gateway,
        logs: LocalLogs,
        machines: MachineRuntime,
        settings: GroupSettingsView,
        log: Callable[..., None],
    ) -> None:
        self._gateway = gateway
        self._logs = logs
        self._machines = machines
        self._settings = settings
        self._log = log
        self._waiting: dict[str, list[Bury]] = {}
        """Of the share-partitions that are being served, what comes next."""

    def carry_out(self, text: str, command: Bury) -> None:
        """Bury some records; those of a share-partition one after the other."""
        waiting = self._waiting.get(text)
        if waiting is not None:
            waiting.append(command)
            return
        self._waiting[text] = [command]
        start(self._serve(text))

    async def _serve(self, text: str) -> None:
        key = share_key(text)
        waiting = self._waiting[text]
        while waiting:
            command = waiting.pop(0)
            for first, last in self._still(text, command):
                try:
                    refused = await self._bury(key, text, first, last, command)
                except BrokerError as error:
                    refused = str(error)
                if refused is not None:
                    self._refused(key, text, refused)
                    return
        del self._waiting[text]

    def _refused(self, key: ShareKey, text: str, why: str) -> None:
        """The share-partition says later what is still to be done."""
        del self._waiting[text]
        self._gateway.count("kafka_dead_letters_refused")
        self._log("warning", "dead letters wait", group=key.group_id, reason=why)
        self._machines.tell_one(SHARE_PARTITION, text, BuryFailed())

    def _still(self, text: str, command: Bury) -> list[tuple[int, int]]:
        """What of a command is not done yet: it may have been given twice."""
        machine = self._machines.machines(SHARE_PARTITION).get(text)
        if not isinstance(machine, SharePartition):
            return []
        return [
            (one.first, one.last)
            for one in machine.ranges.within(command.first, command.last)
            if one.state == DeliveryState.ARCHIVING
        ]

    async def _bury(
        self, key: ShareKey, text: str, first: int, last: int, command: Bury
    ) -> str | None:
        """Bury a range; why it cannot be, or None."""
        configs = self._settings.configs(key.group_id)
        topic = group_configs.dead_letter_topic(configs)
        at = first
        while at <= last:
            end = min(at + AT_ONCE - 1, last)
            if topic is not None:
                end, letters = await self._letters(key, at, end, command, configs)
                refused = await self._append(topic, key.partition, letters) if letters else None
                if refused is not None:
                    return refused
                self._gateway.count("kafka_dead_letters", len(letters))
            told = self._machines.handle(SHARE_PARTITION, text, Buried(at, end))
            if isinstance(await settled(told), BrokerError):
                return "the share-partition is away"
            at = end + 1
        return None

    async def _append(self, topic: bytes, partition: int, letters: list[Record]) -> str | None:
        info = await settled(self._gateway.topic(topic, False))
        if info is None or isinstance(info, BrokerError):
            return "the dead letter topic is not there"
        if info.configs.get(DEAD_LETTERS_ENABLE) != "true":
            return f"the dead letter topic does not have {DEAD_LETTERS_ENABLE}=true"
        number = partition % len(info.partitions)
        batch = bytearray(batches.build(letters, self._gateway.timestamp_ms()))
        read = batches.validate(batch, 0, len(batch))
        appended = self._gateway.produce(info.name, number, batch, -1, TIMEOUT_MS, read)
        result = await settled(appended)
        if isinstance(result, BrokerError):
            return str(result)
        if result.error == KafkaCode.MESSAGE_TOO_LARGE and any(one.value for one in letters):
            bare = [Record(None, None, one.headers[-6:], -1) for one in letters]
            return await self._append(topic, partition, bare)
        return f"error {int(result.error)}" if result.error else None

    async def _letters(
        self, key: ShareKey, first: int, last: int, command: Bury, configs: Configs
    ) -> tuple[int, list[Record]]:
        """Dead letters of a range, and the last offset that they are of. One of a record that the
        log does not have any more says which it was. Raises STORAGE_FAILED.
        """
        while True:
            try:
                return self._made(key, first, last, command, configs)
            except _NotAtHand as place:
                coming = self._logs.coming(key.topic, key.partition, place.offset, 1)
                if coming is not None:
                    await coming
                elif self._logs.read(key.topic, key.partition, place.offset, 1, -1).error:
                    raise BrokerError(Fault.STORAGE_FAILED, "its records are away") from place

    def _made(
        self, key: ShareKey, first: int, last: int, command: Bury, configs: Configs
    ) -> tuple[int, list[Record]]:
        letters: list[Record] = []
        size = 0
        if group_configs.enabled(configs, group_configs.DEAD_LETTER_COPY):
            for record in self._originals(key, first, last):
                letters += _bare(key, first + len(letters), record.offset, command)
                size += len(record.key or b"") + len(record.value or b"")
                if letters and size > AT_ONCE_BYTES:
                    return first + len(letters) - 1, letters
                headers = [*record.headers, *_headers(key, record.offset, command)]
                letters.append(Record(record.key, record.value, headers, record.timestamp_ms))
        letters += _bare(key, first + len(letters), last + 1, command)
        return last, letters

    def _originals(self, key: ShareKey, first: int, last: int) -> Iterator[Record]:
        """The records of a range that the log still has; read a batch at a time."""
        at = first
        while at <= last:
            result = self._logs.read(key.topic, key.partition, at, 1, -1)
            if result.pending or result.error == KafkaCode.KAFKA_STORAGE_ERROR:
                raise _NotAtHand(at)
            if result.next_offset > at:
                at = result.next_offset
                continue
            if result.error or not result.buffers:
                return
            whole = b"".join(bytes(buffer) for buffer in result.buffers)
            for begin, info in batches.headers(whole, 0, len(whole)):
                for record in batches.parse(whole, begin, begin + info.length):
                    if at <= record.offset <= last:
                        yield record
                at = max(at + 1, info.base_offset + info.last_offset_delta + 1)


def _bare(key: ShareKey, first: int, end: int, command: Bury) -> list[Record]:
    """Dead letters without their records."""
    return [Record(None, None, _headers(key, one, command)) for one in range(first, end)]


def _headers(key: ShareKey, offset: int, command: Bury) -> list[tuple[str, bytes | None]]:
    return [
        ("__dlq.errors.topic", (names.to_kafka(key.topic) or "").encode()),
        ("__dlq.errors.partition", str(key.partition).encode()),
        ("__dlq.errors.offset", str(offset).encode()),
        ("__dlq.errors.group", key.group_id.encode()),
        ("__dlq.errors.delivery.count", str(command.delivery_count).encode()),
        ("__dlq.errors.message", _MESSAGES.get(command.reason, _LIMIT_MESSAGE)),
    ]
