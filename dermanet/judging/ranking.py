"""How well scores put positives before negatives, in every draw of a bootstrap at once: a draw is a weight an image.

With weights of 1 these are scikit-learn's `roc_auc_score`, and the highest sensitivity of its `roc_curve` at a specificity.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float32]


@dataclass(frozen=True, slots=True)
class Ranking:
    """Weights of positives and negatives (g, draws) at each of the g different scores, highest score first."""

    positives: Array
    negatives: Array

    def area(self) -> NDArray[np.float64]:
        """The area under the ROC curve (draws,): how often a positive is before a negative, ties counted half; NaN without either."""
        behind = self.negatives.sum(axis=0) - np.cumsum(self.negatives, axis=0) + self.negatives / 2
        return _ratio((self.positives * behind).sum(axis=0), self.positives.sum(axis=0) * self.negatives.sum(axis=0))

    def sensitivity(self, specificity: float) -> NDArray[np.float64]:
        """The share of positives (draws,) found with at least `specificity` (0 to 1) of negatives left alone; NaN without either."""
        others = self.negatives.sum(axis=0, dtype=np.float64)
        within = np.cumsum(self.negatives, axis=0) <= (1 - specificity) * others + 1e-6
        found = _ratio((self.positives * within).sum(axis=0), self.positives.sum(axis=0))
        return np.where(others > 0, found, np.nan)


def ranking(scores: NDArray[np.floating], positive: NDArray[np.bool_], weights: NDArray[np.floating]) -> Ranking:
    """The ranking of n images by `scores` (n,), in draws of `weights` (draws, n)."""
    order = np.argsort(-scores, kind="stable")
    first = np.flatnonzero(np.r_[True, np.diff(scores[order]) != 0])
    # A row an image: what is added up then lies side by side.
    ranked = np.ascontiguousarray(weights.T[order], np.float32)
    told = positive[order, None]
    return Ranking(np.add.reduceat(ranked * told, first, axis=0), np.add.reduceat(ranked * ~told, first, axis=0))


def _ratio(above: Array, below: Array) -> NDArray[np.float64]:
    return np.divide(above, below, out=np.full(len(above), np.nan), where=below > 0, dtype=np.float64)
