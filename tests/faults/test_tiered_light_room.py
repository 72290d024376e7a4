"""Light topics of mode tiered where the local disk has no room: for the object that an upload
begins with, or for anything at all."""

from __future__ import annotations

from pathlib import Path

from robustmq.storage.remote_store import open_object_store
from robustmq.tiering_settings import TieringSettings
from tests.broker import BrokerProcess, until
from tests.faults.files import fill
from tests.faults.light_tiering import (
    CONFIG,
    Producing,
    numbers_in,
    objects,
    publish,
    read_at,
    sent_once,
    wait_away,
    wait_even,
)
from tests.faults.tiering import said
from tests.object_stores import tiering_settings

MIB = 1 << 20
LARGE = CONFIG.replace("shards = 2", "shards = 1").replace(
    "segment_bytes = 1048576", f"segment_bytes = {24 * MIB}"
)


def settings(url: str) -> dict[str, str]:
    """A folder on another disk is the store."""
    made = tiering_settings(url, {})
    del made["STORAGE__TIERING__OPTIONS"]
    return made


def test_an_object_for_which_there_is_no_room_waits_and_holds_nobody_up(
    tmp_path: Path, small_disk: Path
) -> None:
    url = (tmp_path / "objects").as_uri()
    with BrokerProcess(small_disk, 1, LARGE, **settings(url)) as broker:
        publish(broker, ["t/0"], range(100))
        fill(small_disk / "ballast", 74 * MIB)
        publish(broker, ["t/0"], range(100, 1_300))
        until(lambda: said(broker, "no room on the disk for what is to be uploaded") == 1)
        publish(broker, ["t/0"], range(1_300, 1_400))
        assert not objects(broker) and not said(broker, "the disk is full")
        assert read_at(broker, "t/0", 20) == 20
        (small_disk / "ballast").unlink()
        until(lambda: objects(broker) == 1, 20, "the upload")
        until(lambda: not list(broker.data.glob("*/upload")), 20, "the end of the copy")
        assert numbers_in(broker, "t/0") == list(range(1_400))
        assert said(broker, "no room on the disk for what is to be uploaded") == 1


def fill_up(broker: BrokerProcess, ballast: Path) -> None:
    """Until the broker says that its disk is full."""
    before = said(broker, "the disk is full")
    fill(ballast)
    until(lambda: said(broker, "the disk is full") > before, 20, "a full disk")


def test_uploads_go_on_behind_a_full_disk_and_nothing_is_lost(
    tmp_path: Path, small_disk: Path
) -> None:
    url, ballast = (tmp_path / "objects").as_uri(), small_disk / "ballast"
    with BrokerProcess(small_disk, 2, CONFIG, **settings(url)) as broker:
        producing = Producing(broker, [f"t/{n}" for n in range(3)])
        try:
            for killed in (True, False):
                producing.more(100)
                fill_up(broker, ballast)
                assert sent_once(broker, "t.0", range(1_000_000, 1_000_001)) == [56]
                if killed:
                    broker.kill()
                ballast.unlink()
                if killed:
                    broker.start()
                producing.more(100)
        finally:
            ballast.unlink(missing_ok=True)
            producing.stop()
        wait_away(broker, 4)
        for topic, numbers in producing.acked.items():
            found = numbers_in(broker, topic)
            assert [number for number in found if number < 1_000_000] == numbers
        wait_even(broker, open_object_store(TieringSettings(url, {})))
        assert not list(broker.data.glob("*/upload"))
