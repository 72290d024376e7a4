"""How the workers of a node share out the cache's disk."""

from __future__ import annotations

from pathlib import Path

from robustmq.process.tiering import cache_settings
from robustmq.tiering_settings import TieringSettings


def test_each_worker_has_a_folder_and_a_share(tmp_path: Path) -> None:
    settings = TieringSettings(cache_disk_bytes=3_000)
    made = [cache_settings(settings, tmp_path, (number, 3)) for number in range(3)]
    assert [one.disk_bytes for one in made] == [1_000] * 3
    assert [one.directory for one in made] == [
        str(tmp_path / "tier-cache" / f"worker-{number}") for number in range(3)
    ]


def test_folders_of_workers_that_are_no_more_go(tmp_path: Path) -> None:
    for number in range(4):
        (tmp_path / "ssd" / f"worker-{number}").mkdir(parents=True)
    (tmp_path / "ssd" / "mine").mkdir()
    settings = TieringSettings(cache_directory=str(tmp_path / "ssd"))
    cache_settings(settings, tmp_path, (1, 2))
    assert len(list((tmp_path / "ssd").iterdir())) == 5, "the first worker does it"
    cache_settings(settings, tmp_path, (0, 2))
    left = sorted(one.name for one in (tmp_path / "ssd").iterdir())
    assert left == ["mine", "worker-0", "worker-1"]


def test_without_a_disk_share_there_is_no_folder(tmp_path: Path) -> None:
    (tmp_path / "tier-cache" / "worker-0").mkdir(parents=True)
    made = cache_settings(TieringSettings(cache_disk_bytes=0), tmp_path, (0, 1))
    assert made.directory == ""
    assert not list((tmp_path / "tier-cache").iterdir())
