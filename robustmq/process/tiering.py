"""A worker's object store: opened after the fork, with threads of its own."""

from __future__ import annotations

import asyncio
from collections.abc import Sequence

from robustmq.errors import KafkaCode
from robustmq.observability import logs
from robustmq.promises import Promise
from robustmq.shard.surroundings import TierAround
from robustmq.storage.cold_segments import ColdSegments
from robustmq.storage.disk import Buffer
from robustmq.storage.engine import ReadResult
from robustmq.storage.object_store import ObjectRefusedError, ObjectStore
from robustmq.storage.remote_store import open_object_store
from robustmq.storage.tier_threads import TierThreads
from robustmq.tiering_settings import TieringSettings, shown

log = logs.get_logger("tiering")


class Tiering:
    """The object store and its threads."""

    def __init__(self, settings: TieringSettings, loop: asyncio.AbstractEventLoop) -> None:
        self._threads = TierThreads(
            "tier", settings.uploads, lambda run: loop.call_soon_threadsafe(run)
        )
        store: ObjectStore
        try:
            store = open_object_store(settings)
        except (ObjectRefusedError, OSError) as error:
            log.error("the object store cannot be opened", store=shown(settings), reason=str(error))
            store = Refusing(str(error))
        else:
            log.info("object store", store=shown(settings))
        self.around = TierAround(store, self._threads.submit, NoReader)

    def close(self) -> None:
        """No job begins any more."""
        self._threads.close()


class NoReader:
    """Cold records are not read: clients ask again."""

    def __init__(self, prefix: str, cold: ColdSegments) -> None:
        self._prefix = prefix
        self._cold = cold

    def read(self, offset: int, max_bytes: int, end: int) -> ReadResult:
        """The error that clients repeat."""
        error = int(KafkaCode.KAFKA_STORAGE_ERROR)
        return ReadResult(end, self._cold.start_offset, [], False, error)

    def offset_for_time(self, timestamp_ms: int) -> tuple[int, int] | Promise[None] | None:
        """None is found."""
        return None


class Refusing:
    """A store that cannot be opened as the settings say: the node runs all the same."""

    def __init__(self, reason: str) -> None:
        self._reason = reason

    def _refuse(self) -> ObjectRefusedError:
        return ObjectRefusedError(self._reason)

    def put(self, path: str, buffers: Sequence[Buffer], *, if_version: str | None = None) -> str:
        """Refused."""
        raise self._refuse()

    def put_file(self, path: str, file: str, size: int) -> str:
        """Refused."""
        raise self._refuse()

    def get(self, path: str) -> tuple[bytes, str]:
        """Refused."""
        raise self._refuse()

    def get_range(self, path: str, start: int, length: int) -> memoryview:
        """Refused."""
        raise self._refuse()

    def list(self, prefix: str, after: str = "") -> Sequence[tuple[str, int]]:
        """Refused."""
        raise self._refuse()

    def folders(self, prefix: str = "") -> Sequence[str]:
        """Refused."""
        raise self._refuse()

    def delete(self, paths: Sequence[str]) -> None:
        """Refused."""
        raise self._refuse()
