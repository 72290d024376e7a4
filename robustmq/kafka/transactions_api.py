"""The requests of transactions, put as events to the coordinator of the transactional id
(KIP-98, KIP-664, KIP-890).

Here is what belongs to the protocol: versions, rights, topics that are not there, the shapes of
answers. What a coordinator decides is in robustmq.groups.transactions; offsets that are committed
in a transaction are in robustmq.kafka.transaction_offsets.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import re2

from robustmq import names
from robustmq.errors import BrokerError, KafkaCode
from robustmq.kafka import messages
from robustmq.kafka import transaction_events as events
from robustmq.kafka.access import CLUSTER_NAME, Operation, Resource
from robustmq.kafka.context import Handlers, RequestContext, legal_name, settled
from robustmq.kafka.coordinating import PATIENCE_MS, ask, told
from robustmq.kafka.gateway import Gateway
from robustmq.kafka.transaction_events import OPEN_STATES, STATE_NAMES
from robustmq.promises import gather, start

OFFSETS_TOPIC = "__consumer_offsets"
"""How a transaction shows that it commits offsets: under the name that Kafka's tools know."""

_BROKERS_VERSION = 4
"""From here on AddPartitionsToTxn is what brokers ask of each other."""
_FENCED_VERSION = 2
_EPOCH_BUMP_VERSION = 5
_Errors = dict[tuple[str, int], int]


def may(context: RequestContext, gateway: Gateway, operation: Operation, name: str) -> bool:
    """May the client do this with a transactional id?"""
    return gateway.authorized(context, operation, Resource.TRANSACTIONAL_ID, name)


# AddPartitionsToTxn


async def handle_add_partitions(request: Any, context: RequestContext, gateway: Gateway) -> Any:
    """Answer one AddPartitionsToTxn: of a client for one transactional id (before version 4), or of
    a broker for many."""
    if context.api_version < _BROKERS_VERSION:
        transactional_id = request.v3_and_below_transactional_id
        errors = await _add(
            transactional_id,
            request.v3_and_below_producer_id,
            request.v3_and_below_producer_epoch,
            request.v3_and_below_topics,
            False,
            context,
            gateway,
        )
        topics = _results(request.v3_and_below_topics, errors)
        return messages.AddPartitionsToTxnResponse(results_by_topic_v3_and_below=topics)
    if not gateway.authorized(context, Operation.CLUSTER_ACTION, Resource.CLUSTER, CLUSTER_NAME):
        code = int(KafkaCode.CLUSTER_AUTHORIZATION_FAILED)
        return messages.AddPartitionsToTxnResponse(error_code=code, results_by_transaction=[])
    started = [
        start(
            _add(
                one.transactional_id,
                one.producer_id,
                one.producer_epoch,
                one.topics,
                one.verify_only,
                context,
                gateway,
            )
        )
        for one in request.transactions
    ]
    found = await gather(started)
    return messages.AddPartitionsToTxnResponse(
        results_by_transaction=[
            messages.AddPartitionsToTxnResult(
                transactional_id=one.transactional_id, topic_results=_results(one.topics, errors)
            )
            for one, errors in zip(request.transactions, found, strict=True)
        ]
    )


async def _add(
    transactional_id: str,
    producer_id: int,
    producer_epoch: int,
    topics: Any,
    verify_only: bool,
    context: RequestContext,
    gateway: Gateway,
) -> _Errors:
    """An error code for each partition."""
    partitions = [(topic.name, number) for topic in topics for number in topic.partitions]
    if context.api_version < _BROKERS_VERSION and not may(
        context, gateway, Operation.WRITE, transactional_id
    ):
        code = int(KafkaCode.TRANSACTIONAL_ID_AUTHORIZATION_FAILED)
        return dict.fromkeys(partitions, code)
    errors = await _refused(topics, context, gateway)
    if any(errors.values()):
        # One that fails lets all fail; the others are told that they were not tried.
        return {one: code or int(KafkaCode.OPERATION_NOT_ATTEMPTED) for one, code in errors.items()}
    event = events.AddPartitions(
        producer_id,
        producer_epoch,
        gateway.timestamp_ms(),
        [(names.from_kafka(name), number) for name, number in partitions],
        verify_only=verify_only,
        wait_ms=PATIENCE_MS,
    )
    reply = await ask(gateway, transactional_id, event, events.PartitionsReply)
    code = reply if isinstance(reply, int) else reply.error
    if code or isinstance(reply, int):
        return dict.fromkeys(partitions, told(code, context.api_version, _FENCED_VERSION))
    return dict(zip(partitions, reply.errors, strict=True))


async def _refused(topics: Any, context: RequestContext, gateway: Gateway) -> _Errors:
    """Which partitions may not be written, or are not there."""
    errors: _Errors = {}
    for topic in topics:
        there = 0
        allowed = context.api_version >= _BROKERS_VERSION or gateway.authorized(
            context, Operation.WRITE, Resource.TOPIC, topic.name
        )
        if allowed and legal_name(topic.name):
            info = await settled(gateway.topic(names.from_kafka(topic.name), False))
            if info is not None and not isinstance(info, BrokerError):
                there = len(info.partitions)
        for number in topic.partitions:
            if not allowed:
                code = int(KafkaCode.TOPIC_AUTHORIZATION_FAILED)
            else:
                known = 0 <= number < there
                code = 0 if known else int(KafkaCode.UNKNOWN_TOPIC_OR_PARTITION)
            errors[topic.name, number] = code
    return errors


def _results(topics: Any, errors: _Errors) -> list[Any]:
    return [
        messages.AddPartitionsToTxnTopicResult(
            name=topic.name,
            results_by_partition=[
                messages.AddPartitionsToTxnPartitionResult(
                    partition_index=number, partition_error_code=errors[topic.name, number]
                )
                for number in topic.partitions
            ],
        )
        for topic in topics
    ]


# AddOffsetsToTxn, EndTxn


async def handle_add_offsets(request: Any, context: RequestContext, gateway: Gateway) -> Any:
    """Answer one AddOffsetsToTxn: the group's offsets become part of the transaction."""
    transactional_id, group_id = request.transactional_id, request.group_id
    if not may(context, gateway, Operation.WRITE, transactional_id):
        code: int = KafkaCode.TRANSACTIONAL_ID_AUTHORIZATION_FAILED
    elif not gateway.authorized(context, Operation.READ, Resource.GROUP, group_id):
        code = KafkaCode.GROUP_AUTHORIZATION_FAILED
    else:
        event = events.AddPartitions(
            request.producer_id,
            request.producer_epoch,
            gateway.timestamp_ms(),
            [],
            [group_id],
            wait_ms=PATIENCE_MS,
        )
        reply = await ask(gateway, transactional_id, event, events.PartitionsReply)
        code = reply if isinstance(reply, int) else reply.error
        code = told(code, context.api_version, _FENCED_VERSION)
    return messages.AddOffsetsToTxnResponse(error_code=int(code))


async def handle_end(request: Any, context: RequestContext, gateway: Gateway) -> Any:
    """Answer one EndTxn; from version 5 on with the producer that goes on (KIP-890)."""
    if not may(context, gateway, Operation.WRITE, request.transactional_id):
        code = int(KafkaCode.TRANSACTIONAL_ID_AUTHORIZATION_FAILED)
        return messages.EndTxnResponse(error_code=code)
    bumps = context.api_version >= _EPOCH_BUMP_VERSION
    event = events.EndTransaction(
        request.producer_id,
        request.producer_epoch,
        gateway.timestamp_ms(),
        request.committed,
        events.TRANSACTION_V2 if bumps else events.TRANSACTION_V1,
    )
    reply = await ask(gateway, request.transactional_id, event, events.ProducerReply)
    code = reply if isinstance(reply, int) else reply.error
    if code or isinstance(reply, int):
        return messages.EndTxnResponse(error_code=told(code, context.api_version, _FENCED_VERSION))
    return messages.EndTxnResponse(
        producer_id=reply.producer_id, producer_epoch=reply.producer_epoch
    )


# What operators see


async def handle_describe(request: Any, context: RequestContext, gateway: Gateway) -> Any:
    """Answer one DescribeTransactions."""
    started = [start(_described(one, context, gateway)) for one in request.transactional_ids]
    return messages.DescribeTransactionsResponse(transaction_states=await gather(started))


async def _described(transactional_id: str, context: RequestContext, gateway: Gateway) -> Any:
    reply: events.TransactionDescription | int
    if not may(context, gateway, Operation.DESCRIBE, transactional_id):
        reply = int(KafkaCode.TRANSACTIONAL_ID_AUTHORIZATION_FAILED)
    elif not transactional_id:
        reply = int(KafkaCode.TRANSACTIONAL_ID_NOT_FOUND)
    else:
        event, kind = events.DescribeTransaction(), events.TransactionDescription
        reply = await ask(gateway, transactional_id, event, kind)
    code = reply if isinstance(reply, int) else reply.error
    if code or isinstance(reply, int):
        return messages.TransactionState(
            error_code=int(code), transactional_id=transactional_id, topics=[]
        )
    topics: dict[str, list[int]] = {}
    for key, number in reply.partitions:
        name = names.to_kafka(key)
        if name is not None and gateway.authorized(
            context, Operation.DESCRIBE, Resource.TOPIC, name
        ):
            topics.setdefault(name, []).append(number)
    if reply.groups:
        topics[OFFSETS_TOPIC] = sorted({gateway.offsets_partition(one) for one in reply.groups})
    return messages.TransactionState(
        transactional_id=transactional_id,
        transaction_state=reply.state,
        transaction_timeout_ms=reply.timeout_ms,
        transaction_start_time_ms=reply.start_timestamp_ms,
        producer_id=reply.producer_id,
        producer_epoch=reply.producer_epoch,
        topics=[
            messages.TopicData(topic=name, partitions=numbers) for name, numbers in topics.items()
        ],
    )


async def handle_list(request: Any, context: RequestContext, gateway: Gateway) -> Any:
    """Answer one ListTransactions, by states, producers, how long they are open (version 1) and a
    pattern that the whole id must match (version 2)."""
    try:
        matches = _matcher(request.transactional_id_pattern)
    except re2.error:
        code = int(KafkaCode.INVALID_REGULAR_EXPRESSION)
        return messages.ListTransactionsResponse(
            error_code=code, unknown_state_filters=[], transaction_states=[]
        )
    listings = await settled(gateway.list_transactions())
    if isinstance(listings, BrokerError):
        code = int(KafkaCode.COORDINATOR_NOT_AVAILABLE)
        return messages.ListTransactionsResponse(
            error_code=code, unknown_state_filters=[], transaction_states=[]
        )
    unknown = [name for name in request.state_filters if name not in STATE_NAMES]
    states, producers = set(request.state_filters), set(request.producer_id_filters)
    begun_before = gateway.timestamp_ms() - request.duration_filter
    found = [
        listing
        for listing in sorted(listings, key=lambda listing: listing.transactional_id)
        if (not states or listing.state in states)
        and (not producers or listing.producer_id in producers)
        and (request.duration_filter < 0 or _open_since(listing, begun_before))
        and matches(listing.transactional_id)
        and may(context, gateway, Operation.DESCRIBE, listing.transactional_id)
    ]
    return messages.ListTransactionsResponse(
        unknown_state_filters=unknown,
        transaction_states=[
            messages.ListTransactionsTransactionState(
                transactional_id=listing.transactional_id,
                producer_id=listing.producer_id,
                transaction_state=listing.state,
            )
            for listing in found
        ],
    )


def _open_since(listing: events.TransactionListing, timestamp_ms: int) -> bool:
    return listing.state in OPEN_STATES and listing.start_timestamp_ms < timestamp_ms


def _matcher(pattern: str | None) -> Callable[[str], object]:
    """RE2, as Kafka has it: its time is bounded, whatever the pattern."""
    if not pattern:
        return lambda name: True
    options = re2.Options()
    options.log_errors = False
    return re2.compile(pattern, options=options).fullmatch  # type: ignore[no-any-return]


HANDLERS: Handlers = {
    24: handle_add_partitions,
    25: handle_add_offsets,
    26: handle_end,
    65: handle_describe,
    66: handle_list,
}
