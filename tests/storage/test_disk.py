"""The real disk: modes of files, whole replacement, descriptors of what is removed."""

from __future__ import annotations

import os
from pathlib import Path

from robustmq.storage.disk import RealDisk


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
