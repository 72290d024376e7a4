"""Requests of operators, carried out by one worker.

A request is answered in steps: a generator gives rows, None where it has looked and found nothing,
and promises that it waits for. Each step is short, so whoever drives it (net/control_socket.py)
lets go of the loop between any two of them: a list of a million sessions holds nobody up. What is
asked for and cannot be is raised as `Refused`, or as `BrokerError`.

A new request is a struct in `messages`, and a row in `HANDLERS`.
"""

from __future__ import annotations

import fnmatch
import os
import re
from collections.abc import Callable, Iterator
from typing import Any

import msgspec

from robustmq import __version__
from robustmq.control.messages import (
    MAX_PATTERN,
    AnyRequest,
    ClientDetail,
    ClientRow,
    End,
    KickClient,
    Kicked,
    ListClients,
    Listing,
    ListSubscriptions,
    Row,
    ShowClient,
    ShowWorker,
    SubscriptionRow,
    WorkerRow,
)
from robustmq.core.filters import FilterTrie
from robustmq.errors import BrokerError
from robustmq.mqtt.packets import VERSION_NAMES
from robustmq.promises import Promise, start
from robustmq.shard.broker import Broker
from robustmq.shard.subscriber import Subscriber

Steps = Iterator["Row | Promise[Any] | None"]


class Refused(Exception):
    """A request that cannot be carried out; the message is for people."""


class Operator:
    """What a worker does when an operator asks."""

    def __init__(self, broker: Broker) -> None:
        self.broker = broker
        self.began_ms = broker.wall_ms()
        self._decoder = msgspec.json.Decoder(AnyRequest)
        self._encoder = msgspec.json.Encoder()

    def answer(self, line: bytes) -> Iterator[bytes | Promise[Any] | None]:
        """The lines that answer a request, and what must be waited for between them."""
        try:
            request = self._decoder.decode(line)
        except (msgspec.MsgspecError, UnicodeDecodeError) as error:
            yield self.end(f"no such request: {error}")
            return
        left = request.limit if isinstance(request, Listing) and request.limit else -1
        try:
            for step in HANDLERS[type(request)](self, request):
                if step is None or isinstance(step, Promise):
                    yield step
                    continue
                if not left:
                    yield self.end(more=True)
                    return
                left -= 1
                yield b'{"row":' + self._encoder.encode(step) + b"}\n"
        except (Refused, BrokerError) as error:
            yield self.end(str(error))
            return
        yield self.end()

    def end(self, error: str = "", more: bool = False) -> bytes:
        """The last line of an answer."""
        return b'{"end":' + self._encoder.encode(End(error, more)) + b"}\n"


def pattern(written: str) -> Callable[[str], bool]:
    """What fits a pattern: with `*`, `?` or `[...]` the whole name, otherwise a part of it."""
    if len(written) > MAX_PATTERN:
        raise Refused(f"a pattern has at most {MAX_PATTERN} characters")
    if not written:
        return lambda name: True
    if any(character in written for character in "*?["):
        matches = re.compile(fnmatch.translate(written)).match
        return lambda name: matches(name) is not None
    return lambda name: written in name


def _show_worker(operator: Operator, _request: ShowWorker) -> Steps:
    broker = operator.broker
    yield WorkerRow(
        broker.worker_id,
        broker.worker_count,
        os.getpid(),
        __version__,
        (broker.wall_ms() - operator.began_ms) // 1000,
        broker.connections,
        len(broker.sessions),
        broker.sessions.subscriptions,
    )


def _list_clients(operator: Operator, request: ListClients) -> Steps:
    fits, user_fits = pattern(request.filter), pattern(request.user)
    for subscriber in operator.broker.sessions.walk():
        peer = subscriber.peer
        wanted = (
            fits(subscriber.client_id.decode())
            and (request.connected is None or request.connected == (peer is not None))
            and (not request.user or (peer is not None and user_fits(peer.user_name or "")))
            and (not request.address or (peer is not None and _begins(peer.address, request)))
        )
        yield _row(operator.broker, subscriber) if wanted else None


def _begins(address: str, request: ListClients) -> bool:
    return address.removeprefix("[").startswith(request.address)


def _row(broker: Broker, subscriber: Subscriber) -> ClientRow:
    session, peer = subscriber.session, subscriber.peer
    return ClientRow(
        subscriber.client_id.decode(),
        broker.worker_id,
        peer is not None,
        peer.connected_at_ms if peer is not None else session.disconnected_at_ms or 0,
        VERSION_NAMES[session.version],
        peer.user_name if peer is not None else None,
        peer.address if peer is not None else "",
        peer.listener.name if peer is not None else "",
        peer.keep_alive_ms // 1500 if peer is not None else 0,
        session.session_expiry_interval,
        len(session.subscriptions),
        session.window.in_flight,
        session.window.queued,
    )


def _show_client(operator: Operator, request: ShowClient) -> Steps:
    subscriber = operator.broker.sessions.get(request.client_id.encode())
    if subscriber is None:
        return
    session = subscriber.session
    yield ClientDetail(
        _row(operator.broker, subscriber),
        session.window.queued_bytes,
        subscriber.sink.dropped,
        session.receive_maximum,
        subscriber.sink.max_packet_size,
        subscriber.topic_alias_maximum,
        len(session.inbound_qos2),
        len(subscriber.sink.data),
        session.will.topic.decode() if session.will is not None else None,
        session.expires_at_ms,
    )


def _kick_client(operator: Operator, request: KickClient) -> Steps:
    sessions = operator.broker.sessions
    subscriber = sessions.get(request.client_id.encode())
    if subscriber is None:
        return
    was_connected = subscriber.peer is not None
    ended = start(sessions.kick(subscriber, request.end_session))
    yield ended
    yield Kicked(request.client_id, operator.broker.worker_id, was_connected, ended.result())


def _list_subscriptions(operator: Operator, request: ListSubscriptions) -> Steps:
    sessions = operator.broker.sessions
    fits = pattern(request.filter)
    topic = request.topic.encode()
    if request.client_id:
        one = sessions.get(request.client_id.encode())
        subscribers = iter([one] if one is not None else [])
    else:
        subscribers = sessions.walk()
    for subscriber in subscribers:
        for subscription in list(subscriber.session.subscriptions.values()):
            filter_ = subscription.filter.decode()
            if not fits(filter_) or (topic and not _matches(subscription.matching_filter, topic)):
                yield None
                continue
            yield SubscriptionRow(
                subscriber.client_id.decode(),
                operator.broker.worker_id,
                filter_,
                subscription.qos,
                subscription.no_local,
                subscription.retain_as_published,
                subscription.retain_handling,
                subscription.subscription_identifier,
                subscriber.peer is not None,
            )
        yield None


def _matches(filter_: bytes, topic: bytes) -> bool:
    trie = FilterTrie()
    trie.insert(filter_, None)
    return bool(trie.match(topic))


HANDLERS: dict[type[Any], Callable[[Operator, Any], Steps]] = {
    ShowWorker: _show_worker,
    ListClients: _list_clients,
    ShowClient: _show_client,
    KickClient: _kick_client,
    ListSubscriptions: _list_subscriptions,
}
