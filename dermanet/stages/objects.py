"""The stages of the object store: what it holds, whether it is sound, and what may go."""

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from dermanet import settings
from dermanet.settings import Settings
from dermanet.storage import place

if TYPE_CHECKING:
    from dermanet.intake.catalogue import Catalogue
    from dermanet.storage import Place


def objects() -> dict[str, Any]:
    """What the store holds: images, files in quarantine and orphans, each with their bytes; and how many images it lacks."""
    from dermanet.intake import inventory

    here = settings.read()
    found = inventory.survey(*_opened(here))
    counted = {"images": found.images, "quarantined": found.quarantined, "orphans": found.orphans}
    held = {word: {"files": len(files), "bytes": sum(files.values())} for word, files in counted.items()}
    return {"store": str(place(here.objects)), **held, "missing": len(found.missing)}


def check_objects(progress: Callable[[int, int], None] = lambda done, total: None) -> dict[str, Any]:
    """Reads every image and compares it with its digest; what is damaged is set aside into quarantine.

    Returns the damaged and the missing ones, each named with its lesion and its source, the sources to ingest again, and the orphans.
    """
    from dermanet.intake import inventory

    opened = _opened(settings.read())
    found = inventory.check(*opened, progress)
    return {
        "images": len(opened[0].digests()),
        "faults": [str(fault) for fault in found],
        "sources": sorted({fault.held.source for fault in found if fault.held}),
        "orphans": sorted(inventory.survey(*opened).orphans),
    }


def prune_objects(really: bool = False) -> dict[str, Any]:
    """Removes orphans and half-written files that are older than an hour. Without `really`, only says which and their bytes."""
    from dermanet.intake import inventory

    opened = _opened(settings.read())
    going = inventory.unneeded(*opened)
    if really:
        going = inventory.remove(going, *opened)
    return {"removed": really, "files": sorted(going), "bytes": sum(going.values())}


def _opened(here: Settings) -> "tuple[Catalogue, Place]":
    from dermanet.intake.catalogue import Catalogue

    return Catalogue(here.catalogue), place(here.objects)
