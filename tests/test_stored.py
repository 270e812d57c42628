"""Stored images: damaged or missing, they are found, named, set aside and restored by an ingest; what nobody names may go."""

import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import samples

from dermanet import settings, stages
from dermanet.errors import BadInput, StoreFault
from dermanet.intake import inventory
from dermanet.intake.catalogue import Catalogue
from dermanet.intake.forgetting import forget
from dermanet.intake.stored import object_name
from dermanet.storage import Place, place

EXPERIMENT = "smoke"
EXIF = b"\xff\xe1\x00\x11Exif\0\0Anna Must"


@pytest.fixture(params=["folder", "bucket"])
def store(request: pytest.FixtureRequest, home: Path, monkeypatch: pytest.MonkeyPatch) -> Place:
    """The object store of this test's own installation, of each kind."""
    if request.param == "bucket":
        monkeypatch.setenv("DERMANET_OBJECTS", request.getfixturevalue("bucket") + "/objects")
    return place(settings.read().objects)


@pytest.fixture
def source(ham10000: Callable[..., Path], store: Place) -> Path:
    """Eight images that were taken in."""
    folder = ham10000(8)
    assert stages.ingest(str(folder))["accepted"] == 8
    return folder


def catalogue() -> Catalogue:
    return Catalogue(settings.read().catalogue)


def stored(number: int) -> str:
    """Where the image of a row lies."""
    name = f"ISIC_{number:07d}"
    return object_name(next(record.digest for record in catalogue().records() if record.image_id == name))


def noted() -> dict[str, str]:
    """What quarantine holds: names, those of notes without the digest, and reasons."""
    return {refusal["name"].partition(" (")[0]: refusal["reason"] for refusal in stages.quarantined()["records"]}


@pytest.mark.parametrize("data", [samples.jpeg(99), samples.jpeg(2)[:300], b""], ids=["another", "cut", "empty"])
def test_a_damaged_image_is_named_set_aside_and_restored(source: Path, store: Place, data: bytes) -> None:
    snapshot, name = stages.snapshot()["snapshot"], stored(2)
    store.write(name, data)
    with pytest.raises(StoreFault) as caught:
        stages.prepare(snapshot, EXPERIMENT)
    said = str(caught.value)
    label_file = f"{source}/HAM10000_metadata.csv"
    assert f"ISIC_0000002 of lesion HAM_0000002 (damaged in the store; from {label_file})" in said
    assert f"`dermanet ingest {label_file}`" in said and "\n" not in said and caught.value.exit_status == 1
    (record,) = stages.quarantined("damaged in the store")["records"]
    assert store.read(stages.show_quarantined(record["id"])["file"]) == data and not store.exists(name)
    assert stages.ingest(label_file)["known"] == 8
    assert store.read(name) == samples.jpeg(2)
    assert stages.quarantined()["count"] == 0 and not stages.objects()["quarantined"]["files"]
    assert stages.prepare(snapshot, EXPERIMENT)["images"] == 8


def test_one_run_names_all_that_are_wrong_and_keeps_the_shards_that_were_whole(
    source: Path, store: Place, home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dermanet.pixels.shards.SHARD", 2)
    snapshot = stages.snapshot()["snapshot"]
    by_digest = sorted(range(8), key=stored)
    store.remove(stored(by_digest[4]))
    store.write(stored(by_digest[7]), b"x")
    with pytest.raises(StoreFault, match="2 stored images cannot") as caught:
        stages.prepare(snapshot, EXPERIMENT)
    assert all(f"ISIC_{by_digest[place]:07d}" in str(caught.value) for place in (4, 7))
    reasons = {by_digest[4]: "missing from the store", by_digest[7]: "damaged in the store"}
    assert noted() == {f"ISIC_{number:07d}": reason for number, reason in reasons.items()}
    stages.ingest(str(source))
    # How many were whole, by chance: shards are made in no order.
    kept = [path for path in home.glob("prepared/*/*.npy") if path.with_suffix(".json").exists()]
    done = stages.prepare(snapshot, EXPERIMENT)
    assert (done["reused"], done["computed"], noted()) == (2 * len(kept), 8 - 2 * len(kept), {})


def test_a_note_stays_until_its_image_is_back(source: Path, store: Place, tmp_path: Path) -> None:
    store.write(stored(2), b"damaged")
    for _ in range(2):
        assert len(stages.check_objects()["faults"]) == 1
    (record,) = stages.quarantined()["records"]
    assert record["reason"] == "damaged in the store" and record["file"], "what was there may be looked at"
    picture = next(source.rglob("ISIC_0000002.jpg"))
    picture.rename(tmp_path / "ISIC_0000002.jpg")
    stages.ingest(str(source))
    assert stages.quarantined("damaged in the store")["count"] == 1 and stages.objects()["missing"] == 1
    with pytest.raises(BadInput, match="ingest its source again"):
        stages.release_quarantined(record["id"], {})
    elsewhere = samples.ham10000(tmp_path / "elsewhere", 1, rows={0: samples.ham10000_row(2)}, files={})
    (elsewhere / samples.PARTS[0] / "ISIC_0000002.jpg").write_bytes(samples.jpeg(2))
    assert stages.ingest(str(elsewhere))["known"] == 1
    assert store.read(stored(2)) == samples.jpeg(2) and stages.objects()["missing"] == 0
    assert set(noted().values()) == {"missing image", "image without a row"}


@pytest.mark.parametrize("data", [None, b"x"], ids=["missing", "damaged"])
def test_what_was_released_is_restored_as_it_was_set(
    home: Path, ham10000: Callable[..., Path], data: bytes | None
) -> None:
    blank = samples.png(np.full((48, 64, 3), 128, np.uint8))
    rows = {0: {"sex": "M"}, 1: {"sex": "M"}, 2: {"lesion_id": "L", "dx": "nv"}, 3: {"lesion_id": "L", "dx": "mel"}}
    files = {
        "ISIC_0000000.jpg": samples.jpeg(0)[:2] + EXIF + samples.jpeg(0)[2:],
        "ISIC_0000004.jpg": blank,
        "stray.jpg": samples.jpeg(9),
    }
    folder = ham10000(6, rows=rows, files=files)
    label_file = f"{folder}/HAM10000_metadata.csv"
    stages.ingest(label_file)
    cells = {"ISIC_0000000": {"sex": "male"}, "ISIC_0000002": {"age": "41", "dx": "bkl"}, "ISIC_0000004": {}}
    ids = {refusal["name"].rpartition("/")[2]: refusal["id"] for refusal in stages.quarantined()["records"]}
    for name, changes in (cells | {"stray.jpg": {"lesion_id": "L9", "dx": "mel"}}).items():
        stages.release_quarantined(ids[name], changes, force=True)
    before, objects = catalogue().records(), place(settings.read().objects)
    kept = {name: objects.read(name) for name in objects.listing()}
    for record in before:
        name = object_name(record.digest)
        objects.remove(name) if data is None else objects.write(name, data)
    assert len(before) == 5 and stages.check_objects()["sources"] == [label_file]
    assert stages.ingest(label_file)["known"] == 5
    assert {name: objects.read(name) for name in objects.listing()} == kept
    assert catalogue().records() == before and stages.check_objects()["faults"] == []


def test_a_forgotten_lesion_takes_its_damaged_file_along(source: Path, store: Place) -> None:
    snapshot = stages.snapshot()["snapshot"]
    store.write(stored(2), b"Anna Must")
    stages.check_objects()
    forget("HAM_0000002", catalogue(), store)
    assert noted() == {} and b"Anna Must" not in {store.read(name) for name in store.listing()}
    with pytest.raises(BadInput, match="make a new snapshot"):
        stages.prepare(snapshot, EXPERIMENT)


def test_the_store_is_shown_and_checked(source: Path, store: Place) -> None:
    size = sum(len(samples.jpeg(number)) for number in range(8))
    shown = stages.objects()
    assert shown["images"] == {"files": 8, "bytes": size} and shown["missing"] == shown["orphans"]["files"] == 0
    told: list[tuple[int, int]] = []
    sound = stages.check_objects(lambda done, total: told.append((done, total)))
    assert sound == {"images": 8, "faults": [], "sources": [], "orphans": []}
    assert told == [(number, 8) for number in range(1, 9)]
    store.write(stored(3), b"x")
    store.remove(stored(5))
    store.write("ab/ab" + "0" * 62, b"orphan")
    found = stages.check_objects()
    assert [text.partition(" of ")[0] for text in sorted(found["faults"])] == ["ISIC_0000003", "ISIC_0000005"]
    assert found["orphans"] == ["ab/ab" + "0" * 62] and found["sources"] == [f"{source}/HAM10000_metadata.csv"]
    assert stages.objects()["missing"] == 2


def test_what_nobody_names_goes_when_it_is_old(
    source: Path, store: Place, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    contradicting = samples.ham10000(
        tmp_path / "second",
        1,
        rows={0: {"lesion_id": "HAM_0000001", "dx": "mel"}},
        files={"ISIC_0000000.jpg": samples.jpeg(50)},
    )
    assert stages.ingest(str(contradicting))["quarantined"] == {"label conflict": 1}
    late = object_name(hashlib.sha256(samples.jpeg(50)).hexdigest())
    before = set(store.listing())
    stray, kept = "quarantine/" + "0" * 12 + "-" + "1" * 64, {"notes.txt", "incoming/ab.jpg", "ab/" + "c" * 64}
    for name in (stray, *kept):
        store.write(name, b"x")
    assert stages.prune_objects(really=True)["files"] == [], "all are young"
    monkeypatch.setattr(inventory, "YOUNG", -60.0)
    listed = stages.prune_objects()
    assert (
        not listed["removed"]
        and listed["files"] == sorted([stray, late])
        and set(store.listing()) == before | {stray} | kept
    )
    done = stages.prune_objects(really=True)
    assert done == {**listed, "removed": True}
    assert set(store.listing()) == before - {late} | kept
    assert stages.objects()["missing"] == stages.objects()["orphans"]["files"] == 0
    assert stages.check_objects()["faults"] == []


def test_an_orphan_that_an_ingest_comes_for_is_young_again(home: Path, ham10000: Callable[..., Path]) -> None:
    folder = ham10000(2)
    stages.ingest(str(folder))
    path = home / "objects" / stored(1)
    os.utime(path, (0, 0))
    with catalogue().engine.begin() as connection:
        for table in ("originals", "labels", "images"):
            connection.exec_driver_sql(f"DELETE FROM {table} WHERE digest LIKE '{path.name}'")
    assert stages.prune_objects()["files"] == [f"{path.name[:2]}/{path.name}"]
    stages.ingest(str(folder))
    assert path.stat().st_mtime > 0 and stages.objects()["missing"] == 0


def test_half_written_files_are_ignored_and_pruned_when_old(home: Path, ham10000: Callable[..., Path]) -> None:
    stages.ingest(str(ham10000(2)))
    folder = (home / "objects" / stored(1)).parent
    old, young, other = folder / f".x.{'0' * 32}", folder / f".y.{'1' * 32}", folder / ".keep"
    for path in (old, young, other):
        path.write_bytes(b"half")
    for path in (old, other):
        os.utime(path, (0, 0))
    assert stages.objects()["orphans"]["files"] == 0
    assert stages.prune_objects(really=True)["bytes"] == 4
    assert not old.exists() and young.exists() and other.exists()


def test_a_store_of_another_catalogue_is_not_pruned(
    home: Path, ham10000: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    stages.ingest(str(ham10000(2)))
    monkeypatch.setattr(inventory, "YOUNG", -60.0)
    monkeypatch.setenv("DERMANET_CATALOGUE", f"sqlite:///{home}/other.db")
    with pytest.raises(BadInput, match="names none of the 2 files"):
        stages.prune_objects(really=True)


def test_a_store_that_is_gone_is_said_image_by_image(home: Path, ham10000: Callable[..., Path]) -> None:
    assert stages.objects()["images"]["files"] == 0
    folder = ham10000(3)
    stages.ingest(str(folder))
    (home / "objects").rename(home / "elsewhere")
    assert stages.objects()["missing"] == 3 and len(stages.check_objects()["faults"]) == 3
    stages.ingest(str(folder))
    assert stages.check_objects()["faults"] == [] and stages.quarantined()["count"] == 0


def test_the_command_ends_with_one_where_an_image_is_damaged(home: Path, ham10000: Callable[..., Path]) -> None:
    from typer.testing import CliRunner

    from dermanet.cli import app

    stages.ingest(str(ham10000(3)))
    run = CliRunner().invoke
    assert run(app, ["objects", "--check"]).exit_code == 0
    (home / "objects" / stored(1)).write_bytes(b"x")
    done = run(app, ["objects", "--check", "--json"])
    assert done.exit_code == 1 and len(json.loads(done.stdout)["faults"]) == 1
    assert json.loads(run(app, ["objects", "--json"]).stdout)["missing"] == 1
    assert "quarantined" in run(app, ["objects"]).stdout
    assert json.loads(run(app, ["objects", "--prune", "--json"]).stdout) == {"removed": False, "files": [], "bytes": 0}
    assert isinstance(run(app, ["objects", "--yes"]).exception, BadInput)


def test_a_dropped_record_leaves_no_stored_copy_and_takes_none_of_the_catalogue_s(source: Path, tmp_path: Path) -> None:
    """Both are refused by what the catalogue says, when their images are stored already: one is nobody's, one is another record's."""
    rows = {0: {"dx": "mel"}, 1: {"lesion_id": "ELSEWHERE"}}
    other = samples.ham10000(tmp_path / "other", 2, rows=rows, files={"ISIC_0000000.jpg": samples.jpeg(50)})
    assert stages.ingest(str(other))["quarantined"] == {"label conflict": 2}
    objects = place(settings.read().objects)
    before = set(objects.listing())
    for record in stages.quarantined()["records"]:
        stages.drop_quarantined(record["id"])
    copy = object_name(hashlib.sha256(samples.jpeg(50)).hexdigest())
    assert before - set(objects.listing()) >= {copy} and objects.exists(stored(1))
    assert inventory.survey(catalogue(), objects).orphans == {}
