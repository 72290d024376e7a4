"""A share-partition against the rules of KIP-932: single steps, and then random lives of it beside
a model that has one entry a record.
"""

from __future__ import annotations

from hypothesis import given, settings
from hypothesis import strategies as st

from robustmq.errors import KafkaCode
from robustmq.groups.share_partition import DELIVERY_LIMIT, REJECTED, SharePartition, ShareSettings
from robustmq.groups.share_ranges import DeliveryState
from robustmq.groups.share_records import decode_partition_record, encode_record
from robustmq.kafka import share_events as events
from robustmq.kafka.share_events import (
    ACCEPT,
    GAP,
    RECORD_LIMIT,
    REJECT,
    RELEASE,
    RENEW,
    AcknowledgementBatch,
    AcquiredRange,
    FetchedBatch,
)

LOCK_MS = 1_000


class Partition:
    """A machine with its log and its clock."""

    def __init__(self, start: int | None = 0, **options: object) -> None:
        self.settings = ShareSettings(record_lock_duration_ms=LOCK_MS, **options)  # type: ignore[arg-type]
        self.machine = SharePartition(lambda: self.settings)
        self.now_ms = 0
        self.timers: dict[str, int | None] = {}
        self.log: list[bytes] = []
        if start is not None:
            self.tell(events.StartAt(start))

    def tell(self, event: events.SharePartitionEvent) -> events.SharePartitionReply | None:
        effects = self.machine.handle(event, self.now_ms, 1)
        self.log += [encode_record(record) for record in effects.records]
        self.timers |= {key: when for when, key in effects.timers}
        return effects.replies[0][1] if effects.replies else None

    def acquire(
        self, member: str, *batches: tuple[int, int], most: int = 100, mode: int = 0
    ) -> list[tuple[int, int, int]]:
        wanted = self.machine.wanted(most)
        if wanted is None:
            return []
        read = [FetchedBatch(first, last) for first, last in batches if last >= wanted[0]]
        reply = self.tell(events.Acquire(member, wanted[0], read, most, mode))
        assert isinstance(reply, events.AcquireReply)
        return [(one.first, one.last, one.delivery_count) for one in reply.acquired]

    def acknowledge(self, member: str, first: int, last: int, *types: int) -> int:
        batch = AcknowledgementBatch(first, last, bytes(types))
        reply = self.tell(events.Acknowledge(member, [batch]))
        assert isinstance(reply, events.ShareErrorReply)
        return reply.error

    def wait(self, ms: int) -> None:
        self.now_ms += ms
        when = self.timers.get("lock")
        while when is not None and when <= self.now_ms:
            self.timers["lock"] = None
            self.tell(events.LockTimer("lock"))
            when = self.timers["lock"]

    def crash(self, snapshot: bool = False) -> None:
        if snapshot:
            self.log = [encode_record(record) for record in self.machine.snapshot()]
        self.machine = SharePartition(lambda: self.settings)
        self.timers.clear()
        for record in self.log:
            self.machine.replay(decode_partition_record(record))
        self.tell(events.ShareResumed())

    def state(self) -> str:
        """One letter a record of the window."""
        letters = "".join(
            "vqkba"[one.state] * (one.last - one.first + 1) for one in self.machine.ranges
        )
        return f"{self.machine.ranges.start}:{letters}"


def test_two_members_never_hold_the_same_record() -> None:
    one = Partition()
    assert one.acquire("a", (0, 4)) == [(0, 4, 1)]
    assert one.acquire("b", (0, 4), (5, 9)) == [(5, 9, 1)]
    assert one.acquire("b", (0, 4), (5, 9)) == []


def test_what_is_accepted_moves_the_start_and_what_is_released_comes_again_counted() -> None:
    one = Partition()
    one.acquire("a", (0, 9))
    assert one.acknowledge("a", 0, 2, ACCEPT) == 0
    assert one.acknowledge("a", 3, 6, RELEASE, ACCEPT, REJECT, GAP) == 0
    assert one.state() == "3:vkaaqqq"
    assert one.acquire("b", (0, 9)) == [(3, 3, 2)]
    one.acknowledge("b", 3, 3, ACCEPT)
    assert one.state() == "7:qqq"


def test_an_acknowledgement_of_another_member_or_of_a_free_record_changes_nothing() -> None:
    one = Partition()
    one.acquire("a", (0, 4))
    before = one.state()
    assert one.acknowledge("b", 0, 4, ACCEPT) == KafkaCode.INVALID_RECORD_STATE
    assert one.acknowledge("a", 0, 5, ACCEPT) == KafkaCode.INVALID_REQUEST
    assert one.state() == before
    batches = [AcknowledgementBatch(0, 1, bytes([ACCEPT])), AcknowledgementBatch(9, 9, b"\1")]
    reply = one.tell(events.Acknowledge("a", batches))
    assert reply == events.ShareErrorReply(KafkaCode.INVALID_REQUEST)
    assert one.state() == before
    one.acknowledge("a", 0, 4, ACCEPT)
    assert one.acknowledge("a", 0, 4, ACCEPT) == 0, "what is before the start is nobody's concern"


def test_a_lock_that_times_out_makes_the_record_free_until_its_last_delivery() -> None:
    one = Partition(delivery_count_limit=2)
    one.acquire("a", (0, 1))
    one.wait(LOCK_MS - 1)
    assert one.acquire("b", (0, 1)) == []
    one.wait(1)
    assert one.acknowledge("a", 0, 1, ACCEPT) == KafkaCode.INVALID_RECORD_STATE
    assert one.acquire("b", (0, 1)) == [(0, 1, 2)]
    one.wait(LOCK_MS)
    assert one.state() == "2:"


def test_a_renewed_lock_holds_longer_where_renewal_is_allowed() -> None:
    one = Partition()
    one.acquire("a", (0, 1))
    one.wait(LOCK_MS - 1)
    assert one.acknowledge("a", 0, 0, RENEW) == 0
    one.wait(LOCK_MS - 1)
    assert one.state() == "0:qv"
    assert one.acknowledge("a", 0, 0, ACCEPT) == 0
    one.settings = ShareSettings(renew_acknowledge_enable=False)
    one.acquire("a", (0, 1))
    assert one.acknowledge("a", 1, 1, RENEW) == KafkaCode.INVALID_RECORD_STATE


def test_a_member_whose_session_is_over_holds_nothing() -> None:
    one = Partition()
    one.acquire("a", (0, 4))
    one.acquire("b", (5, 9))
    one.tell(events.ReleaseMember("a"))
    assert one.state() == "0:vvvvvqqqqq"


def test_a_batch_goes_whole_unless_the_limit_is_strict_or_the_batch_is_far_too_large() -> None:
    batches = ((0, 9), (10, 19), (20, 99))
    assert Partition().acquire("a", *batches, most=15) == [(0, 19, 1)]
    assert Partition().acquire("a", *batches, most=15, mode=RECORD_LIMIT) == [(0, 14, 1)]
    assert Partition().acquire("a", (0, 99), most=15) == [(0, 14, 1)]


def test_gaps_control_batches_and_aborted_ones_are_given_to_nobody() -> None:
    one = Partition()
    read = [FetchedBatch(3, 4), FetchedBatch(5, 5, False), FetchedBatch(8, 9)]
    reply = one.tell(events.Acquire("a", 0, read, 100))
    assert reply == events.AcquireReply([AcquiredRange(3, 4, 1), AcquiredRange(8, 9, 1)])
    assert one.state() == "3:qqaaaqq"
    one.tell(events.ReleaseMember("a"))
    # Meanwhile the log was compacted.
    reply = one.tell(events.Acquire("b", 3, [FetchedBatch(9, 9)], 100))
    assert reply == events.AcquireReply([AcquiredRange(9, 9, 2)])
    assert one.state() == "9:q"


def test_no_more_records_are_taken_out_than_the_bound_says() -> None:
    one = Partition(partition_max_record_locks=100)
    assert one.acquire("a", (0, 79)) == [(0, 79, 1)]
    assert one.acquire("b", (80, 199), most=200) == [(80, 99, 1)]
    assert one.machine.wanted(100) is None
    one.acknowledge("a", 10, 19, ACCEPT)
    assert one.acquire("b", (80, 199)) == [(100, 109, 1)]
    one.acknowledge("b", 100, 109, RELEASE)
    assert one.machine.wanted(100) == (100, 109), "what is free can be had at the bound too"


def test_what_went_from_the_log_is_gone() -> None:
    one = Partition()
    one.acquire("a", (0, 9))
    one.tell(events.MoveStart(5))
    assert one.state() == "5:qqqqq"
    assert one.acknowledge("a", 0, 9, ACCEPT) == 0
    one.tell(events.MoveStart(50))
    assert one.state() == "50:"
    one.crash()
    assert one.state() == "50:"


def test_dead_letters_wait_until_they_are_buried_also_over_a_crash() -> None:
    one = Partition(dead_letters=True, delivery_count_limit=2)
    one.acquire("a", (0, 4))
    one.acknowledge("a", 0, 4, ACCEPT, REJECT, RELEASE, ACCEPT, ACCEPT)
    one.acquire("a", (0, 4))
    one.acknowledge("a", 2, 2, RELEASE)
    one.crash()
    assert one.state() == "1:bbkk"
    wanted = [(r.first, r.delivery_count, r.reason) for r in one.machine.burying()]
    assert wanted == [(1, 1, REJECTED), (2, 2, DELIVERY_LIMIT)]
    one.tell(events.Buried(1, 1))
    one.tell(events.Buried(2, 2))
    assert one.state() == "5:"


def test_a_newer_epoch_begins_anew_and_an_older_one_is_fenced() -> None:
    one = Partition()
    one.acquire("a", (0, 9))
    assert one.tell(events.InitializeState(7, 3)) == events.ShareErrorReply()
    refused = one.tell(events.InitializeState(6, 0))
    assert refused == events.ShareErrorReply(KafkaCode.FENCED_STATE_EPOCH)
    one.crash()
    assert one.tell(events.DescribeState()) == events.StateReply(7, 3, 0)
    assert one.acquire("b", (0, 9)) == [(3, 9, 1)]
    one.tell(events.InitializeState(8, -1))
    assert one.tell(events.DescribeState()) == events.StateReply(8, -1, 0)
    one.tell(events.DeleteState())
    assert one.machine.disposable
    one.crash()
    assert one.machine.disposable


def test_done_records_behind_the_start_are_told_for_the_lag() -> None:
    one = Partition()
    one.acquire("a", (0, 9))
    one.acknowledge("a", 4, 7, ACCEPT)
    assert one.tell(events.DescribeState()) == events.StateReply(0, 0, 4)


def test_a_million_records_done_in_order_leave_next_to_nothing_in_memory() -> None:
    one = Partition(partition_max_record_locks=2_000)
    for begin in range(0, 1_000_000, 1_000):
        one.acquire("a", (begin, begin + 999), most=1_000)
        if begin:
            one.acknowledge("a", begin, begin + 999, ACCEPT)
    assert len(one.machine.ranges) <= 2


# A life of it beside a model

MEMBERS = ("a", "b", "c")
LIMIT = 3
steps = st.lists(
    st.one_of(
        st.tuples(st.just("append"), st.integers(1, 9), st.integers(0, 3)),
        st.tuples(
            st.just("acquire"),
            st.sampled_from(MEMBERS),
            st.integers(1, 12),
            st.integers(0, 1),
            st.integers(1, 4),
        ),
        st.tuples(
            st.just("acknowledge"),
            st.sampled_from(MEMBERS),
            st.integers(0, 5),
            st.lists(st.integers(0, 4), min_size=1, max_size=6),
        ),
        st.tuples(st.just("wait"), st.integers(1, LOCK_MS)),
        st.tuples(st.just("leave"), st.sampled_from(MEMBERS)),
        st.tuples(st.just("crash"), st.booleans()),
        st.tuples(st.just("bury")),
    ),
    max_size=60,
)


class Model:
    """What each offset has gone through, as the members saw it."""

    def __init__(self, dead_letters: bool) -> None:
        self.partition = Partition(
            delivery_count_limit=LIMIT, partition_max_record_locks=20, dead_letters=dead_letters
        )
        self.batches: list[FetchedBatch] = []
        self.held: dict[int, str] = {}
        self.deliveries: dict[int, int] = {}
        self.done: set[int] = set()
        self.buried: set[int] = set()
        self.end = 0

    def append(self, records: int, hole: int) -> None:
        usable = hole != 3
        first = self.end + (hole if usable else 0)
        self.batches.append(FetchedBatch(first, first + records - 1, usable))
        self.end = first + records

    def records(self) -> set[int]:
        return {
            offset
            for batch in self.batches
            if batch.usable
            for offset in range(batch.first, batch.last + 1)
        }

    def acquire(self, member: str, most: int, mode: int, read: int) -> None:
        wanted = self.partition.machine.wanted(most)
        if wanted is None:
            return
        found = [batch for batch in self.batches if batch.last >= wanted[0]][:read]
        reply = self.partition.tell(events.Acquire(member, wanted[0], found, most, mode))
        assert isinstance(reply, events.AcquireReply)
        given = [
            (offset, one.delivery_count)
            for one in reply.acquired
            for offset in range(one.first, one.last + 1)
        ]
        assert len(given) <= most * (1 if mode else 2)
        for offset, count in given:
            assert offset in self.records(), "only records are given"
            assert offset not in self.held, "nobody else holds it"
            assert offset not in self.done, "it is not done with"
            self.held[offset] = member
            self.deliveries[offset] = self.deliveries.get(offset, 0) + 1
            assert count == self.deliveries[offset] <= LIMIT

    def acknowledge(self, member: str, skip: int, types: list[int]) -> None:
        mine = sorted(offset for offset, holder in self.held.items() if holder == member)[skip:]
        if not mine:
            return
        last = mine[0]
        while last + 1 in mine and last - mine[0] + 1 < len(types):
            last += 1
        kinds = types[: last - mine[0] + 1]
        assert self.partition.acknowledge(member, mine[0], last, *kinds) == 0
        for offset, kind in zip(range(mine[0], last + 1), kinds, strict=True):
            if kind == RENEW:
                continue
            del self.held[offset]
            if kind != RELEASE:
                self.done.add(offset)

    def lost_locks(self) -> None:
        holding = {
            offset: one.member_id
            for one in self.partition.machine.ranges
            if one.state == DeliveryState.ACQUIRED
            for offset in range(one.first, one.last + 1)
        }
        assert holding.items() <= self.held.items()
        self.held = holding

    def bury(self) -> None:
        for one in self.partition.machine.burying():
            self.buried.update(range(one.first, one.last + 1))
            self.partition.tell(events.Buried(one.first, one.last))

    def check(self) -> None:
        ranges = list(self.partition.machine.ranges)
        at = self.partition.machine.ranges.start
        for one in ranges:
            assert one.first == at <= one.last, "the window has no holes"
            at = one.last + 1
        open_records = {
            offset
            for one in ranges
            if one.state in (DeliveryState.AVAILABLE, DeliveryState.ACQUIRED)
            for offset in range(one.first, one.last + 1)
        }
        assert len(open_records) <= 20
        for offset in self.records():
            over = offset in self.done or self.deliveries.get(offset, 0) >= LIMIT
            reachable = offset in open_records or offset >= at
            assert over or reachable, f"{offset} is lost"

    def finish(self) -> None:
        """In the end every record has been delivered to somebody who was done with it, or as often
        as allowed.
        """
        for _ in range(400):
            self.partition.wait(LOCK_MS)
            self.lost_locks()
            self.bury()
            before = len(self.done), sum(self.deliveries.values())
            self.acquire("z", 20, 1, 100)
            for offset in sorted(self.held):
                assert self.partition.acknowledge("z", offset, offset, ACCEPT) == 0
                self.done.add(offset)
            self.held.clear()
            if before == (len(self.done), sum(self.deliveries.values())):
                break
        self.bury()
        left = {
            offset
            for offset in self.records() - self.done
            if self.deliveries.get(offset, 0) < LIMIT
        }
        assert not left
        assert self.partition.machine.ranges.open_records == 0


@given(steps, st.booleans())
@settings(max_examples=150, deadline=None, derandomize=True)
def test_no_record_is_lost_held_twice_or_delivered_too_often(
    life: list[tuple[object, ...]], dead_letters: bool
) -> None:
    model = Model(dead_letters)
    for word, *rest in life:
        if word == "wait":
            model.partition.wait(rest[0])  # type: ignore[arg-type]
        elif word == "leave":
            model.partition.tell(events.ReleaseMember(rest[0]))  # type: ignore[arg-type]
        elif word == "crash":
            model.partition.crash(bool(rest[0]))
        else:
            getattr(model, str(word))(*rest)
        model.lost_locks()
        model.check()
    model.finish()
