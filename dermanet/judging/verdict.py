"""The verdict: an evaluation and limits in, a word with every check behind it out. A pure function; no version without its pass."""

import math
from collections import Counter
from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from dermanet.figures import end
from dermanet.judging.evaluation import Evaluation, Scores
from dermanet.judging.gates import Change, Gates, Limit, Mode, SliceLimits, diagnosis_of

Word = Literal["pass", "fail", "insufficient", "not judged"]
Outcome = Literal["pass", "warning", "fail", "insufficient", "not judged"]
Kind = Literal["integrity", "support", "threshold", "baseline", "champion"]

QUIET = ("pass", "not judged")
"""Outcomes that neither speak against a pass nor warn."""

NEAR, NEAR_IN_YEARS = 0.01, 0.1
"""How near to the best that there is counts as the best, of shares and in years of age, unless a smaller change is asked for."""


@dataclass(frozen=True, slots=True)
class Check:
    """One line of a verdict.

    `value` and `limit` are None where a figure is missing or no number; `n`: images behind it, of a diagnosis's own figures those that
    have it; `reason` is a sentence for people; `slice` is
    empty where the whole holdout is meant. A check that is `not judged`, or a `warning`, does not keep from passing.
    """

    metric: str
    kind: Kind
    value: float | None
    limit: float | None
    outcome: Outcome
    reason: str
    n: int | None = None
    slice: str = ""


@dataclass(frozen=True, slots=True)
class Verdict:
    """The gate's word and every check behind it. `not judged`: the gates are off."""

    word: Word
    checks: tuple[Check, ...]
    mode: Mode = "enforce"

    @property
    def lets_register(self) -> bool:
        """Whether a version may be made: after a pass, or where the gates only watch."""
        return self.word == "pass" or self.mode != "enforce"

    def told(self) -> list[str]:
        """What speaks against a pass or warns, a line a check."""
        spoken = [check for check in self.checks if check.outcome not in QUIET]
        return [f"{check.metric}{f' of {check.slice}' if check.slice else ''}: {check.reason}" for check in spoken]

    def in_slices(self) -> str:
        """A sentence about the checks in slices, of which there may be many; empty where there are none."""
        outcomes = Counter(check.outcome for check in self.checks if check.slice)
        return ", ".join(f"{count} {word}" for word, count in sorted(outcomes.items(), key=lambda pair: -pair[1]))

    def as_dict(self) -> dict[str, Any]:
        """The verdict as plain JSON, as it is kept beside the run."""
        checks = [asdict(check) for check in self.checks]
        return {
            "verdict": self.word, "mode": self.mode, "registers": self.lets_register, "told": self.told(),
            "in_slices": self.in_slices(), "checks": checks,
        }  # fmt: skip


def from_dict(record: Mapping[str, Any]) -> Verdict:
    """The verdict that `as_dict` wrote, whatever else stands beside it."""
    return Verdict(record["verdict"], tuple(Check(**check) for check in record["checks"]), record["mode"])


def judge(
    gates: Gates, evaluation: Evaluation, integrity: Sequence[Check] = (), codes: Collection[str] = ()
) -> Verdict:
    """Judges a candidate. Where there is no champion, its checks are left out; those of a diagnosis not among `codes` are not judged.

    `integrity`: what was found out about the evaluation itself; one that fails, fails it all. Else too small a holdout makes the
    verdict `insufficient`, whatever the figures say. A missing figure is a failed check.
    """
    if gates.mode == "off":
        return Verdict("not judged", (), "off")
    whole = evaluation.whole
    support = [_support(name, least, whole.support) for name, least in gates.minimum_support.items()]
    checks = [check for metric, limit in gates.checks.items() for check in _checks(metric, limit, whole, "")]
    checks += [check for limits in gates.slices for check in _of_slices(limits, evaluation)]
    checks = [
        _of_another_list(check) if codes and diagnosis_of(check.metric) not in ("", *codes) else check
        for check in checks
    ]
    return Verdict(_word(integrity, support, checks), (*integrity, *support, *checks), gates.mode)


def _word(integrity: Sequence[Check], support: Sequence[Check], checks: Sequence[Check]) -> Word:
    if any(check.outcome == "fail" for check in integrity):
        return "fail"
    if any(check.outcome == "insufficient" for check in support):
        return "insufficient"
    outcomes = {check.outcome for check in checks}
    return "fail" if "fail" in outcomes else "insufficient" if "insufficient" in outcomes else "pass"


def _of_another_list(check: Check) -> Check:
    reason = f"the snapshot's list of diagnoses has no {diagnosis_of(check.metric)}"
    return replace(check, outcome="not judged", reason=reason)


def _of_slices(limits: SliceLimits, evaluation: Evaluation) -> Iterator[Check]:
    found = {one.value: one.scores for one in evaluation.slices if one.axis == limits.axis}
    for value in limits.values or tuple(found):
        name, scores = f"{limits.axis}: {value}", found.get(value)
        short = _short(limits.minimum_support, scores.support if scores else {})
        if scores is None or short:
            # Who names a slice wants it judged; of the others a rare one would stop everything.
            outcome: Outcome = "insufficient" if limits.values else "not judged"
            reason = short or f"the holdout has no image of {name}"
            yield Check(
                "support", "support", None, None, outcome, reason, scores.support["images"] if scores else 0, name
            )
        else:
            for metric, limit in limits.checks.items():
                yield from _checks(metric, limit, scores, name)
    if not found and not limits.values:
        yield Check(
            "support",
            "support",
            None,
            None,
            "not judged",
            f"the holdout is not sliced by {limits.axis}",
            0,
            limits.axis,
        )


def _checks(metric: str, limit: Limit, scores: Scores, where: str) -> Iterator[Check]:
    n, short = _cases(metric, scores.support), _short(limit.minimum_support, scores.support)
    others = {"baseline": (limit.baseline, scores.baseline, scores.over_baseline)}
    if scores.champion is not None:
        others["champion"] = (limit.champion, scores.champion, scores.over_champion or {})
    if short:
        yield Check(metric, "support", None, None, limit.too_few, short, n, where)
        return
    if limit.threshold is not None:
        yield _threshold(metric, limit, limit.threshold, scores, where)
    for kind, (change, figures, over) in others.items():
        if change is not None:
            yield _change(metric, limit, kind, change, scores, figures, over, where)  # type: ignore[arg-type]


def _threshold(metric: str, limit: Limit, threshold: float, scores: Scores, where: str) -> Check:
    value, origin = _figure(scores.candidate, metric), "the limit"
    if limit.judged_by != "figure":
        low, high = scores.intervals.get(metric, (None, None))
        value = low if limit.greater_is_better == (limit.judged_by == "worse end") else high
        origin = (
            f"the limit, for the {limit.judged_by} of the 95 % interval of {_number(_figure(scores.candidate, metric))}"
        )
    return _check(metric, limit, "threshold", value, threshold, origin, scores, where)


def _change(
    metric: str, limit: Limit, kind: Kind, change: Change, scores: Scores, figures: Mapping[str, float],
    over: Mapping[str, tuple[float, float]], where: str,
) -> Check:  # fmt: skip
    value, other, least, n = (
        _figure(scores.candidate, metric),
        _figure(figures, metric),
        change.min_absolute_change,
        _cases(metric, scores.support),
    )
    if other is None:
        return Check(metric, kind, value, None, "fail", f"the {kind} has no {metric} on this holdout", n, where)
    best = _best_there_is(metric, limit, kind, value, other, least, n, where)
    if best:
        return best
    ends = over.get(metric)
    between = f", 95 % of the difference {ends[0]:+.3g} to {ends[1]:+.3g}" if ends else ""
    if change.judged_by != "figure":
        worse, better = (None, None) if ends is None else ends if limit.greater_is_better else (-ends[1], -ends[0])
        end = worse if change.judged_by == "worse end" else better
        origin = f"{_number(value)} beside the {kind}'s {other:.4g}{between}"
        return _better_by(metric, kind, end, change, origin, n, where)
    bound = other + least if limit.greater_is_better else other - least
    origin = f"the {kind}'s {other:.4g} and a change of {least:+g}{between}"
    return _check(metric, limit, kind, value, bound, origin, scores, where)


def _best_there_is(
    metric: str, limit: Limit, kind: Kind, value: float | None, other: float, least: float, n: int, where: str
) -> Check | None:
    """A pass for who is as good as can be, where the limit asks for more than there is: with one sex only the trivial reader has 1.

    None where the limit can be reached, or the candidate is not as good: then the limit stands, and nobody is let through by it.
    """
    sign, most = (1 if limit.greater_is_better else -1), end(metric)
    if value is None or sign * (other - most) + least <= 0:
        return None
    near = most - sign * min(least, NEAR_IN_YEARS if metric == "age_mae" else NEAR)
    if sign * (value - near) < 0:
        return None
    reason = (
        f"{value:.4g}, as good as can be: the {kind}'s {other:.4g} and a change of {least:+g} are more than there is"
    )
    return Check(metric, kind, value, near, "pass", reason, n, where)


def _better_by(metric: str, kind: Kind, end: float | None, change: Change, origin: str, n: int, where: str) -> Check:
    least = change.min_absolute_change
    if end is None:
        reason = f"{metric} has no interval here; judge it by its figure"
        return Check(metric, kind, None, least, "fail", reason, n, where)
    reason = f"better by {end:+.4g} at the {change.judged_by}; at least {least:+g} ({origin})"
    return Check(metric, kind, end, least, "pass" if end >= least else "fail", reason, n, where)


def _check(
    metric: str, limit: Limit, kind: Kind, value: float | None, bound: float, origin: str, scores: Scores, where: str
) -> Check:
    n = _cases(metric, scores.support)
    if value is None:
        return Check(metric, kind, None, bound, "fail", f"{metric} could not be computed on this holdout", n, where)
    passed = value >= bound if limit.greater_is_better else value <= bound
    word = "at least" if limit.greater_is_better else "at most"
    reason = f"{value:.4g}; {word} {bound:.4g} ({origin})"
    return Check(metric, kind, value, bound, "pass" if passed else "fail", reason, n, where)


def _figure(figures: Mapping[str, float], metric: str) -> float | None:
    """A figure; None where there is none, or one that is no number."""
    value = figures.get(metric)
    return value if value is not None and math.isfinite(value) else None


def _cases(metric: str, support: Mapping[str, int]) -> int:
    """How many images a figure is of: those of its diagnosis, those whose age is known, or all."""
    code = diagnosis_of(metric)
    return support.get(f"diagnosis_{code}" if code else "ages" if metric == "age_mae" else "images", 0)


def _support(name: str, least: int, support: Mapping[str, int]) -> Check:
    seen = support.get(name, 0)
    reason = _short({name: least}, support) or f"the holdout has {seen} {name}; at least {least}"
    return Check(
        name, "support", seen, least, "insufficient" if seen < least else "pass", reason, support.get("images", 0)
    )


def _short(least: Mapping[str, int], support: Mapping[str, int]) -> str:
    """What of the support is too small, in words; empty where nothing is."""
    lacking = [
        f"{support.get(name, 0)} {name}; nothing is decided below {count}"
        for name, count in least.items()
        if support.get(name, 0) < count
    ]
    return f"there are {', '.join(lacking)}" if lacking else ""


def _number(value: float | None) -> str:
    return "no figure" if value is None else f"{value:.4g}"
