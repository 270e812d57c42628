"""The stage of learning: a snapshot and an experiment into a run with a logged model."""

import hashlib
import json
import shutil
import time
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dermanet import __version__, experiment, settings
from dermanet.stages.rooms import (
    Progress,
    chosen_experiment,
    features_root,
    fill_pixels,
    frozen_snapshot,
    say_nothing,
    tracking_of,
)
from dermanet.stages.validation import data_tags

if TYPE_CHECKING:
    from dermanet.records import Snapshot
    from dermanet.registry.tracking import Tracking

SCORER_REQUIREMENTS = ("mlflow", "onnxruntime", "numpy", "pandas", "opencv-python-headless", "simplejpeg", "PyYAML")
"""What the logged model needs to answer; their installed versions are logged with it."""


def train(
    snapshot_id: str, experiment_text: str, attempt: str = "", progress: Progress = say_nothing
) -> dict[str, Any]:
    """Trains an experiment on a snapshot and logs the scorer. Returns the run's id.

    The run is named by (snapshot, experiment, attempt): called again it resumes, or finds the work done. Another `attempt`
    trains anew on the same data.
    """
    from dermanet.learning import curves
    from dermanet.learning.train import Sides, fit

    here = settings.read()
    frozen, chosen = frozen_snapshot(here, snapshot_id), chosen_experiment(here, experiment_text)
    tracking = tracking_of(here)
    work = hashlib.sha256(f"{frozen.id}\n{chosen.digest}\n{attempt}".encode()).hexdigest()[:24]
    tags = {"dermanet.snapshot": frozen.id, "dermanet.holdout": frozen.holdout_digest, "dermanet.version": __version__}
    tags |= data_tags(here, frozen.id)
    run_id = tracking.run_for(work, f"{chosen.name}-{frozen.id[:8]}", tags).info.run_id
    if "dermanet.model" in tracking.run(run_id).data.tags:
        progress(f"run {run_id} has trained this already")
        return {"run_id": run_id, "trained": False}
    tracking.end(run_id, "RUNNING")
    tracking.log_params(run_id, {**chosen.as_dict(), "snapshot": frozen.id, "taxonomy": frozen.taxonomy.digest})
    pixels = fill_pixels(here, chosen.recipe, frozen.records)[0]
    report = _EpochReport(tracking, run_id, chosen.most_epochs, progress)
    try:
        sides = Sides(frozen.taxonomy.codes, frozen.train, frozen.validation, pixels)
        trained = fit(chosen, sides, here.home / "training" / work, features_root(here), report, progress)
        tracking.log_picture(run_id, curves.draw(trained.history, trained.best_epochs), "learning_curves.png")
        tracking.log_params(run_id, {"best_epoch": ", ".join(map(str, trained.best_epochs))})
        files = _model_files(trained.keras_file, trained.onnx_file, _card(frozen, chosen, run_id), chosen.recipe)
        tracking.log_model(run_id, _package() / "serving" / "scorer.py", files, _package(), _requirements())
    except Exception:
        tracking.end(run_id, "FAILED")
        raise
    tracking.end(run_id, "FINISHED")
    _discard(here.home / "training" / work)
    return {"run_id": run_id, "trained": True, "epochs": len(trained.history), "best_epochs": trained.best_epochs}


class _EpochReport:
    """After each epoch: its figures to MLflow, and one line with the time left to whoever watches."""

    def __init__(self, tracking: "Tracking", run_id: str, epochs: int, progress: Progress) -> None:
        self.tracking, self.run_id, self.epochs, self.progress = tracking, run_id, epochs, progress
        self.clock = time.monotonic
        self.start = self.clock()
        self.resumed = -1

    def __call__(self, history: list[dict[str, float]]) -> None:
        self.tracking.log_history(self.run_id, history)
        if self.resumed < 0:
            self.resumed = len(history)
            if history:
                self.progress(f"resumes after epoch {len(history)}")
            return
        done = len(history)
        left = (self.clock() - self.start) / (done - self.resumed) * (self.epochs - done)
        self.progress(f"{epoch_line(history)}; {self.epochs} at most, {left:.0f} s")


def epoch_line(history: list[dict[str, float]]) -> str:
    """The last of the epochs so far as one line for people."""
    last = history[-1]
    return (
        f"epoch {len(history)}: validation loss {last['val_loss']:.3f}, age error {last['val_age_mae']:.1f} years, "
        f"sex {last['val_sex_accuracy']:.3f}, diagnosis {last['val_diagnosis_accuracy']:.3f}"
    )


def _card(frozen: "Snapshot", chosen: experiment.Experiment, run_id: str) -> dict[str, Any]:
    from dermanet.pixels.preprocess import recipe
    from dermanet.records import SEXES

    prepared_by = recipe(chosen.recipe)
    return {
        "dermanet": __version__, "run_id": run_id, "snapshot": frozen.id, "holdout": frozen.holdout_digest,
        "experiment": chosen.as_dict(), "recipe": prepared_by.as_dict(), "fingerprint": prepared_by.fingerprint,
        "taxonomy": frozen.taxonomy.as_list(), "sexes": list(SEXES),
        "use": "For research use; not a medical device.",
    }  # fmt: skip


def _model_files(keras_file: Path, onnx_file: Path, card: dict[str, Any], recipe_text: str) -> dict[str, Path]:
    """The files that travel with a model, by name: both graphs, the card, and the golden images with Keras's answers."""
    from dermanet.learning.model import answers, load
    from dermanet.pixels.preprocess import recipe
    from dermanet.serving import golden
    from dermanet.serving.network import CARD

    folder = onnx_file.parent
    (folder / CARD).write_text(json.dumps(card, indent=2))
    images, chosen = golden.draw(), recipe(recipe_text)
    golden.write(folder / golden.FILE, images, chosen, answers(load(keras_file), golden.prepared(images, chosen)))
    return {"model.keras": keras_file, "model.onnx": onnx_file, CARD: folder / CARD, golden.FILE: folder / golden.FILE}


def _package() -> Path:
    return Path(__file__).parents[1]


def _requirements() -> list[str]:
    return [f"{name}=={version(name)}" for name in SCORER_REQUIREMENTS]


def _discard(folder: Path) -> None:
    """The files of a finished training; its model and figures are in MLflow by now."""
    shutil.rmtree(folder, ignore_errors=True)
