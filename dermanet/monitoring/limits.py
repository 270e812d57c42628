"""The limits that a served model is watched by: one reviewed file, read and checked whole (docs/monitoring.md)."""

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from dermanet import yamlentries
from dermanet.yamlentries import Entry, Way

Mode = Literal["enforce", "dry run", "off"]
Share = Annotated[float, Field(ge=0, le=1)]
Days = Annotated[int, Field(ge=1, le=366)]
Count = Annotated[int, Field(ge=1)]


class Distance(Entry):
    """How far apart two mixes or two spreads may lie, 0 to 1."""

    distance: Share


class Change(Entry):
    """How far a rate may have moved, either way."""

    change: Share


class Most(Entry):
    """How large a figure may be by itself."""

    most: Annotated[float, Field(ge=0)]


class Drift(Entry):
    """What is compared with the version's reference."""

    diagnosis: Distance | None = None
    sex: Distance | None = None
    age: Distance | None = None
    certainty: Distance | None = None
    referred: Change | None = None
    novelty: Distance | None = None
    brightness: Distance | None = None
    contrast: Distance | None = None
    detail: Distance | None = None
    remarked: Change | None = None
    sketch: Distance | None = None


class Warns(Drift):
    """The same, and what stands by itself."""

    failed: Most | None = None
    milliseconds: Most | None = None
    champion_days: Most | None = None
    newer_images: Most | None = None
    refused: Most | None = None


class Window(Entry):
    """What is judged as one. `days`: its length, from midnight UTC; `least_images`: fewer different ones say nothing.

    `images_a_lesion`: how many photographs of one lesion a window has on average; None: as many as the reference has.
    """

    days: Days = 1
    least_images: Count = 50
    images_a_lesion: Annotated[float, Field(ge=1, le=100)] | None = None


class Asks(Entry):
    """When a retrain is asked for: `windows` of the last `of`, the latest among them; and no more for `rest_days` after it was."""

    windows: Count = 3
    of: Count = 5
    rest_days: Annotated[int, Field(ge=0)] = 14


class Limits(Entry):
    """The whole file. `false_alarms`: the probability that chance alone makes any figure of a window differ."""

    mode: Mode = "enforce"
    window: Window = Window()
    false_alarms: Annotated[float, Field(gt=0, le=0.5)] = 0.01
    asks: Asks = Asks()
    drift: Drift = Drift()
    warning: Warns = Warns()


FIGURES = tuple(Drift.model_fields)
"""What is compared, in the order of reports."""


def load(path: Path) -> Limits:
    """Reads a file of limits. Raises BadInput with the line that is wrong and what is allowed there."""
    return yamlentries.load(Limits, path, "monitoring", "DERMANET_MONITORING", _in_python, _contradictions)


def bound(limits: Drift, figure: str) -> float | None:
    """The limit of a figure, whatever it is called there; None where it has none."""
    entry = getattr(limits, figure, None)
    return None if entry is None else float(next(iter(entry.model_dump().values())))


def _in_python(data: Any) -> Any:
    """YAML reads a bare `off` as false."""
    return {**data, "mode": "off"} if isinstance(data, dict) and data.get("mode") is False else data


def _contradictions(found: Limits) -> Iterator[tuple[Way, str]]:
    asks = found.asks
    if asks.windows > asks.of:
        yield ("asks", "windows"), f"asks wants {asks.windows} windows of the last {asks.of}"
    for figure in FIGURES:
        told, acted = bound(found.warning, figure), bound(found.drift, figure)
        if told is not None and acted is not None and told > acted:
            yield ("warning", figure), f"{figure} warns from {told:g}, and has drifted from {acted:g} already"
