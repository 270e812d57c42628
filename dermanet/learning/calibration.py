"""Probabilities that mean what they say: one temperature a head, fitted on the validation side (Guo et al., ICML 2017).

A temperature divides a head's logits, so it changes no answer but its certainty; it is written into the head's own weights, and the
graph stays as it was.
"""

from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from numpy.typing import NDArray
from scipy.optimize import minimize_scalar
from scipy.special import log_softmax

from dermanet.learning import model as network
from dermanet.learning.dataset import Targets
from dermanet.records import Answers

LEAST = 20
"""Images below which nothing is fitted: a temperature from a handful would be noise."""

LIMITS = (0.25, 4.0)


@dataclass(frozen=True, slots=True)
class Temperatures:
    """Above 1 where the network was too sure of itself."""

    diagnosis: float = 1.0
    sex: float = 1.0


def temperatures(answers: Answers, wanted: Targets) -> Temperatures:
    """The temperatures that make the labels of the validation side likeliest; sex by the images of which it is known."""
    known = wanted.sex[:, 2] == 0
    return Temperatures(
        temperature(np.log(np.maximum(answers.diagnosis, 1e-12)), wanted.diagnosis),
        temperature(np.log(np.maximum(answers.sex[known, :2], 1e-12)), wanted.sex[known, :2]),
    )


def temperature(logits: NDArray[np.floating], wanted: NDArray[np.floating]) -> float:
    """The temperature for logits (n, k), up to a constant a row, and one-hot labels (n, k): 0.25 to 4, and 1 below `LEAST` rows."""
    if len(logits) < LEAST:
        return 1.0
    return float(np.exp(_best(logits, wanted, np.ones(len(logits))).x))


def least_loss(logits: NDArray[np.floating], wanted: NDArray[np.floating], weights: NDArray[np.floating]) -> float:
    """The cross-entropy, averaged with `weights` (n,), that is left at the best temperature: how well the logits tell labels apart."""
    return float(_best(logits, wanted, weights).fun)


def _best(logits: NDArray[np.floating], wanted: NDArray[np.floating], weights: NDArray[np.floating]) -> Any:
    def loss(logarithm: float) -> float:
        likely = (log_softmax(logits / np.exp(logarithm), axis=1) * wanted).sum(axis=1)
        return float(-np.average(likely, weights=weights)) if weights.any() else 0.0

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
        counts = np.maximum(wanted.diagnosis.sum(axis=0), 0.5)
        layer = model.get_layer(network.DIAGNOSIS)
        weights, offset = layer.get_weights()
        layer.set_weights([weights, offset - strength * np.log(counts / counts.sum()).astype(np.float32)])
