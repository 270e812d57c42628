"""The verdict on a snapshot's data: its statistics against limits and against the snapshot before. A pure function.

A comparison counts only where there is enough of both sides to compare, and where chance alone would hardly make it.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

from dermanet import distances
from dermanet.validating.limits import Limit, Limits
from dermanet.validating.schema import Breach
from dermanet.validating.statistics import MIXES, RATES, SPREADS, Statistics, alike, known, quantile

Word = Literal["passed", "anomalous"]
Outcome = Literal["pass", "warning", "anomaly", "too few"]
CASES = 5
"""Cases of a broken rule that its line names; the report has them all."""


@dataclass(frozen=True, slots=True)
class Reading:
    """One measure of one figure: its value, the chance of one as large, and the figure before and now in words."""

    value: float
    before: str
    now: str
    chance: float = 0.0
    images: int | None = None
    """Images on the smaller side of the comparison; None where their number does not matter."""


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the verdict; `reason` is a sentence for people."""

    scope: str
    figure: str
    measure: str
    value: float
    limit: float
    before: str
    now: str
    chance: float
    outcome: Outcome
    reason: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """The word on a snapshot's data and every check behind it."""

    word: Word
    checks: tuple[Check, ...]

    @property
    def anomalies(self) -> tuple[Check, ...]:
        """The checks that stop a run."""
        return tuple(check for check in self.checks if check.outcome == "anomaly")

    def as_dict(self) -> dict[str, Any]:
        """The verdict as plain JSON."""
        return {"verdict": self.word, "checks": [asdict(check) for check in self.checks]}


def judge(
    limits: Limits, scopes: Mapping[str, Statistics], before: Statistics | None,
    breaches: Sequence[Breach] = (), accepted: Collection[tuple[str, str]] = (),
) -> Verdict:  # fmt: skip
    """Judges a snapshot. `scopes`: the statistics of the `whole`, and of the `new` where there are any.

    `before` None: there is nothing to compare with, and only what stands by itself is checked. `accepted`: the breaches, as rule
    and case, that a snapshot before had and a person let pass: of those a reminder is enough. What is an anomaly is not told again
    as a warning.
    """
    checks = [_breach(breach, accepted) for breach in breaches]
    for limit in limits.limits:
        if limit.scope in scopes:
            found = read(limit.figure, limit.measure, before, scopes[limit.scope])
            checks += [_check(limit, found, limits)] if found else []
    beyond = {_subject(check) for check in checks if check.outcome == "anomaly"}
    told = [check for check in checks if check.outcome != "warning" or _subject(check) not in beyond]
    return Verdict("anomalous" if beyond else "passed", tuple(told))


def _subject(check: Check) -> tuple[str, str, str]:
    return check.scope, check.figure, check.measure


def read(figure: str, measure: str, before: Statistics | None, now: Statistics) -> Reading | None:
    """One measure of one figure; None where it cannot be taken: nothing before, or nothing known on a side."""
    if measure == "least":
        return _least(figure, now)
    if measure == "most":
        return _most(figure, now)
    if before is None or (figure == "diagnosis" and before.taxonomy != now.taxonomy):
        return None
    if measure == "shrink":
        return _shrink(figure, before, now)
    kind = _mix if figure in MIXES else _spread if figure in SPREADS else _rate
    return kind(figure, measure, before, now)


def readings(before: Statistics | None, scopes: Mapping[str, Statistics]) -> dict[str, float]:
    """Every comparison that can be made, limited or not, as a metric: `new_diagnosis_distance`, `whole_missing_age_rise`, …"""
    wanted = [(name, measure) for name in MIXES for measure in ("distance",)]
    wanted += [(name, measure) for name in SPREADS for measure in ("distance", "shift")]
    wanted += [(f"missing_{name}", "rise") for name in RATES]
    found = {
        f"{scope}_{figure}_{measure}": read(figure, measure, before, now)
        for scope, now in scopes.items()
        for figure, measure in wanted
    }
    return {name: reading.value for name, reading in found.items() if reading}


def _check(limit: Limit, found: Reading, limits: Limits) -> Check:
    low = limit.measure == "least"
    beyond = found.value < limit.bound if low else found.value > limit.bound
    outcome: Outcome = "pass"
    if found.images is not None and found.images < limits.least_images:
        outcome = "too few"
    elif beyond and found.chance <= limits.significance:
        outcome = limit.level
    return Check(
        limit.scope, limit.figure, limit.measure, found.value, limit.bound, found.before, found.now, found.chance, outcome,
        _reason(limit, found, outcome, beyond, limits),
    )  # fmt: skip


def _reason(limit: Limit, found: Reading, outcome: Outcome, beyond: bool, limits: Limits) -> str:
    if outcome == "too few":
        return f"{found.images} images are too few to compare; {limits.least_images} are needed"
    sign = "at least" if limit.measure == "least" else "at most"
    line = f"{found.value:.3g}, {sign} {limit.bound:g}"
    if found.before:
        line += f": {found.before} before, {found.now} now"
    elif found.now:
        line += f": {found.now}"
    return line + (", which chance may make" if beyond and outcome == "pass" else "")


def _breach(breach: Breach, accepted: Collection[tuple[str, str]]) -> Check:
    fresh = [case for case in breach.cases if (breach.rule, case) not in accepted]
    outcome: Outcome = "anomaly" if fresh or not breach.cases else "warning"
    shown = fresh or list(breach.cases)
    named = ", ".join(shown[:CASES]) + (f" and {len(shown) - CASES} more" if len(shown) > CASES else "")
    reason = f"{len(shown)} {'cases' if len(shown) != 1 else 'case'}, none allowed: {named}"
    if outcome == "warning":
        reason = f"{named}, as in the snapshot before"
    return Check("schema", breach.rule, "breaches", len(shown), 0, "", named, 0.0, outcome, reason)


def _least(figure: str, now: Statistics) -> Reading:
    if figure in ("images", "lesions"):
        return Reading(getattr(now, figure), "", f"{getattr(now, figure)} {figure}")
    cells = [(count, code, side) for side, codes in now.lesions_by_side.items() for code, count in codes.items()]
    count, code, side = min(cells)
    return Reading(count, "", f"{count} lesions of {code} on the side {side}")


def _most(figure: str, now: Statistics) -> Reading | None:
    if figure in MIXES:
        mix = now.mixes[figure]
        total = sum(mix.values())
        word = max(mix, key=lambda word: mix[word], default="")
        return Reading(mix[word] / total, "", f"{word} {mix[word] / total:.0%}", images=total) if total else None
    share = now.missing[figure.removeprefix("missing_")] / now.images
    return Reading(share, "", f"missing {share:.0%}", images=now.images)


def _shrink(figure: str, before: Statistics, now: Statistics) -> Reading:
    earlier, later = getattr(before, figure), getattr(now, figure)
    return Reading(max(0.0, 1 - later / earlier), f"{earlier} {figure}", f"{later}", images=earlier)


def _mix(figure: str, measure: str, before: Statistics, now: Statistics) -> Reading | None:
    one, other = alike(before.mixes[figure], now.mixes[figure])
    sizes = sum(one.values()), sum(other.values())
    if not min(sizes):
        return None
    changes = distances.changes(one, other)
    word = max(changes, key=lambda word: abs(changes[word]))
    value = abs(changes[word]) if measure == "share" else distances.between_mixes(one, other)
    earlier, later = f"{word} {one.get(word, 0) / sizes[0]:.0%}", f"{word} {other.get(word, 0) / sizes[1]:.0%}"
    return Reading(value, earlier, later, distances.chance_of_mixes(one, other, _weights(before, now)), min(sizes))


def _spread(figure: str, measure: str, before: Statistics, now: Statistics) -> Reading | None:
    one, other = before.spreads[figure], now.spreads[figure]
    if not one or not other:
        return None
    compare: Callable[..., distances.Distance] = distances.fall if measure == "fall" else distances.between_spreads
    distance = compare(one, other, _weights(before, now))
    medians = quantile(one, 0.5), quantile(other, 0.5)
    value = abs(medians[1] - medians[0]) / _width(one) if measure == "shift" else distance.value
    earlier, later = f"median {medians[0]:.4g}", f"median {medians[1]:.4g}"
    return Reading(value, earlier, later, distance.chance, min(known(one), known(other)))


def _width(spread: list[tuple[float, int]]) -> float:
    """The range of the middle half; where that is nothing, a twentieth of the median."""
    middle = quantile(spread, 0.75) - quantile(spread, 0.25)
    return middle or abs(quantile(spread, 0.5)) / 20 or 1.0


def _rate(figure: str, measure: str, before: Statistics, now: Statistics) -> Reading:
    name = figure.removeprefix("missing_")
    mixes = [{"missing": s.missing[name], "known": s.images - s.missing[name]} for s in (before, now)]
    shares = [s.missing[name] / s.images for s in (before, now)]
    chance = distances.chance_of_mixes(mixes[0], mixes[1], _weights(before, now))
    rise, images = max(0.0, shares[1] - shares[0]), min(before.images, now.images)
    return Reading(rise, f"{shares[0]:.0%}", f"{shares[1]:.0%}", chance, images)


def _weights(before: Statistics, now: Statistics) -> tuple[float, float]:
    return before.lesions / before.images, now.lesions / now.images
