"""When a model shall not be relied on: limits from images that the network did not learn from, each by a rule that is written here.

The rules hold whatever the answers are distributed like, as long as new images come as those did (conformal prediction: Vovk,
Gammerman & Shafer, 2005); images of one lesion are alike, so that they are worth somewhat fewer than their number.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy import stats
from sklearn.covariance import ledoit_wolf

from dermanet.imagequality import Quality
from dermanet.pixels.familiar import Familiarity, describe
from dermanet.pixels.prepared import PreparedPixels
from dermanet.records import Answers, Record

LEAST = 20
"""Images or ages below which no limit is set: one from a handful would be noise."""

MOST = 2000
"""Images of a side that are described: more would not move the limit."""

UNLIKE, UNSURE, OUTSIDE, ODD = 0.01, 0.1, 0.1, 0.01
"""The shares of images like those learned from that may be called unlike them, that are referred as unsure, whose age may lie
outside its interval, and whose light, contrast or detail is remarked on, on each side."""

FOLDS, BATCH = 5, 64


def familiarity(pixels: PreparedPixels, train: Sequence[Record], validation: Sequence[Record]) -> Familiarity | None:
    """What the training side is like, with the distance that one in a hundred such images exceeds; None below `LEAST` images.

    The distances are the validation side's, and those of each fifth of the training side's lesions from the other four: all of
    images that the measure was not fitted to, several times as many as validation has alone.
    """
    learned, others = _spread_evenly(train), _spread_evenly(validation)
    if len(learned) < LEAST:
        return None
    figures = _described(pixels, learned)
    found = likeness(figures)
    distances = np.concatenate([_apart(figures, learned), found.distance(_described(pixels, others))])
    return Familiarity(found.centre, found.spread, found.axes, exceeded_by(distances, UNLIKE))


def likeness(figures: NDArray[np.float32]) -> Familiarity:
    """Centre, spread and axes of descriptions (n, d); the covariance is shrunk as Ledoit & Wolf (2004) have it."""
    # What is the same in all images may differ by a hundredth without being remarkable.
    centre, spread = figures.mean(axis=0), np.maximum(figures.std(axis=0), 0.01)
    values, vectors = np.linalg.eigh(ledoit_wolf((figures - centre) / spread, assume_centered=True)[0])
    axes = vectors / np.sqrt(np.maximum(values, 1e-6))
    return Familiarity(*(part.astype(np.float32) for part in (centre, spread, axes)))


def exceeded_by(values: NDArray[np.float64], share: float) -> float:
    """The limit that at most `share` of new values exceed on average: one of the n `values`, by rank ceil((n + 1)(1 - share)).

    Where there are too few for that rank, the prediction limit for a normal distribution of their logarithms, and no less than
    the greatest of them. `values`: two or more.
    """
    ranked = np.sort(values)
    rank = math.ceil((len(ranked) + 1) * (1 - share))
    if rank <= len(ranked):
        return float(ranked[rank - 1])
    logarithms = np.log(np.maximum(ranked, 1e-9))
    factor = stats.t.ppf(1 - share, len(ranked) - 1) * math.sqrt(1 + 1 / len(ranked))
    return max(float(ranked[-1]), float(np.exp(logarithms.mean() + factor * logarithms.std(ddof=1))))


def least_certainty(diagnosis: NDArray[np.floating]) -> float:
    """The top probability below which a tenth of validation images lie, of calibrated probabilities (n, k); 0 below `LEAST` images."""
    if len(diagnosis) < LEAST:
        return 0.0
    rank = math.floor((len(diagnosis) + 1) * UNSURE)
    return float(np.sort(diagnosis.max(axis=1))[rank - 1])


def age_error(answers: Answers, records: Sequence[Record]) -> tuple[float, float] | None:
    """How many years below and above its answer nine of ten true ages lie at most; None where fewer than `LEAST` are known.

    Split conformal prediction (Lei et al., 2018) with signed residuals, each end by itself. An age of 0 is not taken for known, as in
    training.
    """
    known = [place for place, record in enumerate(records) if record.labels.age]
    if len(known) < LEAST:
        return None
    ages = [records[place].labels.age or 0.0 for place in known]
    beyond = np.sort(np.array(ages) - answers.age[known])
    rank = math.floor((len(beyond) + 1) * OUTSIDE / 2)
    return float(beyond[rank - 1]), float(beyond[-rank])


def usual(qualities: Sequence[Quality]) -> Mapping[str, tuple[float, float]]:
    """Between what brightness, contrast and detail of all but one in a hundred photographs lie, on each side; empty below `LEAST`."""
    if len(qualities) < LEAST:
        return {}
    measured = {name: [getattr(one, name) for one in qualities] for name in ("brightness", "contrast", "detail")}
    ends = {name: np.quantile(values, (ODD, 1 - ODD)) for name, values in measured.items()}
    return {name: (float(low), float(high)) for name, (low, high) in ends.items()}


def _apart(figures: NDArray[np.float32], records: Sequence[Record]) -> NDArray[np.float64]:
    """The distance of each training image from the training images of other lesions, by fifths of the lesions: (n,)."""
    lesions = np.unique([record.labels.lesion_id for record in records], return_inverse=True)[1]
    found = np.ones(len(figures))
    for fold in range(FOLDS):
        own = lesions % FOLDS == fold
        if own.any() and not own.all():
            found[own] = likeness(figures[~own]).distance(figures[own])
    return found


def _described(pixels: PreparedPixels, records: Sequence[Record]) -> NDArray[np.float32]:
    digests = [record.digest for record in records]
    return np.concatenate([describe(pixels.batch(digests[at : at + BATCH])) for at in range(0, len(digests), BATCH)])


def _spread_evenly(records: Sequence[Record]) -> list[Record]:
    places = np.linspace(0, len(records) - 1, min(MOST, len(records))).round().astype(int)
    return [records[place] for place in places]
