"""Cleaned files of a shard's log: what is kept is found at its position, all else is gone, and what
is damaged is neither."""

from __future__ import annotations

import itertools
import random

import pytest

from robustmq.errors import BrokerError, Fault
from robustmq.storage import cleaned_log
from robustmq.storage.cleaned_log import CleanedWriter, Span
from robustmq.storage.disk import MemoryDisk
from robustmq.storage.log_files import Gone, LogFile, LogFiles
from robustmq.storage.shard_log import HEAD, MACHINE, ShardLog

SEGMENT = 3_000


class Log:
    """A log on a disk in memory, of which any entries can be let go."""

    def __init__(self) -> None:
        self.disk = MemoryDisk()
        self.open()

    def open(self, position: int = 0) -> list[int]:
        """Recover; the positions that are replayed."""
        self.log = ShardLog("/s/log", self.disk, SEGMENT, 100, lambda *where: None)
        found: list[int] = []
        self.log.recover(position, lambda at, *rest: found.append(at))
        return found

    def append(self, payload: bytes, now_ms: int = 1) -> int:
        position = self.log.append(MACHINE, payload, 0, 0, now_ms)
        for path, buffers in self.log.take_pending():
            self.disk.append(path, buffers)
        self.log.committed_position = self.log.end_position
        return position

    def clean(self, files: list[LogFile], keep: set[int]) -> None:
        """Write files anew with the entries at these positions, as a cleaning does."""
        table = self.log.files
        writer = CleanedWriter()
        for position, _, payload in list(self.log.scan(files[0].start, files[-1].end)):
            if position in keep:
                writer.add(position, bytes(self.log.read(position, HEAD.size + len(payload))))
        path = table.cleaned_path(files[0].start, files[-1].end, table.next_number())
        span = Span(files[0].start, files[-1].end, files[0].first_ms, files[-1].last_ms, 0)
        buffers, size = writer.finish(span)
        self.disk.append(path, buffers)
        made = LogFile(path, span.start, span.end, size, 0, 0, table.next_number())
        self.log.let_go(files, made)
        for file in files:
            self.disk.remove(file.path)


@pytest.mark.parametrize("seed", range(30))
def test_what_is_kept_is_found_at_its_position_and_all_else_is_gone(seed: int) -> None:
    """A model of random appends, cleanings, merges, removals and restarts."""
    chance = random.Random(seed)
    log = Log()
    model: dict[int, bytes] = {}
    gone: set[int] = set()
    for _ in range(60):
        what = chance.random()
        files = log.log.files.files
        if what < 0.5 or len(files) < 3:
            for _ in range(chance.randrange(1, 20)):
                payload = chance.randbytes(chance.choice((3, 60, 700, 5_000)))
                model[log.append(payload)] = payload
        elif what < 0.8:
            first = chance.randrange(len(files) - 1)
            chosen = files[first : chance.randrange(first + 1, len(files))]
            if any(one.end != two.start for one, two in itertools.pairwise(chosen)):
                continue
            inside = [p for p in model if chosen[0].start <= p < chosen[-1].end]
            dropped = {p for p in inside if chance.random() < 0.6}
            log.clean(chosen, set(inside) - dropped)
            gone |= dropped
            for position in dropped:
                del model[position]
        elif what < 0.9:
            first_file = files[0]
            dropped = {p for p in model if p < first_file.end}
            log.log.let_go([first_file], None)
            log.disk.remove(first_file.path)
            gone |= dropped
            for position in dropped:
                del model[position]
        else:
            log.open(chance.choice((0, log.log.end_position)))
        rows = list(log.log.scan(0))
        assert [(at, bytes(payload)) for at, _, payload in rows] == sorted(model.items())
    for position in gone:
        with pytest.raises(Gone):
            log.log.files.read(position, 1)
    for position, payload in model.items():
        assert bytes(log.log.entry(position)[1]) == payload
    middle = sorted(model)[len(model) // 2]
    assert log.open(middle) == [at for at in sorted(model) if at >= middle]
    log.open()
    assert [at for at, _, _ in log.log.peek(middle)] == [at for at in sorted(model) if at < middle]


def _cleaned() -> tuple[Log, list[int], str]:
    log = Log()
    places = [log.append(b"%04d" % number * 20) for number in range(600)]
    files = log.log.files.files[:-1]
    log.clean(files, {at for at in places if at < files[-1].end})
    (path,) = [name for name in log.disk.files if name.endswith(".kept")]
    return log, [at for at in places if at < files[-1].end], path


@pytest.mark.parametrize("damage", ["footer", "index", "cut"])
def test_a_damaged_index_is_made_again_from_the_runs(damage: str) -> None:
    log, places, path = _cleaned()
    file = log.disk.files[path]
    if damage == "footer":
        file[-20] ^= 1
    elif damage == "index":
        file[-cleaned_log.FOOTER.size - 5] ^= 1
    else:
        del file[-30:]
    log.open(log.log.end_position)
    assert all(len(log.log.entry(at)[1]) == 80 for at in places)


def test_a_damaged_run_is_corrupt_and_what_lies_around_it_is_served() -> None:
    log, places, path = _cleaned()
    slots = cleaned_log.read_slots(log.disk, path, len(log.disk.files[path]))
    assert len(slots.offsets) > 2
    log.disk.files[path][slots.offsets[1] + 5] ^= 1
    log.open(log.log.end_position)
    found, damaged = [], []
    for at in places:
        try:
            found.append(len(log.log.entry(at)[1]))
        except BrokerError as error:
            assert error.fault is Fault.CORRUPT_RECORD and not isinstance(error, Gone)
            damaged.append(at)
    assert damaged and min(damaged) >= slots.positions[1] and max(damaged) < slots.positions[2]
    scanned = [at for at, _, _ in log.log.scan(0, places[-1] + 1)]
    assert scanned == [at for at in places if at not in damaged], "a scan goes on behind it"


@pytest.mark.parametrize("left", ["new", "both", "old parts"])
def test_a_start_finishes_or_drops_what_a_crash_has_cut_off(left: str) -> None:
    log = Log()
    for number in range(100):
        log.append(b"%04d" % number * 20)
    before = {name: bytes(data) for name, data in log.disk.files.items()}
    files = log.log.files.files[:2]
    keep = {at for at, _, _ in log.log.scan(0, files[-1].end)}
    keep = set(sorted(keep)[::2])
    log.clean(files, keep)
    (made,) = [name for name in log.disk.files if name.endswith(".kept")]
    if left == "new":
        log.disk.files = {name: bytearray(data) for name, data in before.items()}
        log.disk.files[made + ".new"] = bytearray(b"half of it")
    else:
        for name, data in before.items():
            if left == "both" or name == files[1].path:
                log.disk.files.setdefault(name, bytearray(data))
    end = log.log.end_position
    log.open(end)
    found = {at for at, _, _ in log.log.scan(0, files[-1].end)}
    if left == "new":
        assert len(found) > len(keep) and not any(name.endswith(".new") for name in log.disk.files)
    else:
        assert found == keep
        assert not any(file.path in log.disk.files for file in files), "they were removed"
    assert log.append(b"goes on") == end


def test_a_table_of_no_files_is_empty() -> None:
    files = LogFiles("/s/log", MemoryDisk())
    files.open()
    assert files.files == [] and files.find(7) == -1 and files.following(0) is None
    with pytest.raises(Gone):
        files.read(0, 1)
