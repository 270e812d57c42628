"""The stages of the cache of prepared pixels and of features: what it holds, whether it is sound, and what may go."""

import math
from collections.abc import Callable, Collection
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
    """Reads every shard and exported backbone whole; what is damaged is named and set aside, and made again when it is needed."""
    from dermanet.pixels import upkeep
    from dermanet.pixels.feature_rows import check_graphs

    here = settings.read()
    found = [upkeep.check(root, progress, rows) for root, rows in _roots(here)]
    return {"damaged": [line for lines in (*found, check_graphs(features_root(here))) for line in lines]}


def prune_cache(everything: bool = False, really: bool = False) -> dict[str, Any]:
    """Removes what no snapshot of this home needs, or `everything`: the files that go and their bytes. Without `really`, only says so.

    Needed is a shard with an image of a snapshot, made by a recipe or a backbone as this code has it: the others are never read. An
    exported backbone goes with the last features that it made.
    """
    here = settings.read()
    going = unneeded_cache(here, set() if everything else images_of(here))
    if really:
        remove_cached(list(going))
    return {"removed": really, "shards": list(map(str, going)), "bytes": sum(going.values())}


def unneeded_cache(here: Settings, digests: Collection[str], before: float = math.inf) -> "dict[Path, int]":
    """The shards that hold none of some images, or a forgotten one, and exported backbones that made nothing of the rest; with bytes.

    `before`: only those written before a moment, in seconds since 1970.
    """
    from dermanet.intake.catalogue import Catalogue
    from dermanet.pixels import upkeep
    from dermanet.pixels.feature_rows import idle_graphs

    gone = Catalogue(here.catalogue).forgotten()
    found = (upkeep.unneeded(root, digests, rows, before, gone) for root, rows in _roots(here))
    going = {one.path: one.size for leaving in found for one in leaving}
    graphs = {path: path.stat() for path in idle_graphs(features_root(here), going)}
    return going | {path: seen.st_size for path, seen in graphs.items() if seen.st_mtime < before}


def remove_cached(paths: "Collection[Path]") -> None:
    """Removes some of what `unneeded_cache` found."""
    from dermanet.pixels import upkeep
    from dermanet.pixels.feature_rows import GRAPHS

    graphs = [path for path in paths if path.parent.name == GRAPHS]
    upkeep.remove([upkeep.Leaving(path, 0) for path in paths if path not in graphs])
    for path in graphs:
        path.unlink(missing_ok=True)


def images_of(here: Settings, chosen: Collection[str] | None = None) -> set[str]:
    """The digests of the images of snapshots, by id; of every snapshot in the home where none are given."""
    from dermanet.intake import snapshots

    found = snapshots.every(snapshot_place(here))
    return {record.digest for one in found if chosen is None or one.id in chosen for record in one.records}


def _roots(here: Settings) -> "tuple[tuple[Path, Rows], tuple[Path, Rows]]":
    """Where rows are kept, and what they are: prepared pixels, and features."""
    from dermanet.pixels.feature_rows import rows
    from dermanet.pixels.upkeep import pixel_rows

    return (prepared_root(here), pixel_rows), (features_root(here), rows)
