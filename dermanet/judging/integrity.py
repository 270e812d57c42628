"""Whether an evaluation may be believed: nothing that is judged by was learned from, and answers stand under their own names."""

from collections.abc import Collection, Sequence

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment
from scipy.stats import binomtest

from dermanet.judging.verdict import Check
from dermanet.records import SEXES, Answers, Record

CHANCE = 1e-3
"""The p-value from which on other names for the answers are no better by chance."""

MANY = {"diagnosis": 5, "sex": 1}
"""For one answer that another order of names would make wrong, more that it would make right than so many are too many."""

SAID = 0.05
"""Said less often than this for how often it is true, a name is one that the network does not know."""

SHOWN = 3
"""Of what is wrong, so many are named."""


def unseen(holdout: Sequence[Record], learned: Collection[Record]) -> Check:
    """No image, no lesion and no patient of the holdout is among the records that the candidate has learned from."""
    leaked = known_again(holdout, learned)
    # By digests: a verdict is kept in MLflow, in dossiers and in the ledger, where no id shall outlive that it is forgotten.
    some = ", ".join(f"{record.digest[:12]}…" for record in leaked[:SHOWN])
    reason = (
        f"{len(leaked)} of the holdout's {len(holdout)} images are of lesions or patients that the candidate has learned from "
        f"({some}); its figures are of what it remembers"
        if leaked
        else f"none of the holdout's {len(holdout)} images is of a lesion or a patient that the candidate has learned from"
    )
    return Check("leaked_images", "integrity", len(leaked), 0, "fail" if leaked else "pass", reason, len(holdout))


def known_again(records: Sequence[Record], learned: Collection[Record]) -> list[Record]:
    """Those records whose image, lesion or, where it is recorded, patient is among what was learned from."""
    known = {name for record in learned for name in _names(record)}
    return [record for record in records if known & _names(record)]


def same_holdout(evaluated_on: str, holdout_digest: str, n: int) -> Check:
    """The evaluation is of the holdout that its snapshot has."""
    same = evaluated_on == holdout_digest
    reason = f"evaluated on the snapshot's holdout, {holdout_digest}"
    if not same:
        reason = f"evaluated on holdout {evaluated_on}, while the snapshot's is {holdout_digest}; run `dermanet evaluate` again"
    return Check("holdout", "integrity", None, None, "pass" if same else "fail", reason, n)


def labels_in_order(records: Sequence[Record], answers: Answers, codes: Sequence[str]) -> list[Check]:
    """No other order of names would put far more answers right than wrong: that is a list in another order, not a bad network."""
    diagnoses = np.array([codes.index(record.labels.diagnosis) for record in records], np.intp)
    sexes = np.array([SEXES.index(record.labels.sex) for record in records], np.intp)
    known = sexes < 2
    return [
        _in_order("diagnosis", diagnoses, answers.diagnosis.argmax(axis=1), codes, "the answers"),
        _in_order(
            "sex", sexes[known], answers.sex[known, :2].argmax(axis=1), SEXES[:2],
            "the answers between male and female, where the sex is known,",
        ),
    ]  # fmt: skip


def _in_order(
    head: str, truth: NDArray[np.intp], answered: NDArray[np.intp], names: Sequence[str], counted: str
) -> Check:
    counts = np.zeros((len(names), len(names)), np.int64)
    np.add.at(counts, (answered, truth), 1)
    meant = linear_sum_assignment(counts, maximize=True)[1]
    # Of a name that is hardly ever said, whatever else is said for it, nothing tells a list in another order from a network that does
    # not know it.
    unsaid = counts.sum(axis=1) < SAID * counts.sum(axis=0)
    meant = np.where(unsaid[meant], np.arange(len(names)), meant)
    right, would = answered == truth, meant[answered] == truth
    gained, lost = int(np.sum(would & ~right)), int(np.sum(right & ~would))
    by_chance = binomtest(gained, gained + lost, alternative="greater").pvalue if gained + lost else 1.0
    share, other = (float(hits.mean()) if len(truth) else 0.0 for hits in (right, would))
    moved = [one for one, other in enumerate(meant) if one != other and counts[one].any()]
    # The best of all orders is a little better by its choice alone, and a bad network takes one diagnosis for another now and then, or
    # has one answer for all: of a list in another order, two names at least are wrong.
    wrong = by_chance < CHANCE and gained > MANY[head] * lost and len(moved) > 1
    swapped = [f"{names[one]} as {names[meant[one]]}" for one in moved]
    reason = (
        f"{share:.0%} of {counted} are right, and {other:.0%} would be with their names in another order "
        f"({', '.join(swapped)}): the list of answers is in the wrong order"
        if wrong
        else f"{share:.0%} of {counted} are right, and no other order of their names fits much better"
    )
    return Check(f"{head}_order", "integrity", other, None, "fail" if wrong else "pass", reason, len(truth))


def _names(record: Record) -> set[tuple[str, str]]:
    found = {("image", record.digest), ("lesion", record.labels.lesion_id)}
    return found | ({("patient", record.labels.patient_id)} if record.labels.patient_id else set())
