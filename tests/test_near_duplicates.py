"""Near-duplicates: copies of a photograph are recognised and refused under another lesion; other photographs are not."""

import dataclasses
from collections.abc import Callable
from dataclasses import dataclass
from functools import cache
from pathlib import Path

import cv2
import numpy as np
import pytest
import samples
import simplejpeg
import sqlalchemy as sa
from numpy.typing import NDArray

from dermanet import taxonomy
from dermanet.database.schema import ALIKE as ALIKE_TABLE
from dermanet.database.schema import IMAGES, THUMBNAILS
from dermanet.imagefile import decode
from dermanet.intake import measuring
from dermanet.intake.catalogue import Catalogue
from dermanet.intake.ingest import Outcome, ingest, release
from dermanet.intake.likeness import ALIKE, SAME, Gallery, Match, matches
from dermanet.intake.look import THUMBNAIL, look
from dermanet.intake.sources import open_source
from dermanet.intake.synthetic import SyntheticSource
from dermanet.intake.tombstones import NEAR_DUPLICATE
from dermanet.records import Row, refusal_id
from dermanet.storage import Folder

Pixels = NDArray[np.uint8]


@cache
def photographs() -> list[Pixels]:
    """Thirty lesions, one photograph each, 600x450."""
    source = SyntheticSource(lesions=60, seed=3)
    rows = [row for row in source.rows() if isinstance(row, Row) and row.image]
    first = {row.lesion_id: str(row.image) for row in reversed(rows)}
    return [decode(source.read(image)) for image in list(first.values())[:30]]


def jpeg(pixels: Pixels, quality: int = 90) -> bytes:
    return bytes(simplejpeg.encode_jpeg(np.ascontiguousarray(pixels), quality, "RGB", "420"))


COPIES: dict[str, Callable[[Pixels], Pixels]] = {
    "encoded again": lambda image: decode(jpeg(image, 50)),
    "half the size": lambda image: np.asarray(cv2.resize(image, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)),
    "brighter": lambda image: np.asarray(np.clip(image * 1.1, 0, 255), np.uint8),
    "cropped": lambda image: image[9:-9, 12:-12],
    "cropped on one side": lambda image: image[:-14, :-18],
    **{f"turned {turns} quarters": lambda image, turns=turns: np.rot90(image, turns) for turns in (1, 2, 3)},  # type: ignore[misc]
    "mirrored": lambda image: image[:, ::-1],
    "transposed": lambda image: image.transpose(1, 0, 2),
    "turned, mirrored and cropped": lambda image: np.rot90(image[9:-9, 12:-12][::-1]),
}


def likenesses(pixels: Pixels, among: dict[str, Pixels]) -> list[Match]:
    looks = {name: look(np.ascontiguousarray(image)) for name, image in {**among, "": pixels}.items()}
    thumbnails = {
        name: np.frombuffer(seen.thumbnail, np.uint8).reshape(THUMBNAIL, THUMBNAIL) for name, seen in looks.items()
    }
    gallery = Gallery()
    gallery.add({name: looks[name].phash for name in among})
    return matches(thumbnails[""], thumbnails, gallery.near(looks[""].phash, thumbnails[""]))


@pytest.mark.parametrize("copied", COPIES.values(), ids=COPIES)
def test_a_copy_is_the_same_photograph_and_no_other(copied: Callable[[Pixels], Pixels]) -> None:
    among = {str(number): image for number, image in enumerate(photographs())}
    for number in (0, 4, 11, 17):
        found = likenesses(copied(photographs()[number]), among)
        assert [match.digest for match in found] == [str(number)]
        assert SAME <= found[0].likeness <= 1.0001


def test_photographs_of_different_lesions_are_not_alike() -> None:
    among = {str(number): image for number, image in enumerate(photographs())}
    for number, image in enumerate(photographs()):
        assert not likenesses(image, {name: other for name, other in among.items() if name != str(number)})


def test_nearly_featureless_images_are_not_alike() -> None:
    noise = {str(seed): samples.pixels(seed) for seed in range(1, 40)}
    assert not likenesses(samples.pixels(0), noise)
    assert ALIKE < SAME


@dataclass(frozen=True)
class Clinic:
    """An installation and the folder that its images come in."""

    catalogue: Catalogue
    objects: Folder
    folder: Path

    def ingest(self, images: list[Pixels], rows: dict[int, dict[str, str]], folder: str = "in") -> Outcome:
        files: dict[str, bytes | None] = {f"ISIC_{n:07d}.jpg": jpeg(image) for n, image in enumerate(images)}
        source = samples.ham10000(self.folder / folder, len(images), rows=rows, files=files)
        return ingest(open_source(str(source)), self.catalogue, self.objects, taxonomy.load())

    def ties(self) -> list[tuple[str, str]]:
        with self.catalogue.engine.connect() as connection:
            return sorted((row.one, row.other) for row in connection.execute(sa.select(ALIKE_TABLE)))

    def thumbnails(self) -> int:
        with self.catalogue.engine.connect() as connection:
            return connection.execute(sa.select(sa.func.count()).select_from(THUMBNAILS)).scalar_one()


@pytest.fixture
def clinic(new_database: Callable[[], str], tmp_path: Path) -> Clinic:
    return Clinic(Catalogue(new_database()), Folder(tmp_path / "objects"), tmp_path)


def twins() -> list[Pixels]:
    """Four images, the last a cropped copy of the first."""
    return [*photographs()[:3], photographs()[0][9:-9, 12:-12]]


ALL_NV = {number: {"dx": "nv", "age": "40", "sex": "male"} for number in range(4)}


def test_a_near_duplicate_under_another_lesion_is_refused_again_and_again(clinic: Clinic) -> None:
    for accepted in (3, 0):
        found = clinic.ingest(twins(), ALL_NV)
        assert (found.accepted, dict(found.quarantined)) == (accepted, {NEAR_DUPLICATE: 1})
        ((_, refusal),) = clinic.catalogue.refusals()
        assert refusal.name == "ISIC_0000003"
        assert "ISIC_0000000" in refusal.detail and "HAM_0000000" in refusal.detail and "\n" not in refusal.detail


def test_under_its_own_lesion_it_is_taken_in_and_met_again_where_the_lesion_becomes_another(clinic: Clinic) -> None:
    assert clinic.ingest(twins(), ALL_NV | {3: ALL_NV[3] | {"lesion_id": "HAM_0000000"}}).accepted == 4
    assert clinic.ties() == [] and clinic.thumbnails() == 4
    for corrected in (1, 0):
        assert clinic.ingest(twins(), ALL_NV).corrected == corrected
        assert len(clinic.ties()) == 1


def test_two_lesions_of_one_patient_may_show_the_same(clinic: Clinic) -> None:
    assert clinic.ingest(twins(), ALL_NV | {n: ALL_NV[n] | {"patient_id": "P1"} for n in (0, 3)}).accepted == 4
    patients = {record.image_id[-1]: record.labels.patient_id for record in clinic.catalogue.records()}
    assert patients == {"0": "P1", "1": "", "2": "", "3": "P1"} and len(clinic.ties()) == 1


def test_a_person_insists_or_sets_the_lesion_right(clinic: Clinic) -> None:
    clinic.ingest(twins(), ALL_NV)
    refusal = refusal_id(f"{clinic.folder}/in/HAM10000_metadata.csv", "ISIC_0000003")
    rest = (clinic.catalogue, clinic.objects, taxonomy.load())
    with pytest.raises(Exception, match="--force insists"):
        release(refusal, {}, *rest)
    assert release(refusal, {}, *rest, force=True) is not None
    assert clinic.ingest(twins(), ALL_NV).known == 4 and len(clinic.ties()) == 1


def test_what_this_ingest_says_of_the_other_image_counts(clinic: Clinic) -> None:
    clinic.ingest(twins()[:3], ALL_NV)
    # The copy comes first, and the catalogue still has the old lesion of the image that it is like.
    rows = {
        0: ALL_NV[0] | {"image_id": "ISIC_0000003", "lesion_id": "NEW"},
        3: ALL_NV[0] | {"image_id": "ISIC_0000000", "lesion_id": "NEW"},
    }
    for accepted, corrected in ((1, 1), (0, 0)):
        found = clinic.ingest(twins(), ALL_NV | rows)
        assert (found.accepted, found.corrected, dict(found.quarantined)) == (accepted, corrected, {})


def test_images_from_before_looks_were_kept_are_measured_and_tied(clinic: Clinic) -> None:
    clinic.ingest(twins(), ALL_NV | {n: ALL_NV[n] | {"patient_id": "P1"} for n in (0, 3)})
    ties = clinic.ties()
    assert len(ties) == 1
    with clinic.catalogue.engine.begin() as connection:
        for table in (ALIKE_TABLE, THUMBNAILS):
            connection.execute(sa.delete(table))
        connection.execute(sa.update(IMAGES).values(phash=None))
    assert [measuring.measure(clinic.catalogue, clinic.objects) for _ in range(2)] == [4, 0]
    assert clinic.ties() == ties and clinic.thumbnails() == 4


def test_synthetic_images_keep_no_company(clinic: Clinic) -> None:
    found = ingest(SyntheticSource(lesions=20), clinic.catalogue, clinic.objects, taxonomy.load())
    assert found.quarantined.total() == 0 and clinic.ties() == [] and clinic.thumbnails() == 0


def test_a_look_is_kept_but_for_its_thumbnail() -> None:
    assert "thumbnail" in {field.name for field in dataclasses.fields(look(samples.pixels()))}
    assert "thumbnail" not in IMAGES.columns
