"""Tombstones: what is left of whom a person asked to forget, and the transaction that leaves nothing else."""

import hashlib
import json
import re
from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass
from typing import Any

import sqlalchemy as sa

from dermanet.database.schema import BATCHES, FORGOTTEN, IMAGES, LABELS, ORIGINALS, PARTED, PREDICTIONS, REFUSALS, SIDES
from dermanet.intake.company import forget_company
from dermanet.intake.conflicts import REASON as CONFLICT
from dermanet.intake.hiding import HIDDEN, forget_in_texts, known, names_of
from dermanet.intake.rows import legible, refusal_of, upsert
from dermanet.records import Labels, Refusal, Row

NEAR_DUPLICATE = "near-duplicate under another lesion"
REASON = "forgotten"

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
    return Refusal(name, REASON, "it was forgotten on request and never comes back; remove it from the source")


ImageOf = Callable[[str, str], str | None]
"""The digest under which the image of a refusal's file would be stored, by the refusal's id and the file's digest; None: no image."""


@dataclass(frozen=True, slots=True)
class Gone:
    """What was forgotten: the ids of its lesions, and the digests of their images."""

    lesions: list[str]
    images: list[str]


def lesions_of(connection: sa.Connection, patient_id: str) -> set[str]:
    """The lesions of a patient, of whatever revision of the labels, those of refused records too."""
    rows = [
        refusal_of(row).row for row in connection.execute(sa.select(REFUSALS).where(REFUSALS.c.record.is_not(None)))
    ]
    refused = {row.lesion_id for row in rows if row and row.patient_id == patient_id and row.lesion_id}
    return refused | set(connection.scalars(sa.select(LABELS.c.lesion_id).where(LABELS.c.patient_id == patient_id)))


@dataclass(frozen=True, slots=True)
class _Found:
    """What there is of lesions that are to be forgotten.

    `ours`: the images that the catalogue has of them, `called` their ids, each with its source; `held`: the refusals that go, and
    `refused` the images of those that the catalogue has not; `files`: all files as they came; `before`: tombstones of theirs.
    """

    lesions: list[str]
    ids: set[str]
    whose: str
    ours: set[str]
    called: set[tuple[str, str]]
    held: list[sa.Row[Any]]
    refused: set[str]
    files: set[str]
    before: Sequence[sa.Row[Any]]

    @property
    def images(self) -> set[str]:
        """The digests of all their images, those forgotten before among them."""
        return self.ours | self.refused | {row.digest for row in self.before if row.image}

    def bury(self, connection: sa.Connection, marks: Collection[str]) -> None:
        """Writes their tombstones."""
        rows = [{"digest": mark, "lesion": self.whose, "image": mark in self.images} for mark in sorted(marks)]
        upsert(connection, FORGOTTEN, rows)


def entomb(connection: sa.Connection, lesions: Collection[str], image_of: ImageOf, patient_id: str = "") -> None:
    """Keeps the tombstones of what quarantine has of lesions, in a transaction before that of `forget`.

    Killed among quarantine's files, the next call could not tell any more whose a record was whose file has gone.
    """
    found = _find(connection, lesions, image_of, patient_id)
    if found:
        # Those of the catalogue's images come with their removal, by which `Company` knows that there was one.
        found.bury(connection, {*found.refused, *(row.file for row in found.held if row.file in found.files)})


def forget(
    connection: sa.Connection, lesions: Collection[str], image_of: ImageOf, discard: Discard, patient_id: str = ""
) -> Gone | None:
    """Removes all that is known of lesions, or of all lesions of a patient, but digests; None where nothing is known of them.

    All of it is looked up here, in the transaction that removes it: an ingest that was under way has come before or comes after, and
    after it finds the tombstones.
    """
    found = _find(connection, lesions, image_of, patient_id)
    if found is None:
        return None
    marks = found.ids | found.images | found.files
    found.bury(connection, marks)
    # What came of them in the log of predictions, sent as stored or as they came; of those forgotten before, what was asked since.
    asked = [*marks, *(row.digest for row in found.before)]
    connection.execute(sa.delete(PREDICTIONS).where(PREDICTIONS.c.digest.in_(asked)))
    _forget_sides(connection, found.lesions, found.ours, patient_id)
    forget_company(connection, found.ours)
    names = {*found.lesions, *names_of(connection, found.ours)} | ({patient_id} if patient_id else set())
    for table in (ORIGINALS, LABELS, IMAGES):
        connection.execute(sa.delete(table).where(table.c.digest.in_(found.ours)))
    # A patient may have other lesions, and an earlier id of the lesion may be another's.
    forget_in_texts(connection, names - known(connection, names))
    for row in found.held:
        if row.file:
            discard(row.id, row.file)
        connection.execute(sa.delete(REFUSALS).where(REFUSALS.c.id == row.id))
    _forget_in_details(connection, found)
    for source in {row.source for row in found.held}:
        _forget_in_receipts(connection, source, {row.id for row in found.held if row.source == source})
    return Gone(found.lesions, sorted(found.images))


def _find(connection: sa.Connection, lesions: Collection[str], image_of: ImageOf, patient_id: str) -> _Found | None:
    lesions = sorted({*lesions, *(lesions_of(connection, patient_id) if patient_id else ())})
    ids = {lesion_digest(lesion) for lesion in lesions} | ({patient_digest(patient_id)} if patient_id else set())
    whose = patient_digest(patient_id) if patient_id else next(iter(ids))
    ours = set(connection.scalars(sa.select(LABELS.c.digest).where(LABELS.c.lesion_id.in_(lesions)).distinct()))
    originals = set(connection.scalars(sa.select(ORIGINALS.c.original).where(ORIGINALS.c.digest.in_(ours))))
    earlier = sa.or_(FORGOTTEN.c.lesion == whose, FORGOTTEN.c.digest.in_(ids))
    before = connection.execute(sa.select(FORGOTTEN).where(earlier)).all()
    # Of a record that was released or dropped the digest of its lesion's id is left.
    named = {name for lesion in lesions for name in (legible(lesion), lesion_digest(lesion))}
    marked = {*originals, *(row.digest for row in before)}
    rows = connection.execute(sa.select(REFUSALS)).all()
    held = [row for row in rows if row.lesion_id in named or row.file in marked]
    if not (ours or held or before):
        return None
    of_ours = sa.select(LABELS.c.image_id, IMAGES.c.source).join(IMAGES, IMAGES.c.digest == LABELS.c.digest)
    called = {
        (row.image_id, legible(row.source)) for row in connection.execute(of_ours.where(LABELS.c.digest.in_(ours)))
    }
    # An image is somebody's under whatever lesion it was sent again. One that was refused late lies in the object store already.
    depicted = {row.id: image_of(row.id, row.file) for row in rows if row.file}
    images = {*ours, *(row.digest for row in before if row.image)}
    images |= _uncatalogued(connection, {depicted.get(row.id) for row in held}, ours)
    ids_of_held = {row.id for row in held}
    rest = [row for row in rows if row.id not in ids_of_held]
    alike = [row for row in rest if row.reason == NEAR_DUPLICATE and _says_the_same_photograph(row.detail, called)]
    shown = images | _uncatalogued(connection, {depicted.get(row.id) for row in alike}, ours)
    held += [row for row in rest if depicted.get(row.id) in shown or (row.ruling and (row.name, row.source) in called)]
    refused = _uncatalogued(connection, {depicted.get(row.id) for row in held}, ours) - ours
    # The file of a record whose image the catalogue has under another lesion is that one's, too.
    theirs = {row.file for row in held if row.file and depicted[row.id] in {None, *ours, *refused}}
    return _Found(lesions, ids, whose, ours, called, held, refused, originals | theirs, before)


def _uncatalogued(connection: sa.Connection, images: Collection[str | None], ours: Collection[str]) -> set[str]:
    """Those of some images that the catalogue has not, or that are among `ours`."""
    named = {image for image in images if image}
    return named - (set(connection.scalars(sa.select(IMAGES.c.digest).where(IMAGES.c.digest.in_(named)))) - set(ours))


def _says_the_same_photograph(detail: str, called: Collection[tuple[str, str]]) -> bool:
    """Whether a refusal says that its image is one of those that are called so in their sources."""
    return any(detail.startswith(f"it is the same photograph as {_told(*one)}") for one in called)


def _told(image_id: str, source: str) -> str:
    """How a refusal's detail tells another image; a long one is cut behind this."""
    return f"{image_id} of {source[:100]}"


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


def _forget_sides(
    connection: sa.Connection, lesions: Collection[str], images: Collection[str], patient_id: str
) -> None:
    """Removes what is written of lesions beside their labels: their sides, what parts their images, and their names elsewhere."""
    connection.execute(sa.delete(SIDES).where(SIDES.c.lesion_id.in_(lesions)))
    connection.execute(sa.delete(PARTED).where(sa.or_(PARTED.c.one.in_(images), PARTED.c.other.in_(images))))
    decided = [f"{which} {lesion}" for lesion in lesions for which in ("lesion", "with lesion")] + [
        f"patient {patient_id}"
    ]
    connection.execute(sa.update(SIDES).where(SIDES.c.because.in_(decided)).values(because=HIDDEN))


def _forget_in_details(connection: sa.Connection, found: _Found) -> None:
    """Takes them out of why others were refused: as the same photograph as one of theirs, or against what was said of it."""
    rows = connection.execute(sa.select(REFUSALS).where(REFUSALS.c.reason.in_((NEAR_DUPLICATE, CONFLICT)))).all()
    names = [f"lesion {lesion} " for lesion in found.lesions] + [_told(*one) for one in found.called]
    for row in rows:
        if any(re.search(rf"(?<!\S){re.escape(name)}", row.detail) for name in names):
            ours = sa.update(REFUSALS).where(REFUSALS.c.id == row.id)
            connection.execute(ours.values(detail="the other image was forgotten; ingest again"))


def _forget_in_receipts(connection: sa.Connection, source: str, refusals: Collection[str]) -> None:
    """Takes a batch's refused records out of the receipts of its takings; how many there were stays."""
    for row in connection.execute(sa.select(BATCHES).where(BATCHES.c.source == source)).all():
        receipt = json.loads(row.receipt)
        told = [one for one in receipt["refused"] if one["id"] not in refusals]
        hidden = len(receipt["refused"]) - len(told)
        if hidden:
            receipt |= {"refused": told, "refused_not_listed": receipt["refused_not_listed"] + hidden}
            ours = sa.and_(BATCHES.c.source == source, BATCHES.c.number == row.number)
            connection.execute(sa.update(BATCHES).where(ours).values(receipt=json.dumps(receipt, indent=1) + "\n"))
