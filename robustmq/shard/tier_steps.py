"""What the work on shards' logs and their objects is made of: steps of a generator that
`shard.light_tiers` drives, and what they go by for one shard."""

from __future__ import annotations

from collections.abc import Callable, Generator
from typing import Any

import msgspec

from robustmq.promises import Promise
from robustmq.shard.file_cleaning import Step
from robustmq.storage.cold_segments import ColdSegment
from robustmq.storage.log_files import LogFile
from robustmq.storage.manifest import LOG, Manifest, object_name
from robustmq.storage.shard_store import ShardStore


class Apart(msgspec.Struct, frozen=True):
    """What a thread of the tier does before the work goes on, which gets what it returns."""

    work: Callable[[], Any]


class Wait(msgspec.Struct, frozen=True):
    """The work goes on when this settles."""

    until: Promise[None]


TierSteps = Generator[Step | Apart | Wait | None, Any, None]


class Look(msgspec.Struct):
    """What is known of an object: it is needed from this slot on; when that was found, and when it
    is worth another look."""

    at_ms: int
    wait_ms: int
    slot: int = 0
    deletions: int = -1


class ShardTier:
    """One shard's way to the store."""

    def __init__(self, shard: int, store: ShardStore, prefix: str) -> None:
        self.shard = shard
        self.store = store
        self.cold = store.cold
        self.prefix = prefix
        self.manifest: Manifest | None = None
        self.epoch = 0
        self.stopped = ""
        """Why nothing is uploaded any more."""
        self.looks: dict[int, Look] = {}

    def path(self, row: ColdSegment) -> str:
        """That of an object."""
        return self.prefix + object_name(row.base_offset, row.leader_epoch) + LOG

    def waiting(self) -> LogFile | None:
        """The closed and synced file that is to be looked at next."""
        begin, end = self.cold.state.looked_to, self.store.durable_checkpoint
        closed = self.store.log.files.files[:-1]
        return next((one for one in closed if begin < one.end <= end), None)
