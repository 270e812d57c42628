"""Whether a head's probabilities can be believed: of the answers given with 80 %, are four in five right?

Answers are sorted into fifteen bins of equal width by the probability of the answer given (Guo et al., 2017). Few images to a bin
make the expected calibration error look larger than it is: compare it only between networks on the same holdout.
"""

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

BINS = 15


@dataclass(frozen=True, slots=True)
class Bins:
    """The bins that hold any answer, lowest first, as arrays (b,): count, mean probability and share that is right."""

    count: NDArray[np.int64]
    confidence: NDArray[np.float64]
    accuracy: NDArray[np.float64]


def binned(probabilities: NDArray[np.floating], truth: NDArray[np.integer]) -> Bins:
    """The bins of `probabilities` (n, k), rows summing to 1, against the true places `truth` (n,)."""
    confidence = probabilities.max(axis=1).astype(float)
    right = probabilities.argmax(axis=1) == truth
    # A bin holds its upper bound and not its lower one.
    place = np.searchsorted(np.linspace(0, 1, BINS + 1)[1:-1], confidence)
    count, sums, hits = (np.bincount(place, weights, BINS) for weights in (None, confidence, right))
    held = count > 0
    return Bins(count[held], sums[held] / count[held], hits[held] / count[held])


def expected_error(bins: Bins) -> float:
    """The expected calibration error: how far confidence is from accuracy, on average over the answers; 0 to 1."""
    return float(np.average(np.abs(bins.confidence - bins.accuracy), weights=bins.count))
