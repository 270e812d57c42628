"""The stages of the quarantine: what is in it, and what a person decides about a record."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from dermanet import settings, taxonomy
from dermanet.storage import place

if TYPE_CHECKING:
    from dermanet.intake.catalogue import Catalogue
    from dermanet.records import Refusal
    from dermanet.storage import Place


def quarantined(reason: str = "") -> dict[str, Any]:
    """Every record in quarantine, or those of one reason: id, name, reason, detail, source, and whether its file is kept.

    `withdrawn`: whether its source had it no more at the last ingest.
    """
    from dermanet.intake.catalogue import Catalogue

    reasons = (reason,) if reason else ()
    found = [
        {
            "id": name, "name": refusal.name, "reason": refusal.reason, "detail": refusal.detail, "source": source,
            "file": refusal.file is not None, "withdrawn": refusal.withdrawn,
        }
        for name, source, refusal in Catalogue(settings.read().catalogue).quarantined(reasons)
    ]  # fmt: skip
    return {"count": len(found), "records": found}


def show_quarantined(refusal: str) -> dict[str, Any]:
    """One record in quarantine with its row and where its file is. Raises BadInput where there is none."""
    from dermanet.intake.catalogue import Catalogue

    source, held = Catalogue(settings.read().catalogue).refusal(refusal)
    return {"id": refusal, "source": source, **_told(refusal, held)}


def release_quarantined(refusal: str, changes: Mapping[str, str], force: bool = False) -> dict[str, Any]:
    """Takes a record in after all, with cells set anew, if it then passes. Raises BadInput where it does not.

    `force` insists on a matter of judgement.
    """
    from dermanet.intake.catalogue import Catalogue
    from dermanet.intake.ingest import release

    here = settings.read()
    catalogue = Catalogue(here.catalogue)
    record = release(refusal, changes, catalogue, place(here.objects), taxonomy.load(here.taxonomy), force)
    return {"id": refusal, "released": True, **(record.as_row() if record else {})}


def drop_quarantined(refusal: str) -> dict[str, Any]:
    """Removes a record in quarantine and its file for good."""
    from dermanet.intake.catalogue import Catalogue

    here = settings.read()
    held = _drop(refusal, Catalogue(here.catalogue), place(here.objects))
    return {"id": refusal, "name": held.name, "dropped": True}


def drop_withdrawn() -> dict[str, int]:
    """The same of every record that its source has no more. Killed, it may be called again."""
    from dermanet.intake.catalogue import Catalogue

    here = settings.read()
    catalogue, objects = Catalogue(here.catalogue), place(here.objects)
    withdrawn = [name for name, _, refusal in catalogue.quarantined() if refusal.withdrawn]
    for name in withdrawn:
        _drop(name, catalogue, objects)
    return {"dropped": len(withdrawn)}


def _drop(refusal: str, catalogue: "Catalogue", objects: "Place") -> "Refusal":
    from dermanet.intake import quarantine, stored

    stored.remove_copy(refusal, catalogue, objects)
    return quarantine.drop(refusal, catalogue, objects)


def _told(refusal: str, held: "Refusal") -> dict[str, Any]:
    from dermanet.intake.quarantine import file_name

    return {
        "name": held.name, "reason": held.reason, "detail": held.detail,
        "ruling": held.ruling or None, "withdrawn": held.withdrawn,
        "row": asdict(held.row) if held.row else None,
        "file": file_name(refusal, held.file) if held.file else None,
    }  # fmt: skip
