"""Whatever is asked over a control socket is answered, and costs the worker nothing else."""

from __future__ import annotations

import json
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from robustmq.control.commands import HANDLERS, answer
from robustmq.control.contract import Operator
from robustmq.promises import Promise
from tests.simulation.world import World

WORLD = World(1, 1)
TAGS = [request.__struct_config__.tag for request in HANDLERS]
values = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.text(max_size=8),
    st.sampled_from(["client_id", "address", "10.0.0.0/8", "[", "*" * 300, "\ud800"]),
)
names = st.sampled_from(
    ["client_id", "filter", "topic", "limit", "kind", "value", "for_s", "reason", "end_session"]
)
requests = st.builds(
    lambda tag, fields: json.dumps({**fields, "type": tag}).encode(),
    st.sampled_from(TAGS),
    st.dictionaries(names, values, max_size=4),
)


def lines(request: bytes) -> list[dict[str, Any]]:
    broker = WORLD.brokers[0]
    assert broker is not None
    told = []
    for step in answer(Operator(broker), request):
        if isinstance(step, bytes):
            told.append(json.loads(step))
        while isinstance(step, Promise) and not step.settled:
            WORLD.scheduler.run(10)
    return told


@given(st.one_of(st.binary(max_size=60), requests))
def test_every_line_is_answered_to_its_end(request: bytes) -> None:
    told = lines(request)
    assert set(told[-1]) == {"end"}
    assert all(set(line) == {"row"} for line in told[:-1])
