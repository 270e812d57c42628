"""Training that survives: one call fits a network on a snapshot's sides, and a killed call goes on from its last whole epoch."""

import fcntl
import json
import math
import os
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from dermanet.errors import BadInput, DermaNetError, Diverged
from dermanet.experiment import Experiment
from dermanet.learning import backbones, calibration, heads
from dermanet.learning import model as network
from dermanet.learning.backbones import Part
from dermanet.learning.dataset import Batches, Targets, age_scale, class_weights, figures, targets
from dermanet.learning.features import FeatureCache
from dermanet.learning.model import AgeScale
from dermanet.pixels.prepared import PreparedPixels
from dermanet.records import Answers, Record

Epoch = dict[str, float]
"""The figures of one epoch: `loss`, `val_loss`, `age_mae`, `val_age_mae`, `sex_accuracy`, …"""


@dataclass(frozen=True, slots=True)
class Trained:
    """What a training left in its folder."""

    keras_file: Path
    onnx_file: Path
    history: list[Epoch]
    best_epochs: list[int]
    """The epoch whose weights were kept, counted from 1; of each part of a backbone that was trained in parts."""
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
    average_file: str = ""


Say = Callable[[str], None]
"""Takes one line for whoever watches."""


@dataclass(frozen=True, slots=True)
class Sides:
    """What a network is fitted to and what it is chosen by: records of the training and the validation side, codes in order."""

    codes: Sequence[str]
    train: Sequence[Record]
    validation: Sequence[Record]
    pixels: PreparedPixels

    @property
    def digests(self) -> list[str]:
        """Of the images of both."""
        return [record.digest for record in (*self.train, *self.validation)]

    @property
    def scale(self) -> AgeScale:
        """Of the training side's ages."""
        return age_scale(self.train)

    def targets(self) -> tuple[Targets, Targets]:
        """The labels of both."""
        return targets(self.train, self.codes), targets(self.validation, self.codes)


def fit(
    experiment: Experiment, sides: Sides, workdir: Path, features: Path,
    on_epoch: Callable[[list[Epoch]], None] = lambda history: None, say: Say = lambda line: None,
) -> Trained:  # fmt: skip
    """Trains by the experiment's method, writes the network and its ONNX graph, and returns both with what happened.

    `workdir` is this training's own; `features`: the root of the features that are kept for all. `on_epoch` gets the whole history
    after every epoch, also of epochs from before a kill.
    Called again on the same `workdir` it resumes; on a finished one it returns what is there.
    Raises BadInput where a side has no image or no age; Diverged where the loss stops being a number; DermaNetError where another
    process trains there, or where the export differs.
    """
    _require_sides(sides)
    workdir.mkdir(parents=True, exist_ok=True)
    with _alone(workdir):
        if experiment.method == "scratch":
            return _scratch(experiment, sides, workdir, on_epoch)
        cache = FeatureCache(features, sides.pixels.recipe, experiment)
        cache.fill(sides.digests, sides.pixels, counted(say, "features"))
        if experiment.method == "probe":
            return _probe(experiment, sides, cache, workdir, on_epoch)
        return _finetune(experiment, sides, cache, workdir, on_epoch, say)


def counted(say: Say, what: str, every: float = 10.0) -> Callable[[int, int], None]:
    """Turns counts into a line now and then: at most one in `every` seconds."""
    last = [time.monotonic()]

    def count(done: int, total: int) -> None:
        if time.monotonic() - last[0] >= every:
            last[0] = time.monotonic()
            say(f"{what}: {done} of {total}")

    return count


def _scratch(experiment: Experiment, sides: Sides, workdir: Path, on_epoch: Callable[[list[Epoch]], None]) -> Trained:
    survival = Survival(workdir, experiment, on_epoch)
    model = survival.restore() or _compiled(
        network.build(experiment, sides.pixels.recipe.size, len(sides.codes), sides.scale), experiment, sides
    )
    _train(model, experiment, sides, survival)
    model.load_weights(survival.best_weights())
    if experiment.views > 1:
        model = _with_views(model, experiment, sides)
    return _finish(model, experiment, sides, workdir, survival.progress.history, [survival.progress.best_epoch])


def _probe(
    experiment: Experiment, sides: Sides, cache: FeatureCache, workdir: Path, on_epoch: Callable[[list[Epoch]], None]
) -> Trained:
    both, alone = _heads(experiment, sides, cache)
    wanted = sides.targets()
    given = [
        alone.answers(cache.read([record.digest for record in side]), sides.scale)
        for side in (sides.train, sides.validation)
    ]
    history = [figures(given[0], wanted[0], sides.scale) | figures(given[1], wanted[1], sides.scale, prefix="val_")]
    on_epoch(history)
    model = _empty(experiment, sides)
    both.put_into(model)
    if experiment.calibrate:
        calibration.apply(model, calibration.temperatures(given[1], wanted[1]))
    calibration.adjust(model, experiment.adjustment, wanted[0])
    return _export(model, sides, workdir, history, [1])


def _finetune(
    experiment: Experiment, sides: Sides, cache: FeatureCache, workdir: Path,
    on_epoch: Callable[[list[Epoch]], None], say: Say,
) -> Trained:  # fmt: skip
    """Each part of the backbone is trained by itself, on top of its own heads; the finished network has them side by side.

    Its heads then are the mean of theirs, so that it answers with the mean of their logits, as an ensemble does.
    """
    history: list[Epoch] = []
    best, fitted = [], []
    for place, part in enumerate(backbones.parts(experiment.backbone)):
        before = list(history)
        survival = Survival(workdir / f"part-{place}", experiment, lambda own, before=before: on_epoch(before + own))  # type: ignore[misc]
        say(f"fine-tuning {part}")
        model = survival.restore() or _warm(experiment, sides, cache, part)
        _train(model, experiment, sides, survival)
        model.load_weights(survival.best_weights())
        best.append(len(history) + survival.progress.best_epoch)
        history += survival.progress.history
        fitted.append({layer.name: layer.get_weights() for layer in model.layers if layer.weights})
        keras.backend.clear_session()
    model = _empty(experiment, sides, weights=False)
    _join(model, fitted)
    return _finish(model, experiment, sides, workdir, history, best)


class Survival(keras.callbacks.Callback):
    """Saves everything after each epoch, stops when patience is spent, and brings a killed training back.

    The files of an epoch come first and the JSON that names them last, by a rename: whatever moment a kill hits, the JSON
    names two whole files. Keras's BackupAndRestore forgets how long the patience has run and which weights were best.
    """

    def __init__(self, folder: Path, experiment: Experiment, on_epoch: Callable[[list[Epoch]], None]) -> None:
        super().__init__()
        folder.mkdir(parents=True, exist_ok=True)
        self.folder = folder
        self.seed = experiment.seed
        self.patience = experiment.patience
        self.on_epoch = on_epoch
        self.state = folder / "progress.json"
        self.progress = Progress(**json.loads(self.state.read_text())) if self.state.exists() else Progress()
        self.average = [Average(experiment.averaging, self._last_average())] if experiment.averaging else []

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
        for average in self.average:
            progress.average_file = self._save(f"last-{epoch + 1}.average.npz", average.save)
        if loss < progress.best_loss:
            progress.best_loss, progress.best_epoch = loss, epoch + 1
            with self.average[0].in_place() if self.average else nullcontext():
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
        named = {self.progress.last_file, self.progress.best_file, self.progress.average_file}
        for file in [*self.folder.glob("last-*"), *self.folder.glob("best-*")]:
            if file.name not in named:
                file.unlink()

    def _last_average(self) -> list[NDArray[np.float32]]:
        if not self.progress.average_file:
            return []
        with np.load(self.folder / self.progress.average_file) as file:
            return [file[name] for name in file.files]


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


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    """Holds a folder while it is trained in; the hold ends with the process, however that ends."""
    with (folder / "lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError:
            raise DermaNetError(f"another process trains in {folder}; wait for it, or end it") from None
        yield


def _require_sides(sides: Sides) -> None:
    for name, side in (("train", sides.train), ("validation", sides.validation)):
        if not side:
            raise BadInput(f"the {name} side of the snapshot has no image; take more lesions in and try again")


def _heads(
    experiment: Experiment, sides: Sides, cache: FeatureCache, only: Part | None = None
) -> tuple[heads.Heads, heads.Heads]:
    """The linear heads on cached features: fitted to both sides, and to the training side alone."""
    found = [cache.read([record.digest for record in side], only) for side in (sides.train, sides.validation)]
    wanted = sides.targets()
    return heads.fit(experiment, found[0], wanted[0], found[1], wanted[1], sides.scale)


def _empty(experiment: Experiment, sides: Sides, weights: bool = True) -> keras.Model:
    """The whole network as it is served, its heads not filled yet."""
    side = sides.pixels.recipe.size
    return network.build(experiment, side, len(sides.codes), sides.scale, views=experiment.views, weights=weights)


def _warm(experiment: Experiment, sides: Sides, cache: FeatureCache, part: Part) -> keras.Model:
    """One part under heads that its frozen features have warmed up, its last layers ready to be trained."""
    model = network.build(experiment, sides.pixels.recipe.size, len(sides.codes), sides.scale, only=part)
    _heads(experiment, sides, cache, part)[1].put_into(model)
    network.unfreeze(model.get_layer(part.layer), experiment.unfrozen)
    return _compiled(model, experiment, sides)


def _compiled(model: keras.Model, experiment: Experiment, sides: Sides) -> keras.Model:
    steps = experiment.epochs * -(-len(sides.train) // experiment.batch_size)
    network.compile_for_training(model, experiment, sides.scale, steps)
    return model


def _train(model: Any, experiment: Experiment, sides: Sides, survival: "Survival") -> None:
    """Goes on from the last whole epoch until the epochs or the patience are spent."""
    done = survival.progress
    survival.on_epoch(done.history)
    first = len(done.history)
    if first >= experiment.epochs or survival.exhausted():
        return
    weights, size = class_weights(sides.targets()[0], experiment.balance), experiment.batch_size
    drawn = Batches(
        sides.train, sides.codes, sides.pixels, size, augment=experiment, weights=weights, first_epoch=first
    )
    judged = Batches(sides.validation, sides.codes, sides.pixels, size, weights=weights)
    model.fit(
        drawn, validation_data=judged, initial_epoch=first, epochs=experiment.epochs,
        # `drawn` orders itself by (seed, epoch); Keras would draw another order from the state of the process.
        shuffle=False, callbacks=[*survival.average, survival], verbose=0,
    )  # fmt: skip


def _join(model: keras.Model, fitted: Sequence[dict[str, list[NDArray[np.float32]]]]) -> None:
    """Fills the whole network with the weights of its parts, by layer: their heads side by side, divided by their number."""
    for one in fitted:
        for name, weights in one.items():
            if name not in network.FITTED:
                model.get_layer(name).set_weights(weights)
    for name in network.FITTED:
        tensors = list(zip(*(one[name] for one in fitted), strict=True))
        if name == network.STANDARDISE:
            model.get_layer(name).set_weights([np.concatenate(tensor) for tensor in tensors])
        else:
            slopes, offsets = tensors
            model.get_layer(name).set_weights([np.concatenate(slopes) / len(fitted), np.mean(offsets, axis=0)])


def _with_views(model: keras.Model, experiment: Experiment, sides: Sides) -> keras.Model:
    whole = _empty(experiment, sides, weights=False)
    whole.set_weights(model.get_weights())
    return whole


def _finish(
    model: keras.Model, experiment: Experiment, sides: Sides, workdir: Path, history: list[Epoch], best: list[int]
) -> Trained:
    """Calibrates a network on the validation side, and exports it."""
    wanted = sides.targets()
    if experiment.calibrate:
        calibration.apply(model, calibration.temperatures(_validation_answers(model, sides), wanted[1]))
    calibration.adjust(model, experiment.adjustment, wanted[0])
    return _export(model, sides, workdir, history, best)


def _validation_answers(model: keras.Model, sides: Sides) -> Answers:
    digests = [record.digest for record in sides.validation]
    found = [network.answers(model, sides.pixels.batch(digests[at : at + 32])) for at in range(0, len(digests), 32)]
    return Answers(*(np.concatenate([getattr(one, head) for one in found]) for head in network.HEADS))


def _export(model: keras.Model, sides: Sides, workdir: Path, history: list[Epoch], best: list[int]) -> Trained:
    keras_file, onnx_file = workdir / "model.keras", workdir / "model.onnx"
    model.save(keras_file, include_optimizer=False)
    probe = sides.pixels.batch([record.digest for record in sides.validation[:8]])
    return Trained(keras_file, onnx_file, history, best, network.export_onnx(model, onnx_file, probe))
