"""A group commit of the real disk: many files written and synced in one call, on files that fail.
Each case runs in a process of its own, with the faulty files of tests/faults preloaded."""

from __future__ import annotations

import errno
import os
import subprocess
import sys
from pathlib import Path

import pytest

from robustmq.storage import disk
from robustmq.storage.disk import GROUP_FILES
from tests.faults.files import SYNC, WRITE, FaultyFiles

PRELUDE = """
import errno, importlib.util, sys
where, kind, source = sys.argv[1:]
if kind == "interpreted":
    spec = importlib.util.spec_from_file_location("robustmq.storage.group_io", source)
    sys.modules[spec.name] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules[spec.name])
from robustmq.storage import group_io
assert kind != "interpreted" or group_io.__file__ == source
from robustmq.storage.disk import RealDisk
if kind == "threads":
    group_io.open_queue = lambda: group_io.NO_QUEUE
disk = RealDisk(max_open=200, wait_for_room=lambda error: wait_for_room(error))
paths = [f"{where}/log/{number:03d}" for number in range(COUNT)]
rows = [(path, [bytes(10), bytearray(b"abc"), memoryview(path.encode())[-3:]]) for path in paths]
"""
FAILS = """
try:
    disk.commit(rows, where + "/log")
except OSError as error:
    assert error.errno == errno.EIO, error
else:
    raise AssertionError("it went on")
"""
SOURCE = Path(disk.__file__).with_name("group_io.py")
KINDS = ("queue", "threads", "interpreted")


def run(files: FaultyFiles, where: Path, kind: str, script: str, count: int = 9) -> None:
    (where / "log").mkdir()
    environment = {**os.environ, **files.environment}
    text = PRELUDE.replace("COUNT", str(count)) + script
    done = subprocess.run(
        [sys.executable, "-c", text, where, kind, SOURCE],
        env=environment,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert done.returncode == 0, done.stderr


def content(path: Path) -> bytes:
    return bytes(10) + b"abc" + path.name[-3:].encode()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("count", [1, 9, GROUP_FILES + 9])
def test_what_a_group_has_written_is_there_and_synced(
    tmp_path: Path, kind: str, count: int
) -> None:
    files = FaultyFiles(tmp_path)
    script = """
disk.commit(rows, where + "/log")
assert disk.syncs == len(paths) and not any(map(disk.is_unsynced, paths))
disk.commit(rows[:1])
assert disk.is_unsynced(paths[0]) and disk.syncs == len(paths)
disk.commit([(paths[-1], [])], where + "/other")
assert disk.syncs == len(paths)
"""
    run(files, tmp_path, kind, script, count)
    written = sorted((tmp_path / "log").iterdir())
    assert len(written) == count
    synced = files.synced()
    for path in written:
        twice = 2 if path == written[0] else 1
        assert path.read_bytes() == content(path) * twice
        assert synced[str(path)] == len(content(path))


@pytest.mark.parametrize("kind", KINDS)
def test_one_fdatasync_of_a_group_that_fails_fails_the_commit(tmp_path: Path, kind: str) -> None:
    files = FaultyFiles(tmp_path)
    files.set(SYNC, "/log/004", errno.EIO)
    script = FAILS + "assert disk.is_unsynced(paths[4])"
    run(files, tmp_path, kind, script)
    assert files.hits() == 1
    assert str(tmp_path / "log" / "004") not in files.synced()


@pytest.mark.parametrize("kind", KINDS)
def test_a_write_of_a_group_that_fails_fails_the_commit_and_nothing_is_synced(
    tmp_path: Path, kind: str
) -> None:
    files = FaultyFiles(tmp_path)
    files.set(WRITE, "/log/004", errno.EIO)
    script = FAILS + "assert all(map(disk.is_unsynced, paths))"
    run(files, tmp_path, kind, script)
    assert not files.journal.read_text()
    sizes = [path.stat().st_size for path in sorted((tmp_path / "log").iterdir())]
    assert sizes == [16] * 4 + [0] * 5, "in their order, up to the one that failed"


@pytest.mark.parametrize("kind", KINDS)
def test_a_disk_that_is_full_in_the_middle_of_a_group_is_waited_out(
    tmp_path: Path, kind: str
) -> None:
    """And what is deleted meanwhile is not written: its row loses its buffers, its file goes."""
    files = FaultyFiles(tmp_path)
    files.set(WRITE, "/log/004", errno.ENOSPC, count=3)
    script = """
waited = []
def wait_for_room(error):
    waited.append(error.errno)
    if len(waited) == 2:
        disk.remove(paths[6])
        rows[6][1].clear()
disk.commit(rows, where + "/log")
assert waited == [errno.ENOSPC] * 2, waited
assert disk.syncs == len(paths) - 1
"""
    run(files, tmp_path, kind, script)
    written = sorted((tmp_path / "log").iterdir())
    assert [path.name for path in written] == [f"{n:03d}" for n in range(9) if n != 6]
    synced = files.synced()
    for path in written:
        assert path.read_bytes() == content(path)
        assert synced[str(path)] == len(content(path))
