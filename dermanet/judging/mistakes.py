"""What a wrong diagnosis costs a patient, and a network's worst mistakes by it."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import numpy as np

from dermanet.records import Answers, Record
from dermanet.taxonomy import Taxonomy

MELANOMA = "mel"
MISSED_MELANOMA, MISSED, ANOTHER_MALIGNANT, ALARM, ANOTHER_BENIGN = 10, 8, 3, 2, 1
"""What a wrong answer costs: a melanoma or another malignant lesion called benign, a malignant one called another malignant one, a
benign one called malignant (an excision for nothing), a benign one called another benign one. Only their order matters here."""


@dataclass(frozen=True, slots=True)
class Mistake:
    """One wrong answer. `place`: of its record; `sure`: the probability that was given to it, `truth_sure`: to the true diagnosis."""

    place: int
    truth: str
    said: str
    cost: int
    sure: float
    truth_sure: float


def malignant_codes(taxonomy: Taxonomy) -> tuple[str, ...]:
    """The diagnoses that are malignant, in the list's order."""
    return tuple(diagnosis.code for diagnosis in taxonomy.diagnoses if diagnosis.malignant)


def cost(truth: str, said: str, malignant: Collection[str]) -> int:
    """What it costs to say `said` of a lesion that is `truth`; 0 where that is right."""
    if truth == said:
        return 0
    if truth in malignant:
        missed = MISSED_MELANOMA if truth == MELANOMA else MISSED
        return ANOTHER_MALIGNANT if said in malignant else missed
    return ALARM if said in malignant else ANOTHER_BENIGN


def worst(records: Sequence[Record], answers: Answers, taxonomy: Taxonomy, most: int) -> list[Mistake]:
    """At most so many mistakes: the costliest first, and of those the surest; of a lesion one alone."""
    codes, malignant = taxonomy.codes, malignant_codes(taxonomy)
    said = answers.diagnosis.argmax(axis=1)
    truth = np.array([codes.index(record.labels.diagnosis) for record in records], np.intp)
    found = [
        Mistake(
            place, codes[truth[place]], codes[said[place]], cost(codes[truth[place]], codes[said[place]], malignant),
            float(answers.diagnosis[place, said[place]]), float(answers.diagnosis[place, truth[place]]),
        )
        for place in np.flatnonzero(said != truth).tolist()
    ]  # fmt: skip
    ranked = sorted(found, key=lambda one: (-one.cost, -one.sure, one.place))
    first: dict[str, Mistake] = {}
    for mistake in ranked:
        first.setdefault(records[mistake.place].labels.lesion_id, mistake)
    return list(first.values())[:most]
