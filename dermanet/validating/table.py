"""The table that is judged: one row an image of a snapshot, with its side, its labels and what it looks like."""

from collections.abc import Mapping
from dataclasses import fields

import pandas as pd

from dermanet.records import SIDES, Labels, Snapshot

LOOKS = ("width", "height", "brightness", "contrast", "detail")
"""What the catalogue measured of an image; missing where it never was."""

COLUMNS = ("side", "digest", "image_id", *(field.name for field in fields(Labels)), *LOOKS, "world")

Measured = Mapping[str, float | str | None]
"""What the catalogue says of one image: `LOOKS`, and `world`: the name of a synthetic source, whose lesions are its own, or empty."""


def table(frozen: Snapshot, measured: Mapping[str, Measured]) -> pd.DataFrame:
    """The snapshot's records joined with what was measured, by digest. A number that is missing is NaN."""
    rows = [
        {"world": "", "side": side, **record.as_row(), **measured.get(record.digest, {})}
        for side in SIDES
        for record in getattr(frozen, side)
    ]
    frame = pd.DataFrame(rows, columns=list(COLUMNS))
    return frame.astype(dict.fromkeys(("age", *LOOKS), "float64"))


def newcomers(frame: pd.DataFrame, before: Snapshot) -> pd.DataFrame:
    """The rows of `frame` that the snapshot before has not, or has with other labels."""
    known = {tuple(record.as_row().values()) for record in before.records}
    labelled = ["digest", "image_id", *(field.name for field in fields(Labels))]
    told = frame[labelled].astype(object).where(frame[labelled].notna(), None)
    return frame[[row not in known for row in told.itertuples(index=False, name=None)]]
