"""When an image is referred to a person instead of being answered for: limits that training set, stored with the model."""

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dermanet.errors import DermaNetError
from dermanet.imagequality import BLANK, BLURRED, Quality
from dermanet.pixels import familiar
from dermanet.pixels.familiar import Familiarity
from dermanet.records import OLDEST

FILE = "abstention.json"
GOOD = "good"

KINDS = {
    "blank": "blank", "blurred": "blurred", "unlike": "unlike", "it could not be compared": "unlike", "not sure": "not sure",
}  # fmt: skip
"""How a reason begins, and its kind: what referrals are counted by."""


@dataclass(frozen=True, slots=True)
class Abstention:
    """The limits of one model. Safe to call from several threads; nothing here raises for odd numbers.

    `familiarity`, `age_error`: None where the model's data were too few. `least_certainty`: the top probability of the diagnosis below
    which an image is referred. `age_error`: years from the answer to both ends of the interval. `usual`: between what brightness,
    contrast and detail of nearly all validation photographs lie, at the scale at which the recipe decodes them; empty where unknown.
    """

    familiarity: Familiarity | None
    least_certainty: float
    age_error: tuple[float, float] | None
    usual: Mapping[str, tuple[float, float]]

    def novelty(self, pixels: NDArray[np.uint8]) -> float | None:
        """How unlike the training's images a prepared one is, uint8 (size, size, 3): 1 at the limit. None where that is not known."""
        return self.look(pixels)[0]

    def look(self, pixels: NDArray[np.uint8]) -> tuple[float | None, list[float] | None]:
        """The same, and the eight figures that monitoring keeps of it (`familiar.sketch`); None where they are not known."""
        if self.familiarity is None:
            return None, None
        figures = familiar.describe(pixels[None])
        places = self.familiarity.places(figures)
        novelty = float(self.familiarity.distance(figures)[0] / self.familiarity.limit)
        return novelty, [round(float(value), 3) for value in familiar.sketch(places)[0]]

    def interval(self, age: float) -> tuple[float, float] | None:
        """The years between which nine of ten true ages lie when `age` is answered; None where too few ages were known."""
        if self.age_error is None or not math.isfinite(age):
            return None
        low, high = (min(max(age + error, 0.0), OLDEST) for error in self.age_error)
        return low, high

    def note(self, quality: Quality) -> str:
        """`good`, or what is unusual about a photograph: `dark` or `bright`; `blurred` or `soft`; `blank` or `low contrast`."""
        if quality.contrast < BLANK:
            return "; ".join(filter(None, [self._light(quality), "blank"]))
        sharpness = "blurred" if quality.detail < BLURRED else "soft" if self._side("detail", quality) < 0 else ""
        contrast = "low contrast" if self._side("contrast", quality) < 0 else ""
        return "; ".join(filter(None, [self._light(quality), sharpness, contrast])) or GOOD

    def reasons(
        self, quality: Quality, novelty: float | None, diagnosis_probabilities: Mapping[str, float]
    ) -> tuple[str, ...]:
        """Why an image is to be referred to a person, a line each; empty where it is not. `novelty`: None where it is not known."""
        found = (_unseeable(quality), _unlike(novelty), self._unsure(diagnosis_probabilities))
        return tuple(reason for reason in found if reason)

    def write(self, path: Path) -> None:
        """Keeps the limits as JSON."""
        familiarity = self.familiarity.as_dict() if self.familiarity else None
        record = {
            "familiarity": familiarity, "least_certainty": self.least_certainty, "age_error": self.age_error,
            "usual": dict(self.usual),
        }  # fmt: skip
        path.write_text(json.dumps(record))

    def _light(self, quality: Quality) -> str:
        return {-1: "dark", 0: "", 1: "bright"}[self._side("brightness", quality)]

    def _side(self, name: str, quality: Quality) -> int:
        """-1 where a figure lies below what is usual, 1 where above."""
        low, high = self.usual.get(name, (-math.inf, math.inf))
        value = getattr(quality, name)
        return int(value > high) - int(value < low)

    def _unsure(self, probabilities: Mapping[str, float]) -> str:
        ranked = sorted(probabilities.items(), key=lambda pair: -pair[1] if math.isfinite(pair[1]) else math.inf)
        if not ranked or not all(map(math.isfinite, probabilities.values())):
            return "not sure: the probabilities of the diagnoses are no numbers"
        top = ranked[0][1]
        if top >= self.least_certainty:
            return ""
        # So many digits that what is shown is below what is shown.
        digits = next((n for n in (2, 3, 4) if f"{top:.{n}f}" != f"{self.least_certainty:.{n}f}"), 6)
        named = ", ".join(f"{code} {probability:.{digits}f}" for code, probability in ranked[:2])
        return f"not sure: {named}; answers below {self.least_certainty:.{digits}f} are referred"


def kinds(refer: str) -> list[str]:
    """The kinds of a row's reasons: `blank` or `blurred`, `unlike`, `not sure`; each once."""
    reasons = refer.split("; ")
    return sorted({kind for start, kind in KINDS.items() if any(reason.startswith(start) for reason in reasons)})


def load(path: Path) -> Abstention:
    """Reads the limits of a model. Raises DermaNetError where they cannot be used by this code.

    Models that were logged before there were limits have no such file: whoever loads must ask for it first. FileNotFoundError else.
    """
    try:
        return _read(json.loads(path.read_text()))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DermaNetError(f"the limits of abstention cannot be read: {type(error).__name__} {error}") from None


def _read(record: dict[str, Any]) -> Abstention:
    known, error = record["familiarity"], record["age_error"]
    return Abstention(
        familiar.from_dict(known) if known else None,
        float(record["least_certainty"]),
        (float(error[0]), float(error[1])) if error else None,
        {name: (float(low), float(high)) for name, (low, high) in record["usual"].items()},
    )


def _unseeable(quality: Quality) -> str:
    if not quality.contrast >= BLANK:
        return (
            f"blank: its grey levels span {quality.contrast:.0f} of 255; at least {BLANK:g} are needed to see a lesion"
        )
    if not quality.detail >= BLURRED:
        return f"blurred: its detail is {quality.detail:.1f}; at least {BLURRED:g} is needed, take it again"
    return ""


def _unlike(novelty: float | None) -> str:
    if novelty is None or novelty <= 1:
        return ""
    if not math.isfinite(novelty):
        return "it could not be compared with the images the model was trained on"
    # Rounded up, so that what is beyond the limit never reads as 1.0 times.
    times = "more than 100" if novelty > 100 else f"{math.ceil(novelty * 10) / 10:.1f}"
    return f"unlike the images the model was trained on ({times} times the limit)"
