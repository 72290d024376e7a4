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
    return messages.ApiVersionsResponse(api_keys=[_row(api) for api in apis.APIS.values()])


def unknown_version() -> Any:
    """The answer to an ApiVersions of a version that is not spoken, to be encoded in version 0."""
    return messages.ApiVersionsResponse(
        error_code=int(KafkaCode.UNSUPPORTED_VERSION), api_keys=[_row(apis.APIS[API_VERSIONS])]
    )


def _row(api: Any) -> Any:
    return messages.ApiVersion(
        api_key=api.key, min_version=api.min_version, max_version=api.max_version
    )


HANDLERS: Handlers = {
    18: handle,
}
