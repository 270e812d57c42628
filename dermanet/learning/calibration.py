"""Probabilities that mean what they say: one temperature a head, fitted on the validation side (Guo et al., ICML 2017).

A temperature divides a head's logits, so it changes no answer but its certainty; it is written into the head's own weights, and the
graph stays as it was.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import expit, log_softmax, softmax

from dermanet.learning import model as network
from dermanet.learning.dataset import Targets
from dermanet.learning.quiet import keras
from dermanet.records import Answers

LEAST = 20
"""Images below which nothing is fitted: a temperature from a handful would be noise."""

LIMITS = (0.25, 4.0)

DOUBT = 0.2
"""Before anything is seen a temperature's logarithm is taken to be 0 give or take this much. Of 140 validation images alone the best
temperature is often worse than none on lesions that are not seen (docs/results.md); a few thousand outweigh it."""


@dataclass(frozen=True, slots=True)
class Temperatures:
    """Above 1 where the network was too sure of itself."""

    diagnosis: float = 1.0
    sex: float = 1.0


def temperatures(answers: Answers, wanted: Targets) -> Temperatures:
    """The temperatures that make the labels of the validation side likeliest; sex by the images of which it is known."""
    known = wanted.sex[:, 2] == 0
    return Temperatures(
        temperature(_logits(answers.diagnosis), wanted.diagnosis),
        temperature(_logits(answers.sex[known, :2]), wanted.sex[known, :2]),
    )


def tempered(answers: Answers, found: Temperatures) -> Answers:
    """What a network answers once its temperatures are applied; how likely the sex is to be on record stays as it was."""
    two = softmax(_logits(answers.sex[:, :2]) / found.sex, axis=1) * answers.sex[:, :2].sum(axis=1, keepdims=True)
    diagnosis = softmax(_logits(answers.diagnosis) / found.diagnosis, axis=1)
    return Answers(answers.age, np.concatenate([two, answers.sex[:, 2:]], axis=1), diagnosis)


def mean(answers: Sequence[Answers]) -> Answers:
    """What a network answers whose heads are the mean of those of several: the mean of their logits, and of their years."""
    years = np.mean([one.age for one in answers], axis=0)
    sexes, diagnosis = (
        softmax(np.mean([_logits(getattr(one, head)) for one in answers], axis=0)[:, :width], axis=1)
        for head, width in (("sex", 2), ("diagnosis", None))
    )
    known = expit(np.mean([_logits(1 - one.sex[:, 2:]) - _logits(one.sex[:, 2:]) for one in answers], axis=0))
    return Answers(years, np.concatenate([sexes * known, 1 - known], axis=1), diagnosis)


def adjusted(answers: Answers, strength: float, wanted: Targets) -> Answers:
    """What a network answers once `adjust` has lowered its logits."""
    lowered = _logits(answers.diagnosis) - strength * _log_frequencies(wanted)
    return Answers(answers.age, answers.sex, softmax(lowered, axis=1))


def _logits(probabilities: NDArray[np.floating]) -> NDArray[np.floating]:
    """Up to a constant a row."""
    return np.log(np.maximum(probabilities, 1e-12))


def _log_frequencies(wanted: Targets) -> NDArray[np.floating]:
    """Of each diagnosis (k,); one that nobody has counts as half an image."""
    counts = np.maximum(wanted.diagnosis.sum(axis=0), 0.5)
    return np.log(counts / counts.sum())


def temperature(logits: NDArray[np.floating], wanted: NDArray[np.floating]) -> float:
    """The temperature for logits (n, k), up to a constant a row, and one-hot labels (n, k): 0.25 to 4, and 1 below `LEAST` rows.

    The likeliest of all, by the labels and by `DOUBT` together.
    """
    if len(logits) < LEAST:
        return 1.0
    return float(np.exp(_best(logits, wanted, np.ones(len(logits)), 1 / (2 * DOUBT**2 * len(logits))).x))


def least_loss(logits: NDArray[np.floating], wanted: NDArray[np.floating], weights: NDArray[np.floating]) -> float:
    """The cross-entropy, averaged with `weights` (n,), that is left at the best temperature: how well the logits tell labels apart."""
    return float(_best(logits, wanted, weights).fun)


def _best(
    logits: NDArray[np.floating], wanted: NDArray[np.floating], weights: NDArray[np.floating], doubt: float = 0.0
) -> Any:
    """The logarithm of a temperature at which the loss is least; `doubt` times its square counts as loss, too."""

    def loss(logarithm: float) -> float:
        likely = (log_softmax(logits / np.exp(logarithm), axis=1) * wanted).sum(axis=1)
        return doubt * logarithm**2 - float(np.average(likely, weights=weights)) if weights.any() else 0.0

    return minimize_scalar(loss, bounds=tuple(np.log(LIMITS)), method="bounded")


def apply(model: keras.Model, found: Temperatures) -> None:
    """Divides the logits of the heads by their temperatures."""
    for name, value in ((network.DIAGNOSIS, found.diagnosis), (network.SEX, found.sex)):
        layer = model.get_layer(name)
        layer.set_weights([weights / value for weights in layer.get_weights()])


def adjust(model: keras.Model, strength: float, wanted: Targets) -> None:
    """Lowers each diagnosis's logit by `strength` times the logarithm of its frequency on the training side (Menon et al., 2021).

    A diagnosis that nobody there has counts as half an image.
    """
    if strength:
        layer = model.get_layer(network.DIAGNOSIS)
        weights, offset = layer.get_weights()
        layer.set_weights([weights, offset - strength * _log_frequencies(wanted).astype(np.float32)])
