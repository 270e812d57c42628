"""Forgetting a lesion: its images are gone from everywhere, never come back, and the versions that saw them are named."""

from collections.abc import Callable
from pathlib import Path

import pytest
import samples
from installation import SOURCE, Installation

from dermanet import settings, stages, taxonomy
from dermanet.errors import BadInput
from dermanet.intake.catalogue import Catalogue
from dermanet.intake.forgetting import forget
from dermanet.intake.ingest import ingest
from dermanet.intake.sources import open_source
from dermanet.storage import Folder

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


def test_a_lesion_leaves_the_prepared_pixels_and_its_versions_are_named(installation: Installation) -> None:
    record = Catalogue(settings.read().catalogue).records()[0]
    indexes = list((installation.home / "prepared").glob("*/*.json"))
    assert any(record.digest in index.read_text() for index in indexes)
    forgotten = stages.forget(record.labels.lesion_id)
    assert forgotten["versions"] == ["1"] and forgotten["images"] >= 1
    left = list((installation.home / "prepared").glob("*/*"))
    assert not any(record.digest in path.read_text() for path in left if path.suffix == ".json")
    assert {path.stem for path in left if path.suffix == ".npy"} == {
        path.stem for path in left if path.suffix == ".json" and path.name != "recipe.json"
    }
    assert stages.ingest(SOURCE)["quarantined"] == {"forgotten": forgotten["images"]}
    assert stages.forget(record.labels.lesion_id) == forgotten
