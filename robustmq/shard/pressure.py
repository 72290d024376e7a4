"""Back-pressure of one worker: when its clients are not read, what publishers' workers are told.

Above a high-water mark clients are not read; the bus always is (design, section 4). The marks: what
is appended and not written (`behind`), what other workers have not confirmed or given credit for
(`Router.congested`), and what waits on the bus. Whoever feeds this worker over the bus is slowed by
its own worker, which gets no more credit while this one is behind (`credit`).
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Protocol

from robustmq.limits import Limits
from robustmq.shard import wire
from robustmq.shard.credit import Taken
from robustmq.shard.router import Router
from robustmq.shard.rpc import Bus
from robustmq.shard.telling import Telling
from robustmq.storage.shard_store import ShardStore


class Held(Protocol):
    """A client that may be not read for a while."""

    def hold(self, held: bool) -> None:
        """Stop or go on reading it."""
        ...


class Pressure:
    """What decides if the clients of a worker are read."""

    def __init__(
        self,
        limits: Limits,
        worker_count: int,
        clients: Iterable[Held],
        stores: dict[int, ShardStore],
        router: Router,
        telling: Telling,
        bus: Bus,
    ) -> None:
        """`clients` and `stores` are those of the worker at any time."""
        self.limits = limits
        self._clients = clients
        self._stores = stores
        self._router = router
        self._telling = telling
        self._bus = bus
        self._taken = Taken(worker_count)
        self.behind = False
        """True while the disk has not taken what was appended (limits.max_commit_bytes)."""
        self.held = False
        """True while clients are not read."""

    def steer(self, draining: bool) -> None:
        """At the end of a turn: read clients, or not."""
        held = draining or self.behind or self._router.congested or self._bus.over_high_water()
        if held != self.held:
            self.held = held
            for client in self._clients:
                client.hold(held)

    def must_wait(self) -> bool:
        """Is who writes to wait for the commit, though it asked for none?"""
        return self.behind or self._telling.unconfirmed_bytes > self.limits.max_bus_bytes

    def tick(self) -> bool:
        """Look how far the disk is; True when a turn has to follow."""
        waiting = sum(store.uncommitted_bytes for store in self._stores.values())
        self.behind = waiting > self.limits.max_commit_bytes
        return self.behind or self.held

    def committed(self) -> bool:
        """The disk has taken something; True when a turn has to follow."""
        if self.behind:
            self.tick()
        return self.held

    # -- credit ------------------------------------------------------------------------------------

    def worker_up(self, worker: int) -> None:
        """A link is there: nothing has come over it."""
        self._taken.begin(worker)

    def took(self, worker: int, size: int) -> None:
        """A block came that nobody confirms."""
        self._taken.add(worker, size, self.limits.max_bus_bytes)

    def give_credit(self) -> None:
        """Tell publishers' workers what was taken of theirs, unless it piles up here."""
        if self.behind or self._bus.over_high_water():
            return
        for worker, taken in self._taken.due():
            self._bus.send(worker, wire.CREDIT, wire.CREDIT_HEAD.pack(taken))
