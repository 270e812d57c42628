"""The verdict on one version's answers in one window: against what it answered on its own validation side. Pure functions.

Each figure has an effect size, which limits are set on, and the probability of one as large by chance: mixes the total variation
distance and the chi-square test, spreads Kolmogorov and Smirnov's distance and test, rates their change and Fisher's exact test.
Of the eight figures of a sketch the one furthest apart counts, its chance eightfold (Bonferroni; one test a dimension is as
good as tests of all at once: Rabanser, Günnemann & Lipton, 2019). Over all figures of a window chances are adjusted together
(Benjamini & Hochberg, 1995), so that a window in which nothing has changed is called drifted at most `false_alarms` often.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any, Literal

from dermanet import distances
from dermanet.monitoring.limits import FIGURES, Limits, bound
from dermanet.monitoring.sample import MIXES, RATES, Mix, Sample, Traffic, quantile

Word = Literal["steady", "drift", "insufficient", "not known"]
Outcome = Literal["pass", "warning", "drift", "too few", "not known"]

LEAST_EXPECTED = 5.0
"""Images that a word must be expected to have for the chi-square test; rarer ones are counted together."""

OTHERS = "others"


@dataclass(frozen=True, slots=True)
class Reading:
    """One figure against the reference: how far apart, how likely by chance, both in words, and images on the smaller side."""

    figure: str
    value: float
    chance: float
    before: str
    now: str
    images: int


@dataclass(frozen=True, slots=True)
class Check:
    """One line of the verdict. `chance`: adjusted, 0 where it plays no part; `limit`: None where nothing is limited or known."""

    figure: str
    value: float | None
    limit: float | None
    chance: float
    before: str
    now: str
    outcome: Outcome
    reason: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """The word on one version in one window, and every check behind it."""

    word: Word
    checks: tuple[Check, ...]

    def lines(self, *outcomes: Outcome) -> list[str]:
        """What is told of checks with these outcomes."""
        return [f"{check.figure} {check.reason}" for check in self.checks if check.outcome in outcomes]

    def as_dict(self) -> dict[str, Any]:
        """The verdict as plain JSON."""
        return {"verdict": self.word, "checks": [asdict(check) for check in self.checks]}


def witnessed(limits: Limits, reference: Sample | None, sample: Sample) -> Sample:
    """A window's sample with as many witnesses as its images are taken to be of lesions: the log knows none."""
    own = reference.images / max(reference.witnesses, 1) if reference else 1.0
    lesions = round(sample.images / max(1.0, limits.window.images_a_lesion or own))
    return replace(sample, witnesses=min(sample.images, max(1, lesions)))


def judge(limits: Limits, reference: Sample | None, sample: Sample, traffic: Traffic) -> Verdict:
    """Judges what a version answered in a window. `reference` None: its version has none, and nothing can be compared."""
    least = limits.window.least_images
    own = [
        *_by_itself(limits, "failed", traffic.failed / traffic.requests if traffic.requests else 0.0),
        *_by_itself(limits, "milliseconds", traffic.milliseconds),
    ]
    if sample.witnesses < least:
        taken = f", taken to be of {sample.witnesses} lesions," * (sample.witnesses < sample.images)
        reason = f"{sample.images} images{taken} are too few to compare; {least} are needed"
        return Verdict("insufficient", (*_unread(FIGURES, "too few", reason), *own))
    if reference is None:
        reason = "not known: the version was logged without its reference"
        return Verdict("not known", (*_unread(FIGURES, "not known", reason), *own))
    checks = [*_compared(limits, reference, sample), *own]
    word: Word = "drift" if any(check.outcome == "drift" for check in checks) else "steady"
    if word == "steady" and all(check.outcome in ("too few", "not known") for check in checks[: len(FIGURES)]):
        word = "insufficient"
    return Verdict(word, tuple(checks))


def readings(reference: Sample, sample: Sample) -> list[Reading]:
    """Every figure that is known on both sides."""
    found = (_read(figure, reference, sample) for figure in FIGURES)
    return [reading for reading in found if reading]


def adjusted(chances: Sequence[float]) -> list[float]:
    """Chances of several comparisons, by Benjamini and Hochberg's procedure: the share of false alarms that is run at each."""
    from scipy.stats import false_discovery_control

    return [float(chance) for chance in false_discovery_control(chances)] if chances else []


def pooled(before: Mix, now: Mix) -> tuple[Mix, Mix]:
    """Two mixes in which the words are counted together that chance alone would make too rare for the chi-square test."""
    sizes = sum(before.values()), sum(now.values())
    smaller = min(sizes) / sum(sizes)
    rare = {word for word in {*before, *now} if (before.get(word, 0) + now.get(word, 0)) * smaller < LEAST_EXPECTED}
    if len(rare) < 2:
        return before, now
    kept = [{word: count for word, count in mix.items() if word not in rare} for mix in (before, now)]
    rest = [{OTHERS: sum(count for word, count in mix.items() if word in rare)} for mix in (before, now)]
    return kept[0] | rest[0], kept[1] | rest[1]


def _compared(limits: Limits, reference: Sample, sample: Sample) -> list[Check]:
    found, least = {one.figure: one for one in readings(reference, sample)}, limits.window.least_images
    large = [one for one in found.values() if one.images >= least]
    chances = dict(zip([one.figure for one in large], adjusted([one.chance for one in large]), strict=True))
    return [_check(limits, figure, found.get(figure), chances.get(figure)) for figure in FIGURES]


def _check(limits: Limits, figure: str, found: Reading | None, chance: float | None) -> Check:
    if found is None:
        return _unread([figure], "not known", "not known: the log or the version's reference has none")[0]
    if chance is None:
        reason = f"{found.images} images are too few to compare; {limits.window.least_images} are needed"
        return _unread([figure], "too few", reason)[0]
    acts, tells = bound(limits.drift, figure), bound(limits.warning, figure)
    outcome: Outcome = "pass"
    by_chance = chance > limits.false_alarms
    if not by_chance:
        outcome = "drift" if acts is not None and found.value > acts else outcome
        if outcome == "pass" and tells is not None and found.value > tells:
            outcome = "warning"
    limit = tells if outcome == "warning" else acts if acts is not None else tells
    line = f"{found.value:.2f}" + (f", at most {limit:g}" if limit is not None else "")
    beyond = limit is not None and found.value > limit
    reason = f"{line}: {found.before} before, {found.now} now" + (", which chance may make" * (beyond and by_chance))
    return Check(figure, found.value, limit, chance, found.before, found.now, outcome, reason)


def _unread(figures: Sequence[str], outcome: Outcome, reason: str) -> list[Check]:
    return [Check(figure, None, None, 0.0, "", "", outcome, reason) for figure in figures]


def _by_itself(limits: Limits, figure: str, value: float | None) -> list[Check]:
    most = bound(limits.warning, figure)
    return [] if value is None else [stands_alone(figure, value, most)]


def stands_alone(figure: str, value: float, most: float | None, told: str = "") -> Check:
    """The check of a figure that is compared with nothing but its limit. `told`: how it reads to people."""
    said = told or f"{value:.4g}"
    outcome: Outcome = "warning" if most is not None and value > most else "pass"
    reason = said + (f", at most {most:g}" if most is not None else "")
    return Check(figure, value, most, 0.0, "", said, outcome, reason)


def _read(figure: str, reference: Sample, sample: Sample) -> Reading | None:
    if figure in MIXES:
        return _mix(figure, reference, sample)
    if figure in RATES:
        return _rate(figure, reference, sample)
    return _sketch(reference, sample) if figure == "sketch" else _spread(figure, reference, sample)


def _mix(figure: str, reference: Sample, sample: Sample) -> Reading | None:
    before, now = reference.mixes[figure], sample.mixes[figure]
    sizes = sum(before.values()), sum(now.values())
    if not min(sizes):
        return None
    changes = distances.changes(before, now)
    word = max(changes, key=lambda word: abs(changes[word]))
    chance = distances.chance_of_mixes(*pooled(before, now), _weights(reference, sample))
    said = [f"{word} {mix.get(word, 0) / size:.0%}" for mix, size in zip((before, now), sizes, strict=True)]
    return Reading(
        figure, distances.between_mixes(before, now), chance, said[0], said[1], _fewer(sizes, reference, sample)
    )


def _rate(figure: str, reference: Sample, sample: Sample) -> Reading | None:
    from scipy.stats import fisher_exact

    (before, of), (now, among) = reference.rates[figure], sample.rates[figure]
    if not of or not among:
        return None
    pairs = zip(((before, of), (now, among)), _weights(reference, sample), strict=True)
    table = [[round(cases * weight), round((all_ - cases) * weight)] for (cases, all_), weight in pairs]
    shares = before / of, now / among
    chance = float(fisher_exact(table).pvalue)
    return Reading(
        figure,
        abs(shares[1] - shares[0]),
        chance,
        f"{shares[0]:.0%}",
        f"{shares[1]:.0%}",
        _fewer((of, among), reference, sample),
    )


def _spread(figure: str, reference: Sample, sample: Sample) -> Reading | None:
    before, now = reference.spreads.get(figure), sample.spreads.get(figure)
    if not before or not now:
        return None
    found = distances.between_spreads(before, now, _weights(reference, sample))
    said = [f"median {quantile(one, 0.5):.4g}" for one in (before, now)]
    return Reading(
        figure, found.value, found.chance, said[0], said[1], _fewer((_known(before), _known(now)), reference, sample)
    )


def _sketch(reference: Sample, sample: Sample) -> Reading | None:
    names = sorted(name for name in reference.spreads if name.startswith("sketch_"))
    found = [reading for name in names if (reading := _spread(name, reference, sample))]
    if not found:
        return None
    furthest = max(found, key=lambda one: one.value)
    number = furthest.figure.removeprefix("sketch_")
    chance = min(1.0, min(one.chance for one in found) * len(found))
    said = f"{furthest.before} of figure {number}", furthest.now
    return Reading("sketch", furthest.value, chance, *said, furthest.images)


def _weights(reference: Sample, sample: Sample) -> tuple[float, float]:
    """Images of one lesion are no independent witnesses: by how much each side's counts are worth less."""
    return reference.witnesses / max(reference.images, 1), sample.witnesses / max(sample.images, 1)


def _fewer(sizes: tuple[int, int], reference: Sample, sample: Sample) -> int:
    """Images on the smaller side, the window's as if there were only as many as lesions."""
    return min(sizes[0], round(sizes[1] * _weights(reference, sample)[1]))


def _known(spread: Sequence[tuple[float, int]]) -> int:
    return sum(count for _, count in spread)


def from_dict(record: Mapping[str, Any]) -> Verdict:
    """What `as_dict` has recorded."""
    return Verdict(record["verdict"], tuple(Check(**check) for check in record["checks"]))
