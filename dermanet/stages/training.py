"""The stage of learning: a snapshot and an experiment into a run with a logged model."""

import hashlib
import json
import shutil
import time
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dermanet import __version__, experiment, settings
from dermanet.errors import UnderWay
from dermanet.revision import revision
from dermanet.settings import Settings
from dermanet.stages import lineage, members
from dermanet.stages.abstention import write_limits
from dermanet.stages.datasets import trained_on
from dermanet.stages.dossier import keep_materials
from dermanet.stages.lateness import lose_rows
from dermanet.stages.progress import EpochReport
from dermanet.stages.rooms import (
    OnBatch,
    Progress,
    chosen_experiment,
    features_root,
    fill_pixels,
    frozen_snapshot,
    say_nothing,
    tracking_of,
    with_room,
)
from dermanet.stages.validation import data_tags, require_not_anomalous

if TYPE_CHECKING:
    from mlflow.entities import Run

    from dermanet.learning.train import Trained
    from dermanet.records import Snapshot
    from dermanet.registry.tracking import Tracking

SCORER_REQUIREMENTS = ("mlflow", "onnxruntime", "numpy", "pandas", "opencv-python-headless", "simplejpeg", "PyYAML")
"""What the logged model needs to answer; their installed versions are logged with it."""


def train(
    snapshot_id: str,
    experiment_text: str,
    attempt: str = "",
    progress: Progress = say_nothing,
    on_batch: OnBatch | None = None,
    origin: str = "",
) -> dict[str, Any]:
    """Trains an experiment on a snapshot and logs the scorer. Returns the run's id.

    The run is named by (snapshot, experiment, attempt): called again it resumes, or finds the work done. Another `attempt`
    trains anew on the same data. `origin`: the version that an experiment with start=champion begins with, instead of the champion,
    or `imagenet`. `progress` gets a line an epoch, `on_batch` how many batches are done.
    Raises DataRefused where the snapshot was judged anomalous and nobody has accepted it. Raises BadInput where the training runs
    away, and DermaNetError where the disk is full: the run has failed then, and the same call goes on from the last whole epoch.
    Interrupted, the run is killed, and the same call goes on, too. Raises UnderWay where another process trains just this.
    With `DERMANET_PROCESSES` its epochs are those of several processes on JAX, and all else is done here; where `DERMANET_PROCESS`
    says that this is another machine than the first, its share of them is all that is done.
    """
    here = settings.read()
    frozen, chosen = frozen_snapshot(here, snapshot_id), chosen_experiment(here, experiment_text)
    require_not_anomalous(here, frozen.id)
    members.require_possible(here, chosen)
    with with_room(here, "the training's run"):
        return _train(here, frozen, chosen, attempt, progress, on_batch, origin)


def _train(
    here: Settings, frozen: "Snapshot", chosen: experiment.Experiment, attempt: str, progress: Progress,
    on_batch: OnBatch | None, origin: str,
) -> dict[str, Any]:  # fmt: skip
    tracking, work = tracking_of(here), work_of(frozen.id, chosen, attempt)
    if here.process:
        return _take_part(here, frozen, chosen, work)
    tags = {"dermanet.snapshot": frozen.id, "dermanet.holdout": frozen.holdout_digest, "dermanet.version": __version__}
    tags |= {
        "dermanet.experiment": chosen.digest,
        "dermanet.revision": revision(here.revision),
        "dermanet.dag_run": here.dag_run,
    }
    tags |= data_tags(here, frozen.id) | ({lineage.STARTED_FROM: origin} if origin else {})
    run_id = tracking.run_for(work, f"{chosen.name}-{frozen.id[:8]}", tags).info.run_id
    if "dermanet.model" in tracking.run(run_id).data.tags:
        progress(f"run {run_id} has trained this already")
        return {"run_id": run_id, "trained": False}
    tracking.end(run_id, "RUNNING")
    try:
        folder = here.home / "training" / work
        trained = _fitted(here, tracking, run_id, frozen, chosen, folder, progress, on_batch)
        files = _model_files(
            trained.keras_file,
            trained.onnx_file,
            _card(frozen, chosen, tracking.run(run_id)),
            chosen.recipe,
        ) | _limits(here, frozen, chosen, trained)
        keep_materials(tracking, run_id, f"{here.model} {chosen.name}", trained.onnx_file, SCORER_REQUIREMENTS)
        tracking.log_model(run_id, _package() / "serving" / "scorer.py", files, _package(), _requirements())
    except UnderWay:
        # The run is that other process's, which goes on.
        raise
    except BaseException as error:
        # Ctrl-C, and whatever ends a task, is no fault of the training.
        _end(tracking, run_id, "FAILED" if isinstance(error, Exception) else "KILLED")
        raise
    tracking.end(run_id, "FINISHED")
    _discard(folder)
    return {"run_id": run_id, "trained": True, "epochs": len(trained.history), "best_epochs": trained.best_epochs}


def work_of(snapshot_id: str, chosen: experiment.Experiment, attempt: str) -> str:
    """Names a training by what it works on: 24 hexadecimal digits."""
    return hashlib.sha256(f"{snapshot_id}\n{chosen.digest}\n{attempt}".encode()).hexdigest()[:24]


def _take_part(here: Settings, frozen: "Snapshot", chosen: experiment.Experiment, work: str) -> dict[str, Any]:
    """What `train` does on the machine of another process than the first: its share of the epochs, and no more."""
    from dermanet.learning.train import Sides, ready

    found = tracking_of(here).found(work)
    trained = (found is None or "dermanet.model" not in found.data.tags) and chosen.method != "probe"
    if trained:
        pixels = fill_pixels(here, chosen.recipe, [*frozen.train, *frozen.validation])[0]
        ready(chosen, Sides(frozen.taxonomy.codes, frozen.train, frozen.validation, pixels), features_root(here))
        members.train(here, frozen.id, chosen, here.home / "training" / work, lambda history: None)
    return {"process": here.process, "processes": here.processes, "trained": trained}


def _fitted(
    here: Settings, tracking: "Tracking", run_id: str, frozen: "Snapshot", chosen: experiment.Experiment, folder: Path,
    progress: Progress, on_batch: OnBatch | None,
) -> "Trained":  # fmt: skip
    """Trains in `folder`, and keeps in the run what it was given, what it cost the machine, and how it went."""
    from dermanet.learning import curves
    from dermanet.learning.survival import alone
    from dermanet.learning.train import Sides, fit, ready
    from dermanet.learning.watching import Watch

    tracking.log_params(run_id, {**chosen.as_dict(), "snapshot": frozen.id, "taxonomy": frozen.taxonomy.digest})
    tracking.log_datasets(run_id, trained_on(here, frozen))
    pixels = fill_pixels(here, chosen.recipe, frozen.records)[0]
    with alone(folder):
        # Said before anything of a training that is under way is touched: its run, or what its processes say.
        lineage.begin(here, tracking, run_id, chosen, frozen, folder, progress)
    patience = chosen.patience if chosen.method == "scratch" and chosen.kept == "best" else chosen.most_epochs
    report = EpochReport(partial(tracking.log_history, run_id), chosen.most_epochs, patience, progress)
    sides, features = Sides(frozen.taxonomy.codes, frozen.train, frozen.validation, pixels), features_root(here)
    watch = Watch(report, on_batch, progress)
    with tracking.machine_watched(run_id):
        if here.processes and chosen.method != "probe":
            ready(chosen, sides, features, watch)
            members.train(here, frozen.id, chosen, folder, report)
            watch = Watch()
        trained = fit(chosen, sides, folder, features, watch)
    lose_rows(here, features, [record.digest for record in frozen.records])
    if len(trained.history) > 1:
        tracking.log_picture(run_id, curves.draw(trained.history, trained.best_epochs), "learning_curves.png")
    tracking.log_params(run_id, {"best_epoch": ", ".join(map(str, trained.best_epochs))})
    return trained


def _end(tracking: "Tracking", run_id: str, status: str) -> None:
    for wait in (0.5, 2.0, 0.0):
        try:
            return tracking.end(run_id, status)
        except Exception:
            # What broke the training may also keep MLflow from hearing of it, and is what has to be said. A database in a file may
            # only be held by who writes the machine's metrics just now; a server has been asked for minutes.
            if str(tracking.client.tracking_uri).startswith("http"):
                return None
            time.sleep(wait)
    return None


def _card(frozen: "Snapshot", chosen: experiment.Experiment, run: "Run") -> dict[str, Any]:
    from dermanet.pixels.preprocess import recipe
    from dermanet.records import SEXES

    prepared_by = recipe(chosen.recipe)
    return {
        "dermanet": __version__, "revision": run.data.tags.get("dermanet.revision", ""), "run_id": run.info.run_id,
        "snapshot": frozen.id, "holdout": frozen.holdout_digest,
        "experiment": chosen.as_dict(), "recipe": prepared_by.as_dict(), "fingerprint": prepared_by.fingerprint,
        "taxonomy": frozen.taxonomy.as_list(), "sexes": list(SEXES),
        "use": "For research use; not a medical device.",
    }  # fmt: skip


def _model_files(keras_file: Path, onnx_file: Path, card: dict[str, Any], recipe_text: str) -> dict[str, Path]:
    """The files that travel with a model, by name: both graphs, the card, and the golden images with Keras's answers."""
    from dermanet.learning.effort import multiply_adds
    from dermanet.learning.model import answers, load
    from dermanet.pixels.preprocess import recipe
    from dermanet.serving import golden
    from dermanet.serving.network import CARD

    folder = onnx_file.parent
    (folder / CARD).write_text(json.dumps({**card, "multiply_adds": multiply_adds(onnx_file)}, indent=2))
    images, chosen = golden.draw(), recipe(recipe_text)
    golden.write(folder / golden.FILE, images, chosen, answers(load(keras_file), golden.prepared(images, chosen)))
    return {"model.keras": keras_file, "model.onnx": onnx_file, CARD: folder / CARD, golden.FILE: folder / golden.FILE}


def _limits(here: Settings, frozen: "Snapshot", chosen: experiment.Experiment, trained: "Trained") -> dict[str, Path]:
    """Two more of those files: when the model abstains, and what its answers in use are compared with."""
    return write_limits(here, frozen, chosen, trained.validation, trained.onnx_file.parent)


def _package() -> Path:
    return Path(__file__).parents[1]


def _requirements() -> list[str]:
    return [f"{name}=={version(name)}" for name in SCORER_REQUIREMENTS]


def _discard(folder: Path) -> None:
    """The files of a finished training; its model and figures are in MLflow by now."""
    shutil.rmtree(folder, ignore_errors=True)
