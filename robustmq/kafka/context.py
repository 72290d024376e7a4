"""What a handler knows of the request beside its fields, and the few things that all handlers do
alike.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING, Any, TypeVar
from uuid import UUID

import msgspec

from robustmq.acls import ANONYMOUS, Asker
from robustmq.errors import BrokerError
from robustmq.limits import Limits

if TYPE_CHECKING:
    from robustmq.kafka.gateway import Gateway
    from robustmq.kafka.sasl import SaslState

T = TypeVar("T")
Handler = Callable[[Any, "RequestContext", "Gateway"], Awaitable[Any]]
"""Answers a decoded request with a response struct, or None where there is no answer."""
Handlers = dict[int, Handler]
"""The handlers of a module by API key; robustmq.kafka.dispatch has them all."""

NO_OPERATIONS = -(1 << 31)
"""Authorized operations that were not asked for."""

_NAME_LIMIT = 249
_LEGAL = frozenset("abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-")


def _nothing() -> None:
    """Nobody waits."""


class ConnectionState(msgspec.Struct):
    """What is known of a Kafka connection; the shell makes one for each, for `dispatch`."""

    client_host: str
    limits: Limits = Limits()
    listener: str = ""
    """The name of the listener that it came by."""
    sasl: SaslState | None = None
    """How far the client has proven who it is; None: nobody asks."""
    throttle_ms: int = 0
    """How long nothing more is to be read: the client is above a quota."""
    owed_ms: int = 0
    """What the next answer tells of that, beside what the request itself used."""
    used_us: int = 0
    """Time of the loop that was not charged to the client yet; only while there are quotas."""
    ending: bool = False
    """The connection ends behind what is being answered."""
    known_as: Asker | None = None
    """Who the client is, and what it was told; `asker` makes it."""
    client_port: int = 0
    client_software_name: str = ""
    client_software_version: str = ""
    closed: bool = False
    """The client is gone: nobody reads what is still being answered."""
    on_close: dict[object, Callable[[], None]] = {}
    """What must be done then, by what it is about."""
    unreadable: dict[tuple[str | UUID, int], int] = {}
    """The offsets that the last Fetch asked for in vain, by topic and partition: the disk has lost
    them, or does not give them now."""
    held: int = 0
    """Requests that no later one may overtake are being served: none is begun."""
    released: Callable[[], None] = _nothing
    """Called when `held` is 0 again."""

    def close(self) -> None:
        """The client is gone."""
        self.closed = True
        self.released = _nothing
        waiting, self.on_close = self.on_close, {}
        for callback in waiting.values():
            callback()

    def hold(self) -> None:
        """Begin no later request of this connection until `release`."""
        self.held += 1

    def release(self) -> None:
        """Later requests may be begun."""
        self.held -= 1
        if not self.held:
            self.released()

    @property
    def asker(self) -> Asker:
        """Who the client is to the access rules; anonymous until it proves more."""
        known = self.known_as
        if known is None:
            known = self.known_as = Asker(ANONYMOUS, self.client_host)
        return known

    @property
    def principal(self) -> str:
        """Who the client is, as access rules name it: `User:` and a name."""
        return self.asker.principal

    def is_known_as(self, principal: str) -> None:
        """The client has proven who it is."""
        self.known_as = Asker(principal, self.client_host)


class RequestContext(msgspec.Struct, frozen=True):
    """The header of a request and the connection it came by."""

    api_key: int
    api_version: int
    client_id: str
    connection: ConnectionState


def legal_name(name: str | None) -> bool:
    """Whether Kafka allows a topic of this name."""
    if not name or len(name) > _NAME_LIMIT or name in (".", ".."):
        return False
    return _LEGAL.issuperset(name)


async def settled(promise: Awaitable[T]) -> T | BrokerError:
    """The value of a gateway's promise, or the fault with which it failed."""
    try:
        return await promise
    except BrokerError as error:
        return error


def kafka_code(error: BrokerError) -> int:
    """What a Kafka client is told of a fault."""
    return error.fault.kafka
