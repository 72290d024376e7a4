"""Who may append while there is no room, and when there is again."""

from __future__ import annotations

import pytest

from robustmq.errors import BrokerError, Fault
from robustmq.promises import Promise
from robustmq.shard.room import Room


class Told:
    """The workers 0 (this one), 1 and 2; they answer when the test says so."""

    def __init__(self) -> None:
        self.said: list[tuple[int, list[int], Promise[object]]] = []
        self.room = Room(lambda: range(3), lambda worker: 100 * worker, self.tell)

    def tell(self, worker: int, shards: list[int]) -> Promise[object]:
        promise: Promise[object] = Promise()
        self.said.append((worker, shards, promise))
        if not worker:
            promise.resolve(None)
        return promise

    def answer(self, worker: int) -> None:
        """The worker knows all that it was told."""
        for one, _, promise in self.said:
            if one == worker and not promise.settled:
                promise.resolve(None)

    def takes(self, shard: int, worker: int) -> bool:
        """Is a frame taken?"""
        try:
            self.room.check(shard, 100 * worker)
        except BrokerError as error:
            assert error.fault is Fault.STORAGE_FULL
            return False
        return True


def test_what_was_sent_before_a_worker_knew_is_refused_though_there_is_room_again() -> None:
    told = Told()
    assert told.takes(3, 1)
    told.room.disk_full([3, 4])
    assert not told.takes(3, 1)
    told.room.disk_full([])
    assert not told.takes(3, 1), "it may have sent this before it knew of the refusal"
    assert told.takes(3, 0), "what comes from this worker is refused as it is sent"
    told.answer(1)
    assert [told.takes(3, worker) for worker in (1, 2)] == [True, False]
    told.answer(2)
    assert told.takes(3, 2)
    assert told.room.open
    assert [shards for worker, shards, _ in told.said if worker == 1] == [[3, 4], []]


def test_a_shard_at_its_cap_is_closed_until_it_is_well_below() -> None:
    told = Told()
    assert told.room.measure({0: 99, 1: 100}, 100) == ({1}, set())
    for worker in (1, 2):
        told.answer(worker)
    assert told.takes(0, 1) and not told.takes(1, 1)
    assert told.room.measure({0: 99, 1: 96}, 100) == (set(), set())
    assert not told.takes(1, 1)
    assert told.room.measure({0: 99, 1: 94}, 100) == (set(), {1})
    told.answer(1)
    assert told.takes(1, 1)


def test_a_full_disk_and_a_cap_do_not_open_each_others_shards() -> None:
    told = Told()
    told.room.measure({1: 200}, 100)
    told.room.disk_full([0, 1])
    told.room.measure({1: 50}, 100)
    with pytest.raises(BrokerError, match="the disk is full"):
        told.room.check(1, 0)
    told.room.disk_full([])
    assert told.takes(1, 0)
