"""Transactional batches that wait until the coordinator has said that their partition belongs to
the transaction (KIP-890).

Without that, a batch that was delayed in the network could begin a transaction that nobody ends.
Only the first batch of a transaction on a partition asks; what its producer sends meanwhile waits
behind it, so that order holds. A marker that comes meanwhile makes the answer void: it may be about
the transaction that is over, so the coordinator is asked again.
"""

from __future__ import annotations

from collections.abc import Callable

from robustmq.errors import BrokerError, KafkaCode
from robustmq.kafka.gateway import ABORTABLE, ADDS
from robustmq.promises import Promise

Key = tuple[bytes, int, int, int]
"""(topic, partition, producer id, producer epoch)"""

_ASK_AGAIN = (
    KafkaCode.COORDINATOR_LOAD_IN_PROGRESS,
    KafkaCode.COORDINATOR_NOT_AVAILABLE,
    KafkaCode.NOT_COORDINATOR,
    KafkaCode.NETWORK_EXCEPTION,
)


class Verifications:
    """The questions that are open."""

    def __init__(self) -> None:
        self._waiting: dict[Key, list[Callable[[int], None]]] = {}
        self._void: set[Key] = set()

    def is_open(self, key: Key) -> bool:
        """Does a producer wait for the answer about a partition?"""
        return key in self._waiting

    def wait(self, key: Key, go: Callable[[int], None]) -> None:
        """Call `go` with the answer, behind those that wait for it already."""
        self._waiting[key].append(go)

    def ask(
        self, key: Key, question: Callable[[], Promise[int]], go: Callable[[int], None]
    ) -> None:
        """Ask, and wait for the answer: `go(error code)`."""
        self._waiting[key] = [go]
        self._ask(key, question)

    def _ask(self, key: Key, question: Callable[[], Promise[int]]) -> None:
        asked = question()
        asked.when_settled(lambda: self._answered(key, question, asked))

    def ended(self, topic: bytes, partition: int, producer_id: int, below_epoch: int) -> None:
        """A marker was written: what was asked for an epoch below is of a transaction that is
        over."""
        self._void.update(
            key
            for key in self._waiting
            if key[:3] == (topic, partition, producer_id) and key[3] < below_epoch
        )

    def _answered(
        self, key: Key, question: Callable[[], Promise[int]], asked: Promise[int]
    ) -> None:
        try:
            error = asked.result()
        except BrokerError:
            error = KafkaCode.COORDINATOR_NOT_AVAILABLE
        void = key in self._void
        self._void.discard(key)
        if void and not error:
            self._ask(key, question)
            return
        for go in self._waiting.pop(key):
            go(error)


def produce_error(code: int, transactions: int) -> tuple[int, str | None]:
    """What a producer is told when its partition could not be verified, with the message.

    Clients up to Produce v11 do not retry a coordinator's errors: they get one that they retry.
    """
    if code in _ASK_AGAIN or (code == KafkaCode.CONCURRENT_TRANSACTIONS and transactions < ADDS):
        return (
            KafkaCode.NOT_ENOUGH_REPLICAS,
            "could not verify that the partition was added to the transaction: "
            f"{KafkaCode(code).name}",
        )
    if code == KafkaCode.PRODUCER_FENCED:
        return KafkaCode.INVALID_PRODUCER_EPOCH, None
    if code == KafkaCode.INVALID_TXN_STATE:
        return code, "the partition was not added to the transaction"
    if code == KafkaCode.TRANSACTION_ABORTABLE and transactions < ABORTABLE:
        return KafkaCode.INVALID_TXN_STATE, "the partition was not added to the transaction"
    return code, None
