"""Linear heads on the features of a frozen backbone, fitted by scikit-learn; their weights then stand in the network's layers.

Diagnosis: multinomial logistic regression. Sex: logistic regression of male against female on the images of which it is known,
and another of how likely it is to be on record at all. Age: Huber's regression on standardised years. The strength of each one's
ridge penalty is chosen on the validation side; then all are fitted once more, to both sides together.
"""

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass

import keras
import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, softmax
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import log_loss, mean_absolute_error

from dermanet.experiment import Experiment
from dermanet.learning import calibration
from dermanet.learning import model as network
from dermanet.learning.dataset import Targets, class_weights
from dermanet.learning.model import AgeScale
from dermanet.records import Answers

STRENGTHS = (1e-3, 3e-3, 1e-2, 3e-2)
"""scikit-learn's C of the logistic regressions that are tried."""

PENALTIES = (3000.0, 10_000.0, 30_000.0)
"""Those of the age, on a squared weight of standardised years on standardised features, for a thousand images."""

COMPONENTS = 512
"""Principal axes of the features that heads are fitted along: no figure changes with more, and they take a quarter of the time."""

LOOKED_AT = 2000
"""Images that the principal axes are taken from."""

TURN = 0.5
"""Spreads from which on an error of age counts by its distance."""

ROUNDS = 6

Array = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Linear:
    """One head: `weights` (d, k) on standardised features, `offset` (k,)."""

    weights: Array
    offset: Array

    def __call__(self, features: Array) -> Array:
        """Logits, or standardised years: (n, k)."""
        return features @ self.weights + self.offset

    def back(self, axes: Array) -> "Linear":
        """The same head on the features of which its own are the coordinates along `axes` (d, r)."""
        return Linear(axes @ self.weights, self.offset)


@dataclass(frozen=True, slots=True)
class Heads:
    """What a probe has learned. `centre`, `spread` (d,): of the features. `chosen`: the penalties, by head."""

    centre: Array
    spread: Array
    diagnosis: Linear
    sex: Linear
    sex_known: Linear
    age: Linear
    chosen: dict[str, float]

    def put_into(self, model: keras.Model) -> None:
        """Writes the weights into a network that `model.build` made for the same features."""
        model.get_layer(network.STANDARDISE).set_weights([self.centre, self.spread**2])
        for layer, head in (
            (network.DIAGNOSIS, self.diagnosis), (network.SEX, self.sex), (network.SEX_KNOWN, self.sex_known), (network.AGE, self.age),
        ):  # fmt: skip
            model.get_layer(layer).set_weights([head.weights, head.offset])

    def answers(self, features: Array, scale: AgeScale) -> Answers:
        """What a network with these heads answers for `features` (n, d)."""
        x = (features - self.centre) / self.spread
        known = expit(self.sex_known(x))
        sex = np.concatenate([softmax(self.sex(x), axis=1) * known, 1 - known], axis=1)
        return Answers(self.age(x)[:, 0] * scale.spread + scale.centre, sex, softmax(self.diagnosis(x), axis=1))


def fit(
    experiment: Experiment, train: Array, train_targets: Targets, validation: Array, validation_targets: Targets,
    scale: AgeScale,
) -> tuple[Heads, Heads]:  # fmt: skip
    """Features (n, d) of both sides. Returns the heads fitted to both, and those that saw the training side alone.

    The second are what the validation side may judge: figures and temperatures.
    """
    both, both_targets = np.concatenate([train, validation]), joined(train_targets, validation_targets)
    centre, spread = both.mean(axis=0), both.std(axis=0)
    spread = np.where(spread > 1e-6, spread, 1.0).astype(np.float32)
    coordinates, axes = principal((both - centre) / spread)
    first, rest = coordinates[: len(train)], coordinates[len(train) :]
    chosen, alone = {}, {}
    for head, (strengths, fitted, loss) in _ways(experiment, scale).items():
        tried = [fitted(first, train_targets, strength) for strength in strengths]
        losses = [loss(one, rest, validation_targets) for one in tried]
        place = int(np.argmin(losses))
        chosen[head], alone[head] = float(strengths[place]), tried[place].back(axes)
    together = {
        head: fitted(coordinates, both_targets, chosen[head]).back(axes)
        for head, (_, fitted, _) in _ways(experiment, scale).items()
    }
    return Heads(centre, spread, **together, chosen=chosen), Heads(centre, spread, **alone, chosen=chosen)


def joined(first: Targets, second: Targets) -> Targets:
    """The labels of two sides, one behind the other."""
    pairs = ((getattr(first, name), getattr(second, name)) for name in ("age", "age_known", "sex", "diagnosis"))
    return Targets(*(np.concatenate(pair) for pair in pairs))


def principal(features: Array, most: int = COMPONENTS, looked_at: int = LOOKED_AT) -> tuple[Array, Array]:
    """Coordinates (n, r) of centred `features` (n, d) along their `most` strongest principal axes, and those axes (d, r).

    A ridge penalty does not see a rotation, and what it leaves of the weak axes is next to nothing. The axes are those of
    `looked_at` images, evenly taken: of thousands more they would be no other, and their cost grows with the square.
    """
    seen = features[np.linspace(0, len(features) - 1, min(looked_at, len(features))).round().astype(int)]
    count, width = seen.shape
    values, vectors = np.linalg.eigh(seen @ seen.T if count < width else seen.T @ seen)
    held = np.flatnonzero(values > values[-1] * 1e-7)[-most:]
    axes = vectors[:, held]
    if count < width:
        axes = seen.T @ (axes / np.sqrt(values[held]))
    return features @ axes, axes


Fit = Callable[[Array, Targets, float], Linear]
Loss = Callable[[Linear, Array, Targets], float]


def _ways(experiment: Experiment, scale: AgeScale) -> dict[str, tuple[Sequence[float], Fit, Loss]]:
    """For each head the penalties that are tried, how it is fitted, and what is to be small on the validation side."""
    return {
        "diagnosis": (STRENGTHS, lambda x, y, c: _diagnosis(x, y, c, experiment.balance), _diagnosis_loss(experiment.balance)),
        "sex": (STRENGTHS, _sex, _sex_loss),
        "sex_known": (STRENGTHS, _sex_known, _sex_known_loss),
        "age": (PENALTIES, lambda x, y, penalty: _age(x, y, penalty, scale), lambda head, x, y: _age_loss(head, x, y, scale)),
    }  # fmt: skip


def _diagnosis(features: Array, wanted: Targets, strength: float, balance: float) -> Linear:
    codes = wanted.diagnosis.argmax(axis=1)
    width, present = wanted.diagnosis.shape[1], np.unique(codes)
    # What nobody has is not impossible: it gets the odds of half an image, whatever the features say.
    weights = np.zeros((features.shape[1], width), np.float32)
    offset = np.full(width, -np.log(2.0 * len(codes)), np.float32)
    if len(present) == 1:
        offset[present] = 0.0
        return Linear(weights, offset)
    weights[:, present], offset[present] = _logistic(features, codes, strength, class_weights(wanted, balance)[codes])
    return Linear(weights, offset)


def _sex(features: Array, wanted: Targets, strength: float) -> Linear:
    known = wanted.sex[:, 2] == 0
    return _two(features[known], wanted.sex[known].argmax(axis=1), strength)


def _sex_known(features: Array, wanted: Targets, strength: float) -> Linear:
    known = (wanted.sex[:, 2] == 0).astype(int)
    both = _two(features, known, strength)
    return Linear(both.weights[:, 1:] - both.weights[:, :1], both.offset[1:] - both.offset[:1])


def _two(features: Array, labels: NDArray[np.int64], strength: float) -> Linear:
    """Logits of 0 and 1; those of their frequencies, each counted half an image more, where only one of them is there."""
    if len(np.unique(labels)) == 2:
        return Linear(*_logistic(features, labels, strength, np.ones(len(labels))))
    counts = np.array([np.sum(labels == label) + 0.5 for label in (0, 1)])
    return Linear(np.zeros((features.shape[1], 2), np.float32), np.log(counts / counts.sum()).astype(np.float32))


def _logistic(
    features: Array, labels: NDArray[np.int64], strength: float, weights: NDArray[np.floating]
) -> tuple[Array, Array]:
    """Weights (d, k) and offsets (k,) for the k labels there are, in order."""
    with warnings.catch_warnings():
        # The last digits of a penalised fit are not worth more rounds.
        warnings.simplefilter("ignore", ConvergenceWarning)
        fitted = LogisticRegression(C=strength, max_iter=200, tol=1e-3).fit(features, labels, sample_weight=weights)
    slopes, offset = fitted.coef_.T, fitted.intercept_
    if slopes.shape[1] == 1:
        slopes, offset = np.hstack([-slopes / 2, slopes / 2]), np.concatenate([-offset / 2, offset / 2])
    return slopes.astype(np.float32), offset.astype(np.float32)


def _age(features: Array, wanted: Targets, penalty: float, scale: AgeScale) -> Linear:
    """Huber's regression (1964), by reweighted ridge regressions: what is far off counts by its distance, not by its square."""
    known = wanted.age_known > 0
    x, years = features[known], (wanted.age[known] - scale.centre) / scale.spread
    ridge, weights = Ridge(penalty * len(years) / 1000), np.ones(len(years))
    for _ in range(ROUNDS):
        wrong = np.abs(years - ridge.fit(x, years, sample_weight=weights).predict(x))
        weights = np.minimum(1.0, TURN / np.maximum(wrong, 1e-6))
    return Linear(ridge.coef_[:, None].astype(np.float32), np.array([ridge.intercept_], np.float32))


def _diagnosis_loss(balance: float) -> Loss:
    def loss(head: Linear, features: Array, wanted: Targets) -> float:
        weights = class_weights(wanted, balance)[wanted.diagnosis.argmax(axis=1)]
        return calibration.least_loss(head(features), wanted.diagnosis, weights)

    return loss


def _sex_loss(head: Linear, features: Array, wanted: Targets) -> float:
    known = wanted.sex[:, 2] == 0
    if not known.any():
        return 0.0
    return calibration.least_loss(head(features[known]), wanted.sex[known, :2], np.ones(int(known.sum())))


def _sex_known_loss(head: Linear, features: Array, wanted: Targets) -> float:
    probability = expit(head(features)[:, 0].astype(float))
    return float(
        log_loss(wanted.sex[:, 2] == 0, np.stack([1 - probability, probability], axis=1), labels=(False, True))
    )


def _age_loss(head: Linear, features: Array, wanted: Targets, scale: AgeScale) -> float:
    known = wanted.age_known > 0
    if not known.any():
        return 0.0
    years = head(features[known])[:, 0] * scale.spread + scale.centre
    return float(mean_absolute_error(wanted.age[known], years))
