"""Forgetting a lesion: its images leave the object store, the catalogue and quarantine, and digests are left that keep them out."""

from functools import partial

from dermanet.errors import BadInput, UnreadableImage
from dermanet.imagefile import read_header
from dermanet.intake import quarantine
from dermanet.intake.catalogue import Catalogue
from dermanet.intake.stored import bare_digest, object_name
from dermanet.storage import Place


def forget(lesion_id: str, catalogue: Catalogue, objects: Place) -> list[str]:
    """Removes a lesion's images for good and returns their digests; a second call finds them again and finishes what was left.

    Raises BadInput where nothing is known of the lesion.
    """
    digests = catalogue.forget(lesion_id, _refused(lesion_id, catalogue, objects), partial(quarantine.discard, objects))
    if digests is None:
        raise BadInput(f"nothing is known of a lesion {lesion_id!r}; give its id as the label file writes it")
    for digest in digests:
        objects.remove(object_name(digest))
    return digests


def _refused(lesion_id: str, catalogue: Catalogue, objects: Place) -> list[str]:
    """Images of the lesion's refused records: one that was refused late lies in the object store already."""
    found = []
    for refusal, file in catalogue.refused_files(lesion_id):
        try:
            data = objects.read(quarantine.file_name(refusal, file))
            found.append(bare_digest(data, read_header(data).format))
        except (FileNotFoundError, UnreadableImage):
            continue
    return found
