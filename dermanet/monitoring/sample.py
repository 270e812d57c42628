"""What a number of answers is like: mixes, spreads and rates, gathered from a window's log or from a version's validation side alike.

Numbers are rounded to steps that no verdict could tell apart, so that a sample is as short for a million answers as for a
thousand, and none of its numbers is an image's own. An image that was asked about again counts once.
"""

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from dermanet.monitoring.predictions import Prediction

MIXES = ("sex", "diagnosis")
STEPS = {"age": 1.0, "certainty": 0.01, "novelty": 0.02, "brightness": 2.0, "contrast": 2.0, "detail": 0.02}
"""How finely spreads are counted. Of `detail`, which is wide, it is the natural logarithm that is."""

SKETCH_STEP = 0.1
RATES = ("referred", "remarked")
"""Shares of answers that a person should decide on, and of photographs with which something was wrong."""

FARTHEST = 50.0
"""Times the limit: more unlike is all the same."""

LATE = 0.95
"""The share of requests that are as quick as the figure that is told of their times."""

Mix = dict[str, int]
Spread = list[tuple[float, int]]
"""(value, how many), by value."""


@dataclass(frozen=True, slots=True)
class Sample:
    """A number of answered images. `witnesses`: how many of them are independent as far as is known; lesions, or all.

    `spreads`: `age`, `certainty` (the top probability of the diagnosis), `novelty`, `brightness`, `contrast`, `detail`, and `sketch_1`
    to `sketch_8`; empty where not known. `rates`: cases, of how many.
    """

    images: int
    witnesses: int
    mixes: Mapping[str, Mix]
    spreads: Mapping[str, Spread]
    rates: Mapping[str, tuple[int, int]]

    def as_dict(self) -> dict[str, Any]:
        """All of it as plain JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Traffic:
    """How a version's answers came. `milliseconds`: what all but one in twenty took at most, None without any; `errors`: by kind."""

    requests: int
    again: int
    errors: Mapping[str, int]
    milliseconds: float | None

    @property
    def failed(self) -> int:
        """Images that could not be answered."""
        return sum(self.errors.values())


@dataclass(slots=True)
class Gathering:
    """Takes one version's predictions, in the order of time, and keeps what a sample and its traffic need, and no row."""

    mixes: dict[str, Counter[str]] = field(default_factory=lambda: {name: Counter() for name in MIXES})
    spreads: dict[str, Counter[float]] = field(default_factory=dict)
    rates: dict[str, Counter[bool]] = field(default_factory=lambda: {name: Counter() for name in RATES})
    errors: Counter[str] = field(default_factory=Counter)
    milliseconds: Counter[float] = field(default_factory=Counter)
    seen: set[str] = field(default_factory=set)
    requests: int = 0
    again: int = 0

    def add(self, one: Prediction) -> None:
        """Takes one prediction."""
        self.requests += 1
        if one.error:
            self.errors[one.error] += 1
            return
        self.milliseconds[round(one.milliseconds, 1)] += 1
        if one.digest in self.seen:
            self.again += 1
            return
        self.seen.add(one.digest)
        self._count(one)

    def sample(self, witnesses: int | None = None) -> Sample:
        """What was gathered so far. `witnesses`: how many independent ones are known to be among them."""
        images = len(self.seen)
        return Sample(
            images,
            images if witnesses is None else witnesses,
            {name: dict(sorted(found.items())) for name, found in self.mixes.items()},
            {name: sorted(found.items()) for name, found in sorted(self.spreads.items())},
            {name: (found[True], found.total()) for name, found in self.rates.items()},
        )

    def traffic(self) -> Traffic:
        """How they came."""
        return Traffic(self.requests, self.again, dict(self.errors.most_common()), quantile(self.milliseconds, LATE))

    def _count(self, one: Prediction) -> None:
        self.mixes["sex"][str(one.sex)] += 1
        self.mixes["diagnosis"][str(one.diagnosis)] += 1
        for name, value in _numbers(one).items():
            step = STEPS.get(name, SKETCH_STEP)
            self.spreads.setdefault(name, Counter())[round(round(value / step) * step, 3)] += 1
        self.rates["referred"][one.refer is not None] += 1
        if one.quality is not None:
            self.rates["remarked"][one.quality != "good"] += 1


def gather(predictions: Iterable[Prediction]) -> dict[str, Gathering]:
    """Predictions by the version that answered, in the order of their first ones."""
    found: dict[str, Gathering] = {}
    for one in predictions:
        found.setdefault(one.version, Gathering()).add(one)
    return found


def from_dict(record: Mapping[str, Any]) -> Sample:
    """What `as_dict` has recorded, JSON between them or not."""
    return Sample(
        int(record["images"]),
        int(record["witnesses"]),
        {name: dict(found) for name, found in record["mixes"].items()},
        {name: [(float(value), int(count)) for value, count in found] for name, found in record["spreads"].items()},
        {name: (int(cases), int(of)) for name, (cases, of) in record["rates"].items()},
    )


def quantile(counts: Mapping[float, int] | Sequence[tuple[float, int]], share: float) -> float | None:
    """The smallest of counted values that `share` of them do not exceed; None without any."""
    pairs = sorted(counts.items()) if isinstance(counts, Mapping) else counts
    wanted = share * sum(count for _, count in pairs)
    below = 0
    for value, count in pairs:
        below += count
        if below >= wanted - 1e-9:
            return value
    return None


def _numbers(one: Prediction) -> dict[str, float]:
    """What is known of an answer as numbers, by the names of spreads."""
    top = max((one.probabilities or {}).get("diagnosis", {}).values(), default=None)
    given: dict[str, float | None] = {
        "age": one.age, "certainty": top, "novelty": None if one.novelty is None else min(one.novelty, FARTHEST),
        "brightness": one.brightness, "contrast": one.contrast,
        "detail": None if one.detail is None else math.log(max(one.detail, 0.01)),
        **{f"sketch_{place}": value for place, value in enumerate(one.sketch or (), start=1)},
    }  # fmt: skip
    return {name: value for name, value in given.items() if value is not None and math.isfinite(value)}
