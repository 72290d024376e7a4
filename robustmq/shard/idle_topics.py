"""Light topics that nobody has published to for long go, as topics (`storage.topic_idle_expiry_s`).

A topic goes with its name, its offsets and its records: the next message makes a new one that
begins at offset 0. So one stays that anybody remembers: with a retained value, with a committed
offset of a consumer group, with a share-partition, on whichever worker, and one that Kafka or a
client has made and nobody has published to. What sessions have to get of it stands in their own
logs.

How long it was idle is known from the file of the shard's log in which its last batch stands, so
no batch is read; a topic may stay for as long as that file was open. Names are walked over in
slices, and the workers are asked when ASKED idle ones have gathered.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any

from robustmq.errors import BrokerError
from robustmq.kafka.gateway import SHARE_PARTITION
from robustmq.kafka.share_events import share_key
from robustmq.promises import Promise
from robustmq.shard import wire
from robustmq.shard.file_cleaning import Steps
from robustmq.shard.placement import GROUP_KIND
from robustmq.storage.shard_store import ShardStore

if TYPE_CHECKING:
    from robustmq.shard.broker import Broker

LOOKED_AT = 200
"""Names that are looked at in a slice."""
ASKED = 200
MACHINES_A_TURN = 100


class IdleTopics:
    """Finds them and lets them go."""

    def __init__(self, broker: Broker) -> None:
        self._broker = broker

    # -- the owner of the topics -------------------------------------------------------------------

    def steps(self, shard: int, before_ms: int) -> Steps:
        """Let the topics of a shard go that nobody has published to since then."""
        store = self._broker.stores[shard]
        after = b""
        idle: list[bytes] = []
        while names := store.light.names(after, LOOKED_AT):
            after = names[-1]
            idle += [name for name in names if self._is_idle(store, name, before_ms)]
            yield None
            if len(idle) >= ASKED:
                if not (yield from self._expire(store, shard, idle, before_ms)):
                    return
                idle = []
        if idle:
            yield from self._expire(store, shard, idle, before_ms)

    def _is_idle(self, store: ShardStore, topic: bytes, before_ms: int) -> bool:
        written_ms = store.light.written_before(topic)
        return 0 < written_ms < before_ms and store.retained.get(topic) is None

    def _expire(self, store: ShardStore, shard: int, topics: list[bytes], before_ms: int) -> Any:
        """Those that nobody uses go; False when somebody cannot be asked."""
        answers: list[Promise[Any]] = [
            self._broker.rpc.call(worker, wire.TopicsInUse(topics))
            for worker in range(self._broker.worker_count)
        ]
        while not all(answer.settled for answer in answers):
            yield None
        try:
            used = {bytes(topic) for answer in answers for topic in answer.result()}
        except BrokerError:
            # A worker is away: it may know of a group.
            return False
        gone = 0
        for topic in topics:
            # Somebody may have published to it meanwhile.
            if topic not in used and self._is_idle(store, topic, before_ms):
                store.light.delete(topic, self._broker.wall_ms())
                self._broker.kafka.logs.forget(topic)
                gone += 1
        if gone:
            self._broker.count("topics_expired", gone)
            self._broker.commits.mark(shard)
        return True

    # -- those that are asked ----------------------------------------------------------------------

    def in_use(self, topics: list[bytes]) -> Promise[list[bytes]]:
        """Which of these topics have an offset of a group, or a share-partition, on this worker."""
        answer: Promise[list[bytes]] = Promise()
        found: set[bytes] = set()
        looks = self._looks(set(topics), found)

        def go_on() -> None:
            for _ in range(MACHINES_A_TURN):
                if next(looks, None) is None:
                    answer.resolve(sorted(found))
                    return
            later(go_on)

        later: Callable[[Callable[[], None]], object] = self._broker.around.call_soon
        go_on()
        return answer

    def _looks(self, topics: set[bytes], found: set[bytes]) -> Iterator[bool]:
        machines = self._broker.kafka.machines
        for key in list(machines.machines(SHARE_PARTITION)):
            found.update(topics & {share_key(key).topic})
            yield True
        groups = machines.machines(GROUP_KIND)
        for key in list(groups):
            group: Any = groups.get(key)
            if group is not None:
                found.update(topics & group.offsets.topics())
            yield True
