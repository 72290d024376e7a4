"""The QoS 2 messages that a shard's log holds and whose publishers may send them again (4.3.3).

A home worker that dies between the append and PUBREC does not know whether the message is in the
log: its client sends it again with DUP, and the owner of the topic recognises it here. A message is
named by its publisher, its packet identifier and the generation of that identifier, which changes
each time the identifier is released: so what was remembered and never forgotten (a release that was
lost, a log read again after a crash) can never be taken for a newer message.

Kept in the log itself: recovery reads it from the entries (`learn`) behind the checkpoint's
`snapshot`. Bound: MAX_REMEMBERED a shard, the oldest is forgotten first.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Iterable

import msgspec

from robustmq.core import blocks
from robustmq.shard.placement import ENTRY_DUP, ENTRY_QOS2

MAX_REMEMBERED = 65536
GENERATION_AT = 5
"""Where an entry's head holds the generation (docs/formats.md, "Blocks")."""

Name = tuple[int, int]
"""(publisher, packet identifier and generation)"""

_decoder = msgspec.msgpack.Decoder(list[Name])


def packet_name(packet_id: int, generation: int) -> int:
    """A packet identifier in one of its generations."""
    return generation << 16 | packet_id


class ReceivedIds:
    """The names of one shard, oldest first."""

    def __init__(self) -> None:
        self._known: OrderedDict[Name, None] = OrderedDict()

    def without_repeated(self, block: bytearray) -> tuple[bytearray, list[Name]]:
        """The block without what is in the log already, and the names of what is new: `remember`
        them once they are appended."""
        kept = bytearray()
        fresh: list[Name] = []
        for entry in blocks.entries(block):
            if entry.flags & ENTRY_QOS2:
                name = _name_of(block, entry)
                if entry.flags & ENTRY_DUP and name in self._known:
                    continue
                fresh.append(name)
            kept += block[entry.begin : entry.end]
        return (block if len(kept) == len(block) else kept), fresh

    def remember(self, names: Iterable[Name]) -> None:
        """These are in the log."""
        known = self._known
        for name in names:
            known[name] = None
            if len(known) > MAX_REMEMBERED:
                known.popitem(last=False)

    def learn(self, block: bytes | bytearray | memoryview) -> None:
        """Recovery: a block of the log."""
        self.remember(
            _name_of(block, entry) for entry in blocks.entries(block) if entry.flags & ENTRY_QOS2
        )

    def forget(self, origin: int, packets: Iterable[int]) -> None:
        """A publisher's PUBREL has freed these."""
        for packet in packets:
            self._known.pop((origin, packet), None)

    def snapshot(self) -> bytes:
        """All names, for a checkpoint."""
        return msgspec.msgpack.encode(list(self._known))

    def restore(self, snapshot: bytes) -> None:
        """The names of a checkpoint."""
        self.remember(_decoder.decode(snapshot))


def _name_of(block: bytes | bytearray | memoryview, entry: blocks.EntryView) -> Name:
    return entry.origin, packet_name(entry.packet_id, block[entry.begin + GENERATION_AT])
