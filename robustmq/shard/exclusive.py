"""Exclusive subscriptions: `$exclusive/{filter}` is held by one client of the cluster at a time.

Who holds one is decided by one worker, the owner of the filter's shard. The truth are the
subscriptions in the sessions, which are durable where the sessions are; the owner keeps a table of
them and nothing on disk. It is exact through the death of either side:
- a worker whose link comes up tells what its sessions hold, in place of what was known of it; while
  it is away its sessions keep what they have;
- an owner that has just started gives nothing to anybody before it has heard of every worker;
- a client gives up its place when it unsubscribes or its session ends, and only when that is
  committed: nobody else has it before.
A filter is exclusive by its text: `$exclusive/a/+` and `$exclusive/a/b` do not know of each other.
"""

from __future__ import annotations

from collections import Counter
from typing import TYPE_CHECKING, Any

from robustmq.core.hashing import key_hash
from robustmq.errors import BrokerError
from robustmq.names import EXCLUSIVE_PREFIX
from robustmq.promises import Promise, resolved
from robustmq.shard import wire

if TYPE_CHECKING:
    from robustmq.shard.broker import Broker

EXCLUSIVE_KIND = b"exclusive"

Held = list[tuple[bytes, bytes]]
"""(filter, client id)"""


class Holders:
    """The owner's table: who holds which filter."""

    def __init__(self, worker_count: int) -> None:
        self._unheard = set(range(worker_count))
        self._holders: dict[bytes, tuple[int, bytes]] = {}
        self._waiting: list[tuple[int, wire.ExclusiveClaim, Promise[bool]]] = []

    def __len__(self) -> int:
        return len(self._holders)

    def claim(self, worker: int, message: wire.ExclusiveClaim) -> Promise[bool]:
        """Settles with True when the client has the filter now."""
        if not self._unheard:
            return resolved(self._take(worker, message.filter, message.client_id))
        promise: Promise[bool] = Promise()
        self._waiting.append((worker, message, promise))
        return promise

    def _take(self, worker: int, filter_: bytes, client_id: bytes) -> bool:
        return self._holders.setdefault(filter_, (worker, client_id)) == (worker, client_id)

    def release(self, worker: int, message: wire.ExclusiveRelease) -> None:
        """A client has given up its place."""
        if self._holders.get(message.filter) == (worker, message.client_id):
            del self._holders[message.filter]

    def heard(self, worker: int, held: Held) -> None:
        """All that the sessions of a worker hold; with the last worker those who waited hear."""
        for filter_ in [one for one, (peer, _) in self._holders.items() if peer == worker]:
            del self._holders[filter_]
        for filter_, client_id in held:
            self._take(worker, filter_, client_id)
        self._waiting = [row for row in self._waiting if row[0] != worker]
        self._unheard.discard(worker)
        if not self._unheard:
            waiting, self._waiting = self._waiting, []
            for peer, message, promise in waiting:
                promise.resolve(self._take(peer, message.filter, message.client_id))


class Exclusive:
    """The client's side: asks the owners, and tells them what ends."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker
        self._held: dict[bytes, bytes] = {}
        """Filter -> client id, of the sessions of this worker."""
        self._asking: Counter[tuple[bytes, bytes]] = Counter()

    async def claim(self, filter_: bytes, client_id: bytes) -> bool:
        """Ask the owner of a filter; an owner that is away is asked again when it is back."""
        message = wire.ExclusiveClaim(filter_, client_id)
        owner = self._owner(filter_)
        self._asking[filter_, client_id] += 1
        while True:
            try:
                granted: bool = await self._broker.rpc.call(owner, message)
            except BrokerError:
                await self._broker.linked(owner)
            else:
                break
        self._asking[filter_, client_id] -= 1
        self._asking += Counter()
        if granted:
            self._held[filter_] = client_id
        return granted

    def restore(self, filter_: bytes, client_id: bytes) -> None:
        """Recovery: a session holds this."""
        self._held[filter_] = client_id

    def release(self, filter_: bytes, client_id: bytes) -> Promise[Any]:
        """A client holds this no longer, and that is committed. One that asks for it again
        already stays its holder. Settles when others can have it; fails when the owner is away,
        which hears of it when it is back."""
        if self._held.get(filter_) != client_id or self._asking[filter_, client_id]:
            return resolved(None)
        del self._held[filter_]
        return self._broker.rpc.call(
            self._owner(filter_), wire.ExclusiveRelease(filter_, client_id)
        )

    def held_of(self, worker: int) -> Held:
        """What the sessions here hold of the filters that a worker owns."""
        return [row for row in self._held.items() if self._owner(row[0]) == worker]

    def _owner(self, filter_: bytes) -> int:
        placement = self._broker.placement
        return placement.shard_owner(key_hash(EXCLUSIVE_KIND, filter_) % placement.shard_count)


def is_exclusive(filter_: bytes) -> bool:
    """Is a filter subscribed to exclusively?"""
    return filter_.startswith(EXCLUSIVE_PREFIX)
