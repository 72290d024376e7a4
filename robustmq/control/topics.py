"""Requests about topics."""

from __future__ import annotations

from robustmq.control.contract import Operator, Steps
from robustmq.control.messages import ShowTopicMetrics


def show_topic_metrics(operator: Operator, request: ShowTopicMetrics) -> Steps:
    """The counters of all workers, which share their memory."""
    del request
    yield from operator.topic_counts()
