"""How sure a figure is: 95 % intervals by bootstrap over lesions (Efron & Tibshirani, 1993, ch. 13, percentile method).

Lesions are drawn, not images: two photographs of one lesion are one patient's fate, and drawing them apart would promise more
certainty than there is. A draw is a weight an image, so that every figure of a thousand draws is a few matrix products.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from dermanet.judging.metrics import SPECIFICITIES, male_share, sensitivity_name
from dermanet.judging.ranking import ranking
from dermanet.records import SEXES, Answers, Record

Intervals = dict[str, tuple[float, float]]
Draws = dict[str, NDArray[np.float64]]
"""Figures by name, each in every draw (draws,); NaN where a draw could not give it."""

DRAWS = 1000


def intervals(
    records: Sequence[Record], answers: Answers, codes: Sequence[str], draws: int = DRAWS, seed: int = 0,
    malignant: Sequence[str] = (),
) -> Intervals:  # fmt: skip
    """The 2.5th and 97.5th percentile of each main figure over `draws` redrawn sets of lesions; names as in `metrics`.

    A figure that no draw could give is left out; without records there is none at all.
    """
    if not records:
        return {}
    weights = lesion_weights(_lesions(records), draws, seed)
    return percentiles(redrawn(records, answers, codes, weights, malignant=malignant))


def differences(
    records: Sequence[Record], answers: Answers, others: Answers, codes: Sequence[str], draws: int = DRAWS, seed: int = 0
) -> Intervals:  # fmt: skip
    """The same of each figure of `answers` less that of `others`, both on the same redrawn lesions: a paired bootstrap.

    What both find hard moves both alike and falls out, so that a difference is told from chance much sooner than by two intervals.
    """
    if not records:
        return {}
    weights = lesion_weights(_lesions(records), draws, seed)
    one, other = (redrawn(records, given, codes, weights) for given in (answers, others))
    return percentiles(apart(one, other))


def apart(one: Draws, other: Draws) -> Draws:
    """How far one's figures are above the other's, draw by draw."""
    return {name: values - other[name] for name, values in one.items() if name in other}


def percentiles(draws: Draws) -> Intervals:
    """The 2.5th and 97.5th percentile of each figure that some draw could give."""
    found = {name: values[np.isfinite(values)] for name, values in draws.items()}
    return {name: _percentiles(values) for name, values in found.items() if len(values)}


def redrawn(
    records: Sequence[Record], answers: Answers, codes: Sequence[str], weights: NDArray[np.float64],
    ranked: bool = True, malignant: Sequence[str] = (),
) -> Draws:  # fmt: skip
    """Each main figure in each draw of `weights` (draws, n). `ranked`: those of rankings too, which cost as much as all others.

    `malignant`: whose sensitivities at fixed specificities are wanted.
    """
    sexes = _tables(
        [SEXES.index(record.labels.sex) for record in records], answers.sex.argmax(axis=1), len(SEXES), weights
    )
    truth = [codes.index(record.labels.diagnosis) for record in records]
    diagnoses = _tables(truth, answers.diagnosis.argmax(axis=1), len(codes), weights)
    found = {
        "age_mae": _age_errors(records, answers, weights),
        "sex_accuracy": _accuracy(sexes),
        "sex_f1": _weighted_f1(sexes),
        "diagnosis_accuracy": _accuracy(diagnoses),
        "diagnosis_balanced_accuracy": _mean_over(diagnoses.sum(axis=2) > 0, _recall(diagnoses)),
        "diagnosis_f1_weighted": _weighted_f1(diagnoses),
        "diagnosis_f1_macro": _mean_over(diagnoses.sum(axis=1) + diagnoses.sum(axis=2) > 0, _f1(diagnoses)),
    }
    # As in `metrics`: a diagnosis has no figure in a draw without it, however often it is said; where it is never said, it has 0.
    there = diagnoses.sum(axis=2) > 0
    each = {"recall": _recall(diagnoses), "precision": _precision(diagnoses), "f1": _f1(diagnoses)}
    for name, values in each.items():
        own = np.where(there, np.nan_to_num(values), np.nan)
        found |= {f"diagnosis_{name}_{code}": own[:, place] for place, code in enumerate(codes) if place in truth}
    return found | (_rankings(records, answers, codes, weights, malignant) if ranked else {})


def _rankings(
    records: Sequence[Record], answers: Answers, codes: Sequence[str], weights: NDArray[np.float64],
    malignant: Sequence[str],
) -> Draws:  # fmt: skip
    found = {}
    truth = np.array([record.labels.diagnosis for record in records])
    for place, code in enumerate(codes):
        positive = truth == code
        if positive.any() and not positive.all():
            ranks = ranking(answers.diagnosis[:, place], positive, weights)
            found[f"diagnosis_auc_{code}"] = ranks.area()
            for specificity in SPECIFICITIES if code in malignant else ():
                found[sensitivity_name(code, specificity)] = ranks.sensitivity(specificity)
    sexes = np.array([record.labels.sex for record in records])
    known = sexes != "unknown"
    if len(set(sexes[known])) == 2:
        found["sex_auc"] = ranking(male_share(answers)[known], sexes[known] == "male", weights[:, known]).area()
    return found


def _lesions(records: Sequence[Record]) -> list[str]:
    return [record.labels.lesion_id for record in records]


def lesion_weights(lesions: Sequence[str], draws: int, seed: int) -> NDArray[np.float64]:
    """How often each image counts in each draw: (draws, n); each draw takes as many lesions as there are, with replacement."""
    if not lesions:
        return np.zeros((draws, 0))
    names, place = np.unique(list(lesions), return_inverse=True)
    drawn = np.random.default_rng(seed).multinomial(len(names), np.full(len(names), 1 / len(names)), size=draws)
    return drawn[:, place].astype(np.float64)


def _tables(
    truth: Sequence[int], answered: NDArray[np.intp], width: int, weights: NDArray[np.float64]
) -> NDArray[np.float64]:
    """Weighted confusion matrices (draws, width, width): truth by rows, answers by columns."""
    cells = np.eye(width * width)[np.asarray(truth) * width + answered]
    return np.asarray((weights @ cells).reshape(-1, width, width))


def _accuracy(tables: NDArray[np.float64]) -> NDArray[np.float64]:
    return _ratio(np.trace(tables, axis1=1, axis2=2), tables.sum(axis=(1, 2)))


def _recall(tables: NDArray[np.float64]) -> NDArray[np.float64]:
    return _ratio(np.diagonal(tables, axis1=1, axis2=2), tables.sum(axis=2))


def _precision(tables: NDArray[np.float64]) -> NDArray[np.float64]:
    return _ratio(np.diagonal(tables, axis1=1, axis2=2), tables.sum(axis=1))


def _f1(tables: NDArray[np.float64]) -> NDArray[np.float64]:
    hits = np.diagonal(tables, axis1=1, axis2=2)
    return _ratio(2 * hits, tables.sum(axis=1) + tables.sum(axis=2))


def _weighted_f1(tables: NDArray[np.float64]) -> NDArray[np.float64]:
    support = tables.sum(axis=2)
    return _ratio((np.nan_to_num(_f1(tables)) * support).sum(axis=1), support.sum(axis=1))


def _mean_over(counted: NDArray[np.bool_], values: NDArray[np.float64]) -> NDArray[np.float64]:
    return _ratio(np.where(counted, np.nan_to_num(values), 0).sum(axis=1), counted.sum(axis=1).astype(float))


def _age_errors(records: Sequence[Record], answers: Answers, weights: NDArray[np.float64]) -> NDArray[np.float64]:
    known = np.array([record.labels.age is not None for record in records], np.float64)
    truth = np.array([record.labels.age or 0.0 for record in records])
    return _ratio(weights @ (np.abs(answers.age - truth) * known), weights @ known)


def _ratio(above: NDArray[np.float64], below: NDArray[np.float64]) -> NDArray[np.float64]:
    return np.divide(above, below, out=np.full_like(above, np.nan), where=below > 0)


def _percentiles(values: NDArray[np.float64]) -> tuple[float, float]:
    low, high = np.percentile(values, [2.5, 97.5])
    return float(low), float(high)
