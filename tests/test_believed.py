"""A candidate that is judged by what it knows, or by another holdout, is stopped with the reason; gates that watch promote nobody."""

import json
import re
from pathlib import Path
from typing import Any

import mlflow
import pytest
from installation import GATES, Installation

from dermanet import settings, stages
from dermanet.intake import snapshots
from dermanet.stages.rooms import snapshot_place

TINY = "smoke:epochs=1,patience=1"


def _client() -> mlflow.MlflowClient:
    return mlflow.MlflowClient(settings.read().tracking_uri)


def _stopped_by(verdict: dict[str, Any]) -> dict[str, str]:
    assert verdict["verdict"] == "fail"
    return {check["metric"]: check["reason"] for check in verdict["checks"] if check["outcome"] == "fail"}


def test_a_candidate_that_has_learned_from_the_holdout_is_stopped(installation: Installation) -> None:
    place = snapshot_place(settings.read())
    honest = stages.snapshot()["snapshot"]
    frozen = snapshots.read(honest, place)
    other = {"train": "holdout", "holdout": "train", "validation": "validation"}
    sides = {
        record.labels.lesion_id: other[side]
        for side in ("train", "validation", "holdout")
        for record in getattr(frozen, side)
    }
    leaky = snapshots.freeze(frozen.records, frozen.taxonomy, place, sides).id
    run = stages.train(leaky, TINY)["run_id"]
    _client().set_tag(run, "dermanet.snapshot", honest)
    stages.evaluate(run)
    reason = _stopped_by(stages.judge(run))["leaked_images"]
    count = len(frozen.holdout)
    assert reason.startswith(
        f"{count} of the holdout's {count} images are of lesions or patients that the candidate has learned from"
    )


def test_the_page_of_an_evaluation_has_its_verdict_and_loses_what_is_forgotten(installation: Installation) -> None:
    run = stages.champion()["run_id"]
    stages.evaluate(run)
    stages.judge(run)
    text = Path(stages.evaluation_page(run)).read_text()
    assert "Verdict: " in text and "leaked images" in text and text.count("<!-- verdict -->") == 1
    shown = set(re.findall(r'data-digest="([0-9a-f]{64})"', text))
    frozen = snapshots.read(stages.snapshot()["snapshot"], snapshot_place(settings.read()))
    record = next(record for record in frozen.holdout if record.digest in shown)
    stages.forget(record.labels.lesion_id)
    left = Path(stages.evaluation_page(run)).read_text()
    assert record.digest not in left and set(re.findall(r'data-digest="([0-9a-f]{64})"', left)) <= shown


def test_an_evaluation_on_another_holdout_is_stopped(installation: Installation, tmp_path: Path) -> None:
    run = stages.champion()["run_id"]
    record = stages.evaluate(run)
    assert record["holdout"] and {one["axis"] for one in record["slices"]} >= {"sex", "age", "quality"}
    assert {check["metric"]: check["outcome"] for check in record["integrity"]} == dict.fromkeys(
        ("leaked_images", "diagnosis_order", "sex_order"), "pass"
    )
    assert record["flips"]["flipped"] == [] and record["flips"]["sentence"].startswith("0 of ")
    (tmp_path / "evaluation.json").write_text(json.dumps({**record, "holdout": "0123456789abcdef"}))
    _client().log_artifact(run, str(tmp_path / "evaluation.json"))
    assert "evaluated on holdout 0123456789abcdef" in _stopped_by(stages.judge(run))["holdout"]


@pytest.mark.parametrize("mode", ["dry run", "off"])
def test_gates_that_only_watch_register_and_promote_nobody(
    installation: Installation, monkeypatch: pytest.MonkeyPatch, mode: str
) -> None:
    watching = installation.root / "watching.yaml"
    watching.write_text(f"mode: {mode}\n{GATES['shut']}")
    monkeypatch.setenv("DERMANET_GATES", str(watching))
    done = stages.retrain([], f"{TINY},seed=12")
    assert done["verdict"] == ("fail" if mode == "dry run" else "not judged") and done["gates"] == mode
    assert stages.champion()["version"] == "1" != done["version"]
    version = _client().get_model_version("dermanet", done["version"])
    assert version.tags["dermanet.gates"] == mode and version.tags["dermanet.verdict"] == done["verdict"]
    lines = stages.keep_champion(done["run_id"], stages.judge(done["run_id"]))
    assert f"registered as version {done['version']}, which nobody serves" in lines[-1]
