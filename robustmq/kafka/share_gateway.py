"""What the handlers of share groups ask of the broker behind them, beside robustmq.kafka.gateway:
the records of share-partitions, at the owners of their logs (KIP-932).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol
from uuid import UUID

import msgspec

from robustmq.kafka.share_events import AcquiredRange, ShareKey, SharePartitionEvent
from robustmq.promises import Promise

if TYPE_CHECKING:
    from robustmq.kafka.share_sessions import ShareSessions


class ShareWanted(msgspec.Struct, frozen=True):
    """What a member asks for of share-partitions that one worker holds, in the order in which they
    are served. `last_call` False: less than `min_bytes` is not taken out.
    """

    group_id: str
    member_id: str
    partitions: list[tuple[bytes, UUID, int]]
    max_bytes: int
    min_bytes: int
    max_records: int
    mode: int
    last_call: bool

    def share_keys(self) -> list[ShareKey]:
        """The share-partitions."""
        return [ShareKey(self.group_id, *partition) for partition in self.partitions]


class ShareRead(msgspec.Struct, frozen=True):
    """What a member was given of one share-partition: whole stored batches, and which of their
    records it holds now.
    """

    error: int = 0
    buffers: list[bytes | memoryview] = []
    acquired: list[AcquiredRange] = []


class ShareFetched(msgspec.Struct, frozen=True):
    """The answer for the share-partitions that were looked at; `seen` is for `wait`."""

    reads: Mapping[ShareKey, ShareRead]
    seen: Mapping[int, int]


class ShareGateway(Protocol):
    """Share-partitions, wherever they are held."""

    sessions: ShareSessions
    """The share sessions of this worker."""

    def lock_duration_ms(self, group_id: str) -> int:
        """How long records are held: share.record.lock.duration.ms of a group."""

    def acquire(self, keys: Sequence[ShareKey], wanted: ShareWanted) -> Promise[ShareFetched]:
        """Records of these share-partitions for a member, when it is committed that it has them.
        `wanted.partitions` is left empty: `keys` says them. Those that come after the bounds are
        reached are not looked at.
        """

    def wait(
        self, keys: Sequence[ShareKey], seen: Mapping[int, int], timeout_ms: int
    ) -> Promise[None]:
        """Settles when there may be something where nothing was seen, or after the time."""

    def tell(self, key: ShareKey, event: SharePartitionEvent) -> Promise[int]:
        """Run an event on a share-partition; its error code, when it is committed."""
