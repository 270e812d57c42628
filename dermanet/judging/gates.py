"""The gates file: what a candidate must reach on the holdout. Reviewed like code, read and checked whole (docs/gates.md)."""

import math
import re
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from dermanet import taxonomy, yamlentries
from dermanet.figures import LESS_IS_BETTER
from dermanet.judging.slices import AXES, NO_WORD, NOT_RECORDED, known_values
from dermanet.yamlentries import Entry

Mode = Literal["enforce", "dry run", "off"]
Promotion = Literal["automatic", "approval"]
JudgedBy = Literal["figure", "worse end", "better end"]
"""The figure itself; or an end of its 95 % interval: the worse must surely reach a limit, the better must not surely miss it."""
TooFew = Literal["insufficient", "not judged"]
"""What a check is where there are fewer cases than it needs: no decision without it, or none by it."""
Support = dict[str, Annotated[int, Field(ge=0)]]

METRIC = re.compile(
    r"age_mae|(sex|diagnosis)_(accuracy|ece|brier|log_loss)|sex_(f1|auc)|diagnosis_(balanced_accuracy|f1_weighted|f1_macro)"
    r"|diagnosis_(f1|recall|precision|auc)_(?P<code>[a-z][a-z0-9_]*)|diagnosis_sensitivity_(?P<malignant>[a-z][a-z0-9_]*)_at_(80|90|95)"
)
"""The names that figures have; `metrics` says what they are."""

NO_SHARE = re.compile(r"age_mae|.*_(brier|log_loss)")
"""Figures that are not between 0 and 1."""

RANKED, CALIBRATED = re.compile(r".*_(auc|sensitivity)(_.*)?"), re.compile(r".*_(ece|brier|log_loss)")
"""Figures that have intervals on the whole holdout alone, and those that have none."""

COUNTED = re.compile(r"images|lesions|ages|diagnosis_(?P<code>[a-z][a-z0-9_]*)")
"""What a support counts."""

COMPARED = ("baseline", "champion")
"""Whom a limit compares with."""


class Change(Entry):
    """How much better than another a candidate must be, in the metric's own unit; below 0: how much worse it may be."""

    min_absolute_change: float
    judged_by: JudgedBy = "figure"
    """Of the difference and its interval."""


class Limit(Entry):
    """What one metric must reach: by itself, against the trivial reader, against the champion."""

    greater_is_better: bool
    threshold: float | None = None
    judged_by: JudgedBy = "figure"
    """Of the figure and its interval, by the threshold."""
    baseline: Change | None = None
    champion: Change | None = None
    minimum_support: Support = {}
    """Below this the check decides nothing."""
    too_few: TooFew = "insufficient"
    """What the check is then: the whole verdict waits for more cases, or goes on without it."""


class SliceLimits(Entry):
    """Limits for each slice of an axis."""

    axis: Literal[AXES]  # type: ignore[valid-type]
    values: tuple[str, ...] = ()
    """The slices that must be there and large enough; none: all that are, and the small ones are passed over."""
    minimum_support: Support = {}
    checks: dict[str, Limit]


class HoldoutWear(Entry):
    """How many verdicts a holdout may give: who tries often enough passes by chance."""

    warn_after: Annotated[int, Field(ge=1)] = 26
    refuse_after: Annotated[int, Field(ge=1)] = 52


class Gates(Entry):
    """The whole file. `minimum_support`: below it nothing is decided, whatever the figures say."""

    mode: Mode = "enforce"
    promotion: Promotion = "automatic"
    """Whether a person is asked before what passed becomes champion."""
    holdout_wear: HoldoutWear = HoldoutWear()
    minimum_support: Support = {}
    checks: dict[str, Limit]
    slices: tuple[SliceLimits, ...] = ()

    @property
    def named(self) -> set[tuple[str, str]]:
        """Axis and value of each slice that must be there."""
        return {(one.axis, value) for one in self.slices for value in one.values}


def diagnosis_of(name: str) -> str:
    """The diagnosis that a metric, or a count of a support, is about; empty where it is about all."""
    found = METRIC.fullmatch(name) or COUNTED.fullmatch(name)
    return next((code for code in found.groupdict().values() if code), "") if found else ""


def load(path: Path, codes: Collection[str] = (), malignant: Collection[str] = ()) -> Gates:
    """Reads a gates file. Raises BadInput with the line that is wrong and what is allowed there.

    `codes`: the diagnoses that there are, where they are known: a check of another one is wrong, too. Those of the default list may
    stand there all the same: the file that comes with DermaNet has some. `malignant`: which of them are, where that is known: no other
    has a sensitivity at fixed specificities.
    """
    known = taxonomy.load()
    benign = {*codes, *known.codes} - {*malignant, *(one.code for one in known.diagnoses if one.malignant)}
    about = _Known({*codes, *known.codes} if codes else set(), benign if malignant else set())
    return yamlentries.load(
        Gates, path, "gates", "DERMANET_GATES", _in_python, lambda found: _contradictions(found, about)
    )


@dataclass(frozen=True, slots=True)
class _Known:
    """What is known of the diagnoses when a file is read; nothing where they are not known."""

    codes: Collection[str]
    benign: Collection[str]


def _in_python(data: Any) -> Any:
    """Lists as the tuples that a strict reading wants; YAML reads a bare `off` as false."""
    if not isinstance(data, dict):
        return data
    changed = dict(data)
    if changed.get("mode") is False:
        changed["mode"] = "off"
    if isinstance(changed.get("slices"), list):
        changed["slices"] = tuple(
            {**one, "values": tuple(one["values"])}
            if isinstance(one, dict) and isinstance(one.get("values"), list)
            else one
            for one in changed["slices"]
        )
    return changed


def _contradictions(gates: Gates, known: _Known) -> Any:
    """What is wrong with entries that are well-formed: where, and what to say."""
    wear = gates.holdout_wear
    if wear.warn_after > wear.refuse_after:
        yield (
            ("holdout_wear",),
            f"holdout_wear warns after {wear.warn_after} verdicts and refuses after {wear.refuse_after} already",
        )
    if not gates.checks and gates.mode != "off":
        yield ("checks",), "checks is empty; name metrics, or say `mode: off`"
    yield from _of_support(("minimum_support",), gates.minimum_support, known.codes)
    yield from _of_limits(("checks",), gates.checks, known)
    for place, one in enumerate(gates.slices):
        yield from _of_slices(("slices", place), one, known)


def _of_slices(way: tuple[Any, ...], limits: SliceLimits, known: _Known) -> Any:
    values = known_values(limits.axis)
    for place, value in enumerate(limits.values):
        if value in NO_WORD:
            yield (
                (*way, "values", place),
                f"{limits.axis} has no slice {value!r}; what rows do not say is {NOT_RECORDED!r}",
            )
        elif values and value not in (*values, NOT_RECORDED):
            yield (*way, "values", place), f"{limits.axis} has no slice {value!r}; there are {', '.join(values)}"
    if not limits.checks:
        yield (*way, "checks"), "checks is empty; name metrics"
    yield from _of_support((*way, "minimum_support"), limits.minimum_support, known.codes)
    yield from _of_limits((*way, "checks"), limits.checks, known)


def _of_limits(way: tuple[Any, ...], limits: Mapping[str, Limit], known: _Known) -> Any:
    for metric, limit in limits.items():
        here, found, code = (*way, metric), METRIC.fullmatch(metric), diagnosis_of(metric)
        if not found or (known.codes and code and code not in known.codes):
            there = f"; diagnoses are {', '.join(sorted(known.codes))}" if found else ""
            yield (
                here,
                f"{metric} is no metric{there}; age_mae, sex_accuracy, diagnosis_f1_macro, diagnosis_recall_<code> … are",
            )
        elif found["malignant"] in known.benign:
            yield here, f"{metric} is no metric: {code} is benign; diagnosis_recall_{code} is one"
        elif limit.greater_is_better == bool(LESS_IS_BETTER.fullmatch(metric)):
            right = str(not limit.greater_is_better).lower()
            yield (*here, "greater_is_better"), f"{metric} has greater_is_better the wrong way round; it is {right}"
        elif limit.threshold is None and limit.baseline is None and limit.champion is None:
            yield here, f"{metric} has no limit; give threshold, baseline or champion"
        elif limit.threshold is not None and not 0 <= limit.threshold <= (
            math.inf if NO_SHARE.fullmatch(metric) else 1
        ):
            most = "0 or more" if NO_SHARE.fullmatch(metric) else "0 to 1"
            yield (*here, "threshold"), f"threshold is {limit.threshold:g}, and {metric} is {most}"
        elif limit.threshold is None and limit.judged_by != "figure":
            # In silence the comparison would be judged by the figure.
            yield (
                (*here, "judged_by"),
                "judged_by is of the threshold, and there is none; put it under baseline or champion",
            )
        yield from _of_changes(here, metric, limit)
        yield from _of_ends(here, metric, limit)
        yield from _of_support((*here, "minimum_support"), limit.minimum_support, known.codes)


def _of_changes(way: tuple[Any, ...], metric: str, limit: Limit) -> Any:
    """A change that no two shares can have, as of who counts in hundredths: it would stop everything, or nothing."""
    for name in COMPARED:
        one = getattr(limit, name)
        if one and not NO_SHARE.fullmatch(metric) and abs(one.min_absolute_change) > 1:
            said = f"min_absolute_change is {one.min_absolute_change:g}, and {metric} is 0 to 1: no two are further apart than 1"
            yield (*way, name, "min_absolute_change"), said


def _of_ends(way: tuple[Any, ...], metric: str, limit: Limit) -> Any:
    """A limit on an end of an interval that the metric does not have there."""
    if not CALIBRATED.fullmatch(metric) and not (way[0] == "slices" and RANKED.fullmatch(metric)):
        return
    compared = [((name,), getattr(limit, name)) for name in COMPARED]
    for part, one in [((), limit), *compared]:
        if one and one.judged_by != "figure":
            yield (*way, *part, "judged_by"), f"{metric} has no interval here; leave judged_by out, or say figure"


def _of_support(way: tuple[Any, ...], support: Support, codes: Collection[str]) -> Any:
    for name in support:
        code = diagnosis_of(name)
        if not COUNTED.fullmatch(name) or (codes and code and code not in codes):
            yield (
                (*way, name),
                f"{name} is nothing that is counted; allowed are images, lesions, ages, diagnosis_<code>",
            )
