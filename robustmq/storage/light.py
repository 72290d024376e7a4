"""Reading light topics: batches that lie scattered in the shard log, chained backwards (design
section 6).

The index knows only the last batch of a topic. A reader that wants an older one walks the chain
back once; what it finds is kept, for the topics read lately, as two arrays (base offset, position),
and appends extend them. Bounded by
`max_rows` over all topics: the topic not read for longest is forgotten first.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Iterable

from robustmq.core import batches, blocks
from robustmq.core.batches import BatchInfo
from robustmq.core.topic_index import TopicIndex
from robustmq.errors import BrokerError, Fault
from robustmq.storage.engine import ReadResult
from robustmq.storage.memory import find_time
from robustmq.storage.shard_log import ShardLog

NO_POSITION = 2**64 - 1
MAX_ROWS = 4_000_000


class _Chain:
    """The known end of a topic's chain, oldest first; `whole` when nothing older exists."""

    __slots__ = ("offsets", "positions", "whole")

    def __init__(self) -> None:
        self.offsets: array[int] = array("Q")
        self.positions: array[int] = array("Q")
        self.whole = False


class LightReader:
    """Reads of the light topics of one shard."""

    def __init__(self, log: ShardLog, index: TopicIndex, max_rows: int = MAX_ROWS) -> None:
        self._log = log
        self._index = index
        self._max_rows = max_rows
        self._chains: OrderedDict[bytes, _Chain] = OrderedDict()
        self._rows = 0

    def forget(self, topic: bytes) -> None:
        """The topic was deleted."""
        chain = self._chains.pop(topic, None)
        if chain is not None:
            self._rows -= len(chain.offsets)

    def _head(self, position: int) -> tuple[int, int, int]:
        """(entry length, previous position, base offset) of the block entry at a position."""
        head = self._log.read(position, blocks.ENTRY_HEADER)
        if len(head) < blocks.ENTRY_HEADER:
            raise BrokerError(Fault.CORRUPT_RECORD, f"no batch at {position}")
        length = int.from_bytes(head[0:4], "little")
        previous = int.from_bytes(head[24:32], "little")
        if length < blocks.ENTRY_HEADER or (previous >= position and previous != NO_POSITION):
            # A chain only leads back: so a damaged link cannot lead round and round.
            raise _damaged(position)
        return length, previous, int.from_bytes(head[32:40], "little")

    def _link(self, position: int, below: int) -> tuple[int, int]:
        """(previous position, base offset) of a batch whose offsets are below one."""
        _, previous, base_offset = self._head(position)
        if base_offset >= below:
            raise _damaged(position)
        return previous, base_offset

    def _batch(self, position: int) -> bytes:
        length, _, _ = self._head(position)
        entry = self._log.read(position, length)
        if len(entry) < length:
            raise BrokerError(Fault.CORRUPT_RECORD, f"no batch at {position}")
        data = bytes(entry)
        batch = data[blocks.batch_begin(data, 0) :]
        info = batches.validate(batch, 0, len(batch), True)
        if not info.crc_ok or info.length != len(batch) or batch[:8] != data[39:31:-1]:
            raise _damaged(position)
        return batch

    def _chain(self, topic: bytes, last_position: int, offset: int) -> _Chain:
        """The chain of a topic, known back to the batch that holds `offset`."""
        chain = self._chains.get(topic)
        if chain is None:
            chain = self._chains[topic] = _Chain()
        self._chains.move_to_end(topic)
        self._extend(chain, last_position)
        if not chain.whole and (not chain.offsets or chain.offsets[0] > offset):
            self._deepen(chain, offset)
        while self._rows > self._max_rows and len(self._chains) > 1:
            _, oldest = self._chains.popitem(last=False)
            self._rows -= len(oldest.offsets)
        return chain

    def _extend(self, chain: _Chain, last_position: int) -> None:
        """Learn what was appended since."""
        known = chain.positions[-1] if chain.positions else -1
        offsets: list[int] = []
        positions: list[int] = []
        position, below = last_position, NO_POSITION
        while position not in (NO_POSITION, known):
            previous, base_offset = self._link(position, below)
            offsets.append(base_offset)
            positions.append(position)
            position, below = previous, base_offset
            if not chain.positions:
                break
        chain.offsets.extend(reversed(offsets))
        chain.positions.extend(reversed(positions))
        self._rows += len(offsets)

    def _deepen(self, chain: _Chain, offset: int) -> None:
        """Walk back to the batch that holds `offset`."""
        offsets: list[int] = []
        positions: list[int] = []
        position = self._head(chain.positions[0])[1] if chain.positions else NO_POSITION
        first = chain.offsets[0] if chain.offsets else 0
        while position != NO_POSITION and first > offset:
            previous, first = self._link(position, first)
            offsets.append(first)
            positions.append(position)
            position = previous
        chain.whole = position == NO_POSITION
        offsets.reverse()
        positions.reverse()
        chain.offsets = array("Q", offsets) + chain.offsets
        chain.positions = array("Q", positions) + chain.positions
        self._rows += len(offsets)

    def high_watermark(self, topic: bytes) -> int:
        """The end of what is committed."""
        found = self._index.lookup(topic)
        if found is None:
            return 0
        next_offset, position = found
        while position != NO_POSITION and position >= self._log.committed_position:
            _, position, next_offset = self._head(position)
        return next_offset

    def held(
        self, topic: bytes, start_offset: int, max_batches: int, max_bytes: int
    ) -> tuple[int, int]:
        """(bytes, first offset) of the newest batches, so many of either at most, or one more."""
        found = self._index.lookup(topic)
        offset, position = found if found is not None else (0, NO_POSITION)
        size = count = 0
        while position != NO_POSITION and count < max_batches and size < max_bytes:
            if offset <= start_offset:
                break
            names = self._log.read(position, 16)
            length, previous, offset = self._head(position)
            named = int.from_bytes(names[6:8], "little") + int.from_bytes(names[14:16], "little")
            size += length - blocks.ENTRY_HEADER - named
            count += 1
            position = previous
        return size, offset

    def read(
        self,
        topic: bytes,
        offset: int,
        max_bytes: int,
        start_offset: int = 0,
        committed: bool = True,
    ) -> ReadResult:
        """Whole (committed) batches from an offset on; the topic begins at `start_offset`."""
        found = self._index.lookup(topic)
        end_offset, last_position = found if found is not None else (0, NO_POSITION)
        high_watermark = self.high_watermark(topic)
        if not start_offset <= offset <= end_offset:
            return ReadResult(high_watermark, start_offset, [], True)
        until = high_watermark if committed else end_offset
        if offset >= until or max_bytes <= 0 or last_position == NO_POSITION:
            return ReadResult(high_watermark, start_offset)
        try:
            return ReadResult(
                high_watermark,
                start_offset,
                self._batches(topic, last_position, offset, max_bytes, until),
            )
        except BrokerError as error:
            return ReadResult(high_watermark, start_offset, [], False, error.fault.kafka)

    def _batches(
        self, topic: bytes, last_position: int, offset: int, max_bytes: int, high_watermark: int
    ) -> list[bytes | memoryview]:
        chain = self._chain(topic, last_position, offset)
        at = max(0, bisect_right(chain.offsets, offset) - 1)
        buffers: list[bytes | memoryview] = []
        size = 0
        while at < len(chain.offsets) and chain.offsets[at] < high_watermark:
            batch = self._batch(chain.positions[at])
            at += 1
            if chain.offsets[at - 1] + int.from_bytes(batch[23:27], "big") < offset:
                # Offsets are missing behind it: the next one is meant.
                continue
            if buffers and size + len(batch) > max_bytes:
                break
            buffers.append(batch)
            size += len(batch)
        return buffers

    def offset_for_time(
        self, topic: bytes, timestamp_ms: int, start_offset: int = 0
    ) -> tuple[int, int] | None:
        """The first batch at or after a time; -3: the greatest time stamp."""
        return find_time(self._all(topic, start_offset), timestamp_ms)

    def _all(self, topic: bytes, first: int) -> Iterable[BatchInfo]:
        found = self._index.lookup(topic)
        if found is None or found[1] == NO_POSITION:
            return
        chain = self._chain(topic, found[1], first)
        at = max(0, bisect_right(chain.offsets, first) - 1)
        for position in chain.positions[at:]:
            batch = self._batch(position)
            yield batches.validate(batch, 0, len(batch), False)

    def last_batches(self, topic: bytes, max_bytes: int) -> list[BatchInfo]:
        """Headers of the last batches, oldest first, of so many bytes at most."""
        found = self._index.lookup(topic)
        position = found[1] if found is not None else NO_POSITION
        infos: list[BatchInfo] = []
        size = 0
        while position != NO_POSITION and size < max_bytes:
            length, previous, _ = self._head(position)
            batch = self._batch(position)
            infos.append(batches.validate(batch, 0, len(batch), False))
            size += length
            position = previous
        infos.reverse()
        return infos


def _damaged(position: int) -> BrokerError:
    return BrokerError(Fault.CORRUPT_RECORD, f"a damaged batch at {position}")
