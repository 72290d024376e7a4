"""The slowest pairs of client and topic are found, in bounded memory."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from robustmq.shard.slow import HEAP_ROWS, Ranking

TOP = 3
EXPIRY_MS = 100
notes = st.tuples(st.integers(0, 7), st.integers(1, 50), st.integers(0, 40))


@given(st.lists(notes, max_size=80))
def test_the_table_has_the_highest_latencies_of_those_it_could_keep(
    events: list[tuple[int, int, int]],
) -> None:
    ranking = Ranking(TOP, EXPIRY_MS)
    model: dict[tuple[bytes, bytes], list[int]] = {}
    now = 0
    for number, latency, later in events:
        now += later
        ranking.expire(now)
        model = {pair: row for pair, row in model.items() if row[1] + EXPIRY_MS > now}
        pair = (b"c%d" % number, b"t")
        ranking.note(pair, latency, now)
        if pair in model:
            row = model[pair]
            row[2] += 1
            if latency >= row[0]:
                row[:2] = latency, now
        else:
            if len(model) == TOP:
                lowest = min(model, key=lambda one: (model[one][0], one))
                if latency <= model[lowest][0]:
                    lowest = pair
                model.pop(lowest, None)
            if len(model) < TOP:
                model[pair] = [latency, now, 1]
        shown = {p: [slow.latency_ms, slow.at_ms, slow.count] for p, slow in ranking.items()}
        assert shown == model
        latencies = [slow.latency_ms for _, slow in ranking.items()]
        assert latencies == sorted(latencies, reverse=True)
        assert len(ranking._heap) <= HEAP_ROWS * TOP + 1
