"""What of a shard's log is in the object store: the entries of light topics of mode tiered, in
objects for stretches of the log, at the positions that they have in it (docs/formats.md, "Object
storage").

It is what `ShardLog.read_light` asks when no local file has a position any more. Then what stood
there is in an object of the table, or gone for good (`Gone`); or nobody can say yet, as the
manifest, or the part of the object, is not at hand: that is `Away`, and a reader asks again.

The state (`ColdState`) is kept in LevelDB. It says up to where the log was looked at for what is to
be uploaded, up to where the store has it, and by which rules it was chosen, as those may change: a
local entry may go only when it was chosen, and only once this state is durable. Everything else
is in the shard's manifest.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Callable, Sequence
from typing import Protocol

import msgspec

from robustmq.core.filters import FilterTrie
from robustmq.errors import BrokerError, Fault
from robustmq.promises import Promise
from robustmq.storage.cold_segments import ColdSegment, ColdSegments
from robustmq.storage.log_files import Away, Gone
from robustmq.storage.lookups import Lookups

KEY = b"o"
MAX_ERAS = 64
"""So many changes of the rules are remembered; what was uploaded before stays here, too."""
MAX_KNOWN = 65_536
"""Topics of which it is remembered whether they are tiered."""
MAX_LOST = 64
MAX_IN_VAIN = 4096
TIERED = "tiered"

Rules = tuple[tuple[str, str], ...]
"""(filter, mode) in order of precedence; the last one has an empty filter, and is for the rest."""


class ColdRuns(Protocol):
    """Reads objects (`storage.cold_runs`)."""

    def read(self, row: ColdSegment, position: int, length: int) -> bytes | memoryview:
        """Bytes at a position of the log: fewer where a run ends. Raises Gone, Away, and
        STORAGE_FAILED or CORRUPT_RECORD."""
        ...

    def anew(self, row: ColdSegment, position: int) -> Promise[None] | None:
        """What was read there is damaged: it is fetched again, once."""
        ...


class Era(msgspec.Struct, frozen=True, array_like=True):
    """The rules by which entries from a position on were chosen."""

    begin: int
    rules: Rules


class Intent(msgspec.Struct, frozen=True, array_like=True):
    """An object that is being uploaded."""

    row: tuple[int, ...]
    """As the manifest will tell of it (`ColdSegment`)."""
    rules: Rules


class ColdState(msgspec.Struct, frozen=True, array_like=True):
    """What LevelDB keeps."""

    looked_to: int = 0
    """What is to be uploaded was, below this position."""
    uploaded_to: int = 0
    """The manifest has told of objects up to here."""
    eras: tuple[Era, ...] = ()
    intent: Intent | None = None


class LightModes:
    """Which light topics are tiered, by rules."""

    def __init__(self, rules: Rules) -> None:
        self.rules = rules
        self._trie = FilterTrie()
        for number, (pattern, _) in enumerate(rules):
            if pattern:
                self._trie.insert(pattern.encode(), number)
        self._rest = rules[-1][1] == TIERED if rules else False
        self._known: dict[bytes, bool] = {}
        self.any = any(mode == TIERED for _, mode in rules)
        """May any topic be?"""

    def tiered(self, topic: bytes) -> bool:
        """Is a light topic?"""
        if not self.any:
            return False
        known = self._known.get(topic)
        if known is None:
            if len(self._known) >= MAX_KNOWN:
                self._known.clear()
            numbers = [one for one in self._trie.match(topic) if isinstance(one, int)]
            known = self.rules[min(numbers)][1] == TIERED if numbers else self._rest
            self._known[topic] = known
        return known


class ColdLog:
    """The cold part of one shard's log."""

    def __init__(self, lookups: Lookups) -> None:
        self._lookups = lookups
        raw = lookups.get(KEY)
        self.state = ColdState() if raw is None else msgspec.msgpack.decode(raw, type=ColdState)
        self._eras: list[LightModes] = [LightModes(one.rules) for one in self.state.eras]
        self.table = ColdSegments()
        """The objects, by positions in the place of offsets; `loaded` says whether it is filled."""
        self.loaded = False
        self.failed = True
        """The manifest could not be read when it was asked for last, or there is no store."""
        self.durable_to = 0
        """LevelDB's state is synced that says that the log was looked at up to here."""
        self.certain = False
        """The manifest is this owner's, and tells what the table has."""
        self.runs: ColdRuns | None = None
        self.want: Callable[[], None] = lambda: None
        """Has the manifest read soon."""
        self._waiting: Promise[None] | None = None
        self._may_have: dict[bytes, bool] = {}
        self.lost: dict[tuple[bytes, int], Promise[None]] = {}
        """Batches, by topic and position, before which the last one is to be looked for."""
        self._in_vain: OrderedDict[tuple[bytes, int], None] = OrderedDict()

    # -- reading -----------------------------------------------------------------------------------

    def read(self, position: int, length: int) -> bytes | memoryview:
        """What stood at a position that no local file has. Raises Gone, Away, and what a store's
        failure or damage is."""
        row = self._row(position)
        assert self.runs is not None, "what was loaded can be read"
        return self.runs.read(row, position, length)

    def anew(self, position: int) -> Promise[None] | None:
        """What was read at a position is damaged. If it came from an object, it is fetched again
        once: settles when it has come."""
        try:
            row = self._row(position)
        except BrokerError:
            return None
        return self.runs.anew(row, position) if self.runs is not None else None

    def _row(self, position: int) -> ColdSegment:
        if position >= self.state.uploaded_to:
            raise Gone(position)
        if not self.loaded:
            if self.failed:
                self.want()
                raise BrokerError(Fault.STORAGE_FAILED, "the object store does not answer")
            raise Away(self._when_loaded())
        at = self.table.find(position)
        row = self.table[at] if at < len(self.table) else None
        if row is None or row.base_offset > position:
            raise Gone(position)
        return row

    def _when_loaded(self) -> Promise[None]:
        if self._waiting is None:
            self._waiting = Promise()
            self.want()
        return self._waiting

    def settle(self, loaded: bool) -> None:
        """The manifest was read, or could not be."""
        self.loaded = self.loaded or loaded
        self.failed = not loaded
        self.certain = loaded
        if self._waiting is not None:
            waiting, self._waiting = self._waiting, None
            waiting.resolve(None)

    def has(self, position: int) -> bool:
        """May an object have what stands, or stood, there?"""
        if position >= self.state.uploaded_to:
            return False
        if not self.loaded:
            return True
        at = self.table.find(position)
        return at < len(self.table) and self.table[at].base_offset <= position

    def way_round(self, topic: bytes, position: int) -> Promise[None] | None:
        """The batch there is lost, or with `blocks.UNKNOWN` where it leads to: the one before it is
        looked for. None: that was in vain. Raises STORAGE_FAILED when it cannot be looked for
        now."""
        if (topic, position) in self._in_vain:
            return None
        coming = self.lost.get((topic, position))
        if coming is None:
            if not self.certain or len(self.lost) >= MAX_LOST:
                raise BrokerError(Fault.STORAGE_FAILED, "the object store cannot be looked through")
            coming = self.lost[topic, position] = Promise()
            self.want()
        return coming

    def sought(self, topic: bytes, position: int, found: bool) -> None:
        """That was done."""
        if not found:
            self._in_vain[topic, position] = None
            if len(self._in_vain) > MAX_IN_VAIN:
                self._in_vain.popitem(last=False)
        coming = self.lost.pop((topic, position), None)
        if coming is not None:
            coming.resolve(None)

    def doubt(self) -> None:
        """The manifest may not be this owner's any more, or the store does not answer."""
        self.certain = False
        lost, self.lost = self.lost, {}
        for coming in lost.values():
            coming.resolve(None)

    # -- what was uploaded -------------------------------------------------------------------------

    def may_have(self, topic: bytes) -> bool:
        """May the store have anything of a topic: was it, as far as is known, ever tiered?"""
        if not self.state.uploaded_to:
            return False
        known = self._may_have.get(topic)
        if known is None:
            if len(self._may_have) >= MAX_KNOWN:
                self._may_have.clear()
            eras = self.state.eras
            # What was chosen by rules that are not known any more may be of any topic.
            forgotten = not eras or eras[0].begin > 0 or any(not one.rules for one in eras)
            known = forgotten or any(modes.tiered(topic) for modes in self._eras)
            self._may_have[topic] = known
        return known

    def chosen(self, topic: bytes, position: int) -> bool:
        """Need the entry of a topic that stands at a position not be here?"""
        return position < self.may_go_to and self.stored(topic, position)

    def stored(self, topic: bytes, position: int) -> bool:
        """Is the entry of a topic that stands at a position in the store, if it was needed?"""
        if position >= self.state.looked_to:
            return False
        for era, modes in zip(reversed(self.state.eras), reversed(self._eras), strict=True):
            if era.begin <= position:
                return modes.tiered(topic)
        return False

    @property
    def may_go_to(self) -> int:
        """What was chosen below this position need not be here: it is in the store, and after any
        crash that is known."""
        return min(self.state.looked_to, self.durable_to) if self.certain else 0

    def advance(self, end: int, modes: LightModes) -> None:
        """The log was looked at up to `end`, and by these modes nothing of it is to be in the
        store."""
        self._advance(end, modes.rules, self.state.uploaded_to)

    def intend(self, row: ColdSegment, modes: LightModes) -> None:
        """An object that was made by these modes is about to be uploaded. If nobody lives to hear
        that the manifest tells of it, the next owner knows what it has."""
        self._keep(msgspec.structs.replace(self.state, intent=Intent(tuple(row), modes.rules)))

    def add(self, row: ColdSegment) -> None:
        """That is done."""
        intent = self.state.intent
        assert intent is not None and intent.row == tuple(row), "it was about to be"
        self.table.add(row)
        self._advance(row.next_offset, intent.rules, row.next_offset)

    def take(self, table: ColdSegments, told: int, cut: bool) -> None:
        """The manifest was read: its objects, and up to where it tells of some; `cut`: the log
        ended before, so what lay behind is not told of any more."""
        self.table.exchange(table)
        if cut:
            kept = [one for one in self.state.eras if one.begin < told]
            self._eras = self._eras[: len(kept)]
            self._keep(ColdState(told, told, tuple(kept)))
        state = self.state
        if told > state.looked_to:
            intent, last = state.intent, table[-1] if len(table) else None
            known = intent is not None and last is not None and intent.row == tuple(last)
            # Else nobody knows by which rules entries were chosen: they stay here, too.
            self._advance(told, intent.rules if known and intent is not None else (), told)
        elif told > state.uploaded_to:
            self._keep(msgspec.structs.replace(state, uploaded_to=told))

    def adopt(self, end: int) -> None:
        """A lost disk was made again from the store, which has the log up to `end`: by which rules
        it was chosen nobody knows."""
        self._eras = [LightModes(())]
        self._keep(ColdState(end, end, (Era(0, ()),)))

    def _advance(self, end: int, rules: Rules, uploaded_to: int) -> None:
        state = self.state
        eras = list(state.eras)
        if not eras or eras[-1].rules != rules:
            eras.append(Era(state.looked_to, rules))
            self._eras.append(LightModes(rules))
        if len(eras) > MAX_ERAS:
            del eras[:1], self._eras[:1]
        self._keep(ColdState(end, uploaded_to, tuple(eras)))

    def _keep(self, state: ColdState) -> None:
        if state.eras != self.state.eras or not self.state.uploaded_to:
            self._may_have.clear()
        self.state = state
        self._lookups.put(KEY, msgspec.msgpack.encode(state))

    def forgettable_to(self) -> int:
        """No object has anything from before this position."""
        if not self.state.uploaded_to:
            return 1 << 63
        if not self.loaded:
            return 0
        return self.table.start_offset if len(self.table) else 1 << 63

    def drop(self, rows: Sequence[ColdSegment]) -> None:
        """Objects are gone."""
        gone = {row.base_offset for row in rows}
        fresh = ColdSegments()
        for row in self.table:
            if row.base_offset not in gone:
                fresh.add(row)
        self.table.exchange(fresh)
