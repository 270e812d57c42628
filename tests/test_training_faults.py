"""A disk that is full, weights that run away, an interrupt: one clear line, the run's status, nothing registered, and the way on."""

import errno
import json
import os
import signal
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import mlflow
import numpy as np
import pytest
from commands import Commands
from installation import Installation
from waiting import until

from dermanet import experiment, settings, stages
from dermanet.errors import BadInput, DermaNetError, Diverged, UnderWay, no_room, no_space_left
from dermanet.learning import model as network
from dermanet.learning import train
from dermanet.learning.model import AgeScale
from dermanet.learning.survival import Survival
from dermanet.stages.rooms import fill_pixels, frozen_snapshot

SMALL = "smoke:epochs=3,patience=3"


def _client() -> mlflow.MlflowClient:
    return mlflow.MlflowClient(settings.read().tracking_uri)


def _last_run() -> mlflow.entities.Run:
    return _client().search_runs([_client().get_experiment_by_name("dermanet").experiment_id], max_results=1)[0]


def _versions() -> list[str]:
    return [str(version.version) for version in _client().search_model_versions("name = 'dermanet'")]


@pytest.fixture
def small_disk(installation: Installation) -> Iterator[Path]:
    """The folder of trainings under way, on a file system of its own."""
    folder = installation.home / "training"
    folder.mkdir(exist_ok=True)
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=100k", "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("needs the right to mount a small tmpfs")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


def _resize(disk: Path, kilobytes: int) -> None:
    subprocess.run(["mount", "-o", f"remount,size={kilobytes}k", disk], check=True)


def test_a_full_disk_at_a_checkpoint_fails_the_run_which_goes_on_once_there_is_room(
    small_disk: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    whole = stages.snapshot()["snapshot"]
    expected: list[str] = []
    # The disk fills at the first checkpoint, then at the second, and at last there is room.
    for room, epochs in ((100, 0), (4000, 1)):
        _resize(small_disk, room)
        with pytest.raises(DermaNetError, match="no space left for the training in") as caught:
            stages.retrain([], SMALL, "full")
        assert str(small_disk) in str(caught.value) and "make room" in str(caught.value)
        assert "\n" not in str(caught.value) and caught.value.exit_status == 1
        assert (_last_run().info.status, _versions()) == ("FAILED", ["1"])
        states = list(small_disk.glob("*/progress.json"))
        assert [len(json.loads(state.read_text())["history"]) for state in states] == ([epochs] if epochs else [])
        assert len(list(small_disk.glob("*/*.keras"))) == epochs
        assert "Traceback" not in capfd.readouterr().err
    _resize(small_disk, 100_000)
    done = stages.retrain([], SMALL, "full", expected.append)
    assert any(line == "resumes after epoch 1" for line in expected)
    run = _last_run()
    assert (run.info.run_id, run.info.status, done["version"]) == (done["run_id"], "FINISHED", "2")
    unbroken = stages.train(whole, SMALL, "unbroken")["run_id"]
    losses = [_client().get_metric_history(run_id, "val_loss") for run_id in (done["run_id"], unbroken)]
    assert [m.step for m in losses[0]] == [1, 2, 3]
    assert [m.value for m in losses[0]] == pytest.approx([m.value for m in losses[1]], abs=1e-4)


@pytest.fixture
def small_home(tmp_path: Path, installation: Installation, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A copy of the installation on a file system of its own, MLflow's database included, that has hardly any room left."""
    disk = tmp_path / "disk"
    disk.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=200m", "tmpfs", disk], capture_output=True).returncode:
        pytest.skip("needs the right to mount a small tmpfs")
    installation.copy(disk / "installation").enter(monkeypatch)
    used = int(subprocess.run(["du", "-sk", disk], capture_output=True, text=True, check=True).stdout.split()[0])
    _resize(disk, used + 12)
    yield disk
    subprocess.run(["umount", "-l", disk], check=True)


def test_a_disk_that_is_full_under_mlflow_too_is_one_line(small_home: Path, capfd: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(DermaNetError, match="no space left for the training's run in MLflow") as caught:
        stages.train(stages.snapshot()["snapshot"], "smoke:epochs=1", "full")
    assert "\n" not in str(caught.value) and caught.value.exit_status == 1
    assert "Traceback" not in capfd.readouterr().err
    _resize(small_home, 200_000)
    assert stages.train(stages.snapshot()["snapshot"], "smoke:epochs=1", "full")["trained"]


@pytest.mark.usefixtures("installation")
def test_a_loss_that_is_no_number_fails_the_run_and_does_so_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A rate beyond the allowed ones makes the weights overflow: a real network, really broken."""
    monkeypatch.setattr(experiment, "check", lambda chosen: chosen)
    said = []
    for _ in range(2):
        with pytest.raises(BadInput, match=r"epoch 1: .*loss is nan.*lower the experiment's learning_rate") as caught:
            stages.retrain([], "smoke:learning_rate=1e30,cosine=false")
        said.append(str(caught.value))
        assert "\n" not in said[-1]
        assert (_last_run().info.status, _versions()) == ("FAILED", ["1"])
        assert not list((settings.read().home / "training").glob("*/*.keras"))
    assert said[0] == said[1]
    assert "dermanet.model" not in _last_run().data.tags


def test_a_full_disk_is_known_by_whatever_reports_it() -> None:
    beneath = OSError(28, "No space left on device")
    wrapped = RuntimeError("a library's own")
    wrapped.__cause__ = beneath
    assert no_space_left(beneath) and no_space_left(wrapped)
    assert no_space_left(RuntimeError("Can't decrement id ref count (… error message = 'No space left on device')"))
    assert not no_space_left(OSError(13, "Permission denied")) and not no_space_left(ValueError("full of doubts"))


@pytest.fixture
def small_temporary_disk(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of temporary files, on a file system of its own that has hardly any room."""
    folder = tmp_path / "temporary"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=16k", "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("needs the right to mount a small tmpfs")
    monkeypatch.setattr(tempfile, "tempdir", str(folder))
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


@pytest.mark.usefixtures("installation")
def test_where_temporary_files_have_no_room_their_folder_is_named(small_temporary_disk: Path) -> None:
    snapshot = stages.snapshot()["snapshot"]
    said = f"no space left for temporary files in {small_temporary_disk}; make room there, or set TMPDIR"
    for stage in (lambda: stages.validate(snapshot), lambda: stages.train(snapshot, "smoke:epochs=1", "full")):
        with pytest.raises(DermaNetError, match=said) as caught:
            stage()
        assert "\n" not in str(caught.value) and caught.value.exit_status == 1
    assert _last_run().info.status == "FAILED"


@pytest.mark.usefixtures("installation")
def test_a_command_says_so_too_whatever_it_was_about_to_write(small_temporary_disk: Path, commands: Commands) -> None:
    environ = {**os.environ, "TMPDIR": str(small_temporary_disk)}
    done = commands.run(["evaluate", stages.champion()["run_id"]], environ)
    assert done.returncode == 1 and "a fault" not in done.stderr
    assert f"dermanet: no space left for temporary files in {small_temporary_disk};" in done.stderr


def test_the_full_disk_is_that_of_the_file_which_could_not_be_written(
    tmp_path: Path, small_temporary_disk: Path
) -> None:
    def said(*file: str) -> str:
        error = OSError(errno.ENOSPC, "No space left on device", *file)
        return str(no_room(error, tmp_path / "home", "no space left in the home; make room", "and run this again"))

    (tmp_path / "home").mkdir()
    assert said(str(tmp_path / "home" / "a")) == "no space left in the home; make room and run this again"
    for words in ([], [str(small_temporary_disk / "a")]):
        assert str(small_temporary_disk) in said(*words) and said(*words).endswith("and run this again")


def test_on_one_disk_with_temporary_files_room_anywhere_will_do() -> None:
    error = OSError(errno.ENOSPC, "No space left on device")
    home = Path(tempfile.mkdtemp(dir=tempfile.gettempdir()))
    assert str(no_room(error, home, "make room in the home", "and run this again")).startswith(
        "make room in the home and"
    )
    home.rmdir()


@pytest.mark.parametrize("seed", [7, 4_294_968, 2**31 - 1])
def test_dropout_is_drawn_by_every_seed_and_in_every_epoch_that_is_allowed(tmp_path: Path, seed: int) -> None:
    chosen = experiment.named(f"smoke:seed={seed}")
    survival = Survival(tmp_path, chosen, lambda history: None)
    survival.set_model(network.build(chosen, 32, 7, AgeScale(50.0, 10.0)))
    (state, *_) = [variable for variable in survival.model.variables if "seed_generator" in variable.path]
    drawn = []
    for epoch in (0, 1, 4_294, 4_295, 9_999):
        survival.on_epoch_begin(epoch)
        drawn.append(np.array(state).tolist())
    assert drawn[0] == [seed * 1000 % 2**32, 0] and drawn[1][1] == 1_000_003 and drawn[2][1] == 4_294 * 1_000_003
    assert len({epoch for _, epoch in drawn}) == 5


RUNAWAY = "smoke:learning_rate=1"
"""On the installation's images its weights run away in numbers that are finite, all of them."""


@pytest.mark.usefixtures("installation")
def test_ages_of_thousands_of_years_fail_the_run_as_a_loss_that_is_no_number_does() -> None:
    said = []
    for _ in range(2):
        with pytest.raises(
            Diverged, match=r"epoch \d, the best: ages of [\d,]{5,} years .*; lower the experiment's learning_rate"
        ) as caught:
            stages.train(stages.snapshot()["snapshot"], RUNAWAY)
        said.append(str(caught.value))
        assert "\n" not in said[-1] and caught.value.exit_status == 2
        assert (_last_run().info.status, _versions()) == ("FAILED", ["1"])
    assert said[0] == said[1]


@pytest.mark.usefixtures("installation")
def test_they_are_seen_where_no_age_of_the_validation_side_is_known(tmp_path: Path) -> None:
    here, chosen = settings.read(), experiment.named(RUNAWAY)
    frozen = frozen_snapshot(here, stages.snapshot()["snapshot"])
    ageless = [replace(one, labels=replace(one.labels, age=None)) for one in frozen.validation]
    pixels = fill_pixels(here, chosen.recipe, frozen.train + frozen.validation)[0]
    sides = train.Sides(frozen.taxonomy.codes, frozen.train, ageless, pixels)
    with pytest.raises(Diverged, match="years on average"):
        train.fitted(chosen, sides, tmp_path / "work", tmp_path / "features")


@pytest.mark.usefixtures("installation")
def test_a_second_call_on_a_training_that_is_under_way_leaves_its_run_alone() -> None:
    snapshot, statuses = stages.snapshot()["snapshot"], []

    def call_again(line: str) -> None:
        if line.startswith("epoch 1 "):
            with pytest.raises(UnderWay, match="another process trains in"):
                stages.train(snapshot, SMALL, "twice")
            statuses.append(_last_run().info.status)

    done = stages.train(snapshot, SMALL, "twice", call_again)
    assert statuses == ["RUNNING"] and done["epochs"] == 3
    assert (_last_run().info.run_id, _last_run().info.status) == (done["run_id"], "FINISHED")


@pytest.mark.usefixtures("installation")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_training_that_is_ended_by_a_signal_is_killed_in_mlflow_and_goes_on_in_its_run(number: int) -> None:
    snapshot, chosen = stages.snapshot()["snapshot"], "smoke:epochs=40,patience=40"
    states, before = settings.read().home / "training", _last_run().info.run_id
    process = subprocess.Popen(
        [sys.executable, "-m", "dermanet", "train", snapshot, "-e", chosen], stderr=subprocess.PIPE, text=True
    )
    until(lambda: process.poll() is not None or list(states.glob("*/progress.json")), 120)
    os.kill(process.pid, number)
    said = process.communicate(timeout=120)[1]
    assert process.returncode == 130 and "Traceback" not in said, said
    run = _last_run()
    assert run.info.run_id != before and (run.info.status, run.info.end_time is None) == ("KILLED", False)
    lines: list[str] = []

    def enough(line: str) -> None:
        lines.append(line)
        if line.startswith("epoch"):
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        stages.train(snapshot, chosen, progress=enough)
    assert any(line.startswith("resumes after epoch") for line in lines)
    assert (_last_run().info.run_id, _last_run().info.status) == (run.info.run_id, "KILLED")
