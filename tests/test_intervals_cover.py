"""Intervals of every kind of figure, and of differences, hold the truth in about 95 of 100 samples drawn from a made-up population.

A lesion has two to four images that are answered much alike, so that whoever drew images instead of lesions would promise too much.
"""

from collections import defaultdict
from functools import cache

import numpy as np
import samples
from numpy.typing import NDArray
from scipy.stats import binom

from dermanet import taxonomy
from dermanet.judging import metrics
from dermanet.judging.intervals import Intervals, apart, lesion_weights, percentiles, redrawn
from dermanet.records import SEXES, Answers, Record

LIST = taxonomy.parse([{"code": "mel", "malignant": True}, {"code": "nv"}, {"code": "bkl"}], "of this test")
SHARES = (0.3, 0.4, 0.3)
LESIONS, SAMPLES, DRAWS = 140, 200, 200
POPULATION = 25_000
"""Lesions of which the truth is taken: its own error is a thirteenth of a sample's."""

RATES = (0.92, 0.97)
"""What percentiles of a bootstrap over 140 lesions really reach where 95 % are promised: they are exact only in the limit."""

LUCK = 1e-4
"""The chance with which a count of samples may lie beyond what those rates give, by the binomial law."""


def population(lesions: int, seed: int) -> tuple[list[Record], Answers, Answers]:
    """Images of so many lesions, what a candidate answers, and what a somewhat better champion does: they mostly err together."""
    rng = np.random.default_rng([seed, 7])
    of = np.repeat(np.arange(lesions), rng.integers(2, 5, lesions))
    truth, sexes = rng.choice(3, lesions, p=SHARES), rng.choice(3, lesions, p=(0.5, 0.45, 0.05))
    ages = np.where(rng.random(lesions) < 0.1, np.nan, rng.integers(4, 17, lesions) * 5.0)
    records = [
        samples.record(
            n, lesion_id=f"L{lesion}", diagnosis=LIST.codes[truth[lesion]], sex=SEXES[sexes[lesion]],
            age=None if np.isnan(ages[lesion]) else float(ages[lesion]), localization=("back", "face")[lesion % 2],
        )
        for n, lesion in enumerate(of.tolist())
    ]  # fmt: skip
    hard = {name: rng.normal(0, 1, (lesions, width)) for name, width in (("diagnosis", 3), ("sex", 3), ("age", 1))}

    def answers(skill: float) -> Answers:
        def seen(name: str) -> NDArray[np.float64]:
            own, now = (rng.normal(0, 1, shape) for shape in (hard[name].shape, (len(of), hard[name].shape[1])))
            return np.asarray((0.8 * hard[name] + 0.5 * own)[of] + 0.3 * now)

        diagnosis, sex = (
            np.exp(skill * np.eye(3)[right[of]] + seen(name)) for name, right in (("diagnosis", truth), ("sex", sexes))
        )
        years = np.where(np.isnan(ages), 50, ages)[of] * 0.7 + 15 + 40 / skill / 2 * seen("age")[:, 0]
        return Answers(
            years.astype(np.float32),
            *((odds / odds.sum(axis=1, keepdims=True)).astype(np.float32) for odds in (sex, diagnosis)),
        )

    return records, answers(1.6), answers(1.9)


TRAIN = population(100, 10**6)[0]
"""What the trivial reader has learned from: other lesions than any that are judged."""


@cache
def truths() -> dict[str, dict[str, float]]:
    """Every figure on the whole population, what it is above the champion's and the trivial reader's, and in the slice."""
    records, candidate, champion = population(POPULATION, 10**6 + 1)
    nobody = metrics.trivial_answers(TRAIN, len(records), LIST.codes)
    own, other, trivial = (
        metrics.figures(records, answers, LIST.codes, malignant=("mel",)) for answers in (candidate, champion, nobody)
    )
    above = {
        "over champion": {name: own[name] - other[name] for name in own},
        "over baseline": {name: own[name] - trivial[name] for name in own},
    }
    # Who lies in the slice is drawn by a coin, so that its truth is the whole's.
    return {"own": own, **above, "slice": own}


def intervals_of(seed: int, by: str = "lesion") -> dict[str, Intervals]:
    """Of one sample: the candidate's intervals, those of its differences, and those in a slice. `by`: what is drawn."""
    records, candidate, champion = population(LESIONS, seed)
    units = [record.labels.lesion_id if by == "lesion" else record.image_id for record in records]
    weights = lesion_weights(units, DRAWS, seed)
    nobody = metrics.trivial_answers(TRAIN, len(records), LIST.codes)
    own, other, trivial = (
        redrawn(records, answers, LIST.codes, weights, malignant=("mel",)) for answers in (candidate, champion, nobody)
    )
    rows = np.array([record.labels.localization == "face" for record in records])
    part = redrawn(
        [record for record, held in zip(records, rows, strict=True) if held],
        Answers(candidate.age[rows], candidate.sex[rows], candidate.diagnosis[rows]), LIST.codes, weights[:, rows], ranked=False,
    )  # fmt: skip
    drawn = {"own": own, "over champion": apart(own, other), "over baseline": apart(own, trivial), "slice": part}
    return {kind: percentiles(one) for kind, one in drawn.items()}


def covered(count: int, by: str = "lesion") -> dict[tuple[str, str], list[bool]]:
    """Whether each sample's interval holds the truth, by what it is of and the figure's name."""
    found = defaultdict(list)
    for seed in range(count):
        for kind, intervals in intervals_of(seed, by).items():
            for name, (low, high) in intervals.items():
                found[kind, name].append(low <= truths()[kind][name] <= high)
    return found


def test_intervals_of_every_figure_and_difference_hold_the_truth_at_about_their_rate() -> None:
    found = covered(SAMPLES)
    ranked = {f"diagnosis_auc_{code}" for code in LIST.codes} | {"sex_auc", "diagnosis_sensitivity_mel_at_90"}
    for kind in ("own", "over champion", "over baseline"):
        assert ranked | {"age_mae", "diagnosis_balanced_accuracy"} <= {name for which, name in found if which == kind}
    low, high = (int(binom.ppf(*ends)) for ends in ((LUCK, SAMPLES, RATES[0]), (1 - LUCK, SAMPLES, RATES[1])))
    # What the trivial reader never answers has no precision of his in any draw, and then no difference.
    whole = {name: sum(held) for name, held in found.items() if len(held) == SAMPLES}
    assert {name for name in found if name not in whole} <= {
        ("over baseline", f"diagnosis_precision_{c}") for c in LIST.codes
    }
    assert not {name: count for name, count in whole.items() if not low <= count <= high}
    for kind in ("own", "over champion", "over baseline", "slice"):
        rate = np.mean([count for (which, _), count in whole.items() if which == kind]) / SAMPLES
        assert RATES[0] <= rate <= RATES[1], kind


def test_drawing_images_instead_of_lesions_would_promise_too_much() -> None:
    """So that the test above would notice it."""
    found, count = covered(60, "image"), binom.ppf(LUCK, 60, RATES[0])
    own = {name: sum(held) for (kind, name), held in found.items() if kind == "own"}
    assert np.mean(list(own.values())) / 60 < 0.85 and sum(held < count for held in own.values()) > len(own) / 4, own
