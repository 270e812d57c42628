"""The catalogue: every image once, its labels in revisions, every refusal with its reason; and snapshots frozen from it."""

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

import sqlalchemy as sa

from dermanet.database import patience
from dermanet.database.engine import open_database, writing
from dermanet.database.schema import BATCHES, FORGOTTEN, IMAGES, LABELS, ORIGINALS, REFUSALS
from dermanet.errors import BadInput
from dermanet.imagefile import Header
from dermanet.intake.admission import NOTHING_STATED, Admission, Arrival
from dermanet.intake.company import SYNTHETIC, Company, Memory
from dermanet.intake.rows import Held, held_images, latest, legible, record_of, refusal_of, refusal_row, upsert, write
from dermanet.intake.tombstones import REASON as FORGOTTEN_REASON
from dermanet.intake.tombstones import Discard, Gone, ImageOf, entomb, forget, forgotten, lesion_digest, tombstones
from dermanet.records import Labels, Record, Refusal

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

DAMAGED, MISSING = "damaged in the store", "missing from the store"
"""Reasons of notes in quarantine that refuse nothing: images of the catalogue whose stored copy cannot be used. An ingest that stores
one anew takes its note out again."""

MOST_NAMED = 5000
"""Values in one statement: SQLite takes 32,766."""


def keep_all(refusal: str, file: str) -> None:
    """Discards nothing."""


@dataclass(frozen=True, slots=True)
class Taking:
    """One taking of a batch from its beginning to its receipt (JSON): the `number`-th of its source, whatever kills it in between."""

    source: str
    number: int
    digest: str = ""
    receipt: str = ""

    @property
    def id(self) -> str:
        """What the revisions that it brings are marked with."""
        return hashlib.sha256(f"{self.source}\n{self.number}".encode("utf-8", "surrogateescape")).hexdigest()[:16]


class Catalogue:
    """What the installation knows of its images. SQLite or PostgreSQL, by URL; every write may be repeated."""

    def __init__(self, url: str) -> None:
        self.engine = open_database(url)
        self._memory = Memory()

    def take(
        self,
        source: str,
        arrivals: Sequence[Arrival],
        stated: Mapping[str, Labels | None] = NOTHING_STATED,
        batch: str = "",
    ) -> list[str | Refusal]:
        """Writes arrivals and says what each image was: `accepted`, `known`, `corrected` (its labels had changed), or the refusal.

        `stated`: what this ingest says of all its images, by name; `batch`: this taking of a batch.
        """

        met: list[Company] = []

        def taken(connection: sa.Connection) -> list[str | Refusal]:
            gone = _gone(connection, set().union(*map(_marks, arrivals)))
            admission = self._admission(connection, source, arrivals, stated, batch)
            words = [
                forgotten(arrival.record.image_id) if gone & _marks(arrival) else admission.decide(arrival)
                for arrival in arrivals
            ]
            write(connection, admission.rows | admission.company.rows)
            met.append(admission.company)
            return words

        words = patience.write(self.engine, taken)
        met[-1].remember()
        return words

    def _admission(
        self,
        connection: sa.Connection,
        source: str,
        arrivals: Sequence[Arrival],
        stated: Mapping[str, Labels | None],
        batch: str = "",
    ) -> Admission:
        """Ready to decide on arrivals: with what is held of their images and of all images of their lesions."""
        digests = [arrival.record.digest for arrival in arrivals]
        lesions = [arrival.record.labels.lesion_id for arrival in arrivals]
        touched = sa.or_(LABELS.c.digest.in_(digests), LABELS.c.lesion_id.in_(lesions))
        held = held_images(connection, sa.select(LABELS.c.digest).where(touched))
        return Admission(connection, source, held, Company(connection, source, self._memory), stated, batch)

    def forgotten(self) -> frozenset[str]:
        """The digests of the images, files and lesion ids that were forgotten."""
        return patience.read(self.engine, lambda c: frozenset(c.scalars(sa.select(FORGOTTEN.c.digest))))

    def forget(
        self, lesions: Collection[str], image_of: ImageOf, discard: Discard, patient_id: str = ""
    ) -> Gone | None:
        """Removes all that is known of lesions but digests, in one transaction: `tombstones.forget`, after `tombstones.entomb`."""
        with writing(self.engine) as connection:
            entomb(connection, lesions, image_of, patient_id)
        with writing(self.engine) as connection:
            return forget(connection, lesions, image_of, discard, patient_id)

    def originals(self) -> "NDArray[np.uint64]":
        """The first 64 bits of the digest of every file that came, sorted: what is not among them is surely not known."""
        return self._starts(ORIGINALS.c.original)

    def md5s(self) -> "NDArray[np.uint64]":
        """The same of the MD5s that servers stated of such files."""
        return self._starts(ORIGINALS.c.md5)

    def _starts(self, column: sa.Column[str]) -> "NDArray[np.uint64]":
        import numpy as np

        starts = sa.select(sa.func.substr(column, 1, 16)).where(column.is_not(None))

        def fetched(connection: sa.Connection) -> "NDArray[np.uint64]":
            return np.fromiter((int(start, 16) for start in connection.scalars(starts)), np.uint64)

        return np.sort(patience.read(self.engine, fetched))

    def known(self, original: str) -> tuple[str, Header] | None:
        """The digest and the header of the image that came as the file `original`, if it is here; called from several threads."""
        return self._known(ORIGINALS.c.original == original)

    def known_by_md5(self, md5: str) -> tuple[str, Header] | None:
        """The same of the image that came as a file of which its server stated this MD5."""
        return self._known(ORIGINALS.c.md5 == md5)

    def _known(self, which: sa.ColumnElement[bool]) -> tuple[str, Header] | None:
        found = sa.select(IMAGES).join(ORIGINALS, ORIGINALS.c.digest == IMAGES.c.digest).where(which)
        row = patience.read(self.engine, lambda connection: connection.execute(found).first())
        return (row.digest, Header(row.format, row.width, row.height)) if row else None

    def refuse(self, source: str, refusals: Sequence[Refusal], discard: Discard = keep_all) -> list[Refusal]:
        """Keeps refusals and returns them as they are kept; one record of a source has one, the latest.

        A file that it no longer has is discarded; so is all of what was forgotten since it was refused.
        """

        def refused(connection: sa.Connection) -> list[Refusal]:
            gone = _gone(connection, set().union(*map(_marks_of, refusals)))
            kept = [forgotten(refusal.name) if gone & _marks_of(refusal) else refusal for refusal in refusals]
            for refusal, came in zip(kept, refusals, strict=True):
                row = refusal_row(source, refusal)
                before = connection.execute(sa.select(REFUSALS.c.file).where(_primary(row))).scalar()
                for file in {before, came.file} - {refusal.file, None}:
                    discard(str(row["id"]), str(file))
                upsert(connection, REFUSALS, [row])
            return kept

        return patience.write(self.engine, refused) if refusals else []

    def settle(self, source: str, met: Collection[str], refused: Collection[str], discard: Discard = keep_all) -> None:
        """At an ingest's end, forgets the refusals of a source that have been mended and marks those that it no longer has.

        `met`: the ids of the images that it has; `refused`: the names of the records that were refused. Mended is what passed, and
        what is here under another name.
        """
        there, kept = ({legible(name) for name in names} for names in (met, refused))
        ours = REFUSALS.c.source == legible(source)

        def settled(connection: sa.Connection) -> None:
            held = connection.execute(sa.select(REFUSALS).where(ours)).all()
            rest = [row for row in held if row.name not in kept and row.reason not in (DAMAGED, MISSING)]
            files = {row.file for row in held if row.file and row.name in kept}
            files |= _taken_in(connection, {row.file for row in rest if row.file} - files)
            mended = [row for row in rest if row.ruling or row.name in there or _elsewhere(row, files, there)]
            for row in mended:
                if row.file:
                    discard(row.id, row.file)
            names = {row.name for row in mended}
            withdrawn = [row.name for row in rest if row.name not in names and not row.withdrawn]
            one = sa.and_(ours, REFUSALS.c.name == sa.bindparam("of"))
            for change, which in (
                (sa.delete(REFUSALS).where(one), sorted(names)),
                (sa.update(REFUSALS).where(one).values(withdrawn=True), withdrawn),
            ):
                if which:
                    connection.execute(change, [{"of": name} for name in which])

        patience.write(self.engine, settled)

    def unrefuse(self, refusal: str, file: str | None, discard: Discard = keep_all) -> None:
        """Forgets one refusal, by its id, and its file."""

        def forget(connection: sa.Connection) -> None:
            if file:
                discard(refusal, file)
            connection.execute(sa.delete(REFUSALS).where(REFUSALS.c.id == refusal))

        patience.write(self.engine, forget)

    def refusals(self, reasons: Collection[str] = ()) -> list[tuple[str, Refusal]]:
        """Every refusal in quarantine with its source, or those of some reasons."""
        return [(source, refusal) for _, source, refusal in self.quarantined(reasons)]

    def quarantined(self, reasons: Collection[str] = ()) -> list[tuple[str, str, Refusal]]:
        """The same with their ids. Not to be told from their names, which stand there as far as any database takes them."""
        chosen = REFUSALS.c.reason.in_(reasons) if reasons else sa.true()
        query = sa.select(REFUSALS).where(REFUSALS.c.ruling == "", chosen).order_by(REFUSALS.c.source, REFUSALS.c.name)
        return patience.read(self.engine, lambda c: [(row.id, row.source, refusal_of(row)) for row in c.execute(query)])

    def lacks(self, source: str) -> bool:
        """Whether images that a source brought are known to be damaged in the store or missing from it."""
        ours = sa.and_(
            REFUSALS.c.source == legible(source), REFUSALS.c.reason.in_((DAMAGED, MISSING)), REFUSALS.c.ruling == ""
        )
        query = sa.select(REFUSALS.c.id).where(ours).limit(1)
        return patience.read(self.engine, lambda connection: connection.execute(query).first() is not None)

    def refusals_of(self, source: str, most: int) -> list[tuple[str, Refusal]]:
        """What quarantine has of the records that a source has, with their ids, in the order of their names, so many at most."""
        ours = sa.and_(REFUSALS.c.source == legible(source), REFUSALS.c.ruling == "", sa.not_(REFUSALS.c.withdrawn))
        query = sa.select(REFUSALS).where(ours).order_by(REFUSALS.c.name).limit(most)
        return patience.read(self.engine, lambda c: [(row.id, refusal_of(row)) for row in c.execute(query)])

    def last_taking(self, source: str) -> Taking | None:
        """The last finished taking of a batch, or None."""
        query = sa.select(BATCHES).where(BATCHES.c.source == legible(source)).order_by(BATCHES.c.number.desc())
        row = patience.read(self.engine, lambda connection: connection.execute(query.limit(1)).first())
        return Taking(source, row.number, row.digest, row.receipt) if row else None

    def finish(self, taking: Taking) -> Taking:
        """Keeps a finished taking and returns it; or the one that was finished meanwhile, where two took the batch at once."""
        row = {"source": legible(taking.source), "number": taking.number, "taking": taking.id, "digest": taking.digest}
        ours = sa.and_(BATCHES.c.source == row["source"], BATCHES.c.number == taking.number)

        def keep(connection: sa.Connection) -> Taking:
            other = connection.execute(sa.select(BATCHES).where(ours)).first()
            if other is None:
                connection.execute(sa.insert(BATCHES).values(**row, receipt=taking.receipt))
            return replace(taking, digest=other.digest, receipt=other.receipt) if other else taking

        return patience.write(self.engine, keep)

    def refusal(self, refusal: str) -> tuple[str, Refusal]:
        """A refusal by its id, with its source, whatever was decided about it. Raises BadInput where there is none."""
        with self.engine.connect() as connection:
            row = connection.execute(sa.select(REFUSALS).where(REFUSALS.c.id == refusal)).first()
        if row is None:
            raise BadInput(f"no record {refusal!r} in quarantine; `dermanet quarantine list` shows their ids")
        return row.source, refusal_of(row)

    def rulings(self, source: str) -> dict[str, tuple[str, str]]:
        """What was decided about a source's refusals: id to ruling and the fingerprint of what was ruled on."""
        query = sa.select(REFUSALS).where(REFUSALS.c.source == legible(source), REFUSALS.c.ruling != "")
        return patience.read(self.engine, lambda c: {row.id: (row.ruling, row.fingerprint) for row in c.execute(query)})

    def drop(self, refusal: str, discard: Discard) -> None:
        """Removes a refusal's row and file; what is left says that this very record is not to be kept again.

        Raises BadInput where it was released.
        """
        with writing(self.engine) as connection:
            row = connection.execute(
                sa.select(REFUSALS.c.file, REFUSALS.c.ruling).where(REFUSALS.c.id == refusal)
            ).first()
            file, ruling = (row.file, row.ruling) if row else (None, "")
            if ruling == "released":
                raise BadInput(
                    f"{refusal} was released, and its image is in the catalogue; correct it in its source, or have its lesion "
                    "forgotten: `dermanet forget --lesion ID`"
                )
            _empty(connection, refusal, ruling="dropped")
            if file:
                discard(refusal, file)

    def release(self, refusal: str, source: str, arrival: Arrival, force: bool = False) -> None:
        """Takes a refused record in, or what its source corrects of an image that it brought; by `force` against what else is said of
        its lesion. Raises BadInput where that cannot be."""
        with writing(self.engine) as connection:
            if _gone(connection, _marks(arrival)):
                raise BadInput("it was forgotten on request and is not taken in again; drop it")
            admission = self._admission(connection, source, [arrival], NOTHING_STATED)
            before = admission.held.get(arrival.record.digest)
            # Images of one lesion that came from several sources are corrected one by one, and the first contradicts the others.
            corrects = before and (before.source, before.record.image_id) == (source, arrival.record.image_id)
            if before and (not corrects or before.record.labels == arrival.record.labels):
                raise BadInput(
                    f"its image is in the catalogue already, as {before.record.image_id}; "
                    "drop this one, or correct that one in its source"
                )
            taken = admission.decide(arrival, judge=not force)
            if isinstance(taken, Refusal):
                raise BadInput(
                    f"it is refused again, {taken.reason}: {taken.detail}; --set corrects it, --force insists"
                )
            write(connection, admission.rows | admission.company.rows)
            connection.execute(sa.update(REFUSALS).where(REFUSALS.c.id == refusal).values(ruling="released"))

    def emptied(self, refusal: str) -> None:
        """Notes that a released record's file has left quarantine."""
        with writing(self.engine) as connection:
            _empty(connection, refusal)

    def digests(self) -> set[str]:
        """The digests of all images, synthetic ones included."""
        with self.engine.connect() as connection:
            return set(connection.scalars(sa.select(IMAGES.c.digest)))

    def quarantined_files(self) -> set[tuple[str, str]]:
        """Every file that quarantine keeps: id of the refusal, digest of the file."""
        query = sa.select(REFUSALS.c.id, REFUSALS.c.file).where(REFUSALS.c.file.is_not(None))
        with self.engine.connect() as connection:
            return {(row.id, row.file) for row in connection.execute(query)}

    def held(self, digests: Sequence[str]) -> dict[str, Held]:
        """What the catalogue says of images, by digest; of one that it has not, nothing."""
        found: dict[str, Held] = {}
        with self.engine.connect() as connection:
            for start in range(0, len(digests), MOST_NAMED):
                some = sa.select(IMAGES.c.digest).where(IMAGES.c.digest.in_(digests[start : start + MOST_NAMED]))
                found |= held_images(connection, some)
        return found

    def records(self) -> list[Record]:
        """Every image with its current labels, in the order of the digests.

        Synthetic images step aside as soon as there is a real one: a demonstration must not teach a hospital's model.
        """
        with self.engine.connect() as connection:
            return records_in(connection)

    def holds_real_images(self) -> bool:
        """Whether any image came from elsewhere than the synthetic source."""
        with self.engine.connect() as connection:
            return _holds_real_images(connection)


def records_in(connection: sa.Connection) -> list[Record]:
    """`Catalogue.records` as one transaction sees them."""
    chosen = IMAGES.c.source.not_like(SYNTHETIC) if _holds_real_images(connection) else sa.true()
    query = latest().join(IMAGES, IMAGES.c.digest == LABELS.c.digest).where(chosen).order_by(LABELS.c.digest)
    return [record_of(row) for row in connection.execute(query)]


def _holds_real_images(connection: sa.Connection) -> bool:
    query = sa.select(IMAGES.c.digest).where(IMAGES.c.source.not_like(SYNTHETIC)).limit(1)
    return connection.execute(query).first() is not None


def _taken_in(connection: sa.Connection, files: Collection[str]) -> set[str]:
    """Those of some files, as they came, whose images are in the catalogue."""
    named = sorted(files)
    return {
        file
        for start in range(0, len(named), MOST_NAMED)
        for file in connection.scalars(
            sa.select(ORIGINALS.c.original).where(ORIGINALS.c.original.in_(named[start : start + MOST_NAMED]))
        )
    }


def _elsewhere(row: sa.Row[tuple[object, ...]], files: Collection[str], met: Collection[str]) -> bool:
    """Whether quarantine alone has nothing of a refused record: its file is elsewhere too, or without one another of its rows."""
    if row.reason == FORGOTTEN_REASON:
        return True
    if row.file:
        return row.file in files
    said = refusal_of(row).row
    return said is not None and bool(said.image_id) and legible(said.image_id) in met


def _empty(connection: sa.Connection, refusal: str, **ruling: str) -> None:
    """Takes out what a refusal says, all but the digest of its lesion's id, by which it is found if that is forgotten."""
    ours = REFUSALS.c.id == refusal
    row = connection.execute(sa.select(REFUSALS).where(ours)).first()
    if row is not None:
        said = refusal_of(row).row
        lesion = lesion_digest(said.lesion_id) if said and said.lesion_id else row.lesion_id
        empty = {"record": None, "lesion_id": lesion, "file": None, "detail": ""}
        connection.execute(sa.update(REFUSALS).where(ours).values(**empty, **ruling))


def _gone(connection: sa.Connection, marks: Collection[str]) -> set[str]:
    """Those of some digests that are forgotten ones."""
    return set(connection.scalars(sa.select(FORGOTTEN.c.digest).where(FORGOTTEN.c.digest.in_(marks))))


def _marks(arrival: Arrival) -> set[str]:
    """All by which an arrival may have been forgotten."""
    return {arrival.record.digest, arrival.original, *tombstones(arrival.record.labels)}


def _marks_of(refusal: Refusal) -> set[str]:
    """All by which a refused record may have been forgotten."""
    return {*(tombstones(refusal.row) if refusal.row else ()), *([refusal.file] if refusal.file else ())}


def _primary(row: Mapping[str, object]) -> sa.ColumnElement[bool]:
    return sa.and_(REFUSALS.c.source == row["source"], REFUSALS.c.name == row["name"])
