"""Whether an evaluation may be believed: leaks by image, lesion and patient, another holdout, answers under other names."""

import re

import numpy as np
import pytest
import samples

from dermanet.judging.integrity import labels_in_order, same_holdout, unseen
from dermanet.records import SEXES, Answers, Record

CODES = samples.CODES
HOLDOUT = [samples.record(n, lesion_id=f"L{n}", patient_id=f"P{n}") for n in range(5)]


def test_a_holdout_of_other_lesions_is_unseen() -> None:
    learned = [samples.record(n, lesion_id=f"L{n}") for n in range(10, 14)]
    check = unseen(HOLDOUT, learned)
    assert check.outcome == "pass" and check.value == 0 and check.n == 5


@pytest.mark.parametrize(
    "same",
    [
        samples.record(3, lesion_id="another"), samples.record(40, lesion_id="L3"),
        samples.record(41, lesion_id="another", patient_id="P3"),
    ],
    ids=["image", "lesion", "patient"],
)  # fmt: skip
def test_one_image_lesion_or_patient_that_was_learned_from_is_a_leak(same: Record) -> None:
    check = unseen(HOLDOUT, [same])
    assert check.outcome == "fail" and check.value == 1
    # A verdict goes where forgetting does not reach: no id is in it.
    assert f"({samples.record(3).digest[:12]}…)" in check.reason and not {"I3", "L3", "P3"} & set(
        re.findall(r"\w+", check.reason)
    )


def test_patients_that_nobody_named_are_not_one_patient() -> None:
    assert unseen([samples.record(1, lesion_id="L1")], [samples.record(2, lesion_id="L2")]).outcome == "pass"


def test_another_holdout_is_named() -> None:
    assert same_holdout("abc", "abc", 9).outcome == "pass"
    check = same_holdout("abc", "def", 9)
    assert check.outcome == "fail" and "abc" in check.reason and "def" in check.reason


def case(accuracy: float, seed: int, count: int = 300) -> tuple[list[Record], Answers]:
    """Answers that are right so often, mostly naevi, and sexes told as well."""
    rng = np.random.default_rng(seed)
    shares = np.array([0.05, 0.07, 0.12, 0.03, 0.11, 0.58, 0.04])
    truth, sexes = rng.choice(7, count, p=shares), rng.integers(0, 2, count)
    records = [
        samples.record(n, diagnosis=CODES[d], sex=SEXES[s]) for n, (d, s) in enumerate(zip(truth, sexes, strict=True))
    ]
    said = np.where(rng.random(count) < accuracy, truth, rng.choice(7, count, p=shares))
    sex = np.where(rng.random(count) < accuracy, sexes, rng.integers(0, 2, count))
    return records, Answers(
        np.full(count, 50, np.float32), np.eye(3, dtype=np.float32)[sex], np.eye(7, dtype=np.float32)[said]
    )


@pytest.mark.parametrize("accuracy", [0.0, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("seed", range(10))
def test_a_network_however_bad_has_its_labels_in_order(accuracy: float, seed: int) -> None:
    records, answers = case(accuracy, seed)
    assert [check.outcome for check in labels_in_order(records, answers, CODES)] == ["pass", "pass"]


def test_swapped_names_are_found_and_named() -> None:
    records, answers = case(0.6, 1)
    order = [0, 1, 2, 3, 5, 4, 6]
    diagnosis, sex = labels_in_order(
        records, Answers(answers.age, answers.sex[:, [1, 0, 2]], answers.diagnosis[:, order]), CODES
    )
    assert diagnosis.outcome == "fail" and "nv as mel" in diagnosis.reason and "wrong order" in diagnosis.reason
    assert sex.outcome == "fail" and "male as female" in sex.reason
    assert diagnosis.metric == "diagnosis_order" and sex.metric == "sex_order"


def test_of_the_sexes_it_says_which_answers_are_counted() -> None:
    known = [samples.record(n, sex=SEXES[n % 2], diagnosis="nv") for n in range(4)]
    records = [*known, samples.record(4, sex="unknown", diagnosis="nv")]
    assert SEXES[2] == "unknown"
    said = Answers(
        np.full(5, 50, np.float32), np.eye(3, dtype=np.float32)[[0, 1, 0, 0, 0]], np.eye(7, dtype=np.float32)[[5] * 5]
    )
    diagnosis, sex = labels_in_order(records, said, CODES)
    assert diagnosis.reason.startswith("100% of the answers are right")
    assert sex.reason.startswith("75% of the answers between male and female, where the sex is known, are right")
    assert sex.n == 4


def test_two_rare_names_that_are_swapped_are_found_by_themselves() -> None:
    records, answers = case(0.8, 2, 600)
    order = [0, 1, 2, 6, 4, 5, 3]
    check = labels_in_order(records, Answers(answers.age, answers.sex, answers.diagnosis[:, order]), CODES)[0]
    assert check.outcome == "fail" and "df as vasc, vasc as df" in check.reason


@pytest.mark.parametrize("seed", range(6))
def test_what_a_network_does_not_know_is_no_list_in_another_order(seed: int) -> None:
    """It says neither bcc nor df, and takes most of them for akiec and vasc."""
    records, answers = case(0.8, seed, 1300)
    truth = np.array([CODES.index(record.labels.diagnosis) for record in records])
    said, chance = answers.diagnosis.argmax(axis=1), np.random.default_rng(seed).random(len(truth))
    for unknown, like in (("bcc", "akiec"), ("df", "vasc")):
        said[said == CODES.index(unknown)] = CODES.index("nv")
        said[(truth == CODES.index(unknown)) & (chance < 0.9)] = CODES.index(like)
    blind = Answers(answers.age, answers.sex, np.eye(7, dtype=np.float32)[said])
    assert labels_in_order(records, blind, CODES)[0].outcome == "pass"


def test_one_answer_for_all_is_a_bad_network_and_no_wrong_order() -> None:
    records = [samples.record(n, sex="male" if n % 5 else "female", diagnosis="mel") for n in range(300)]
    said = Answers(
        np.full(300, 50, np.float32), np.eye(3, dtype=np.float32)[[1] * 300], np.eye(7, dtype=np.float32)[[5] * 300]
    )
    assert [check.outcome for check in labels_in_order(records, said, CODES)] == ["pass", "pass"]


def test_nothing_to_look_at_is_in_order() -> None:
    none = Answers(np.zeros(0, np.float32), np.zeros((0, 3), np.float32), np.zeros((0, 7), np.float32))
    assert [check.outcome for check in labels_in_order([], none, CODES)] == ["pass", "pass"]
