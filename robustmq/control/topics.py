"""Requests about topics."""

from __future__ import annotations

from robustmq import engines, names
from robustmq.control.contract import Operator, Refused, Steps, pattern
from robustmq.control.messages import ListTopics, SetTopic, ShowTopicMetrics, TopicRow
from robustmq.kafka.config_resources import RESOURCES, TOPIC
from robustmq.kafka.gateway import AdminResult
from robustmq.kafka.topic_configs import effective, is_tiered
from robustmq.promises import start


def show_topic_metrics(operator: Operator, request: ShowTopicMetrics) -> Steps:
    """The counters of all workers, which share their memory."""
    del request
    yield from operator.topic_counts()


def list_topics(operator: Operator, request: ListTopics) -> Steps:
    """The declared topics, by name."""
    fits = pattern(request.filter)
    for name in sorted(operator.broker.cluster.declared_names()):
        shown = names.to_kafka(name)
        yield _row(operator, name, shown) if shown is not None and fits(shown) else None


def set_topic(operator: Operator, request: SetTopic) -> Steps:
    """Change settings by the way of Kafka's requests, which check them."""
    altered = start(_altered(operator, request))
    yield altered
    result = altered.result()
    if result.error:
        raise Refused(result.message or f"Kafka error {int(result.error)}")
    yield _row(operator, names.from_kafka(request.topic), request.topic)


async def _altered(operator: Operator, request: SetTopic) -> AdminResult:
    gateway = operator.broker.kafka.gateway
    return await RESOURCES[TOPIC].alter(request.topic, request.changes, False, gateway)


def _row(operator: Operator, name: bytes, shown: str) -> TopicRow | None:
    broker = operator.broker
    topic = broker.cluster.declared(name)
    if topic is None:
        return None
    kept = broker.placement.kept(name)
    in_files = kept.engine == engines.SEGMENT and kept.mode != "memory"
    defaults = broker.kafka.gateway.defaults_of(name)

    def text(setting: str) -> str:
        return effective(topic.configs, defaults, setting)

    return TopicRow(
        shown,
        topic.partitions,
        kept.mode,
        kept.engine if kept.mode != "memory" else "",
        in_files and is_tiered(topic.configs, defaults, kept.mode),
        text("cleanup.policy"),
        int(text("retention.ms")),
        int(text("retention.bytes")),
        broker.partitions.moving_of(name),
    )
