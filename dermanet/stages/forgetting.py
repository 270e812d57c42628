"""The stage that forgets a lesion or a patient."""

import shutil
from typing import Any

from dermanet import settings
from dermanet.errors import BadInput
from dermanet.settings import Settings
from dermanet.stages.groups import forget_sheets
from dermanet.stages.pages import clear_pages
from dermanet.stages.rooms import (
    features_root,
    frozen_snapshot,
    looked_at,
    prepared_root,
    removing,
    tracking_of,
    versions_of,
)
from dermanet.stages.validation import redraw_reports
from dermanet.storage import place


def forget(lesion_id: str = "", patient_id: str = "") -> dict[str, Any]:
    """Removes a lesion's images, or all of a patient's, from object store, catalogue, quarantine, prepared pixels and features.

    Their rows leave the log of predictions, too.

    Returns how many images and which registered versions were trained or judged on a snapshot that holds them. May be repeated.
    Raises BadInput where nothing is known of the lesion or patient, or where not exactly one of the two is given; DermaNetError where
    an upkeep or a backup is under way for longer than a minute.
    """
    from dermanet.intake import forgetting
    from dermanet.intake.catalogue import Catalogue
    from dermanet.pixels import removal

    if bool(lesion_id) == bool(patient_id):
        raise BadInput("forget takes one lesion or one patient: give --lesion ID or --patient ID")
    here = settings.read()
    catalogue, objects = Catalogue(here.catalogue), place(here.objects)
    with removing(here):
        if patient_id:
            lesions, digests = forgetting.forget_patient(patient_id, catalogue, objects)
        else:
            lesions, digests = [lesion_id], forgetting.forget(lesion_id, catalogue, objects)
        for root in (prepared_root(here), features_root(here)):
            removal.remove(root, digests)
        forget_sheets(here)
        shutil.rmtree(looked_at(here, ""), ignore_errors=True)
        redraw_reports(here, lesions, digests)
        clear_pages(here, digests)
    whom = {"patient": patient_id} if patient_id else {"lesion": lesion_id}
    return {**whom, "images": len(digests), "versions": _versions_with(here, set(lesions), patient_id, set(digests))}


def _versions_with(here: Settings, lesions: set[str], patient_id: str, digests: set[str]) -> list[str]:
    snapshots = versions_of(here, tracking_of(here)).snapshots()
    return [version for version, snapshot in snapshots.items() if _holds(here, snapshot, lesions, patient_id, digests)]


def _holds(here: Settings, snapshot: str, lesions: set[str], patient_id: str, digests: set[str]) -> bool:
    try:
        frozen = frozen_snapshot(here, snapshot)
    except BadInput:
        # Registered from another home: what its snapshot held cannot be looked up here.
        return False
    # At a second call the catalogue no longer knows a patient's lesions: the snapshot and the digests do.
    return any(
        record.labels.lesion_id in lesions
        or record.digest in digests
        or record.labels.patient_id == (patient_id or None)
        for record in frozen.records
    )
