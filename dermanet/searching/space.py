"""What a search may change: fields of an experiment, each between two bounds or one of a list.

    learning_rate: {low: 0.0001, high: 0.01, log: true}     a file, as `search.yaml`
    batch_size: [16, 32, 64]

    learning_rate=1e-4..1e-2:log,batch_size=16|32|64        the same in one word

Every bound and choice passes `experiment.check`, so that no trial can leave the ranges that experiments have. Choices that exclude one
another in some combinations are allowed: those are refused when they are drawn.
"""

import os
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from dermanet import experiment, yamlfile
from dermanet.errors import BadInput
from dermanet.experiment import Experiment

PACKAGE = Path(__file__).parents[1]
DEFAULTS = dict.fromkeys(experiment.METHODS, PACKAGE / "search.yaml") | {"probe": PACKAGE / "search-probe.yaml"}
"""The space of each method where none is named."""

YARDSTICK = ("method", "backbone", "smoothing", "balance", "age_weight", "sex_weight", "diagnosis_weight")
"""Fields that change what the loss of an epoch means: the epochs of trials that differ in them are not compared."""

DIGITS = 4
"""Significant digits of a drawn number: more tell nothing, and nobody would type them."""

Value = bool | int | float | str


@dataclass(frozen=True, slots=True)
class Range:
    """A numeric field between two bounds, both included; `log`: drawn evenly in its logarithm."""

    field: str
    low: float
    high: float
    log: bool = False


@dataclass(frozen=True, slots=True)
class Choices:
    """A field with one of several values."""

    field: str
    values: tuple[Value, ...]


Dimension = Range | Choices
Space = tuple[Dimension, ...]


def chosen(text: str, base: Experiment) -> Space:
    """The space that `text` names: a file, or `field=low..high,field=a|b`; empty: the default file of the experiment's method.

    Raises BadInput with the field, and in a file its line, and what is allowed there; and for fields that would change nothing in
    the experiment. The default file serves all of a method: of its fields, those are left out.
    """
    # Not Path.exists: it raises where a word is longer than a file's name may be.
    in_one_word = "=" in text and not os.path.exists(text)
    space = _in_one_word(text, base) if in_one_word else _in_a_file(text, base)
    drawn = {one.field for one in space}
    idle = {field for field in drawn & base.idle if drawn.isdisjoint(experiment.DECIDES[field])}
    if idle and text:
        given = experiment.GIVEN if base.method == "probe" else ("name",)
        others = [name for name in base.as_dict() if name not in (*base.idle, *given)]
        raise BadInput(
            f"space: {', '.join(one.field for one in space if one.field in idle)} would change nothing in {base.name} "
            f"(method={base.method}, backbone={base.backbone}); allowed are {', '.join(others)}, and with another method or "
            "backbone all others"
        )
    return tuple(one for one in space if one.field not in idle)


def _in_a_file(text: str, base: Experiment) -> Space:
    path = Path(text or DEFAULTS[base.method])
    entries = yamlfile.load(path, "space", "--space")
    if not isinstance(entries, dict) or not entries:
        raise BadInput(f"space {path}: needs fields of an experiment with ranges or choices; see docs/search.md")
    lines = yamlfile.lines(path)
    return tuple(
        _dimension(str(name), entry, base, f"{path}, line {lines.get((name,), 1)}") for name, entry in entries.items()
    )


def as_list(space: Space) -> list[dict[str, Any]]:
    """The space as plain JSON."""
    return [asdict(dimension) for dimension in space]


def from_list(record: Sequence[Mapping[str, Any]]) -> Space:
    """The space that `as_list` recorded."""
    return tuple(
        Choices(entry["field"], tuple(entry["values"])) if "values" in entry else Range(**entry) for entry in record
    )


def changed(base: Experiment, space: Space, drawn: Mapping[str, Value]) -> Experiment:
    """The experiment with the values drawn for it, numbers between bounds rounded to `DIGITS` significant digits."""
    values = {one.field: _rounded(one, drawn[one.field]) for one in space}
    return experiment.check(replace(base, **values))  # type: ignore[arg-type]


def words(field: str, base: Experiment, space: Space) -> list[str]:
    """Every value that a field of words, as `recipe`, may have in a trial."""
    own = [one.values for one in space if isinstance(one, Choices) and one.field == field]
    return [str(value) for value in own[0]] if own else [str(getattr(base, field))]


def _rounded(dimension: Dimension, value: Value) -> Value:
    if isinstance(dimension, Choices) or isinstance(value, int):
        return value
    return min(max(float(f"{value:.{DIGITS}g}"), dimension.low), dimension.high)


def _in_one_word(text: str, base: Experiment) -> Space:
    parts = [part.partition("=") for part in text.split(",") if part]
    names = [name for name, _, _ in parts]
    for name in names:
        if names.count(name) > 1:
            raise BadInput(f"space {text!r}: {name} stands twice; keep one of them")
    return tuple(_dimension(name, _entry(told), base, repr(text)) for name, _, told in parts)


def _entry(told: str) -> Any:
    """What one field's part of the word would be in a file."""
    low, dots, rest = told.partition("..")
    if not dots:
        return told.split("|")
    high, colon, log = rest.partition(":")
    return {"low": low, "high": high, **({"log": log == "log" or log} if colon else {})}


def _dimension(name: str, entry: Any, base: Experiment, where: str) -> Dimension:
    if isinstance(entry, list):
        values = tuple(_value(name, one, base, where) for one in entry)
        if len(set(values)) < 2 or len(set(values)) < len(values):
            _refuse(where, f"{name} has the choices {entry}; two or more different ones are needed")
        return Choices(name, values)
    if not isinstance(entry, dict) or not {"low", "high"} <= set(entry) <= {"low", "high", "log"}:
        _refuse(
            where, f"{name} is {entry!r}; allowed are {{low: NUMBER, high: NUMBER, log: true}} and a list of values"
        )
    return _range(name, entry, base, where)


def _range(name: str, entry: Mapping[str, Any], base: Experiment, where: str) -> Range:
    low, high = (_value(name, entry[bound], base, where) for bound in ("low", "high"))
    log = entry.get("log", False)
    if isinstance(low, bool | str) or isinstance(high, bool | str):
        _refuse(where, f"{name} is no number and has no range; give a list of values")
    if name in experiment.CHOICES:
        allowed = ", ".join(map(str, experiment.CHOICES[name]))
        _refuse(where, f"{name} has no value between some of {allowed}, and so no range; give a list of values")
    if not low < high:
        _refuse(where, f"{name} goes from {low} to {high}; the lower bound comes first")
    if not isinstance(log, bool):
        _refuse(where, f"{name} has log {log!r}; true or false is needed, and `:log` in one word")
    if log and low <= 0:
        _refuse(where, f"{name} from {low} has no logarithm; give a lower bound above 0, or leave log out")
    return Range(name, low, high, log)


def _value(name: str, told: Any, base: Experiment, where: str) -> Any:
    try:
        # By its text, as on the command line: YAML takes 1e-4 for a word, and a comma would begin another field.
        _, value = experiment.difference(f"{name}={told}".partition(",")[0])
        experiment.check(replace(base, **{name: value}))
    except BadInput as error:
        raise BadInput(f"space {where}: {error}") from None
    if isinstance(value, str) and value != told:
        _refuse(where, f"{name} has the value {told!r}, of which {value!r} is one; give each field an entry of its own")
    return value


def _refuse(where: str, line: str) -> Any:
    raise BadInput(f"space {where}: {line}")
