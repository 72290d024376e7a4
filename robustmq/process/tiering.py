"""A worker's object store: opened after the fork, with threads of its own."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Sequence
from pathlib import Path

from robustmq import clock
from robustmq.observability import logs
from robustmq.observability.counters import Row
from robustmq.shard.surroundings import TierAround
from robustmq.storage.block_cache import BlockCache, CacheSettings
from robustmq.storage.cold_reader import ColdReader
from robustmq.storage.cold_runs import LogObjects
from robustmq.storage.cold_segments import ColdSegments
from robustmq.storage.disk import Buffer
from robustmq.storage.object_store import ObjectRefusedError, ObjectStore
from robustmq.storage.remote_store import open_object_store
from robustmq.storage.tier_threads import TierThreads
from robustmq.tiering_settings import TieringSettings, shown

log = logs.get_logger("tiering")


class Tiering:
    """The object store and its threads."""

    def __init__(
        self,
        settings: TieringSettings,
        loop: asyncio.AbstractEventLoop,
        directory: Path,
        worker: tuple[int, int],
        row: Row,
    ) -> None:
        """`directory` is the node's; `worker` the number of this one, and how many there are."""
        self._threads = TierThreads(
            "tier", settings.uploads + 1, lambda run: loop.call_soon_threadsafe(run)
        )
        store: ObjectStore
        try:
            store = open_object_store(settings)
        except (ObjectRefusedError, OSError) as error:
            log.error("the object store cannot be opened", store=shown(settings), reason=str(error))
            store = Refusing(str(error))
        else:
            log.info("object store", store=shown(settings))
        self.cache = BlockCache(
            store,
            cache_settings(settings, directory, worker),
            lambda run: loop.call_soon_threadsafe(run),
            lambda delay_ms, run: loop.call_later(delay_ms / 1000, run),
            clock.monotonic_ms,
            clock.monotonic_us,
            row.add,
            lambda level, text, **fields: getattr(log, level)(text, **fields),
        )
        self.cache.start()
        self._row = row
        self.around = TierAround(
            store, self._threads.submit, self._reader, lambda prefix: LogObjects(self.cache, prefix)
        )

    def _reader(self, prefix: str, cold: ColdSegments) -> ColdReader:
        return ColdReader(self.cache, prefix, cold)

    def meter(self) -> None:
        """Set the gauges."""
        cache = self.cache
        self._row.set("storage_tier_cache_memory_bytes", cache.memory_bytes)
        self._row.set("storage_tier_cache_disk_bytes", cache.disk_bytes)
        self._row.set("storage_tier_fetches_in_flight", cache.in_flight)
        self._row.set("storage_tier_reads_unavailable", int(cache.is_down))

    def close(self) -> None:
        """No job begins any more."""
        self._threads.close()
        self.cache.close()


def cache_settings(
    settings: TieringSettings, directory: Path, worker: tuple[int, int]
) -> CacheSettings:
    """Each worker has a folder and a share of its own: a shard stays with its worker while the
    node runs, so no two of them want the same blocks. Folders of workers that are no more go."""
    number, workers = worker
    place = Path(settings.cache_directory) if settings.cache_directory else directory / "tier-cache"
    share = settings.cache_disk_bytes // workers
    kept = range(workers) if share else ()
    if number == 0:
        for folder in place.glob("worker-*"):
            if folder.name not in {f"worker-{one}" for one in kept}:
                shutil.rmtree(folder, ignore_errors=True)
    return CacheSettings(
        settings.cache_memory_bytes,
        settings.prefetch_bytes,
        settings.block_bytes,
        share,
        str(place / f"worker-{number}") if share else "",
    )


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
