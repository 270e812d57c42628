"""Snapshots that say too little: what is trained on them, or why nothing is; a version is never registered for them."""

import csv
from collections.abc import Callable
from pathlib import Path

import mlflow
import pytest

from dermanet import settings, stages
from dermanet.errors import BadInput
from dermanet.intake.synthetic import SyntheticSource
from dermanet.records import Row

SCRATCH, PROBE = "smoke:epochs=1", "probe:backbone=efficientnet-lite0,recipe=square@32,views=1"


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("DERMANET_HOME", str(tmp_path / "home"))
    for name in ("DERMANET_GATES", "MLFLOW_TRACKING_URI"):
        monkeypatch.delenv(name, raising=False)
    return tmp_path / "home"


def written(folder: Path, lesions: int, keep: Callable[[Row], bool] = lambda row: True, ages: bool = True) -> str:
    """Drawn images of so many lesions as a source, without those that are not kept."""
    source = SyntheticSource(lesions=lesions, seed=5)
    folder.mkdir()
    with (folder / "labels.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "lesion_id", "age", "sex", "dx"])
        for row in source.rows():
            if keep(row):
                (folder / f"{row.image_id}.jpg").write_bytes(source.read(str(row.image)))
                writer.writerow([f"{row.image_id}.jpg", row.lesion_id, row.age if ages else "", row.sex, row.diagnosis])
    return str(folder)


def versions() -> int:
    found = mlflow.MlflowClient(settings.read().tracking_uri).search_model_versions()
    return len(found)


def test_a_diagnosis_that_no_lesion_has_is_never_answered_and_nothing_is_decided(tmp_path: Path) -> None:
    done = stages.retrain([written(tmp_path / "source", 60, lambda row: row.diagnosis not in ("vasc", "mel"))], PROBE)
    assert "diagnosis_recall_mel" not in done["metrics"] and done["metrics"]["diagnosis_accuracy"] >= 0
    assert done["metrics"]["age_mae"] < 40
    assert done["verdict"] == "insufficient" and done["version"] is None and versions() == 0


def test_a_diagnosis_of_one_lesion_is_trained_on_or_judged_and_never_both(tmp_path: Path) -> None:
    first: list[str] = []

    def one_melanoma(row: Row) -> bool:
        if row.diagnosis == "mel" and not first:
            first.append(row.lesion_id)
        return row.diagnosis != "mel" or row.lesion_id in first

    done = stages.retrain([written(tmp_path / "source", 60, one_melanoma)], PROBE)
    assert done["verdict"] == "insufficient" and done["version"] is None and versions() == 0
    assert any("mel" in warning for warning in stages.snapshot()["warnings"])


def test_without_any_age_one_line_says_so_and_the_run_has_failed(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="no training record states an age") as caught:
        stages.retrain([written(tmp_path / "source", 60, ages=False)], SCRATCH)
    assert "\n" not in str(caught.value) and versions() == 0
    client = mlflow.MlflowClient(settings.read().tracking_uri)
    (run,) = client.search_runs([client.get_experiment_by_name("dermanet").experiment_id])
    assert run.info.status == "FAILED"


def test_ten_images_are_too_few_to_judge_by_or_to_train_on(tmp_path: Path) -> None:
    kept: list[str] = []

    def first_ten(row: Row) -> bool:
        kept.append(row.image_id)
        return len(kept) <= 10

    try:
        done = stages.retrain([written(tmp_path / "source", 30, first_ten)], SCRATCH)
    except BadInput as refused:
        assert "side of the snapshot has no image" in str(refused) and "\n" not in str(refused)
    else:
        assert done["verdict"] == "insufficient" and done["version"] is None
    assert versions() == 0
