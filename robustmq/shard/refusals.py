"""What a producer with an id has sent behind a batch that was refused, and that it will send again.

Up to five batches of such a producer are on their way to a partition at any time (KIP-98). When one
is refused for a while (no room on the disk, its owner away), those behind it may come when that is
over. Invariant: before the refused one is here again none of them is taken, or called out of order:
they hear what it heard.

- Taken: a producer that its partition does not know may begin with any sequence, so the batch would
  stand before those it follows; and librdkafka reports all that lies before a batch that was taken
  as written, too: records would be lost that nobody refused.
- Out of order (45): librdkafka begins a new epoch then, for all of its partitions. What it waited
  for an answer to, of a worker that has just died, it sends again in that epoch, in which nobody
  can tell that the log has it: records would be there twice.

A producer that gives a batch up begins a new epoch, which ends this; one that does not hears 45
when nothing was refused for `REMEMBERED_MS`. Bound: MAX_REFUSED producers; of more than that, the
refusals that are oldest are forgotten.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

from robustmq.core.batches import BatchInfo
from robustmq.errors import KafkaCode
from robustmq.kafka.gateway import ProduceResult

MAX_REFUSED = 10_000
REMEMBERED_MS = 10_000
"""From the last refusal of a batch. Clients wait a second at most before they send again."""

_SEQUENCES = 1 << 31
_SENT_AGAIN = frozenset(
    {
        KafkaCode.UNKNOWN_TOPIC_OR_PARTITION,
        KafkaCode.NOT_LEADER_OR_FOLLOWER,
        KafkaCode.REQUEST_TIMED_OUT,
        KafkaCode.NOT_ENOUGH_REPLICAS,
        KafkaCode.KAFKA_STORAGE_ERROR,
        KafkaCode.CONCURRENT_TRANSACTIONS,
    }
)
"""Errors after which clients send the same batch again."""

Key = tuple[bytes, int, int]
"""Topic, partition, producer id."""


class _Refused(NamedTuple):
    epoch: int
    sequence: int
    until_ms: int
    result: ProduceResult


class Refusals:
    """The first batch of each producer and partition that was refused and is not here again."""

    def __init__(self, now_ms: Callable[[], int]) -> None:
        self._now_ms = now_ms
        self._refused: dict[Key, _Refused] = {}

    def __len__(self) -> int:
        return len(self._refused)

    def refused(
        self, topic: bytes, partition: int, info: BatchInfo, result: ProduceResult
    ) -> ProduceResult:
        """A batch gets this answer, and is not known to be written; the answer."""
        if info.producer_id < 0 or result.error not in _SENT_AGAIN:
            return result
        key = (topic, partition, info.producer_id)
        known = self._refused.get(key)
        if known is not None:
            if known.epoch > info.producer_epoch or _is_behind(known, info):
                return result
            del self._refused[key]
        elif len(self._refused) >= MAX_REFUSED:
            del self._refused[next(iter(self._refused))]
        until_ms = self._now_ms() + REMEMBERED_MS
        self._refused[key] = _Refused(info.producer_epoch, info.base_sequence, until_ms, result)
        return result

    def behind(self, topic: bytes, partition: int, info: BatchInfo) -> ProduceResult | None:
        """The answer to a batch that follows one that was refused and is not here again."""
        if not self._refused:
            return None
        key = (topic, partition, info.producer_id)
        known = self._refused.get(key)
        if known is None:
            return None
        if known.until_ms < self._now_ms() or known.epoch < info.producer_epoch:
            del self._refused[key]
            return None
        return known.result if _is_behind(known, info) else None

    def taken(self, topic: bytes, partition: int, info: BatchInfo) -> None:
        """A batch is in the log: if it is the one that was refused, what follows it is taken."""
        if not self._refused:
            return
        key = (topic, partition, info.producer_id)
        known = self._refused.get(key)
        if known is not None and (known.epoch, known.sequence) == (
            info.producer_epoch,
            info.base_sequence,
        ):
            del self._refused[key]


def _is_behind(known: _Refused, info: BatchInfo) -> bool:
    """Does a batch follow the refused one in its epoch? Sequences wrap."""
    ahead = (info.base_sequence - known.sequence) % _SEQUENCES
    return known.epoch == info.producer_epoch and 0 < ahead < _SEQUENCES // 2
