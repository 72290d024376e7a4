"""What goes over the control socket of a worker: JSON lines, one request, then its answer.

A request is one line, an object whose `type` says what is asked. Its answer is a line
`{"row": {...}}` for each row, and a last line `{"end": {"error": "", "more": false}}`: `error` says
why nothing (more) was done, `more` that the request's `limit` cut the rows. One connection may ask
as often as it likes, one request after the other. `docs/formats.md` has an example.

Nothing of the broker is imported here, so the command line is quick.
"""

from __future__ import annotations

import msgspec

from robustmq.bans import Kind

MAX_LINE_BYTES = 64 * 1024
"""Of a request; the next byte is answered with an error and the end of the connection."""

MAX_PATTERN = 256


class Request(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Something that is asked; each kind has its own tag."""


class Listing(Request, frozen=True, forbid_unknown_fields=True):
    """A request whose answer has many rows; `limit` 0: all of them."""

    limit: int = 0


class ShowWorker(Request, frozen=True, tag="status", forbid_unknown_fields=True):
    """What is this worker, and how is it? Answered with one `WorkerRow`."""


class ListClients(Listing, frozen=True, tag="clients_list", forbid_unknown_fields=True):
    """The sessions whose home this worker is, connected or not, as `ClientRow`.

    `filter` and `user` are patterns (`*`, `?`, `[a-z]`), or a part of the name; `address` is how
    the remote address begins.
    """

    filter: str = ""
    user: str = ""
    address: str = ""
    connected: bool | None = None


class ShowClient(Request, frozen=True, tag="clients_show", forbid_unknown_fields=True):
    """All about one session, as `ClientDetail`; no row where it does not live."""

    client_id: str


class KickClient(Request, frozen=True, tag="clients_kick", forbid_unknown_fields=True):
    """End the connection of a client, and its session too if `end_session`; one `Kicked` where it
    lives."""

    client_id: str
    end_session: bool = False


class ListSubscriptions(Listing, frozen=True, tag="subscriptions_list", forbid_unknown_fields=True):
    """The subscriptions of the sessions of this worker, as `SubscriptionRow`: those of one client,
    those whose filter fits a pattern, those that a topic matches."""

    client_id: str = ""
    filter: str = ""
    topic: str = ""


class WorkerRow(msgspec.Struct, frozen=True):
    """One worker of the node."""

    worker: int
    workers: int
    pid: int
    version: str
    uptime_s: int
    connections: int
    sessions: int
    subscriptions: int


class ClientRow(msgspec.Struct, frozen=True):
    """One session in a list. `since_ms` is the wall time at which it was connected, or left."""

    client_id: str
    worker: int
    connected: bool
    since_ms: int
    version: str
    user_name: str | None
    address: str
    listener: str
    keep_alive_s: int
    session_expiry_interval: int
    subscriptions: int
    in_flight: int
    queued: int


class ClientDetail(msgspec.Struct, frozen=True):
    """What `ClientRow` has, and what is seldom asked for."""

    client: ClientRow
    queued_bytes: int
    dropped: int
    receive_maximum: int
    maximum_packet_size: int
    topic_alias_maximum: int
    inbound_qos2: int
    unsent_bytes: int
    will_topic: str | None
    expires_at_ms: int | None


class Kicked(msgspec.Struct, frozen=True):
    """What a kick has ended."""

    client_id: str
    worker: int
    was_connected: bool
    session_ended: bool


class SubscriptionRow(msgspec.Struct, frozen=True):
    """One subscription; `filter` is the whole one, with `$share/<group>/`."""

    client_id: str
    worker: int
    filter: str
    qos: int
    no_local: bool
    retain_as_published: bool
    retain_handling: int
    subscription_identifier: int
    connected: bool


class ListBans(Listing, frozen=True, tag="bans_list", forbid_unknown_fields=True):
    """The bans of the cluster, as `BanRow`; `filter` is a pattern for what they name or why."""

    filter: str = ""


class AddBan(Request, frozen=True, tag="bans_add", forbid_unknown_fields=True):
    """Keep somebody out, for so many seconds or (0) for ever; one `BanRow` when every worker does.

    A ban of the same kind and value makes way.
    """

    kind: Kind
    value: str
    for_s: int = 0
    reason: str = ""
    by: str = ""


class RemoveBan(Request, frozen=True, tag="bans_remove", forbid_unknown_fields=True):
    """Let somebody in again; the `BanRow` that was removed, if there was one."""

    kind: Kind
    value: str


class BanRow(msgspec.Struct, frozen=True):
    """One ban; `until_ms` 0: for ever."""

    kind: Kind
    value: str
    reason: str
    by: str
    at_ms: int
    until_ms: int


class ListSlow(Listing, frozen=True, tag="slow_list", forbid_unknown_fields=True):
    """The slow subscriptions of the clients of this worker, as `SlowRow`, the slowest first."""


class ClearSlow(Request, frozen=True, tag="slow_clear", forbid_unknown_fields=True):
    """Forget the slow subscriptions, and begin anew. Answered without rows."""


class SlowRow(msgspec.Struct, frozen=True):
    """A client and a topic that messages reach late: the highest latency, when that was, and how
    often it was late."""

    client_id: str
    topic: str
    latency_ms: int
    count: int
    at_ms: int
    worker: int


class ShowTopicMetrics(Request, frozen=True, tag="topic_metrics", forbid_unknown_fields=True):
    """The counters of `[[topic_metrics]]` over all workers, as `TopicCount`."""


class ListShards(Listing, frozen=True, tag="storage_shards", forbid_unknown_fields=True):
    """The shards of this worker, as `ShardRow`."""


class ListHeld(Listing, frozen=True, tag="storage_held", forbid_unknown_fields=True):
    """What is not in the log of a shard, as `HeldRow`: open partitions of declared topics, and
    topics of mode memory. `filter` is a pattern for the topic."""

    filter: str = ""


class ShowKept(Request, frozen=True, tag="storage_kept", forbid_unknown_fields=True):
    """How topics are kept, as `KeptRow`; so many names as a line holds. A shared partition is named
    by the id of its topic, in hexadecimal."""

    topics: tuple[str, ...]


class ListLookups(Listing, frozen=True, tag="storage_lookups", forbid_unknown_fields=True):
    """The look-ups of one shard as `LookupRow`, in order; no row where it is not held. `prefix` is
    in base64."""

    shard: int = 0
    prefix: str = ""


class CompactStorage(Request, frozen=True, tag="storage_compact", forbid_unknown_fields=True):
    """Compact the partitions of a topic now, as far as they are here; a `CompactedRow` for each.
    With an empty topic: all that are to be compacted, and the logs, of one shard or (-1) of all."""

    topic: str = ""
    shard: int = -1


class ShardRow(msgspec.Struct, frozen=True):
    """One shard: positions of its log, and what it holds."""

    shard: int
    worker: int
    start_position: int
    end_position: int
    committed_position: int
    checkpoint_position: int
    light_topics: int
    partitions: int
    memory_bytes: int
    """What its topics of mode memory take."""
    dead_bytes: int
    """What nobody needs of its log, as of the last look of the cleaning; files that it has not
    looked at count as needed."""


class HeldRow(msgspec.Struct, frozen=True):
    """One partition that is not in the log of a shard. `tiered`: closed segments go to the object
    store, by its mode or by `remote.storage.enable`."""

    topic: str
    partition: int
    shard: int
    worker: int
    engine: str
    mode: str
    tiered: bool
    bytes: int
    start_offset: int
    end_offset: int
    last_ms: int


class KeptRow(msgspec.Struct, frozen=True):
    """How a topic is kept; `topic` is what was asked for, `name` what it is called."""

    topic: str
    name: str
    mode: str
    engine: str


class LookupRow(msgspec.Struct, frozen=True):
    """One key and its value."""

    key: bytes
    value: bytes


class CompactedRow(msgspec.Struct, frozen=True):
    """What became of one partition (without a topic: of the log of a shard): bytes before and
    after, or why nothing was done."""

    topic: str
    partition: int
    shard: int
    worker: int
    bytes_before: int
    bytes_after: int
    reason: str = ""


class ListTopics(Listing, frozen=True, tag="topics_list", forbid_unknown_fields=True):
    """The declared topics, as `TopicRow`; `filter` is a pattern for their Kafka names."""

    filter: str = ""


class SetTopic(Request, frozen=True, tag="topics_set", forbid_unknown_fields=True):
    """Give a declared topic other settings, as Kafka's IncrementalAlterConfigs does; null resets
    one. Answered with its `TopicRow`."""

    topic: str
    changes: dict[str, str | None]


class TopicRow(msgspec.Struct, frozen=True):
    """A declared topic and how it is kept: as it says itself, or by rules and defaults. `tiered`:
    closed segments go to the object store, by its mode or by `remote.storage.enable`; `moving`:
    partitions of this worker on their way to another engine."""

    topic: str
    partitions: int
    mode: str
    engine: str
    tiered: bool
    cleanup_policy: str
    retention_ms: int
    retention_bytes: int
    moving: int


AnyRequest = (
    ShowWorker
    | ListClients
    | ShowClient
    | KickClient
    | ListSubscriptions
    | ListBans
    | AddBan
    | RemoveBan
    | ShowTopicMetrics
    | ListSlow
    | ListTopics
    | SetTopic
    | ClearSlow
    | ListShards
    | ListHeld
    | ShowKept
    | ListLookups
    | CompactStorage
)


class End(msgspec.Struct, frozen=True):
    """The end of an answer."""

    error: str = ""
    more: bool = False


class Line(msgspec.Struct, frozen=True):
    """One line of an answer: a row, or the end."""

    row: msgspec.Raw = msgspec.Raw()
    end: End | None = None
