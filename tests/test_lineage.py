"""Where a training begins: with the champion's weights where they may be gone on from, with ImageNet's and a reason where not."""

from dataclasses import replace
from pathlib import Path

import mlflow
import numpy as np
import pytest
from installation import Installation

from dermanet import experiment, settings, stages
from dermanet.errors import BadInput
from dermanet.learning.inheritance import START
from dermanet.learning.model import load
from dermanet.registry.tracking import model_files
from dermanet.stages import lineage
from dermanet.stages.rooms import frozen_snapshot, tracking_of

pytestmark = pytest.mark.usefixtures("installation")

HARDLY = "smoke:start=champion,epochs=1,learning_rate=1e-7"
"""So slow that the weights stay where they began."""


def tags(run_id: str) -> dict[str, str]:
    return dict(mlflow.MlflowClient(settings.read().tracking_uri).get_run(run_id).data.tags)


def learned_weights(run_id: str) -> list[np.ndarray]:
    model = load(model_files(tags(run_id)["dermanet.model"]) / "model.keras")
    return [np.array(weight) for weight in model.trainable_variables]


def distance(one: list[np.ndarray], other: list[np.ndarray]) -> float:
    return max(float(np.abs(a - b).max()) for a, b in zip(one, other, strict=True))


def test_a_training_begins_with_the_champion_s_weights_and_says_so() -> None:
    snapshot, champion = stages.snapshot()["snapshot"], stages.champion()["run_id"]
    said: list[str] = []
    begun = stages.train(snapshot, HARDLY + ",calibrate=false", progress=said.append)["run_id"]
    afresh = stages.train(snapshot, HARDLY.replace("champion", "imagenet") + ",calibrate=false")["run_id"]
    assert distance(learned_weights(begun), learned_weights(champion)) < 1e-5
    assert distance(learned_weights(afresh), learned_weights(champion)) > 1e-3
    assert tags(begun)["dermanet.started_from"] == "1" and "begins with version 1: the champion" in said
    assert "dermanet.started_from" not in tags(afresh)


def test_the_version_knows_from_which_it_began() -> None:
    second = stages.retrain([], HARDLY)["version"]
    third = stages.retrain([], HARDLY + ",seed=8")["version"]
    versions = mlflow.MlflowClient(settings.read().tracking_uri)
    started = [
        versions.get_model_version("dermanet", version).tags.get("dermanet.started_from") for version in (second, third)
    ]
    assert started == ["1", second]


def test_a_training_that_goes_on_keeps_where_it_began(tmp_path: Path) -> None:
    here, chosen = settings.read(), experiment.named(HARDLY)
    tracking, frozen = tracking_of(here), frozen_snapshot(here, stages.snapshot()["snapshot"])
    run_id = tracking.run_for("a work", "a run", {}).info.run_id
    said: list[str] = []
    lineage.begin(here, tracking, run_id, chosen, frozen, tmp_path / "first", said.append)
    stages.retrain([], "smoke:epochs=1")
    lineage.begin(here, tracking, run_id, chosen, frozen, tmp_path / "second", said.append)
    assert (tmp_path / "first" / START).read_bytes() == (tmp_path / "second" / START).read_bytes()
    assert len(said) == 1 and stages.champion()["version"] != "1"


@pytest.mark.parametrize(
    ("asked", "why"),
    [("plain:start=champion", "recipe dermanet@32"), ("smoke:start=champion,hidden=64", "has hidden 128, and this experiment 64")],
)  # fmt: skip
def test_another_kind_of_network_begins_with_imagenet(asked: str, why: str) -> None:
    here = settings.read()
    frozen = frozen_snapshot(here, stages.snapshot()["snapshot"])
    found = lineage.origin(here, tracking_of(here), experiment.named(asked), frozen)
    assert found.name == "imagenet" and why in found.why


def test_a_champion_from_before_a_field_there_is_now_had_its_default(monkeypatch: pytest.MonkeyPatch) -> None:
    here = settings.read()
    frozen = frozen_snapshot(here, stages.snapshot()["snapshot"])
    tried = lineage.card_of(here, "1")
    del tried["experiment"]["beside"]
    monkeypatch.setattr(lineage, "card_of", lambda here, version: tried)
    assert lineage.origin(here, tracking_of(here), experiment.named(HARDLY), frozen) == lineage.Origin(
        "1", "the champion"
    )
    beside = replace(experiment.named(HARDLY), beside="probe")
    found = lineage.origin(here, tracking_of(here), beside, frozen)
    assert "has beside nothing, and this experiment probe" in found.why


def test_what_was_taken_off_a_champion_s_logits_is_not_taken_off_again(monkeypatch: pytest.MonkeyPatch) -> None:
    here = settings.read()
    frozen = frozen_snapshot(here, stages.snapshot()["snapshot"])
    tried = lineage.card_of(here, "1")
    tried["experiment"]["adjustment"] = 0.5
    monkeypatch.setattr(lineage, "card_of", lambda here, version: tried)
    found = lineage.origin(here, tracking_of(here), experiment.named(HARDLY), frozen)
    assert found == lineage.Origin("imagenet", "the champion, version 1, has adjustment 0.5 in its weights")


def test_nothing_that_was_forgotten_is_passed_on_not_even_by_an_ancestor() -> None:
    here = settings.read()
    second = stages.retrain([], HARDLY)["version"]
    learned = frozen_snapshot(here, stages.snapshot()["snapshot"]).train
    assert stages.forget(learned[0].labels.lesion_id)["versions"] == ["1", second]
    frozen = frozen_snapshot(here, stages.snapshot()["snapshot"])
    found = lineage.origin(here, tracking_of(here), experiment.named(HARDLY), frozen)
    assert found.name == "imagenet" and f"version {second} has learned from a lesion that was forgotten" in found.why
    # A third version learned nothing of it, but began with one that did.
    client = mlflow.MlflowClient(here.tracking_uri)
    third = stages.retrain([], "smoke:epochs=1")["version"]
    assert lineage.origin(here, tracking_of(here), experiment.named(HARDLY), frozen).name == third
    client.set_model_version_tag("dermanet", third, "dermanet.started_from", second)
    found = lineage.origin(here, tracking_of(here), experiment.named(HARDLY), frozen)
    assert found.name == "imagenet" and f"version {second} has learned" in found.why


def test_what_a_snapshot_judges_by_was_not_learned_from(installation: Installation) -> None:
    here = settings.read()
    frozen = frozen_snapshot(here, stages.snapshot()["snapshot"])
    mixed = type(frozen)(
        frozen.id, frozen.taxonomy, frozen.holdout_digest, frozen.holdout, frozen.validation, frozen.train
    )
    found = lineage.origin(here, tracking_of(here), experiment.named(HARDLY), mixed)
    assert (
        found.name == "imagenet"
        and "learned from images, lesions or patients that this snapshot judges by" in found.why
    )


def test_without_a_champion_or_a_snapshot_to_look_at_it_begins_with_imagenet(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    here = settings.read()
    frozen = frozen_snapshot(here, stages.snapshot()["snapshot"])
    client = mlflow.MlflowClient(here.tracking_uri)
    client.set_model_version_tag("dermanet", "1", "dermanet.snapshot", "0" * 16)
    found = lineage.origin(here, tracking_of(here), experiment.named(HARDLY), frozen)
    assert found.name == "imagenet" and "is not in this home" in found.why
    client.delete_registered_model_alias("dermanet", "champion")
    assert lineage.origin(here, tracking_of(here), experiment.named(HARDLY), frozen).why == "there is no champion yet"


def test_several_machines_do_not_begin_with_it(monkeypatch: pytest.MonkeyPatch) -> None:
    snapshot = stages.snapshot()["snapshot"]
    for name, value in (("PROCESSES", "2"), ("COORDINATOR", "127.0.0.1:1"), ("PROCESS", "0")):
        monkeypatch.setenv(f"DERMANET_{name}", value)
    with pytest.raises(BadInput, match="start=champion is for the processes of one machine"):
        stages.train(snapshot, HARDLY)


def test_a_trial_begins_with_it_too() -> None:
    done = stages.search(stages.snapshot()["snapshot"], HARDLY, "learning_rate=1e-7|2e-7", trials=1, jobs=1)
    trial = stages.trials(done["study"])["all"][0]
    assert tags(trial["run_id"])["dermanet.started_from"] == "1"
