"""Statistics of a table: counts, mixes, missing labels and distributions, small enough to keep, whole enough to compare again."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import pandas as pd

from dermanet.records import SIDES

MIXES = ("diagnosis", "sex", "localization", "clinic", "side")
"""What is counted by its words; a localization or clinic that is not recorded is counted as missing, not as a word."""

SPREADS = {"age": 0, "brightness": 0, "contrast": 0, "detail": 0, "megapixels": 3, "aspect": 2}
"""What has a distribution, and the decimals to which a value is kept: so a hundred thousand images need a few hundred pairs."""

RATES = ("age", "sex", "localization", "confirmation", "clinic", "patient_id", "look")
"""What may be missing; `look` is what the image looks like, which an old catalogue has not measured."""

UNRECORDED = ("", "unknown")
MOST_WORDS = 5000
"""Different words of one mix that are kept by name; the rarer ones are counted together. It was 60 once: such statistics are kept."""

OTHERS = "(others)"
"""Words that are not kept by name: a table that has it may hold any word that it does not name."""


@dataclass(frozen=True, slots=True)
class Statistics:
    """What a table comes to. `mixes`: images a word; `missing`: images without; `spreads`: (value, images), by value.

    `lesions_by_side`: lesions of each diagnosis on each side. `taxonomy`: the digest of the list of diagnoses.
    """

    taxonomy: str
    images: int
    lesions: int
    patients: int
    mixes: dict[str, dict[str, int]]
    missing: dict[str, int]
    spreads: dict[str, list[tuple[float, int]]]
    lesions_by_side: dict[str, dict[str, int]]

    def as_dict(self) -> dict[str, Any]:
        """The statistics as plain JSON."""
        return asdict(self)


def from_dict(record: Mapping[str, Any]) -> Statistics:
    """The statistics that `as_dict` wrote."""
    spreads = {
        name: [(float(value), int(count)) for value, count in pairs] for name, pairs in record["spreads"].items()
    }
    return Statistics(**{**record, "spreads": spreads})


def statistics(frame: pd.DataFrame, codes: tuple[str, ...], taxonomy: str) -> Statistics:
    """The statistics of a `table`, whole or in part; `codes` are the diagnoses that are counted even where there are none."""
    spreads = _numbers(frame)
    missing = {name: int(frame[name].isin(UNRECORDED).sum()) for name in RATES if name in frame and name != "age"}
    return Statistics(
        taxonomy,
        images=len(frame),
        lesions=frame["lesion_id"].nunique(),
        patients=frame.loc[frame["patient_id"] != "", "patient_id"].nunique(),
        mixes={name: _mix(frame[name], codes if name == "diagnosis" else ()) for name in MIXES},
        missing={"age": int(frame["age"].isna().sum()), "look": int(frame["brightness"].isna().sum()), **missing},
        spreads={name: _spread(spreads[name], decimals) for name, decimals in SPREADS.items()},
        lesions_by_side={side: _lesions(frame[frame["side"] == side], codes) for side in SIDES},
    )


def alike(before: Mapping[str, int], now: Mapping[str, int]) -> tuple[dict[str, int], dict[str, int]]:
    """Two mixes by the words that both can tell: what one of them may have counted among the others, the other one does, too."""
    told = {
        word for word in {*before, *now} - {OTHERS} if all(word in mix or OTHERS not in mix for mix in (before, now))
    }
    return _folded(before, told), _folded(now, told)


def known(spread: list[tuple[float, int]]) -> int:
    """How many images have a value."""
    return sum(count for _, count in spread)


def quantile(spread: list[tuple[float, int]], share: float) -> float:
    """The value below which `share` (0 to 1) of the images lie; NaN where there is none."""
    if not spread:
        return float("nan")
    values, counts = np.array(spread).T
    place = int(np.searchsorted(np.cumsum(counts), share * counts.sum(), side="left"))
    return float(values[min(place, len(values) - 1)])


def _numbers(frame: pd.DataFrame) -> dict[str, "pd.Series[float]"]:
    long, short = frame[["width", "height"]].max(axis=1), frame[["width", "height"]].min(axis=1)
    shapes = {"megapixels": frame["width"] * frame["height"] / 1e6, "aspect": long / short}
    return {**{name: frame[name] for name in SPREADS if name in frame}, **shapes}


def _spread(values: "pd.Series[float]", decimals: int) -> list[tuple[float, int]]:
    found, counts = np.unique(values.dropna().round(decimals), return_counts=True)
    return [(float(value), int(count)) for value, count in zip(found, counts, strict=True)]


def _mix(words: "pd.Series[str]", codes: tuple[str, ...]) -> dict[str, int]:
    counted = words[words != ""] if words.name == "sex" else words[~words.isin(UNRECORDED)]
    found = {str(word): int(count) for word, count in counted.value_counts().items()}
    ranked = sorted({**dict.fromkeys(codes, 0), **found}.items(), key=lambda pair: (-pair[1], pair[0]))
    return _folded(dict(ranked), {word for word, _ in ranked[:MOST_WORDS]})


def _folded(mix: Mapping[str, int], told: set[str]) -> dict[str, int]:
    rest = sum(count for word, count in mix.items() if word not in told)
    return {**{word: count for word, count in mix.items() if word in told}, **({OTHERS: rest} if rest else {})}


def _lesions(frame: pd.DataFrame, codes: tuple[str, ...]) -> dict[str, int]:
    found = frame.groupby("diagnosis")["lesion_id"].nunique()
    return {code: int(found.get(code, 0)) for code in codes}
