"""The real disk: modes of files, whole replacement, descriptors of what is removed."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from robustmq.storage import group_io
from robustmq.storage.disk import SYNCS_AT_ONCE, Buffer, RealDisk
from robustmq.storage.mapped_files import WINDOW_BYTES, MappedFiles


def test_files_are_for_their_owner_alone(tmp_path: Path) -> None:
    disk = RealDisk()
    disk.make_directory(f"{tmp_path}/a/b")
    disk.append(f"{tmp_path}/a/b/log", [b"x"])
    disk.sync(f"{tmp_path}/a/b/log")
    disk.replace(f"{tmp_path}/a/b/whole", b"y")
    for path in (tmp_path / "a/b/log", tmp_path / "a/b/whole"):
        assert path.stat().st_mode & 0o777 == 0o600
    assert (tmp_path / "a/b").stat().st_mode & 0o777 == 0o700


def test_appends_of_many_buffers_are_read_back(tmp_path: Path) -> None:
    disk = RealDisk(max_open=2)
    for number in range(5):
        disk.append(f"{tmp_path}/{number}", [b"%d" % number] * 1_500)
    disk.append(f"{tmp_path}/0", [b"end"])
    assert disk.read(f"{tmp_path}/0", 1_499, 10) == b"0end"
    assert disk.read(f"{tmp_path}/4", 0, 3) == b"444" and disk.read(f"{tmp_path}/9", 0, 3) == b""
    assert disk.list(str(tmp_path)) == ["0", "1", "2", "3", "4"]


def test_a_removed_file_leaves_no_descriptor_and_its_name_is_free(tmp_path: Path) -> None:
    disk = RealDisk()
    path = f"{tmp_path}/gone"
    disk.append(path, [b"old"])
    assert disk.read(path, 0, 3) == b"old"
    before = len(os.listdir("/proc/self/fd"))
    disk.remove(path)
    assert disk.read(path, 0, 3) == b""
    assert len(os.listdir("/proc/self/fd")) == before - 2
    disk.append(path, [b"new"])
    assert disk.read(path, 0, 3) == b"new"
    disk.close()


class _Killed(Exception):
    pass


def test_a_directory_that_a_crash_has_half_removed_is_not_under_its_name(tmp_path: Path) -> None:
    class Dying(RealDisk):
        def remove(self, path: str) -> None:
            if path.endswith("2"):
                raise _Killed
            super().remove(path)

    path = f"{tmp_path}/database"
    for disk in (Dying(), RealDisk()):
        disk.make_directory(f"{path}/inside")
        for number in range(4):
            disk.append(f"{path}/{number}", [b"x"])
        if isinstance(disk, Dying):
            with pytest.raises(_Killed):
                disk.remove_directory(path)
            assert disk.list(str(tmp_path)) == ["database.gone"]
        else:
            disk.remove_directory(path)
            disk.remove_directory(path)
        disk.close()
    assert not list(tmp_path.iterdir())


def test_room_is_reserved_behind_the_end_of_a_file_and_given_back(tmp_path: Path) -> None:
    disk = RealDisk()
    path = tmp_path / "grows"
    disk.reserve(str(path), 1 << 20)
    disk.append(str(path), [b"x" * 5_000])
    assert path.stat().st_size == 5_000 and disk.read(str(path), 4_990, 100) == b"x" * 10
    if path.stat().st_blocks * 512 < 1 << 20:
        pytest.skip("this file system cannot reserve")
    disk.settle(str(path))
    assert path.stat().st_size == 5_000 and path.stat().st_blocks * 512 <= 8_192
    disk.append(str(path), [b"y"])
    assert path.stat().st_size == 5_001


def test_a_view_of_a_file_is_its_bytes_and_outlives_it(tmp_path: Path) -> None:
    disk = RealDisk()
    path = f"{tmp_path}/closed"
    data = os.urandom(3 * WINDOW_BYTES + 777)
    disk.append(path, [data])
    for offset, length in ((0, 10), (4_095, 8_192), (WINDOW_BYTES - 5, 10), (len(data) - 9, 9)):
        view = disk.view(path, offset, length)
        assert view == data[offset : offset + length]
        assert isinstance(view, memoryview), "without a copy"
    # What is longer than a window, or than the file, is read.
    assert disk.view(path, 1, WINDOW_BYTES + 1) == data[1 : WINDOW_BYTES + 2]
    assert disk.view(path, len(data) - 9, 100) == data[-9:]
    assert disk.view(path, len(data) + 5, 10) == b""
    assert disk.view(f"{tmp_path}/nowhere", 0, 10) == b""
    kept = disk.view(path, WINDOW_BYTES, 100_000)
    disk.remove(path)
    disk.append(path, [b"another"])
    assert disk.view(path, 0, 7) == b"another"
    disk.close()
    assert kept == data[WINDOW_BYTES : WINDOW_BYTES + 100_000]


def test_what_is_mapped_is_bounded_and_goes_when_its_file_does(tmp_path: Path) -> None:
    mapped = MappedFiles(max_bytes=4 * WINDOW_BYTES)
    before = len(os.listdir("/proc/self/fd"))
    for number in range(6):
        path = tmp_path / str(number)
        path.write_bytes(bytes([number]) * 2 * WINDOW_BYTES)
        view = mapped.view(str(path), 7, 3)
        assert view is not None and bytes(view) == bytes([number]) * 3
        assert mapped.size <= 4 * WINDOW_BYTES
    for number in range(6):
        mapped.forget(str(tmp_path / str(number)))
    assert mapped.size == 0
    del view
    assert len(os.listdir("/proc/self/fd")) == before


CUT_UNDER_A_MAP = """
import sys
from robustmq.storage.disk import SYNCS_AT_ONCE, RealDisk
disk, path = RealDisk(), sys.argv[1]
disk.append(path, [b"x" * 1_000_000])
assert disk.view(path, 500_000, 10) == b"x" * 10
with open(path, "r+b") as other:
    other.truncate(4096)
assert disk.view(path, 500_000, 10) == b"", "nothing is there any more"
assert disk.view(path, 0, 10) == b"x" * 10
"""


def test_a_file_that_another_program_cuts_under_a_map_ends_no_process(tmp_path: Path) -> None:
    command = [sys.executable, "-c", CUT_UNDER_A_MAP, f"{tmp_path}/cut"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, (done.returncode, done.stderr)


def test_each_file_is_synced_though_few_can_be_open(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = RealDisk(max_open=SYNCS_AT_ONCE)
    paths = [tmp_path / f"{number:03d}" for number in range(5 * SYNCS_AT_ONCE)]
    for path in (*paths, *paths[::3]):
        disk.append(str(path), [b"x"])
    synced: list[int] = []
    commit = group_io.commit

    def watched(
        queue: int, files: list[int], buffers: list[Sequence[Buffer]], syncing: list[int]
    ) -> tuple[int, int, int]:
        synced.extend(os.fstat(file).st_ino for file in syncing)
        return commit(queue, files, buffers, syncing)

    monkeypatch.setattr(group_io, "commit", watched)
    disk.sync_below(str(tmp_path))
    assert sorted(synced) == sorted(path.stat().st_ino for path in paths)
    disk.close()


def test_a_few_bytes_of_a_file_are_changed_where_it_is_there(tmp_path: Path) -> None:
    disk = RealDisk()
    path = f"{tmp_path}/index"
    assert not disk.overwrite(path, 2, b"xy") and not os.path.exists(path)
    disk.put(path, b"123456")
    assert disk.overwrite(path, 2, b"xy")
    assert Path(path).read_bytes() == b"12xy56"
    disk.close()
