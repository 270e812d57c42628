"""Quarantine: what is refused is kept with its row and its file; a person releases it, corrected, or drops it for good."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np
import pytest
import samples
import simplejpeg

from dermanet import stages, taxonomy
from dermanet.errors import BadInput
from dermanet.intake import quarantine
from dermanet.intake.catalogue import Catalogue
from dermanet.intake.ingest import Outcome, ingest, release
from dermanet.intake.sources import open_source
from dermanet.intake.stored import object_name
from dermanet.intake.tables import Table
from dermanet.records import Record, Refusal, refusal_id
from dermanet.storage import Folder


@dataclass(frozen=True)
class Clinic:
    """An installation and the folder that its images come in."""

    catalogue: Catalogue
    objects: Folder
    folder: Path

    def ingest(self, **changes: object) -> Outcome:
        samples.ham10000(self.folder, **changes)  # type: ignore[arg-type]
        return ingest(open_source(str(self.folder)), self.catalogue, self.objects, taxonomy.load())

    def id(self, name: str) -> str:
        return refusal_id(f"{self.folder}/HAM10000_metadata.csv", name)

    def held(self, number: int) -> Refusal:
        return self.catalogue.refusal(self.id(f"ISIC_{number:07d}"))[1]

    def release(self, number: int, force: bool = False, **cells: str) -> Record | None:
        refusal = self.id(f"ISIC_{number:07d}")
        return release(refusal, cells, self.catalogue, self.objects, taxonomy.load(), force)

    def drop(self, number: int) -> None:
        quarantine.drop(self.id(f"ISIC_{number:07d}"), self.catalogue, self.objects)

    def kept(self) -> set[bytes]:
        """The contents of every file in quarantine."""
        return {self.objects.read(name) for name in self.objects.listing() if name.startswith("quarantine/")}

    def names(self) -> list[str]:
        return sorted(record.image_id[-1] for record in self.catalogue.records())


@pytest.fixture
def clinic(new_database: Callable[[], str], tmp_path: Path) -> Clinic:
    return Clinic(Catalogue(new_database()), Folder(tmp_path / "objects"), tmp_path / "in")


BAD = {1: {"sex": "M"}, 2: {"age": "400", "dx": "nv"}}


def test_every_refused_record_is_kept_with_its_row_and_its_file(clinic: Clinic) -> None:
    stray = f"{samples.PARTS[1]}/extra.jpg"
    clinic.ingest(rows=BAD, files={"ISIC_0000003.jpg": b"no image", "ISIC_0000004.jpg": None})
    (clinic.folder / stray).write_bytes(samples.jpeg(77))
    clinic.ingest(rows=BAD, files={"ISIC_0000003.jpg": b"no image", "ISIC_0000004.jpg": None})
    assert clinic.kept() == {samples.jpeg(1), samples.jpeg(2), b"no image", samples.jpeg(77)}
    row = clinic.held(2).row
    assert row and (row.lesion_id, row.age, row.diagnosis, row.sex) == ("HAM_0000002", "400", "nv", "male")
    assert clinic.held(4).file is None and clinic.held(4).row
    source, held = clinic.catalogue.refusal(clinic.id(stray))
    assert (source, held.reason) == (f"{clinic.folder}/HAM10000_metadata.csv", "image without a row")


def test_a_corrected_record_is_released_and_known_from_then_on(clinic: Clinic) -> None:
    clinic.ingest(rows=BAD)
    record = clinic.release(1, sex="male")
    assert record and (record.labels.sex, record.labels.lesion_id) == ("male", "HAM_0000001")
    assert clinic.objects.read(object_name(record.digest)) == samples.jpeg(1)
    assert clinic.kept() == {samples.jpeg(2)} and clinic.names() == ["0", "1", "3", "4", "5"]
    again = clinic.ingest(rows=BAD)
    assert (again.known, dict(again.quarantined)) == (5, {"impossible age": 1})
    assert [refusal.name for _, refusal in clinic.catalogue.refusals()] == ["ISIC_0000002"]
    assert clinic.release(1, sex="male") is None


def test_a_released_record_whose_row_changes_is_screened_anew(clinic: Clinic) -> None:
    clinic.ingest(rows=BAD)
    clinic.release(1, sex="male")
    assert clinic.ingest(rows=BAD | {1: {"sex": "W"}}).quarantined["unknown sex"] == 1
    assert clinic.ingest(rows=BAD | {1: {"sex": "female"}}).corrected == 1
    assert clinic.ingest(rows=BAD | {1: {"sex": "female"}}).known == 5


def test_a_stray_image_is_taken_in_with_the_labels_that_it_lacked(clinic: Clinic) -> None:
    clinic.ingest(files={"extra.jpg": samples.jpeg(77)})
    name = next(refusal.name for _, refusal in clinic.catalogue.refusals())
    cells = {"lesion_id": "L77", "dx": "mel", "sex": "male"}
    record = release(clinic.id(name), cells, clinic.catalogue, clinic.objects, taxonomy.load())
    assert record and (record.image_id, record.labels.diagnosis, record.labels.age) == ("extra", "mel", None)


@pytest.mark.parametrize(
    ("number", "cells", "seen"),
    [
        (1, {}, "unknown sex"),
        (1, {"sex": "male", "age": "-1"}, "impossible age"),
        (1, {"colour": "red"}, "no such column"),
        (3, {}, "not an image"),
        (4, {}, "cannot be released"),
        (5, {}, "in the catalogue already, as ISIC_0000000"),
        (0, {}, "no record"),
    ],
)
def test_what_does_not_pass_stays_where_it_is(clinic: Clinic, number: int, cells: dict[str, str], seen: str) -> None:
    files = {"ISIC_0000003.jpg": b"no image", "ISIC_0000004.jpg": None, "ISIC_0000005.jpg": samples.jpeg(0)}
    clinic.ingest(rows=BAD, files=files)
    before = clinic.catalogue.refusals(), clinic.catalogue.records(), clinic.kept()
    with pytest.raises(BadInput, match=seen) as caught:
        clinic.release(number, **cells)
    assert "\n" not in str(caught.value)
    assert (clinic.catalogue.refusals(), clinic.catalogue.records(), clinic.kept()) == before


def test_a_lesion_of_two_sources_is_corrected_by_both_and_a_person(clinic: Clinic, tmp_path: Path) -> None:
    other = replace(clinic, folder=tmp_path / "later")
    only = {"ISIC_0000000.jpg": None, "ISIC_0000009.jpg": samples.jpeg(9)}

    def told(diagnosis: str) -> list[Outcome]:
        rows = {0: samples.ham10000_row(0, lesion_id="L1", dx=diagnosis, age="50", sex="male")}
        later = {0: samples.ham10000_row(9, lesion_id="L1", dx=diagnosis, age="50", sex="male")}
        one = clinic.ingest(count=1, rows=rows)
        return [one, other.ingest(count=1, rows=later, files=only)]

    assert [outcome.accepted for outcome in told("nv")] == [1, 1]
    assert [outcome.quarantined for outcome in told("mel")] == [{"label conflict": 1}] * 2
    with pytest.raises(BadInput, match=r"it is refused again, label conflict: .*--force insists"):
        clinic.release(0)
    assert clinic.release(0, force=True) and other.release(9)
    assert [record.labels.diagnosis for record in clinic.catalogue.records()] == ["mel", "mel"]
    assert not clinic.kept() and len([name for name in clinic.objects.listing() if "/" in name]) == 2
    assert [(outcome.known, outcome.quarantined) for outcome in told("mel")] == [(1, {}), (1, {})]
    assert not clinic.catalogue.refusals()


def test_a_dropped_record_is_gone_for_good(clinic: Clinic) -> None:
    clinic.ingest(rows=BAD)
    for _ in range(2):
        clinic.drop(1)
        assert clinic.kept() == {samples.jpeg(2)}
    outcome = clinic.ingest(rows=BAD)
    assert outcome.quarantined == {"unknown sex": 1, "impossible age": 1}
    assert clinic.kept() == {samples.jpeg(2)}
    assert [refusal.name for _, refusal in clinic.catalogue.refusals()] == ["ISIC_0000002"]
    assert clinic.held(1).row is None and clinic.held(1).detail == ""
    with pytest.raises(BadInput, match="was dropped"):
        clinic.release(1, sex="male")


def test_a_dropped_record_that_was_mended_is_taken_in(clinic: Clinic) -> None:
    clinic.ingest(rows=BAD)
    clinic.drop(1)
    assert clinic.ingest(rows={2: BAD[2]}).accepted == 1


def test_a_released_record_is_not_dropped_as_its_image_would_stay(clinic: Clinic) -> None:
    clinic.ingest(rows=BAD)
    clinic.release(1, sex="male")
    with pytest.raises(BadInput, match="was released, and its image is in the catalogue"):
        clinic.drop(1)
    assert clinic.ingest(rows=BAD).known == 5


@pytest.mark.parametrize("name", ["caf\udce9.jpg", "two\nlines.jpg", "l" * 200 + ".jpg"])
def test_whatever_a_file_is_called_its_record_is_found_by_the_id_that_is_listed(
    home: Path, tmp_path: Path, name: str
) -> None:
    folder = samples.ham10000(tmp_path / "in", 2)
    (folder / samples.PARTS[0] / name).write_bytes(samples.jpeg(9))
    stages.ingest(str(folder))
    (listed,) = stages.quarantined()["records"]
    assert stages.show_quarantined(listed["id"])["reason"] == "image without a row"
    assert stages.drop_quarantined(listed["id"])["dropped"]
    assert stages.quarantined()["count"] == 0


def test_a_record_whose_cells_do_not_fit_is_released_by_who_sets_them(clinic: Clinic) -> None:
    samples.ham10000(clinic.folder, 3)
    table = clinic.folder / "HAM10000_metadata.csv"
    lines = table.read_text().splitlines()
    lines[1] = lines[1].replace(",back", ",back, upper")
    lines[2] = lines[2].rpartition(",")[0].rpartition(",")[0]
    table.write_text("\n".join(lines))
    found = ingest(open_source(str(clinic.folder)), clinic.catalogue, clinic.objects, taxonomy.load())
    assert (found.accepted, found.quarantined) == (1, {"cells do not fit": 2})
    assert "line 2 has 8 cells and the header 7" in clinic.held(0).detail
    assert "line 3 has 5 cells and the header 7" in clinic.held(1).detail
    assert clinic.kept() == {samples.jpeg(0), samples.jpeg(1)}
    with pytest.raises(BadInput, match="cells do not fit"):
        clinic.release(0)
    record = clinic.release(0, localization="back, upper")
    assert record and record.labels.localization == "back, upper"


def test_a_mended_or_changed_record_leaves_no_file_behind(clinic: Clinic) -> None:
    clinic.ingest(rows=BAD)
    clinic.ingest(rows={2: BAD[2]}, files={"ISIC_0000002.jpg": samples.jpeg(22)})
    assert clinic.kept() == {samples.jpeg(22)}
    clinic.ingest()
    assert clinic.kept() == set() and clinic.catalogue.refusals() == []


def without(clinic: Clinic, *numbers: int) -> None:
    """Takes rows and files of the last ingest out of the folder."""
    table = clinic.folder / "HAM10000_metadata.csv"
    names = [f"ISIC_{number:07d}" for number in numbers]
    lines = table.read_text().splitlines(keepends=True)
    table.write_text("".join(line for line in lines if not any(name in line for name in names)))
    for name in names:
        for path in clinic.folder.rglob(f"{name}.jpg"):
            path.unlink()


def again(clinic: Clinic) -> Outcome:
    return ingest(open_source(str(clinic.folder)), clinic.catalogue, clinic.objects, taxonomy.load())


def test_what_its_source_has_no_more_stays_until_a_person_decides(clinic: Clinic) -> None:
    files = {"ISIC_0000003.jpg": b"no image", "ISIC_0000004.jpg": None}
    clinic.ingest(rows=BAD, files=files)
    before = {number: clinic.held(number) for number in (1, 2, 3, 4)}
    without(clinic, 1, 3, 4)
    for _ in range(2):
        assert again(clinic).quarantined == {"impossible age": 1}
        assert {number: clinic.held(number).withdrawn for number in before} == {1: True, 2: False, 3: True, 4: True}
        assert {number: replace(clinic.held(number), withdrawn=False) for number in before} == before
        assert clinic.kept() == {samples.jpeg(1), samples.jpeg(2), b"no image"}
    assert clinic.release(1, sex="male") and clinic.kept() == {samples.jpeg(2), b"no image"}
    clinic.drop(3)
    assert clinic.kept() == {samples.jpeg(2)}
    # What its source has again is as if it had never been away.
    clinic.ingest(rows=BAD, files=files)
    assert not clinic.held(4).withdrawn


def test_what_is_here_under_another_name_leaves_quarantine(clinic: Clinic) -> None:
    files = {"ISIC_0000001.jpg": b"no image", "ISIC_0000004.jpg": None, "stray.jpg": samples.jpeg(9)}
    twice = [samples.ham10000_row(4, age="61.0")]
    assert clinic.ingest(rows={2: BAD[2]}, files=files, extra=twice).quarantined.total() == 5
    without(clinic, 1, 2, 4)
    next(clinic.folder.rglob("stray.jpg")).unlink()
    # The same bytes: one that was taken for broken again, one whose row was, one that had no row. And one row of two is left.
    renamed = [samples.ham10000_row(number) for number in (3, 4, 5, 11, 12, 19)]
    contents = {11: b"no image", 12: samples.jpeg(2), 19: samples.jpeg(9)}
    named = {f"ISIC_{number:07d}.jpg": data for number, data in contents.items()}
    outcome = clinic.ingest(rows={}, files={"ISIC_0000004.jpg": None} | named, count=1, extra=renamed)
    assert (outcome.accepted, outcome.quarantined) == (2, {"not an image": 1, "missing image": 1})
    assert sorted(refusal.name for _, refusal in clinic.catalogue.refusals()) == ["ISIC_0000004", "ISIC_0000011"]
    assert not any(refusal.withdrawn for _, refusal in clinic.catalogue.refusals()) and clinic.kept() == {b"no image"}


def test_a_release_that_is_killed_before_the_file_is_removed_is_finished_by_the_next(
    clinic: Clinic, monkeypatch: pytest.MonkeyPatch
) -> None:
    clinic.ingest(rows=BAD)

    def die(self: Folder, name: str) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Folder, "remove", die)
        clinic.release(1, sex="male")
    assert clinic.names() == ["0", "1", "3", "4", "5"] and samples.jpeg(1) in clinic.kept()
    clinic.release(1)
    assert clinic.kept() == {samples.jpeg(2)}


def test_a_drop_that_is_killed_is_finished_by_the_next(clinic: Clinic, monkeypatch: pytest.MonkeyPatch) -> None:
    clinic.ingest(rows=BAD)

    def die(self: Folder, name: str) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Folder, "remove", die)
        clinic.drop(1)
    assert len(clinic.catalogue.refusals()) == 2 and len(clinic.kept()) == 2
    clinic.drop(1)
    assert clinic.kept() == {samples.jpeg(2)}


def test_a_file_that_is_too_large_is_not_kept(clinic: Clinic, monkeypatch: pytest.MonkeyPatch) -> None:
    from dermanet.intake import ingest as room

    monkeypatch.setattr(room, "MOST_BYTES", 100)
    clinic.ingest(rows=BAD)
    assert clinic.kept() == set() and len(clinic.catalogue.refusals()) == 2


def test_a_blurred_image_is_released_by_insisting_and_stays_released(clinic: Clinic) -> None:
    files = {"ISIC_0000001.jpg": samples.png(np.full((60, 80, 3), 120, np.uint8))}
    assert clinic.ingest(files=files).quarantined == {"blank": 1}
    with pytest.raises(BadInput, match="--force insists"):
        clinic.release(1)
    assert clinic.release(1, force=True)
    assert (clinic.ingest(files=files).known, clinic.catalogue.refusals(), clinic.kept()) == (6, [], set())


@pytest.mark.parametrize("stated", [False, True], ids=["read", "stated by a server"])
@pytest.mark.parametrize("lesion", ["HAM_0000000", "HAM_7"])
def test_what_a_person_set_at_a_release_stays_set(
    clinic: Clinic, monkeypatch: pytest.MonkeyPatch, lesion: str, stated: bool
) -> None:
    if stated:
        monkeypatch.setattr(Table, "md5", lambda self, image: hashlib.md5(self.read(image)).hexdigest())
    # The same photograph under two lesions: the row itself is sound.
    files = {
        f"ISIC_{number:07d}.jpg": bytes(simplejpeg.encode_jpeg(samples.pixels(9, 200, 150), 95 - number, "RGB"))
        for number in (0, 1)
    }
    assert clinic.ingest(files=files).quarantined == {"near-duplicate under another lesion": 1}
    labels = clinic.release(1, force=True, lesion_id=lesion, dx="akiec", age="40", sex="male")
    for _ in range(2):
        again = clinic.ingest(files=files)
        assert (again.known, again.corrected, again.quarantined) == (6, 0, {})
    assert labels in clinic.catalogue.records()
    assert clinic.ingest(files=files, rows={1: {"age": "77"}}).corrected == 1


def test_a_conflict_is_released_by_insisting_or_by_mending(clinic: Clinic) -> None:
    rows = {1: {"lesion_id": "L", "dx": "nv", "age": ""}, 2: {"lesion_id": "L", "dx": "mel", "age": ""}}
    rows = {number: row | {"sex": ""} for number, row in rows.items()}
    assert clinic.ingest(rows=rows).quarantined == {"label conflict": 2}
    assert clinic.release(1, dx="mel")
    assert clinic.release(2)
    assert clinic.ingest(rows=rows).known == 6
    assert clinic.ingest(rows=rows | {3: {"lesion_id": "L", "dx": "bcc"}}).known >= 5


def test_a_conflict_with_what_is_catalogued_needs_insisting(clinic: Clinic) -> None:
    rows = {1: {"lesion_id": "L", "dx": "nv", "age": "40"}, 2: {"lesion_id": "L", "dx": "nv", "age": "45"}}
    rows = {number: row | {"sex": ""} for number, row in rows.items()}
    clinic.ingest(rows=rows)
    clinic.release(1)
    with pytest.raises(BadInput, match="age 40 and 45"):
        clinic.release(2)
    assert clinic.release(2, force=True) and clinic.kept() == set()
    assert clinic.ingest(rows=rows).known == 6
