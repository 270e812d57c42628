"""What lets a training survive: everything saved after each epoch, so that a killed one goes on as if nothing had been."""

import hashlib
import json
import math
import os
from collections.abc import Collection, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dermanet import errors
from dermanet.errors import Diverged, UnderWay
from dermanet.experiment import Experiment
from dermanet.hold import held
from dermanet.learning import distribution
from dermanet.learning import model as network
from dermanet.learning.quiet import keras
from dermanet.learning.watching import UNWATCHED, Epoch, OnEpoch, Say

STATE = "progress.json"
"""The file of a training's folder that says where it stands."""

WORDS = 2**32
"""How many states each of the two words of a generator has: a product of a large seed or a late epoch goes round."""


@dataclass
class Progress:
    """Where a training stands; written whole after every epoch. `best_epoch` counts from 1, 0 before the first."""

    history: list[Epoch] = field(default_factory=list)
    best_epoch: int = 0
    best_loss: float = math.inf
    last_file: str = ""
    best_file: str = ""
    average_file: str = ""
    digests: dict[str, str] = field(default_factory=dict)
    """Of the files that it stands on, by name: nothing is synced to the disk, and a power cut may leave half of one."""

    @property
    def files(self) -> set[str]:
        """What it stands on."""
        return {self.last_file, self.best_file, self.average_file} - {""}


class Survival(keras.callbacks.Callback):
    """Saves everything after each epoch, stops when patience is spent, and brings a killed training back.

    The files of an epoch come first and the JSON that names them last, by a rename: whatever moment a kill hits, the JSON
    names whole files. Keras's BackupAndRestore forgets how long the patience has run and which weights were best.
    Of several processes the first one writes, and what it says of an epoch all go by.
    """

    def __init__(
        self, folder: Path, experiment: Experiment, on_epoch: OnEpoch, unknown: Collection[str] = (),
        say: Say = UNWATCHED.say,
    ) -> None:  # fmt: skip
        """`unknown`: figures that nothing is there to be judged by. Keras says 0 of them, and nobody is told.

        `say` is told where a training begins anew, to the same end, because a file of its last epoch is damaged or gone.
        """
        super().__init__()
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.seed = experiment.seed
        self.patience = experiment.patience
        self.keeps_last = experiment.kept == "last"
        self.on_epoch, self.unknown = on_epoch, unknown
        self.writes = distribution.share().first
        self.state = folder / STATE
        self.progress = _progress_in(folder)
        if self.state.exists() and not self.progress.history and self.writes:
            say(f"what the last epoch left in {folder} is damaged; the training begins anew")
        self.average = [Average(experiment.averaging, self._last_average())] if experiment.averaging else []

    def restore(self) -> Any:
        """The network and its optimizer as they were after the last whole epoch; None at the start."""
        return network.load(self.folder / self.progress.last_file) if self.progress.last_file else None

    def report(self) -> None:
        """Tells `on_epoch` of all epochs so far; one process does."""
        if self.writes:
            self.on_epoch(self.progress.history)

    def exhausted(self) -> bool:
        """Whether as many epochs as the patience allows have brought nothing better."""
        done = len(self.progress.history)
        return done > 0 and done - self.progress.best_epoch >= self.patience

    def best_weights(self) -> Path:
        """The file with the weights of the best epoch."""
        return self.folder / self.progress.best_file

    def on_epoch_begin(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Keras calls this before each epoch: dropout draws from (seed, layer, epoch), as Keras does not save its state."""
        generators = [variable for variable in self.model.variables if "seed_generator" in variable.path]
        for place, state in enumerate(generators):
            state.assign([(self.seed * 1000 + place) % WORDS, epoch * 1_000_003 % WORDS])

    def on_epoch_end(self, epoch: int, logs: dict[str, float] | None = None) -> None:
        """Keras calls this with the number of the epoch that ended, counted from 0."""
        figures = distribution.as_the_first_says({name: float(value) for name, value in (logs or {}).items()})
        broken = [f"{name} is {value}" for name, value in figures.items() if not math.isfinite(value)]
        if broken:
            # Nothing of this epoch is saved: the same training would say so again.
            raise Diverged(
                f"epoch {epoch + 1}: {', '.join(broken)}, which is no number to learn from; lower the experiment's learning_rate"
            )
        progress, loss = self.progress, figures["val_loss"]
        progress.history.append({name: value for name, value in figures.items() if name not in self.unknown})
        better = self.keeps_last or loss < progress.best_loss
        if better:
            progress.best_loss, progress.best_epoch = loss, epoch + 1
        self._write(epoch + 1, better)
        self.report()
        self.model.stop_training = self.exhausted()

    def _write(self, epoch: int, better: bool) -> None:
        progress = self.progress
        progress.last_file = self._save(f"epoch-{epoch}.keras")
        if better:
            progress.best_file = self._save_averaged(epoch) if self.average else progress.last_file
        if self.writes:
            for average in self.average:
                progress.average_file = f"epoch-{epoch}.average.npz"
                average.save(self.folder / progress.average_file)
            self._write_state()

    def _save_averaged(self, epoch: int) -> str:
        with self.average[0].in_place():
            return self._save(f"epoch-{epoch}.averaged.keras")

    def _save(self, name: str) -> str:
        # Whole and as a .keras file, which is put together in memory: HDF5 goes on complaining when a disk is full under it.
        if self.writes:
            with distribution.alone():
                self.model.save(self.folder / name)
        return name

    def _last_average(self) -> list[NDArray[np.float32]]:
        if not self.progress.average_file:
            return []
        with np.load(self.folder / self.progress.average_file) as file:
            return [file[name] for name in file.files]

    def _write_state(self) -> None:
        self.progress.digests = {name: _digest(self.folder / name) for name in self.progress.files}
        temporary = self.state.with_suffix(".tmp")
        temporary.write_text(json.dumps(asdict(self.progress)))
        os.replace(temporary, self.state)
        for file in self.folder.glob("epoch-*"):
            if file.name not in self.progress.files:
                file.unlink()


class Average(keras.callbacks.Callback):
    """An exponential average of the weights that are trained; it is what validation judges and what is kept in the end.

    Polyak & Juditsky (1992). Keras's own lives in the optimizer, which does not bring it back where a saved network is loaded.
    """

    def __init__(self, kept: float, values: list[NDArray[np.float32]]) -> None:
        """`kept`: what the average keeps of itself a step. `values`: where it stood; none at the start."""
        super().__init__()
        self.kept = kept
        self.values = values

    def save(self, path: Path) -> None:
        """Writes where it stands."""
        np.savez(path, *self.values)

    @contextmanager
    def in_place(self) -> Iterator[None]:
        """The network has the average for weights meanwhile."""
        self._swap()
        yield
        self._swap()

    def on_train_begin(self, logs: dict[str, float] | None = None) -> None:
        """Keras calls this first."""
        self.values = self.values or self._weights()

    def on_train_batch_end(self, batch: int, logs: dict[str, float] | None = None) -> None:
        """Keras calls this after each step."""
        for value, weight in zip(self.values, self._weights(), strict=True):
            value *= self.kept
            value += (1 - self.kept) * weight

    def on_test_begin(self, logs: dict[str, float] | None = None) -> None:
        """Keras calls this before validation."""
        self._swap()

    def on_test_end(self, logs: dict[str, float] | None = None) -> None:
        """Keras calls this after validation."""
        self._swap()

    def _weights(self) -> list[NDArray[np.float32]]:
        return [np.array(variable) for variable in self.model.trainable_variables]

    def _swap(self) -> None:
        weights = self._weights()
        for variable, value in zip(self.model.trainable_variables, self.values, strict=True):
            variable.assign(value)
        self.values = weights


def alone(folder: Path) -> AbstractContextManager[None]:
    """Makes a folder and holds it while it is trained in. Raises UnderWay where another process trains there."""
    return held(folder / "lock", UnderWay(f"another process trains in {folder}; wait for it, or end it"))


def with_room(folder: Path) -> AbstractContextManager[None]:
    """Says in one line that the disk is full, and gives back what a half-written epoch took of it."""
    line = f"no space left for the training in {folder}; make room"
    return errors.with_room(
        folder, line, "and run this again: it goes on from its last whole epoch", lambda: _sweep(folder)
    )


def _progress_in(folder: Path) -> Progress:
    """Where the training in a folder stands: at its beginning where there is none, or where a file of it is not as it was written."""
    try:
        found = Progress(**json.loads((folder / STATE).read_bytes()))
        sound = all(_digest(folder / name) == found.digests.get(name) for name in found.files)
    except (FileNotFoundError, ValueError, TypeError):
        return Progress()
    return found if sound else Progress()


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _sweep(folder: Path) -> None:
    """Removes all files of a training but those that its last whole epoch needs; of its parts too."""
    for inner in folder.iterdir():
        if inner.is_dir():
            _sweep(inner)
    needed = {STATE, "lock"} | _progress_in(folder).files
    for file in folder.iterdir():
        if file.is_file() and file.name not in needed:
            file.unlink()
