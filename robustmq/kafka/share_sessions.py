"""Share sessions (KIP-932, "Share sessions"): a member names its share-partitions once and later
only what changed.

A session belongs to the worker that made it, to one group and member, and to the connection it was
opened on: when that is gone the session is over, and what the member holds is for others. Requests
carry its epoch, which counts 1, 2, 3, ...: 0 opens a session, -1 closes it; another one than
expected is 123, an unknown session is 122 (both make the client begin anew). At the bound of
sessions a new one is refused with 133.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

import msgspec

from robustmq.errors import KafkaCode
from robustmq.kafka.context import ConnectionState
from robustmq.kafka.share_events import ShareKey

INITIAL_EPOCH, FINAL_EPOCH = 0, -1
_EPOCH_MAX = (1 << 31) - 1
Name = tuple[str, str]
"""Group and member."""


class ShareSession(msgspec.Struct):
    """A member's share-partitions, in the order in which they are served next. `touched`: every one
    that it may hold records of.
    """

    name: Name
    connection: ConnectionState
    epoch: int = 1
    partitions: OrderedDict[ShareKey, None] = msgspec.field(default_factory=OrderedDict)
    touched: dict[ShareKey, None] = msgspec.field(default_factory=dict)


class ShareSessions:
    """The share sessions of one worker."""

    def __init__(self, capacity: int = 2_000) -> None:
        self._capacity = capacity
        self._sessions: dict[Name, ShareSession] = {}

    def __len__(self) -> int:
        return len(self._sessions)

    def open(self, name: Name, connection: ConnectionState) -> ShareSession | int:
        """A new session in the place of an older one of the same member, or an error code."""
        older = self._sessions.pop(name, None)
        if older is None and len(self._sessions) >= self._capacity:
            return int(KafkaCode.SHARE_SESSION_LIMIT_REACHED)
        session = self._sessions[name] = ShareSession(name, connection)
        if older is not None:
            session.touched.update(older.touched)
        return session

    def find(self, name: Name, epoch: int) -> ShareSession | int:
        """The session that a request belongs to, or an error code; the next one has the next
        epoch.
        """
        session = self._sessions.get(name)
        if session is None:
            return int(KafkaCode.SHARE_SESSION_NOT_FOUND)
        if epoch == FINAL_EPOCH:
            return session
        if session.epoch != epoch:
            return int(KafkaCode.INVALID_SHARE_SESSION_EPOCH)
        session.epoch = 1 if epoch == _EPOCH_MAX else epoch + 1
        return session

    def close(self, session: ShareSession) -> bool:
        """The session is over; False when it was already, or another one took its place."""
        if self._sessions.get(session.name) is not session:
            return False
        del self._sessions[session.name]
        return True


def update(
    session: ShareSession, wanted: Iterable[ShareKey], forgotten: Iterable[ShareKey]
) -> None:
    """What a request adds and removes."""
    for key in forgotten:
        session.partitions.pop(key, None)
    for key in wanted:
        session.partitions[key] = None
        session.touched[key] = None
