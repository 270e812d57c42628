"""Tombstones: what is left of whom a person asked to forget, and the transaction that leaves nothing else."""

import hashlib
from collections.abc import Callable, Collection, Sequence
from typing import Any

import sqlalchemy as sa

from dermanet.database.schema import FORGOTTEN, IMAGES, LABELS, ORIGINALS, PARTED, PREDICTIONS, REFUSALS, SIDES
from dermanet.intake.company import forget_company
from dermanet.intake.rows import legible, refusal_of, upsert
from dermanet.records import Labels, Refusal, Row

NEAR_DUPLICATE = "near-duplicate under another lesion"

Discard = Callable[[str, str], None]
"""Removes a refusal's file from quarantine, by the refusal's id and the file's digest. Called before the refusal is gone from the
catalogue: killed in between, the same call finds it again."""


def tombstones(said: Labels | Row) -> set[str]:
    """What is left of the ids of a forgotten lesion and a forgotten patient."""
    return {lesion_digest(said.lesion_id), *([patient_digest(said.patient_id)] if said.patient_id else [])}


def patient_digest(patient_id: str) -> str:
    """What is left of a forgotten patient's id."""
    return hashlib.sha256(f"patient\n{patient_id}".encode("utf-8", "surrogateescape")).hexdigest()


def lesion_digest(lesion_id: str) -> str:
    """What is left of a forgotten lesion's id."""
    return hashlib.sha256(f"lesion\n{lesion_id}".encode("utf-8", "surrogateescape")).hexdigest()


def forgotten(name: str) -> Refusal:
    """The refusal of a record that was forgotten on request; neither its row nor its file is kept."""
    return Refusal(name, "forgotten", "it was forgotten on request and never comes back; remove it from the source")


def forget(
    connection: sa.Connection,
    lesions: Collection[str],
    refused: Collection[str],
    discard: Discard,
    patient_id: str = "",
) -> list[str] | None:
    """Removes all that is known of lesions but digests, and returns those of their images; None where nothing is known of them.

    `refused`: digests of images of their refused records. `patient_id`: whose lesions they all are, if a patient is forgotten.
    """
    ids = {lesion_digest(lesion) for lesion in lesions} | ({patient_digest(patient_id)} if patient_id else set())
    whose = patient_digest(patient_id) if patient_id else next(iter(ids))
    ours = connection.scalars(sa.select(LABELS.c.digest).where(LABELS.c.lesion_id.in_(lesions)).distinct()).all()
    files = connection.scalars(sa.select(ORIGINALS.c.original).where(ORIGINALS.c.digest.in_(ours))).all()
    of_lesions = sa.or_(REFUSALS.c.lesion_id.in_([legible(lesion) for lesion in lesions]), REFUSALS.c.file.in_(files))
    held = connection.execute(sa.select(REFUSALS).where(of_lesions)).all()
    known = sa.or_(FORGOTTEN.c.lesion == whose, FORGOTTEN.c.digest.in_(ids))
    before = connection.execute(sa.select(FORGOTTEN).where(known)).all()
    if not (ours or held or before):
        return None
    kept = set(connection.scalars(sa.select(IMAGES.c.digest).where(IMAGES.c.digest.in_(refused)))) - set(ours)
    images = {*ours, *(set(refused) - kept), *(row.digest for row in before if row.image)}
    marks = ids | {*images, *files, *(row.file for row in held if row.file)}
    upsert(
        connection, FORGOTTEN, [{"digest": mark, "lesion": whose, "image": mark in images} for mark in sorted(marks)]
    )
    # What came of them in the log of predictions, sent as stored or as they came; of those forgotten before, what was asked since.
    asked = [*marks, *(row.digest for row in before)]
    connection.execute(sa.delete(PREDICTIONS).where(PREDICTIONS.c.digest.in_(asked)))
    _forget_sides(connection, lesions, ours, patient_id)
    forget_company(connection, ours)
    for table in (ORIGINALS, LABELS, IMAGES):
        connection.execute(sa.delete(table).where(table.c.digest.in_(ours)))
    for row in held:
        if row.file:
            discard(row.id, row.file)
    connection.execute(sa.delete(REFUSALS).where(of_lesions))
    return sorted(images)


def lesions_below(connection: sa.Connection, marks: Collection[str]) -> list[str]:
    """The lesions that are known though their ids, their patients' or one of their images are among some tombstones' digests."""
    rows = connection.execute(sa.select(LABELS.c.lesion_id, LABELS.c.patient_id, LABELS.c.digest).distinct())
    said = {(row.lesion_id, row.patient_id, row.digest) for row in rows}
    refused = [refusal_of(row).row for row in connection.execute(sa.select(REFUSALS))]
    said |= {(row.lesion_id, row.patient_id or "", "") for row in refused if row and row.lesion_id}
    # Of a lesion that had another id when the image was forgotten, the rest goes too: rather too much than somebody who asked.
    return sorted({
        lesion
        for lesion, patient, digest in said
        if digest in marks or lesion_digest(lesion) in marks or (patient and patient_digest(patient) in marks)
    })  # fmt: skip


def bury(connection: sa.Connection, rows: Collection[Sequence[Any]]) -> None:
    """Keeps tombstones: digest, the lesion's or patient's digest, whether it is an image's; one that stands stays as it is."""
    known = set(connection.scalars(sa.select(FORGOTTEN.c.digest)))
    new = [dict(zip(FORGOTTEN.c.keys(), row, strict=True)) for row in rows if row[0] not in known]
    upsert(connection, FORGOTTEN, new)


def _forget_sides(connection: sa.Connection, lesions: Collection[str], images: Sequence[str], patient_id: str) -> None:
    """Removes what is written of lesions beside their labels: their sides, what parts their images, and their names elsewhere."""
    connection.execute(sa.delete(SIDES).where(SIDES.c.lesion_id.in_(lesions)))
    connection.execute(sa.delete(PARTED).where(sa.or_(PARTED.c.one.in_(images), PARTED.c.other.in_(images))))
    decided = [f"lesion {lesion}" for lesion in lesions] + [f"patient {patient_id}"]
    connection.execute(sa.update(SIDES).where(SIDES.c.because.in_(decided)).values(because="an id that was forgotten"))
    for lesion in lesions:
        naming = sa.and_(
            REFUSALS.c.reason == NEAR_DUPLICATE, REFUSALS.c.detail.contains(f"lesion {lesion} ", autoescape=True)
        )
        connection.execute(
            sa.update(REFUSALS).where(naming).values(detail="the other image was forgotten; ingest again")
        )
