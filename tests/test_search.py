"""Searches: the space as people write it, studies whose trials outlive their processes, and nothing seen of the holdout."""

import gc
import hashlib
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import keras
import mlflow
import numpy as np
import optuna
import psutil
import pytest
import samples
from mlflow.entities import Run
from tensorflow.python.framework import ops
from typer.testing import CliRunner

from dermanet import cli, experiment, settings, stages
from dermanet.errors import BadInput, Diverged
from dermanet.learning import yardstick
from dermanet.learning.dataset import targets
from dermanet.learning.model import AgeScale
from dermanet.pixels.prepared import PreparedPixels
from dermanet.pixels.preprocess import recipe
from dermanet.records import Answers
from dermanet.searching import pictures, space
from dermanet.searching.study import FIRST, Plan, Pruned, Studies, Study
from dermanet.stages.rooms import frozen_snapshot, studies_of

BASE = experiment.named("smoke:seed=3")
RATES = "learning_rate=1e-4..1e-2:log,batch_size=16|32"
SHORT, SLOW = "smoke:epochs=3,patience=3", "smoke:epochs=6,patience=6"


# The space


def test_a_file_and_one_word_say_the_same(tmp_path: Path) -> None:
    path = tmp_path / "space.yaml"
    path.write_text(
        "learning_rate: {low: 1e-4, high: 0.01, log: true}\nepochs: {low: 2, high: 9}\nturns: [true, false]\n"
    )
    found = space.chosen(str(path), BASE)
    assert found == space.chosen("learning_rate=1e-4..0.01:log,epochs=2..9,turns=true|false", BASE)
    assert found == (
        space.Range("learning_rate", 1e-4, 0.01, True), space.Range("epochs", 2, 9), space.Choices("turns", (True, False)),
    )  # fmt: skip
    assert space.from_list(json.loads(json.dumps(space.as_list(found)))) == found


def test_a_word_may_be_longer_than_the_name_of_a_file() -> None:
    text = "batch_size=" + "|".join(map(str, range(1, 200)))
    assert len(text) > 255 and space.chosen(text, BASE) == (space.Choices("batch_size", tuple(range(1, 200))),)
    with pytest.raises(BadInput, match="--space"):
        space.chosen("x" * 300, BASE)


def test_the_default_space_suits_every_named_experiment() -> None:
    for base in experiment.EXPERIMENTS.values():
        wanted = {"balance", "taps"} if base.method == "probe" else {"learning_rate", "dropout"}
        found = {dimension.field for dimension in space.chosen("", base)}
        assert found >= wanted and found.isdisjoint(base.idle)
    # Its one network has no textures, beside which the last map could be left unread.
    assert [
        "last_map" in {one.field for one in space.chosen("", experiment.named(text))} for text in ("probe", "probe112")
    ] == [True, False]


def test_what_would_change_nothing_in_a_probe_is_refused() -> None:
    probe = experiment.named("probe")
    with pytest.raises(BadInput, match=r"learning_rate, dropout would change nothing in probe.* balance") as caught:
        space.chosen("learning_rate=1e-4..1e-2,balance=0..1,dropout=0..0.5", probe)
    assert "epochs" not in str(caught.value) and "seed" not in str(caught.value)
    assert len(space.chosen("learning_rate=1e-4..1e-2,method=probe|finetune", probe)) == 2
    assert {*experiment.OF_STEPS, *experiment.GIVEN} < set(probe.as_dict())


@pytest.mark.parametrize(
    ("base", "text", "deciding"),
    [
        ("probe112", "last_map=true|false", "backbone=efficientnet-lite0|efficientnet-lite0/textures"),
        ("probe:backbone=MobileNetV2", "taps=true|false", "backbone=MobileNetV2|efficientnet-lite0"),
        ("plain:backbone=efficientnet-lite0,hidden=0", "unfrozen=0.1..1", "method=scratch|finetune"),
        ("finetune:beside=", "last_map=true|false", "beside=|probe"),
    ],
)
def test_what_would_change_nothing_is_refused_unless_the_space_decides_it(base: str, text: str, deciding: str) -> None:
    chosen = experiment.named(base)
    field = text.partition("=")[0]
    with pytest.raises(BadInput, match=f"{field} would change nothing in {chosen.name} .*allowed are ") as caught:
        space.chosen(text, chosen)
    assert field not in str(caught.value).partition("allowed are ")[2]
    assert chosen.idle <= experiment.DECIDES.keys()
    assert {one.field for one in space.chosen(f"{text},{deciding}", chosen)} >= {field}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("dropout: [0.1, 0.2]\nrate: [1, 2]\n", "line 2: experiment field 'rate'; allowed are "),
        (
            "# why\n\nlearning_rate: {low: 0.1, high: 2}\n",
            "line 3: experiment smoke: learning_rate=2.0; allowed are 1e-07 to 1",
        ),
        ("batch_size: [16, many]\n", "line 1: experiment field batch_size='many'; a value of type int"),
        ("batch_size: [16]\n", "line 1: batch_size has the choices [16]; two or more"),
        ("batch_size: [16, 16.0]\n", "line 1: experiment field batch_size='16.0'"),
        ("turns: [true, True]\n", "line 1: turns has the choices [True, True]; two or more different"),
        ("dropout: {low: 0.5, high: 0.1}\n", "line 1: dropout goes from 0.5 to 0.1"),
        ("dropout: {low: 0, high: 0.1, log: true}\n", "line 1: dropout from 0.0 has no logarithm"),
        ("dropout: {low: 0, high: 0.1, log: 3}\n", "line 1: dropout has log 3; true or false"),
        ("dropout: {low: 0, hihg: 0.1}\n", "line 1: dropout is {'low': 0, 'hihg': 0.1}; allowed are"),
        ("turns: {low: false, high: true}\n", "line 1: turns is no number"),
        ("views: {low: 1, high: 8}\n", "line 1: views has no value between some of 1, 2, 4, 8"),
        ("recipe: ['plain@32,epochs=3', square@32]\n", "line 1: recipe has the value 'plain@32,epochs=3', of which"),
        ("name: [a, b]\n", "line 1: experiment field 'name'"),
        ("a: 1\na: 2\n", "line 2: 'a' stands in line 1"),
        ("- learning_rate\n", "needs fields of an experiment"),
        ("", "needs fields of an experiment"),
    ],
)
def test_a_wrong_space_is_refused_with_its_line(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "space.yaml"
    path.write_text(text)
    with pytest.raises(BadInput) as caught:
        space.chosen(str(path), BASE)
    assert said in str(caught.value) and str(path) in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("learning_rate=1..2", "allowed are 1e-07 to 1"), ("dropout=0..0.5,dropout=0..0.6", "dropout stands twice"),
        ("dropout=0..0.5:lag", "log 'lag'; true or false"), ("dropout=0.1", "two or more"), ("absent.yaml", "set --space"),
    ],
)  # fmt: skip
def test_a_wrong_word_is_refused(text: str, said: str) -> None:
    with pytest.raises(BadInput, match="space") as caught:
        space.chosen(text, BASE)
    assert said in str(caught.value)


def test_an_experiment_comes_back_from_its_text() -> None:
    for text in ("smoke", "plain128:recipe=dermanet@64,learning_rate=0.001234,turns=false"):
        assert experiment.text_of(experiment.named(text)) == text
    drawn = {"learning_rate": 0.00999999, "batch_size": 16}
    found = space.changed(BASE, space.chosen(RATES, BASE), drawn)
    assert (found.learning_rate, found.batch_size, found.seed) == (0.01, 16, 3)
    assert experiment.named(experiment.text_of(found)) == found


def test_the_loss_of_a_search_is_the_base_experiment_s() -> None:
    records = [
        samples.record(0, age=50.0, sex="male", diagnosis="mel"), samples.record(1, age=None, diagnosis="nv"),
        samples.record(2, age=None, diagnosis="df"),
    ]  # fmt: skip
    wanted, taught = targets(records, samples.CODES), targets(records[:2], samples.CODES)
    share = np.array([[0.25], [0.25], [0.0]], np.float32)
    answers = Answers(np.array([58.0, 0.0, 0.0], np.float32), wanted.sex * 0.5, wanted.diagnosis * share)
    weights = experiment.named("smoke:age_weight=3,sex_weight=2,smoothing=0.5,balance=1")
    expected = 3 * 8 / 16 + 2 * math.log(2) + math.log(4)
    assert yardstick.loss(answers, wanted, taught, AgeScale(40.0, 16.0), weights) == pytest.approx(expected)


# Studies


def study(folder: Path, text: str = RATES, objective: str = "loss", base: experiment.Experiment = BASE) -> Study:
    return Studies(folder).open(Plan("a snapshot", base, space.chosen(text, base), objective))


def worth(tried: experiment.Experiment) -> float:
    return abs(tried.learning_rate - 1e-3) * 100 + tried.batch_size / 64


def carry_out(of: Study, asked: int) -> None:
    """Trials that are worth what a formula says, reported as those of two epochs."""
    while taken := of.take(asked):
        with taken:
            try:
                for epochs in (1, 2):
                    taken.report([worth(taken.experiment) + 1 / epoch for epoch in range(1, epochs + 1)])
                taken.finish(worth(taken.experiment))
            except Pruned:
                taken.prune()


def outcome(of: Study) -> list[dict[str, Any]]:
    return [{name: value for name, value in trial.items() if name != "seconds"} for trial in of.trials()]


def test_a_study_that_was_left_at_any_moment_ends_as_an_unbroken_one(tmp_path: Path) -> None:
    unbroken, broken = study(tmp_path / "one"), tmp_path / "two"
    carry_out(unbroken, 16)
    assert {trial["state"] for trial in unbroken.trials()} == {"finished", "pruned"}
    for asked in (3, 8, 16):
        study(broken).kept.ask()  # Nothing is drawn yet.
        with study(broken).take(99) as drawn:  # type: ignore[union-attr]
            assert drawn.number == len(study(broken).trials()) - 1
        with study(broken).take(99) as reported:  # type: ignore[union-attr]
            assert (reported.number, reported.experiment) == (drawn.number, drawn.experiment)
            reported.report([worth(reported.experiment) + 1])
        carry_out(study(broken), asked)
    assert outcome(study(broken)) == outcome(unbroken)
    assert study(broken).best() == {
        **study(broken).best(),
        "value": min(t["value"] for t in outcome(unbroken) if t["value"]),
    }  # type: ignore[dict-item]


def test_who_holds_a_trial_keeps_it_and_no_more_are_begun_than_were_asked_for(tmp_path: Path) -> None:
    first, second = study(tmp_path), study(tmp_path)
    one = first.take(2)
    two = second.take(2)
    assert one and two and (one.number, two.number) == (0, 1)
    assert second.take(2) is None and first.take(2) is None
    with one:
        pass
    again = second.take(2)
    assert again and (again.number, again.experiment) == (0, one.experiment)
    for taken in (again, two):
        with taken:
            taken.finish(1.0)
    assert [trial["state"] for trial in first.trials()] == ["finished", "finished"] and first.take(2) is None
    assert not [path for path in tmp_path.iterdir() if path.name.startswith(first.id)]


def test_other_studies_are_other_plans(tmp_path: Path) -> None:
    found = [
        study(tmp_path), study(tmp_path, objective="age_mae"), study(tmp_path, "dropout=0..0.5"),
        study(tmp_path, base=experiment.named("smoke")),
    ]  # fmt: skip
    assert len({one.id for one in found}) == 4 and [one.id for one in Studies(tmp_path).every()] == [
        one.id for one in found
    ]
    assert Studies(tmp_path).find(found[2].id).plan == found[2].plan
    with pytest.raises(BadInput, match=f"no study 'x'; there are {found[0].id}"):
        Studies(tmp_path).find("x")


@pytest.mark.parametrize(
    ("objective", "best"),
    [
        ("loss", 0), ("age_mae", 0), ("diagnosis_log_loss", 0), ("sex_ece", 0), ("diagnosis_brier", 0), ("sex_auc", 2),
        ("diagnosis_f1_macro", 2),
    ],
)  # fmt: skip
def test_the_better_is_the_smaller_error_and_the_greater_share(tmp_path: Path, objective: str, best: int) -> None:
    one = study(tmp_path, objective=objective)
    for value in (0.25, 0.5, 0.75):
        with one.take(9) as taken:  # type: ignore[union-attr]
            taken.finish(value)
    found = one.best()
    assert found and found["trial"] == best
    assert one.kept.best_trial.number == best


def test_a_study_that_was_searched_the_wrong_way_is_not_gone_on_with_and_can_still_be_read(tmp_path: Path) -> None:
    new = study(tmp_path, objective="sex_brier")
    plan = {name: value for name, value in new.plan.as_dict().items() if name != "direction"}
    name = hashlib.sha256(json.dumps(plan, sort_keys=True).encode()).hexdigest()[:16]
    kept = optuna.create_study(storage=Studies(tmp_path).storage, study_name=name, direction="maximize")
    kept.set_user_attr("plan", plan)
    old = Studies(tmp_path).find(name)
    for value in (0.25, 0.75):
        with old.take(9) as taken:  # type: ignore[union-attr]
            taken.finish(value)
    assert study(tmp_path, objective="sex_brier").trials() == []
    assert [(one.id, len(one.trials())) for one in Studies(tmp_path).every()] == [(new.id, 0), (old.id, 2)]
    found = old.best()
    assert found and found["value"] == 0.25


@pytest.mark.parametrize("changed", [{"pretrained": True}, {"dropout": 7.0}])
def test_a_study_of_an_experiment_that_is_none_any_more_hides_no_other(tmp_path: Path, changed: dict[str, Any]) -> None:
    old, kept = study(tmp_path), study(tmp_path, objective="age_mae")
    plan = old.plan.as_dict()
    old.kept.set_user_attr("plan", {**plan, "experiment": plan["experiment"] | changed})
    assert [one.id for one in Studies(tmp_path).every()] == [kept.id]
    with pytest.raises(BadInput, match=f"no study '{old.id}'; there are {kept.id}"):
        Studies(tmp_path).find(old.id)


@pytest.mark.parametrize("objective", ["loss", "sex_auc"])
def test_a_trial_that_is_worse_than_the_median_is_pruned_and_never_the_best(tmp_path: Path, objective: str) -> None:
    one = study(tmp_path, objective=objective)
    for loss in range(FIRST):
        with one.take(99) as taken:  # type: ignore[union-attr]
            taken.report([float(loss)])
            taken.finish(0.5)
    with one.take(99) as good:  # type: ignore[union-attr]
        good.report([-1.0])
        good.finish(0.5)
    with one.take(99) as bad, pytest.raises(Pruned, match="epoch 1"):  # type: ignore[union-attr]
        bad.report([50.0])


def test_nothing_is_pruned_where_losses_mean_different_things(tmp_path: Path) -> None:
    one = study(tmp_path, "smoothing=0..0.2")
    for loss in (*range(FIRST), 50.0):
        with one.take(99) as taken:  # type: ignore[union-attr]
            taken.report([float(loss)])
            taken.finish(0.5)
    assert [trial["state"] for trial in one.trials()] == ["finished"] * (FIRST + 1)


def test_nothing_is_pruned_in_the_first_fifth_of_a_training(tmp_path: Path) -> None:
    one = study(tmp_path, base=experiment.named("plain:epochs=10"))
    for loss in range(FIRST):
        with one.take(99) as taken:  # type: ignore[union-attr]
            taken.report([float(loss)] * 10)
            taken.finish(0.5)
    with one.take(99) as bad:  # type: ignore[union-attr]
        bad.report([50.0] * 2)
        with pytest.raises(Pruned, match="epoch 3"):
            bad.report([50.0] * 3)


def test_the_same_experiment_is_not_trained_twice(tmp_path: Path) -> None:
    one = study(tmp_path, "batch_size=16|32")
    seen = {}
    for _ in range(6):
        with one.take(6) as taken:  # type: ignore[union-attr]
            size = taken.experiment.batch_size
            assert taken.twin == seen.get(size)
            seen.setdefault(size, (taken.number, size / 64))
            taken.finish(size / 64)
    assert len(seen) == 2


def test_a_failed_trial_counts_and_is_never_the_best(tmp_path: Path) -> None:
    one = study(tmp_path)
    with one.take(1) as taken:  # type: ignore[union-attr]
        taken.fail("no number")
    assert one.take(1) is None and one.best() is None and pictures.draw(one) == {}
    assert [(trial["state"], trial["reason"]) for trial in one.trials()] == [("failed", "no number")]


EITHER = "method=probe|finetune,start=imagenet|champion"
"""Each is allowed, and a probe that begins with the champion is not."""


def test_a_combination_that_experiments_do_not_allow_is_refused_and_another_drawn(tmp_path: Path) -> None:
    one = study(tmp_path, EITHER, base=experiment.named("finetune28:seed=1,epochs=1"))
    while taken := one.take(4):
        with taken:
            assert (taken.experiment.method, taken.experiment.start) != ("probe", "champion")
            taken.finish(1.0)
    told = one.trials()
    refused = [trial for trial in told if trial["state"] == "refused"]
    assert refused and len(told) - len(refused) == one.begun() == 4
    for trial in refused:
        assert (trial["experiment"], trial["value"]) == ("", None) and "method=probe needs start=imagenet" in trial[
            "reason"
        ]
    assert one.take(4) is None and not [path for path in tmp_path.iterdir() if path.name.startswith(one.id)]


def test_a_study_that_such_a_combination_had_stopped_can_be_listed_and_goes_on(tmp_path: Path) -> None:
    one = study(tmp_path, EITHER, base=experiment.named("finetune28:epochs=1"))
    one.kept.enqueue_trial({"method": "probe", "start": "champion"})
    left = one.kept.ask()
    for dimension in one.plan.space:
        left.suggest_categorical(dimension.field, dimension.values)  # type: ignore[union-attr]
    assert [(trial["state"], trial["experiment"]) for trial in one.trials()] == [("running", "")]
    with one.take(1) as taken:  # type: ignore[union-attr]
        assert taken.number > 0
        taken.finish(1.0)
    states = [trial["state"] for trial in one.trials()]
    assert (states[0], states[-1], one.begun()) == ("refused", "finished", 1)


def test_a_space_of_which_no_combination_is_allowed_ends_with_one_line(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("dermanet.searching.study.IN_VAIN", 5)
    text = "method=probe|scratch,beside=probe|probe112"
    one = study(tmp_path, text, base=experiment.named("finetune28:epochs=1"))
    for _ in range(2):
        with pytest.raises(BadInput, match=r"space: of 5 combinations .* none is allowed.* needs method=finetune"):
            one.take(1)
        assert len(one.trials()) == 5


def test_pictures_say_what_mattered_once_enough_has_finished(tmp_path: Path) -> None:
    import matplotlib

    style = dict(matplotlib.rcParams)
    one = study(tmp_path)
    carry_out(one, 1)
    assert set(pictures.draw(one)) == {"optimization_history.png"}
    carry_out(one, 12)
    drawn = pictures.draw(one)
    assert set(drawn) == {"optimization_history.png", "param_importances.png"}
    labels = {label.get_text() for label in drawn["param_importances.png"].axes[0].get_yticklabels()}
    assert labels == {"learning_rate", "batch_size"}
    assert dict(matplotlib.rcParams) == style


# Searches


@pytest.fixture(scope="module")
def filled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A home with a snapshot of synthetic images."""
    home = tmp_path_factory.mktemp("filled") / "home"
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DERMANET_HOME", str(home))
        stages.ingest("synthetic:lesions=60,seed=3")
        stages.snapshot()
    return home


@pytest.fixture
def snapshot(filled: Path, home: Path) -> str:
    """The id of the snapshot in this test's own copy of that home."""
    shutil.copytree(filled, home)
    return str(stages.snapshot()["snapshot"])


def runs_of(found: dict[str, Any]) -> list[Run]:
    """The runs nested in a study's, in the order of their trials."""
    client = mlflow.MlflowClient(settings.read().tracking_uri)
    parent = client.get_run(found["run_id"])
    nested = client.search_runs(
        [parent.info.experiment_id],
        f"tags.`mlflow.parentRunId` = '{found['run_id']}'",
        order_by=["attributes.start_time"],
    )
    assert len(client.search_runs([parent.info.experiment_id])) == len(nested) + 1
    return sorted(nested, key=lambda run: int(run.info.run_name.split()[-1]))


def history(run: Run) -> list[tuple[int, float]]:
    client = mlflow.MlflowClient(settings.read().tracking_uri)
    return [(metric.step, metric.value) for metric in client.get_metric_history(run.info.run_id, "val_loss")]


def epochs(home: Path) -> int:
    states = (home / "training").glob("*/progress.json")
    return max((len(json.loads(state.read_text())["history"]) for state in states), default=0)


Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture
def start(snapshot: str) -> Iterator[Start]:
    """Starts `dermanet search` on the snapshot as a process in a session of its own."""
    started: list[subprocess.Popen[str]] = []

    def start(*words: str) -> subprocess.Popen[str]:
        command = [sys.executable, "-m", "dermanet", "search", "--snapshot", snapshot, "--space", RATES, *words]
        started.append(subprocess.Popen(command, start_new_session=True, stderr=subprocess.PIPE, text=True))
        return started[-1]

    yield start
    for process in started:
        for one in family(process.pid):
            one.kill()
        process.wait()
        assert process.stderr
        process.stderr.close()


def family(session: int) -> list[psutil.Process]:
    """Every process of a session that is not over yet."""
    found = []
    for process in psutil.process_iter():
        try:
            if os.getsid(process.pid) == session and process.status() != psutil.STATUS_ZOMBIE:
                found.append(process)
        except (ProcessLookupError, psutil.NoSuchProcess):
            continue
    return found


def wait_until(true: Callable[[], object], seconds: float = 120) -> None:
    end = time.monotonic() + seconds
    while not true():
        assert time.monotonic() < end
        time.sleep(0.02)


def test_a_search_killed_inside_a_trial_goes_on_in_it_and_ends_as_an_unbroken_one(
    start: Start, snapshot: str, home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    unbroken = tmp_path / "unbroken"
    shutil.copytree(home, unbroken)
    killed = start("-e", SLOW, "--trials", "2", "--jobs", "1")
    wait_until(lambda: killed.poll() is not None or epochs(home) >= 2)
    killed.kill()
    killed.wait()
    left = epochs(home)
    assert 2 <= left < 6
    found = stages.search(snapshot, SLOW, RATES, trials=2, jobs=1)
    assert found["trials"] == {"finished": 2}
    trained, nested = stages.trials(found["study"])["all"], runs_of(found)
    assert [trial["run_id"] for trial in trained] == [run.info.run_id for run in nested]
    for run, trial in zip(nested, trained, strict=True):
        assert [step for step, _ in history(run)] == [1, 2, 3, 4, 5, 6] and run.info.status == "FINISHED"
        assert run.data.metrics["objective"] == run.data.metrics["validation_loss"] == trial["value"]
    assert not list((home / "training").iterdir())
    monkeypatch.setenv("DERMANET_HOME", str(unbroken))
    whole = stages.search(snapshot, SLOW, RATES, trials=2, jobs=1)
    assert whole["study"] == found["study"] and whole["best"]["experiment"] == found["best"]["experiment"]
    assert whole["best"]["value"] == pytest.approx(found["best"]["value"], abs=1e-4)


def test_jobs_end_with_an_interrupt_and_with_their_parent_and_the_rest_is_done_without_the_holdout(
    start: Start, snapshot: str, home: Path
) -> None:
    frozen = frozen_snapshot(settings.read(), snapshot)
    for record in frozen.holdout:
        (home / "objects" / record.digest[:2] / record.digest).unlink()
    words = ("-e", SHORT, "--objective", "diagnosis_f1_macro", "--trials", "2", "--jobs", "2")
    interrupted = start(*words)
    wait_until(lambda: interrupted.poll() is not None or len(family(interrupted.pid)) >= 3)
    os.killpg(interrupted.pid, signal.SIGINT)
    said = interrupted.communicate(timeout=120)[1]
    assert interrupted.returncode == 130 and "the same command goes on" in said and "Traceback" not in said, said
    wait_until(lambda: not family(interrupted.pid), 60)
    killed = start(*words)
    wait_until(lambda: killed.poll() is not None or epochs(home) >= 1)
    assert len(family(killed.pid)) >= 3
    killed.kill()
    wait_until(lambda: not family(killed.pid), 60)
    found = stages.search(snapshot, SHORT, RATES, "diagnosis_f1_macro", trials=2, jobs=2)
    assert (found["trials"], found["direction"]) == ({"finished": 2}, "maximize")
    for run in runs_of(found):
        assert run.data.metrics["objective"] == run.data.metrics["validation_diagnosis_f1_macro"]
        assert [step for step, _ in history(run)] == [1, 2, 3]
    pixels = PreparedPixels(home / "prepared", recipe("dermanet@32"))
    assert all(record.digest in pixels for record in frozen.train + frozen.validation)
    assert not any(record.digest in pixels for record in frozen.holdout)


def test_a_search_keeps_its_runs_its_table_and_its_pictures_and_adds_to_what_is_there(
    snapshot: str, home: Path
) -> None:
    plan = Plan(snapshot, experiment.named("smoke"), space.chosen(RATES, experiment.named("smoke")), "loss")
    one = studies_of(settings.read()).open(plan)
    for value in range(FIRST):
        with one.take(99) as taken:  # type: ignore[union-attr]
            taken.report([1e-3 * value])
            taken.finish(1e-3 * value)
    pruned = stages.search(snapshot, "smoke", RATES, trials=FIRST + 1, jobs=1)
    assert (pruned["study"], pruned["trials"]) == (one.id, {"finished": FIRST, "pruned": 1})
    (run,) = runs_of(pruned)
    assert (run.info.status, run.data.tags["dermanet.state"]) == ("KILLED", "pruned") and len(history(run)) == 1

    def diverge(line: str) -> None:
        if "epoch 1" in line:
            raise Diverged("the loss is no number any more")

    failed = stages.search(snapshot, "smoke", RATES, trials=FIRST + 2, jobs=1, progress=diverge)
    assert failed["trials"] == {"finished": FIRST, "pruned": 1, "failed": 1}
    assert [run.info.status for run in runs_of(failed)] == ["KILLED", "FAILED"]
    assert not list((home / "training").iterdir())
    again = stages.search(snapshot, "smoke", RATES, trials=FIRST + 2, jobs=1)
    assert again == failed and len(runs_of(again)) == 2
    client = mlflow.MlflowClient(settings.read().tracking_uri)
    parent = client.get_run(again["run_id"])
    kept = {file.path for file in client.list_artifacts(again["run_id"])}
    assert kept == {"trials.json", "trials.csv", "optimization_history.png", "param_importances.png"}
    assert again["command"] == f"dermanet retrain --experiment '{again['best']['experiment']}'"
    assert again["command"] in parent.data.tags["mlflow.note.content"] and parent.info.status == "FINISHED"
    table = Path(mlflow.artifacts.download_artifacts(run_id=again["run_id"], artifact_path="trials.csv")).read_text()
    assert len(table.splitlines()) == FIRST + 3 and table.startswith("trial,state,value")
    shown, listed = (CliRunner().invoke(cli.app, ["trials", *words]) for words in ([again["study"]], []))
    assert again["command"] in shown.stdout and again["command"] in listed.stdout
    assert shown.stdout.count("finished") == FIRST + 1 and {"pruned", "failed"} <= set(shown.stdout.split())
    assert stages.searches()["studies"] == [{name: value for name, value in again.items() if name != "run_id"}]


def test_a_fault_spends_no_trial_and_what_was_found_is_not_trained_again(snapshot: str) -> None:
    def fault(line: str) -> None:
        if "epoch 1" in line:
            raise OSError("no space left")

    words = (snapshot, "smoke:epochs=1,patience=1", "batch_size=16|32")
    with pytest.raises(OSError, match="no space left"):
        stages.search(*words, trials=1, jobs=1, progress=fault)
    (one,) = stages.searches()["studies"]
    assert (one["trials"], one["best"]) == ({"running": 1}, None)
    found = stages.search(*words, trials=3, jobs=1)
    assert found["trials"] == {"finished": 3}
    first: dict[str, Run] = {}
    for run in runs_of(found):
        before = first.setdefault(run.data.params["batch_size"], run)
        assert run.data.metrics["objective"] == before.data.metrics["objective"]
        assert (run.data.tags.get("dermanet.same_as"), len(history(run))) == (
            (None, 1) if run is before else (before.info.run_name, 0)
        )


def test_nothing_of_a_trial_s_networks_is_left_when_the_next_one_begins(snapshot: str) -> None:
    registry, others = ops.gradient_registry._registry, set(map(id, _networks()))
    before, left = set(registry), []

    def look(line: str) -> None:
        if line.startswith(("trial 1:", "trial 2:")):
            networks = [model for model in _networks() if id(model) not in others]
            left.append((len(networks), set(registry) - before, keras.layers.Dropout(0.1).name))

    stages.search(snapshot, "smoke:epochs=1,patience=1", "learning_rate=1e-4..1e-2", trials=3, jobs=1, progress=look)
    assert left == [(0, set(), "dropout")] * 2


def _networks() -> list[keras.Model]:
    return [found for found in gc.get_objects() if isinstance(found, keras.Model)]


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        ({"objective": "diagnosis_f1_acne"}, "objective 'diagnosis_f1_acne'; on the validation side .* there are loss, age_mae"),
        ({"space_text": "recipe=dermanet@32|blurred"}, "recipe"),
        ({"space_text": "backbone=plain|grand"}, "backbone 'grand'; allowed are plain"),
        ({"experiment_text": "grand"}, "experiment 'grand'"),
        ({"snapshot_id": "0000"}, "no snapshot '0000'"),
        ({"sources": ["synthetic:lesions=4"]}, "a snapshot or sources, not both"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_before_anything_is_kept(
    snapshot: str, home: Path, arguments: dict[str, Any], said: str
) -> None:
    asked: dict[str, Any] = {"snapshot_id": snapshot, "experiment_text": "smoke", "space_text": RATES, **arguments}
    with pytest.raises(BadInput, match=said):
        stages.search(**asked)
    assert not (home / "searches").exists()
