"""Linear heads on the features of a frozen backbone, fitted by scikit-learn; their weights then stand in the network's layers.

Diagnosis: multinomial logistic regression. Sex: logistic regression of male against female on the images of which it is known,
and another of how likely it is to be on record at all. Age: Huber's regression on standardised years. The strength of each one's
ridge penalty is chosen on the validation side; then all are fitted once more, to both sides together.

Features are read a piece at a time: what is held of an image is its coordinates along a few hundred axes.
"""

import warnings
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray
from scipy.special import expit, softmax
from sklearn.exceptions import ConvergenceWarning
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import log_loss, mean_absolute_error
from threadpoolctl import threadpool_limits

from dermanet.errors import DermaNetError
from dermanet.experiment import Experiment
from dermanet.learning import calibration
from dermanet.learning import model as network
from dermanet.learning.dataset import Targets, class_weights
from dermanet.learning.model import AgeScale
from dermanet.learning.quiet import keras
from dermanet.records import Answers

STRENGTHS = (3e-4, 1e-3, 3e-3, 1e-2)
"""scikit-learn's C of the logistic regressions of a diagnosis that are tried."""

STRENGTHS_OF_SEX = (1e-4, 3e-4, 1e-3, 1e-2)
"""Those of the sex, of which skin shows little: with weak penalties alone its heads would learn noise."""

PENALTIES = (1000.0, 3000.0, 10_000.0, 30_000.0)
"""Those of the age, on a squared weight of standardised years on standardised features, for a thousand images."""

COMPONENTS = 512
"""Principal axes of the features that heads are fitted along: no figure changes with more, and they take a quarter of the time."""

LOOKED_AT = 2000
"""Images that the principal axes are taken from: of thousands more they would be no other, and their cost grows with the square."""

TURN = 0.5
"""Spreads from which on an error of age counts by its distance."""

ROUNDS = 6

DIAGNOSIS = "diagnosis"

PIECE = 1024
"""Rows of features that are held at once."""

Array = NDArray[np.float32]

one_thread = threadpool_limits.wrap(limits=1, user_api="blas")
"""Thousands of small products take half the time on one thread, and on two that share a core with others many times as long."""


class Features(Protocol):
    """Rows of features (n, d), read when they are asked for; a NumPy array is one, too."""

    def __len__(self) -> int: ...

    def __getitem__(self, rows: slice, /) -> Array:
        """Some rows, (k, d)."""
        ...


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

    def answers(self, features: Features, scale: AgeScale) -> Answers:
        """What a network with these heads answers for `features` (n, d)."""
        heads = (self.age, self.sex, self.sex_known, self.diagnosis)
        pieces = (standardised(rows, self.centre, self.spread) for rows in _pieces(features))
        found = [[head(rows) for head in heads] for rows in pieces]
        age, sex, known, diagnosis = (np.concatenate(part) for part in zip(*found, strict=True))
        known = expit(known)
        sex = np.concatenate([softmax(sex, axis=1) * known, 1 - known], axis=1)
        years = np.asarray(age[:, 0] * scale.spread + scale.centre, np.float32)
        return Answers(years, sex, softmax(diagnosis, axis=1))


@one_thread
def fit(
    experiment: Experiment, train: Features, train_targets: Targets, validation: Features, validation_targets: Targets,
    scale: AgeScale, passed_over: NDArray[np.bool_] | None = None,
) -> tuple[Heads, Heads]:  # fmt: skip
    """Features (n, d) of both sides. Returns the heads fitted to both, and those that saw the training side alone.

    The second are what the validation side may judge: figures and temperatures. `passed_over` (d,): features that the head of the
    diagnosis does not read; None: it reads all, as the others do. Raises DermaNetError where features tell no image from another.
    """
    sides, both_targets = (train, validation), joined(train_targets, validation_targets)
    centre, spread = moments(sides)
    axes, read = _axes(standardised(_spread_evenly(sides, LOOKED_AT), centre, spread), passed_over)
    if not all(axes[:, mine].shape[1] for mine in read):
        raise DermaNetError(
            f"all {len(train) + len(validation)} images have the same features: {experiment.backbones} tells nothing of them; "
            "take another backbone"
        )
    first, rest = (
        np.concatenate([standardised(rows, centre, spread) @ axes for rows in _pieces(features)]) for features in sides
    )
    together, alone, chosen = {}, {}, {}
    for head, (strengths, fitted, loss) in _ways(experiment, scale).items():
        mine = read[head == DIAGNOSIS]
        tried = [fitted(first[:, mine], train_targets, strength) for strength in strengths]
        place = int(np.argmin([loss(one, rest[:, mine], validation_targets) for one in tried]))
        chosen[head] = float(strengths[place])
        both = fitted(np.concatenate([first[:, mine], rest[:, mine]]), both_targets, strengths[place])
        together[head], alone[head] = both.back(axes[:, mine]), tried[place].back(axes[:, mine])
    return Heads(centre, spread, **together, chosen=chosen), Heads(centre, spread, **alone, chosen=chosen)


def standardised(rows: Array, centre: Array, spread: Array) -> Array:
    """Features (n, d) in spreads from their means (d,), at most `model.FARTHEST` either way."""
    return np.clip((rows - centre) / spread, -network.FARTHEST, network.FARTHEST)


def _axes(features: Array, passed_over: NDArray[np.bool_] | None) -> tuple[Array, tuple[slice, slice]]:
    """Axes (d, r) that heads are fitted along; which of them are all heads' but the diagnosis's, and which are its own."""
    found = principal(features)
    shared = slice(found.shape[1])
    if passed_over is None:
        return found, (shared, shared)
    # What is nowhere but 0 is on no axis.
    own = principal(np.where(passed_over, np.float32(0), features))
    return np.hstack([found, own]), (shared, slice(found.shape[1], None))


def _pieces(features: Features) -> Iterator[Array]:
    return (features[start : start + PIECE] for start in range(0, len(features), PIECE))


def moments(sides: Sequence[Features]) -> tuple[Array, Array]:
    """Mean and standard deviation (d,) of the rows of all sides; a deviation of 1 where a feature is the same for all."""
    count, total, squares = 0, np.zeros(1), np.zeros(1)
    for rows in (rows for side in sides for rows in _pieces(side)):
        count += len(rows)
        total = total + rows.sum(axis=0, dtype=float)
        squares = squares + np.square(rows, dtype=float).sum(axis=0)
    spread = np.sqrt(np.maximum(squares / count - (total / count) ** 2, 0.0))
    return (total / count).astype(np.float32), np.where(spread > 1e-6, spread, 1.0).astype(np.float32)


def _spread_evenly(sides: Sequence[Features], most: int) -> Array:
    """At most `most` rows, evenly taken from the sides one behind the other."""
    count = sum(map(len, sides))
    places = np.linspace(0, count - 1, min(most, count)).round().astype(int)
    found, before = [], 0
    for rows in (rows for side in sides for rows in _pieces(side)):
        found.append(rows[places[(places >= before) & (places < before + len(rows))] - before])
        before += len(rows)
    return np.concatenate(found)


def joined(first: Targets, second: Targets) -> Targets:
    """The labels of two sides, one behind the other."""
    pairs = ((getattr(first, name), getattr(second, name)) for name in ("age", "age_known", "sex", "diagnosis"))
    return Targets(*(np.concatenate(pair) for pair in pairs))


def principal(features: Array, most: int = COMPONENTS) -> Array:
    """The `most` strongest principal axes (d, r) of centred `features` (n, d).

    A ridge penalty does not see a rotation, and what it leaves of the weak axes is next to nothing.
    """
    count, width = features.shape
    values, vectors = np.linalg.eigh(features @ features.T if count < width else features.T @ features)
    held = np.flatnonzero(values > values[-1] * 1e-7)[-most:]
    axes = vectors[:, held]
    return features.T @ (axes / np.sqrt(values[held])) if count < width else axes


Fit = Callable[[Array, Targets, float], Linear]
Loss = Callable[[Linear, Array, Targets], float]


def _ways(experiment: Experiment, scale: AgeScale) -> dict[str, tuple[Sequence[float], Fit, Loss]]:
    """For each head the penalties that are tried, how it is fitted, and what is to be small on the validation side."""
    return {
        DIAGNOSIS: (STRENGTHS, lambda x, y, c: _diagnosis(x, y, c, experiment.balance), _diagnosis_loss),
        "sex": (STRENGTHS_OF_SEX, _sex, _sex_loss),
        "sex_known": (STRENGTHS_OF_SEX, _sex_known, _sex_known_loss),
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


def _diagnosis_loss(head: Linear, features: Array, wanted: Targets) -> float:
    # Every image counts alike, however diagnoses were weighted in the fit: by their weights the strongest penalty of all would win,
    # whose answers are the worse by every figure but that loss (docs/results.md).
    return calibration.least_loss(head(features), wanted.diagnosis, np.ones(len(wanted.diagnosis)))


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
