"""Which images go on the contact sheets: of each diagnosis some, and those that stand out. A pure choice, the same every time."""

from collections.abc import Sequence
from dataclasses import dataclass

import pandas as pd

OF_A_DIAGNOSIS, STANDING_OUT = 10, 12
MOST_TILES = 120
"""On one page, so that it stays below three megabytes."""


@dataclass(frozen=True, slots=True)
class Sheet:
    """One contact sheet to be made: its title, and digest and caption of each image."""

    title: str
    images: tuple[tuple[str, str], ...]


def choose(frame: pd.DataFrame, codes: Sequence[str]) -> list[Sheet]:
    """The sheets of a table, at most MOST_TILES images in all: the darkest, brightest, softest and smallest, then every diagnosis.

    Where all images are of one size, none is the smallest.
    """
    sized = frame.assign(pixels=frame["width"] * frame["height"])
    found = [
        _extreme(frame, "The darkest", "brightness", True, "mean luma"),
        _extreme(frame, "The brightest", "brightness", False, "mean luma"),
        _extreme(frame, "The softest", "detail", True, "detail"),
        _extreme(sized[sized["pixels"] < sized["pixels"].max()], "The smallest", "pixels", True, "pixels"),
    ]
    each = max(1, min(OF_A_DIAGNOSIS, (MOST_TILES - len(found) * STANDING_OUT) // max(1, len(codes))))
    for code in codes:
        # In the order of the digests, which is no order at all: so a sheet is a fair sample, and the same at every call.
        some = frame[frame["diagnosis"] == code].sort_values("digest")[:each]
        found.append(Sheet(f"{code}: {len(some)} of {(frame['diagnosis'] == code).sum()}", _captions(some, "")))
    kept, room = [], MOST_TILES
    for sheet in found:
        if sheet.images[:room]:
            kept.append(Sheet(sheet.title, sheet.images[:room]))
            room -= len(kept[-1].images)
    return kept


def _extreme(frame: pd.DataFrame, title: str, column: str, lowest: bool, unit: str) -> Sheet:
    measured = frame[frame[column].notna()].sort_values([column, "digest"], ascending=[lowest, True])
    return Sheet(f"{title} ({unit})", _captions(measured[:STANDING_OUT], column))


def _captions(frame: pd.DataFrame, column: str) -> tuple[tuple[str, str], ...]:
    """Image id and diagnosis, and the value for which the image is here; nothing else of the patient."""
    return tuple(
        (row["digest"], f"{row['image_id']}\n{row['diagnosis']}" + (f", {row[column]:.0f}" if column else ""))
        for row in frame.to_dict("records")
    )
