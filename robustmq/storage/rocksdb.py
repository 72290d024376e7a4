"""RocksDB, by rocksdict: the key-value store of a shard where plyvel has no wheel (Python 3.13 and
later), or where `storage.key_value` asks for it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from rocksdict import BlockBasedOptions, Cache, Options, Rdict, WriteBatch, WriteOptions

from robustmq.storage.kv import Change, KeyValueSettings

BLOOM_BITS = 10
OPEN_FILES = 64
KEPT_LOGS = 2
LOG_BYTES = 1024 * 1024


class RocksDb:
    """A folder of RocksDB; keys and values are raw bytes."""

    def __init__(self, path: str, settings: KeyValueSettings) -> None:
        table = BlockBasedOptions()
        table.set_block_cache(Cache(settings.cache_bytes))
        table.set_bloom_filter(BLOOM_BITS, False)
        options = Options(raw_mode=True)
        options.create_if_missing(True)
        options.set_block_based_table_factory(table)
        options.set_write_buffer_size(settings.write_buffer_bytes)
        options.set_max_open_files(OPEN_FILES)
        # Its own log of what it does, not of what is written.
        options.set_keep_log_file_num(KEPT_LOGS)
        options.set_max_log_file_size(LOG_BYTES)
        # Any: with raw_mode keys and values are bytes, which the types of the package cannot say.
        self._db: Any = Rdict(path, options)
        self._sync = WriteOptions()
        self._sync.sync = True
        self._behind = WriteOptions()

    def get(self, key: bytes) -> bytes | None:
        """The value of a key."""
        value: bytes | None = self._db.get(key)
        return value

    def write(self, changes: Iterable[Change], sync: bool = False) -> None:
        """One write batch."""
        batch = WriteBatch(raw_mode=True)
        for key, value in changes:
            if value is None:
                batch.delete(key)
            else:
                batch.put(key, value)
        self._db.write(batch, self._sync if sync else self._behind)

    def range(self, start: bytes, stop: bytes) -> Iterator[tuple[bytes, bytes]]:
        """An ordered scan."""
        for key, value in self._db.items(from_key=start):
            if key >= stop:
                return
            yield key, value

    def close(self) -> None:
        """Close the files."""
        self._db.close()
