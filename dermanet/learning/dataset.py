"""From records and prepared pixels to batches: labels as arrays, what is not known weighted zero, seeded order and augmentation."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray

from dermanet.errors import BadInput
from dermanet.experiment import Experiment
from dermanet.learning.augmentation import augmented
from dermanet.learning.model import AgeScale
from dermanet.pixels.prepared import PreparedPixels
from dermanet.records import SEXES, Answers, Record

Batch = tuple[NDArray[np.float32], dict[str, NDArray[np.float32]], dict[str, NDArray[np.float32]]]


@dataclass(frozen=True, slots=True)
class Targets:
    """What the heads shall answer. `age` (n,) in years, 0 where `age_known` (n,) is 0; `sex` (n, 3), `diagnosis` (n, k) one-hot."""

    age: NDArray[np.float32]
    age_known: NDArray[np.float32]
    sex: NDArray[np.float32]
    diagnosis: NDArray[np.float32]


def targets(records: Sequence[Record], codes: Sequence[str]) -> Targets:
    """The labels of `records` as arrays, in their order. `unknown` is an answer of the sex head; a missing age is masked.

    So is an age of 0: HAM10000 has 39 of them, some with seborrheic keratosis, which no infant has, beside 86 of five years. As
    some are truly young, figures are still measured against what is on record.
    """
    ages = [record.labels.age or 0.0 for record in records]
    return Targets(
        age=np.array(ages, np.float32),
        age_known=np.array([age > 0 for age in ages], np.float32),
        sex=_one_hot([SEXES.index(record.labels.sex) for record in records], len(SEXES)),
        diagnosis=_one_hot([codes.index(record.labels.diagnosis) for record in records], len(codes)),
    )


def age_scale(records: Sequence[Record]) -> AgeScale:
    """Median and standard deviation of the ages that are learned from. Raises BadInput where no record has one."""
    ages = [record.labels.age for record in records if record.labels.age]
    if not ages:
        raise BadInput("no training record states an age; the age head needs some: add images with ages")
    return AgeScale(float(np.median(ages)), max(float(np.std(ages)), 1.0))


def class_weights(wanted: Targets, balance: float) -> NDArray[np.float32]:
    """What an image of each diagnosis weighs (k,): its frequency to the power `-balance`; 1 on average over the images."""
    counts = wanted.diagnosis.sum(axis=0)
    weights = np.where(counts > 0, np.maximum(counts, 1) ** -balance, 0.0)
    return (weights * counts.sum() / max(float((weights * counts).sum()), 1e-12)).astype(np.float32)


def figures(answers: Answers, wanted: Targets, scale: AgeScale, prefix: str = "") -> dict[str, float]:
    """What `fit` of a network says of a side, for answers that came another way: `loss`, `age_mae`, `sex_accuracy`, …"""
    known = wanted.age_known > 0
    error = float(np.abs(answers.age - wanted.age)[known].mean()) if known.any() else 0.0
    found = {"loss": error / scale.spread, "age_mae": error}
    for head in ("sex", "diagnosis"):
        truth, given = getattr(wanted, head), getattr(answers, head)
        found[f"{head}_accuracy"] = float((truth.argmax(axis=1) == given.argmax(axis=1)).mean())
        found["loss"] -= float(np.log(np.maximum((truth * given).sum(axis=1), 1e-7)).mean())
    return {f"{prefix}{name}": value for name, value in found.items()}


class Batches(keras.utils.PyDataset):
    """Batches of one side of a snapshot, for `fit` and `predict` of any Keras backend.

    Order and augmentation of epoch e depend on (seed, e) alone, so that a resumed training sees what an unbroken one would have seen.
    """

    def __init__(
        self, records: Sequence[Record], codes: Sequence[str], pixels: PreparedPixels, batch_size: int,
        *, augment: Experiment | None = None, weights: NDArray[np.float32] | None = None, first_epoch: int = 0,
    ) -> None:  # fmt: skip
        """`augment`: draws order and changes by this experiment's seed; without, the images as they are in the order of `records`,
        as evaluation needs them. `weights` (k,): of each diagnosis in the loss. `first_epoch`: the number of the first epoch drawn."""
        super().__init__(workers=1)
        self._digests = [record.digest for record in records]
        self._targets = targets(records, codes)
        self._pixels = pixels
        self._batch_size = batch_size
        self._augment = augment
        weights = np.ones(len(codes), np.float32) if weights is None else weights
        self._weights = self._targets.diagnosis @ weights
        self._epoch = first_epoch
        self._order = self._draw()

    def __len__(self) -> int:
        return -(-len(self._digests) // self._batch_size)

    def __getitem__(self, index: int) -> Batch:
        rows = self._order[index * self._batch_size : (index + 1) * self._batch_size]
        images = self._pixels.batch([self._digests[row] for row in rows])
        if self._augment:
            rng = np.random.default_rng((self._augment.seed, self._epoch, index))
            changed = augmented(images, self._augment, rng)
        else:
            changed = images.astype(np.float32)
        wanted = self._targets
        labels = {"age": wanted.age[rows, None], "sex": wanted.sex[rows], "diagnosis": wanted.diagnosis[rows]}
        weights = {
            "age": wanted.age_known[rows],
            "sex": np.ones(len(rows), np.float32),
            "diagnosis": self._weights[rows],
        }
        return changed, labels, weights

    def on_epoch_end(self) -> None:
        """Draws the order of the next epoch."""
        self._epoch += 1
        self._order = self._draw()

    def _draw(self) -> NDArray[np.intp]:
        if self._augment is None:
            return np.arange(len(self._digests))
        return np.random.default_rng((self._augment.seed, self._epoch)).permutation(len(self._digests))


def _one_hot(places: Sequence[int], width: int) -> NDArray[Any]:
    return np.eye(width, dtype=np.float32)[list(places)]
