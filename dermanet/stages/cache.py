"""The stages of the cache of prepared pixels: what it holds, whether it is sound, and what may go."""

from collections.abc import Callable
from typing import Any

from dermanet import settings
from dermanet.settings import Settings
from dermanet.stages.rooms import prepared_root, snapshot_place


def cache() -> dict[str, Any]:
    """What the cache holds: for each recipe its fingerprint, whether this code makes it, images, shards and bytes."""
    from dermanet.pixels import upkeep

    here = settings.read()
    held = upkeep.survey(prepared_root(here))
    return {"folder": str(prepared_root(here)), "recipes": [one.as_dict() for one in held]}


def check_cache(progress: Callable[[int, int], None] = lambda done, total: None) -> dict[str, Any]:
    """Reads every shard whole; what is damaged is named and set aside, so that the next `prepare` makes it again."""
    from dermanet.pixels import upkeep

    damaged = upkeep.check(prepared_root(settings.read()), progress)
    return {"damaged": damaged}


def prune_cache(everything: bool = False, really: bool = False) -> dict[str, Any]:
    """Removes what no snapshot of this home needs, or `everything`: `files` that go and their bytes. Without `really`, only says so.

    Needed is a shard with an image of a snapshot, made by a recipe that this code still makes: the others are never read.
    """
    from dermanet.pixels import upkeep

    here = settings.read()
    going = upkeep.unneeded(prepared_root(here), set() if everything else _needed(here))
    freed = upkeep.remove(going) if really else sum(one.size for one in going)
    return {"removed": really, "shards": [str(one.path) for one in going], "bytes": freed}


def _needed(here: Settings) -> set[str]:
    """The digests of the images of every snapshot in the home."""
    from dermanet.intake import snapshots

    return {record.digest for frozen in snapshots.every(snapshot_place(here)) for record in frozen.records}
