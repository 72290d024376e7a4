"""Object stores by URL: S3 and what speaks its protocol (MinIO, versitygw), Google Cloud Storage,
Azure, and a local folder, all through obstore.

`s3://bucket/prefix`, `gs://bucket/prefix`, `az://container/prefix`, `file:///folder`. Options are
those of obstore by their short names (endpoint, region, access_key_id, ...); what is not among them
is taken from the environment, as the clouds' own tools do (AWS_ACCESS_KEY_ID, ...). No message that
leaves here holds an option's value. A local folder is written so that it survives power loss, and
conditional writes are made one by one under a lock, as the folder itself knows none.

obstore starts threads of its own and takes 7 MB: it is imported with the first store that is
opened, never before a fork.
"""

from __future__ import annotations

import fcntl
import os
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from datetime import timedelta
from pathlib import Path
from typing import Any, BinaryIO, TypeVar
from urllib.parse import unquote, urlsplit

from robustmq.storage.disk import Buffer
from robustmq.storage.object_store import (
    ObjectConflictError,
    ObjectMissingError,
    ObjectRefusedError,
    ObjectStore,
    ObjectStoreError,
)
from robustmq.tiering_settings import TieringSettings

PART_BYTES = 8 * 1024 * 1024
PARTS_AT_ONCE = 4
"""Parts of one upload on their way; with PART_BYTES what an upload holds in memory."""
MAX_DELETED = 1000
_NO_SUCH_RANGE = re.compile(r"InvalidRange|code: 416|range was invalid", re.IGNORECASE)
_CODE = re.compile(r"<Code>(\w+)</Code>")
T = TypeVar("T")


def open_object_store(access: TieringSettings) -> ObjectStore:
    """Open the store of a URL; nothing is asked of it yet. Raises ObjectRefusedError for options
    that it does not know."""
    from obstore import store as stores
    from obstore.exceptions import BaseError

    parts = urlsplit(access.url)
    if parts.scheme == "file":
        folder = unquote(parts.path)
        Path(folder).mkdir(mode=0o700, parents=True, exist_ok=True)
        return FolderStore(stores.LocalStore(folder), folder)
    client: dict[str, Any] = {
        "timeout": timedelta(milliseconds=access.timeout_ms),
        "connect_timeout": timedelta(milliseconds=access.connect_timeout_ms),
    }
    options: dict[str, Any] = dict(access.options)
    allow_http = options.pop("allow_http", "")
    if allow_http == "true" or options.get("endpoint", "").startswith("http://"):
        client["allow_http"] = True
    if parts.scheme == "s3":
        options.setdefault("region", "us-east-1")
        options.setdefault("checksum_algorithm", "SHA256")
    retry = {
        "max_retries": access.retries,
        "retry_timeout": timedelta(milliseconds=access.timeout_ms),
        "backoff": {
            "init_backoff": timedelta(milliseconds=100),
            "max_backoff": timedelta(seconds=5),
            "base": 2,
        },
    }
    try:
        opened = stores.from_url(
            access.url, config=options, client_options=client, retry_config=retry
        )  # type: ignore[call-overload]
    except (BaseError, ValueError, TypeError) as error:
        raise ObjectRefusedError(f"{access.url}: {_first_line(error)}") from None
    return RemoteStore(opened)


class RemoteStore:
    """One bucket, or a prefix of it, by obstore."""

    def __init__(self, store: Any) -> None:
        self._store = store

    def put(self, path: str, buffers: Sequence[Buffer], *, if_version: str | None = None) -> str:
        """One request."""
        import obstore

        data = bytes(buffers[0]) if len(buffers) == 1 else b"".join(buffers)
        mode: Any = "overwrite"
        if if_version is not None:
            mode = _update(if_version) if if_version else "create"
        result = _asked(
            lambda: obstore.put(self._store, path, data, mode=mode, use_multipart=False), True
        )
        return _version(result)

    def put_file(self, path: str, file: str, size: int) -> str:
        """In parts when it is large, and asked for its size when it is there."""
        import obstore

        # Open before anything is sent: a file that is removed meanwhile is uploaded all the same.
        with open(file, "rb") as source:
            if size <= PART_BYTES:
                version = self.put(path, list(_parts(source, size)))
            else:
                result = _asked(
                    lambda: obstore.put(
                        self._store,
                        path,
                        _parts(source, size),
                        chunk_size=PART_BYTES,
                        max_concurrency=PARTS_AT_ONCE,
                    ),
                    True,
                )
                version = _version(result)
        found = _asked(lambda: obstore.head(self._store, path))
        if found["size"] != size:
            raise ObjectStoreError(f"{path} has {found['size']} bytes, not {size}")
        return version

    def get(self, path: str) -> tuple[bytes, str]:
        """A whole object."""
        import obstore

        def ask() -> tuple[bytes, str]:
            found = obstore.get(self._store, path)
            return bytes(found.bytes()), _version(found.meta)

        return _asked(ask)

    def get_range(self, path: str, start: int, length: int) -> memoryview:
        """A part of an object."""
        import obstore

        return _asked(
            lambda: memoryview(obstore.get_range(self._store, path, start=start, length=length))
        )

    def list(self, prefix: str, after: str = "") -> Sequence[tuple[str, int]]:
        """All below a prefix, or those behind a path."""
        import obstore

        def ask() -> list[tuple[str, int]]:
            listed = obstore.list(self._store, prefix.rstrip("/"), offset=after or None)
            return sorted((meta["path"], meta["size"]) for chunk in listed for meta in chunk)

        return _asked(ask)

    def folders(self, prefix: str = "") -> Sequence[str]:
        """The names of the folders directly below a prefix."""
        import obstore

        def ask() -> list[str]:
            found = obstore.list_with_delimiter(self._store, prefix.rstrip("/") or None)
            return sorted(path.rstrip("/").rpartition("/")[2] for path in found["common_prefixes"])

        return _asked(ask)

    def delete(self, paths: Sequence[str]) -> None:
        """In requests of a thousand."""
        import obstore

        for first in range(0, len(paths), MAX_DELETED):
            some = list(paths[first : first + MAX_DELETED])
            try:
                _asked(lambda some=some: obstore.delete(self._store, some))  # type: ignore[misc]
            except ObjectMissingError:
                # Stores that take one at a time stop at the first that is not there.
                for path in some:
                    self._delete_one(path)

    def _delete_one(self, path: str) -> None:
        import obstore

        try:
            _asked(lambda: obstore.delete(self._store, path))
        except ObjectMissingError:
            return


class FolderStore(RemoteStore):
    """A local folder."""

    def __init__(self, store: Any, folder: str) -> None:
        super().__init__(store)
        self._folder = folder

    def put(self, path: str, buffers: Sequence[Buffer], *, if_version: str | None = None) -> str:
        """Compared and written under a lock, synced."""
        with self._locked():
            if if_version and self._version_of(path) != if_version:
                raise ObjectConflictError(f"{path} is another than expected")
            version = super().put(path, buffers, if_version=None if if_version else if_version)
        self._sync(path)
        return version

    def put_file(self, path: str, file: str, size: int) -> str:
        """Synced."""
        version = super().put_file(path, file, size)
        if size > PART_BYTES:
            # A smaller one went by `put`, which syncs.
            self._sync(path)
        return version

    def _version_of(self, path: str) -> str:
        import obstore

        try:
            return _version(_asked(lambda: obstore.head(self._store, path)))
        except ObjectMissingError:
            return ""

    @contextmanager
    def _locked(self) -> Iterator[None]:
        # Beside the objects, in a name that no listing of a cluster shows.
        lock = os.open(
            os.path.join(self._folder, ".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600
        )
        try:
            fcntl.flock(lock, fcntl.LOCK_EX)
            yield
        finally:
            os.close(lock)

    def _sync(self, path: str) -> None:
        place = Path(self._folder, path)
        # And the names, up to the folder, some of which may be new.
        folders = [one for one in place.parents if one.is_relative_to(self._folder)]
        for one in (place, *folders):
            opened = os.open(one, os.O_RDONLY | os.O_CLOEXEC)
            try:
                os.fsync(opened)
            finally:
                os.close(opened)


def _parts(source: BinaryIO, size: int) -> Iterator[bytes]:
    while size:
        data = source.read(min(PART_BYTES, size))
        if not data:
            raise EOFError(f"{source.name} ends {size} bytes early")
        size -= len(data)
        yield data


def _version(found: Mapping[str, Any]) -> str:
    """What conditional writes compare: the entity tag, and where there is one the version."""
    return f"{found.get('e_tag') or ''} {found.get('version') or ''}".rstrip()


def _update(version: str) -> dict[str, str]:
    e_tag, _, number = version.partition(" ")
    return {name: one for name, one in (("e_tag", e_tag), ("version", number)) if one}


def _asked(ask: Callable[[], T], writes: bool = False) -> T:
    """Ask, with the errors of this package."""
    from obstore import exceptions

    try:
        return ask()
    except (exceptions.AlreadyExistsError, exceptions.PreconditionError) as error:
        raise ObjectConflictError(_first_line(error)) from None
    except FileNotFoundError as error:
        text = str(error)
        if writes or "NoSuchBucket" in text or "ContainerNotFound" in text:
            raise ObjectRefusedError(_first_line(error)) from None
        raise ObjectMissingError(_first_line(error)) from None
    except (
        exceptions.PermissionDeniedError,
        exceptions.UnauthenticatedError,
        exceptions.InvalidPathError,
        exceptions.NotSupportedError,
        exceptions.UnknownConfigurationKeyError,
    ) as error:
        raise ObjectRefusedError(_first_line(error)) from None
    except NotImplementedError as error:
        raise ObjectRefusedError(_first_line(error)) from None
    except (exceptions.BaseError, OSError, ValueError) as error:
        line = _first_line(error)
        if _NO_SUCH_RANGE.search(line):
            # The store is well; the object ends before what is asked for.
            raise ObjectMissingError(line) from None
        raise ObjectStoreError(line) from None


def _first_line(error: BaseException) -> str:
    """What a person can use of an error: its first line, and the store's own code for it."""
    text = str(error)
    code = _CODE.search(text)
    line = text.partition("\n")[0].partition("<?xml")[0].strip()[:300]
    return f"{line} {code.group(1)}" if code else line
