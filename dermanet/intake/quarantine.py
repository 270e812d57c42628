"""Quarantine: the files of refused records, and what a person decides about a record: release it or drop it.

The object store keeps a file as it came, under `quarantine/<id of the refusal>-<SHA-256 of the bytes>`, so that no two refusals
share one and dropping a record removes its file for good.
"""

import hashlib
from collections.abc import Mapping
from dataclasses import replace

from dermanet.errors import BadInput
from dermanet.intake.admission import Arrival
from dermanet.intake.catalogue import DAMAGED, Catalogue
from dermanet.intake.screening import MATTERS_OF_JUDGEMENT, check_image, check_labels
from dermanet.records import Record, Refusal, Row
from dermanet.storage import Place
from dermanet.taxonomy import Taxonomy

CELLS = {
    "image_id": "image_id", "lesion_id": "lesion_id", "dx": "diagnosis", "age": "age", "sex": "sex",
    "localization": "localization", "dx_type": "confirmation", "dataset": "clinic", "patient_id": "patient_id",
}  # fmt: skip
"""What a release may set, by the column's name in HAM10000's label file."""


def file_name(refusal: str, digest: str) -> str:
    """Where the object store keeps a refused record's file."""
    return f"quarantine/{refusal}-{digest}"


def keep(objects: Place, refusal: str, data: bytes) -> None:
    """Puts a refused record's file into quarantine."""
    name = file_name(refusal, hashlib.sha256(data).hexdigest())
    if not objects.exists(name):
        objects.write(name, data)


def discard(objects: Place, refusal: str, digest: str) -> None:
    """Removes a refused record's file."""
    objects.remove(file_name(refusal, digest))


def corrected(row: Row, changes: Mapping[str, str]) -> Row:
    """The row with some cells set anew; whoever sets any has looked at all. Raises BadInput for a column that it has not."""
    unknown = [name for name in changes if name not in CELLS]
    if unknown:
        raise BadInput(f"--set {unknown[0]}: no such column; allowed are {', '.join(CELLS)}")
    return replace(row, **{CELLS[name]: value for name, value in changes.items()}, fault="" if changes else row.fault)


def screened(
    refusal: str, held: Refusal, changes: Mapping[str, str], objects: Place, taxonomy: Taxonomy, force: bool
) -> Arrival:
    """A record in quarantine, corrected and screened as at an ingest; its image is not stored yet. Raises BadInput."""
    if not held.row or not held.file:
        lacking = "the row that it came with" if held.file else "its file"
        raise BadInput(
            f"{held.name} ({held.reason}) cannot be released: quarantine has not {lacking}; correct the source"
        )
    if held.reason == DAMAGED:
        raise BadInput(
            f"{held.name} cannot be released: it is {DAMAGED}; ingest its source again, which has the right bytes"
        )
    row = corrected(held.row, changes)
    labels = check_labels(row, taxonomy)
    if isinstance(labels, Refusal):
        raise BadInput(
            f"{held.name} is refused again, {labels.reason}: {labels.detail}; --set COLUMN=VALUE corrects it"
        )
    checked = check_image(objects.read(file_name(refusal, held.file)), held.name, judge=not force)
    if isinstance(checked, Refusal):
        insists = "; --force insists" if checked.reason in MATTERS_OF_JUDGEMENT else ""
        raise BadInput(f"{held.name} is refused again, {checked.reason}: {checked.detail}{insists}")
    header, look = checked
    return Arrival(Record("", row.image_id, labels), header, row, look=look)


def drop(refusal: str, catalogue: Catalogue, objects: Place) -> Refusal:
    """Removes a record's row and file for good; the same record is not kept again. May be repeated."""
    held = catalogue.refusal(refusal)[1]
    catalogue.drop(refusal, lambda name, digest: discard(objects, name, digest))
    return held
