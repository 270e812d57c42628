"""A disk that is full at a checkpoint, a loss that is no number: one clear line, a failed run, nothing registered, and the way on."""

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path

import mlflow
import pytest
from installation import Installation

from dermanet import experiment, settings, stages
from dermanet.errors import BadInput, DermaNetError, no_space_left

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
