"""The stage that forgets a lesion."""

from typing import Any

from dermanet import settings
from dermanet.errors import BadInput
from dermanet.settings import Settings
from dermanet.stages.rooms import frozen_snapshot, tracking_of, versions_of
from dermanet.stages.validation import redraw_reports
from dermanet.storage import place


def forget(lesion_id: str) -> dict[str, Any]:
    """Removes a lesion's images from the object store, the catalogue, quarantine and the prepared pixels, for good.

    Returns how many images and which registered versions were trained or judged on a snapshot that holds them. May be repeated.
    Raises BadInput where nothing is known of the lesion.
    """
    from dermanet.intake import forgetting
    from dermanet.intake.catalogue import Catalogue
    from dermanet.pixels import removal

    here = settings.read()
    digests = forgetting.forget(lesion_id, Catalogue(here.catalogue), place(here.objects))
    removal.remove(here.home / "prepared", digests)
    redraw_reports(here, lesion_id)
    return {"lesion": lesion_id, "images": len(digests), "versions": _versions_with(here, lesion_id)}


def _versions_with(here: Settings, lesion_id: str) -> list[str]:
    snapshots = versions_of(here, tracking_of(here)).snapshots()
    return [version for version, snapshot in snapshots.items() if _holds(here, snapshot, lesion_id)]


def _holds(here: Settings, snapshot: str, lesion_id: str) -> bool:
    try:
        frozen = frozen_snapshot(here, snapshot)
    except BadInput:
        # Registered from another home: what its snapshot held cannot be looked up here.
        return False
    return any(record.labels.lesion_id == lesion_id for record in frozen.records)
