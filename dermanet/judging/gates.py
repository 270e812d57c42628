"""The gates file: what a candidate must reach on the holdout. Reviewed like code, read and checked whole (docs/gates.md)."""

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from dermanet import taxonomy, yamlfile
from dermanet.errors import BadInput
from dermanet.judging.slices import AXES

Mode = Literal["enforce", "dry run", "off"]
Promotion = Literal["automatic", "approval"]
JudgedBy = Literal["figure", "worse end", "better end"]
"""The figure itself; or an end of its 95 % interval: the worse must surely reach a limit, the better must not surely miss it."""
Support = dict[str, Annotated[int, Field(ge=0)]]

METRIC = re.compile(
    r"age_mae|(sex|diagnosis)_(accuracy|ece|brier|log_loss)|sex_(f1|auc)|diagnosis_(balanced_accuracy|f1_weighted|f1_macro)"
    r"|diagnosis_(f1|recall|precision|auc)_(?P<code>[a-z][a-z0-9_]*)|diagnosis_sensitivity_(?P<malignant>[a-z][a-z0-9_]*)_at_(80|90|95)"
)
"""The names that figures have; `metrics` says what they are."""

LESS_IS_BETTER = re.compile(r"age_mae|.*_(ece|brier|log_loss)")
COUNTED = re.compile(r"images|lesions|ages|diagnosis_(?P<code>[a-z][a-z0-9_]*)")
"""What a support counts."""


class Entry(BaseModel):
    """A part of the file: no word but its own, no value of another type."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _words(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            raise PydanticCustomError(
                "no_entries", "needed are entries by name, of {allowed}", {"allowed": cls._allowed()}
            )
        for word in data:
            if word not in cls.model_fields:
                # `word` leads the message to the line that has it.
                raise PydanticCustomError("unknown", "allowed are {allowed}", {"word": word, "allowed": cls._allowed()})
        return data

    @classmethod
    def _allowed(cls) -> str:
        return ", ".join(cls.model_fields)


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


def diagnosis_of(name: str) -> str:
    """The diagnosis that a metric, or a count of a support, is about; empty where it is about all."""
    found = METRIC.fullmatch(name) or COUNTED.fullmatch(name)
    return next((code for code in found.groupdict().values() if code), "") if found else ""


def load(path: Path, codes: Collection[str] = ()) -> Gates:
    """Reads a gates file. Raises BadInput with the line that is wrong and what is allowed there.

    `codes`: the diagnoses that there are, where they are known: a check of another one is wrong, too. Those of the default list may
    stand there all the same: the file that comes with DermaNet has some.
    """
    data = yamlfile.load(path, "gates", "DERMANET_GATES")
    lines = yamlfile.lines(path)
    try:
        found = Gates.model_validate(_in_python(data))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        word = first.get("ctx", {}).get("word")
        way = (*first["loc"], word) if word is not None else first["loc"]
        raise _wrong(path, lines, way, "" if first["type"] == "missing" else first["input"], first) from None
    for way, message in _contradictions(found, {*codes, *taxonomy.load().codes} if codes else ()):
        raise BadInput(f"gates {path}, line {yamlfile.line(lines, way)}: {message}; see docs/gates.md")
    return found


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


def _wrong(
    path: Path, lines: Mapping[tuple[Any, ...], int], way: tuple[Any, ...], seen: Any, error: Mapping[str, Any]
) -> BadInput:
    name, line = ".".join(map(str, way)) or "the file", yamlfile.line(lines, way)
    message = str(error["msg"])[:1].lower() + str(error["msg"])[1:]
    if error["type"] == "missing":
        said = f"{name} is missing"
    elif error["type"] == "unknown":
        said = f"{name} is no word of the gates; {message}"
    else:
        said = f"{name} is {seen!r}; {message}"
    return BadInput(f"gates {path}, line {line}: {said}; see docs/gates.md")


def _contradictions(gates: Gates, codes: Collection[str]) -> Any:
    """What is wrong with entries that are well-formed: where, and what to say."""
    wear = gates.holdout_wear
    if wear.warn_after > wear.refuse_after:
        yield (
            ("holdout_wear",),
            f"holdout_wear warns after {wear.warn_after} verdicts and refuses after {wear.refuse_after} already",
        )
    if not gates.checks and gates.mode != "off":
        yield ("checks",), "checks is empty; name metrics, or say `mode: off`"
    yield from _of_support(("minimum_support",), gates.minimum_support, codes)
    yield from _of_limits(("checks",), gates.checks, codes)
    for place, one in enumerate(gates.slices):
        yield from _of_support(("slices", place, "minimum_support"), one.minimum_support, codes)
        yield from _of_limits(("slices", place, "checks"), one.checks, codes)


def _of_limits(way: tuple[Any, ...], limits: Mapping[str, Limit], codes: Collection[str]) -> Any:
    for metric, limit in limits.items():
        here, found, code = (*way, metric), METRIC.fullmatch(metric), diagnosis_of(metric)
        if not found or (codes and code and code not in codes):
            known = f"; diagnoses are {', '.join(sorted(codes))}" if found else ""
            yield (
                here,
                f"{metric} is no metric{known}; age_mae, sex_accuracy, diagnosis_f1_macro, diagnosis_recall_<code> … are",
            )
        elif limit.greater_is_better == bool(LESS_IS_BETTER.fullmatch(metric)):
            right = str(not limit.greater_is_better).lower()
            yield (*here, "greater_is_better"), f"{metric} has greater_is_better the wrong way round; it is {right}"
        elif limit.threshold is None and limit.baseline is None and limit.champion is None:
            yield here, f"{metric} has no limit; give threshold, baseline or champion"
        yield from _of_support((*here, "minimum_support"), limit.minimum_support, codes)


def _of_support(way: tuple[Any, ...], support: Support, codes: Collection[str]) -> Any:
    for name in support:
        code = diagnosis_of(name)
        if not COUNTED.fullmatch(name) or (codes and code and code not in codes):
            yield (
                (*way, name),
                f"{name} is nothing that is counted; allowed are images, lesions, ages, diagnosis_<code>",
            )
