"""Slow subscriptions, as operators look at them."""

from __future__ import annotations

from robustmq.control.contract import Operator, Refused, Steps
from robustmq.control.messages import ClearSlow, ListSlow, SlowRow
from robustmq.shard.slow import SlowSubscriptions


def list_slow(operator: Operator, _request: ListSlow) -> Steps:
    """The slowest first."""
    for (client_id, topic), slow in _measured(operator).ranking.items():
        yield SlowRow(
            client_id.decode(),
            topic.decode(),
            slow.latency_ms,
            slow.count,
            slow.at_ms,
            operator.broker.worker_id,
        )


def clear_slow(operator: Operator, _request: ClearSlow) -> Steps:
    """Begin anew."""
    _measured(operator).ranking.clear()
    yield None


def _measured(operator: Operator) -> SlowSubscriptions:
    slow = operator.broker.slow
    if slow is None:
        raise Refused("nothing is measured: set enabled = true in [slow_subscriptions], and reload")
    return slow
