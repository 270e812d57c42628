"""Forgetting a lesion: its images are gone from everywhere, never come back, and the versions that saw them are named."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import samples
import simplejpeg
import sqlalchemy as sa
from installation import SOURCE, Installation

from dermanet import settings, stages, taxonomy
from dermanet.contactsheet import tile
from dermanet.database.schema import METADATA
from dermanet.errors import BadInput
from dermanet.intake import batches, placing, quarantine, snapshots, stored
from dermanet.intake.catalogue import Catalogue
from dermanet.intake.forgetting import forget, forget_patient
from dermanet.intake.hiding import HIDDEN, hide
from dermanet.intake.ingest import ingest, release
from dermanet.intake.sources import open_source
from dermanet.intake.stored import object_name
from dermanet.intake.tombstones import bury
from dermanet.pixels.prepared import PreparedPixels
from dermanet.records import Record, Snapshot
from dermanet.registry.tracking import Tracking
from dermanet.stages.dossier import compile_dossier
from dermanet.stages.rooms import frozen_snapshot, snapshot_place, snapshot_tracking, tracking_of, versions_of
from dermanet.storage import Folder, place

EXIF = b"\xff\xe1\x00\x11Exif\0\0Anna Must"


def test_its_images_are_gone_and_never_come_back(new_database: Callable[[], str], tmp_path: Path) -> None:
    catalogue, objects = Catalogue(new_database()), Folder(tmp_path / "objects")

    def take(folder: Path) -> dict[str, int]:
        outcome = ingest(open_source(str(folder)), catalogue, objects, taxonomy.load())
        return {"accepted": outcome.accepted, "known": outcome.known, **outcome.quarantined}

    marked = samples.jpeg(1)[:2] + EXIF + samples.jpeg(1)[2:]
    rows = {2: {"lesion_id": "HAM_0000001", "sex": "M"}}
    first = samples.ham10000(tmp_path / "first", 5, rows=rows, files={"ISIC_0000001.jpg": marked})
    assert take(first) == {"accepted": 4, "known": 0, "unknown sex": 1}
    for _ in range(2):
        assert len(forget("HAM_0000001", catalogue, objects)) == 2
        contents = {objects.read(name) for name in objects.listing()}
        assert contents == {samples.jpeg(number) for number in (0, 3, 4)} and catalogue.refusals() == []
    assert take(first) == {"accepted": 0, "known": 3, "forgotten": 2}
    assert all(refusal.row is None and refusal.file is None for _, refusal in catalogue.refusals())
    elsewhere = {"ISIC_0000000.jpg": samples.jpeg(1), "ISIC_0000001.jpg": marked, "ISIC_0000002.jpg": samples.jpeg(2)}
    others = {number: {"lesion_id": f"OTHER{number}"} for number in range(3)} | {2: {"lesion_id": "O", "sex": "M"}}
    second = samples.ham10000(tmp_path / "second", 3, rows=others, files=elsewhere)
    assert take(second) == {"accepted": 0, "known": 0, "forgotten": 3}
    assert {objects.read(name) for name in objects.listing()} == contents
    with pytest.raises(BadInput, match="nothing is known"):
        forget("HAM_0000099", catalogue, objects)


PLAIN = "image,lesion_id,dx,age,sex,patient_id\n"


def _delivery(folder: Path, rows: dict[str, str], images: dict[str, int]) -> Path:
    """A plain CSV with rows by image, and the images that there are."""
    folder.mkdir()
    (folder / "labels.csv").write_text(PLAIN + "".join(f"{image},{cells}\n" for image, cells in rows.items()))
    for image, seed in images.items():
        (folder / image).write_bytes(samples.jpeg(seed))
    return folder


def _rows(catalogue: Catalogue) -> str:
    """All that the catalogue says, as text."""
    with catalogue.engine.connect() as connection:
        return "\n".join(str(row) for table in METADATA.sorted_tables for row in connection.execute(sa.select(table)))


def test_what_is_taken_in_while_its_patient_is_forgotten_is_forgotten_too(
    new_database: Callable[[], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalogue, objects = Catalogue(new_database()), Folder(tmp_path / "objects")
    first = _delivery(tmp_path / "first", {"a.jpg": "LA,nv,40,male,PX"}, {"a.jpg": 1})
    second = _delivery(
        tmp_path / "second", {"b.jpg": "LB,nv,40,male,PX", "c.jpg": "LC,nv,40,M,PX"}, {"b.jpg": 2, "c.jpg": 3}
    )
    ingest(open_source(str(first)), catalogue, objects, taxonomy.load())
    whole = Catalogue.forget

    def late(self: Catalogue, *given: Any) -> Any:
        # It was under way when `forget` was called, and has the catalogue's turn before.
        assert ingest(open_source(str(second)), self, objects, taxonomy.load()).accepted == 1
        return whole(self, *given)

    with monkeypatch.context() as patch:
        patch.setattr(Catalogue, "forget", late)
        lesions, images = forget_patient("PX", catalogue, objects)
    assert lesions == ["LA", "LB", "LC"] and len(images) == 3
    assert objects.listing() == {} and catalogue.records() == [] and catalogue.refusals() == []
    assert ingest(open_source(str(second)), catalogue, objects, taxonomy.load()).quarantined == {"forgotten": 2}


def test_what_is_on_its_way_when_its_patient_is_forgotten_leaves_nothing(
    new_database: Callable[[], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalogue, objects = Catalogue(new_database()), Folder(tmp_path / "objects")
    first = _delivery(tmp_path / "first", {"a.jpg": "LA,nv,40,male,PX"}, {"a.jpg": 1})
    rows = {"x.jpg": "LX,nv,40,male,PY", "b.jpg": "LA,nv,40,male,PX", "c.jpg": "LA,nv,40,M,PX"}
    second = _delivery(tmp_path / "second", rows, {"x.jpg": 4, "b.jpg": 2, "c.jpg": 3})
    ingest(open_source(str(first)), catalogue, objects, taxonomy.load())
    monkeypatch.setattr("dermanet.intake.ingest.BATCH", 3)
    whole = Catalogue.take

    def late(self: Catalogue, *given: Any) -> Any:
        # By now both images are stored, and the refused one's file lies in quarantine.
        forget_patient("PX", self, objects)
        return whole(self, *given)

    with monkeypatch.context() as patch:
        patch.setattr(Catalogue, "take", late)
        outcome = ingest(open_source(str(second)), catalogue, objects, taxonomy.load())
    assert (outcome.accepted, outcome.quarantined) == (1, {"forgotten": 2})
    assert {objects.read(name) for name in objects.listing()} == {samples.jpeg(4)}
    assert not any(name in _rows(catalogue) for name in ("LA", "PX"))


def _copied(tmp_path: Path, catalogue: Catalogue, objects: Folder) -> Path:
    """Takes in a lesion LA, and a folder in which its images come again: with a comment, saved anew, and with a wrong label."""
    one, other = (bytes(simplejpeg.encode_jpeg(samples.pixels(seed, 200, 150), 95, "RGB")) for seed in (8, 9))
    anew = bytes(simplejpeg.encode_jpeg(samples.pixels(9, 200, 150), 94, "RGB"))
    marked = one[:2] + EXIF + one[2:]
    first = _delivery(tmp_path / "first", {"SECRET1.jpg": "SECRETA,nv,40,,", "SECRET2.jpg": "SECRETA,nv,40,,"}, {})
    rows = {"a.jpg": "LB,nv,40,,", "b.jpg": "LC,nv,40,,", "c.jpg": "LD,nv,40,W,", "d.jpg": "LE,nv,40,W,"}
    second = _delivery(tmp_path / "second", rows, {"d.jpg": 4})
    contents = {first / "SECRET1.jpg": one, first / "SECRET2.jpg": other, second / "a.jpg": marked}
    for path, data in (contents | {second / "b.jpg": anew, second / "c.jpg": marked}).items():
        path.write_bytes(data)
    for folder in (first, second):
        ingest(open_source(str(folder)), catalogue, objects, taxonomy.load())
    reasons = {refusal.name: refusal.reason for _, refusal in catalogue.refusals()}
    assert reasons.pop("b") == "near-duplicate under another lesion"
    assert reasons == {"a": "label conflict", "c": "unknown sex", "d": "unknown sex"}
    return second


def _left(catalogue: Catalogue, objects: Folder) -> tuple[set[bytes], list[str]]:
    """What the store holds, and who is in quarantine."""
    names = [refusal.name for _, refusal in catalogue.refusals() if refusal.row]
    return {objects.read(name) for name in objects.listing()}, names


def test_copies_of_what_is_forgotten_leave_quarantine_and_do_not_come_back(
    new_database: Callable[[], str], tmp_path: Path
) -> None:
    catalogue, objects = Catalogue(new_database()), Folder(tmp_path / "objects")
    second = _copied(tmp_path, catalogue, objects)
    assert len(forget("SECRETA", catalogue, objects)) == 3
    for _ in range(2):
        assert _left(catalogue, objects) == ({samples.jpeg(4)}, ["d"]) and "SECRET" not in _rows(catalogue)
        outcome = ingest(open_source(str(second)), catalogue, objects, taxonomy.load())
        assert outcome.quarantined == {"forgotten": 3, "unknown sex": 1}


def test_forgetting_that_is_killed_among_files_in_quarantine_is_finished_by_the_next(
    new_database: Callable[[], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalogue, objects = Catalogue(new_database()), Folder(tmp_path / "objects")
    _copied(tmp_path, catalogue, objects)
    removed: list[str] = []

    def dies(self: Folder, name: str) -> None:
        (self.root / name).unlink()
        removed.append(name)
        if len(removed) == 3:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Folder, "remove", dies)
        forget("SECRETA", catalogue, objects)
    assert all(name.startswith("quarantine/") for name in removed) and len(catalogue.refusals()) == 4
    assert len(forget("SECRETA", catalogue, objects)) == 3
    assert _left(catalogue, objects) == ({samples.jpeg(4)}, ["d"]) and "SECRET" not in _rows(catalogue)


def test_a_copy_that_was_let_in_as_another_lesion_s_stays(new_database: Callable[[], str], tmp_path: Path) -> None:
    catalogue, objects = Catalogue(new_database()), Folder(tmp_path / "objects")
    second = _copied(tmp_path, catalogue, objects)
    ids = {refusal.name: name for name, _, refusal in catalogue.quarantined()}
    release(ids["b"], {}, catalogue, objects, taxonomy.load(), force=True)
    assert len(forget("SECRETA", catalogue, objects)) == 2
    assert [record.image_id for record in catalogue.records()] == ["b"]
    assert ingest(open_source(str(second)), catalogue, objects, taxonomy.load()).known == 1


def test_a_contradiction_names_nobody_who_was_forgotten(new_database: Callable[[], str], tmp_path: Path) -> None:
    catalogue, objects = Catalogue(new_database()), Folder(tmp_path / "objects")
    row = "{},nv,40,,".format
    first = _delivery(tmp_path / "first", {"SECRET1.jpg": row("LB")}, {"SECRET1.jpg": 1})
    ingest(open_source(str(first)), catalogue, objects, taxonomy.load())
    second = _delivery(tmp_path / "second", {"a.jpg": "LB,mel,40,,"}, {"a.jpg": 2})
    ingest(open_source(str(second)), catalogue, objects, taxonomy.load())
    (first / "labels.csv").write_text(f"{PLAIN}SECRET1.jpg,{row('SECRETA')}\n")
    ingest(open_source(str(first)), catalogue, objects, taxonomy.load())
    assert "SECRET1" in catalogue.refusals()[0][1].detail
    forget("SECRETA", catalogue, objects)
    assert "SECRET" not in _rows(catalogue)
    assert ingest(open_source(str(second)), catalogue, objects, taxonomy.load()).accepted == 1


def test_a_release_of_what_was_forgotten_since_stores_nothing(
    new_database: Callable[[], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    catalogue, objects = Catalogue(new_database()), Folder(tmp_path / "objects")
    folder = _delivery(tmp_path / "in", {"a.jpg": "LA,nv,40,W,"}, {"a.jpg": 1})
    ingest(open_source(str(folder)), catalogue, objects, taxonomy.load())
    ((refusal, _, _),) = catalogue.quarantined()
    with catalogue.engine.begin() as connection:
        bury(connection, [(stored.bare_digest(samples.jpeg(1), "jpeg"), "0" * 64, True)])
    before, whole = objects.listing(), Catalogue.forgotten
    # The second time it is forgotten between the look at the tombstones and the catalogue's turn.
    for looks in (iter([whole, whole]), iter([lambda self: frozenset(), whole])):
        monkeypatch.setattr(Catalogue, "forgotten", lambda self, looks=looks: next(looks)(self))
        with pytest.raises(BadInput, match="was forgotten on request"):
            release(refusal, {"sex": "male"}, catalogue, objects, taxonomy.load())
        assert objects.listing() == before


def test_no_id_of_what_was_forgotten_is_left(
    new_database: Callable[[], str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batches, "QUIET", 0.0)
    catalogue, objects = Catalogue(new_database()), Folder(tmp_path / "objects")
    rows = {
        "SECRET1.jpg": "SECRETA,nv,40,M,PX",
        "SECRET2.jpg": "SECRETA,nv,40,F,PX",
        "SECRET3.jpg": "SECRETA,nv,40,,PX",
    }
    folder = _delivery(tmp_path / "batch", rows, {"SECRET1.jpg": 1, "SECRET2.jpg": 2, "SECRET3.jpg": 3})
    taken = batches.take(str(folder), catalogue, objects, taxonomy.load())
    placing.place(catalogue)
    ids = {refusal.name: name for name, _, refusal in catalogue.quarantined()}
    release(ids["SECRET1"], {"sex": "male"}, catalogue, objects, taxonomy.load())
    quarantine.drop(ids["SECRET2"], catalogue, objects)
    later = _delivery(tmp_path / "later", {"other.jpg": "LZ,nv,41,,PX"}, {"other.jpg": 4})
    ingest(open_source(str(later)), catalogue, objects, taxonomy.load())
    placing.place(catalogue)
    assert "with lesion SECRETA" in _rows(catalogue) and "SECRET2" in taken.taking.receipt
    forget("SECRETA", catalogue, objects)
    assert "SECRET" not in _rows(catalogue)
    again = batches.take(str(folder), catalogue, objects, taxonomy.load())
    assert again.earlier and json.loads((folder / "receipt.json").read_text())["refused_not_listed"] == 2


def test_a_lesion_leaves_the_prepared_pixels_and_its_versions_are_named(installation: Installation) -> None:
    record = Catalogue(settings.read().catalogue).records()[0]
    indexes = list((installation.home / "prepared").glob("*/*.json"))
    assert any(record.digest in index.read_text() for index in indexes)
    forgotten = stages.forget(record.labels.lesion_id)
    assert (forgotten["versions"], forgotten["unknown"]) == (["1"], []) and forgotten["images"] >= 1
    left = list((installation.home / "prepared").glob("*/*"))
    assert not any(record.digest in path.read_text() for path in left if path.suffix == ".json")
    assert {path.stem for path in left if path.suffix == ".npy"} == {
        path.stem for path in left if path.suffix == ".json" and path.name != "recipe.json"
    }
    assert stages.ingest(SOURCE)["quarantined"] == {"forgotten": forgotten["images"]}
    assert stages.forget(record.labels.lesion_id) == forgotten


def test_a_version_that_began_with_one_that_saw_it_is_named_too(installation: Installation) -> None:
    here, frozen = settings.read(), _of_the_champion()[1]
    lesion = frozen.train[0].labels.lesion_id
    others = [record for record in frozen.records if record.labels.lesion_id != lesion]
    other = snapshots.freeze(others, frozen.taxonomy, snapshot_place(here))
    versions = versions_of(here, tracking_of(here))
    for started in ("imagenet", "1", "3"):
        run = tracking_of(here).run_for(f"began with {started}", "a run", {}).info.run_id
        tags = {"dermanet.snapshot": other.id, "dermanet.started_from": started}
        versions.register(run, versions.get("1").source, tags)
    told = stages.forget(lesion)
    assert (told["versions"], told["unknown"]) == (["1", "3", "4"], [])


@pytest.mark.parametrize("missing", [True, False], ids=["elsewhere", "damaged"])
def test_a_version_whose_snapshot_cannot_be_looked_up_is_named_as_such(
    installation: Installation, missing: bool
) -> None:
    frozen = _of_the_champion()[1]
    folder = installation.home / "snapshots" / frozen.id
    if missing:
        shutil.rmtree(folder)
    else:
        (folder / "records.csv").write_text("nothing\n")
    for _ in range(2):
        told = stages.forget(frozen.train[0].labels.lesion_id)
        assert told["images"] and (told["versions"], told["unknown"]) == ([], ["1"])


def _forgets_at(monkeypatch: pytest.MonkeyPatch, owner: type, method: str, lesion: str) -> list[int]:
    """Has a lesion forgotten at the moment that a method is called next; how often it was since."""
    called, calls = getattr(owner, method), list[int]()

    def late(*args: Any, **named: Any) -> Any:
        calls.append(len(calls))
        if len(calls) == 1:
            stages.forget(lesion)
        return called(*args, **named)

    monkeypatch.setattr(owner, method, late)
    return calls


def _of_the_champion() -> tuple[str, Snapshot]:
    run = str(stages.champion()["run_id"])
    here = settings.read()
    return run, frozen_snapshot(here, tracking_of(here).run(run).data.tags["dermanet.snapshot"])


def _traces(home: Path, lesion: list[Record]) -> list[Path]:
    """Files that name an image of a lesion, those aside that are a snapshot's own list of what it was."""
    files = [path for path in home.rglob("*") if path.is_file() and path.suffix in {".html", ".json"}]
    kept = [
        path for path in files if "snapshots" not in path.parts and path.name not in {"manifest.json", "snapshot.json"}
    ]
    return [path for path in kept if any(record.digest in path.read_text() for record in lesion)]


@pytest.mark.parametrize(
    ("stage", "method"),
    [
        ("evaluate", "log_text"),
        ("evaluate", "log_json"),
        ("judge", "fetch"),
        ("judge", "log_text"),
        ("dossier", "log_text"),
    ],
)
def test_a_page_that_is_being_written_loses_what_is_forgotten_meanwhile(
    installation: Installation, monkeypatch: pytest.MonkeyPatch, stage: str, method: str
) -> None:
    run, frozen = _of_the_champion()
    before = Path(stages.evaluation_page(run)).read_text()
    first = next(record for record in frozen.holdout if f'data-digest="{record.digest}"' in before)
    lesion = [record for record in frozen.records if record.labels.lesion_id == first.labels.lesion_id]
    calls = _forgets_at(monkeypatch, Tracking, method, first.labels.lesion_id)
    if stage == "dossier":
        compile_dossier("1")
    else:
        getattr(stages, stage)(run)
    assert calls and _traces(installation.home, lesion) == []
    assert "data-digest" in Path(stages.evaluation_page(run)).read_text()


def test_a_report_on_data_that_is_being_written_loses_what_is_forgotten_meanwhile(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    frozen = _of_the_champion()[1]
    run = stages.validate(frozen.id)["run_id"]
    objects, before = place(settings.read().objects), Path(stages.report_file(run)).read_text()
    addresses = {record: tile(objects.read(object_name(record.digest)), "").address for record in frozen.records}
    first = next(record for record in frozen.records if addresses[record] in before)
    lesion = [record for record in frozen.records if record.labels.lesion_id == first.labels.lesion_id]
    calls = _forgets_at(monkeypatch, Tracking, "log_text", first.labels.lesion_id)
    stages.validate(frozen.id)
    after = Path(stages.report_file(run)).read_text()
    assert len(calls) >= 2 and not any(addresses[record] in after for record in lesion)
    assert any(address in after for address in addresses.values())


def test_only_whole_ids_are_taken_out_of_texts() -> None:
    line = "schema, a lesion on two sides breaches 7 cases, none allowed: 7, HAM_1, HAM_12, HAM_1-2, P 1 and 3 more (of 7 images)"
    after = f"{line.partition(': ')[0]}: {HIDDEN}, {HIDDEN}, HAM_12, HAM_1-2, {HIDDEN} and 3 more (of 7 images)"
    assert hide(line, {"7", "HAM_1", "P 1"}) == after
    assert hide("accepted by Eve: HAM_1 is right.", {"HAM_1"}) == f"accepted by Eve: {HIDDEN} is right."
    assert hide({"rule": ["HAM_1", "HAM_12"], "limit": 7}, {"HAM_1"}) == {"rule": [HIDDEN, "HAM_12"], "limit": 7}
    assert hide("nobody", set()) == "nobody"


def test_a_run_that_was_deleted_in_mlflow_loses_its_pictures_and_stays_deleted(installation: Installation) -> None:
    run, frozen = _of_the_champion()
    here, tracking = settings.read(), tracking_of(settings.read())
    page = Path(stages.evaluation_page(run)).read_text()
    first = next(record for record in frozen.holdout if f'data-digest="{record.digest}"' in page)
    report = stages.validate(frozen.id)["run_id"]
    for one in (run, report):
        tracking.client.delete_run(one)
    stages.forget(first.labels.lesion_id)
    lesion = [record for record in frozen.records if record.labels.lesion_id == first.labels.lesion_id]
    assert _traces(installation.home, lesion) == []
    left = snapshot_tracking(here).read_text(report, "report.html")
    assert "data:image" in left and not any(f'alt="{record.image_id}\n' in left for record in lesion)
    assert [tracking.run(one).info.lifecycle_stage for one in (run, report)] == ["deleted", "deleted"]


def test_pixels_that_are_being_prepared_lose_what_is_forgotten_meanwhile(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    frozen = _of_the_champion()[1]
    objects = place(settings.read().objects)
    # As if each had been read before it was removed.
    kept = {record.digest: stored.read(objects, record.digest) for record in frozen.records}
    monkeypatch.setattr(stored, "read", lambda objects, digest: kept[digest])
    lesion = [record for record in frozen.records if record.labels.lesion_id == frozen.train[0].labels.lesion_id]
    calls = _forgets_at(monkeypatch, PreparedPixels, "fill", lesion[0].labels.lesion_id)
    with pytest.raises(BadInput, match="forgotten lesion's"):
        stages.prepare(frozen.id, "smoke:recipe=square@32")
    assert calls and _traces(installation.home, lesion) == []


def test_upkeep_takes_pixels_of_what_is_forgotten_that_a_killed_stage_has_left(installation: Installation) -> None:
    frozen = _of_the_champion()[1]
    shard = next((installation.home / "prepared").glob("*/*.npy"))
    kept = {path: path.read_bytes() for path in (shard, shard.with_suffix(".json"))}
    digest = json.loads(kept[shard.with_suffix(".json")])["digests"][0]
    stages.forget(next(record.labels.lesion_id for record in frozen.records if record.digest == digest))
    assert not shard.exists()
    for path, data in kept.items():
        path.write_bytes(data)
    assert stages.prune_cache(really=True)["shards"] == [str(shard)] and not shard.exists()
