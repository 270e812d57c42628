"""The gate: a pure function of figures and limits, strict with what is missing, indifferent to order; its file is checked."""

import dataclasses
import json
import math
import random
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dermanet import settings
from dermanet.errors import BadInput
from dermanet.judging import gates
from dermanet.judging.gates import Gates, Limit, judge

LIMITS = (
    Limit("age_mae", False, threshold=12.0, baseline=0.1, champion=-0.5),
    Limit("diagnosis_accuracy", True, threshold=0.5, baseline=0.01, champion=-0.02),
    Limit("diagnosis_f1_mel", True, threshold=0.3),
)
GATES = Gates({"images": 100, "lesions": 80}, LIMITS)
SUPPORT = {"images": 100, "lesions": 80}
GOOD = {"age_mae": 11.0, "diagnosis_accuracy": 0.7, "diagnosis_f1_mel": 0.4}
TRIVIAL = {"age_mae": 13.0, "diagnosis_accuracy": 0.67, "diagnosis_f1_mel": 0.0}
CHAMPION = {"age_mae": 11.2, "diagnosis_accuracy": 0.71, "diagnosis_f1_mel": 0.9}

values = st.floats(0, 20)
some_figures = st.fixed_dictionaries({limit.metric: values for limit in LIMITS})
some_limits = st.tuples(*(
    st.builds(
        Limit, st.just(limit.metric), st.just(limit.greater_is_better), st.none() | values,
        st.none() | st.floats(-2, 2), st.none() | st.floats(-2, 2),
    )
    for limit in LIMITS
))  # fmt: skip


def failed(candidate: dict[str, float], champion: dict[str, float] | None = CHAMPION) -> set[tuple[str, str]]:
    """Metric and kind of each check that a candidate does not pass."""
    verdict = judge(GATES, candidate, TRIVIAL, champion, SUPPORT)
    return {(check.metric, check.kind) for check in verdict.checks if check.outcome != "pass"}


def test_a_good_candidate_passes_every_check_there_is() -> None:
    verdict = judge(GATES, GOOD, TRIVIAL, CHAMPION, SUPPORT)
    assert verdict.word == "pass"
    assert [(check.metric, check.kind) for check in verdict.checks] == [
        ("images", "support"), ("lesions", "support"),
        ("age_mae", "threshold"), ("age_mae", "baseline"), ("age_mae", "champion"),
        ("diagnosis_accuracy", "threshold"), ("diagnosis_accuracy", "baseline"), ("diagnosis_accuracy", "champion"),
        ("diagnosis_f1_mel", "threshold"),
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
    verdict = judge(GATES, {**GOOD, "age_mae": 12.0}, TRIVIAL, None, SUPPORT)
    assert verdict.word == "pass" and "champion" not in {check.kind for check in verdict.checks}


def test_a_missing_figure_fails_every_check_of_its_own() -> None:
    rest = {name: value for name, value in GOOD.items() if name != "age_mae"}
    assert failed(rest) == {("age_mae", "threshold"), ("age_mae", "baseline"), ("age_mae", "champion")}
    verdict = judge(GATES, rest, TRIVIAL, CHAMPION, SUPPORT)
    missing = [check for check in verdict.checks if check.metric == "age_mae"]
    assert all(check.value is None and "could not be computed" in check.reason for check in missing)


def test_a_figure_the_champion_or_the_baseline_lacks_fails_and_is_not_zero() -> None:
    assert failed(GOOD, {}) == {("age_mae", "champion"), ("diagnosis_accuracy", "champion")}
    verdict = judge(GATES, GOOD, {}, None, SUPPORT)
    assert {(c.metric, c.limit) for c in verdict.checks if c.outcome == "fail"} == {
        ("age_mae", None), ("diagnosis_accuracy", None),
    }  # fmt: skip


@pytest.mark.parametrize("metric", list(GOOD))
def test_a_figure_that_is_no_number_fails(metric: str) -> None:
    assert {name for name, _ in failed({**GOOD, metric: math.nan})} == {metric}
    if metric in ("age_mae", "diagnosis_accuracy"):
        assert failed(GOOD, {**CHAMPION, metric: math.nan}) == {(metric, "champion")}


@pytest.mark.parametrize("support", [{"images": 99, "lesions": 80}, {"images": 100, "lesions": 0}, {"images": 100}, {}])
@pytest.mark.parametrize("candidate", [GOOD, {}, {**GOOD, "age_mae": 99.0}])
def test_too_small_a_holdout_decides_nothing_whatever_the_figures_say(
    support: dict[str, int], candidate: dict[str, float]
) -> None:
    verdict = judge(GATES, candidate, TRIVIAL, CHAMPION, support)
    assert verdict.word == "insufficient"
    assert "nothing is decided below" in next(c.reason for c in verdict.checks if c.outcome == "insufficient")


@given(some_limits, some_figures, some_figures, st.none() | some_figures, st.randoms(use_true_random=False))
def test_the_order_of_the_checks_does_not_matter(
    limits: tuple[Limit, ...], candidate: dict[str, float], baseline: dict[str, float],
    champion: dict[str, float] | None, chance: random.Random,
) -> None:  # fmt: skip
    shuffled = tuple(chance.sample(limits, len(limits)))
    first = judge(Gates(GATES.minimum_support, limits), candidate, baseline, champion, SUPPORT)
    second = judge(Gates(GATES.minimum_support, shuffled), candidate, baseline, champion, SUPPORT)
    assert first.word == second.word and set(first.checks) == set(second.checks)


@given(some_limits, some_figures, some_figures, some_figures, st.tuples(values, values, values))
def test_a_candidate_that_is_better_everywhere_never_fails_where_a_worse_one_passes(
    limits: tuple[Limit, ...], worse: dict[str, float], baseline: dict[str, float], champion: dict[str, float],
    gains: tuple[float, ...],
) -> None:  # fmt: skip
    better = {
        limit.metric: worse[limit.metric] + (gain if limit.greater_is_better else -gain)
        for limit, gain in zip(limits, gains, strict=True)
    }
    loose = Gates(GATES.minimum_support, limits)
    pairs = zip(
        judge(loose, worse, baseline, champion, SUPPORT).checks,
        judge(loose, better, baseline, champion, SUPPORT).checks,
        strict=True,
    )
    assert not [(old, new) for old, new in pairs if old.outcome == "pass" and new.outcome != "pass"]


@given(some_limits, some_figures, some_figures, some_figures)
def test_a_verdict_is_the_worst_of_its_checks_and_gives_their_values(
    limits: tuple[Limit, ...], candidate: dict[str, float], baseline: dict[str, float], champion: dict[str, float]
) -> None:
    verdict = judge(Gates(GATES.minimum_support, limits), candidate, baseline, champion, SUPPORT)
    assert (verdict.word == "pass") == all(check.outcome == "pass" for check in verdict.checks)
    for check in verdict.checks:
        if check.kind != "support":
            assert check.value == candidate[check.metric] and check.limit is not None and check.reason
    assert json.loads(json.dumps(verdict.as_dict(), allow_nan=False))["verdict"] == verdict.word


def test_the_reviewed_gates_hold_every_head_to_a_limit_a_baseline_and_the_champion() -> None:
    found = gates.load(settings.GATES)
    assert {limit.metric for limit in found.limits} >= {"age_mae", "sex_accuracy", "diagnosis_f1_macro"}
    assert all(None not in dataclasses.astuple(limit) for limit in found.limits)


@pytest.mark.parametrize("path", sorted(settings.GATES.parent.glob("gates*.yaml")), ids=lambda path: path.name)
def test_every_gates_file_of_the_package_is_in_order(path: Path) -> None:
    found = gates.load(path)
    assert found.minimum_support["images"] >= 100
    assert found.limits and all(limit.greater_is_better == (limit.metric != "age_mae") for limit in found.limits)


def test_a_gates_file_may_give_one_limit_alone(tmp_path: Path) -> None:
    (tmp_path / "gates.yaml").write_text("checks: {sex_auc: {greater_is_better: true, threshold: 1}}")
    assert gates.load(tmp_path / "gates.yaml") == Gates({}, (Limit("sex_auc", True, threshold=1.0),))


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "needs `checks`"), ("checks:", "needs `checks`"), ("checks: {}", "needs `checks`"), ("- a", "needs `checks`"),
        ("checks: [age_mae]", "needs `checks`"),
        ("checks: {a: 3}", "a is 3"), ("checks: {a: {threshold: 3}}", "greater_is_better (true or false)"),
        ("checks: {a: {greater_is_better: yes please, threshold: 3}}", "greater_is_better (true or false)"),
        ("checks: {a: {UP}}", "a has no limit"),
        ("checks: {a: {UP, treshold: 3}}", "'treshold'"),
        ("checks: {a: {UP, threshold: high}}", "a.threshold is 'high'"),
        ("checks: {a: {UP, threshold: true}}", "a.threshold is True"),
        ("checks: {a: {UP, threshold: }}", "a.threshold is None"),
        ("checks: {a: {UP, threshold: .nan}}", "a.threshold is nan"),
        ("checks: {a: {UP, threshold: -.inf}}", "a.threshold is -inf"),
        ("checks: {a: {UP, champion: 0.1}}", "a.champion is 0.1"),
        ("checks: {a: {UP, baseline: {min_change: 1}}}", "a.baseline is {'min_change': 1}"),
        ("checks: {a: {UP, baseline: {min_absolute_change: x}}}", "a.baseline.min_absolute_change is 'x'"),
        ("checks: {a: {UP, threshold: 1}}\nminimum_suport: {images: 3}", "['minimum_suport']"),
        ("checks: {a: {UP, threshold: 1}}\n1: 2\nb: 3", "['1', 'b']"),
        ("checks: {a: {UP, threshold: 1}}\nminimum_support: 3", "minimum_support is 3"),
        ("checks: {a: {UP, threshold: 1}}\nminimum_support: {images: -1}", "{'images': -1}"),
        ("checks: {a: {UP, threshold: 1}}\nminimum_support: {images: true}", "{'images': True}"),
        ("checks: {a: {UP, threshold: 1}}\nminimum_support: {images: 1.5}", "{'images': 1.5}"),
        ("checks: {a: {", "not YAML"),
    ],
)  # fmt: skip
def test_a_wrong_gates_file_is_refused_in_one_line_that_names_the_entry(tmp_path: Path, text: str, said: str) -> None:
    (tmp_path / "gates.yaml").write_text(text.replace("UP", "greater_is_better: true"))
    with pytest.raises(BadInput) as caught:
        gates.load(tmp_path / "gates.yaml")
    assert said in str(caught.value) and f"{tmp_path}/gates.yaml" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_gates_file_that_is_missing_or_no_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="set DERMANET_GATES"):
        gates.load(tmp_path / "none.yaml")
    with pytest.raises(BadInput, match="set DERMANET_GATES"):
        gates.load(tmp_path)
    (tmp_path / "gates.yaml").write_bytes(b"# gr\xfcn\nchecks: {a: 1}")
    with pytest.raises(BadInput, match="not YAML"):
        gates.load(tmp_path / "gates.yaml")
