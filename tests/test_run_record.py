"""What a training and its evaluation leave in MLflow: datasets with their digests, pictures, what the machine was doing."""

import json
import threading
from pathlib import Path
from typing import Any

import cv2
import mlflow
import pytest

from dermanet import settings, stages
from dermanet.intake import snapshots
from dermanet.registry import machine
from dermanet.registry.datasets import RecordSet, inputs
from dermanet.registry.tracking import Tracking
from dermanet.stages.rooms import snapshot_place, tracking_of

pytestmark = pytest.mark.usefixtures("installation")


def _client() -> mlflow.MlflowClient:
    return mlflow.MlflowClient(settings.read().tracking_uri)


def _datasets(run_id: str) -> dict[tuple[str, str], Any]:
    """A run's datasets by name and context."""
    found = _client().get_run(run_id).inputs.dataset_inputs
    return {(one.dataset.name, tag.value): one.dataset for one in found for tag in one.tags}


def test_the_sides_of_the_snapshot_are_the_run_s_datasets() -> None:
    champion, here = stages.champion(), settings.read()
    frozen = snapshots.read(stages.snapshot()["snapshot"], snapshot_place(here))
    found = _datasets(champion["run_id"])
    assert {key: one.digest for key, one in found.items()} == {
        ("dermanet-train", "training"): frozen.id,
        ("dermanet-validation", "validation"): frozen.id,
        ("dermanet-holdout", "holdout"): frozen.id,
        ("dermanet-holdout", "evaluation"): frozen.holdout_digest,
    }
    for (name, _), one in found.items():
        records = getattr(frozen, name.removeprefix("dermanet-"))
        profile = json.loads(one.profile)
        assert profile["num_rows"] == len(records)
        assert sum(profile["lesions_by_diagnosis"].values()) == profile["lesions"]
        assert profile["lesions"] == len({record.labels.lesion_id for record in records})


def test_a_dataset_leads_to_the_list_of_its_records() -> None:
    one = _datasets(stages.champion()["run_id"])["dermanet-train", "training"]
    table = Path(mlflow.data.get_source(one).load())
    assert table.parts[-3:] == ("snapshots", one.digest, "records.csv")
    header = table.read_text().splitlines()[0].split(",")
    assert [column["name"] for column in json.loads(one.schema)["mlflow_colspec"]] == header
    assert not any(word in one.source for word in ("@", "key", "secret"))


def test_a_stage_that_runs_twice_adds_no_second_dataset() -> None:
    run_id = stages.champion()["run_id"]
    before = len(_client().get_run(run_id).inputs.dataset_inputs)
    stages.evaluate(run_id)
    assert len(_client().get_run(run_id).inputs.dataset_inputs) == before == 4


def test_a_digest_that_mlflow_would_cut_is_refused() -> None:
    with pytest.raises(ValueError, match="MLflow keeps 36"):
        inputs([RecordSet("x", "a" * 37, "training", Path("x.csv"), {}, {})])


def test_every_picture_is_one_that_can_be_looked_at(tmp_path: Path) -> None:
    run_id = stages.champion()["run_id"]
    tracking = tracking_of(settings.read())
    kept = {file.path for file in _client().list_artifacts(run_id) if file.path.endswith(".png")}
    assert kept == {
        "learning_curves.png", "confusion_matrix.png", "age_scatter.png", "reliability_sex.png", "reliability_diagnosis.png",
        "roc.png",
    }  # fmt: skip
    for name in kept:
        image = cv2.imread(str(tracking.fetch(run_id, name, tmp_path)))
        assert image is not None and min(image.shape[:2]) > 500 and image.std() > 10, name


def test_what_mlflow_shows_of_a_run_are_the_figures_of_the_holdout() -> None:
    run = _client().get_run(stages.champion()["run_id"])
    evaluation = tracking_of(settings.read()).read_json(run.info.run_id, "evaluation.json")
    assert {"age_mae", "sex_accuracy", "diagnosis_accuracy"} <= evaluation["candidate"].keys()
    shown = {name: run.data.metrics[name] for name in evaluation["candidate"]}
    assert shown == pytest.approx(evaluation["candidate"])
    assert {f"{side}_{name}" for side in ("train", "val") for name in ("loss", "age_mae", "diagnosis_accuracy")} <= set(
        run.data.metrics
    )


def test_how_far_probabilities_can_be_believed_is_among_the_figures() -> None:
    run = _client().get_run(stages.champion()["run_id"])
    evaluation = tracking_of(settings.read()).read_json(run.info.run_id, "evaluation.json")
    for name in (f"{head}_{score}" for head in ("sex", "diagnosis") for score in ("ece", "brier", "log_loss")):
        assert run.data.metrics[name] == pytest.approx(evaluation["candidate"][name])
        assert f"baseline_{name}" in run.data.metrics


def _monitors() -> list[threading.Thread]:
    return [thread for thread in threading.enumerate() if thread.name == "SystemMetricsMonitor"]


def _steps(run_id: str) -> list[int]:
    return [metric.step for metric in _client().get_metric_history(run_id, "system/cpu_utilization_percentage")]


def test_the_machine_is_measured_while_it_trains_and_no_longer(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.1")
    watching: list[int] = []
    trained = stages.train(
        stages.snapshot()["snapshot"], "smoke:epochs=1", "watched", lambda line: watching.append(len(_monitors()))
    )
    assert watching == [1] and _monitors() == []
    steps = _steps(trained["run_id"])
    assert len(steps) > 2 and steps == list(range(len(steps)))
    with tracking_of(settings.read()).machine_watched(trained["run_id"]):
        pass
    assert {"system/system_memory_usage_megabytes", "system/disk_usage_percentage"} <= set(
        _client().get_run(trained["run_id"]).data.metrics
    )


def test_measuring_again_goes_on_after_the_last_point_and_ends_with_its_block(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL", "0.05")
    tracking = tracking_of(settings.read())
    run_id = tracking.run_for("measured twice", "measured", {}).info.run_id

    class Broken(Exception):
        pass

    for least in (2, 4):
        with pytest.raises(Broken), tracking.machine_watched(run_id):
            while len(_steps(run_id)) < least:
                pass
            raise Broken
        assert _monitors() == []
    steps = _steps(run_id)
    assert steps == list(range(len(steps)))


def test_meters_that_cannot_be_read_stop_nobody(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*words: Any, **options: Any) -> None:
        raise RuntimeError("no meter")

    monkeypatch.setattr(machine.system_metrics_monitor, "SystemMetricsMonitor", broken)
    with machine.watched("r1", settings.read().tracking_uri):
        assert _monitors() == []
    assert "no system metrics of run r1: no meter" in caplog.text


def test_links_lead_where_people_find_mlflow(tmp_path: Path) -> None:
    own = Tracking(settings.read().tracking_uri, tmp_path, pages="https://mlflow.clinic.example")
    link = own.address("abc", "evaluation.html")
    assert link == f"https://mlflow.clinic.example/#/experiments/{own.experiment}/runs/abc/artifacts/evaluation.html"


def test_who_only_reads_versions_asks_a_server_for_nothing_at_the_start(tmp_path: Path) -> None:
    # Nobody listens there: an experiment looked for, or made, would fail.
    try:
        assert "experiment" not in vars(Tracking("http://127.0.0.1:9", tmp_path))
    finally:
        mlflow.set_tracking_uri(settings.read().tracking_uri)
