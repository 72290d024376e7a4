"""ApiVersions: what this broker speaks (KIP-35, KIP-511). The table is robustmq.kafka.apis.

An unknown version is answered in version 0 with 35 and the range of ApiVersions alone, and the
connection goes on.
"""

from __future__ import annotations

import re
from typing import Any

from robustmq.errors import KafkaCode
from robustmq.kafka import apis, messages
from robustmq.kafka.context import Handlers, RequestContext
from robustmq.kafka.gateway import Gateway

API_VERSIONS = 18
FEATURES = {
    name: levels
    for name, levels, api_key in (
        ("group.version", (0, 1, 1), 68),
        ("transaction.version", (0, 2, 2), 26),
        ("share.version", (0, 1, 1), 78),
    )
    if api_key in apis.APIS
}
"""Lowest and highest level that is there, and the one in force (KIP-584). Clients look at them:
with transaction.version 2 a producer has an epoch for each transaction (KIP-890 part 2)."""
SHOWN_FROM = {0: 0}
"""Lowest versions that are shown and not spoken: librdkafka before 2.9 does not compress with gzip,
snappy or lz4 where Produce 0 is not (KAFKA-18659). Apache Kafka shows it too."""
_FROM_ZERO_VERSION = 4
"""Older clients fail on a feature whose lowest level is 0."""
_SOFTWARE_VERSION = 3
_SOFTWARE_NAME = re.compile(r"[a-zA-Z0-9](?:[a-zA-Z0-9\-.]*[a-zA-Z0-9])?")


async def handle(request: Any, context: RequestContext, gateway: Gateway) -> Any:
    """Answer one ApiVersions, and keep what the client says of itself."""
    if context.api_version >= _SOFTWARE_VERSION:
        name, version = request.client_software_name, request.client_software_version
        if not (_SOFTWARE_NAME.fullmatch(name) and _SOFTWARE_NAME.fullmatch(version)):
            return messages.ApiVersionsResponse(
                error_code=int(KafkaCode.INVALID_REQUEST), api_keys=[]
            )
        context.connection.client_software_name = name
        context.connection.client_software_version = version
    return messages.ApiVersionsResponse(
        api_keys=[_row(api) for api in apis.APIS.values()],
        supported_features=[
            messages.SupportedFeatureKey(name=name, min_version=first, max_version=last)
            for name, (first, last, _) in FEATURES.items()
            if first or context.api_version >= _FROM_ZERO_VERSION
        ],
        finalized_features_epoch=0,
        finalized_features=[
            messages.FinalizedFeatureKey(
                name=name, min_version_level=level, max_version_level=level
            )
            for name, (_, _, level) in FEATURES.items()
        ],
    )


def unknown_version() -> Any:
    """The answer to an ApiVersions of a version that is not spoken, to be encoded in version 0."""
    return messages.ApiVersionsResponse(
        error_code=int(KafkaCode.UNSUPPORTED_VERSION), api_keys=[_row(apis.APIS[API_VERSIONS])]
    )


def _row(api: Any) -> Any:
    return messages.ApiVersion(
        api_key=api.key,
        min_version=SHOWN_FROM.get(api.key, api.min_version),
        max_version=api.max_version,
    )


HANDLERS: Handlers = {
    18: handle,
}
