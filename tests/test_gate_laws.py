"""What holds of every verdict, whatever the gates and the figures: no order matters, and who is nowhere worse is never judged worse.

Figures, ends of intervals and limits are drawn from one coarse scale, so that they often meet exactly.
"""

import dataclasses
import json
import random
from collections import Counter
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import samples
import yaml
from hypothesis import HealthCheck, event, given, settings
from hypothesis import strategies as st
from test_evaluation import KNOWN, baseline, case

from dermanet.judging import gates as file
from dermanet.judging.evaluation import Answered, Evaluation, Scores, Sliced, evaluated
from dermanet.judging.gates import Change, Gates, Limit, SliceLimits
from dermanet.judging.slices import slices
from dermanet.judging.verdict import Check, Verdict, judge
from dermanet.records import Answers
from dermanet.settings import GATES

UP = {"age_mae": False, "sex_ece": False, "diagnosis_accuracy": True, "diagnosis_recall_mel": True}
"""Whether more is better."""

PARTS = {"sex": ("female", "male"), "site": ("back", "face", "hand")}
ORDER = ("fail", "insufficient", "pass")
"""Words of verdicts, the worst first."""

numbers = st.integers(-12, 12).map(lambda n: n / 4)
gains = st.integers(0, 6).map(lambda n: n / 4)
counts = st.sampled_from([0, 5, 20, 100])
supports = st.dictionaries(st.sampled_from(["images", "lesions", "ages", "diagnosis_mel"]), counts, max_size=2)
judged_by = st.sampled_from(["figure", "worse end", "better end"])
changes = st.builds(Change, min_absolute_change=numbers, judged_by=judged_by)
ends = st.tuples(numbers, numbers).map(lambda pair: (min(pair), max(pair)))
figures = st.dictionaries(st.sampled_from(list(UP)), numbers, min_size=2)
intervals = st.dictionaries(st.sampled_from(list(UP)), ends, min_size=2)
some_limits = st.sets(st.sampled_from(list(UP)), max_size=4).flatmap(
    lambda names: st.fixed_dictionaries({
        name: st.builds(
            Limit, greater_is_better=st.just(UP[name]), threshold=st.none() | numbers, judged_by=judged_by,
            baseline=st.none() | changes, champion=st.none() | changes, minimum_support=st.just({}) | supports,
            too_few=st.sampled_from(["insufficient", "not judged"]),
        )
        for name in sorted(names)
    })
)  # fmt: skip
some_parts = st.sampled_from(list(PARTS)).flatmap(
    lambda axis: st.builds(
        SliceLimits, axis=st.just(axis), values=st.lists(st.sampled_from(PARTS[axis]), unique=True).map(tuple),
        minimum_support=st.just({}) | supports, checks=some_limits,
    )
)  # fmt: skip
some_gates = st.builds(
    Gates, mode=st.sampled_from(["enforce", "dry run"]), minimum_support=st.just({}) | supports, checks=some_limits,
    slices=st.lists(some_parts, max_size=2).map(tuple),
)  # fmt: skip
some_scores = st.builds(
    Scores, support=st.fixed_dictionaries({"images": counts}, optional={"lesions": counts, "diagnosis_mel": counts}),
    candidate=figures, intervals=intervals, baseline=figures, over_baseline=intervals,
    champion=st.none() | figures, over_champion=st.none() | intervals,
)  # fmt: skip
some_evaluations = st.builds(
    lambda whole, parts: Evaluation(whole, tuple(Sliced(*name, found) for name, found in parts.items())),
    some_scores,
    st.dictionaries(
        st.sampled_from([(axis, value) for axis, values in PARTS.items() for value in values]), some_scores, max_size=4
    ),
)
some_integrity = st.lists(
    st.sampled_from(["pass", "pass", "pass", "fail"]).map(
        lambda word: Check("leaked_images", "integrity", None, None, word, "as it is", 100)  # type: ignore[arg-type]
    ),
    max_size=2,
)
some_codes = st.sampled_from([(), ("mel", "nv"), ("acne", "psoriasis")])


def shuffled(thing: Any, chance: random.Random) -> Any:
    """The same in another order: every mapping, list and tuple of it, however deep, but ends of intervals."""
    if isinstance(thing, dict):
        pairs = chance.sample(list(thing.items()), len(thing))
        return {name: shuffled(value, chance) for name, value in pairs}
    if isinstance(thing, list | tuple) and not all(isinstance(one, float) for one in thing):
        return type(thing)(shuffled(one, chance) for one in chance.sample(thing, len(thing)))
    if isinstance(thing, Gates | SliceLimits | Limit | Change):
        return type(thing)(**{name: shuffled(getattr(thing, name), chance) for name in type(thing).model_fields})
    if isinstance(thing, Scores | Sliced | Evaluation):
        fields = [field.name for field in dataclasses.fields(thing)]
        return type(thing)(**{name: shuffled(getattr(thing, name), chance) for name in fields})
    return thing


def told(verdict: Verdict) -> Counter[Check]:
    """The checks of a verdict, however often each; what is too small may be named in any order."""
    words = [" ".join(sorted(check.reason.replace(",", "").split())) for check in verdict.checks]
    return Counter(
        dataclasses.replace(check, reason=reason) for check, reason in zip(verdict.checks, words, strict=True)
    )


@given(some_gates, some_evaluations, some_integrity, some_codes, st.randoms(use_true_random=False))
def test_no_order_matters_of_checks_slices_supports_or_what_was_found(
    limits: Gates, found: Evaluation, integrity: list[Check], codes: tuple[str, ...], chance: random.Random
) -> None:
    first = judge(limits, found, integrity, codes)
    second = judge(
        shuffled(limits, chance), shuffled(found, chance), shuffled(integrity, chance), shuffled(codes, chance)
    )
    assert first.word == second.word and first.lets_register == second.lets_register
    assert told(first) == told(second)


@settings(suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.none() | some_gates, st.randoms(use_true_random=False))
def test_the_order_of_the_keys_in_the_file_does_not_matter(
    tmp_path: Path, drawn: Gates | None, chance: random.Random
) -> None:
    data = yaml.safe_load(GATES.read_text())
    if drawn:
        data = json.loads(drawn.model_dump_json(exclude_none=True))
        for checks in (data["checks"], *(one["checks"] for one in data["slices"])):
            # It has no interval, so that not every limit that is drawn may be laid on it.
            checks.pop("sex_ece", None)
            for limit in checks.values():
                limit["threshold"] = 0.5
                for change in (limit[name] for name in ("baseline", "champion") if name in limit):
                    change["min_absolute_change"] /= 4  # No two shares are further apart than 1.
            checks.setdefault("sex_auc", {"greater_is_better": True, "threshold": 0.5})
    loaded = []
    for text in (yaml.safe_dump(data, sort_keys=False), yaml.safe_dump(shuffled_keys(data, chance), sort_keys=False)):
        (tmp_path / "gates.yaml").write_text(text)
        loaded.append(file.load(tmp_path / "gates.yaml", samples.CODES))
    assert loaded[0] == loaded[1]


def shuffled_keys(thing: Any, chance: random.Random) -> Any:
    """The same YAML with the keys of every mapping in another order."""
    if isinstance(thing, dict):
        return {key: shuffled_keys(value, chance) for key, value in chance.sample(list(thing.items()), len(thing))}
    return [shuffled_keys(one, chance) for one in thing] if isinstance(thing, list) else thing


@st.composite
def no_worse(draw: st.DrawFn, scores: Scores) -> Scores:
    """Scores on the same images against the same others, every figure and every end as good or better, and fewer lacking."""

    def figure(name: str, value: float) -> float:
        return value + draw(gains) * (1 if UP[name] else -1)

    def interval(name: str, pair: tuple[float, float]) -> tuple[float, float]:
        low, high = sorted(figure(name, end) for end in pair)
        return low, high

    def better(intervals: dict[str, tuple[float, float]] | None) -> dict[str, tuple[float, float]] | None:
        return intervals and {name: interval(name, pair) for name, pair in intervals.items()}

    candidate = {name: figure(name, value) for name, value in scores.candidate.items()}
    return dataclasses.replace(
        scores,
        candidate=draw(figures) | candidate,
        intervals=draw(intervals) | (better(scores.intervals) or {}),
        over_baseline=better(scores.over_baseline) or {},
        over_champion=better(scores.over_champion),
    )


@st.composite
def two_candidates(draw: st.DrawFn) -> tuple[Evaluation, Evaluation]:
    """Two evaluations on one holdout against one champion and baseline, the second nowhere worse."""
    worse = draw(some_evaluations)
    parts = [dataclasses.replace(one, scores=draw(no_worse(one.scores))) for one in worse.slices]
    return worse, Evaluation(draw(no_worse(worse.whole)), tuple(parts))


@settings(max_examples=300)
@given(some_gates, two_candidates(), some_integrity, some_codes)
def test_who_is_nowhere_worse_passes_whatever_a_worse_one_passes(
    limits: Gates, candidates: tuple[Evaluation, Evaluation], integrity: list[Check], codes: tuple[str, ...]
) -> None:
    worse, better = (judge(limits, found, integrity, codes) for found in candidates)
    event(f"{worse.word}, then {better.word}")
    assert ORDER.index(better.word) >= ORDER.index(worse.word) and better.lets_register >= worse.lets_register
    for old, new in zip(worse.checks, better.checks, strict=True):
        assert (old.metric, old.kind, old.slice) == (new.metric, new.kind, new.slice)
        assert old.outcome == new.outcome or (old.outcome, new.outcome) == ("fail", "pass"), (old, new)


@given(some_gates, some_evaluations, some_integrity, some_codes)
def test_a_verdict_is_the_worst_of_its_checks_and_plain_json(
    limits: Gates, found: Evaluation, integrity: list[Check], codes: tuple[str, ...]
) -> None:
    verdict = judge(limits, found, integrity, codes)
    outcomes = [check.outcome for check in verdict.checks]
    assert (verdict.word == "pass") == (not {"fail", "insufficient"} & set(outcomes))
    assert (verdict.word == "fail") <= ("fail" in outcomes) and all(check.reason for check in verdict.checks)
    assert json.loads(json.dumps(verdict.as_dict(), allow_nan=False))["verdict"] == verdict.word


NEVER_WORSE = {
    "diagnosis_accuracy": Limit(
        greater_is_better=True, threshold=0.5, judged_by="worse end", baseline=Change(min_absolute_change=0.0, judged_by="worse end"),
        champion=Change(min_absolute_change=-0.1, judged_by="better end"),
    ),
    "diagnosis_recall_mel": Limit(
        greater_is_better=True, threshold=0.4, judged_by="better end", champion=Change(min_absolute_change=-0.2)
    ),
    "age_mae": Limit(
        greater_is_better=False, threshold=15, judged_by="worse end", champion=Change(min_absolute_change=-2, judged_by="worse end")
    ),
}  # fmt: skip
"""Limits on figures that no answer can lower by becoming right."""

LIMITS = Gates(checks=NEVER_WORSE, slices=tuple(SliceLimits(axis=axis, checks=NEVER_WORSE) for axis in ("sex", "site")))


@pytest.mark.parametrize("seed", range(3))
def test_answers_that_become_right_one_after_another_never_make_the_verdict_worse(seed: int) -> None:
    """From made-up answers to the verdict, through the bootstrap: the worst network, and the same with more and more put right."""
    records, _, good = case(140, seed)
    rng = np.random.default_rng(seed)
    truth = np.array([KNOWN.codes.index(record.labels.diagnosis) for record in records])
    ages = np.array([record.labels.age for record in records], np.float32)
    said, age = rng.integers(0, 7, len(records)), ages + rng.normal(0, 25, len(records)).astype(np.float32)
    order, words, passed = rng.permutation(len(records)), [], []
    for right in (0, 40, 80, 110, 125, 140):
        now = order[:right]
        said[now], age[now] = truth[now], ages[now]
        answers = Answers(age.copy(), good.sex, np.eye(7, dtype=np.float32)[said] * 0.9 + 0.1 / 7)
        answered = Answered(answers, baseline(records), good)
        verdict = judge(LIMITS, evaluated(records, answered, KNOWN, slices(records, {}), draws=100))
        words.append(verdict.word)
        passed.append({(c.metric, c.kind, c.slice) for c in verdict.checks if c.outcome == "pass"})
    assert words == sorted(words, key=ORDER.index) and words[0] == "fail" and words[-1] == "pass"
    assert all(before <= after for before, after in pairwise(passed))
