"""Upkeep of a cache of shards, prepared pixels or features of them: what it holds, whether it is sound, what is not needed.

Every function takes the cache's root and `rows`: what the rows of one of its folders are by what the folder says of itself, or None
where this code makes others.
"""

import json
import math
from collections.abc import Callable, Collection, Iterable, Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dermanet.errors import BadInput
from dermanet.pixels.prepared import row_of
from dermanet.pixels.preprocess import from_dict
from dermanet.pixels.shards import (
    ABOUT,
    Row,
    Shard,
    clean,
    folders,
    indexes,
    left,
    modified,
    read_index,
    remove_left,
    set_aside,
)

Rows = Callable[[Mapping[str, Any], str], Row | None]
"""What a folder says of itself and its name in; what its rows are out, or None where this code makes others."""

UNKNOWN = Row((), np.dtype(np.uint8))
"""Of shards that are only counted."""


@dataclass(frozen=True, slots=True)
class Holding:
    """What the cache holds in one folder. `recipe`: its name and side; `current`: whether this code makes the same."""

    fingerprint: str
    recipe: str
    current: bool
    images: int
    shards: int
    bytes: int

    def as_dict(self) -> dict[str, Any]:
        """As plain JSON."""
        return asdict(self)


@dataclass(frozen=True, slots=True)
class Leaving:
    """A shard that may go, or a file that a killed run left; and its bytes."""

    path: Path
    size: int


def pixel_rows(about: Mapping[str, Any], fingerprint: str) -> Row | None:
    """The rows of a recipe's prepared pixels."""
    try:
        recipe = from_dict(dict(about))
    except (TypeError, BadInput):
        return None
    return row_of(recipe) if recipe.fingerprint == fingerprint else None


def survey(root: Path, rows: Rows = pixel_rows) -> list[Holding]:
    """Every folder of the cache and what it holds."""
    found = []
    for folder in folders(root):
        row = _row_of(folder, rows)
        shards = [shard for index in indexes(folder) if isinstance(shard := read_index(index, row or UNKNOWN), Shard)]
        images = len({digest for shard in shards for digest in shard.digests})
        size = sum(map(_size, folder.iterdir()))
        found.append(Holding(folder.name, _stated(folder, row is not None), row is not None, images, len(shards), size))
    return found


def check(
    root: Path, progress: Callable[[int, int], None] = lambda done, total: None, rows: Rows = pixel_rows
) -> list[str]:
    """Reads every shard that this code makes; sets the damaged ones aside and names each with what is wrong.

    Named is, too, what a folder of shards says of itself and cannot be read: without it nobody knows what they are.
    """
    damaged = [f"{folder / ABOUT} cannot be read" for folder in folders(root) if indexes(folder) and not _about(folder)]
    todo = [(index, row) for folder in folders(root) if (row := _row_of(folder, rows)) for index in indexes(folder)]
    for done, (index, row) in enumerate(todo, 1):
        shard = read_index(index, row)
        if wrong := shard.whole_fault() if isinstance(shard, Shard) else shard:
            set_aside(index)
            damaged.append(f"{index.with_suffix('.npy')} {wrong}")
        progress(done, len(todo))
    return damaged


def unneeded(
    root: Path, digests: Collection[str], rows: Rows = pixel_rows, before: float = math.inf, gone: Collection[str] = ()
) -> list[Leaving]:
    """What may go: shards without any image among `digests` or with one among `gone`, or not of this code; and what killed runs left.

    `before`: only those written before a moment, in seconds since 1970.
    """
    leaving = []
    for folder in folders(root):
        row = _row_of(folder, rows)
        for index in indexes(folder):
            shard = read_index(index, row) if row else None
            held = shard.digests if isinstance(shard, Shard) else ()
            if not any(digest in digests for digest in held) or any(digest in gone for digest in held):
                parts = [part.stat() for part in (index, index.with_suffix(".npy")) if part.exists()]
                if all(part.st_mtime < before for part in parts):
                    leaving.append(Leaving(index.with_suffix(".npy"), sum(part.st_size for part in parts)))
        leaving += [Leaving(path, _size(path)) for path in left(folder) if modified(path) < before]
    return leaving


def remove(leaving: Iterable[Leaving]) -> int:
    """Removes them, and folders that are then empty. Returns the bytes given back."""
    leaving = list(leaving)
    freed = sum(map(_remove, leaving))
    for folder in {one.path.parent for one in leaving}:
        clean(folder)
        if {path.name for path in folder.iterdir()} <= {ABOUT}:
            (folder / ABOUT).unlink(missing_ok=True)
            folder.rmdir()
    return freed


def _remove(one: Leaving) -> int:
    """Removes one, if it is still there; a file without an index may have got one since, or somebody who holds it."""
    if one.path.with_suffix(".json").exists():
        return set_aside(one.path)
    size = _size(one.path)
    remove_left(one.path)
    return size - _size(one.path)


def _size(path: Path) -> int:
    """The bytes of a file; none where it has gone, as those do that are under way."""
    try:
        return path.stat().st_size
    except FileNotFoundError:
        return 0


def _about(folder: Path) -> dict[str, Any]:
    """What a folder says of itself; nothing where that cannot be read."""
    try:
        return dict(json.loads((folder / ABOUT).read_bytes()))
    except (OSError, ValueError, TypeError):
        return {}


def _row_of(folder: Path, rows: Rows) -> Row | None:
    return rows(_about(folder), folder.name)


def _stated(folder: Path, current: bool) -> str:
    about = _about(folder)
    if not {"name", "size", "revision"} <= set(about):
        return "unknown"
    return f"{about['name']}@{about['size']}" + ("" if current else f" of revision {about['revision']}")
