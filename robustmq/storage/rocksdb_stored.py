"""A partition of the RocksDB engine as operators' commands read it (`storage.engine`).

Its database is opened for reading alone, through a folder of links to its files: so nothing at all
is written beside them, the broker may have it open, and files that it lets go of meanwhile are read
to the end. What is seen is the state of one moment.

RocksDB checks the blocks that it reads. Where one is damaged, the batches that cannot be read are
told by their offsets, and the next one that can be is looked for. Checked beside: that a batch has
the offset of its key, that no bytes are missing between two batches, and that the rows of times,
which look-ups by time believe, say what the batches say.
"""

from __future__ import annotations

import os
import tempfile
from collections.abc import Iterable, Iterator
from typing import Any

from rocksdict import AccessType, Options, Rdict

from robustmq.core import batches
from robustmq.core.batches import BatchInfo
from robustmq.errors import BrokerError, Fault
from robustmq.storage.disk import RealDisk
from robustmq.storage.engine import PartitionSettings, StoredPartition, Unsound
from robustmq.storage.rocksdb_engine import POSITION_BYTES, RocksDbPartition, rows, times

TRIES = 10
"""A database changes its files while it is opened: then it is looked at again."""


class StoredRocksDb:
    """A partition's database, opened for reading."""

    def __init__(self, directory: str) -> None:
        # Any: as in rocksdb_engine.
        self._db: Any = _opened(directory)
        self._log = RocksDbPartition(directory, RealDisk(), PartitionSettings(), self._db)
        self.start_offset, self.end_offset = self._log.start_offset, self._log.end_offset
        self.size = self._log.size

    def last_batches(self, max_bytes: int) -> Iterable[BatchInfo]:
        """Headers of the last batches."""
        return self._log.last_batches(max_bytes)

    def batches(self) -> Iterator[bytes | memoryview | Unsound]:
        """All batches, and what is wrong."""
        offset, position = self.start_offset, 0 if self.start_offset == 0 else -1
        table = _Times(self._db)
        while offset < self.end_offset:
            try:
                for base_offset, value in rows(self._db, offset, True):
                    info = batches.validate(value, POSITION_BYTES, len(value), False)
                    at = int.from_bytes(value[:POSITION_BYTES], "little")
                    if 0 <= position != at:
                        yield Unsound(f"{at - position} bytes of batches are missing", offset)
                    if info.base_offset != base_offset:
                        yield Unsound(f"the batch there says offset {info.base_offset}", offset)
                    what = table.unlike(base_offset, info.max_timestamp)
                    if what:
                        yield Unsound(what, base_offset)
                    offset = base_offset + info.last_offset_delta + 1
                    position = at + info.length
                    yield memoryview(value)[POSITION_BYTES:]
                break
            except Exception as error:  # noqa: BLE001 (rocksdict knows no other)
                following = self._readable(offset)
                yield Unsound(f"cannot be read up to offset {following}: {error}", offset)
                offset, position = following, -1
        if 0 <= position != self._log.end_position:
            missing = self._log.end_position - position
            yield Unsound(f"{missing} bytes of batches are missing at the end", offset)
        if table.problem:
            yield Unsound(table.problem)

    def _readable(self, offset: int) -> int:
        """The first offset behind one that cannot be read from which on reading goes on."""
        step = 1
        while offset + step < self.end_offset and not self._can_be_read(offset + step):
            step *= 2
        bad, good = offset + step // 2, min(offset + step, self.end_offset)
        while good - bad > 1:
            middle = (bad + good) // 2
            bad, good = (bad, middle) if self._can_be_read(middle) else (middle, good)
        return good

    def _can_be_read(self, offset: int) -> bool:
        try:
            next(rows(self._db, offset, True), None)
        except Exception:  # noqa: BLE001 (rocksdict knows no other)
            return False
        return True

    def close(self) -> None:
        """Close the database."""
        self._db.close()


class _Times:
    """The rows of times, held against the batches as these are read."""

    def __init__(self, db: Any) -> None:
        self._rows = times(db)
        self.problem = ""
        """Why they cannot be read."""
        self._latest = -1
        self._row = self._next()

    def _next(self) -> tuple[int, int] | None:
        try:
            return next(self._rows, None)
        except Exception as error:  # noqa: BLE001 (rocksdict knows no other)
            self.problem = f"the table of times cannot be read: {error}"
            return None

    def unlike(self, base_offset: int, max_timestamp: int) -> str:
        """What they say of a batch that is not so."""
        what = ""
        while self._row is not None and self._row[1] <= base_offset:
            self._latest, offset = self._row
            if offset == base_offset and self._latest != max_timestamp:
                what = f"the table of times has {self._latest} for it"
            self._row = self._next()
        # Before the first row a batch that is gone may have had a later time stamp.
        if 0 <= self._latest < max_timestamp and not self.problem:
            what = what or "the table of times does not know its time stamp"
        return what


def _opened(directory: str) -> Any:
    options = Options(raw_mode=True)
    # All files are opened at once, so that none can go before it is read.
    options.set_max_open_files(-1)
    problem = ""
    for _ in range(TRIES):
        names = os.listdir(directory)
        if not names:
            break
        with tempfile.TemporaryDirectory(prefix="robustmq-rocksdb-") as links:
            for name in names:
                # rocksdict writes a file of its own wherever it opens a database.
                if name != "LOCK" and not name.endswith(".json"):
                    os.symlink(os.path.abspath(f"{directory}/{name}"), f"{links}/{name}")
            try:
                return Rdict(links, options, access_type=AccessType.read_only(False))
            except Exception as error:  # noqa: BLE001 (rocksdict knows no other)
                problem = str(error).replace(links, directory)
    if not problem:
        raise FileNotFoundError(directory)
    raise BrokerError(Fault.STORAGE_FAILED, problem)


def open_stored(directory: str) -> StoredPartition:
    """What the entry point names."""
    return StoredRocksDb(directory)
