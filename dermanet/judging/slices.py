"""Parts of a holdout that are judged by themselves: a model may be good on the whole and bad for the old, or at one clinic."""

from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
from numpy.typing import NDArray

from dermanet.records import Record

AXES = ("age", "sex", "site", "clinic", "confirmation", "quality", "skin tone")
"""What a holdout is sliced by."""

NOT_RECORDED, OTHERS = "not recorded", "(others)"
NO_WORD = ("", "unknown")
"""What rows say of what is not recorded."""

AGES = (30, 45, 60, 75)
"""Years at which a new band of ages begins."""

THIRDS = ("least sharp third", "middle third", "sharpest third")

TONES = (
    (-30.0, "dark"),
    (10.0, "brown"),
    (28.0, "tan"),
    (41.0, "intermediate"),
    (55.0, "light"),
    (np.inf, "very light"),
)
"""Bands of the individual typology angle in degrees, each up to its bound (Chardon, Cretois & Hourseau, 1991)."""

MOST_WORDS = 12
"""Of an axis's words the most frequent, and those that the gates name, are slices of their own; the others are one together."""

Look = Mapping[str, float | str | None]
"""What an image looks like: `detail` (variance of the Laplacian) and `ita` (degrees) are read, where they were measured."""


@dataclass(frozen=True, slots=True)
class Slice:
    """Some images of a holdout. `rows` (n,): which of its records they are."""

    axis: str
    value: str
    rows: NDArray[np.bool_]

    def __str__(self) -> str:
        return f"{self.axis}: {self.value}"


def slices(
    records: Sequence[Record], looks: Mapping[str, Look], named: Collection[tuple[str, str]] = ()
) -> list[Slice]:
    """Every slice of every axis of which the records have two or more, or one that is named; `looks` by digest.

    `named`: axes and values that the gates ask for (`Gates.named`); each stands alone, however rare.
    An axis's slices hold every record once. Those of quality are thirds of these records, by detail; the others do not depend
    on which records stand beside.
    """
    found = []
    for axis, words in _words(records, looks).items():
        wanted = {value for of, value in named if of == axis}
        values = _most_frequent(words, wanted) if axis in ("site", "clinic", "confirmation") else words
        order = [value for value in _order(axis, values) if value in values]
        if len(order) > 1 or wanted.intersection(order):
            found += [Slice(axis, value, np.array([word == value for word in values])) for value in order]
    return found


def _words(records: Sequence[Record], looks: Mapping[str, Look]) -> dict[str, list[str]]:
    labels = [record.labels for record in records]
    seen = [looks.get(record.digest, {}) for record in records]
    return {
        "age": [_age_band(label.age) for label in labels],
        "sex": [label.sex if label.sex != "unknown" else NOT_RECORDED for label in labels],
        "site": [_word(label.localization) for label in labels],
        "clinic": [_word(label.clinic) for label in labels],
        "confirmation": [_word(label.confirmation) for label in labels],
        "quality": _thirds([_number(look.get("detail")) for look in seen]),
        "skin tone": [_tone(_number(look.get("ita"))) for look in seen],
    }


def _age_band(age: float | None) -> str:
    if age is None:
        return NOT_RECORDED
    place = int(np.searchsorted(AGES, age, side="right"))
    return _band_names()[place]


def _band_names() -> list[str]:
    between = [f"{low} to {high - 1}" for low, high in pairwise(AGES)]
    return [f"under {AGES[0]}", *between, f"{AGES[-1]} and over"]


def _word(text: str) -> str:
    return NOT_RECORDED if text in NO_WORD else text


def _number(value: float | str | None) -> float | None:
    return float(value) if isinstance(value, int | float) and np.isfinite(value) else None


def _thirds(details: Sequence[float | None]) -> list[str]:
    known = [detail for detail in details if detail is not None]
    bounds = np.quantile(known, (1 / 3, 2 / 3)) if known else np.zeros(2)
    return [NOT_RECORDED if detail is None else THIRDS[int(np.searchsorted(bounds, detail))] for detail in details]


def _tone(angle: float | None) -> str:
    return NOT_RECORDED if angle is None else next(name for bound, name in TONES if angle <= bound)


def _most_frequent(words: Sequence[str], wanted: Collection[str]) -> list[str]:
    counts = Counter(word for word in words if word != NOT_RECORDED)
    frequent = sorted(counts, key=lambda word: (-counts[word], word))[:MOST_WORDS]
    kept = {*frequent, *wanted}
    return [word if word in kept or word == NOT_RECORDED else OTHERS for word in words]


def _order(axis: str, words: Sequence[str]) -> list[str]:
    """The values of an axis as a reader expects them; what is not recorded last."""
    counts = Counter(words)
    by_count = sorted(counts, key=lambda word: (-counts[word], word))
    rest = [word for word in by_count if word not in (OTHERS, NOT_RECORDED)]
    return [*(known_values(axis) or rest), OTHERS, NOT_RECORDED]


def known_values(axis: str) -> tuple[str, ...]:
    """The slices that an axis may have, in order; none where the data name them."""
    known = {
        "age": tuple(_band_names()), "sex": ("female", "male"), "quality": THIRDS, "skin tone": tuple(name for _, name in TONES),
    }  # fmt: skip
    return known.get(axis, ())
