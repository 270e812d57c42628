"""The gate: a pure function of an evaluation and limits, strict with what is missing."""

import json
import math
from collections.abc import Mapping

import pytest

from dermanet.judging.evaluation import Evaluation, Scores, Sliced
from dermanet.judging.gates import Change, Gates, Limit, SliceLimits
from dermanet.judging.verdict import Check, Verdict, judge

Figures = Mapping[str, float]
LIMITS = {
    "age_mae": Limit(
        greater_is_better=False, threshold=12.0, baseline=Change(min_absolute_change=0.1), champion=Change(min_absolute_change=-0.5)
    ),
    "diagnosis_accuracy": Limit(
        greater_is_better=True, threshold=0.5, baseline=Change(min_absolute_change=0.01), champion=Change(min_absolute_change=-0.02)
    ),
    "diagnosis_f1_mel": Limit(greater_is_better=True, threshold=0.3),
}  # fmt: skip
GATES = Gates(minimum_support={"images": 100, "lesions": 80}, checks=LIMITS)
SUPPORT = {"images": 100, "lesions": 80, "ages": 90, "diagnosis_mel": 12}
GOOD = {"age_mae": 11.0, "diagnosis_accuracy": 0.7, "diagnosis_f1_mel": 0.4}
TRIVIAL = {"age_mae": 13.0, "diagnosis_accuracy": 0.67, "diagnosis_f1_mel": 0.0}
CHAMPION = {"age_mae": 11.2, "diagnosis_accuracy": 0.71, "diagnosis_f1_mel": 0.9}


def scores(
    candidate: Figures, champion: Figures | None = CHAMPION, support: Mapping[str, int] = SUPPORT,
    baseline: Figures = TRIVIAL, wide: float = 0.1,
) -> Scores:  # fmt: skip
    """Scores whose intervals reach `wide` to either side."""

    def around(figures: Figures, other: Figures | None = None) -> dict[str, tuple[float, float]]:
        apart = {
            name: value - (other or {}).get(name, 0)
            for name, value in figures.items()
            if other is None or name in other
        }
        return {name: (value - wide, value + wide) for name, value in apart.items()}

    over = None if champion is None else around(candidate, champion)
    own, other = around(candidate), around(candidate, baseline)
    return Scores(dict(support), dict(candidate), own, dict(baseline), other, champion and dict(champion), over)


def whole(candidate: Figures, champion: Figures | None = CHAMPION, **others: Mapping[str, int]) -> Evaluation:
    return Evaluation(scores(candidate, champion, **others))


def failed(candidate: Figures, champion: Figures | None = CHAMPION) -> set[tuple[str, str]]:
    """Metric and kind of each check that a candidate does not pass."""
    return {
        (check.metric, check.kind)
        for check in judge(GATES, whole(candidate, champion)).checks
        if check.outcome != "pass"
    }


def test_a_good_candidate_passes_every_check_there_is() -> None:
    verdict = judge(GATES, whole(GOOD))
    assert verdict.word == "pass" and verdict.lets_register
    assert [(check.metric, check.kind, check.n) for check in verdict.checks] == [
        ("images", "support", 100), ("lesions", "support", 100),
        ("age_mae", "threshold", 90), ("age_mae", "baseline", 90), ("age_mae", "champion", 90),
        ("diagnosis_accuracy", "threshold", 100), ("diagnosis_accuracy", "baseline", 100), ("diagnosis_accuracy", "champion", 100),
        ("diagnosis_f1_mel", "threshold", 12),
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"age_mae": 12.0}, {("age_mae", "champion")}),
        ({"age_mae": 12.01}, {("age_mae", "threshold"), ("age_mae", "champion")}),
        ({"age_mae": 11.7}, set()),
        ({"diagnosis_accuracy": 0.68}, {("diagnosis_accuracy", "champion")}),
        ({"diagnosis_accuracy": 0.675}, {("diagnosis_accuracy", "baseline"), ("diagnosis_accuracy", "champion")}),
        ({"diagnosis_f1_mel": 0.3}, set()), ({"diagnosis_f1_mel": 0.29}, {("diagnosis_f1_mel", "threshold")}),
    ],
)  # fmt: skip
def test_a_limit_is_met_at_its_very_value_and_missed_beyond(
    change: dict[str, float], expected: set[tuple[str, str]]
) -> None:
    assert failed({**GOOD, **change}) == expected


def test_without_a_champion_its_checks_are_left_out() -> None:
    verdict = judge(GATES, whole({**GOOD, "age_mae": 12.0}, None))
    assert verdict.word == "pass" and "champion" not in {check.kind for check in verdict.checks}


def test_a_missing_figure_fails_every_check_of_its_own() -> None:
    rest = {name: value for name, value in GOOD.items() if name != "age_mae"}
    assert failed(rest) == {("age_mae", "threshold"), ("age_mae", "baseline"), ("age_mae", "champion")}
    missing = [check for check in judge(GATES, whole(rest)).checks if check.metric == "age_mae"]
    assert all(check.value is None and "could not be computed" in check.reason for check in missing)


def test_a_figure_the_champion_or_the_baseline_lacks_fails_and_is_not_zero() -> None:
    assert failed(GOOD, {}) == {("age_mae", "champion"), ("diagnosis_accuracy", "champion")}
    verdict = judge(GATES, Evaluation(scores(GOOD, None, baseline={})))
    assert {(c.metric, c.limit) for c in verdict.checks if c.outcome == "fail"} == {
        ("age_mae", None), ("diagnosis_accuracy", None),
    }  # fmt: skip


@pytest.mark.parametrize("metric", list(GOOD))
def test_a_figure_that_is_no_number_fails(metric: str) -> None:
    assert {name for name, _ in failed({**GOOD, metric: math.nan})} == {metric}
    if metric in ("age_mae", "diagnosis_accuracy"):
        assert failed(GOOD, {**CHAMPION, metric: math.nan}) == {(metric, "champion")}
    told = judge(GATES, whole({**GOOD, metric: math.nan}, {**CHAMPION, metric: math.inf})).as_dict()
    assert metric in json.dumps(told, allow_nan=False)


@pytest.mark.parametrize("support", [{"images": 99, "lesions": 80}, {"images": 100, "lesions": 0}, {"images": 100}])
@pytest.mark.parametrize("candidate", [GOOD, {}, {**GOOD, "age_mae": 99.0}])
def test_too_small_a_holdout_decides_nothing_whatever_the_figures_say(
    support: dict[str, int], candidate: dict[str, float]
) -> None:
    verdict = judge(GATES, whole(candidate, support=support))
    assert verdict.word == "insufficient" and not verdict.lets_register
    assert "nothing is decided below" in next(c.reason for c in verdict.checks if c.outcome == "insufficient")


def melanoma(**words: object) -> Gates:
    return Gates(checks={"diagnosis_recall_mel": Limit.model_validate({"greater_is_better": True, **words})})


def test_a_check_with_too_few_cases_of_its_own_is_insufficient_but_a_failed_one_weighs_more() -> None:
    few = {"images": 100, "diagnosis_mel": 4}
    limits = melanoma(threshold=0.5, minimum_support={"diagnosis_mel": 20})
    verdict = judge(limits, whole({"diagnosis_recall_mel": 0.9}, support=few))
    assert verdict.word == "insufficient" and "4 diagnosis_mel; nothing is decided below 20" in verdict.checks[0].reason
    without = melanoma(threshold=0.95, minimum_support={"diagnosis_mel": 20}, too_few="not judged")
    verdict = judge(without, whole({"diagnosis_recall_mel": 0.9}, support=few))
    assert verdict.word == "pass" and verdict.checks[0].outcome == "not judged" and not verdict.told()
    both = Gates(checks={**limits.checks, "age_mae": Limit(greater_is_better=False, threshold=5.0)})
    assert judge(both, whole({"diagnosis_recall_mel": 0.9, "age_mae": 9.0}, support=few)).word == "fail"


@pytest.mark.parametrize(("recall", "word"), [(0.61, "pass"), (0.59, "fail")])
def test_a_limit_may_be_for_the_worse_end_of_the_interval(recall: float, word: str) -> None:
    (check,) = judge(melanoma(threshold=0.5, judged_by="worse end"), whole({"diagnosis_recall_mel": recall})).checks
    assert check.outcome == word and check.value == pytest.approx(recall - 0.1) and "the worse end" in check.reason


@pytest.mark.parametrize(("age", "word"), [(11.04, "pass"), (11.06, "fail")])
def test_not_worse_than_the_champion_may_be_asked_of_the_worse_end_of_the_paired_difference(
    age: float, word: str
) -> None:
    champion = Change(min_absolute_change=0.05, judged_by="worse end")
    limits = Gates(checks={"age_mae": Limit(greater_is_better=False, champion=champion)})
    (check,) = judge(limits, whole({"age_mae": age})).checks
    assert check.outcome == word and check.value == pytest.approx(11.2 - age - 0.1)


@pytest.mark.parametrize(("recall", "word"), [(0.41, "pass"), (0.39, "fail")])
def test_or_for_the_better_end_so_that_only_a_sure_miss_fails(recall: float, word: str) -> None:
    champion = {"min_absolute_change": -0.4, "judged_by": "better end"}
    limits = melanoma(threshold=0.5, judged_by="better end", champion=champion)
    found = whole({"diagnosis_recall_mel": recall}, {"diagnosis_recall_mel": 0.9})
    assert [check.outcome for check in judge(limits, found).checks] == [word, word]
    age = Change(min_absolute_change=-0.3, judged_by="better end")
    limits = Gates(checks={"age_mae": Limit(greater_is_better=False, champion=age)})
    (check,) = judge(limits, whole({"age_mae": 12.0 - recall})).checks
    assert check.outcome == word and check.value == pytest.approx(11.2 - 12.0 + recall + 0.1)


def test_a_bound_that_was_not_computed_fails() -> None:
    found = Evaluation(Scores(SUPPORT, {"sex_auc": 0.9}, {}, {"sex_auc": 0.5}, {}))
    change = Change(min_absolute_change=0, judged_by="worse end")
    limits = Gates(
        checks={"sex_auc": Limit(greater_is_better=True, threshold=0.5, judged_by="worse end", baseline=change)}
    )
    assert [check.outcome for check in judge(limits, found).checks] == ["fail", "fail"]


BEYOND = {
    "age_mae": Limit(greater_is_better=False, baseline=Change(min_absolute_change=0.1)),
    "sex_accuracy": Limit(greater_is_better=True, baseline=Change(min_absolute_change=0.01)),
    "diagnosis_f1_macro": Limit(
        greater_is_better=True, champion=Change(min_absolute_change=0.05, judged_by="worse end")
    ),
}
ONE_SEX = {"age_mae": 0.02, "sex_accuracy": 1.0, "diagnosis_f1_macro": 0.98}
"""Of who never looks, where all have one sex, one age and nearly one diagnosis: nobody can be so much better."""


@pytest.mark.parametrize(
    ("candidate", "kept"),
    [
        ({"age_mae": 0.0, "sex_accuracy": 1.0, "diagnosis_f1_macro": 1.0}, set()),
        ({"age_mae": 0.1, "sex_accuracy": 0.99, "diagnosis_f1_macro": 0.99}, set()),
        ({"age_mae": 0.11, "sex_accuracy": 1.0, "diagnosis_f1_macro": 1.0}, {"age_mae"}),
        ({"age_mae": 0.0, "sex_accuracy": 0.985, "diagnosis_f1_macro": 1.0}, {"sex_accuracy"}),
        ({"age_mae": 0.0, "sex_accuracy": 1.0, "diagnosis_f1_macro": 0.985}, {"diagnosis_f1_macro"}),
        ({"age_mae": 40.0, "sex_accuracy": 0.0, "diagnosis_f1_macro": 0.1}, set(ONE_SEX)),
        ({"age_mae": math.nan, "sex_accuracy": math.nan, "diagnosis_f1_macro": math.nan}, set(ONE_SEX)),
    ],
)
def test_who_is_as_good_as_can_be_passes_a_limit_beyond_all_figures_and_nobody_else_does(
    candidate: dict[str, float], kept: set[str]
) -> None:
    verdict = judge(Gates(checks=BEYOND), Evaluation(scores(candidate, ONE_SEX, baseline=ONE_SEX)))
    assert {check.metric for check in verdict.checks if check.outcome == "fail"} == kept
    assert all("as good as can be" in check.reason for check in verdict.checks if check.outcome == "pass")


@pytest.mark.parametrize(("accuracy", "word"), [(1.0, "pass"), (0.995, "fail")])
def test_a_small_change_that_is_asked_for_is_how_near_the_best_must_be(accuracy: float, word: str) -> None:
    change = Change(min_absolute_change=0.001)
    limits = Gates(checks={"sex_accuracy": Limit(greater_is_better=True, champion=change)})
    found = scores({"sex_accuracy": accuracy}, {"sex_accuracy": 0.9995})
    assert judge(limits, Evaluation(found)).word == word


ACCURACY = {"diagnosis_accuracy": Limit(greater_is_better=True, threshold=0.5)}


def sliced(**shares: float) -> Evaluation:
    parts = [
        Sliced("sex", value, scores({"diagnosis_accuracy": share}, None, {"images": 40}))
        for value, share in shares.items()
    ]
    return Evaluation(scores(GOOD), (*parts, Sliced("site", "back", scores({}, None, {"images": 3}))))


def test_one_bad_slice_stops_a_candidate_that_is_good_on_the_whole() -> None:
    limits = Gates(checks=ACCURACY, slices=(SliceLimits(axis="sex", checks=ACCURACY),))
    assert judge(limits, sliced(female=0.7, male=0.6)).in_slices() == "2 pass"
    assert judge(limits, sliced(female=0.7, male=0.6)).word == "pass"
    verdict = judge(limits, sliced(female=0.7, male=0.4))
    assert verdict.in_slices() == "1 pass, 1 fail" and not judge(GATES, whole(GOOD)).in_slices()
    assert verdict.word == "fail"
    assert [(check.slice, check.value, check.n) for check in verdict.checks if check.outcome == "fail"] == [
        ("sex: male", 0.4, 40)
    ]


def test_a_small_slice_is_passed_over_unless_it_was_named() -> None:
    large = {"images": 41}
    one = Gates(checks=ACCURACY, slices=(SliceLimits(axis="sex", checks=ACCURACY, minimum_support=large),))
    verdict = judge(one, sliced(female=0.1))
    assert (
        verdict.word == "pass"
        and verdict.checks[-1].outcome == "not judged"
        and "40 images" in verdict.checks[-1].reason
    )
    named = SliceLimits(axis="sex", values=("female", "male"), checks=ACCURACY)
    verdict = judge(Gates(checks=ACCURACY, slices=(named,)), sliced(female=0.7))
    assert verdict.word == "insufficient" and "no image of sex: male" in verdict.checks[-1].reason
    nowhere = Gates(checks=ACCURACY, slices=(SliceLimits(axis="clinic", checks=ACCURACY),))
    verdict = judge(nowhere, sliced(female=0.7))
    assert verdict.word == "pass" and verdict.checks[-1].reason == "the holdout is not sliced by clinic"


def test_a_check_of_a_diagnosis_that_the_list_does_not_have_is_not_judged() -> None:
    limits = melanoma(threshold=0.5)
    assert judge(limits, whole(GOOD), codes=("acne", "mel")).word == "fail"
    verdict = judge(limits, whole(GOOD), codes=("acne", "psoriasis"))
    assert (
        verdict.word == "pass"
        and verdict.checks[0].outcome == "not judged"
        and "has no mel" in verdict.checks[0].reason
    )


def test_an_evaluation_that_may_not_be_believed_fails_even_where_nothing_could_be_decided() -> None:
    leaked = Check("leaked_images", "integrity", 3, 0, "fail", "3 of them", 100)
    verdict = judge(GATES, whole(GOOD, support={"images": 1}), [leaked])
    assert verdict.word == "fail" and verdict.checks[0] == leaked


def test_gates_that_only_watch_stop_nothing_and_say_what_they_saw() -> None:
    bad = {**GOOD, "age_mae": 99.0}
    verdict = judge(GATES.model_copy(update={"mode": "dry run"}), whole(bad))
    assert verdict.word == "fail" and verdict.lets_register and verdict.as_dict()["mode"] == "dry run"
    off = judge(GATES.model_copy(update={"mode": "off"}), whole(bad))
    assert off == Verdict("not judged", (), "off") and off.lets_register
