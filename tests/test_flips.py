"""Flips: who is answered otherwise, the missed melanoma first, and totals that add up."""

import numpy as np
import samples
from hypothesis import given
from hypothesis import strategies as st

from dermanet import taxonomy
from dermanet.judging.flips import flips, totals
from dermanet.judging.mistakes import cost, malignant_codes, worst
from dermanet.records import Answers

KNOWN = taxonomy.load()
CODES = KNOWN.codes
MALIGNANT = malignant_codes(KNOWN)
code = st.sampled_from(CODES)


def answers(said: list[str], sure: float = 0.7) -> Answers:
    given = np.full((len(said), 7), (1 - sure) / 6, np.float32)
    given[np.arange(len(said)), [CODES.index(one) for one in said]] = sure
    return Answers(np.full(len(said), 50, np.float32), np.tile(np.float32([0.5, 0.4, 0.1]), (len(said), 1)), given)


def test_a_melanoma_that_is_now_called_benign_stands_first_and_one_now_found_last() -> None:
    truth = ["nv", "mel", "nv", "bcc", "mel", "nv", "bkl"]
    before = ["nv", "mel", "mel", "bcc", "nv", "bkl", "nv"]
    after = ["mel", "nv", "nv", "nv", "mel", "df", "nv"]
    records = [samples.record(n, diagnosis=one) for n, one in enumerate(truth)]
    found = flips(records, answers(after), answers(before, 0.5), KNOWN)
    assert [(one.truth, one.before, one.after) for one in found] == [
        ("mel", "mel", "nv"), ("bcc", "bcc", "nv"), ("nv", "nv", "mel"),
        ("nv", "bkl", "df"), ("nv", "mel", "nv"), ("mel", "nv", "mel"),
    ]  # fmt: skip
    assert [one.turn for one in found] == ["worse", "worse", "worse", "other", "better", "better"]
    first = found[0]
    assert (first.place, round(first.probability_before, 3), round(first.probability_after, 3)) == (1, 0.5, 0.7)
    assert round(first.truth_before, 3) == 0.5 and round(first.truth_after, 3) == 0.05
    told = totals(found, 7, KNOWN)
    assert (told.worse, told.better, told.other, told.newly_missed, told.newly_found) == (3, 2, 1, 2, 1)
    assert told.sentence().startswith(
        "6 of 7 images get another diagnosis than from the champion: 2 better, 3 worse, 1 neither"
    )


def test_two_that_answer_alike_flip_nothing() -> None:
    records = [samples.record(n) for n in range(4)]
    assert flips(records, answers(["nv"] * 4), answers(["nv"] * 4, 0.4), KNOWN) == []


@given(st.lists(st.tuples(code, code, code)))
def test_turned_back_every_flip_has_the_opposite_harm(cases: list[tuple[str, str, str]]) -> None:
    records = [samples.record(n, diagnosis=truth) for n, (truth, _, _) in enumerate(cases)]
    one, other = (answers([case[place] for case in cases]) for place in (1, 2))
    forth, back = flips(records, other, one, KNOWN), flips(records, one, other, KNOWN)
    assert {(flip.place, flip.harm) for flip in forth} == {(flip.place, -flip.harm) for flip in back}
    told, undone = totals(forth, len(cases), KNOWN), totals(back, len(cases), KNOWN)
    assert (told.worse, told.newly_missed) == (undone.better, undone.newly_found)
    assert told.worse + told.better + told.other == len(forth) == sum(before != after for _, before, after in cases)


@given(code, code)
def test_nothing_costs_more_than_a_melanoma_called_benign_and_what_is_right_costs_nothing(
    truth: str, said: str
) -> None:
    assert (cost(truth, said, MALIGNANT) == 0) == (truth == said)
    assert cost(truth, said, MALIGNANT) <= cost("mel", "nv", MALIGNANT)


def test_the_worst_mistakes_are_the_costliest_and_surest_and_one_a_lesion() -> None:
    truth, said = ["nv", "mel", "mel", "bcc", "nv", "mel"], ["mel", "nv", "nv", "mel", "nv", "nv"]
    records = [samples.record(n, diagnosis=one, lesion_id=f"L{min(n, 4)}") for n, one in enumerate(truth)]
    given = answers(said)
    given.diagnosis[2] = given.diagnosis[2] * 0.5 + 0.5 / 7
    found = worst(records, given, KNOWN, 10)
    assert [(one.place, one.truth, one.said) for one in found] == [
        (1, "mel", "nv"), (5, "mel", "nv"), (2, "mel", "nv"), (3, "bcc", "mel"), (0, "nv", "mel"),
    ]  # fmt: skip
    assert found[0].sure > found[2].sure > found[2].truth_sure > 0
    same = [samples.record(n, diagnosis=one, lesion_id="L") for n, one in enumerate(truth)]
    assert [one.place for one in worst(same, given, KNOWN, 10)] == [1]
    assert len(worst(records, given, KNOWN, 2)) == 2
