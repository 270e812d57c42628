"""The split by lesion, decided by a hash of the lesion's id: for ever, and the same on every machine.

New images of an old lesion join its side, and new lesions never move an old one across.
"""

import hashlib
from collections.abc import Iterable

from dermanet.records import SIDES, Record

SALT = "dermanet split 1"
"""Changing it would move every lesion, and make every comparison with an earlier model worthless."""

BOUNDS = (0.65, 0.80, 1.0)
"""Upper bounds of train, validation and holdout on the unit interval: 65, 15 and 20 % of the lesions."""


def side(lesion_id: str) -> str:
    """The side of a lesion: `train`, `validation` or `holdout`."""
    word = hashlib.sha256(f"{SALT}\n{lesion_id}".encode()).digest()[:8]
    place = int.from_bytes(word, "big") / 2**64
    return next(name for name, bound in zip(SIDES, BOUNDS, strict=True) if place < bound)


def holdout_digest(records: Iterable[Record]) -> str:
    """The identity of the holdout among `records`: its images and their labels, whatever the order. 16 hexadecimal digits."""
    rows = sorted(str(record.as_row()) for record in records if side(record.labels.lesion_id) == "holdout")
    return hashlib.sha256("\n".join(rows).encode()).hexdigest()[:16]
