"""The whole way by its stages, on real SQLite, real MLflow and a real small network."""

import csv
import errno
import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import mlflow
import numpy as np
import pytest
from installation import SOURCE, Installation, photo

from dermanet import experiment, settings, stages
from dermanet.errors import BadInput, DermaNetError, GateRefused, StoreFault
from dermanet.intake.synthetic import SyntheticSource
from dermanet.registry.tracking import model_at_hand
from dermanet.serving import golden
from dermanet.stages.rooms import fill_pixels, frozen_snapshot

pytestmark = pytest.mark.usefixtures("installation")


def _client() -> mlflow.MlflowClient:
    return mlflow.MlflowClient(settings.read().tracking_uri)


def _runs() -> list[mlflow.entities.Run]:
    """The runs of training."""
    return list(_client().search_runs([_client().get_experiment_by_name("dermanet").experiment_id]))


def test_a_pass_is_registered_and_becomes_champion() -> None:
    champion = stages.champion()
    assert champion["version"] == "1"
    run = _client().get_run(champion["run_id"])
    assert run.info.status == "FINISHED"
    assert {"age_mae", "sex_accuracy", "diagnosis_f1_macro", "baseline_age_mae", "val_loss"} <= set(run.data.metrics)
    assert run.data.params["backbone"] == "plain"
    kept = {file.path for file in _client().list_artifacts(run.info.run_id)}
    assert {"evaluation.json", "verdict.json", "verdict.md", "learning_curves.png", "confusion_matrix.png"} <= kept


def test_the_same_work_again_finds_its_run_and_its_version() -> None:
    before = len(_runs())
    again = stages.retrain([SOURCE], "smoke")
    assert again["version"] == "1"
    assert len(_runs()) == before
    losses = _client().get_metric_history(again["run_id"], "val_loss")
    assert [metric.step for metric in losses] == [1, 2]


def test_a_champion_that_is_evaluated_again_keeps_what_it_became_champion_by() -> None:
    run = stages.retrain([], "smoke:epochs=1,patience=1,seed=41")["run_id"]
    assert stages.champion()["run_id"] == run
    again = stages.evaluate(run)
    assert again["champion_version"] == "1" and again["flips"], "it is not compared with itself"
    page = Path(stages.evaluation_page(run)).read_text()
    assert "Verdict: " in page and "Not judged yet" not in page, "where nothing has changed the page has its verdict"
    assert stages.judge(run)["champion_version"] == "1"
    _client().log_dict(run, {**again, "champion_version": None}, "evaluation.json")
    assert stages.evaluate(run)["champion_version"] is None, (
        "who was compared with nobody is not compared with itself either"
    )
    assert "Not judged yet" in Path(stages.evaluation_page(run)).read_text()


def test_slices_that_the_gates_name_are_scored_by_themselves(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    accuracy = "diagnosis_accuracy: {greater_is_better: true, threshold: 0}"
    clinics = "{axis: clinic, values: [clinic_a, clinic_b, clinic_c], checks: {" + accuracy + "}}"
    (tmp_path / "gates.yaml").write_text(f"checks: {{{accuracy}}}\nslices: [{clinics}]\n")
    monkeypatch.setenv("DERMANET_GATES", str(tmp_path / "gates.yaml"))
    monkeypatch.setattr("dermanet.judging.slices.MOST_WORDS", 1)
    found = stages.evaluate(stages.champion()["run_id"])["slices"]
    assert {one["value"] for one in found if one["axis"] == "clinic"} == {"clinic_a", "clinic_b", "clinic_c"}


def test_a_refusal_keeps_the_champion_and_registers_nothing(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    installation.enter(monkeypatch, "shut")
    refused = stages.retrain([], "smoke:seed=11")
    assert (refused["verdict"], refused["version"]) == ("fail", None)
    assert refused["champion"].keys() == refused["metrics"].keys(), "for the column beside the candidate's"
    with pytest.raises(GateRefused, match="age_mae"):
        stages.register(refused["run_id"])
    assert stages.champion()["version"] == "1"


def test_promotion_and_rollback_may_run_twice() -> None:
    second = stages.retrain([], "smoke", attempt="again")
    assert second["version"] not in {None, "1"}
    stages.promote(second["version"])
    assert stages.champion()["version"] == second["version"]
    for _ in range(2):
        assert stages.roll_back()["champion"] == "1"
    with pytest.raises(BadInput, match="no version '99'"):
        stages.promote("99")


def test_the_served_answer_is_the_trained_network_s(tmp_path: Path) -> None:
    from dermanet.learning import model
    from dermanet.pixels.preprocess import prepare, recipe
    from dermanet.registry.tracking import model_files

    picture = photo(tmp_path)
    (row,) = stages.predict([str(picture)])
    network = model.load(model_files("models:/dermanet@champion") / "model.keras")
    trained = model.answers(network, prepare(picture.read_bytes(), recipe("dermanet@32"))[None])
    assert row["age"] == pytest.approx(float(trained.age[0]), abs=0.06)
    assert list(row["sex_probabilities"].values()) == pytest.approx(trained.sex[0].tolist(), abs=1e-4)
    assert list(row["diagnosis_probabilities"].values()) == pytest.approx(trained.diagnosis[0].tolist(), abs=1e-4)
    assert row["diagnosis"] == max(row["diagnosis_probabilities"], key=row["diagnosis_probabilities"].get)


def test_a_bad_file_is_reported_and_the_others_are_answered(tmp_path: Path) -> None:
    bad = tmp_path / "bad.jpg"
    bad.write_bytes(b"\xff\xd8\xffnonsense")
    rows = stages.predict([str(bad), str(photo(tmp_path)), str(tmp_path / "absent.png")])
    assert ["error" in row for row in rows] == [True, False, True]


def test_dermanet_s_published_snippet_runs_as_it_stands(tmp_path: Path) -> None:
    path = tmp_path / "DermaNet.h5"
    stages.export("1", str(path))
    snippet = f"""
import numpy as np
from tensorflow.keras.models import load_model
model = load_model({str(path)!r})
array = np.random.default_rng(0).random((1, 256, 256, 3))
age_pred, gender_pred = model.predict(array)
print(age_pred.shape, gender_pred.shape, round(float(gender_pred.sum()), 4), 0 < float(age_pred[0][0]) < 120)
"""
    done = subprocess.run([sys.executable, "-c", snippet], capture_output=True, text=True, check=True)
    assert done.stdout.splitlines()[-1] == "(1, 1) (1, 3) 1.0 True"


def test_the_published_form_answers_as_the_network(tmp_path: Path) -> None:
    from dermanet.learning import model
    from dermanet.registry.tracking import model_files

    network = model.load(model_files("models:/dermanet/1") / "model.keras")
    model.export_published_form(network, tmp_path / "m.h5")
    flat = np.full((1, 256, 256, 3), 0.5, np.float32)
    age, sex = model.load(tmp_path / "m.h5").predict(flat, verbose=0)
    direct = model.answers(network, np.full((1, 32, 32, 3), 127.5, np.float32))
    assert float(age[0, 0]) == pytest.approx(float(direct.age[0]), abs=1e-2)
    assert sex[0].tolist() == pytest.approx(direct.sex[0].tolist(), abs=1e-4)


def test_a_snapshot_whose_image_is_gone_says_what_to_do(installation: Installation) -> None:
    snapshot = stages.snapshot()["snapshot"]
    next((installation.home / "objects").glob("[0-9a-f][0-9a-f]/*")).unlink()
    with pytest.raises(StoreFault, match=f"dermanet ingest {SOURCE}"):
        stages.prepare(snapshot, "plain")


def test_an_export_in_an_unknown_form_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match=r"\.pt"):
        stages.export("1", str(tmp_path / "model.pt"))


def test_a_validation_side_without_an_age_has_no_error_of_age(tmp_path: Path) -> None:
    from dermanet.learning import curves, train

    here, chosen = settings.read(), experiment.named("smoke:epochs=1")
    frozen = frozen_snapshot(here, stages.snapshot()["snapshot"])
    ageless = [replace(one, labels=replace(one.labels, age=None)) for one in frozen.validation]
    pixels = fill_pixels(here, chosen.recipe, frozen.train + frozen.validation)[0]
    sides = train.Sides(frozen.taxonomy.codes, frozen.train, ageless, pixels)
    history = train.fitted(chosen, sides, tmp_path / "work", tmp_path / "features").history
    assert "val_age_mae" not in history[0] and {"age_mae", "val_sex_accuracy"} <= set(history[0])
    assert [axes.get_title("right") for axes in curves.draw(history, [1]).axes[:2]][1] == ""


def test_an_export_is_there_whole_or_not_at_all(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "folder.onnx").mkdir()
    (tmp_path / "file").touch()
    for path in (tmp_path / "folder.onnx", tmp_path / "file" / "m.keras", Path("/proc/m.onnx"), Path("/proc/m.h5")):
        with pytest.raises(BadInput, match=f"{path} cannot be written: .*; name another file"):
            stages.export("1", str(path))
    target = tmp_path / "kept" / "m.onnx"
    stages.export("1", str(target))
    before = target.read_bytes()

    def full(half: Path, target: Path) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(DermaNetError, match=r"no space left for .*; make room") as raised:
        stages.export("1", str(target))
    assert raised.value.exit_status == 1
    assert target.read_bytes() == before and list(target.parent.iterdir()) == [target]


def test_a_holdout_too_small_to_decide_is_insufficient_evidence_even_when_it_is_empty(
    installation: Installation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from dermanet.split import side

    source = SyntheticSource(lesions=30, seed=5)
    with (tmp_path / "labels.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "lesion_id", "age", "sex", "dx"])
        for row in source.rows():
            if side(row.lesion_id) != "holdout":
                (tmp_path / f"{row.image_id}.jpg").write_bytes(source.read(str(row.image)))
                writer.writerow([f"{row.image_id}.jpg", row.lesion_id, row.age, row.sex, row.diagnosis])
    monkeypatch.setenv("DERMANET_HOME", str(tmp_path / "home"))
    monkeypatch.delenv("DERMANET_GATES")
    done = stages.retrain([str(tmp_path)], "smoke:epochs=1")
    assert (done["verdict"], done["version"], done["metrics"]) == ("insufficient", None, {})


def test_another_list_of_diagnoses_trains_without_a_change(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "taxonomy.yaml").write_text(
        "diagnoses:\n- {code: acne}\n- {code: psoriasis, aliases: [psoriasis vulgaris]}\n- {code: eczema, malignant: false}\n"
    )
    synthetic = SyntheticSource(lesions=60, seed=5)
    names = ["acne", "Psoriasis Vulgaris", "eczema"]
    with (tmp_path / "labels.csv").open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["image", "lesion_id", "age", "sex", "dx"])
        for number, row in enumerate(synthetic.rows()):
            (tmp_path / f"{row.image_id}.jpg").write_bytes(synthetic.read(row.image))
            writer.writerow([f"{row.image_id}.jpg", row.lesion_id, row.age, row.sex, names[number % 3]])
    monkeypatch.setenv("DERMANET_HOME", str(tmp_path / "home"))
    monkeypatch.setenv("DERMANET_TAXONOMY", str(tmp_path / "taxonomy.yaml"))
    done = stages.retrain([str(tmp_path)], "smoke:epochs=1")
    assert done["version"] == "1"
    assert {"diagnosis_f1_acne", "diagnosis_recall_eczema"} <= set(done["metrics"])
    (row,) = stages.predict([str(photo(tmp_path))])
    assert list(row["diagnosis_probabilities"]) == ["acne", "psoriasis", "eczema"]


FINETUNE = "finetune:backbone=efficientnet-lite0,beside=,recipe=square@32,epochs=6,patience=6,unfrozen=0.1,views=1"


@pytest.mark.parametrize("experiment", ["smoke:epochs=6,patience=6", FINETUNE])
def test_a_killed_training_resumes_in_the_same_run_and_ends_as_an_unbroken_one(experiment: str) -> None:
    prepared = stages.prepare(stages.snapshot()["snapshot"], experiment)
    assert prepared["images"]
    whole = stages.train(stages.snapshot()["snapshot"], experiment, "unbroken")
    command = f"from dermanet import stages; stages.train({stages.snapshot()['snapshot']!r}, {experiment!r}, 'killed')"
    process = subprocess.Popen([sys.executable, "-c", command], start_new_session=True, stderr=subprocess.DEVNULL)
    training = settings.read().home / "training"
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None and _epochs(training) < 2:
        time.sleep(0.02)
    os.killpg(process.pid, signal.SIGKILL)
    process.wait()
    assert 2 <= _epochs(training) < 6
    runs = len(_runs())
    resumed = stages.train(stages.snapshot()["snapshot"], experiment, "killed")
    assert len(_runs()) == runs
    for name in ("val_loss", "train_loss"):
        found, expected = (_client().get_metric_history(run["run_id"], name) for run in (resumed, whole))
        assert [metric.step for metric in found] == [1, 2, 3, 4, 5, 6]
        assert [m.value for m in found] == pytest.approx([m.value for m in expected], abs=1e-4)
    after, before = (_golden_answers(run["run_id"]) for run in (resumed, whole))
    assert after["age"] == pytest.approx(before["age"], abs=1e-2)
    assert np.allclose(after["sex"], before["sex"], atol=1e-4)
    assert np.allclose(after["diagnosis"], before["diagnosis"], atol=1e-4)


def _golden_answers(run_id: str) -> dict[str, Any]:
    """What the finished network of a run answered for the golden images."""
    with model_at_hand(_client().get_run(run_id).data.tags["dermanet.model"]) as folder:
        return dict(json.loads((folder / golden.FILE).read_text()))


def _epochs(training: Path) -> int:
    return max((len(json.loads(file.read_text())["history"]) for file in training.rglob("progress.json")), default=0)
