"""Reading light topics: batches that lie scattered in the shard log, chained backwards (design
section 6).

The index knows only the last batch of a topic. A reader that wants an older one walks the chain
back once; what it finds is kept, for the topics read lately, as two arrays (base offset, position),
and appends extend them. Bounded by `max_rows` over all topics: the topic not read for longest is
forgotten first.

A topic begins where its chain ends: at its first batch, or where what lay before is gone
(`log_files.Gone`); nothing else has to remember it. Along a chain what is gone is older than what
is there. What is read from a disk is checked: the head of an entry by its seal, the batch by its
checksum. A batch that is damaged answers CORRUPT_MESSAGE for its offsets and nothing else. When it
is not known where an entry leads to (`blocks.UNKNOWN`), or nothing sound is there, what lies before
is looked for (`light_mending`); what is not found answers the same.
"""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections import OrderedDict
from collections.abc import Callable, Iterable, Iterator
from typing import NamedTuple

from robustmq.core import batches, blocks
from robustmq.core.batches import BatchInfo
from robustmq.core.blocks import UNKNOWN
from robustmq.core.hashing import topic_key
from robustmq.core.topic_index import NO_POSITION, TopicIndex
from robustmq.errors import BrokerError, Fault
from robustmq.promises import Promise
from robustmq.storage.engine import ReadResult
from robustmq.storage.light_mending import Found, Tear
from robustmq.storage.log_files import Away, Gone
from robustmq.storage.memory import find_time
from robustmq.storage.shard_log import MAX_ENTRY_BYTES, ShardLog

OTHER_PREFIX = b"\0\0"
"""Of what the index has that is no light topic."""
MAX_ROWS = 4_000_000
MAX_TEARS = 64
"""So many topics have something looked for at a time."""
MAX_MENDED = 65_536
CHAIN_ROWS = 16
"""What a chain counts beside its rows."""
MAX_SOUGHT = 64
"""So many look-ups by time are remembered that wait for the object store."""
_GREATEST = -3
LAST_BYTES = 512
"""So much is read at once where a batch begins."""


def is_dense(topic: bytes) -> bool:
    """Has a topic all offsets between its first and its last? A partition may lack some, and says
    itself where it begins (`shared`)."""
    return not topic.startswith(OTHER_PREFIX)


class _Head(NamedTuple):
    """What a block entry says before its batch."""

    length: int
    previous: int
    base_offset: int
    batch_size: int


_Entry = tuple[int, int, int, int, bytes]
"""(length, previous position, base offset, last offset, batch) of a block entry."""


class _Chain:
    """The known end of a topic's chain, oldest first. `whole`: nothing older is there; `torn`: what
    is older cannot be reached, until it is looked for from the `tear` on; `away`: it may be in the
    object store."""

    __slots__ = ("away", "offsets", "positions", "tear", "topic", "torn", "whole")

    def __init__(self, topic: bytes) -> None:
        self.topic = topic
        self.away = False
        self.offsets: array[int] = array("Q")
        self.positions: array[int] = array("Q")
        self.whole = False
        self.torn = False
        self.tear: Tear | None = None

    def forget(self, count: int) -> None:
        """The oldest ones are gone."""
        del self.offsets[:count], self.positions[:count]
        self.whole, self.torn = True, False

    def tear_at(self, before: int, offset: int, leads_to: int) -> None:
        """Before the batch at a position it leads on to none."""
        self.tear = Tear(self.topic, before & ~UNKNOWN, offset, leads_to)


class LightReader:
    """Reads of the light topics of one shard."""

    def __init__(self, log: ShardLog, index: TopicIndex, max_rows: int = MAX_ROWS) -> None:
        self._log = log
        self._index = index
        self._max_rows = max_rows
        self._chains: OrderedDict[bytes, _Chain] = OrderedDict()
        self._rows = 0
        # Of look-ups by time: up to which offset they have come, and the best they have met.
        self._sought: OrderedDict[tuple[bytes, int], tuple[int, tuple[int, int] | None]] = (
            OrderedDict()
        )
        self.bridges: dict[int, tuple[int, int]] = {}
        """Over what recovery has set aside: by the position of a batch that is lost, its base
        offset (or that of the first before it that is lost with it) and the position of the batch
        before that."""
        self.gap: Callable[[int], tuple[int, int] | None] = lambda position: None
        """The same over a batch that a store, from which a lost disk was made again, never had:
        readers go on behind it."""
        self.tears: OrderedDict[bytes, Tear] = OrderedDict()
        """Where something older is to be looked for, by topic: `mended` takes what comes of it."""
        # The same as `bridges`, of tears; None: nothing is there.
        self._mended: OrderedDict[int, tuple[int, int] | None] = OrderedDict()

    def mended(self, tear: Tear, found: Found | None) -> None:
        """What was looked for was found, or is not there."""
        lead = (found.end_offset, found.position) if found is not None else None
        self._mended[tear.leads_to] = lead
        if len(self._mended) > MAX_MENDED:
            self._mended.popitem(last=False)
        self.forget(tear.topic)

    def _look_for_more(self, chain: _Chain) -> bool:
        """May there be more behind a tear? Then it is looked for."""
        tear = chain.tear
        if tear is None or chain.away or tear.leads_to in self._mended:
            # What may be in the object store was looked for when it was read.
            return False
        if len(self.tears) < MAX_TEARS:
            self.tears[tear.topic] = tear
        return True

    def forget(self, topic: bytes) -> None:
        """The topic was deleted."""
        self._sought.clear()
        chain = self._chains.pop(topic, None)
        if chain is not None:
            self._rows -= len(chain.offsets) + CHAIN_ROWS

    def let_go(self) -> None:
        """Something of the log is gone: what is known of chains may be, too."""
        self._chains.clear()
        self._sought.clear()
        self._mended.clear()
        self._rows = 0

    def _may_be_away(self, topic: bytes) -> bool:
        """May the object store have something of a topic? Of others nobody asks it."""
        cold = self._log.cold
        return cold is not None and is_dense(topic) and cold.may_have(topic)

    def _read(self, position: int, length: int, away: bool) -> bytes | memoryview:
        return self._log.read_light(position, length) if away else self._log.read(position, length)

    def _head(self, topic: bytes, position: int, away: bool) -> _Head:
        """The head of the block entry at a position; with `away` also in the object store. What
        else is known of what stands there leads on when that is lost, or unknown. Raises Gone,
        Away, or CORRUPT_RECORD."""
        mended = self._mended.get(position)
        if mended is not None:
            return _Head(0, mended[1], mended[0], 0)
        bridge = self.bridges.get(position)
        if bridge is not None:
            # Whatever stands there: where it leads to may be what is damaged of it.
            if bridge[1] >= position and bridge[1] != NO_POSITION:
                # It is what the index knew last: nobody knows what lay before.
                raise BrokerError(Fault.CORRUPT_RECORD, f"nothing leads over {position}")
            return _Head(0, bridge[1], bridge[0], 0)
        try:
            _check_known(position)
            data = self._read(position, blocks.ENTRY_HEADER, away)
            head = blocks.stored_head(data, topic_key(topic))
            if head is None:
                # Its batch may prove all but where it leads to.
                entry = self._entry(topic, position, away, check_hot=True)
                head = *entry[:3], len(entry[4])
        except Gone:
            gap = self.gap(position)
            if gap is None:
                raise
            return _Head(0, gap[1], gap[0], 0)
        except BrokerError as error:
            if away and error.fault is Fault.CORRUPT_RECORD:
                raise self._log.lost_light(topic, position, error) from None
            raise
        return _Head._make(head)

    def _head_below(self, topic: bytes, position: int, end_offset: int, away: bool) -> _Head:
        """The same, where a batch stands that begins before an offset. What leads over a lost one
        may begin there, when the offsets behind it were skipped."""
        head = self._head(topic, position, away)
        if head.base_offset > end_offset or (head.base_offset == end_offset and head.length):
            raise BrokerError(Fault.CORRUPT_RECORD, f"no batch before {end_offset} at {position}")
        return head

    def _damaged(self, position: int, away: bool, reason: str) -> BrokerError:
        """What came from the object store is fetched again first."""
        if away:
            return self._log.damaged_light(position, reason)
        return BrokerError(Fault.CORRUPT_RECORD, reason)

    def _entry(
        self, topic: bytes, position: int, away: bool, named: bool = False, check_hot: bool = False
    ) -> _Entry:
        """The block entry at a position, by one read where it is small, and checked when it comes
        from a disk, or with `check_hot`; with `named` it has its name compared, too; with `away`
        also in the object store. Raises Gone, Away, or CORRUPT_RECORD."""
        if position in self.bridges:
            raise BrokerError(Fault.CORRUPT_RECORD, f"the batch at {position} is lost")
        _check_known(position)
        log, key, name = self._log, topic_key(topic), topic if named else b""
        piece = log.piece(position)
        if piece is not None:
            found = blocks.stored_batch(*piece, key, name, position, check_hot)
            if found is not None:
                log.hot_bytes_read += found[0]
        else:
            data = self._read(position, LAST_BYTES, away)
            found = blocks.stored_batch(data, 0, key, name, position, True)
            if found is not None and len(data) < found[0] <= MAX_ENTRY_BYTES:
                data = self._read(position, found[0], away)
                found = blocks.stored_batch(data, 0, key, name, position, True)
        if found is None or found[4] is None:
            raise self._damaged(position, away, f"the batch at {position} is damaged")
        return found  # type: ignore[return-value]

    def _last_batch(self, topic: bytes, position: int, offset: int) -> bytes | None:
        """The last batch of a topic when it holds an offset; None: whatever is wrong with it, the
        chain is walked."""
        try:
            away = self._may_be_away(topic)
            _, _, first, last, batch = self._entry(topic, position, away, True, True)
        except BrokerError:
            return None
        return batch if first <= offset <= last else None

    def _chain(self, topic: bytes, end_offset: int, last_position: int, offset: int) -> _Chain:
        """The chain of a topic, known back to the batch that holds `offset`, or to its end."""
        chain = self._chains.get(topic)
        if chain is None:
            chain = self._chains[topic] = _Chain(topic)
            self._rows += CHAIN_ROWS
        self._chains.move_to_end(topic)
        chain.away = self._may_be_away(topic)
        self._extend(chain, end_offset, last_position)
        if chain.offsets and not chain.whole and not chain.torn and chain.offsets[0] > offset:
            self._deepen(chain, offset)
        while self._rows > self._max_rows and len(self._chains) > 1:
            _, oldest = self._chains.popitem(last=False)
            self._rows -= len(oldest.offsets) + CHAIN_ROWS
        return chain

    def _extend(self, chain: _Chain, end_offset: int, last_position: int) -> None:
        """Learn what was appended since, up to an end."""
        known = chain.positions[-1] if chain.positions else -1
        if last_position == known:
            return
        offsets: list[int] = []
        positions: list[int] = []
        position = last_position
        broken: BrokerError | None = None
        while position not in (NO_POSITION, known):
            try:
                head = self._head_below(chain.topic, position, end_offset, chain.away)
            except BrokerError as error:
                if error.fault is Fault.STORAGE_FAILED:
                    raise
                broken = error
                break
            end_offset = head.base_offset
            offsets.append(end_offset)
            positions.append(position)
            position = head.previous
            if not chain.positions:
                break
        if broken is not None:
            # Of what was known before nothing is reached from here.
            self._rows -= len(chain.offsets)
            chain.forget(len(chain.offsets))
            chain.torn = not isinstance(broken, Gone)
            chain.whole = not chain.torn
        elif position == NO_POSITION:
            chain.whole = True
        chain.offsets.extend(reversed(offsets))
        chain.positions.extend(reversed(positions))
        if chain.torn:
            before = positions[-1] if positions else position
            chain.tear_at(before, end_offset, position)
        self._rows += len(offsets)

    def _deepen(self, chain: _Chain, offset: int) -> None:
        """Walk back to the batch that holds `offset`."""
        offsets: list[int] = []
        positions: list[int] = []
        first, position = chain.offsets[0], chain.positions[0]
        before = position
        unread: BrokerError | None = None
        try:
            position = self._head(chain.topic, position, chain.away).previous
            while position != NO_POSITION and first > offset:
                head = self._head_below(chain.topic, position, first, chain.away)
                first, before = head.base_offset, position
                offsets.append(first)
                positions.append(position)
                position = head.previous
            chain.whole = position == NO_POSITION
        except BrokerError as error:
            if error.fault is Fault.STORAGE_FAILED:
                # What was found is kept: whoever asks again goes on from there.
                unread = error
            else:
                chain.torn = not isinstance(error, Gone)
                chain.whole = not chain.torn
                chain.tear_at(before, first, position)
        offsets.reverse()
        positions.reverse()
        chain.offsets = array("Q", offsets) + chain.offsets
        chain.positions = array("Q", positions) + chain.positions
        self._rows += len(offsets)
        if unread is not None:
            raise unread

    def known_start(self, topic: bytes, start_offset: int) -> int:
        """Where a topic begins, as far as is known without a walk: not behind its first record."""
        chain = self._chains.get(topic)
        if chain is not None and chain.whole and chain.offsets and is_dense(topic):
            return max(start_offset, chain.offsets[0])
        return start_offset

    def start(self, topic: bytes, start_offset: int) -> int:
        """Where a topic begins: at `start_offset`, or where its chain ends."""
        if not is_dense(topic):
            return start_offset
        found = self._index.lookup(topic)
        if found is None:
            return start_offset
        end_offset, position = found
        if position == NO_POSITION:
            return end_offset
        if self._log.is_whole:
            return start_offset
        chain = self._chain(topic, end_offset, position, start_offset)
        if chain.torn:
            return start_offset
        if not chain.offsets:
            return end_offset
        return max(start_offset, chain.offsets[0]) if chain.whole else start_offset

    def high_watermark(self, topic: bytes) -> int:
        """The end of what is committed."""
        found = self._index.lookup(topic)
        if found is None:
            return 0
        next_offset, position = found
        committed = self._log.committed_position
        if position == NO_POSITION or position < committed:
            return next_offset
        while position != NO_POSITION and position >= committed:
            head = self._head(topic, position, False)
            position, next_offset = head.previous, head.base_offset
        return next_offset

    def held(
        self, topic: bytes, start_offset: int, max_batches: int, max_bytes: int
    ) -> tuple[int, int]:
        """(bytes, first offset) of the newest batches, so many of either at most, or one more. When
        damage hides the older ones, all of them are among those, and count nothing."""
        found = self._index.lookup(topic)
        offset, position = found if found is not None else (0, NO_POSITION)
        away = self._may_be_away(topic)
        size = count = 0
        while position != NO_POSITION and count < max_batches and size < max_bytes:
            if offset <= start_offset:
                break
            try:
                head = self._head(topic, position, away)
            except (Gone, Away):
                break
            except BrokerError as error:
                if error.fault is Fault.STORAGE_FAILED:
                    raise
                return size, start_offset
            if not head.length:
                offset, position = head.base_offset, head.previous
                continue
            size += head.batch_size
            count += 1
            offset, position = head.base_offset, head.previous
        return size, offset

    def read(
        self,
        topic: bytes,
        offset: int,
        max_bytes: int,
        start_offset: int = 0,
        committed: bool = True,
    ) -> ReadResult:
        """Whole (committed) batches from an offset on; what lies below `start_offset` was
        deleted."""
        found = self._index.lookup(topic)
        end_offset, last_position = found if found is not None else (0, NO_POSITION)
        if (
            offset == end_offset - 1
            and start_offset <= offset
            and last_position < self._log.committed_position
            and max_bytes > 0
        ):
            # Most reads are of what came last: the chain is not needed for it.
            last = self._last_batch(topic, last_position, offset)
            if last is not None:
                return ReadResult(end_offset, self.known_start(topic, start_offset), [last])
        high_watermark = self.high_watermark(topic)
        start = self.known_start(topic, start_offset)
        if not start <= offset <= end_offset:
            return self._out_of_range(topic, start_offset)
        until = high_watermark if committed else end_offset
        if offset >= until or max_bytes <= 0:
            return ReadResult(high_watermark, start)
        for again in (True, False):
            try:
                chain = self._chain(topic, end_offset, last_position, offset)
            except BrokerError as error:
                return _failed(error, high_watermark, start)
            first = chain.offsets[0] if chain.offsets else end_offset
            if offset < first and chain.torn:
                more = self._look_for_more(chain)
                fault = Fault.STORAGE_FAILED if more else Fault.CORRUPT_RECORD
                return ReadResult(high_watermark, start, [], False, fault.kafka)
            if offset < first and is_dense(topic):
                return ReadResult(high_watermark, first, [], True)
            start = self.known_start(topic, start_offset)
            try:
                return ReadResult(
                    high_watermark, start, self._batches(chain, offset, max_bytes, until)
                )
            except Gone:
                # What was known is old: walk again.
                self.forget(topic)
                if not again:
                    raise
            except BrokerError as error:
                return _failed(error, high_watermark, start)
        raise AssertionError("a chain that was walked again is there")

    def _out_of_range(self, topic: bytes, start_offset: int) -> ReadResult:
        high_watermark = self.high_watermark(topic)
        try:
            return ReadResult(high_watermark, self.start(topic, start_offset), [], True)
        except BrokerError as error:
            return _failed(error, high_watermark, self.known_start(topic, start_offset))

    def _batches(
        self, chain: _Chain, offset: int, max_bytes: int, high_watermark: int
    ) -> list[bytes | memoryview]:
        at = max(0, bisect_right(chain.offsets, offset) - 1)
        buffers: list[bytes | memoryview] = []
        size = 0
        while at < len(chain.offsets) and chain.offsets[at] < high_watermark:
            try:
                position = chain.positions[at]
                _, _, _, last_offset, batch = self._entry(chain.topic, position, chain.away)
            except BrokerError as error:
                if isinstance(error, Gone) and self.gap(position) is not None:
                    at += 1
                    continue
                if buffers:
                    break
                raise
            at += 1
            if last_offset < offset:
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
        """The first batch at or after a time; -3: the greatest time stamp. Raises Away; who asks
        again goes on where that was."""
        key = topic, timestamp_ms
        seen, best = self._sought.pop(key, (start_offset, None))
        try:
            for info in self._all(topic, max(seen, start_offset)):
                found = find_time((info,), timestamp_ms)
                if found is not None and timestamp_ms != _GREATEST:
                    return found
                if found is not None and (best is None or found[1] > best[1]):
                    best = found
                seen = info.base_offset + info.last_offset_delta + 1
        except Away:
            self._sought[key] = seen, best
            if len(self._sought) > MAX_SOUGHT:
                self._sought.popitem(last=False)
            raise
        return best

    def _all(self, topic: bytes, first: int) -> Iterable[BatchInfo]:
        found = self._index.lookup(topic)
        if found is None or found[1] == NO_POSITION:
            return
        chain = self._chain(topic, *found, first)
        at = max(0, bisect_right(chain.offsets, first) - 1)
        for position in chain.positions[at:]:
            try:
                batch = self._entry(chain.topic, position, chain.away)[4]
            except Away:
                raise
            except BrokerError:
                continue
            info = batches.validate(batch, 0, len(batch), False)
            # Behind the last batch before the beginning there may be a gap.
            if info.base_offset + info.last_offset_delta >= first:
                yield info

    def newest_from(self, topic: bytes, wanted: Callable[[int], bool]) -> int:
        """The first offset of a topic's newest batches that lie in local files, at positions that
        are all wanted; its end when the last one is none of them. Raises CORRUPT_RECORD."""
        found = self._index.lookup(topic)
        offset, position = found if found is not None else (0, NO_POSITION)
        while position != NO_POSITION and wanted(position):
            try:
                head = self._head(topic, position, False)
            except Gone:
                break
            offset, position = head.base_offset, head.previous
        return offset

    def newer_bytes(
        self, topic: bytes, enough: int, away: bool = False
    ) -> Iterator[tuple[int, int] | Promise[None]]:
        """Of a topic's batches, newest first: (base offset, bytes of it and all newer ones), until
        that is enough. One step reads one head. With `away` those in the object store, too: when
        the next is not at hand, a promise of it."""
        found = self._index.lookup(topic)
        position = found[1] if found is not None else NO_POSITION
        away = away and self._may_be_away(topic)
        size = 0
        while position != NO_POSITION and size < enough:
            try:
                head = self._head(topic, position, away)
            except Away as error:
                yield error.coming
                continue
            except BrokerError:
                return
            size += head.length
            yield head.base_offset, size
            position = head.previous

    def last_batches(self, topic: bytes, max_bytes: int) -> list[BatchInfo]:
        """Headers of the last batches, oldest first, of so many bytes at most."""
        found = self._index.lookup(topic)
        position = found[1] if found is not None else NO_POSITION
        away = self._may_be_away(topic)
        infos: list[BatchInfo] = []
        size = 0
        while position != NO_POSITION and size < max_bytes:
            try:
                length, position, _, _, batch = self._entry(topic, position, away)
            except BrokerError:
                break
            infos.append(batches.validate(batch, 0, len(batch), False))
            size += length
        infos.reverse()
        return infos


def _check_known(position: int) -> None:
    """Nobody knows what an entry leads to whose seal is broken: that is as damaged as it is."""
    if position & UNKNOWN:
        raise BrokerError(Fault.CORRUPT_RECORD, f"nothing leads on from {position ^ UNKNOWN}")


def _failed(error: BrokerError, high_watermark: int, start_offset: int) -> ReadResult:
    """What a reader is told: what is in the object store comes later."""
    if isinstance(error, Away):
        return ReadResult(high_watermark, start_offset, pending=error.coming)
    return ReadResult(high_watermark, start_offset, [], False, error.fault.kafka)
