"""Upkeep of the cache of prepared pixels: what it holds, whether it is sound, and what is no longer needed."""

import json
import re
from collections.abc import Callable, Collection, Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dermanet.errors import BadInput
from dermanet.pixels.prepared import RECIPE, Shard, clean, indexes, read_index, set_aside
from dermanet.pixels.preprocess import Recipe, from_dict


@dataclass(frozen=True, slots=True)
class Holding:
    """What the cache holds of one recipe. `recipe`: its name and side; `current`: whether this code makes the same pixels."""

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
    """A shard that may go, and its bytes."""

    path: Path
    size: int


def survey(root: Path) -> list[Holding]:
    """Every recipe that the cache holds pixels of."""
    found = []
    for folder in _folders(root):
        recipe = _recipe_of(folder)
        size_of = recipe.size if recipe else 0
        shards = [shard for index in indexes(folder) if isinstance(shard := read_index(index, size_of), Shard)]
        images = len({digest for shard in shards for digest in shard.digests})
        size = sum(path.stat().st_size for path in folder.iterdir())
        name = f"{recipe.name}@{recipe.size}" if recipe else _stated(folder)
        found.append(Holding(folder.name, name, recipe is not None, images, len(shards), size))
    return found


def check(root: Path, progress: Callable[[int, int], None] = lambda done, total: None) -> list[str]:
    """Reads every shard of every recipe that this code makes; sets the damaged ones aside and names each with what is wrong."""
    damaged = []
    todo = [(index, recipe) for folder in _folders(root) if (recipe := _recipe_of(folder)) for index in indexes(folder)]
    for done, (index, recipe) in enumerate(todo, 1):
        shard = read_index(index, recipe.size)
        if wrong := shard.whole_fault() if isinstance(shard, Shard) else shard:
            set_aside(index)
            damaged.append(f"{index.with_suffix('.npy')} {wrong}")
        progress(done, len(todo))
    return damaged


def unneeded(root: Path, digests: Collection[str]) -> list[Leaving]:
    """The shards without any image among `digests`, and all those of recipes that this code does not make."""
    leaving = []
    for folder in _folders(root):
        recipe = _recipe_of(folder)
        for index in indexes(folder):
            shard = read_index(index, recipe.size) if recipe else None
            if not isinstance(shard, Shard) or not any(digest in digests for digest in shard.digests):
                parts = (index, index.with_suffix(".npy"))
                leaving.append(Leaving(parts[1], sum(part.stat().st_size for part in parts if part.exists())))
    return leaving


def remove(leaving: Iterable[Leaving]) -> int:
    """Removes the shards, and folders that are then empty. Returns the bytes given back."""
    leaving = list(leaving)
    freed = sum(set_aside(one.path) for one in leaving)
    for folder in {one.path.parent for one in leaving}:
        clean(folder)
        if {path.name for path in folder.iterdir()} <= {RECIPE}:
            (folder / RECIPE).unlink(missing_ok=True)
            folder.rmdir()
    return freed


def _folders(root: Path) -> list[Path]:
    """The recipes' folders: named as fingerprints are, so that nothing else in the root is ever touched."""
    if not root.is_dir():
        return []
    return sorted(path for path in root.iterdir() if path.is_dir() and re.fullmatch("[0-9a-f]{16}", path.name))


def _recipe_of(folder: Path) -> Recipe | None:
    """The recipe of a folder; None where this code makes other pixels, or the folder says nothing of itself."""
    try:
        recipe = from_dict(json.loads((folder / RECIPE).read_bytes()))
    except (OSError, ValueError, TypeError, BadInput):
        return None
    return recipe if recipe.fingerprint == folder.name else None


def _stated(folder: Path) -> str:
    try:
        record = json.loads((folder / RECIPE).read_bytes())
        return f"{record['name']}@{record['size']} of revision {record['revision']}"
    except (OSError, ValueError, TypeError, KeyError):
        return "unknown"
