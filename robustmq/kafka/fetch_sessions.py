"""Fetch sessions (KIP-227): a consumer names its partitions once and later only what changed, and
is told only of partitions that have something new.

A session belongs to the worker that made it. Requests of a session carry its epoch, which counts 1,
2, 3, ...; another one is 71, an unknown session is 70 (after a restart, an eviction, or on another
worker): both make the client begin a new one. Bounds: `capacity` sessions and `partition_capacity`
partitions over all of them. At the bound the session that was silent longest goes if it was silent
for `eviction_ms`; else the new consumer is served without a session (id 0), which costs bytes and
nothing else.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable
from uuid import UUID

import msgspec

from robustmq.errors import KafkaCode

NO_SESSION = 0
INITIAL_EPOCH = 0
FINAL_EPOCH = -1
_EPOCH_MAX = (1 << 31) - 1

PartitionKey = tuple[str | UUID, int]
"""Topic by name (before version 13) or by id, and the partition."""


class FetchPartition(msgspec.Struct):
    """What a reader wants of one partition, and what it was last told."""

    key: PartitionKey
    offset: int
    max_bytes: int
    leader_epoch: int
    told: tuple[int, int, int] = (-1, -1, -1)
    """High watermark, last stable offset and log start offset of the last answer."""


class FetchSession(msgspec.Struct):
    """A reader's partitions, in the order in which they are served next."""

    session_id: int
    epoch: int
    partitions: OrderedDict[PartitionKey, FetchPartition]
    used_ms: int


class Opened(msgspec.Struct):
    """What a request means: an error, or the partitions to read and the session to answer with."""

    error: int = 0
    partitions: list[FetchPartition] = []
    session: FetchSession | None = None
    incremental: bool = False

    @property
    def session_id(self) -> int:
        """The id that the response carries."""
        return NO_SESSION if self.session is None else self.session.session_id


class FetchSessions:
    """The sessions of one worker, least recently used first. `first_id` differs from start to start
    (random).
    """

    def __init__(
        self,
        capacity: int = 1_000,
        first_id: int = 1,
        partition_capacity: int = 1_000_000,
        eviction_ms: int = 120_000,
    ) -> None:
        self._capacity = capacity
        self._partition_capacity = partition_capacity
        self._eviction_ms = eviction_ms
        self._next_id = max(1, first_id % _EPOCH_MAX)
        self._sessions: OrderedDict[int, FetchSession] = OrderedDict()
        self._partitions = 0

    def __len__(self) -> int:
        return len(self._sessions)

    def open(
        self,
        session_id: int,
        epoch: int,
        wanted: list[FetchPartition],
        forgotten: Iterable[PartitionKey],
        now_ms: int,
    ) -> Opened:
        """What a request with this session id and epoch asks for."""
        if epoch in (INITIAL_EPOCH, FINAL_EPOCH):
            if session_id != NO_SESSION:
                self._close(session_id)
            if epoch == FINAL_EPOCH:
                return Opened(partitions=wanted)
            return Opened(partitions=wanted, session=self._create(wanted, now_ms))
        session = self._sessions.get(session_id)
        if session is None:
            return Opened(error=KafkaCode.FETCH_SESSION_ID_NOT_FOUND)
        if session.epoch != epoch:
            return Opened(error=KafkaCode.INVALID_FETCH_SESSION_EPOCH)
        session.epoch = 1 if epoch == _EPOCH_MAX else epoch + 1
        session.used_ms = now_ms
        self._sessions.move_to_end(session_id)
        self._update(session, wanted, forgotten)
        return Opened(
            partitions=list(session.partitions.values()), session=session, incremental=True
        )

    def served(self, session: FetchSession, keys: Iterable[PartitionKey]) -> None:
        """These partitions were given records: the others come first next time."""
        for key in keys:
            if key in session.partitions:
                session.partitions.move_to_end(key)

    def _create(self, wanted: list[FetchPartition], now_ms: int) -> FetchSession | None:
        if not wanted or not self._make_room(len(wanted), now_ms):
            return None
        while self._next_id in self._sessions:
            self._next_id = self._next_id % _EPOCH_MAX + 1
        partitions = OrderedDict((partition.key, partition) for partition in wanted)
        session = FetchSession(self._next_id, 1, partitions, now_ms)
        self._next_id = self._next_id % _EPOCH_MAX + 1
        self._sessions[session.session_id] = session
        self._partitions += len(partitions)
        return session

    def _make_room(self, wanted: int, now_ms: int) -> bool:
        while (
            len(self._sessions) >= self._capacity
            or self._partitions + wanted > self._partition_capacity
        ):
            if not self._sessions:
                return False
            session_id, oldest = next(iter(self._sessions.items()))
            if now_ms - oldest.used_ms < self._eviction_ms:
                return False
            self._close(session_id)
        return True

    def _close(self, session_id: int) -> None:
        session = self._sessions.pop(session_id, None)
        if session is not None:
            self._partitions -= len(session.partitions)

    def _update(
        self,
        session: FetchSession,
        wanted: list[FetchPartition],
        forgotten: Iterable[PartitionKey],
    ) -> None:
        before = len(session.partitions)
        for key in forgotten:
            session.partitions.pop(key, None)
        for partition in wanted:
            known = session.partitions.get(partition.key)
            if known is not None:
                partition.told = known.told
            session.partitions[partition.key] = partition
        self._partitions += len(session.partitions) - before
