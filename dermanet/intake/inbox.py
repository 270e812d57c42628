"""Where new batches arrive: a batch is a folder or prefix with a file `labels.csv`, an inbox is one with batches one level down.

PLACE/labels.csv                  PLACE is one batch
PLACE/2026-11/labels.csv          PLACE is an inbox, 2026-11 a batch of it
PLACE/2026-12/*.jpg               2026-12 is waiting for its labels.csv
"""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path

from dermanet.errors import BadInput
from dermanet.imagefile import PICTURES
from dermanet.intake.sources import is_synthetic, locate

LABELS = "labels.csv"
PREFIX = "inbox:"
"""What makes a source an inbox even while nothing is in it."""


@dataclass(frozen=True)
class Inbox:
    """The batches of a place in the order of their names, and the folders of images that wait for their labels.

    `single`: the place itself is its one batch.
    """

    name: str
    batches: tuple[str, ...] = ()
    waiting: tuple[str, ...] = ()
    single: bool = False


def inbox(text: str) -> Inbox | None:
    """The batches that `text` names; None where it is a source of another kind. Raises BadInput where it names no place."""
    if is_synthetic(text):
        return None
    explicit = text.startswith(PREFIX)
    place, label_file = locate(text.removeprefix(PREFIX))
    if explicit and (label_file or text == PREFIX):
        raise BadInput(f"source {text!r} names no folder; write inbox:FOLDER or inbox:s3://bucket/prefix")
    if label_file:
        return _one(str(place)) if label_file == LABELS else None
    closed: set[str] = set()
    listing = place.survey(closed)
    if LABELS in listing:
        return _one(str(place))
    folders = _folders(listing)
    batches = {folder for folder, names in folders.items() if LABELS in names}
    # A label file beside the folders is one of another layout, whose images may well lie in folders.
    if not explicit and (not batches or any(name.lower().endswith(".csv") for name in folders.get("", ()))):
        return None
    # A folder that may not be read may well be a batch: taking it says so, and the others are taken.
    named = sorted(batches | closed)
    waiting = [folder for folder in _waiting(folders) if folder not in closed]
    return Inbox(str(place), tuple(f"{place}/{folder}" for folder in named), tuple(waiting))


def _one(place: str) -> Inbox:
    return Inbox(place, (place,), single=True)


def _folders(listing: Iterable[str]) -> dict[str, list[str]]:
    """The files of each folder one level down, by its name; those of the place itself by an empty one."""
    found: dict[str, list[str]] = {}
    for name in listing:
        folder, rest = name.split("/", 1) if "/" in name else ("", name)
        found.setdefault(folder, []).append(rest)
    return found


def _waiting(folders: Mapping[str, list[str]]) -> list[str]:
    """Folders with images and without labels; `.` for images that lie loose."""
    return [
        folder or "."
        for folder, names in sorted(folders.items())
        if LABELS not in names and any(name.lower().endswith(PICTURES) for name in names)
    ]


def absolute(text: str) -> str:
    """A source's text with its path made absolute, where it is a path."""
    prefix = PREFIX if text.startswith(PREFIX) else ""
    path = Path(text.removeprefix(prefix))
    return f"{prefix}{path.absolute()}" if path.exists() else text
