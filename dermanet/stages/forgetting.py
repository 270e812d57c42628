"""The stage that forgets a lesion or a patient."""

import shutil
from typing import Any

from dermanet import settings
from dermanet.errors import BadInput, StoreFault
from dermanet.settings import Settings
from dermanet.stages.groups import forget_sheets
from dermanet.stages.lineage import IMAGENET, STARTED_FROM
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

    Returns how many images; which registered versions were trained or judged on a snapshot that holds them, or began with such a
    version; and of which versions nobody can tell, as a snapshot of theirs is not here or damaged. May be repeated.
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
    saw = _versions_that_saw(here, set(lesions), patient_id, set(digests))
    named = {
        "versions": [version for version, found in saw.items() if found],
        "unknown": [version for version, found in saw.items() if found is None],
    }
    return {**whom, "images": len(digests), **named}


def _versions_that_saw(here: Settings, lesions: set[str], patient_id: str, digests: set[str]) -> dict[str, bool | None]:
    """Every registered version, and whether it or one that it began with was trained or judged on them; None: nobody can tell."""
    saw: dict[str, bool | None] = {}
    # Oldest first: what a version began with is older. One that was deleted since tells nothing any more.
    for version, (snapshot, started) in (
        versions_of(here, tracking_of(here)).tagged("dermanet.snapshot", STARTED_FROM).items()
    ):
        own = _holds(here, snapshot, lesions, patient_id, digests)
        inherited = saw.get(started) if started not in ("", IMAGENET) else False
        saw[version] = True if own or inherited else None if None in (own, inherited) else False
    return saw


def _holds(here: Settings, snapshot: str, lesions: set[str], patient_id: str, digests: set[str]) -> bool | None:
    try:
        frozen = frozen_snapshot(here, snapshot)
    except (BadInput, StoreFault):
        # Registered from another home, or damaged: what its snapshot held cannot be looked up here.
        return None
    # At a second call the catalogue no longer knows a patient's lesions: the snapshot and the digests do.
    return any(
        record.labels.lesion_id in lesions
        or record.digest in digests
        or record.labels.patient_id == (patient_id or None)
        for record in frozen.records
    )
