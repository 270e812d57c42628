"""Label conflicts: records that say different things of one image or one lesion, in one source or in two."""

from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest
import samples
from storeroom import Installation

from dermanet import taxonomy
from dermanet.intake import ingest as room
from dermanet.intake.ingest import ingest
from dermanet.intake.sources import open_source


def test_the_same_image_with_another_diagnosis_is_a_conflict(here: Installation, ham10000: Callable[..., Path]) -> None:
    outcome = here.ingest(ham10000(6, files={"ISIC_0000004.jpg": samples.jpeg(0)}))
    assert (outcome.accepted, outcome.quarantined) == (5, Counter({"label conflict": 1}))
    assert here.refused() == {"ISIC_0000004": "label conflict"}


def lesion_of(number: int, **more: str) -> dict[str, str]:
    return {"lesion_id": f"HAM_{number:07d}", "dx": "nv", "age": "40", "sex": "male", **more}


@pytest.mark.parametrize("other", [{"dx": "mel"}, {"age": "45"}, {"sex": "female"}])
def test_rows_of_one_lesion_that_disagree_are_all_refused(
    here: Installation, ham10000: Callable[..., Path], other: dict[str, str]
) -> None:
    rows = {1: lesion_of(1), 2: lesion_of(1, age="", sex="unknown"), 3: lesion_of(1, **other)}
    outcome = here.ingest(ham10000(6, rows=rows))
    assert (outcome.accepted, outcome.quarantined) == (3, Counter({"label conflict": 3}))
    assert here.ingest(ham10000(6, rows={**rows, 3: lesion_of(1)})).accepted == 3


def test_what_is_missing_disagrees_with_nothing(here: Installation, ham10000: Callable[..., Path]) -> None:
    rows = {1: lesion_of(1, age=""), 2: lesion_of(1, sex=""), 3: lesion_of(1, age="nan", sex="unknown")}
    assert here.ingest(ham10000(6, rows=rows)).accepted == 6


def test_a_corrected_lesion_of_two_images_is_a_correction_and_no_conflict(
    here: Installation, ham10000: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "BATCH", 1)
    here.ingest(ham10000(6, rows={1: lesion_of(1), 4: lesion_of(1)}))
    outcome = here.ingest(ham10000(6, rows={1: lesion_of(1, dx="mel"), 4: lesion_of(1, dx="mel")}))
    assert (outcome.corrected, outcome.quarantined) == (2, Counter())
    only_one = here.ingest(ham10000(6, rows={1: lesion_of(1, dx="mel"), 4: lesion_of(1)}))
    assert (only_one.corrected, only_one.quarantined) == (0, Counter({"label conflict": 2}))
    assert {r.labels.diagnosis for r in here.catalogue.records() if r.labels.lesion_id == "HAM_0000001"} == {"mel"}


def test_another_source_contradicts_agrees_or_adds(here: Installation, tmp_path: Path) -> None:
    here.ingest(samples.ham10000(tmp_path / "first", 3, rows={1: lesion_of(1), 2: lesion_of(2)}))
    before = here.catalogue.records()
    names = {
        "ISIC_0000000.jpg": samples.jpeg(0),
        "ISIC_0000001.jpg": samples.jpeg(1),
        "ISIC_0000002.jpg": samples.jpeg(50),
    }
    rows = {0: {"sex": "unknown", "localization": "foot"}, 1: lesion_of(1, dx="mel"), 2: lesion_of(2, age="50")}
    second = samples.ham10000(tmp_path / "second", 3, rows=rows, files=names)
    outcome = here.ingest(second)
    assert (outcome.known, outcome.corrected, outcome.quarantined) == (1, 0, Counter({"label conflict": 2}))
    assert here.catalogue.records() == before
    details = {refusal.name: refusal.detail for _, refusal in here.catalogue.refusals()}
    assert "diagnosis nv and mel" in details["ISIC_0000001"] and "age 40 and 50" in details["ISIC_0000002"]
    assert str(tmp_path / "first") in details["ISIC_0000002"]


def test_an_image_that_another_source_gives_another_lesion_is_a_conflict(here: Installation, tmp_path: Path) -> None:
    here.ingest(samples.ham10000(tmp_path / "first", 1))
    outcome = here.ingest(samples.ham10000(tmp_path / "second", 1, rows={0: {"lesion_id": "OTHER"}}))
    assert outcome.quarantined == {"label conflict": 1}


def test_worlds_of_synthetic_images_do_not_contradict_one_another(here: Installation) -> None:
    for seed in (3, 4):
        source = open_source(f"synthetic:lesions=12,seed={seed},size=64x64")
        assert not ingest(source, here.catalogue, here.objects, taxonomy.load()).quarantined
