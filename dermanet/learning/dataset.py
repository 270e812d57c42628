"""From records and prepared pixels to batches: labels as arrays, what is not known weighted zero, seeded order and augmentation."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dermanet.errors import BadInput
from dermanet.experiment import Experiment
from dermanet.learning import distribution
from dermanet.learning.augmentation import augmented, draw
from dermanet.learning.distribution import Share
from dermanet.learning.model import AgeScale
from dermanet.learning.quiet import keras
from dermanet.pixels.prepared import PreparedPixels
from dermanet.records import SEXES, Record

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
        raise BadInput("no training record states an age above 0; the age head needs some: add images with ages")
    return AgeScale(float(np.median(ages)), max(float(np.std(ages)), 1.0))


def class_weights(wanted: Targets, balance: float) -> NDArray[np.float32]:
    """What an image of each diagnosis weighs (k,): its frequency to the power `-balance`; 1 on average over the images."""
    counts = wanted.diagnosis.sum(axis=0)
    weights = np.where(counts > 0, np.maximum(counts, 1) ** -balance, 0.0)
    return (weights * counts.sum() / max(float((weights * counts).sum()), 1e-12)).astype(np.float32)


class Batches(keras.utils.PyDataset):
    """Batches of one side of a snapshot, for `fit` and `predict` of any Keras backend.

    Order and augmentation of epoch e depend on (seed, e) alone, so that a resumed training sees what an unbroken one would have seen.
    In training every batch is whole: the last one is filled up with what the epoch began with. So any number of processes takes
    the steps of one, and no batch normalisation ever sees a batch of one image.
    """

    def __init__(
        self, records: Sequence[Record], codes: Sequence[str], pixels: PreparedPixels, batch_size: int,
        *, augment: Experiment | None = None, weights: NDArray[np.float32] | None = None, first_epoch: int = 0,
        share: Share | None = None,
    ) -> None:  # fmt: skip
        """`augment`: draws order and changes by this experiment's seed; without, the images as they are in the order of `records`,
        as evaluation needs them. `weights` (k,): of each diagnosis in the loss. `first_epoch`: the number of the first epoch drawn.

        `share`: which rows of each batch are this process's; by default as Keras's distribution in force has it. Shared, the last
        batch of an evaluation is filled up too, with images of no weight. Raises BadInput where a batch cannot be shared evenly.
        """
        super().__init__(workers=1)
        self._digests = [record.digest for record in records]
        self._targets = targets(records, codes)
        self._pixels = pixels
        self._batch_size = batch_size
        self._augment = augment
        self._epoch = first_epoch
        self._share = share or distribution.share()
        self._mine = self._share.rows(batch_size)
        self._of_diagnosis = self._targets.diagnosis @ (np.ones(len(codes), np.float32) if weights is None else weights)
        self._order = self._draw()
        self._weight = self._weights()

    def __len__(self) -> int:
        return -(-len(self._digests) // self._batch_size)

    def __getitem__(self, index: int) -> Batch:
        batch = slice(index * self._batch_size, (index + 1) * self._batch_size)
        rows, weight = self._order[batch][self._mine], self._weight[batch][self._mine]
        images, wanted = self._changed(self._pixels.batch([self._digests[row] for row in rows]), index), self._targets
        labels = {"age": wanted.age[rows, None], "sex": wanted.sex[rows], "diagnosis": wanted.diagnosis[rows]}
        return (
            images,
            labels,
            {"age": wanted.age_known[rows] * weight, "sex": weight, "diagnosis": weight * self._of_diagnosis[rows]},
        )

    def on_epoch_end(self) -> None:
        """Draws the order of the next epoch."""
        self._epoch += 1
        self._order = self._draw()

    def _changed(self, images: NDArray[np.uint8], index: int) -> NDArray[np.float32]:
        if self._augment is None:
            return images.astype(np.float32)
        # Drawn for the whole batch, so that who has which part of it changes nothing.
        rng = np.random.default_rng((self._augment.seed, self._epoch, index))
        return augmented(images, self._augment, draw(rng, self._batch_size, self._mine))

    def _draw(self) -> NDArray[np.intp]:
        order = np.arange(len(self._digests))
        if self._augment is not None:
            order = np.random.default_rng((self._augment.seed, self._epoch)).permutation(order)
        return np.resize(order, len(self) * self._batch_size) if self._filled else order

    @property
    def _filled(self) -> bool:
        return self._augment is not None or not self._share.whole

    def _weights(self) -> NDArray[np.float32]:
        """Of each row. Keras divides an evaluation's loss by all its rows; so those that count make up for those that fill it up."""
        weight = np.ones(len(self._order), np.float32)
        if self._augment is None:
            weight[len(self._digests) :] = 0
            weight *= len(weight) / max(len(self._digests), 1)
        return weight


def _one_hot(places: Sequence[int], width: int) -> NDArray[Any]:
    return np.eye(width, dtype=np.float32)[list(places)]
