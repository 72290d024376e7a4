"""Where a topic lives: the one place that answers.

A light topic has one partition, kept in the shard log of hash(topic). A declared topic has
partitions of its own; a publisher over MQTT always meets the same one (murmur2 of its topic name),
so order per topic holds. A topic that matches a stream's filter lives in the stream's topic: one
append, key = the MQTT topic, found by that key. Shards are held by workers by the shard map of the
cluster state.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import NamedTuple

from robustmq import engines
from robustmq.core import recoding
from robustmq.core.filters import FilterTrie
from robustmq.core.hashing import key_hash, murmur2, topic_hash
from robustmq.core.publish import RouteTable, TopicRoute
from robustmq.errors import BrokerError, Fault
from robustmq.kafka import gateway
from robustmq.kafka.share_events import share_key
from robustmq.kafka.topic_configs import ENGINE_SETTING, MODE_SETTING
from robustmq.names import DELAYED_PREFIX, split_delayed, to_kafka
from robustmq.shard.cluster_view import Declared
from robustmq.shard.metering import Meters, NoMeters

# What a block holds, so that one block is appended in one way.
LIGHT, MEMORY, DECLARED, DELAYED, RETAINED = range(5)
CLASSES = 5

ENTRY_ACK = 1
ENTRY_RETAIN = 2
ENTRY_DECLARED = 4
ENTRY_QOS2 = 8
ENTRY_KAFKA = 16
ENTRY_MEMORY = 32
ENTRY_PERSISTENT = 64
ENTRY_DUP = 128

SYS_PREFIX = b"$SYS/"
FILTER_SETTING = "robustmq.mqtt.filter"

SESSION_KIND = b"session"
GROUP_KIND = gateway.GROUP
WILL_KIND = b"will"
"""Of a will whose session ends with its connection; it stands in the shard of the session."""


class Home(NamedTuple):
    """Where the records of one MQTT topic are kept."""

    log_topic: bytes
    partition: int
    shard: int
    declared: bool
    stream: bool


class Kept(NamedTuple):
    """How the records of a topic are kept; the engine is that of a declared topic's partitions."""

    mode: str
    engine: str


_MODE_FLAGS = {
    "memory": ENTRY_MEMORY,
    "persistent": ENTRY_PERSISTENT,
    "tiered": ENTRY_PERSISTENT,
}


class Placement:
    """Answers where topics, sessions and groups live; knows streams, declared topics and storage
    rules."""

    def __init__(
        self,
        worker_id: int,
        shard_count: int,
        shard_owner: Callable[[int], int],
        default: Kept,
        rules: Iterable[tuple[str, Kept]],
        streams: Iterable[tuple[str, bytes]],
    ) -> None:
        """`rules` are (filter, how) in order of precedence; `streams` are (filter, canonical
        topic)."""
        self.worker_id = worker_id
        self.shard_count = shard_count
        self.shard_owner = shard_owner
        self.routes = RouteTable()
        self.declared: dict[bytes, tuple[int, str]] = {}
        self.compacted: set[bytes] = set()
        self.max_message_bytes: dict[bytes, int] = {}
        """Of the declared topics that set it."""
        self.produce_rules: dict[bytes, gateway.ProduceRules] = {}
        """Of the declared topics whose rules are not the defaults."""
        self._alike: dict[str, dict[str, None]] = {}
        self.max_delay_s = 0
        """The longest delay of a message; see `route`."""
        self.meters: Meters = NoMeters()
        self.cleared: Callable[[], None] = lambda: None
        """Called when topics may have other routes."""
        self._engines: dict[bytes, str] = {}
        """Of the declared topics that set it."""
        self.set_rules(default, rules)
        self._configured = list(streams)
        self._filters: dict[bytes, str] = {}
        """Of the declared topics that are streams by their setting."""
        self._make_streams()

    def set_rules(self, default: Kept, rules: Iterable[tuple[str, Kept]]) -> None:
        """How topics are kept that do not say it themselves; an empty word of a rule is as by
        default."""
        self._default = default
        self._rules = FilterTrie()
        self._ruled: list[Kept] = []
        for filter_, kept in rules:
            if kept.mode or kept.engine:
                self._rules.insert(filter_.encode(), len(self._ruled))
                self._ruled.append(kept)
        self.forget_routes()

    @property
    def has_streams(self) -> bool:
        """True when there is any stream."""
        return bool(self._stream_topics)

    def _make_streams(self) -> None:
        """Of two filters that match one topic the first holds: those of the configuration in their
        order, then those of topics by name."""
        self._streams = FilterTrie()
        self._stream_topics: list[bytes] = []
        own = [(filter_, topic) for topic, filter_ in sorted(self._filters.items())]
        for number, (filter_, topic) in enumerate([*self._configured, *own]):
            self._streams.insert(filter_.encode(), number)
            self._stream_topics.append(topic)

    def _set_filter(self, topic: bytes, filter_: str) -> bool:
        if self._filters.get(topic, "") == filter_:
            return False
        self._filters.pop(topic, None)
        if filter_:
            self._filters[topic] = filter_
        self._make_streams()
        return True

    def declare(self, topic: Declared) -> bool:
        """A declared topic is as told now; True when MQTT topics may have other homes for it."""
        mode = topic.configs.get(MODE_SETTING, "")
        shown = to_kafka(topic.name)
        if shown is not None and topic.name not in self.declared:
            self._alike.setdefault(shown.replace(".", "_"), {})[shown] = None
        self.declared[topic.name] = (topic.partitions, mode)
        self._engines.pop(topic.name, None)
        if ENGINE_SETTING in topic.configs:
            self._engines[topic.name] = topic.configs[ENGINE_SETTING]
        compacted = "compact" in topic.configs.get("cleanup.policy", "")
        (self.compacted.add if compacted else self.compacted.discard)(topic.name)
        self.max_message_bytes.pop(topic.name, None)
        if "max.message.bytes" in topic.configs:
            self.max_message_bytes[topic.name] = int(topic.configs["max.message.bytes"])
        rules = _produce_rules(topic.configs, compacted)
        self.produce_rules.pop(topic.name, None)
        if rules != gateway.DEFAULT_RULES:
            self.produce_rules[topic.name] = rules
        moved = self._set_filter(topic.name, topic.configs.get(FILTER_SETTING, ""))
        self.forget_routes()
        return moved

    def forget(self, topic: bytes) -> bool:
        """A declared topic is gone; True when it was a stream by its setting."""
        shown = to_kafka(topic)
        if shown is not None and topic in self.declared:
            folded = shown.replace(".", "_")
            self._alike[folded].pop(shown)
            if not self._alike[folded]:
                del self._alike[folded]
        self.declared.pop(topic, None)
        self._engines.pop(topic, None)
        self.compacted.discard(topic)
        self.max_message_bytes.pop(topic, None)
        self.produce_rules.pop(topic, None)
        moved = self._set_filter(topic, "")
        self.forget_routes()
        return moved

    def alike(self, shown: str) -> str | None:
        """A declared topic whose Kafka name differs from this one in `.` and `_` alone."""
        others = self._alike.get(shown.replace(".", "_"), ())
        return next((other for other in others if other != shown), None)

    def forget_routes(self) -> None:
        """Topics may have other routes now."""
        self.routes.clear()
        self.cleared()

    def home(self, topic: bytes) -> Home:
        """Where the records of an MQTT topic are kept."""
        log_topic = self.stream_of(topic)
        if log_topic is not None and log_topic in self.declared:
            partition = self.partition_of_key(log_topic, topic)
            return Home(log_topic, partition, self.shard(log_topic, partition), True, True)
        if topic in self.declared:
            partition = self.partition_of_key(topic, topic)
            return Home(topic, partition, self.shard(topic, partition), True, False)
        return Home(topic, 0, self.shard(topic, 0), False, False)

    def owners(self, topic: bytes) -> list[int]:
        """The workers that messages of an MQTT topic may come from: Kafka clients write to any
        partition of a declared topic."""
        log_topic = self.home(topic).log_topic
        partitions = self.declared[log_topic][0] if log_topic in self.declared else 1
        return sorted({self.worker(log_topic, number) for number in range(partitions)})

    def stream_of(self, topic: bytes) -> bytes | None:
        """The topic of the stream that carries an MQTT topic, declared or not."""
        matched = self._streams.match(topic) if self._stream_topics else []
        return self._stream_topics[_first(matched)] if matched else None

    def topic_of_record(self, log_topic: bytes, key: bytes | None) -> bytes:
        """The MQTT topic of a record that Kafka wrote: a stream's keys name theirs."""
        if key and self.is_stream(log_topic) and self.stream_of(key) == log_topic:
            return key
        return log_topic

    def is_stream(self, log_topic: bytes) -> bool:
        """Is a declared topic fed by an MQTT filter?"""
        return log_topic in self._stream_topics

    def partition_of_key(self, topic: bytes, key: bytes) -> int:
        """The partition of a key as Kafka's default partitioner has it."""
        partitions = self.declared[topic][0]
        return (murmur2(key) & 0x7FFFFFFF) % partitions

    def ruled(self, topic: bytes) -> Kept:
        """How a topic is kept that does not say it itself: as the first rule says that matches and
        says something about it, else by default."""
        mode = engine = ""
        matched = self._rules.match(topic) if self._ruled else []
        for number in sorted(number for number in matched if isinstance(number, int)):
            mode = mode or self._ruled[number].mode
            engine = engine or self._ruled[number].engine
        return Kept(mode or self._default.mode, engine or self._default.engine)

    def kept(self, topic: bytes) -> Kept:
        """How a topic is kept. What is compacted needs the files of the engine segment, whatever a
        rule says."""
        mode = self.mode(topic)
        if mode == "tiered" or topic in self.compacted:
            return Kept(mode, engines.SEGMENT)
        return Kept(mode, self._engines.get(topic) or self.ruled(topic).engine)

    def mode(self, topic: bytes) -> str:
        """The storage mode of a topic."""
        own = self.declared.get(topic)
        mode = (own[1] if own is not None else "") or self.ruled(topic).mode
        return "hybrid" if mode == "memory" and topic in self.compacted else mode

    def produced(self, topic: bytes, acks: int) -> tuple[int, int]:
        """The class of block and the flags of an entry that Kafka writes to a topic."""
        mode = self.mode(topic)
        flags = ENTRY_KAFKA | (ENTRY_ACK if acks else 0)
        flags |= _MODE_FLAGS.get(mode, 0)
        if topic in self.declared:
            return DECLARED, flags | ENTRY_DECLARED
        return (MEMORY if mode == "memory" else LIGHT), flags

    def shard(self, topic: bytes, partition: int) -> int:
        """The shard of a partition's log; one that cannot be has an owner too, who refuses it."""
        return topic_hash(topic, max(partition, 0)) % self.shard_count

    def worker(self, topic: bytes, partition: int) -> int:
        """The worker that holds a partition's log."""
        return self.shard_owner(self.shard(topic, partition))

    def session_shard(self, client_id: bytes) -> int:
        """The shard of a client's session."""
        return key_hash(SESSION_KIND, client_id) % self.shard_count

    def session_home(self, client_id: bytes) -> int:
        """The worker on which a client's connection belongs."""
        return self.shard_owner(self.session_shard(client_id))

    def machine_shard(self, kind: bytes, key: str) -> int:
        """The shard in which a machine of a kind lives; its owner runs it. A share-partition lives
        with its log, a share group where any group of its name would."""
        if kind == gateway.SHARE_PARTITION:
            found = share_key(key)
            return self.shard(found.topic, found.partition)
        if kind == gateway.SHARE_GROUP:
            kind = GROUP_KIND
        return key_hash(kind, key.encode()) % self.shard_count

    def route(self, topic: bytes) -> TopicRoute:
        """What a publisher needs to know of a topic, made once and kept in `routes`.

        `$delayed/{seconds}/{topic}` has the route of the topic, with a delay.
        """
        route = self.resolve(topic, topic)
        self.routes.put(route)
        return route

    def resolve(self, topic: bytes, asked: bytes) -> TopicRoute:
        """The route of a topic for publishers that call it `asked`."""
        if not topic.startswith(DELAYED_PREFIX):
            return self._route(topic, asked)
        try:
            seconds, topic = split_delayed(topic)
        except BrokerError as error:
            return self.refused(asked, error.fault)
        if seconds > self.max_delay_s:
            return self.refused(asked, Fault.QUOTA_EXCEEDED)
        return self._route(topic, asked, seconds * 1000)

    def refused(self, asked: bytes, fault: Fault) -> TopicRoute:
        """The route of a name that nobody may publish to."""
        return TopicRoute(asked, 0, 0, 0, 0, b"", fault)

    def _route(self, topic: bytes, asked: bytes, delay_ms: int = 0) -> TopicRoute:
        if self._stream_topics or topic in self.declared:
            home = self.home(topic)
            mode = self.mode(home.log_topic if home.declared else topic)
        else:
            # A light topic, as there may be millions, each with a route that is soon forgotten.
            home = Home(topic, 0, self.shard(topic, 0), False, False)
            mode = self.ruled(topic).mode
        flags = _MODE_FLAGS.get(mode, 0)
        kind = LIGHT
        if home.declared:
            flags |= ENTRY_DECLARED
            kind = DECLARED
        elif mode == "memory":
            kind = MEMORY
        if delay_ms:
            kind = DELAYED
        return TopicRoute(
            topic,
            home.shard,
            home.shard * CLASSES + kind,
            home.partition,
            flags,
            home.log_topic if home.stream else b"",
            # What the broker says of itself is not for clients to say.
            Fault.NOT_AUTHORIZED if topic.startswith(SYS_PREFIX) else None,
            asked,
            delay_ms,
            # A delayed message is counted when it is published.
            self.meters.of(topic) if not delay_ms else None,
        )


def _first(numbers: list[object]) -> int:
    """The rule that comes first in the configuration."""
    return min(number for number in numbers if isinstance(number, int))


def _produce_rules(configs: dict[str, str], compacted: bool) -> gateway.ProduceRules:
    """What a topic's settings ask of produced batches."""
    default = gateway.DEFAULT_RULES
    return gateway.ProduceRules(
        recoding.CODECS.get(configs.get("compression.type", ""), -1),
        configs.get("message.timestamp.type") == "LogAppendTime",
        int(configs.get("message.timestamp.before.max.ms", default.before_max_ms)),
        int(configs.get("message.timestamp.after.max.ms", default.after_max_ms)),
        compacted,
    )
