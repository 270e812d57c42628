"""The dossier of a version and its replay: all that is needed to defend it, and to make it again."""

import json
from pathlib import Path

import mlflow
import pytest
from cyclonedx.schema import SchemaVersion
from cyclonedx.validation.json import JsonStrictValidator
from installation import SOURCE, Installation

from dermanet import settings, stages
from dermanet.registry import materials
from dermanet.revision import revision
from dermanet.stages.replay import differing

FILES = {
    "model-card.md", "verdict.json", "evaluation.html", "decisions.json", "snapshot.json", "gates.yaml", "licences.md",
    "environment.txt", "sbom.cdx.json",
}  # fmt: skip


def _folder(run: str = "") -> Path:
    """The dossier of a run's version, by default the champion's."""
    client = mlflow.MlflowClient(settings.read().tracking_uri)
    return Path(client.download_artifacts(run or stages.champion()["run_id"], "dossier"))


def test_every_version_has_its_dossier(installation: Installation) -> None:
    folder = _folder()
    assert {path.name for path in folder.iterdir()} == FILES
    card = (folder / "model-card.md").read_text()
    for word in (
        "Version 1: smoke",
        "not a medical device",
        "## Intended use",
        "| age, mean absolute error (years) |",
        "| sex: ",
        "CC BY-NC",
    ):
        assert word in card
    decided = [(one["kind"], one["outcome"]) for one in json.loads((folder / "decisions.json").read_text())]
    assert {("smoke test", "passed"), ("promotion", "promoted")} <= set(decided)
    verdict = json.loads((folder / "verdict.json").read_text())
    assert verdict["verdict"] == "pass" and "Verdict: " in (folder / "evaluation.html").read_text()
    assert json.loads((folder / "snapshot.json").read_text())["holdout"] == verdict["holdout"]
    tags = mlflow.MlflowClient(settings.read().tracking_uri).get_model_version("dermanet", "1").tags
    assert tags["dermanet.revision"] == revision() and "evaluation.html" in tags["dermanet.report"]
    assert {
        "dermanet.verdict",
        "dermanet.snapshot",
        "dermanet.holdout",
        "dermanet.approver",
        "dermanet.smoke_test",
    } <= tags.keys()


def test_a_rollback_is_in_the_dossier_of_what_it_left(installation: Installation) -> None:
    other = stages.retrain([], "smoke:epochs=1,patience=1", attempt="other")
    assert stages.champion()["version"] == other["version"]
    stages.roll_back("ana", "misses melanomas")
    client = mlflow.MlflowClient(settings.read().tracking_uri)
    left = json.loads(
        Path(client.download_artifacts(other["run_id"], "dossier/decisions.json", str(installation.root))).read_text()
    )
    assert (left[-1]["outcome"], left[-1]["who"]) == ("rolled back", "ana")


def test_the_bill_of_materials_is_whole_and_valid(installation: Installation) -> None:
    text = (_folder() / "sbom.cdx.json").read_text()
    fault = JsonStrictValidator(SchemaVersion.V1_6).validate_str(text)
    assert fault is None, str(fault)[:300]
    bom = json.loads(text)
    needs = {one["ref"]: one.get("dependsOn", []) for one in bom["dependencies"]}
    model = bom["metadata"]["component"]
    assert model["type"] == "machine-learning-model" and len(model["hashes"][0]["content"]) == 64
    assert {ref.partition("==")[0] for ref in needs[model["bom-ref"]]} >= {"mlflow", "onnxruntime", "numpy"}
    parts = {one["bom-ref"] for one in bom["components"]}
    assert parts == set((_folder() / "environment.txt").read_text().splitlines())
    assert all(set(refs) <= parts for refs in needs.values())
    reached, todo = set(), list(needs[model["bom-ref"]])
    while todo:
        ref = todo.pop()
        todo += [one for one in needs[ref] if one not in reached]
        reached |= {ref, *needs[ref]}
    assert any(ref.startswith("SQLAlchemy==") or ref.startswith("sqlalchemy==") for ref in reached), (
        "what mlflow needs is reached"
    )


def test_a_dossier_has_the_limits_as_they_stood(installation: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    run = stages.train(stages.snapshot()["snapshot"], "smoke:epochs=1,patience=1,seed=32")["run_id"]
    stages.evaluate(run)
    stages.judge(run)
    version = stages.register(run)["version"]
    stood = (_folder(run) / "gates.yaml").read_text()
    installation.enter(monkeypatch, "shut")
    stages.compile_dossier(version)
    assert (_folder(run) / "gates.yaml").read_text() == stood == installation.gates("open").read_text()


def test_a_distribution_says_its_licence_and_needs() -> None:
    found = {materials.normalized(one.name): one for one in materials.installed()}
    assert "BSD-3-Clause" in found["numpy"].licence and len({*found}) == len(found)
    assert "numpy" in found["pandas"].requires and "tensorflow" not in found["keras"].requires


def test_forgetting_clears_the_page_in_the_dossier_too(installation: Installation) -> None:
    run = stages.train(stages.snapshot()["snapshot"], "smoke:epochs=1,patience=1,seed=31")["run_id"]
    evaluation = json.loads(json.dumps(stages.evaluate(run)))
    stages.judge(run)
    stages.register(run)
    page = (_folder(run) / "evaluation.html").read_text()
    digest = page.partition('data-digest="')[2][:64]
    here = settings.read()
    from dermanet.stages.pages import clear_pages

    client = mlflow.MlflowClient(here.tracking_uri)
    flips = {"sentence": "1 of 2", "flipped": [{"digest": digest}, {"digest": "other"}]}
    client.log_dict(run, {**evaluation, "flips": flips}, "evaluation.json")
    assert len(digest) == 64 and clear_pages(here, [digest]) >= 1
    kept = json.loads(Path(client.download_artifacts(run, "evaluation.json", str(installation.root))).read_text())
    assert kept == {**evaluation, "flips": {"sentence": "1 of 2", "flipped": [{"digest": "other"}]}}
    assert digest not in (_folder(run) / "evaluation.html").read_text()


def test_a_replay_gives_the_same_figures_and_registers_nothing(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    stages.ingest(SOURCE)
    lines: list[str] = []
    monkeypatch.setenv("DERMANET_REVISION", "other")
    done = stages.replay("1", lines.append)
    assert done["same"] is True and done["differs"] == {} and done["replay"] != done["run_id"]
    assert stages.replay("1")["replay"] == done["replay"], "called again it finds its work"
    client = mlflow.MlflowClient(settings.read().tracking_uri)
    assert client.get_run(done["replay"]).data.tags["dermanet.replay_of"] == "1"
    assert len(client.search_model_versions("name = 'dermanet'")) == 1


def test_figures_that_differ_or_are_missing_are_named() -> None:
    before = {"age_mae": 10.0, "sex_auc": 0.7, "sex_f1": 0.5}
    after = {"age_mae": 10.00005, "sex_auc": 0.71, "diagnosis_accuracy": 0.6}
    assert differing(before, after) == {
        "sex_auc": [0.7, 0.71],
        "sex_f1": [0.5, None],
        "diagnosis_accuracy": [None, 0.6],
    }
