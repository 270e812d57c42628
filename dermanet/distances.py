"""How far two mixes or two distributions lie apart, and how likely chance alone would put them there. Pure functions.

Images of one lesion are no independent witnesses, so chance is reckoned as if there were only as many images as lesions. Where the
newer table contains the earlier one, chance is overstated, which errs towards silence; for what came anew there is the other scope.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Spread = Sequence[tuple[float, int]]
"""(value, how many), by value."""


@dataclass(frozen=True, slots=True)
class Distance:
    """A distance, 0 to 1, and the probability of one as large between two samples of the same thing."""

    value: float
    chance: float


def between_mixes(before: Mapping[str, int], now: Mapping[str, int]) -> float:
    """Total variation distance: the share of images that would have to change their word. 0 to 1."""
    return float(sum(abs(change) for change in changes(before, now).values()) / 2)


def changes(before: Mapping[str, int], now: Mapping[str, int]) -> dict[str, float]:
    """How the share of each word changed, -1 to 1. Neither mix may be empty."""
    earlier, later = sum(before.values()), sum(now.values())
    words = sorted({*before, *now})
    return {word: now.get(word, 0) / later - before.get(word, 0) / earlier for word in words}


def chance_of_mixes(before: Mapping[str, int], now: Mapping[str, int], weights: tuple[float, float]) -> float:
    """The p-value of the chi-square test of two mixes, each one's counts weighed (lesions an image, at most 1).

    Where words are rare, the statistic varies more than its distribution: as much as it does (Dawson, 1954), that is made wider.
    """
    from scipy.stats import chi2
    from scipy.stats.contingency import expected_freq

    words = [word for word in sorted({*before, *now}) if before.get(word, 0) + now.get(word, 0)]
    if len(words) < 2:
        return 1.0
    counts = np.array(
        [[mix.get(word, 0) * weight for word in words] for mix, weight in zip((before, now), weights, strict=True)]
    )
    expected, wider = expected_freq(counts), _wider(counts)
    statistic = float((np.square(counts - expected) / expected).sum())
    return float(chi2.sf(statistic / wider, (len(words) - 1) / wider))


def _wider(counts: NDArray[np.float64]) -> float:
    """The exact variance of the chi-square statistic of two rows, as a multiple of the usual one; at least 1."""
    total, words = counts.sum(), counts.shape[1]
    if total <= 3:
        return 1.0
    rows = (total * (1 / counts.sum(axis=1)).sum() - 4) / (total - 2)
    columns = (total * (1 / counts.sum(axis=0)).sum() - words**2) / (total - 2)
    free = (total - 2) / (total - 1) - rows, (total - words) * (words - 1) / (total - 1) - columns
    variance = 2 * total / (total - 3) * free[0] * free[1] + total**2 / (total - 1) * rows * columns
    return max(1.0, float(variance) / (2 * (words - 1)))


def between_spreads(before: Spread, now: Spread, weights: tuple[float, float] = (1, 1)) -> Distance:
    """Kolmogorov and Smirnov's distance: the largest gap between the two shares of images below any value."""
    return _with_chance(float(np.abs(_gaps(before, now)).max()), before, now, weights)


def fall(before: Spread, now: Spread, weights: tuple[float, float] = (1, 1)) -> Distance:
    """The same, but only as far as values have become smaller."""
    return _with_chance(max(0.0, float(_gaps(before, now).max())), before, now, weights)


def _gaps(before: Spread, now: Spread) -> NDArray[np.float64]:
    """For every value the share of images not above it now, less that before."""
    values = np.unique([value for value, _ in (*before, *now)])
    below = []
    for spread in (before, now):
        own, counts = np.array(spread, float).T
        below.append(np.concatenate([[0], np.cumsum(counts) / counts.sum()])[np.searchsorted(own, values, "right")])
    return np.asarray(below[1] - below[0], np.float64)


def _with_chance(value: float, before: Spread, now: Spread, weights: tuple[float, float]) -> Distance:
    from scipy.stats import kstwo

    sizes = [
        max(1.0, sum(count for _, count in spread) * weight)
        for spread, weight in zip((before, now), weights, strict=True)
    ]
    return Distance(value, float(kstwo.sf(value, max(1, round(sizes[0] * sizes[1] / sum(sizes))))))
