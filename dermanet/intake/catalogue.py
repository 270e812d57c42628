"""The catalogue: every image once, its labels in revisions, every refusal with its reason; and snapshots frozen from it."""

import hashlib
import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from dermanet.errors import BadInput
from dermanet.imagefile import Header
from dermanet.intake.company import SYNTHETIC, Company, forget_company
from dermanet.intake.conflicts import REASON as CONFLICT
from dermanet.intake.conflicts import disagreement
from dermanet.intake.database import open_database, writing
from dermanet.intake.likeness import SAME, Match
from dermanet.intake.look import Look
from dermanet.intake.schema import FORGOTTEN, IMAGES, LABELS, ORIGINALS, PARTED, REFUSALS, SIDES
from dermanet.records import Labels, Record, Refusal, Row, refusal_id

NEAR_DUPLICATE = "near-duplicate under another lesion"

LABEL_FIELDS = tuple(field.name for field in fields(Labels))


CELL = 4000
"""Characters of one cell that a refusal keeps: a label is a few, and a broken cell may hold half a file."""

Discard = Callable[[str, str], None]
"""Removes a refusal's file from quarantine, by the refusal's id and the file's digest. Called before the refusal is gone from the
catalogue: killed in between, the same call finds it again."""


NOTHING_STATED: Mapping[str, Labels | None] = {}


def keep_all(refusal: str, file: str) -> None:
    """Discards nothing."""


@dataclass(frozen=True, slots=True)
class Arrival:
    """One screened image on its way in."""

    record: Record
    header: Header
    row: Row | None = None
    original: str = ""
    """SHA-256 of the file as it came; empty where the catalogue has it already."""
    look: Look | None = None
    """What it looks like; None where the catalogue has it already."""


@dataclass(frozen=True, slots=True)
class Held:
    """One image as the catalogue has it: its current labels, the source that they belong to, and how often they were set."""

    record: Record
    source: str
    revision: int


class Catalogue:
    """What the installation knows of its images. SQLite or PostgreSQL, by URL; every write may be repeated."""

    def __init__(self, url: str) -> None:
        self.engine = open_database(url)

    def take(
        self, source: str, arrivals: Sequence[Arrival], stated: Mapping[str, Labels | None] = NOTHING_STATED
    ) -> list[str | Refusal]:
        """Writes a batch and says what each image was: `accepted`, `known`, `corrected` (its labels had changed), or a label conflict
        or near-duplicate that is refused.

        `stated`: what this ingest says of all its images, by name. What the catalogue says of them is about to be replaced, and
        contradicts nothing.
        """
        with writing(self.engine) as connection:
            held = self._held(connection, arrivals)
            gone = set(connection.scalars(sa.select(FORGOTTEN.c.digest)))
            company = Company(connection, source)
            return [
                forgotten(arrival.record.image_id)
                if gone & _marks(arrival)
                else self._take_one(connection, source, arrival, held, stated, company)
                for arrival in arrivals
            ]

    def forgotten(self) -> frozenset[str]:
        """The digests of the images, files and lesion ids that were forgotten."""
        with self.engine.connect() as connection:
            return frozenset(connection.scalars(sa.select(FORGOTTEN.c.digest)))

    def lesions_of(self, patient_id: str) -> list[str]:
        """The lesions of a patient, of whatever revision of the labels, those of refused records too."""
        query = sa.select(LABELS.c.lesion_id).where(LABELS.c.patient_id == patient_id).distinct()
        refused = sa.select(REFUSALS).where(REFUSALS.c.record.is_not(None))
        with self.engine.connect() as connection:
            rows = [_refusal(row).row for row in connection.execute(refused)]
            lesions = {row.lesion_id for row in rows if row and row.patient_id == patient_id and row.lesion_id}
            return sorted(lesions | set(connection.scalars(query)))

    def refused_files(self, lesions: Collection[str]) -> list[tuple[str, str]]:
        """The files in quarantine of lesions' refused records: id of the refusal, digest of the file."""
        ours = REFUSALS.c.lesion_id.in_([_legible(lesion) for lesion in lesions])
        with self.engine.connect() as connection:
            rows = connection.execute(sa.select(REFUSALS).where(ours, REFUSALS.c.file.is_not(None)))
            return [(row.id, row.file) for row in rows]

    def forget(
        self, lesions: Collection[str], refused: Collection[str], discard: Discard, patient_id: str = ""
    ) -> list[str] | None:
        """Removes all that is known of lesions but digests, and returns those of their images; None where nothing is known of them.

        `refused`: digests of images of their refused records. `patient_id`: whose lesions they all are, if a patient is forgotten.
        """
        marked = {lesion_digest(lesion) for lesion in lesions} | ({patient_digest(patient_id)} if patient_id else set())
        whose = patient_digest(patient_id) if patient_id else next(iter(marked))
        with writing(self.engine) as connection:
            ours = connection.scalars(
                sa.select(LABELS.c.digest).where(LABELS.c.lesion_id.in_(lesions)).distinct()
            ).all()
            files = connection.scalars(sa.select(ORIGINALS.c.original).where(ORIGINALS.c.digest.in_(ours))).all()
            names = [_legible(lesion) for lesion in lesions]
            of_lesion = sa.or_(REFUSALS.c.lesion_id.in_(names), REFUSALS.c.file.in_(files))
            held = connection.execute(sa.select(REFUSALS).where(of_lesion)).all()
            known = sa.or_(FORGOTTEN.c.lesion == whose, FORGOTTEN.c.digest.in_(marked))
            before = connection.execute(sa.select(FORGOTTEN).where(known)).all()
            if not (ours or held or before):
                return None
            kept = set(connection.scalars(sa.select(IMAGES.c.digest).where(IMAGES.c.digest.in_(refused)))) - set(ours)
            images = {*ours, *(set(refused) - kept)}
            images |= {row.digest for row in before if row.image}
            marks = marked | {*images, *files, *(row.file for row in held if row.file)}
            for mark in sorted(marks):
                self._upsert(connection, FORGOTTEN, {"digest": mark, "lesion": whose, "image": mark in images})
            _forget_sides(connection, lesions, ours, patient_id)
            forget_company(connection, ours)
            for table in (ORIGINALS, LABELS, IMAGES):
                connection.execute(sa.delete(table).where(table.c.digest.in_(ours)))
            for row in held:
                if row.file:
                    discard(row.id, row.file)
            connection.execute(sa.delete(REFUSALS).where(of_lesion))
        return sorted(images)

    def known(self, original: str) -> tuple[str, Header] | None:
        """The digest and the header of the image that came as the file `original`, if it is here; called from several threads."""
        query = sa.select(IMAGES).join(ORIGINALS, ORIGINALS.c.digest == IMAGES.c.digest)
        with self.engine.connect() as connection:
            row = connection.execute(query.where(ORIGINALS.c.original == original)).first()
        return (row.digest, Header(row.format, row.width, row.height)) if row else None

    def refuse(self, source: str, refusals: Sequence[Refusal], discard: Discard = keep_all) -> None:
        """Keeps refusals; one record of a source has one, the latest. A file that it no longer has is discarded."""
        with writing(self.engine) as connection:
            for refusal in refusals:
                row = _refusal_row(source, refusal)
                before = connection.execute(sa.select(REFUSALS.c.file).where(_primary(row))).scalar()
                if before and before != refusal.file:
                    discard(str(row["id"]), before)
                self._upsert(connection, REFUSALS, row)

    def forget_refusals(self, source: str, but: Collection[str], discard: Discard = keep_all) -> None:
        """Forgets a source's refusals except those of the records named: at an ingest's end, the rest has been mended."""
        kept = {_legible(name) for name in but}
        ours = REFUSALS.c.source == _legible(source)
        with writing(self.engine) as connection:
            held = connection.execute(sa.select(REFUSALS).where(ours)).all()
            mended = [row for row in held if row.name not in kept]
            for row in mended:
                if row.file:
                    discard(row.id, row.file)
            if mended:
                which = sa.delete(REFUSALS).where(ours, REFUSALS.c.name == sa.bindparam("mended"))
                connection.execute(which, [{"mended": row.name} for row in mended])

    def refusals(self) -> list[tuple[str, Refusal]]:
        """Every refusal in quarantine with its source."""
        query = sa.select(REFUSALS).where(REFUSALS.c.ruling == "").order_by(REFUSALS.c.source, REFUSALS.c.name)
        with self.engine.connect() as connection:
            return [(row.source, _refusal(row)) for row in connection.execute(query)]

    def refusal(self, refusal: str) -> tuple[str, Refusal]:
        """A refusal by its id, with its source, whatever was decided about it. Raises BadInput where there is none."""
        with self.engine.connect() as connection:
            row = connection.execute(sa.select(REFUSALS).where(REFUSALS.c.id == refusal)).first()
        if row is None:
            raise BadInput(f"no record {refusal!r} in quarantine; `dermanet quarantine list` shows their ids")
        return row.source, _refusal(row)

    def rulings(self, source: str) -> dict[str, tuple[str, str]]:
        """What was decided about a source's refusals: id to ruling and the fingerprint of what was ruled on."""
        query = sa.select(REFUSALS).where(REFUSALS.c.source == _legible(source), REFUSALS.c.ruling != "")
        with self.engine.connect() as connection:
            return {row.id: (row.ruling, row.fingerprint) for row in connection.execute(query)}

    def drop(self, refusal: str, discard: Discard) -> None:
        """Removes a refusal's row and file; what is left says that this very record is not to be kept again."""
        with writing(self.engine) as connection:
            ours = REFUSALS.c.id == refusal
            file = connection.execute(sa.select(REFUSALS.c.file).where(ours)).scalar()
            empty = {"ruling": "dropped", "record": None, "lesion_id": "", "file": None, "detail": ""}
            connection.execute(sa.update(REFUSALS).where(ours).values(**empty))
            if file:
                discard(refusal, file)

    def release(self, refusal: str, source: str, arrival: Arrival, force: bool = False) -> None:
        """Takes a refused record in; by `force` against what else is said of its lesion. Raises BadInput where that cannot be."""
        with writing(self.engine) as connection:
            if connection.execute(sa.select(FORGOTTEN).where(FORGOTTEN.c.digest.in_(_marks(arrival)))).first():
                raise BadInput("it was forgotten on request and is not taken in again; drop it")
            held = self._held(connection, [arrival])
            before = held.get(arrival.record.digest)
            if before:
                raise BadInput(
                    f"its image is in the catalogue already, as {before.record.image_id}; "
                    "drop this one, or correct that one in its source"
                )
            company = Company(connection, source)
            taken = self._take_one(
                connection, source, arrival, {} if force else held, NOTHING_STATED, company, judge=not force
            )
            if isinstance(taken, Refusal):
                raise BadInput(
                    f"it is refused again, {taken.reason}: {taken.detail}; --set corrects it, --force insists"
                )
            connection.execute(sa.update(REFUSALS).where(REFUSALS.c.id == refusal).values(ruling="released"))

    def emptied(self, refusal: str) -> None:
        """Notes that a released record's file has left quarantine."""
        with writing(self.engine) as connection:
            empty = {"record": None, "lesion_id": "", "file": None, "detail": ""}
            connection.execute(sa.update(REFUSALS).where(REFUSALS.c.id == refusal).values(**empty))

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

    def _take_one(
        self, connection: sa.Connection, source: str, arrival: Arrival, held: dict[str, Held],
        stated: Mapping[str, Labels | None], company: Company, judge: bool = True,
    ) -> str | Refusal:  # fmt: skip
        record = arrival.record
        before = held.get(record.digest)
        if before and before.source != source:
            against = before if _differs(before.record.labels, record.labels) else None
        elif before and before.record.labels == record.labels:
            against = None
        else:
            against = _contradicted(source, record, held.values(), stated)
        if against:
            return _conflict(arrival, against)
        word = "known"
        if before is None or (before.source == source and before.record.labels != record.labels):
            revision = before.revision + 1 if before else 1
            alike = company.like(arrival.look) if arrival.look and not before else []
            same = self._same_photograph(connection, source, record, alike, stated) if judge else None
            if same:
                return _near_duplicate(arrival, *same)
            self._add(connection, source, arrival, revision)
            if arrival.look and not before:
                company.join(record.digest, arrival.look, alike)
            held[record.digest] = Held(record, source, revision)
            word = "corrected" if before else "accepted"
        if arrival.original:
            self._upsert(connection, ORIGINALS, {"original": arrival.original, "digest": record.digest})
        return word

    def _same_photograph(
        self, connection: sa.Connection, source: str, record: Record, alike: Sequence[Match],
        stated: Mapping[str, Labels | None],
    ) -> tuple[Held, Match] | None:  # fmt: skip
        """The image most like the record's, if it is the same photograph and neither of its lesion nor of its patient."""
        same = {match.digest: match for match in alike if match.likeness >= SAME}
        query = _latest(sa.select(IMAGES.c.digest).where(IMAGES.c.digest.in_(same)))
        query = query.join(IMAGES, IMAGES.c.digest == LABELS.c.digest).add_columns(IMAGES.c.source)
        rows = {row.digest: row for row in connection.execute(query)} if same else {}
        for match in same.values():
            other = Held(_record(rows[match.digest]), rows[match.digest].source, rows[match.digest].revision)
            # What this ingest says of the other image counts, so that it comes to the same whichever of the two is read first.
            labels = (stated.get(other.record.image_id) if other.source == source else None) or other.record.labels
            if not _one_person(labels, record.labels):
                return replace(other, record=replace(other.record, labels=labels)), match
        return None

    def _held(self, connection: sa.Connection, arrivals: Sequence[Arrival]) -> dict[str, Held]:
        """What the catalogue says of the arrivals' images and of all images of their lesions, by digest."""
        digests = [arrival.record.digest for arrival in arrivals]
        lesions = [arrival.record.labels.lesion_id for arrival in arrivals]
        touched = sa.select(LABELS.c.digest).where(
            sa.or_(LABELS.c.digest.in_(digests), LABELS.c.lesion_id.in_(lesions))
        )
        query = _latest(touched).join(IMAGES, IMAGES.c.digest == LABELS.c.digest).add_columns(IMAGES.c.source)
        return {row.digest: Held(_record(row), row.source, row.revision) for row in connection.execute(query)}

    def _add(self, connection: sa.Connection, source: str, arrival: Arrival, revision: int) -> None:
        if revision == 1:
            self._upsert(connection, IMAGES, _image_row(arrival, source))
        self._upsert(connection, LABELS, {**arrival.record.as_row(), "revision": revision, "batch": ""})

    def _upsert(self, connection: sa.Connection, table: sa.Table, row: dict[str, object]) -> None:
        dialect = postgresql if self.engine.dialect.name == "postgresql" else sqlite
        statement = dialect.insert(table).values(row)
        rest = {column.name: statement.excluded[column.name] for column in table.columns if not column.primary_key}
        connection.execute(statement.on_conflict_do_update(index_elements=list(table.primary_key.columns), set_=rest))


def records_in(connection: sa.Connection) -> list[Record]:
    """`Catalogue.records` as one transaction sees them."""
    chosen = IMAGES.c.source.not_like(SYNTHETIC) if _holds_real_images(connection) else sa.true()
    query = _latest().join(IMAGES, IMAGES.c.digest == LABELS.c.digest).where(chosen).order_by(LABELS.c.digest)
    return [_record(row) for row in connection.execute(query)]


def _holds_real_images(connection: sa.Connection) -> bool:
    query = sa.select(IMAGES.c.digest).where(IMAGES.c.source.not_like(SYNTHETIC)).limit(1)
    return connection.execute(query).first() is not None


def _legible(text: str) -> str:
    """Text that any database takes: a file's name may hold bytes that are no text, and a broken cell half a file."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text[:400])


def _marks(arrival: Arrival) -> set[str]:
    """All by which an arrival may have been forgotten."""
    return {arrival.record.digest, arrival.original, *tombstones(arrival.record.labels)}


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


def _differs(one: Labels, other: Labels) -> bool:
    return one.lesion_id != other.lesion_id or bool(disagreement(one, other))


def _contradicted(source: str, record: Record, held: Iterable[Held], stated: Collection[str]) -> Held | None:
    """An image of the record's lesion, and of which this ingest says nothing itself, whose labels disagree with the record's."""
    for other in held:
        ours = other.source == source
        if other.record.digest == record.digest or (ours and other.record.image_id in stated):
            continue
        # Each synthetic source is a world of its own: lesion 1 of one seed is not lesion 1 of another.
        if not ours and any(name.startswith(SYNTHETIC[:-1]) for name in (source, other.source)):
            continue
        labels = other.record.labels
        if labels.lesion_id == record.labels.lesion_id and disagreement(labels, record.labels):
            return other
    return None


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


def _one_person(one: Labels, other: Labels) -> bool:
    return one.lesion_id == other.lesion_id or (one.patient_id != "" and one.patient_id == other.patient_id)


def _near_duplicate(arrival: Arrival, against: Held, match: Match) -> Refusal:
    other, name = against.record, arrival.record.image_id
    detail = (
        f"it is the same photograph as {other.image_id} of {against.source} (likeness {match.likeness:.2f}), which is of lesion "
        f"{other.labels.lesion_id} and not {arrival.record.labels.lesion_id}; find out which is right"
    )
    return Refusal(name, NEAR_DUPLICATE, detail, arrival.row)


def _conflict(arrival: Arrival, against: Held) -> Refusal:
    labels, other = arrival.record.labels, against.record.labels
    said = disagreement(other, labels) or f"lesion {other.lesion_id} and {labels.lesion_id}"
    what = "this image" if against.record.digest == arrival.record.digest else f"lesion {labels.lesion_id}"
    detail = (
        f"of {what}, {against.record.image_id} of {against.source} and this record say {said}; find out which is right"
    )
    return Refusal(arrival.record.image_id, CONFLICT, detail, arrival.row)


def fingerprint(refusal: Refusal) -> str:
    """What a ruling is about: the row's text and the file's bytes. Either changed, the record is judged anew."""
    return hashlib.sha256(f"{_written(refusal.row)}\n{refusal.file}".encode()).hexdigest()


def _written(row: Row | None) -> str | None:
    """A row as JSON; plain ASCII, because a cell may hold what is no text."""
    return json.dumps({name: value and value[:CELL] for name, value in asdict(row).items()}) if row else None


def _primary(row: Mapping[str, object]) -> sa.ColumnElement[bool]:
    return sa.and_(REFUSALS.c.source == row["source"], REFUSALS.c.name == row["name"])


def _refusal_row(source: str, refusal: Refusal) -> dict[str, object]:
    texts = {"source": source, "name": refusal.name, "reason": refusal.reason, "detail": refusal.detail}
    return {
        **{name: _legible(text) for name, text in texts.items()},
        "id": refusal_id(source, refusal.name), "record": _written(refusal.row), "file": refusal.file,
        "lesion_id": _legible(refusal.row.lesion_id) if refusal.row else "",
        "ruling": refusal.ruling, "fingerprint": fingerprint(refusal),
    }  # fmt: skip


def _refusal(row: sa.Row[tuple[object, ...]]) -> Refusal:
    written = Row(**json.loads(row.record)) if row.record else None
    return Refusal(row.name, row.reason, row.detail, written, row.file, row.ruling)


def _image_row(arrival: Arrival, source: str) -> dict[str, object]:
    seen = look_row(arrival.look) if arrival.look else {}
    return {"digest": arrival.record.digest, "source": source, **asdict(arrival.header), **seen}


def look_row(seen: Look) -> dict[str, object]:
    """What the table of images keeps of a look: all but the thumbnail, which has a table of its own."""
    return {name: value for name, value in asdict(seen).items() if name != "thumbnail"}


def _latest(among: sa.Select[tuple[str]] | None = None) -> sa.Select[tuple[object, ...]]:
    """The labels that count, of every image or of those whose digests `among` selects."""
    chosen = sa.true() if among is None else LABELS.c.digest.in_(among)
    highest = (
        sa.select(LABELS.c.digest, sa.func.max(LABELS.c.revision).label("revision"))
        .where(chosen)
        .group_by(LABELS.c.digest)
        .subquery()
    )
    both = sa.and_(LABELS.c.digest == highest.c.digest, LABELS.c.revision == highest.c.revision)
    return sa.select(LABELS).join(highest, both)


def _record(row: sa.Row[tuple[object, ...]]) -> Record:
    return Record(row.digest, row.image_id, Labels(**{name: getattr(row, name) for name in LABEL_FIELDS}))
