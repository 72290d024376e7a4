"""What the tier asks of an object store.

Every call blocks, for as long as a network may: it is made on a thread of the tier, never on the
loop and never on the storage thread. Paths are relative to the URL that the store was opened with.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

from robustmq.storage.disk import Buffer


class ObjectStoreError(Exception):
    """The store did not do what it was asked; later it may (it is down, slow, or throttles)."""


class ObjectMissingError(ObjectStoreError):
    """There is no such object."""


class ObjectConflictError(ObjectStoreError):
    """A conditional write found another object than it expects: somebody else has written it."""


class ObjectRefusedError(ObjectStoreError):
    """The store will not do it however often it is asked: no such bucket, no right to it."""


class ObjectStore(Protocol):
    """Objects by path, in one bucket or folder."""

    def put(self, path: str, buffers: Sequence[Buffer], *, if_version: str | None = None) -> str:
        """Write an object; its version. With `if_version` the object that is there must have that
        version; "" means that none may be there: otherwise ObjectConflictError."""
        ...

    def put_file(self, path: str, file: str, size: int) -> str:
        """Write the first bytes of a local file as an object, in parts; its version."""
        ...

    def get(self, path: str) -> tuple[bytes, str]:
        """A whole (small) object and its version. Raises ObjectMissingError."""
        ...

    def get_range(self, path: str, start: int, length: int) -> memoryview:
        """Bytes of an object, in memory that nobody else has; fewer at its end. Raises
        ObjectMissingError, also when it has none there."""
        ...

    def list(self, prefix: str, after: str = "") -> Sequence[tuple[str, int]]:
        """(path, size) of all objects below a prefix that ends with /, in order; with `after` of
        those alone that come behind this path."""
        ...

    def folders(self, prefix: str = "") -> Sequence[str]:
        """The names of the folders directly below a prefix (empty: at the top), in order."""
        ...

    def delete(self, paths: Sequence[str]) -> None:
        """Remove objects; those that are not there do no harm."""
        ...
