"""Parts of a snapshot: in how many its images are worked on side by side, by as many workers as there are, and which are whose.

A part is a stretch of the images in the order of their digests, so that what is new is spread evenly over all of them, whatever has
been done meanwhile. Whoever is given the same part again finds what is done of it.
"""

import math
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from dermanet.errors import BadInput

if TYPE_CHECKING:
    from dermanet.records import Record

COUNTS = (1, 2, 4, 6, 8, 12, 24)
"""How many parts there may be: numbers that as many workers as possible share without one of them working alone at the end."""


def parts_of(new: int, cost: int) -> list[dict[str, int]]:
    """The parts for so many new images, where a task takes as long to begin as `cost` images take a core; one where there are few.

    Each part more costs a beginning, each part less leaves workers idle for longer at the end: for work of C, beginnings of s and w
    workers the two together are least at sqrt(w C / 2 s) parts. How many workers there are is not known here; it is reckoned with two,
    and where that makes many parts, as it does of much work, more workers have theirs too.
    """
    most = math.isqrt(new // cost)
    parts = max(count for count in COUNTS if count <= max(1, most))
    return [{"part": part, "parts": parts} for part in range(parts)]


def records_in(part: Mapping[str, int], records: "Sequence[Record]") -> "list[Record]":
    """The records of a part, in the order of their digests."""
    ordered = sorted(records, key=lambda record: record.digest)
    first, last = (len(ordered) * (part["part"] + more) // part["parts"] for more in (0, 1))
    return ordered[first:last]


def named_part(text: str) -> dict[str, int]:
    """The part that a person writes as 2/8: the second of eight. Raises BadInput."""
    number, _, count = text.partition("/")
    # Not `isdigit`, by which a superscript is one, and no number.
    if not (number.isdecimal() and count.isdecimal() and 1 <= int(number) <= int(count)):
        raise BadInput(f"part {text!r}; one as 2/8, the second of eight, is needed")
    return {"part": int(number) - 1, "parts": int(count)}
