"""The stages of the cache of prepared pixels and of features: what it holds, whether it is sound, and what may go."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from dermanet import settings
from dermanet.settings import Settings
from dermanet.stages.rooms import features_root, prepared_root, snapshot_place

if TYPE_CHECKING:
    from pathlib import Path

    from dermanet.pixels.upkeep import Rows


def cache() -> dict[str, Any]:
    """What the cache holds: for each recipe, and for each backbone's features, its fingerprint, whether this code makes it, images,
    shards and bytes."""
    from dermanet.pixels import upkeep

    here = settings.read()
    recipes, features = ([one.as_dict() for one in upkeep.survey(root, rows)] for root, rows in _roots(here))
    return {"folder": str(here.home), "recipes": recipes, "features": features}


def check_cache(progress: Callable[[int, int], None] = lambda done, total: None) -> dict[str, Any]:
    """Reads every shard whole; what is damaged is named and set aside, so that it is made again when it is needed."""
    from dermanet.pixels import upkeep

    found = [upkeep.check(root, progress, rows) for root, rows in _roots(settings.read())]
    return {"damaged": [line for lines in found for line in lines]}


def prune_cache(everything: bool = False, really: bool = False) -> dict[str, Any]:
    """Removes what no snapshot of this home needs, or `everything`: the files that go and their bytes. Without `really`, only says so.

    Needed is a shard with an image of a snapshot, made by a recipe or a backbone as this code has it: the others are never read. An
    exported backbone goes with the last features that it made.
    """
    from dermanet.learning.feature_rows import idle_graphs
    from dermanet.pixels import upkeep

    here = settings.read()
    needed = set() if everything else _needed(here)
    going = [one for root, rows in _roots(here) for one in upkeep.unneeded(root, needed, rows)]
    graphs = idle_graphs(features_root(here), {one.path for one in going})
    size = sum(path.stat().st_size for path in graphs)
    freed = size + (upkeep.remove(going) if really else sum(one.size for one in going))
    if really:
        for path in graphs:
            path.unlink(missing_ok=True)
    return {
        "removed": really,
        "shards": [str(path) for path in (*(one.path for one in going), *graphs)],
        "bytes": freed,
    }


def _roots(here: Settings) -> "tuple[tuple[Path, Rows], tuple[Path, Rows]]":
    """Where rows are kept, and what they are: prepared pixels, and features."""
    from dermanet.learning.feature_rows import rows
    from dermanet.pixels.upkeep import pixel_rows

    return (prepared_root(here), pixel_rows), (features_root(here), rows)


def _needed(here: Settings) -> set[str]:
    """The digests of the images of every snapshot in the home."""
    from dermanet.intake import snapshots

    return {record.digest for frozen in snapshots.every(snapshot_place(here)) for record in frozen.records}
