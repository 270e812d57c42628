"""Forgetting a lesion or a patient: images leave the object store, the catalogue and quarantine, and digests keep them out."""

from collections.abc import Sequence
from functools import partial

from dermanet.errors import BadInput
from dermanet.intake import quarantine
from dermanet.intake.catalogue import Catalogue
from dermanet.intake.stored import image_of, object_name
from dermanet.storage import Place


def forget(lesion_id: str, catalogue: Catalogue, objects: Place) -> list[str]:
    """Removes a lesion's images for good and returns their digests; a second call finds them again and finishes what was left.

    Raises BadInput where nothing is known of the lesion.
    """
    digests = _forget([lesion_id], "", catalogue, objects)
    if digests is None:
        raise BadInput(f"nothing is known of a lesion {lesion_id!r}; give its id as the label file writes it")
    return digests


def forget_patient(patient_id: str, catalogue: Catalogue, objects: Place) -> tuple[list[str], list[str]]:
    """The same for all lesions of a patient, by whatever revision of the labels: their ids and the digests of their images.

    Raises BadInput where nothing is known of the patient.
    """
    lesions = catalogue.lesions_of(patient_id)
    digests = _forget(lesions, patient_id, catalogue, objects) if patient_id else None
    if digests is None:
        raise BadInput(f"nothing is known of a patient {patient_id!r}; give the id as the label file writes it")
    return lesions, digests


def _forget(lesions: Sequence[str], patient_id: str, catalogue: Catalogue, objects: Place) -> list[str] | None:
    refused = _refused(lesions, catalogue, objects)
    digests = catalogue.forget(lesions, refused, partial(quarantine.discard, objects), patient_id)
    for digest in digests or ():
        objects.remove(object_name(digest))
    return digests


def _refused(lesions: Sequence[str], catalogue: Catalogue, objects: Place) -> list[str]:
    """Images of the lesions' refused records: one that was refused late lies in the object store already."""
    found = (image_of(refusal, file, objects) for refusal, file in catalogue.refused_files(lesions))
    return [digest for digest in found if digest]
