"""What light topics of mode tiered have in the shards' logs, brought to the object store: a cursor
on each log of this worker (docs/formats.md, "Object storage").

Closed files of a log are looked at in order, once each: what of them belongs to such topics becomes
one object, at the positions it has in the log, however many topics there are. Then the manifest
tells of it, then the state of the shard's cold log says so; the cleaning of the local files may let
it go once that is durable (`shard.file_cleaning`). A file is looked at when it lies below the last
checkpoint: it is synced then, so that nothing is in the store that a loss of power could undo. One
that was open for LONGEST_OPEN_MS is closed, so a shard with little to do is not behind for longer.

Objects go as a whole, when nothing in them is needed: by time at once, and otherwise found by looks
from the first entry that was needed the last time, with growing pauses. What is not needed stays
so; what that rests on is committed before an object goes.

Of all shards of a worker one thing happens at a time: a step on the loop for SLICE_US, on the
storage thread, or on a thread of the tier. A store that fails is left alone for a while; a shard
whose manifest has another owner, or lacks what was let go here, stops, and says why.
"""

from __future__ import annotations

from array import array
from collections.abc import Callable, Generator, Iterator, Sequence
from typing import TYPE_CHECKING, Any

from robustmq.core.blocks import UNKNOWN, EntryView
from robustmq.core.hashing import topic_secret
from robustmq.errors import BrokerError
from robustmq.promises import Promise
from robustmq.shard.cold_mending import way_round
from robustmq.shard.file_cleaning import LOOK_EVERY, SLICE_US, Step
from robustmq.shard.light_needs import Cleanable, LightNeeds
from robustmq.shard.room import DISK_RESERVE_BYTES
from robustmq.shard.tier_steps import Apart, Look, ShardTier, TierSteps, Wait
from robustmq.storage.cleaned_log import (
    CleanedWriter,
    Slots,
    Span,
    runs,
    slot_area,
)
from robustmq.storage.cold_log import LightModes
from robustmq.storage.cold_scan import read_index
from robustmq.storage.cold_segments import ColdSegment, ColdSegments
from robustmq.storage.light import is_dense
from robustmq.storage.light_retention import NO_LIMIT
from robustmq.storage.log_files import LogFile
from robustmq.storage.log_survey import Entry, Judge, Piece, Pieces, entries, judged, named
from robustmq.storage.manifest import (
    MAX_DOOMED,
    SECRET,
    DamagedError,
    FencedError,
    Head,
    Manifest,
    TopicInfo,
    log_prefix_of,
)
from robustmq.storage.object_store import ObjectMissingError, ObjectStoreError

if TYPE_CHECKING:
    from robustmq.shard.broker import Broker

LONGEST_OPEN_MS = 600_000
"""A file is closed after this, so that its records are in the store soon."""
FILES = 4
"""Files of a shard that are looked at before others have their turn."""
LOOKS = 16
"""Objects of a shard that are looked at before others have their turn."""
LOOK_BYTES = 256 * 1024
FIRST_WAITS = 4
"""The first pause between two looks at an object, in storage.retention_check_s."""
LONGEST_WAIT_MS = 6 * 3_600_000
"""They grow up to this."""
ROOM_BESIDE = 2 * DISK_RESERVE_BYTES
"""So much is to be free beside an object that is made on the local disk."""
FIRST_PAUSE_MS = 200
MIN_PAUSE_US = 500


class LightTiers:
    """The cursors of one worker."""

    def __init__(self, broker: Broker) -> None:
        """The broker has its stores, commits and the cleaning of its logs."""
        around = broker.around
        self._broker = broker
        self._around = around
        self._tier = around.tier
        self._needs = LightNeeds(True)
        self._shards: dict[int, ShardTier] = {}
        self._steps: TierSteps | None = None
        self._working: ShardTier | None = None
        self._round: Iterator[ShardTier] = iter(())
        self._due_ms = 0
        self._pause_ms = 0
        self._looks_left = 0
        self._copying = False
        """The object of a file is being made on the local disk."""
        self._cramped = False
        """There was no room for it when it was looked for last."""
        self.last_error = ""
        self.longest_open_ms = LONGEST_OPEN_MS
        self.first_wait_ms = FIRST_WAITS * broker.settings.storage.retention_check_s * 1000

    @property
    def _modes(self) -> LightModes:
        return self._broker.log_cleaning.modes

    # -- rounds ------------------------------------------------------------------------------------

    def tick(self) -> None:
        """Twenty times a second: begin with the next shard when it is due."""
        if self._copying and self._broker.owner.room.is_full:
            self._give_copy_up()
        if self._tier is None or self._steps is not None:
            return
        if self._broker.draining:
            return
        if self._broker.uploader.fenced:
            self._cease()
            return
        one = next(self._round, None)
        if one is not None:
            self._begin(one)
            return
        now = self._around.monotonic_ms()
        if now >= self._due_ms:
            pause = self._pause_ms or self._broker.settings.storage.tiering.check_ms
            self._due_ms = now + pause
            # First those whose readers may wait for a manifest.
            shards = sorted(self._shards.values(), key=lambda one: one.manifest is not None)
            self._round = iter(shards)

    def attach(self) -> None:
        """The shards of this worker are open: what of them is in the store may be asked for."""
        tier = self._tier
        if tier is None:
            return
        for shard, store in self._broker.stores.items():
            prefix = log_prefix_of(self._broker.cluster.cluster_id, shard)
            self._shards[shard] = ShardTier(shard, store, prefix)
            store.drop_copy()
            store.cold.runs = tier.runs(prefix)
            store.cold.failed = False
            store.cold.want = self._wanted

    def _cease(self) -> None:
        """Another cluster has the store: it is not written to, and no local file goes any more."""
        for one in self._shards.values():
            one.cold.doubt()
            if not one.cold.loaded:
                one.cold.settle(False)

    def _wanted(self) -> None:
        """A reader waits for a manifest."""
        if not self._pause_ms:
            self._due_ms = 0

    def _begin(self, one: ShardTier) -> None:
        used = self._modes.any or one.cold.state.uploaded_to
        if used and not one.stopped:
            self._working, self._steps = one, self._work(one)
            self._go_on(self._steps, None)

    def _go_on(self, steps: TierSteps, result: Any) -> None:
        """Let the steps go on until they want a thread, or have had their slice."""
        if steps is not self._steps:
            # They were given up.
            return
        assert self._working is not None, "something is done"
        if self._broker.draining:
            # What is half done the next start drops.
            self._steps = None
            return
        try:
            failed = isinstance(result, Exception)
            step = steps.throw(result) if failed else steps.send(result)
        except StopIteration:
            self._steps = None
            return
        except (ObjectStoreError, BrokerError, OSError) as error:
            self._steps = None
            self._failed(self._working, error)
            return
        self._do(steps, step)

    def _do(self, steps: TierSteps, step: Step | Apart | Wait | None) -> None:
        around = self._around
        if step is None:
            self._later(steps, MIN_PAUSE_US)
        elif isinstance(step, Wait):
            step.until.when_settled(lambda: self._later(steps, 0))
        elif isinstance(step, Apart):
            assert self._tier is not None, "there is a store"
            self._tier.submit(step.work, lambda result: self._go_on(steps, result))
        else:
            assert self._working is not None, "something is done"
            found: list[Any] = []
            work = step.work
            done = self._working.store.run(lambda: found.append(work()), step.size)
            done.when_settled(lambda: self._later(steps, MIN_PAUSE_US, found))
            around.kick()

    def _later(self, steps: TierSteps, pause_us: int, found: Sequence[Any] = (None,)) -> None:
        """Let the steps go on with what the last one has found."""
        self._around.call_later(pause_us, lambda: self._go_on(steps, found[0]))

    def _give_copy_up(self) -> None:
        """The disk is full: what is half made for an upload takes room that others need."""
        assert self._working is not None, "something is done"
        self._steps, self._copying = None, False
        self._working.store.drop_copy()

    def _failed(self, one: ShardTier, error: Exception) -> None:
        self._copying = False
        one.store.drop_copy()
        one.manifest = None
        one.cold.doubt()
        if not one.cold.loaded:
            one.cold.settle(False)
        self.last_error = str(error)
        if isinstance(error, FencedError | DamagedError):
            self._stop(one, str(error))
        elif isinstance(error, ObjectStoreError):
            self._around.count("storage_tier_errors", 1)
            if not self._pause_ms:
                self._around.log(
                    "error",
                    "the object store does not answer: logs of shards wait, local copies stay",
                    reason=str(error),
                )
            longest = self._broker.settings.storage.tiering.retry_max_ms
            self._pause_ms = min(max(FIRST_PAUSE_MS, 2 * self._pause_ms), longest)
            self._due_ms = self._around.monotonic_ms() + self._pause_ms
            self._round = iter(())

    def _stop(self, one: ShardTier, reason: str) -> None:
        one.stopped = self.last_error = reason
        self._around.log(
            "error",
            "the log of a shard is not tiered any more until the worker starts again",
            shard=one.shard,
            reason=reason,
        )

    # -- one shard ---------------------------------------------------------------------------------

    def _work(self, one: ShardTier) -> TierSteps:
        if one.manifest is None:
            yield from self._load(one)
        if one.manifest is None:
            return
        if self._pause_ms:
            self._pause_ms = 0
            self._around.log("info", "the object store answers again")
        if one.manifest.is_going:
            yield Apart(one.manifest.remove)
        while one.cold.lost:
            yield from self._lead_over(one, *next(iter(one.cold.lost)))
        self._close_old(one)
        for _ in range(FILES):
            # Asked for anew: files become others while one is looked at.
            file = one.waiting()
            if file is None or not self._has_room(file):
                break
            yield from self._look_at(one, one.manifest, file)
        else:
            # There may be more.
            self._due_ms = 0
        yield from self._free(one, one.manifest)

    def _lead_over(self, one: ShardTier, topic: bytes, position: int) -> TierSteps:
        """A batch is lost, or where it leads to: readers of its topic go on with the one before."""
        assert self._tier is not None, "there is a store"
        found = yield from way_round(one, self._tier.store, topic, position & ~UNKNOWN)
        led = found is not None and one.store.light.lead_over(position, *found)
        one.cold.sought(topic, position, led)

    def _load(self, one: ShardTier) -> TierSteps:
        assert self._tier is not None, "there is a store"
        cluster = self._broker.cluster
        one.epoch = cluster.shard_epoch(one.shard)
        configs = {SECRET: topic_secret().hex()}
        info = TopicInfo(b"", bytes(16), cluster.shard_count, configs)
        head = Head(cluster.cluster_id, info, one.shard, one.epoch)
        manifest = Manifest(self._tier.store, one.prefix, head)
        end = one.store.committed_position

        known = one.cold.state.uploaded_to

        def load() -> tuple[ColdSegments, bool]:
            rows = manifest.load()
            cut = manifest.head.end_offset > end
            if cut:
                rows = manifest.cut(end, rows)
            if cut or manifest.head.end_offset >= known:
                manifest.sweep()
            table = ColdSegments()
            for row in rows:
                table.add(row)
            return table, cut

        table, cut = yield Apart(load)
        told = manifest.head.end_offset
        if told < known and not cut:
            self._stop(
                one,
                f"the store ends at position {told}, and what was uploaded at {known}:"
                " is storage.tiering.url what it was?",
            )
            one.cold.settle(False)
            return
        one.cold.take(table, told, cut)
        self._changed(one)
        one.manifest = manifest
        one.cold.settle(True)

    def _changed(self, one: ShardTier) -> None:
        """The state of the cold log is another: the next commit keeps it."""
        self._broker.commits.mark(one.shard, True)

    def _committed(self) -> TierSteps:
        """What this worker's shards hold now is synced, before what it no longer needs goes."""
        for shard in list(self._shards):
            done: Promise[None] = Promise()
            self._broker.commits.mark(shard, True, lambda done=done: done.resolve(None))  # type: ignore[misc]
            yield Wait(done)

    def _close_old(self, one: ShardTier) -> None:
        """A file that has been open for long is closed; what is closed gets a checkpoint."""
        store = one.store
        table = store.log.files.files
        if not table or not self._modes.any:
            return
        due_ms = self._around.wall_ms() - self.longest_open_ms
        if store.log.open_blocks > 0 and table[-1].first_ms < due_ms:
            self._broker.log_cleaning.roll(one.shard)
        closed = [file for file in table[:-1] if file.end > store.durable_checkpoint]
        if any(file.first_ms < due_ms for file in closed):
            store.checkpoint_wanted = True
        if store.durable_checkpoint < store.checkpoint_position:
            # It may be that nobody has anything to commit, with which it would be made.
            self._around.kick()
        local_ms = self._broker.log_cleaning.retention.longest_local_ms
        late_ms = self._around.wall_ms() - local_ms if local_ms > NO_LIMIT else 0
        cold = one.cold
        if not store.needs_checkpoint and any(
            cold.durable_to < file.end <= cold.state.looked_to and file.last_ms < late_ms
            for file in table[:-1]
        ):
            # That they are in the store is to be synced, so that they need not be here.
            self._broker.log_cleaning.touch(one.shard)
            store.checkpoint_wanted = True

    # -- uploading ---------------------------------------------------------------------------------

    def _has_room(self, file: LogFile) -> bool:
        """Can an object of a file be made, and others go on to write beside it?"""
        if self._broker.owner.room.is_full:
            return False
        _, total, free = self._around.space()
        cramped = total >= 0 and free < file.size + ROOM_BESIDE
        if cramped and not self._cramped:
            self._around.log(
                "error",
                "there is no room on the disk for what is to be uploaded: it waits",
                free=free,
                wanted=file.size + ROOM_BESIDE,
            )
        self._cramped = cramped
        return not cramped

    def _look_at(self, one: ShardTier, manifest: Manifest, file: LogFile) -> TierSteps:
        """Have what is to be in the store of a file uploaded."""
        cold, store, modes = one.cold, one.store, self._modes
        begin = cold.state.looked_to
        if not modes.any and not cold.state.uploaded_to:
            cold.advance(file.end, modes)
            self._changed(one)
            return
        self._copying = True
        size = yield from self._copy(one, file, modes, begin)
        self._copying = False
        if size <= 0:
            store.drop_copy()
        if size < 0:
            if file in store.log.files.files:
                # Bad bytes: it stays here, whole.
                cold.advance(file.end, LightModes(()))
                self._changed(one)
            return
        if not size:
            cold.advance(file.end, modes)
            self._changed(one)
            return
        assert self._tier is not None, "there is a store"
        objects, base = self._tier.store, max(begin, file.start)
        row = ColdSegment(base, file.end, size, file.last_ms, one.epoch)
        cold.intend(row, modes)
        self._changed(one)

        def upload() -> None:
            objects.put_file(one.path(row), store.copy_path, size)
            manifest.add(row)

        began = self._around.monotonic_ms()
        yield Apart(upload)
        cold.add(row)
        self._changed(one)
        self._around.count("storage_tier_segments_uploaded", 1)
        self._around.count("storage_tier_bytes_uploaded", size)
        store.drop_copy()
        rate = self._broker.settings.storage.tiering.upload_bytes_per_second
        left_ms = size * 1000 // rate - (self._around.monotonic_ms() - began) if rate else 0
        if left_ms > 0:
            rested: Promise[None] = Promise()
            self._around.call_later(left_ms * 1000, lambda: rested.resolve(None))
            yield Wait(rested)

    def _copy(
        self, one: ShardTier, file: LogFile, modes: LightModes, begin: int
    ) -> Generator[Step | None, Any, int]:
        """Write the object of a file beside the log; its size, 0: there is nothing to upload, -1:
        bad bytes were met, or the file is gone."""
        disk, path = one.store.disk, one.store.copy_path
        judged_at = one.store.end_position
        judge, told = _choice(one, modes, begin)
        writer = CleanedWriter()
        if file.cleaned:
            one.store.log.files.slots(file)
        pieces = Pieces(disk, file)
        one.store.drop_copy()
        while True:
            found = yield Step(pieces.read)
            if not found:
                break
            begun = self._around.monotonic_us()
            for kept in _chosen(found, judge, told, begin):
                if isinstance(kept, tuple):
                    writer.add(*kept)
                elif not kept:
                    return -1
                elif self._around.monotonic_us() - begun > SLICE_US:
                    yield None
                    begun = self._around.monotonic_us()
            buffers = writer.take()
            if buffers:
                yield Step(lambda out=buffers: disk.append(path, out), sum(map(len, buffers)))  # type: ignore[misc]
        if not pieces.sound or file not in one.store.log.files.files:
            return -1
        if not writer.kept_bytes:
            return 0
        start = max(begin, file.start)
        span = Span(start, file.end, file.first_ms, file.last_ms, judged_at)
        buffers, size = writer.finish(span)
        yield Step(lambda: disk.append(path, buffers), sum(map(len, buffers)))
        return size

    # -- letting go --------------------------------------------------------------------------------

    def _free(self, one: ShardTier, manifest: Manifest) -> TierSteps:
        """Objects go of which nothing is needed."""
        now_ms = self._around.wall_ms()
        longest_ms = self._broker.log_cleaning.retention.longest_ms
        self._needs.begin_round()
        dead: list[ColdSegment] = []
        oldest = True
        self._looks_left = LOOKS
        for row in list(one.cold.table):
            over = NO_LIMIT < longest_ms < now_ms - row.max_time
            if over or (yield from self._is_dead(one, row, now_ms, oldest)):
                dead.append(row)
            else:
                oldest = False
            if len(dead) == MAX_DOOMED:
                break
        if not dead:
            return
        yield from self._committed()
        yield Apart(lambda: manifest.drop(dead))
        one.cold.drop(dead)
        one.store.light.let_go()
        for row in dead:
            one.looks.pop(row.base_offset, None)
        self._around.count("storage_tier_segments_removed", len(dead))
        yield Apart(manifest.remove)

    def _is_dead(
        self, one: ShardTier, row: ColdSegment, now_ms: int, oldest: bool
    ) -> Generator[Step | Apart | Wait | None, Any, bool]:
        """Is nothing of an object needed? Looks when that may have changed; `oldest`: no object
        before it is left, so nothing need be known to be deleted there."""
        light, retention = one.store.light, self._broker.log_cleaning.retention
        look = one.looks.get(row.base_offset)
        if look is None:
            look = one.looks[row.base_offset] = Look(now_ms, self.first_wait_ms)
        changed = look.deletions != light.deletions or not retention.is_plain
        if not changed or now_ms - look.at_ms < look.wait_ms or not self._looks_left:
            return False
        self._looks_left -= 1
        look.at_ms, look.deletions = now_ms, light.deletions
        look.wait_ms = min(2 * look.wait_ms, LONGEST_WAIT_MS)
        try:
            return (yield from self._looked(one, row, look, oldest))
        except ObjectMissingError:
            # It is gone, or shorter than it was: that is for who reads it.
            return False

    def _looked(
        self, one: ShardTier, row: ColdSegment, look: Look, oldest: bool
    ) -> Generator[Step | Apart | Wait | None, Any, bool]:
        assert self._tier is not None, "there is a store"
        objects, path = self._tier.store, one.path(row)

        slots: Slots | None = yield Apart(lambda: read_index(objects, path, row.size))
        retention = self._broker.log_cleaning.retention
        on = Cleanable(one.store, retention, self._around.wall_ms(), array("Q"), False)
        # With no modes nothing is judged as if it were needed here alone.
        lives = self._needs.judge(on, False).block
        while slots is not None and look.slot < len(slots.offsets):
            begin, end = slot_area(slots, look.slot)
            following = look.slot + 1
            while following < len(slots.offsets) and slot_area(slots, following)[1] - begin <= (
                LOOK_BYTES
            ):
                end = slot_area(slots, following)[1]
                following += 1
            data = yield Apart(lambda begin=begin, end=end: get(objects, path, begin, end))  # type: ignore[misc]
            found, whole = runs(data)
            pieces = [
                (run.position, memoryview(data)[run.begin : run.begin + run.length])
                for run in found
            ]
            for piece in pieces:
                if (yield from self._needed_in(piece, lives, oldest)):
                    return False
            if not whole:
                # Damaged: nobody knows what it has. It stays until its time is over.
                return False
            look.slot = following
        return slots is not None

    def _needed_in(
        self, piece: Piece, lives: Any, oldest: bool
    ) -> Generator[Step | Apart | Wait | None, Any, bool]:
        """Is anything of a piece of an object needed?"""
        judge = Judge(lives, lambda position: False)
        begun = self._around.monotonic_us()
        for entry in entries(piece):
            if entry is None or (named(entry) and not oldest):
                return True
            if named(entry):
                continue
            while True:
                self._needs.coming = None
                needed = next((True for kept in judged(entry, judge) if kept is not None), False)
                coming: Promise[None] | None = self._needs.coming
                if coming is None:
                    break
                yield Wait(coming)
            if needed:
                return True
            if self._around.monotonic_us() - begun > SLICE_US:
                yield None
                begun = self._around.monotonic_us()
        return False

    # -- what is seen of it ------------------------------------------------------------------------

    def gauges(self) -> dict[str, int]:
        """For the metrics."""
        shards = self._shards.values()
        return {
            "storage_tier_light_objects": sum(len(one.cold.table) for one in shards),
            "storage_tier_light_bytes": sum(one.cold.table.size for one in shards),
            "storage_tier_light_lag_bytes": sum(
                one.store.log.bytes_from(one.cold.state.looked_to)
                for one in shards
                if self._modes.any
            ),
            "storage_tier_light_stopped": sum(bool(one.stopped) for one in shards),
        }


def get(objects: Any, path: str, begin: int, end: int) -> bytes:
    """Bytes of an object."""
    return bytes(objects.get_range(path, begin, end - begin))


def _choice(one: ShardTier, modes: LightModes, begin: int) -> tuple[Judge, Callable[[bytes], bool]]:
    """What of blocks from a position on goes to the store by these modes, and of which topics it is
    told what is said of them."""
    light, cold = one.store.light, one.cold

    def lives(entry: EntryView, position: int, end_offset: int, written_ms: int) -> bool:
        return (
            position >= begin
            and is_dense(entry.topic)
            and modes.tiered(entry.topic)
            and light.lives(entry.topic, position, end_offset)
        )

    def told(topic: bytes) -> bool:
        # Also of a topic that was of mode tiered: what the store has of it is to stay deleted.
        return is_dense(topic) and (modes.tiered(topic) or cold.may_have(topic))

    return Judge(lives, lambda position: False), told


def _chosen(
    found: list[Piece], judge: Judge, told: Callable[[bytes], bool], begin: int
) -> Iterator[Piece | bool]:
    """What of pieces of a file goes to the store, from a position on: blocks as they are judged,
    and what is said of topics of which the store is `told`; True now and then, when a look at the
    clock is due; False at bad bytes."""
    looked = 0
    for piece in found:
        for entry in entries(piece):
            if entry is None:
                yield False
                return
            yield from _of_entry(entry, judge, told, begin)
            looked += 1
            if looked % LOOK_EVERY == 0:
                yield True


def _of_entry(
    entry: Entry, judge: Judge, told: Callable[[bytes], bool], begin: int
) -> Iterator[Piece | bool]:
    topic = named(entry)
    if topic:
        if entry.position >= begin and told(topic):
            yield entry.position, entry.data
        return
    for kept in judged(entry, judge):
        yield True if kept is None else kept
