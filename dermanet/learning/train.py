"""Training: one call fits a network on a snapshot's sides, by one of three methods, and writes it in both its forms."""

from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from numpy.typing import NDArray

from dermanet import memory
from dermanet.errors import BadInput, Diverged
from dermanet.experiment import Experiment
from dermanet.learning import calibration, distribution, heads
from dermanet.learning import model as network
from dermanet.learning.dataset import Batches, Targets, age_scale, class_weights, targets
from dermanet.learning.features import FeatureCache, Rows
from dermanet.learning.inheritance import ancestor, inherit, inherit_part
from dermanet.learning.model import AgeScale
from dermanet.learning.parts import Part, parts
from dermanet.learning.quiet import keras
from dermanet.learning.survival import Survival, alone, with_room
from dermanet.learning.watching import UNWATCHED, Epoch, Watch, counted
from dermanet.learning.yardstick import figures
from dermanet.pixels.prepared import PreparedPixels
from dermanet.records import Answers, Record

JUDGED = 8
"""Images that a whole network answers at once: several backbones with several orientations of each take gigabytes for more."""

OLDEST = 1000.0
"""Years: a network that answers more on average has run away, though every figure of it is a number."""


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
    validation: Answers
    """As in `Fitted`."""


@dataclass(frozen=True, slots=True)
class Fitted:
    """A network as it is served, before it is written."""

    model: keras.Model
    history: list[Epoch]
    best_epochs: list[int]
    validation: Answers
    """What the validation side was answered by a network that did not learn from it: a probe's heads are fitted to both sides in
    the end, and the network that has them may not be judged there."""
    backbones: tuple[Path | Part, ...] = ()
    """In order: the exported graph of each that is as it was, and each that was trained by itself. None where it is one network."""
    views: int = 1

    def graphs(self) -> Iterator[onnx.ModelProto]:
        """Those of its backbones, each read or converted when its turn comes: together that takes gigabytes."""
        for one in self.backbones:
            yield network.converted(self.model.get_layer(one.layer)) if isinstance(one, Part) else onnx.load(one)


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

    @property
    def unknown(self) -> tuple[str, ...]:
        """Figures of the validation side that none of its labels tells."""
        return () if targets(self.validation, self.codes).age_known.any() else ("val_age_mae",)

    def targets(self) -> tuple[Targets, Targets]:
        """The labels of both."""
        return targets(self.train, self.codes), targets(self.validation, self.codes)


def fit(experiment: Experiment, sides: Sides, workdir: Path, features: Path, watch: Watch = UNWATCHED) -> Trained:
    """Trains by the experiment's method, writes the network and its ONNX graph, and returns both with what happened.

    As `fitted`. Raises DermaNetError where the export differs, too.
    """
    found = fitted(experiment, sides, workdir, features, watch)
    with alone(workdir), with_room(workdir):
        keras_file, onnx_file = workdir / "model.keras", workdir / "model.onnx"
        found.model.save(keras_file, include_optimizer=False)
        # What the steps of a training had, the converter would come on top of.
        memory.give_back()
        images = sides.pixels.batch([record.digest for record in sides.validation[:JUDGED]])
        parity = network.export_onnx(found.model, onnx_file, images, found.graphs(), found.views)
    return Trained(keras_file, onnx_file, found.history, found.best_epochs, parity, found.validation)


def fitted(experiment: Experiment, sides: Sides, workdir: Path, features: Path, watch: Watch = UNWATCHED) -> Fitted:
    """Trains by the experiment's method and returns the network with what happened.

    `workdir` is this training's own: it begins with the network `inheritance.START` where that lies there. `features`: the root of
    the features that are kept for all. Called again on the same `workdir` it resumes; on a finished one its epochs are done.
    Raises BadInput where a side has no image or no age, Diverged where the loss stops being a number or the network that is kept
    answers no ages; UnderWay where another process trains there, DermaNetError where the disk is full.
    """
    _require_sides(sides)
    with alone(workdir), with_room(workdir):
        ready(experiment, sides, features, watch)
        if experiment.method == "probe":
            return _probe(experiment, sides, _cache(experiment, sides, features), watch)
        learned = _learned(experiment, sides, workdir, features, watch)
        if experiment.method == "scratch":
            return _finish_whole(experiment, sides, learned)
        if not experiment.companion:
            return _finish_parts(experiment, sides, learned)
        # Both are joined as they are: one temperature a head, in the end, is all that so few validation images can tell.
        tuned = _finish_parts(replace(experiment, beside="", adjustment=0.0, calibrate=False), sides, learned)
        watch.say(f"the heads of {experiment.beside}")
        companion = replace(experiment.companion, calibrate=False)
        probe = _probe(companion, sides, _cache(companion, sides, features), Watch(say=watch.say))
        return _side_by_side(experiment, sides, tuned, probe)


def learn(experiment: Experiment, sides: Sides, workdir: Path, features: Path, watch: Watch = UNWATCHED) -> None:
    """The epochs of `fit` without what it makes of them at the end, as one of the processes that `distribution.together` joins.

    All are called with the same, after `ready`; the first alone writes, and tells of its epochs. Whoever calls `fit` afterwards
    finds the epochs done.
    """
    _require_sides(sides)
    with alone(workdir) if distribution.share().first else nullcontext():
        for _ in _learned(experiment, sides, workdir, features, watch):
            pass


def ready(experiment: Experiment, sides: Sides, features: Path, watch: Watch = UNWATCHED) -> None:
    """Computes the features that the experiment's heads begin with, those that are not kept already."""
    if experiment.method != "scratch":
        cache = _cache(experiment, sides, features)
        cache.fill(sides.digests, sides.pixels, counted(watch.say, "features"))


def _cache(experiment: Experiment, sides: Sides, features: Path) -> FeatureCache:
    return FeatureCache(features, sides.pixels.recipe, experiment)


def _learned(
    experiment: Experiment, sides: Sides, workdir: Path, features: Path, watch: Watch
) -> Iterator[tuple[keras.Model, Survival]]:
    """Every network whose epochs are done, with what it survived: one, or each part of the backbone in turn."""
    if experiment.method == "scratch":
        survival = Survival(workdir, experiment, watch.on_epoch, sides.unknown, watch.say)
        yield _trained(experiment, sides, survival, watch, partial(_fresh, experiment, sides, workdir)), survival
    elif experiment.method == "finetune":
        chosen, cache = parts(experiment.backbone), _cache(experiment, sides, features)
        before: list[Epoch] = []
        for place, part in enumerate(chosen):
            own = watch.of_part(before, place, len(chosen))
            survival = Survival(workdir / f"part-{place}", experiment, own.on_epoch, sides.unknown, own.say)
            watch.say(f"fine-tuning {part}")
            start = partial(_warm, experiment, sides, cache, part, workdir)
            yield _trained(experiment, sides, survival, own, start), survival
            before += survival.progress.history
            distribution.clear_session()


def _probe(experiment: Experiment, sides: Sides, cache: FeatureCache, watch: Watch) -> Fitted:
    watch.on_epoch([])
    seen, wanted, scale = _features(sides, cache), sides.targets(), sides.scale
    both, alone = heads.fit(experiment, seen[0], wanted[0], seen[1], wanted[1], scale, cache.passed_over())
    given = [alone.answers(features, scale) for features in seen]
    told = [
        figures(answers, labels, wanted[0], scale, experiment, prefix)
        for answers, labels, prefix in zip(given, wanted, ("", "val_"), strict=True)
    ]
    history = [told[0] | told[1]]
    watch.on_epoch(history)
    model = _empty(experiment, sides)
    both.put_into(model)
    judged = _calibrated(model, experiment, given[1], wanted)
    return Fitted(model, history, [1], judged, tuple(cache.graphs()), experiment.views)


def _finish_whole(experiment: Experiment, sides: Sides, learned: Iterator[tuple[keras.Model, Survival]]) -> Fitted:
    ((model, survival),) = learned
    model.load_weights(survival.best_weights())
    if experiment.views > 1:
        model = _with_views(model, experiment, sides)
    given = _validation_answers(model, sides)
    _require_ages(given, [survival.progress.best_epoch])
    judged = _calibrated(model, experiment, given, sides.targets())
    return Fitted(model, survival.progress.history, [survival.progress.best_epoch], judged)


def _finish_parts(experiment: Experiment, sides: Sides, learned: Iterator[tuple[keras.Model, Survival]]) -> Fitted:
    """Each part of the backbone was trained by itself, under heads of its own; the finished network has them side by side.

    Its heads are the mean of theirs, so that it answers with the mean of their logits, as an ensemble does.
    """
    history: list[Epoch] = []
    best, fitted = [], []
    for model, survival in learned:
        model.load_weights(survival.best_weights())
        fitted.append(_weights(model))
        best.append(len(history) + survival.progress.best_epoch)
        history += survival.progress.history
    whole = _empty(experiment, sides, weights=False)
    _join(whole, fitted)
    given = _validation_answers(whole, sides)
    _require_ages(given, best)
    judged = _calibrated(whole, experiment, given, sides.targets())
    return Fitted(whole, history, best, judged, parts(experiment.backbone), experiment.views)


def _require_ages(given: Answers, best: Sequence[int]) -> None:
    """Raises Diverged where the epochs that are kept answer the validation side with what is no age.

    By their answers, which there are without any age on record; and not by the first epochs, which may be wild and recover.
    """
    years = float(np.abs(given.age).mean())
    if not years <= OLDEST:
        raise Diverged(
            f"epoch {', '.join(map(str, best))}, the best: ages of {years:,.0f} years on average; lower the experiment's learning_rate"
        )


def _side_by_side(experiment: Experiment, sides: Sides, tuned: Fitted, probe: Fitted) -> Fitted:
    """The trained networks and the frozen ones as one, which answers with the mean of their logits and years."""
    whole = _empty(experiment, sides, weights=False)
    _join(whole, [_weights(tuned.model), _weights(probe.model)])
    given = calibration.mean((tuned.validation, probe.validation))
    judged = _calibrated(whole, experiment, given, sides.targets())
    frozen = probe.backbones or parts(experiment.companion.backbone if experiment.companion else "")
    return Fitted(whole, tuned.history, tuned.best_epochs, judged, (*tuned.backbones, *frozen), experiment.views)


def _calibrated(model: keras.Model, experiment: Experiment, given: Answers, wanted: tuple[Targets, Targets]) -> Answers:
    """Writes temperatures and adjustment into a network, and returns what becomes of `given`, its answers for the validation side."""
    if experiment.calibrate:
        found = calibration.temperatures(given, wanted[1])
        calibration.apply(model, found)
        given = calibration.tempered(given, found)
    calibration.adjust(model, experiment.adjustment, wanted[0])
    return calibration.adjusted(given, experiment.adjustment, wanted[0])


def _require_sides(sides: Sides) -> None:
    for name, side in (("train", sides.train), ("validation", sides.validation)):
        if not side:
            raise BadInput(f"the {name} side of the snapshot has no image; take more lesions in and try again")
    # Said now, and not after minutes of features.
    age_scale(sides.train)


def _features(sides: Sides, cache: FeatureCache, only: Part | None = None) -> list[Rows]:
    """The kept features of both sides: of all parts of the backbone, or of one."""
    return [cache.rows([record.digest for record in side], only) for side in (sides.train, sides.validation)]


def _empty(experiment: Experiment, sides: Sides, weights: bool = True) -> keras.Model:
    """The whole network as it is served, its heads not filled yet."""
    side = sides.pixels.recipe.size
    return network.build(experiment, side, len(sides.codes), sides.scale, views=experiment.views, weights=weights)


def _warm(experiment: Experiment, sides: Sides, cache: FeatureCache, part: Part, workdir: Path) -> keras.Model:
    """One part under heads that its frozen features have warmed up, or under an ancestor's, its last layers ready to be trained."""
    model = network.build(experiment, sides.pixels.recipe.size, len(sides.codes), sides.scale, only=part)
    before = ancestor(workdir)
    if before:
        among = parts(experiment.backbone)
        inherit_part(model, before, part, among, 1 / len(among) / (2 if experiment.companion else 1))
    else:
        seen, wanted = _features(sides, cache, part), sides.targets()
        passed_over = cache.passed_over(part)
        heads.fit(experiment, seen[0], wanted[0], seen[1], wanted[1], sides.scale, passed_over)[1].put_into(model)
    network.unfreeze(model.get_layer(part.layer), experiment.unfrozen)
    return _compiled(model, experiment, sides)


def _compiled(model: keras.Model, experiment: Experiment, sides: Sides) -> keras.Model:
    steps = experiment.epochs * -(-len(sides.train) // experiment.batch_size)
    network.compile_for_training(model, experiment, sides.scale, steps)
    return model


def _fresh(experiment: Experiment, sides: Sides, workdir: Path) -> keras.Model:
    """The whole network before its first step."""
    model = network.build(experiment, sides.pixels.recipe.size, len(sides.codes), sides.scale)
    before = ancestor(workdir)
    if before:
        inherit(model, before)
    return _compiled(model, experiment, sides)


def _trained(
    experiment: Experiment, sides: Sides, survival: Survival, watch: Watch, start: Callable[[], keras.Model]
) -> Any:
    """The network after its last epoch: `start` makes it, or it goes on from its last whole epoch."""
    first = len(survival.progress.history)
    distribution.require_same(first, survival.folder)
    model = survival.restore() or start()
    survival.report()
    if first >= experiment.epochs or survival.exhausted():
        return model
    weights, size = class_weights(sides.targets()[0], experiment.balance), experiment.batch_size
    drawn = Batches(
        sides.train, sides.codes, sides.pixels, size, augment=experiment, weights=weights, first_epoch=first
    )
    # Every image counts alike here, whatever it weighs in the loss: an accuracy is to be what people take it for.
    judged = Batches(sides.validation, sides.codes, sides.pixels, size)
    model.fit(
        drawn, validation_data=judged, initial_epoch=first, epochs=experiment.epochs,
        # `drawn` orders itself by (seed, epoch); Keras would draw another order from the state of the process.
        shuffle=False, callbacks=[*survival.average, survival, *watch.callbacks()], verbose=0,
    )  # fmt: skip
    return model


def _weights(model: keras.Model) -> dict[str, list[NDArray[np.float32]]]:
    """By layer."""
    return {layer.name: layer.get_weights() for layer in model.layers if layer.weights}


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


def _validation_answers(model: keras.Model, sides: Sides) -> Answers:
    digests = [record.digest for record in sides.validation]
    chunks = (digests[at : at + JUDGED] for at in range(0, len(digests), JUDGED))
    found = [network.answers(model, sides.pixels.batch(chunk)) for chunk in chunks]
    return Answers(*(np.concatenate([getattr(one, head) for one in found]) for head in network.HEADS))
