"""An evaluation: candidate, champion and trivial reader on one holdout, whole and in slices, with what chance leaves open.

All are scored by the same code on the same images, and what one is above another is drawn from the same redrawn lesions.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dermanet.judging import metrics
from dermanet.judging.intervals import DRAWS, Draws, Intervals, apart, lesion_weights, percentiles, redrawn
from dermanet.judging.metrics import Figures
from dermanet.judging.mistakes import malignant_codes
from dermanet.judging.slices import Slice
from dermanet.records import Answers, Record
from dermanet.taxonomy import Taxonomy


@dataclass(frozen=True, slots=True)
class Answered:
    """What each answered for the same n images, in the same order; `champion` None: there is none, or none to compare with."""

    candidate: Answers
    baseline: Answers
    champion: Answers | None = None


@dataclass(frozen=True, slots=True)
class Scores:
    """Figures on some images, and of how many; `over_…`: 95 % intervals of the candidate's figure less the other's."""

    support: dict[str, int]
    candidate: Figures
    intervals: Intervals
    baseline: Figures
    over_baseline: Intervals
    champion: Figures | None = None
    over_champion: Intervals | None = None

    def as_dict(self) -> dict[str, Any]:
        """The scores as plain JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Sliced:
    """The scores of one slice."""

    axis: str
    value: str
    scores: Scores


@dataclass(frozen=True, slots=True)
class Evaluation:
    """The scores of the whole holdout, and of its slices."""

    whole: Scores
    slices: tuple[Sliced, ...] = ()

    def as_dict(self) -> dict[str, Any]:
        """The evaluation as plain JSON: the whole's scores by name, and a list of slices."""
        sliced = [{"axis": one.axis, "value": one.value, **one.scores.as_dict()} for one in self.slices]
        return {**self.whole.as_dict(), "slices": sliced}


def from_dict(record: Mapping[str, Any]) -> Evaluation:
    """The evaluation that `as_dict` wrote, whatever else stands beside it."""
    sliced = tuple(Sliced(one["axis"], one["value"], _scores(one)) for one in record.get("slices", ()))
    return Evaluation(_scores(record), sliced)


def evaluated(
    records: Sequence[Record], answered: Answered, taxonomy: Taxonomy, parts: Sequence[Slice] = (), draws: int = DRAWS, seed: int = 0
) -> Evaluation:  # fmt: skip
    """Scores everyone on `records` and on each of its `parts`. The whole has figures of rankings with intervals, parts without."""
    weights = lesion_weights([record.labels.lesion_id for record in records], draws, seed)
    whole = _scored(records, answered, taxonomy, weights, ranked=True)
    sliced = [Sliced(part.axis, part.value, _part(records, answered, taxonomy, weights, part.rows)) for part in parts]
    return Evaluation(whole, tuple(sliced))


def _part(
    records: Sequence[Record], answered: Answered, taxonomy: Taxonomy, weights: NDArray[np.float64], rows: NDArray[np.bool_]
) -> Scores:  # fmt: skip
    chosen = [record for record, held in zip(records, rows, strict=True) if held]
    champion = answered.champion and _rows(answered.champion, rows)
    some = Answered(_rows(answered.candidate, rows), _rows(answered.baseline, rows), champion)
    # The same draws as the whole's, of which a lesion may be left out: a slice's size is chance, too.
    return _scored(chosen, some, taxonomy, weights[:, rows], ranked=False)


def _scored(
    records: Sequence[Record], answered: Answered, taxonomy: Taxonomy, weights: NDArray[np.float64], ranked: bool
) -> Scores:
    malignant = malignant_codes(taxonomy)

    def told(answers: Answers) -> tuple[Figures, Draws]:
        return (
            metrics.figures(records, answers, taxonomy.codes, malignant),
            redrawn(records, answers, taxonomy.codes, weights, ranked, malignant) if records else {},
        )

    (candidate, own), (baseline, trivial) = told(answered.candidate), told(answered.baseline)
    support = metrics.support(records)
    scores = (support, candidate, percentiles(own), baseline, percentiles(apart(own, trivial)))
    if answered.champion is None:
        return Scores(*scores)
    champion, other = told(answered.champion)
    return Scores(*scores, champion, percentiles(apart(own, other)))


def _rows(answers: Answers, rows: NDArray[np.bool_]) -> Answers:
    return Answers(answers.age[rows], answers.sex[rows], answers.diagnosis[rows])


def _scores(record: Mapping[str, Any]) -> Scores:
    def ends(name: str) -> Intervals:
        return {figure: (low, high) for figure, (low, high) in (record.get(name) or {}).items()}

    return Scores(
        record["support"], record["candidate"], ends("intervals"), record["baseline"], ends("over_baseline"),
        record["champion"], None if record["champion"] is None else ends("over_champion"),
    )  # fmt: skip
