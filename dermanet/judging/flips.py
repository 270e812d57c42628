"""What a candidate changes against the champion, image by image, the costliest for a patient first.

Two networks of the same accuracy may be right about different people: a figure hides whom a promotion would help, and whom harm.
"""

from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Literal

import numpy as np

from dermanet.judging.mistakes import cost, malignant_codes
from dermanet.records import Answers, Record
from dermanet.taxonomy import Taxonomy

Turn = Literal["worse", "better", "other"]


@dataclass(frozen=True, slots=True)
class Flip:
    """One image that two networks answer differently. `place`: of its record.

    `harm`: how much the candidate's answer costs more than the champion's, below 0 where less. `before`, `after`: the champion's and
    the candidate's answer, each with the probability that its network gave it; `truth_before`, `truth_after`: of the true diagnosis.
    """

    place: int
    truth: str
    before: str
    after: str
    harm: int
    probability_before: float
    probability_after: float
    truth_before: float
    truth_after: float

    @property
    def turn(self) -> Turn:
        """Whether the candidate's answer is `worse` for the patient, `better`, or just another."""
        return "worse" if self.harm > 0 else "better" if self.harm < 0 else "other"


def flips(records: Sequence[Record], candidate: Answers, champion: Answers, taxonomy: Taxonomy) -> list[Flip]:
    """Every image of which the two answer another diagnosis: the most harm first, then the surest answers."""
    codes, malignant = taxonomy.codes, malignant_codes(taxonomy)
    before, after = champion.diagnosis.argmax(axis=1), candidate.diagnosis.argmax(axis=1)
    found = []
    for place in np.flatnonzero(before != after).tolist():
        truth = records[place].labels.diagnosis
        true, old, new = codes.index(truth), int(before[place]), int(after[place])
        harm = cost(truth, codes[new], malignant) - cost(truth, codes[old], malignant)
        was, now = champion.diagnosis[place], candidate.diagnosis[place]
        chances = (float(was[old]), float(now[new]), float(was[true]), float(now[true]))
        found.append(Flip(place, truth, codes[old], codes[new], harm, *chances))
    return sorted(found, key=lambda flip: (-flip.harm, -flip.probability_after, flip.place))


@dataclass(frozen=True, slots=True)
class Totals:
    """How many of `images` turn out worse, better and otherwise; of malignant ones, how many are newly missed and newly found."""

    images: int
    worse: int
    better: int
    other: int
    newly_missed: int
    newly_found: int

    def as_dict(self) -> dict[str, int]:
        """The totals as plain JSON."""
        return asdict(self)

    def sentence(self) -> str:
        """The totals as a person reads them."""
        turned = self.worse + self.better + self.other
        return (
            f"{turned} of {self.images} images get another diagnosis than from the champion: {self.better} better, "
            f"{self.worse} worse, {self.other} neither; malignant images newly missed: {self.newly_missed}, "
            f"newly found: {self.newly_found}"
        )


def totals(found: Sequence[Flip], images: int, taxonomy: Taxonomy) -> Totals:
    """Counts `flips` on so many images."""
    malignant = malignant_codes(taxonomy)
    turns = Counter(flip.turn for flip in found)
    cancers = [flip for flip in found if flip.truth in malignant]
    missed = sum(flip.before in malignant and flip.after not in malignant for flip in cancers)
    seen = sum(flip.before not in malignant and flip.after in malignant for flip in cancers)
    return Totals(images, turns["worse"], turns["better"], turns["other"], missed, seen)
