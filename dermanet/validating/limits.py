"""The limits that data must keep to: one reviewed file, read and checked whole."""

import math
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, get_args

from dermanet import yamlfile
from dermanet.errors import BadInput
from dermanet.validating.statistics import MIXES, RATES, SPREADS

Level = Literal["anomaly", "warning"]
Scope = Literal["new", "whole"]
Mode = Literal["enforce", "dry run", "off"]
LEVELS, SCOPES, MODES = get_args(Level), get_args(Scope), get_args(Mode)

MEASURES: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(MIXES, ("distance", "share", "most")),
    **dict.fromkeys(SPREADS, ("distance", "fall", "shift")),
    **{f"missing_{name}": ("rise", "most") for name in RATES},
    "images": ("least", "shrink"),
    "lesions": ("least", "shrink"),
    "lesions_of_a_diagnosis_on_a_side": ("least",),
}
"""What can be limited, figure by figure. `docs/validation.md` says what each word means."""

UNBOUNDED = ("shift", "least")
"""Measures that are no share of anything."""

KEYS = ("mode", "significance", "least_images", *LEVELS)


@dataclass(frozen=True, slots=True)
class Limit:
    """The furthest that one measure of one figure may go in one scope, and what it means to go beyond."""

    level: Level
    scope: Scope
    figure: str
    measure: str
    bound: float


@dataclass(frozen=True, slots=True)
class Limits:
    """The whole file. `significance`: the p-value above which a difference is chance; `least_images`: fewer are not compared."""

    mode: Mode
    significance: float
    least_images: int
    limits: tuple[Limit, ...]


def load(path: Path) -> Limits:
    """Reads a file of limits. Raises BadInput with the entry that is wrong and what is allowed there."""
    data = yamlfile.load(path, "validation", "DERMANET_VALIDATION")
    _require_keys("the file", data, KEYS, path)
    mode, least = data.get("mode", "enforce"), data.get("least_images", 30)
    if mode not in MODES:
        # YAML reads a bare `off` as false.
        mode = "off" if mode is False else _refuse("mode", mode, f"allowed are {', '.join(MODES)}", path)
    if type(least) is not int or least < 1:
        _refuse("least_images", least, "a whole number from 1 is needed", path)
    significance = _number("significance", data.get("significance", 0.001), 1.0, path)
    return Limits(mode, significance, least, tuple(_limits(data, path)))


def _limits(data: Mapping[str, Any], path: Path) -> Iterator[Limit]:
    for level in LEVELS:
        scopes = data.get(level) or {}
        _require_keys(level, scopes, SCOPES, path)
        for scope, figures in scopes.items():
            _require_keys(f"{level}.{scope}", figures, tuple(MEASURES), path)
            for figure, bounds in figures.items():
                name = f"{level}.{scope}.{figure}"
                _require_keys(name, bounds, MEASURES[figure], path)
                for measure, bound in bounds.items():
                    most = math.inf if measure in UNBOUNDED else 1.0
                    yield Limit(level, scope, figure, measure, _number(f"{name}.{measure}", bound, most, path))


def _require_keys(name: str, entry: Any, allowed: tuple[str, ...], path: Path) -> None:
    if not isinstance(entry, dict):
        _refuse(name, entry, f"needed are entries by name, of {', '.join(allowed)}", path)
    for key in entry:
        if key not in allowed:
            _refuse(name, key, f"allowed are {', '.join(allowed)}", path)


def _number(name: str, value: Any, most: float, path: Path) -> float:
    if isinstance(value, bool) or not isinstance(value, int | float) or not 0 <= value <= most or math.isinf(value):
        _refuse(name, value, f"a number from 0{f' to {most:g}' if most < math.inf else ''} is needed", path)
    return float(value)


def _refuse(name: str, value: Any, allowed: str, path: Path) -> Any:
    raise BadInput(f"validation {path}: {name} has {value!r}; {allowed}; see docs/validation.md")
