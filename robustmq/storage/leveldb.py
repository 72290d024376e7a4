"""LevelDB, by plyvel: the key-value store of a shard wherever plyvel has a wheel."""

from __future__ import annotations

import errno
from collections.abc import Iterable, Iterator

import plyvel

from robustmq.storage.data_directory import DataDirectoryError
from robustmq.storage.kv import Change, KeyValueSettings


class LevelDb:
    """A folder of LevelDB."""

    def __init__(self, path: str, settings: KeyValueSettings) -> None:
        try:
            self._db = plyvel.DB(
                path,
                create_if_missing=True,
                lru_cache_size=settings.cache_bytes,
                write_buffer_size=settings.write_buffer_bytes,
                bloom_filter_bits=10,
                max_open_files=64,
            )
        except plyvel.CorruptionError as error:
            raise DataDirectoryError(
                f"{path} is damaged ({_words(error)}): restore the shard from a backup"
            ) from None
        except plyvel.IOError as error:
            raise OSError(errno.EIO, _words(error)) from None

    def get(self, key: bytes) -> bytes | None:
        """The value of a key."""
        value: bytes | None = self._db.get(key)
        return value

    def write(self, changes: Iterable[Change], sync: bool = False) -> None:
        """One write batch."""
        with self._db.write_batch(transaction=True, sync=sync) as batch:
            for key, value in changes:
                if value is None:
                    batch.delete(key)
                else:
                    batch.put(key, value)

    def range(self, start: bytes, stop: bytes) -> Iterator[tuple[bytes, bytes]]:
        """An ordered scan."""
        yield from self._db.iterator(start=start, stop=stop)

    def close(self) -> None:
        """Close the files."""
        self._db.close()


def _words(error: Exception) -> str:
    """plyvel's errors hold bytes."""
    said = error.args[0] if error.args else b""
    return said.decode(errors="replace") if isinstance(said, bytes) else str(said)
