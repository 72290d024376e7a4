"""Has looked for what lies behind a tear in the chain of a light topic (`storage.light_mending`):
one search at a time, a piece a job of the storage thread, with a rest behind each as long as it
took. Until it is over, readers are told to come again. Of topics that may have something in the
object store `cold_mending` does it, as their readers wait for what is fetched."""

from __future__ import annotations

from typing import TYPE_CHECKING

from robustmq.errors import BrokerError
from robustmq.storage.light_mending import Search
from robustmq.storage.shard_store import ShardStore

if TYPE_CHECKING:
    from robustmq.shard.broker import Broker

MIN_PAUSE_US = 500
PAUSE_MS = 1000
"""So long nothing is looked for when the disk could not read."""


class Mending:
    """The searches of one worker."""

    def __init__(self, broker: Broker) -> None:
        """The broker has its stores."""
        self._broker = broker
        self._stores = broker.stores
        self._around = broker.around
        self._searching = False
        self._due_ms = 0

    def tick(self) -> None:
        """Twenty times a second: begin a search, when a reader has met a tear."""
        if self._searching or self._broker.draining or self._around.monotonic_ms() < self._due_ms:
            return
        for shard, store in self._stores.items():
            search = store.light.next_search()
            if search is not None:
                self._searching = True
                self._go_on(shard, store, search)
                return

    def _go_on(self, shard: int, store: ShardStore, search: Search) -> None:
        if self._broker.draining:
            return
        begun_us = ended_us = 0
        failure: BrokerError | None = None

        def job() -> None:
            nonlocal begun_us, ended_us, failure
            begun_us = self._around.monotonic_us()
            try:
                search.step()
            except BrokerError as error:
                failure = error
            ended_us = self._around.monotonic_us()

        def done() -> None:
            if failure is not None:
                self._searching = False
                self._due_ms = self._around.monotonic_ms() + PAUSE_MS
            elif search.over:
                self._searching = False
                self._over(shard, store, search)
            else:
                pause_us = max(MIN_PAUSE_US, ended_us - begun_us)
                self._around.call_later(pause_us, lambda: self._go_on(shard, store, search))

        store.run(job).when_settled(done)
        self._around.kick()

    def _over(self, shard: int, store: ShardStore, search: Search) -> None:
        store.light.mended(search)
        tear, found = search.tear, search.found
        if found is None and not search.in_vain:
            return
        first_lost = found.end_offset if found is not None else 0
        self._broker.count("storage_corrupt_records", 1)
        self._around.log(
            "error",
            "a damaged entry of the log hid what a topic has before it: all that is sound is"
            " served again",
            shard=shard,
            topic=tear.topic.decode(errors="replace"),
            position=tear.leads_to,
            first_lost=first_lost,
            lost=tear.offset - first_lost,
        )
