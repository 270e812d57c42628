"""Training that survives: one call fits a network on a snapshot's sides, and a killed call goes on from its last whole epoch."""

import fcntl
import json
import math
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np

from dermanet.errors import BadInput, DermaNetError, Diverged
from dermanet.experiment import Experiment
from dermanet.learning import model as network
from dermanet.learning.dataset import Batches, age_scale
from dermanet.pixels.prepared import PreparedPixels
from dermanet.records import Record

Epoch = dict[str, float]
"""The figures of one epoch: `loss`, `val_loss`, `age_mae`, `val_age_mae`, `sex_accuracy`, …"""


@dataclass(frozen=True, slots=True)
class Trained:
    """What a training left in its folder."""

    keras_file: Path
    onnx_file: Path
    history: list[Epoch]
    best_epoch: int
    parity: float
    """The largest difference between the ONNX graph and Keras on validation images."""


@dataclass
class Progress:
    """Where a training stands; written whole after every epoch. `best_epoch` counts from 1, 0 before the first."""

    history: list[Epoch] = field(default_factory=list)
    best_epoch: int = 0
    best_loss: float = math.inf
    last_file: str = ""
    best_file: str = ""


def fit(
    experiment: Experiment, codes: Sequence[str], train: Sequence[Record], validation: Sequence[Record],
    pixels: PreparedPixels, workdir: Path, on_epoch: Callable[[list[Epoch]], None] = lambda history: None,
) -> Trained:  # fmt: skip
    """Trains until `experiment.patience` epochs bring no better validation loss, keeps the best epoch, exports it as ONNX.

    `codes`: the diagnoses in order. `on_epoch` gets the whole history after every epoch, also of epochs from before a kill.
    Called again on the same `workdir` it resumes; on a finished one it returns what is there.
    Raises BadInput where a side has no image; Diverged where the loss stops being a number; DermaNetError where another process
    trains there, or where the export differs.
    """
    _require_sides(train, validation)
    workdir.mkdir(parents=True, exist_ok=True)
    with _alone(workdir):
        return _fit(experiment, codes, train, validation, pixels, workdir, on_epoch)


def _fit(
    experiment: Experiment, codes: Sequence[str], train: Sequence[Record], validation: Sequence[Record],
    pixels: PreparedPixels, workdir: Path, on_epoch: Callable[[list[Epoch]], None],
) -> Trained:  # fmt: skip
    survival = Survival(workdir, experiment.seed, experiment.patience, on_epoch)
    done = survival.progress
    model = survival.restore() or _fresh(experiment, codes, train, pixels.recipe.size)
    on_epoch(done.history)
    if len(done.history) < experiment.epochs and not survival.exhausted():
        first, size = len(done.history), experiment.batch_size
        drawn = Batches(train, codes, pixels, size, seed=experiment.seed, turns=experiment.turns, first_epoch=first)
        model.fit(
            drawn, validation_data=Batches(validation, codes, pixels, size), initial_epoch=first, epochs=experiment.epochs,
            # `drawn` orders itself by (seed, epoch); Keras would draw another order from the state of the process.
            shuffle=False, callbacks=[survival], verbose=0,
        )  # fmt: skip
    return _finish(model, survival, pixels.batch([record.digest for record in validation[:8]]))


class Survival(keras.callbacks.Callback):
    """Saves everything after each epoch, stops when patience is spent, and brings a killed training back.

    The files of an epoch come first and the JSON that names them last, by a rename: whatever moment a kill hits, the JSON
    names two whole files. Keras's BackupAndRestore forgets how long the patience has run and which weights were best.
    """

    def __init__(self, folder: Path, seed: int, patience: int, on_epoch: Callable[[list[Epoch]], None]) -> None:
        super().__init__()
        self.folder = folder
        self.seed = seed
        self.patience = patience
        self.on_epoch = on_epoch
        self.state = folder / "progress.json"
        self.progress = Progress(**json.loads(self.state.read_text())) if self.state.exists() else Progress()

    def restore(self) -> Any:
        """The network and its optimizer as they were after the last whole epoch; None at the start."""
        return network.load(self.folder / self.progress.last_file) if self.progress.last_file else None

    def exhausted(self) -> bool:
        """Whether as many epochs as the patience allows have brought nothing better."""
        done = len(self.progress.history)
        return done > 0 and done - self.progress.best_epoch >= self.patience

    def best_weights(self) -> Path:
        """The weights of the best epoch."""
        return self.folder / self.progress.best_file

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Keras calls this before each epoch: dropout draws from (seed, layer, epoch), as Keras does not save its state."""
        generators = [variable for variable in self.model.variables if "seed_generator" in variable.path]
        for place, state in enumerate(generators):
            state.assign(np.array([self.seed * 1000 + place, epoch * 1_000_003], np.uint32))

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Keras calls this with the number of the epoch that ended, counted from 0."""
        figures = {name: float(value) for name, value in (logs or {}).items()}
        if not all(math.isfinite(value) for value in figures.values()):
            raise Diverged(f"epoch {epoch + 1}: the loss is no number any more ({figures}); lower learning_rate")
        progress, loss = self.progress, figures["val_loss"]
        progress.history.append(figures)
        progress.last_file = self._save(f"last-{epoch + 1}.keras", self.model.save)
        if loss < progress.best_loss:
            progress.best_loss, progress.best_epoch = loss, epoch + 1
            progress.best_file = self._save(f"best-{epoch + 1}.weights.h5", self.model.save_weights)
        self._write_state()
        self.on_epoch(progress.history)
        self.model.stop_training = self.exhausted()

    def _save(self, name: str, save: Callable[[Path], Any]) -> str:
        save(self.folder / name)
        return name

    def _write_state(self) -> None:
        temporary = self.state.with_suffix(".tmp")
        temporary.write_text(json.dumps(asdict(self.progress)))
        os.replace(temporary, self.state)
        named = {self.progress.last_file, self.progress.best_file}
        for file in [*self.folder.glob("last-*.keras"), *self.folder.glob("best-*.weights.h5")]:
            if file.name not in named:
                file.unlink()


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Holds a folder while it is trained in; the hold ends with the process, however that ends."""
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise DermaNetError(f"another process trains in {folder}; wait for it, or end it") from None
        yield


def _require_sides(train: Sequence[Record], validation: Sequence[Record]) -> None:
    for name, side in (("train", train), ("validation", validation)):
        if not side:
            raise BadInput(f"the {name} side of the snapshot has no image; take more lesions in and try again")


def _fresh(experiment: Experiment, codes: Sequence[str], train: Sequence[Record], side: int) -> keras.Model:
    scale = age_scale(train)
    model = network.build(experiment, side, len(codes), scale)
    steps = experiment.epochs * -(-len(train) // experiment.batch_size)
    network.compile_for_training(model, experiment, scale, steps)
    return model


def _finish(model: Any, survival: Survival, probe: Any) -> Trained:
    model.load_weights(survival.best_weights())
    keras_file, onnx_file = survival.folder / "model.keras", survival.folder / "model.onnx"
    model.save(keras_file, include_optimizer=False)
    parity = network.export_onnx(model, onnx_file, probe)
    return Trained(keras_file, onnx_file, survival.progress.history, survival.progress.best_epoch, parity)
