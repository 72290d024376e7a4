"""The one table of named errors.

A fault of a peer is raised as `BrokerError(Fault.X)` at the edge where the bad input is seen, and
caught in one place per connection. The row of its `Fault` says what each protocol tells the peer:
the MQTT 5.0 reason code (section 2.4), the MQTT 3.1.1 CONNACK return code (section 3.2.2.3), the
Kafka error code, and the HTTP status. A bug of ours is an assertion, never one of these.
"""

from __future__ import annotations

import enum
from typing import NamedTuple


class Row(NamedTuple):
    """What each protocol says of one fault; `mqtt3` is a CONNACK return code, 0 where 3.x can only
    close."""

    mqtt5: int
    mqtt3: int
    kafka: int
    http: int


class Fault(Row, enum.Enum):
    """Every fault the broker tells a peer about."""

    # name = MQTT 5.0 reason, MQTT 3.x return code, Kafka error code, HTTP status
    UNSPECIFIED = (0x80, 0, -1, 500)
    MALFORMED_PACKET = (0x81, 0, 42, 400)
    PROTOCOL_ERROR = (0x82, 0, 42, 400)
    IMPLEMENTATION_SPECIFIC = (0x83, 0, -1, 500)
    UNSUPPORTED_PROTOCOL_VERSION = (0x84, 1, 35, 400)
    CLIENT_IDENTIFIER_NOT_VALID = (0x85, 2, 42, 400)
    BAD_USER_NAME_OR_PASSWORD = (0x86, 4, 58, 401)
    NOT_AUTHORIZED = (0x87, 5, 29, 403)
    SERVER_UNAVAILABLE = (0x88, 3, 8, 503)
    SERVER_BUSY = (0x89, 3, 8, 503)
    BANNED = (0x8A, 5, 31, 403)
    SERVER_SHUTTING_DOWN = (0x8B, 3, 8, 503)
    BAD_AUTHENTICATION_METHOD = (0x8C, 5, 33, 401)
    KEEP_ALIVE_TIMEOUT = (0x8D, 0, 7, 408)
    SESSION_TAKEN_OVER = (0x8E, 0, 82, 409)
    TOPIC_FILTER_INVALID = (0x8F, 0, 17, 400)
    TOPIC_NAME_INVALID = (0x90, 0, 17, 400)
    PACKET_IDENTIFIER_IN_USE = (0x91, 0, 42, 400)
    PACKET_IDENTIFIER_NOT_FOUND = (0x92, 0, 42, 404)
    RECEIVE_MAXIMUM_EXCEEDED = (0x93, 0, 44, 429)
    TOPIC_ALIAS_INVALID = (0x94, 0, 42, 400)
    PACKET_TOO_LARGE = (0x95, 0, 10, 413)
    MESSAGE_RATE_TOO_HIGH = (0x96, 0, 44, 429)
    QUOTA_EXCEEDED = (0x97, 0, 44, 429)
    ADMINISTRATIVE_ACTION = (0x98, 0, 8, 409)
    PAYLOAD_FORMAT_INVALID = (0x99, 0, 87, 400)
    RETAIN_NOT_SUPPORTED = (0x9A, 0, 40, 400)
    QOS_NOT_SUPPORTED = (0x9B, 0, 40, 400)
    SHARED_SUBSCRIPTIONS_NOT_SUPPORTED = (0x9E, 0, 40, 400)
    CONNECTION_RATE_EXCEEDED = (0x9F, 3, 44, 429)
    SUBSCRIPTION_IDENTIFIERS_NOT_SUPPORTED = (0xA1, 0, 40, 400)
    WILDCARD_SUBSCRIPTIONS_NOT_SUPPORTED = (0xA2, 0, 40, 400)
    STORAGE_FAILED = (0x83, 3, 56, 507)
    STORAGE_FULL = (0x97, 3, 56, 507)
    OWNER_UNAVAILABLE = (0x88, 3, 6, 503)
    CORRUPT_RECORD = (0x83, 0, 2, 500)
    TIMED_OUT = (0x80, 0, 7, 504)


OUR_DECISION = frozenset(
    {
        Fault.SESSION_TAKEN_OVER,
        Fault.SERVER_SHUTTING_DOWN,
        Fault.SERVER_BUSY,
        Fault.BANNED,
        Fault.ADMINISTRATIVE_ACTION,
    }
)
"""Ends of connections that are no error of the peer, and counted where they are decided."""


class KafkaCode(enum.IntEnum):
    """Kafka error codes (the protocol guide's table "Error Codes") that the broker answers with."""

    UNKNOWN_SERVER_ERROR = -1
    NONE = 0
    OFFSET_OUT_OF_RANGE = 1
    CORRUPT_MESSAGE = 2
    UNKNOWN_TOPIC_OR_PARTITION = 3
    INVALID_FETCH_SIZE = 4
    LEADER_NOT_AVAILABLE = 5
    NOT_LEADER_OR_FOLLOWER = 6
    REQUEST_TIMED_OUT = 7
    BROKER_NOT_AVAILABLE = 8
    REPLICA_NOT_AVAILABLE = 9
    MESSAGE_TOO_LARGE = 10
    OFFSET_METADATA_TOO_LARGE = 12
    COORDINATOR_LOAD_IN_PROGRESS = 14
    COORDINATOR_NOT_AVAILABLE = 15
    NOT_COORDINATOR = 16
    INVALID_TOPIC_EXCEPTION = 17
    RECORD_LIST_TOO_LARGE = 18
    INVALID_REQUIRED_ACKS = 21
    ILLEGAL_GENERATION = 22
    INCONSISTENT_GROUP_PROTOCOL = 23
    INVALID_GROUP_ID = 24
    UNKNOWN_MEMBER_ID = 25
    INVALID_SESSION_TIMEOUT = 26
    REBALANCE_IN_PROGRESS = 27
    TOPIC_AUTHORIZATION_FAILED = 29
    GROUP_AUTHORIZATION_FAILED = 30
    CLUSTER_AUTHORIZATION_FAILED = 31
    INVALID_TIMESTAMP = 32
    UNSUPPORTED_SASL_MECHANISM = 33
    ILLEGAL_SASL_STATE = 34
    UNSUPPORTED_VERSION = 35
    TOPIC_ALREADY_EXISTS = 36
    INVALID_PARTITIONS = 37
    INVALID_REPLICATION_FACTOR = 38
    INVALID_REPLICA_ASSIGNMENT = 39
    INVALID_CONFIG = 40
    NOT_CONTROLLER = 41
    INVALID_REQUEST = 42
    UNSUPPORTED_FOR_MESSAGE_FORMAT = 43
    POLICY_VIOLATION = 44
    OUT_OF_ORDER_SEQUENCE_NUMBER = 45
    DUPLICATE_SEQUENCE_NUMBER = 46
    INVALID_PRODUCER_EPOCH = 47
    INVALID_TXN_STATE = 48
    INVALID_PRODUCER_ID_MAPPING = 49
    INVALID_TRANSACTION_TIMEOUT = 50
    CONCURRENT_TRANSACTIONS = 51
    TRANSACTIONAL_ID_AUTHORIZATION_FAILED = 53
    KAFKA_STORAGE_ERROR = 56
    SASL_AUTHENTICATION_FAILED = 58
    UNKNOWN_PRODUCER_ID = 59
    FETCH_SESSION_ID_NOT_FOUND = 70
    INVALID_FETCH_SESSION_EPOCH = 71
    GROUP_ID_NOT_FOUND = 69
    NON_EMPTY_GROUP = 68
    FENCED_LEADER_EPOCH = 74
    UNKNOWN_LEADER_EPOCH = 75
    UNSUPPORTED_COMPRESSION_TYPE = 76
    MEMBER_ID_REQUIRED = 79
    GROUP_MAX_SIZE_REACHED = 81
    FENCED_INSTANCE_ID = 82
    INVALID_RECORD = 87
    PRODUCER_FENCED = 90
    THROTTLING_QUOTA_EXCEEDED = 89
    UNKNOWN_TOPIC_ID = 100
    INCONSISTENT_TOPIC_ID = 103


class BrokerError(Exception):
    """A fault of a peer or of the environment, with what the peer must be told."""

    def __init__(self, fault: Fault, detail: str = "") -> None:
        super().__init__(detail or fault.name.lower().replace("_", " "))
        self.fault = fault
        self.detail = detail
