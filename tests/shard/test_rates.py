"""A rate is what it says: over any time, for batches of any size, with pauses that end late."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from robustmq.limits import Limits
from robustmq.listener import Listener
from robustmq.shard.rates import Bucket, Rates

rates = st.integers(1, 10_000_000)
bursts = st.integers(100, 10_000)
steps = st.lists(st.tuples(st.integers(1, 20_000), st.integers(0, 50)), min_size=1, max_size=60)
"""What a read brings, and how much later than it might the next one comes."""


@given(rates, bursts, steps)
def test_who_waits_as_told_gets_exactly_its_rate_and_the_first_burst(
    rate: int, burst_ms: int, reads: list[tuple[int, int]]
) -> None:
    bucket = Bucket(rate, burst_ms, 0)
    burst = max(rate * burst_ms, 1000)
    now = taken = 0
    for tokens, late_ms in reads:
        wait_ms = bucket.take(tokens, now)
        taken += tokens
        if wait_ms:
            # A pause that ends late costs nothing: the next one is shorter.
            now += wait_ms + late_ms
            due = burst + rate * now
            assert due - rate * (late_ms + 1) <= taken * 1000 <= due
        else:
            assert taken * 1000 <= burst + rate * now


@given(rates, bursts)
def test_a_rest_saves_up_one_burst_and_no_more(rate: int, burst_ms: int) -> None:
    bucket = Bucket(rate, burst_ms, 0)
    whole = max(rate * burst_ms, 1000) // 1000
    assert bucket.take(whole, 3_600_000) == 0
    # What is left is less than one token.
    wait_ms = bucket.take(rate * 10, 3_600_000)
    assert 10_000 - 1000 / rate - 1 <= wait_ms <= 10_000


class Client:
    """Who is read, or not."""

    def __init__(self) -> None:
        self.slowed = False

    def slow(self, slowed: bool) -> None:
        self.slowed = slowed


def test_clients_are_read_again_in_the_order_of_their_debts() -> None:
    table = Rates()
    clients = [Client() for _ in range(3)]
    for client, until in zip(clients, (30, 10, 20), strict=True):
        table.pause(client, until)
    table.resume(20)
    assert [client.slowed for client in clients] == [True, False, False]
    table.resume(30)
    assert not any(client.slowed for client in clients) and not len(table)


def test_a_connection_without_a_rate_has_no_meter() -> None:
    assert Rates().meter(Listener("a"), Limits(), 0) is None


def test_clients_of_a_listener_share_its_total_and_have_their_own_rate() -> None:
    table = Rates()
    listener = Listener("a", messages_per_second=100, total_messages_per_second=150)
    one, two = (table.meter(listener, Limits(), 0) for _ in range(2))
    assert one is not None and two is not None
    assert one.take(100, 10, 0) == 0
    assert two.take(100, 10, 0) == 334
    other = table.meter(Listener("b"), Limits(bytes_per_second=1000), 0)
    assert other is not None and other.take(1_000_000, 2000, 0) == 1000
