"""The table of requests, and how a line becomes an answer.

A new request is a struct in `messages`, a handler in the module of its subject, and a row here.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from robustmq.control import bans, clients, slow, storage, topics
from robustmq.control.contract import Operator, Refused, Steps
from robustmq.control.messages import (
    AddBan,
    AnyRequest,
    ClearSlow,
    CompactStorage,
    End,
    KickClient,
    ListBans,
    ListClients,
    ListHeld,
    Listing,
    ListLookups,
    ListShards,
    ListSlow,
    ListSubscriptions,
    ListTopics,
    RemoveBan,
    SetTopic,
    ShowClient,
    ShowKept,
    ShowTopicMetrics,
    ShowWorker,
)
from robustmq.errors import BrokerError
from robustmq.promises import Promise

HANDLERS: dict[type[Any], Callable[[Operator, Any], Steps]] = {
    ShowWorker: clients.show_worker,
    ListClients: clients.list_clients,
    ShowClient: clients.show_client,
    KickClient: clients.kick_client,
    ListSubscriptions: clients.list_subscriptions,
    ListBans: bans.list_bans,
    AddBan: bans.add_ban,
    RemoveBan: bans.remove_ban,
    ShowTopicMetrics: topics.show_topic_metrics,
    ListSlow: slow.list_slow,
    ListTopics: topics.list_topics,
    SetTopic: topics.set_topic,
    ClearSlow: slow.clear_slow,
    ListShards: storage.list_shards,
    ListHeld: storage.list_held,
    ShowKept: storage.show_kept,
    ListLookups: storage.list_lookups,
    CompactStorage: storage.compact,
}

_decoder = msgspec.json.Decoder(AnyRequest)
_encoder = msgspec.json.Encoder()


def answer(operator: Operator, line: bytes) -> Iterator[bytes | Promise[Any] | None]:
    """The lines that answer a request, and what must be waited for between them."""
    try:
        request = _decoder.decode(line)
    except (msgspec.MsgspecError, UnicodeDecodeError) as error:
        yield end(f"no such request: {error}")
        return
    left = request.limit if isinstance(request, Listing) and request.limit else -1
    try:
        for step in HANDLERS[type(request)](operator, request):
            if step is None or isinstance(step, Promise):
                yield step
                continue
            if not left:
                yield end(more=True)
                return
            left -= 1
            yield b'{"row":' + _encoder.encode(step) + b"}\n"
    except (Refused, BrokerError) as error:
        yield end(str(error))
        return
    yield end()


def end(error: str = "", more: bool = False) -> bytes:
    """The last line of an answer."""
    return b'{"end":' + _encoder.encode(End(error, more)) + b"}\n"
