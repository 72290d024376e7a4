"""Workers, clients and subscriptions, as operators look at them."""

from __future__ import annotations

import os

from robustmq import __version__
from robustmq.control.contract import Operator, Steps, pattern
from robustmq.control.messages import (
    ClientDetail,
    ClientRow,
    KickClient,
    Kicked,
    ListClients,
    ListSubscriptions,
    ShowClient,
    ShowWorker,
    SubscriptionRow,
    WorkerRow,
)
from robustmq.core.filters import FilterTrie
from robustmq.mqtt.packets import VERSION_NAMES
from robustmq.promises import start
from robustmq.shard.broker import Broker
from robustmq.shard.subscriber import Subscriber


def show_worker(operator: Operator, _request: ShowWorker) -> Steps:
    """This worker in one row."""
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


def list_clients(operator: Operator, request: ListClients) -> Steps:
    """Sessions that live here."""
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


def show_client(operator: Operator, request: ShowClient) -> Steps:
    """One session, if it lives here."""
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


def kick_client(operator: Operator, request: KickClient) -> Steps:
    """End a connection; answered when what was asked is committed."""
    sessions = operator.broker.sessions
    subscriber = sessions.get(request.client_id.encode())
    if subscriber is None:
        return
    was_connected = subscriber.peer is not None
    ended = start(sessions.kick(subscriber, request.end_session))
    yield ended
    yield Kicked(request.client_id, operator.broker.worker_id, was_connected, ended.result())


def list_subscriptions(operator: Operator, request: ListSubscriptions) -> Steps:
    """Subscriptions of the sessions that live here."""
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
    trie.insert(filter_, filter_)
    return bool(trie.match(topic))
