"""Figures for answers that came another way than by `fit`, and one loss for networks that were trained by different ones."""

import numpy as np

from dermanet.experiment import Experiment
from dermanet.learning.dataset import Targets
from dermanet.learning.model import AgeScale
from dermanet.records import Answers

LEAST = 1e-7
"""Probabilities below it count as this."""


def loss(answers: Answers, wanted: Targets, taught: Targets, scale: AgeScale, weights: Experiment) -> float:
    """Absolute error of the known ages in spreads, plus the cross-entropies of sex and diagnosis, weighted by `weights`.

    `answers` and `wanted` (n rows each, same order). Neither smoothing nor class weights of a training change it. A diagnosis that
    is not among those `taught` does not count, as in training: what a network says of it is chance.
    """
    known = wanted.age_known > 0
    error = float(np.abs(answers.age - wanted.age)[known].mean()) if known.any() else 0.0
    rows = (wanted.diagnosis @ taught.diagnosis.max(axis=0)) > 0
    sex, diagnosis = _entropy(wanted.sex, answers.sex), _entropy(wanted.diagnosis[rows], answers.diagnosis[rows])
    return weights.age_weight * error / scale.spread + weights.sex_weight * sex + weights.diagnosis_weight * diagnosis


def figures(
    answers: Answers, wanted: Targets, taught: Targets, scale: AgeScale, weights: Experiment, prefix: str = ""
) -> dict[str, float]:
    """What Keras's `fit` would say of a side: `loss`, `age_mae`, `sex_accuracy`, `diagnosis_accuracy`, after `prefix`.

    Without a known age there is no `age_mae`.
    """
    known = wanted.age_known > 0
    found = {"loss": loss(answers, wanted, taught, scale, weights)}
    if known.any():
        found["age_mae"] = float(np.abs(answers.age - wanted.age)[known].mean())
    for head in ("sex", "diagnosis"):
        truth, given = getattr(wanted, head), getattr(answers, head)
        found[f"{head}_accuracy"] = float((truth.argmax(axis=1) == given.argmax(axis=1)).mean())
    return {f"{prefix}{name}": value for name, value in found.items()}


def _entropy(truth: np.ndarray, given: np.ndarray) -> float:
    return float(-np.log(np.maximum((truth * given).sum(axis=1), LEAST)).mean()) if len(truth) else 0.0
