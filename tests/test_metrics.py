"""Figures: by hand and by scikit-learn; what a holdout cannot give is left out, never a number that looks like one."""

import json
from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest
import samples
from hypothesis import given, settings
from hypothesis import strategies as st
from sklearn import metrics as sklearn

from dermanet.judging import metrics
from dermanet.judging.modelcard import model_card
from dermanet.judging.plots import confusion_matrix
from dermanet.judging.report import verdict_page
from dermanet.judging.verdict import Check, Verdict
from dermanet.records import SEXES, Answers

CODES = samples.CODES


def answers(ages: Sequence[float], sexes: Sequence[Sequence[float]], diagnoses: Sequence[str]) -> Answers:
    one_hot = np.eye(len(CODES), dtype=np.float32)[[CODES.index(code) for code in diagnoses]].reshape(-1, len(CODES))
    return Answers(np.array(ages, np.float32), np.array(sexes, np.float32).reshape(-1, 3), one_hot)


MALE, FEMALE, UNKNOWN = (0.7, 0.2, 0.1), (0.3, 0.6, 0.1), (0.1, 0.1, 0.8)
FOUR = [
    samples.record(0, age=40.0, sex="male", diagnosis="nv"),
    samples.record(1, age=60.0, sex="female", diagnosis="nv"),
    samples.record(2, age=None, sex="female", diagnosis="mel"),
    samples.record(3, age=20.0, sex="unknown", diagnosis="mel"),
]
SAID = answers([43, 54, 99, 20], [MALE, MALE, FEMALE, UNKNOWN], ["nv", "mel", "mel", "bcc"])


def test_the_figures_of_four_images_by_hand() -> None:
    found = metrics.figures(FOUR, SAID, CODES)
    assert found == pytest.approx(
        {
            "age_mae": (3 + 6 + 0) / 3,
            "sex_accuracy": 3 / 4,
            "sex_f1": (2 / 3 + 2 * 2 / 3 + 1) / 4,
            # One man and two women: he stands above one of them and level with the other.
            "sex_auc": (1 + 0.5) / 2,
            # 0.7 twice and right once, 0.6 and right, 0.8 and right.
            "sex_ece": (2 * 0.2 + 0.4 + 0.2) / 4,
            "sex_brier": (0.14 + 1.14 + 0.26 + 0.06) / 4,
            "sex_log_loss": -np.log([0.7, 0.2, 0.6, 0.8]).mean(),
            "diagnosis_ece": 2 / 4,
            "diagnosis_brier": 2 * 2 / 4,
            "diagnosis_log_loss": -2 * np.log(np.finfo(float).eps) / 4,
            "diagnosis_accuracy": 2 / 4,
            "diagnosis_balanced_accuracy": (1 / 2 + 1 / 2) / 2,
            "diagnosis_f1_weighted": (2 * 2 / 3 + 2 * 1 / 2) / 4,
            "diagnosis_f1_macro": (2 / 3 + 1 / 2 + 0) / 3,
            "diagnosis_f1_nv": 2 / 3,
            "diagnosis_recall_nv": 1 / 2,
            "diagnosis_f1_mel": 1 / 2,
            "diagnosis_recall_mel": 1 / 2,
            # Answered once, and right; answered twice, and right once.
            "diagnosis_precision_nv": 1.0,
            "diagnosis_precision_mel": 1 / 2,
            # One naevus above both melanomas, one level with them; a melanoma level with the one that was called so, and so on.
            "diagnosis_auc_nv": (1 + 1 + 1 / 2 + 1 / 2) / 4,
            "diagnosis_auc_mel": (1 + 1 / 2 + 1 / 2 + 0) / 4,
        }
    )


def test_sensitivities_stand_at_specificities() -> None:
    # Ten that are no melanoma, with scores of 0 to .9; melanomas between them.
    records = [samples.record(n, diagnosis="nv") for n in range(10)]
    records += [samples.record(n, diagnosis="mel") for n in range(10, 14)]
    scores = [*(n / 10 for n in range(10)), 0.95, 0.85, 0.75, 0.05]
    said = np.zeros((14, 7), np.float32)
    said[:, CODES.index("mel")], said[:, CODES.index("nv")] = scores, 1 - np.array(scores)
    given = Answers(np.full(14, 50, np.float32), np.tile(np.float32([0.5, 0.4, 0.1]), (14, 1)), said)
    found = metrics.figures(records, given, CODES, malignant=("mel", "bcc"))
    # Half of the melanomas are above all but one of the ten, three above all but two; nine and a half of ten are ten.
    assert {name: value for name, value in found.items() if "sensitivity" in name} == pytest.approx(
        {
            "diagnosis_sensitivity_mel_at_80": 0.75,
            "diagnosis_sensitivity_mel_at_90": 0.5,
            "diagnosis_sensitivity_mel_at_95": 0.25,
        }
    )


truths = st.tuples(st.none() | st.integers(0, 120), st.sampled_from(SEXES), st.sampled_from(CODES))
said = st.tuples(st.integers(0, 100), st.sampled_from([MALE, FEMALE, UNKNOWN]), st.sampled_from(CODES))


@settings(max_examples=25)
@given(st.lists(st.tuples(truths, said), min_size=1))
def test_any_figures_agree_with_scikit_learn_and_are_numbers(drawn: list[tuple[Any, Any]]) -> None:
    records = [samples.record(n, age=a, sex=s, diagnosis=d) for n, ((a, s, d), _) in enumerate(drawn)]
    said_ages, said_odds, answered = (list(column) for column in zip(*(answer for _, answer in drawn), strict=True))
    found = metrics.figures(records, answers(said_ages, said_odds, answered), CODES)
    truth = [record.labels.diagnosis for record in records]
    sexes = [record.labels.sex for record in records]
    said_sexes = [SEXES[int(np.argmax(sex))] for sex in said_odds]
    assert found["diagnosis_accuracy"] == pytest.approx(sklearn.accuracy_score(truth, answered))
    for name in ("weighted", "macro"):
        expected = sklearn.f1_score(truth, answered, average=name, zero_division=0)
        assert found[f"diagnosis_f1_{name}"] == pytest.approx(expected)
    assert found["sex_f1"] == pytest.approx(sklearn.f1_score(sexes, said_sexes, average="weighted", zero_division=0))
    for code in set(truth):
        expected = sklearn.recall_score(truth, answered, labels=[code], average=None, zero_division=0)[0]
        assert found[f"diagnosis_recall_{code}"] == pytest.approx(expected)
    ages = [
        (record.labels.age, age)
        for record, age in zip(records, said_ages, strict=True)
        if record.labels.age is not None
    ]
    assert ("age_mae" in found) == bool(ages)
    if ages:
        assert found["age_mae"] == pytest.approx(np.mean([abs(true - age) for true, age in ages]))
    json.dumps(found, allow_nan=False)


@pytest.mark.filterwarnings("ignore:y_pred contains classes")
def test_balanced_accuracy_is_that_of_scikit_learn() -> None:
    truth = [record.labels.diagnosis for record in FOUR]
    expected = sklearn.balanced_accuracy_score(truth, ["nv", "mel", "mel", "bcc"])
    assert metrics.figures(FOUR, SAID, CODES)["diagnosis_balanced_accuracy"] == pytest.approx(expected)


def test_figures_the_holdout_cannot_give_are_left_out() -> None:
    women = [samples.record(n, age=None, sex="female", diagnosis="nv") for n in range(3)]
    found = metrics.figures(women, answers([1, 2, 3], [MALE] * 3, ["nv"] * 3), CODES)
    assert {name for name in found if name.startswith(("age", "sex"))} == {
        "sex_accuracy", "sex_f1", "sex_ece", "sex_brier", "sex_log_loss",
    }  # fmt: skip
    assert {name for name in found if "_f1_" in name or "recall" in name} == {
        "diagnosis_f1_weighted", "diagnosis_f1_macro", "diagnosis_f1_nv", "diagnosis_recall_nv",
    }  # fmt: skip


def test_a_holdout_without_images_has_no_figures() -> None:
    assert metrics.figures([], answers([], [], []), CODES) == {}
    assert metrics.support([]) == {"images": 0, "lesions": 0, "ages": 0}


def test_a_missed_diagnosis_counts_as_zero_and_not_as_missing() -> None:
    found = metrics.figures(FOUR, answers([0] * 4, [MALE] * 4, ["df"] * 4), CODES)
    assert (found["diagnosis_recall_mel"], found["diagnosis_f1_mel"], found["diagnosis_f1_macro"]) == (0.0, 0.0, 0.0)


def test_answers_and_records_of_different_length_are_a_fault() -> None:
    with pytest.raises(ValueError, match="shorter"):
        metrics.age_figures(FOUR, answers([1, 2], [MALE] * 2, ["nv"] * 2))


def test_support_counts_images_lesions_ages_and_diagnoses() -> None:
    records = [*FOUR, samples.record(4, lesion_id="L0", age=None, diagnosis="nv")]
    assert metrics.support(records) == {"images": 5, "lesions": 4, "ages": 3, "diagnosis_nv": 3, "diagnosis_mel": 2}


def test_the_trivial_reader_answers_the_training_side_s_middle() -> None:
    train = [samples.record(n, age=age, sex=sex, diagnosis=code) for n, (age, sex, code) in enumerate([
        (30.0, "male", "nv"), (90.0, "male", "nv"), (50.0, "female", "mel"), (None, "unknown", "nv"),
    ])]  # fmt: skip
    said = metrics.trivial_answers(train, 5, CODES)
    assert said.age.tolist() == [50.0] * 5
    assert {SEXES[place] for place in said.sex.argmax(axis=1)} == {"male"}
    assert {CODES[place] for place in said.diagnosis.argmax(axis=1)} == {"nv"}
    assert metrics.figures(FOUR, metrics.trivial_answers(train, 4, CODES), CODES)["sex_auc"] == 0.5


def test_the_trivial_reader_s_probabilities_are_shares_that_rule_nothing_out() -> None:
    train = [samples.record(n, sex="male", diagnosis=code) for n, code in enumerate(["nv"] * 8 + ["mel"] * 5)]
    said = metrics.trivial_answers(train, 2, CODES)
    assert said.sex[0] == pytest.approx([14 / 16, 1 / 16, 1 / 16])
    assert said.diagnosis[0, CODES.index("nv")] == pytest.approx(9 / 20)
    assert said.diagnosis[0, CODES.index("df")] == pytest.approx(1 / 20) and said.diagnosis[1].sum() == pytest.approx(1)


def test_the_confusion_has_the_truth_by_rows() -> None:
    counts = metrics.confusion(FOUR, SAID, CODES)
    assert counts.shape == (7, 7) and counts.sum() == 4
    expected = {("nv", "nv"): 1, ("nv", "mel"): 1, ("mel", "mel"): 1, ("mel", "bcc"): 1}
    found = {(CODES[r], CODES[c]): int(counts[r, c]) for r, c in zip(*np.nonzero(counts), strict=True)}
    assert found == expected


def test_the_picture_of_the_confusion_shows_every_count() -> None:
    axes = confusion_matrix(metrics.confusion(FOUR, SAID, CODES), CODES, "4 images of 4 lesions").axes[0]
    assert len(axes.texts) == 49 and sum(int(text.get_text()) for text in axes.texts) == 4
    assert [tick.get_text() for tick in axes.get_xticklabels()] == list(CODES)
    assert [tick.get_text() for tick in axes.get_yticklabels()][4:6] == ["mel (2)", "nv (2)"]


def test_the_page_of_a_verdict_holds_every_check_and_figure() -> None:
    check = Check("age_mae", "threshold", 12.0, 10.0, "fail", "12; at most 10 (the limit)")
    evaluation = {
        "run_id": "r1", "snapshot": "s1", "holdout": "h1", "candidate": {"age_mae": 12.0, "sex_auc": 0.7},
        "baseline": {"age_mae": 13.5}, "champion": None, "intervals": {"age_mae": [11.25, 12.75]},
    }  # fmt: skip
    page = verdict_page(Verdict("fail", (check,)), evaluation)
    assert "# Verdict: fail" in page and "| age_mae | threshold | failed | 12; at most 10 (the limit) |" in page
    assert "| age_mae | 12.000 | 11.250 to 12.750 | 13.500 |  |" in page and "| sex_auc | 0.700 |  |  |  |" in page


ODD = "<script>x</script> | [a](b)\nc"


def test_what_a_row_said_of_an_image_is_text_on_the_page_of_a_verdict() -> None:
    check = Check("sex_auc", "threshold", 0.5, 0.6, "fail", f"0.5 of {ODD}", slice=f"site: {ODD}")
    evaluation = {"run_id": "r1", "snapshot": "s1", "holdout": "h1", "candidate": {}, "baseline": {}, "champion": None}
    page = verdict_page(Verdict("fail", (check,)), evaluation)
    said = r"&lt;script&gt;x&lt;/script&gt; \| \[a\](b) c"
    assert f"| sex_auc (site: {said}) | threshold | failed | 0.5 of {said} |" in page.splitlines()


def test_and_on_the_model_card() -> None:
    slices = [{"axis": "clinic", "value": ODD, "support": {"images": 3}, "candidate": {}, "intervals": {}}]
    card = model_card(
        "1", "0", {"experiment": {"name": "n", "backbone": "b", "method": "m", "seed": 1}, "taxonomy": [], "sexes": [],
                   "recipe": {"name": "r", "size": 1}, "fingerprint": "f", "run_id": "r1"},
        {"snapshot": "s1", "images": 3, "lesions": 3, "sides": {}, "diagnoses": {}},
        {"holdout": "h1", "slices": slices, "candidate": {}, "intervals": {}},
        {"verdict": "fail", "checks": [], "mode": "enforce", "told": [f"sex_auc of clinic: {ODD}: too low"]}, "none",
    )  # fmt: skip
    said = r"&lt;script&gt;x&lt;/script&gt; \| \[a\](b) c"
    assert f"| clinic: {said} | 3 |  |  |" in card.splitlines()
    assert f"- sex_auc of clinic: {said}: too low" in card.splitlines()
