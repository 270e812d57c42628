"""The split, decided by a hash of an id: for ever, and the same on every machine.

New images of an old lesion join its side, and new lesions never move an old one across. `groups` says whose id is hashed.
"""

import hashlib
from collections.abc import Iterable, Mapping

from dermanet.records import SIDES, Record

SALT = "dermanet split 1"
"""Changing it would move every lesion, and make every comparison with an earlier model worthless."""

BOUNDS = (0.65, 0.80, 1.0)
"""Upper bounds of train, validation and holdout on the unit interval: 65, 15 and 20 % of the lesions."""


def side(lesion_id: str) -> str:
    """The side that an id's hash decides: `train`, `validation` or `holdout`."""
    word = hashlib.sha256(f"{SALT}\n{lesion_id}".encode()).digest()[:8]
    place = int.from_bytes(word, "big") / 2**64
    return next(name for name, bound in zip(SIDES, BOUNDS, strict=True) if place < bound)


def side_of(lesion_id: str, kept: Mapping[str, str]) -> str:
    """The side of a lesion among those that are kept; of one that has none yet, its own hash's."""
    return kept.get(lesion_id) or side(lesion_id)


def holdout_digest(records: Iterable[Record], kept: Mapping[str, str]) -> str:
    """The identity of the holdout among `records`: its images and their labels, whatever the order. 16 hexadecimal digits.

    `kept`: lesion to side, as in `side_of`.
    """
    rows = sorted(str(record.as_row()) for record in records if side_of(record.labels.lesion_id, kept) == "holdout")
    return hashlib.sha256("\n".join(rows).encode()).hexdigest()[:16]
