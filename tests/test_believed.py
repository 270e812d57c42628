"""A candidate that is judged by what it knows, or by another holdout, is stopped with the reason; gates that watch promote nobody."""

import json
import re
from pathlib import Path
from typing import Any

import byheart
import mlflow
import numpy as np
import pytest
from installation import GATES, Installation
from typer.testing import CliRunner

from dermanet import cli, settings, stages
from dermanet.errors import GateRefused
from dermanet.intake import snapshots
from dermanet.records import Answers, Snapshot
from dermanet.serving.network import Network
from dermanet.stages.rooms import frozen_snapshot, snapshot_place

TINY = "smoke:epochs=1,patience=1"


def _client() -> mlflow.MlflowClient:
    return mlflow.MlflowClient(settings.read().tracking_uri)


def _stopped_by(verdict: dict[str, Any]) -> dict[str, str]:
    assert verdict["verdict"] == "fail"
    assert stages.champion()["run_id"] != verdict["run_id"]
    with pytest.raises(GateRefused, match="the verdict is fail"):
        stages.register(verdict["run_id"])
    return {
        f"{check['metric']} {check['slice']}".strip(): check["reason"]
        for check in verdict["checks"]
        if check["outcome"] == "fail"
    }


def _frozen() -> Snapshot:
    return frozen_snapshot(settings.read(), stages.snapshot()["snapshot"])


def _turned(frozen: Snapshot) -> Snapshot:
    """The same lesions, the holdout's learned from and those that were learned from held out."""
    other = {"train": "holdout", "holdout": "train", "validation": "validation"}
    sides = {
        record.labels.lesion_id: other[side]
        for side in ("train", "validation", "holdout")
        for record in getattr(frozen, side)
    }
    return snapshots.freeze(frozen.records, frozen.taxonomy, snapshot_place(settings.read()), sides)


JUST = """
checks:
  diagnosis_accuracy: {greater_is_better: true, threshold: 0.2}
  sex_accuracy: {greater_is_better: true, threshold: 0.2}
slices:
  - axis: sex
    values: [female, male]
    checks:
      diagnosis_accuracy: {greater_is_better: true, champion: {min_absolute_change: -0.03, judged_by: better end}}
"""
"""Gates that somebody who is right of most passes, if nobody pays for it."""


@pytest.fixture
def just(installation: Installation, monkeypatch: pytest.MonkeyPatch) -> Installation:
    """An installation with such gates, and a champion that is always right and has passed them."""
    path = installation.root / "just.yaml"
    path.write_text(JUST)
    monkeypatch.setenv("DERMANET_GATES", str(path))
    frozen = _frozen()
    answers = byheart.right(frozen.holdout, frozen.taxonomy.codes)
    run = byheart.candidate("always right", frozen.holdout, answers, installation.root)
    verdict = _judged(run)
    assert verdict["verdict"] == "pass" and verdict["checks"][0]["metric"] == "holdout"
    stages.promote(stages.register(run)["version"])
    assert stages.champion()["run_id"] == run
    return installation


def _judged(run: str) -> dict[str, Any]:
    stages.evaluate(run)
    return stages.judge(run)


def test_a_candidate_that_is_right_of_all_but_men_is_stopped_for_them(just: Installation) -> None:
    frozen = _frozen()
    holdout, codes = frozen.holdout, frozen.taxonomy.codes
    answers = byheart.right(holdout, codes)
    men = np.flatnonzero([record.labels.sex == "male" for record in holdout])
    away = np.random.default_rng(0).integers(1, 7, len(men))
    for place, step in zip(men, away, strict=True):
        answers.diagnosis[place] = np.roll(answers.diagnosis[place], step)
    run = byheart.candidate("wrong of men", holdout, answers, just.root)
    stopped = _stopped_by(_judged(run))
    assert list(stopped) == ["diagnosis_accuracy sex: male"]
    assert re.fullmatch(
        r"better by -1 at the better end; at least -0.03 \(0 beside the champion's 1, 95 % of the difference -1 to -1\)",
        stopped["diagnosis_accuracy sex: male"],
    )
    told = CliRunner().invoke(cli.app, ["judge", run])
    assert told.exit_code == 3 and "NO  diagnosis_accuracy of sex: male (champion): better by -1" in told.stderr
    assert "sex: female" not in told.stderr and "in slices: 1 " in told.stderr


def test_a_candidate_whose_names_are_in_another_order_is_stopped_and_told_which(just: Installation) -> None:
    frozen = _frozen()
    holdout, codes = frozen.holdout, frozen.taxonomy.codes
    answers = byheart.right(holdout, codes)
    order = list(range(len(codes)))
    order[codes.index("mel")], order[codes.index("nv")] = codes.index("nv"), codes.index("mel")
    swapped = Answers(answers.age, answers.sex[:, [1, 0, 2]], answers.diagnosis[:, order])
    stopped = _stopped_by(_judged(byheart.candidate("swapped", holdout, swapped, just.root)))
    for metric, named in (("diagnosis_order", "mel as nv, nv as mel"), ("sex_order", "male as female, female as male")):
        assert f"100% would be with their names in another order ({named})" in stopped[metric]
        assert stopped[metric].endswith("the list of answers is in the wrong order")


def test_a_candidate_that_has_learned_from_the_holdout_is_stopped(installation: Installation) -> None:
    frozen = _frozen()
    honest, leaky = frozen.id, _turned(frozen).id
    run = stages.train(leaky, TINY)["run_id"]
    _client().set_tag(run, "dermanet.snapshot", honest)
    reason = _stopped_by(_judged(run))["leaked_images"]
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
    frozen = _frozen()
    record = next(record for record in frozen.holdout if record.digest in shown)
    stages.forget(record.labels.lesion_id)
    left = Path(stages.evaluation_page(run)).read_text()
    assert record.digest not in left and set(re.findall(r'data-digest="([0-9a-f]{64})"', left)) <= shown


def test_an_evaluation_on_another_holdout_is_stopped(installation: Installation) -> None:
    frozen = _frozen()
    answers = byheart.right(frozen.holdout, frozen.taxonomy.codes)
    run = byheart.candidate("always right", frozen.holdout, answers, installation.root)
    record = stages.evaluate(run)
    assert record["holdout"] and {one["axis"] for one in record["slices"]} >= {"sex", "age", "quality"}
    assert {check["metric"]: check["outcome"] for check in record["integrity"]} == dict.fromkeys(
        ("leaked_images", "diagnosis_order", "sex_order"), "pass"
    )
    assert stages.judge(run)["verdict"] == "pass"
    other = _turned(frozen)
    _client().set_tag(run, "dermanet.snapshot", other.id)
    assert _stopped_by(stages.judge(run)) == {
        "holdout": f"evaluated on holdout {frozen.holdout_digest}, while the snapshot's is {other.holdout_digest}; "
        "run `dermanet evaluate` again"
    }


def test_a_candidate_beside_a_champion_that_is_just_like_it_changes_nobody_s_answer(installation: Installation) -> None:
    run = stages.champion()["run_id"]
    other = _client().create_run(_client().get_run(run).info.experiment_id).info.run_id
    copy = _client().create_model_version("dermanet", _client().get_model_version("dermanet", "1").source, other)
    _client().set_registered_model_alias("dermanet", "champion", str(copy.version))
    flips = stages.evaluate(run)["flips"]
    assert flips["flipped"] == [] and flips["sentence"].startswith("0 of ")


def test_a_champion_that_cannot_be_compared_is_said_to_be_none_of_it(installation: Installation) -> None:
    first = stages.champion()["run_id"]
    run = (
        _client()
        .create_run(
            _client().get_run(first).info.experiment_id, tags={"dermanet.snapshot": stages.snapshot()["snapshot"]}
        )
        .info.run_id
    )
    evaluation = json.loads(Path(_client().download_artifacts(first, "evaluation.json")).read_text())
    alone = {"run_id": run, "champion_version": "1", "champion": None, "over_champion": None, "flips": None}
    _client().log_dict(run, {**evaluation, **alone}, "evaluation.json")
    _client().log_text(run, "<!-- verdict --><!-- /verdict -->", "evaluation.html")
    verdict = stages.judge(run)
    assert verdict["verdict"] == "pass"
    assert verdict["told"] == ["champion: version 1 answers another list of diagnoses: nothing is compared with it"]
    assert stages.why(run)[-1]["reasons"] == tuple(verdict["told"])


def test_a_network_that_answers_what_is_no_number_is_stopped(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = Network.answer_in_batches

    def silent(self: Network, batches: Any) -> Answers:
        found = answer(self, batches)
        found.diagnosis[1] = np.nan
        return found

    monkeypatch.setattr(Network, "answer_in_batches", silent)
    with pytest.raises(GateRefused, match=r"answers 1 of the holdout's .* images with what is no number"):
        stages.evaluate(stages.champion()["run_id"])


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
    assert f"registered as version {done['version']}, not served until" in lines[-1]
    watching.write_text(GATES["open"])
    assert stages.judge(done["run_id"])["verdict"] == "pass"
    assert stages.register(done["run_id"])["version"] == done["version"]
    tags = _client().get_model_version("dermanet", done["version"]).tags
    assert (tags["dermanet.verdict"], tags["dermanet.gates"]) == ("pass", "enforce"), (
        "a version's tags are those of its last verdict"
    )
