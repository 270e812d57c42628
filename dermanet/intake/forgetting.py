"""Forgetting a lesion or a patient: images leave the object store, the catalogue and quarantine, and digests keep them out."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import cache, partial

from dermanet.errors import BadInput
from dermanet.intake import quarantine
from dermanet.intake.catalogue import Catalogue
from dermanet.intake.stored import READERS, image_of, object_name
from dermanet.intake.tombstones import Gone, ImageOf
from dermanet.storage import Place


def forget(lesion_id: str, catalogue: Catalogue, objects: Place) -> list[str]:
    """Removes a lesion's images for good and returns their digests; a second call finds them again and finishes what was left.

    Raises BadInput where nothing is known of the lesion.
    """
    gone = _forget([lesion_id], "", catalogue, objects)
    if gone is None:
        raise BadInput(f"nothing is known of a lesion {lesion_id!r}; give its id as the label file writes it")
    return gone.images


def forget_patient(patient_id: str, catalogue: Catalogue, objects: Place) -> tuple[list[str], list[str]]:
    """The same for all lesions of a patient, by whatever revision of the labels: their ids and the digests of their images.

    Raises BadInput where nothing is known of the patient.
    """
    gone = _forget([], patient_id, catalogue, objects) if patient_id else None
    if gone is None:
        raise BadInput(f"nothing is known of a patient {patient_id!r}; give the id as the label file writes it")
    return gone.lesions, gone.images


def _forget(lesions: Sequence[str], patient_id: str, catalogue: Catalogue, objects: Place) -> Gone | None:
    pictured = _read_quarantine(catalogue, objects)
    gone = catalogue.forget(lesions, pictured, partial(quarantine.discard, objects), patient_id)
    for digest in gone.images if gone else ():
        objects.remove(object_name(digest))
    return gone


def _read_quarantine(catalogue: Catalogue, objects: Place) -> ImageOf:
    """Tells the images of files in quarantine, each read once: before the transaction that asks, in which nobody else can write."""

    @cache
    def pictured(refusal: str, file: str) -> str | None:
        return image_of(refusal, file, objects)

    with ThreadPoolExecutor(READERS) as pool:
        for _ in pool.map(lambda one: pictured(*one), catalogue.quarantined_files()):
            pass
    return pictured
