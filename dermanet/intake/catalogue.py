"""The catalogue: every image once, its labels in revisions, every refusal with its reason; and snapshots frozen from it."""

import hashlib
import json
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, fields, replace
from typing import TYPE_CHECKING

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from dermanet.errors import BadInput
from dermanet.imagefile import Header
from dermanet.intake import patience
from dermanet.intake.conflicts import REASON as CONFLICT
from dermanet.intake.conflicts import disagreement
from dermanet.intake.database import open_database, writing
from dermanet.intake.look import Look
from dermanet.intake.schema import BATCHES, FORGOTTEN, IMAGES, LABELS, ORIGINALS, REFUSALS
from dermanet.records import Labels, Record, Refusal, Row, refusal_id

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SYNTHETIC = "synthetic:%"
"""What the names of synthetic sources are like, in SQL."""

LABEL_FIELDS = tuple(field.name for field in fields(Labels))


DAMAGED, MISSING = "damaged in the store", "missing from the store"
"""Reasons of notes in quarantine that refuse nothing: images of the catalogue whose stored copy cannot be used. An ingest that stores
one anew takes its note out again."""

CELL = 4000
"""Characters of one cell that a refusal keeps: a label is a few, and a broken cell may hold half a file."""

MOST_NAMED = 5000
"""Values in one statement: SQLite takes 32,766."""

Rows = dict[sa.Table, list[dict[str, object]]]
"""Rows to be written, table by table, in the order of the tables: an image before what refers to it."""

Discard = Callable[[str, str], None]
"""Removes a refusal's file from quarantine, by the refusal's id and the file's digest. Called before the refusal is gone from the
catalogue: killed in between, the same call finds it again."""


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
    """One image as the catalogue has it: its current labels, the source that they belong to, and how often they were set.

    `brought` and `batch`: the takings of batches that brought the image and the current labels, or empty.
    """

    record: Record
    source: str
    revision: int
    brought: str = ""
    batch: str = ""


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

    def take(
        self, source: str, arrivals: Sequence[Arrival], stated: Collection[str] = (), batch: str = ""
    ) -> list[str | Refusal]:
        """Writes arrivals and says what each image was: `accepted`, `known`, `corrected` (its labels had changed), or the refusal.

        `stated`: the names of all images of this ingest. What the catalogue says of them is about to be replaced, and contradicts
        nothing. `batch`: this taking of a batch; what it brought before it was killed is accepted or corrected, as it was then.
        """

        def taken(connection: sa.Connection) -> list[str | Refusal]:
            held = self._held(connection, arrivals)
            gone = set(connection.scalars(sa.select(FORGOTTEN.c.digest)))
            rows: Rows = {IMAGES: [], LABELS: [], ORIGINALS: []}
            words = [
                forgotten(arrival.record.image_id)
                if gone & {arrival.record.digest, arrival.original, lesion_digest(arrival.record.labels.lesion_id)}
                else _take_one(rows, source, arrival, held, stated, batch)
                for arrival in arrivals
            ]
            self._write(connection, rows)
            return words

        return patience.write(self.engine, taken)

    def forgotten(self) -> frozenset[str]:
        """The digests of the images, files and lesion ids that were forgotten."""
        return patience.read(self.engine, lambda c: frozenset(c.scalars(sa.select(FORGOTTEN.c.digest))))

    def refused_files(self, lesion_id: str) -> list[tuple[str, str]]:
        """The files in quarantine of a lesion's refused records: id of the refusal, digest of the file."""
        query = sa.select(REFUSALS).where(REFUSALS.c.lesion_id == _legible(lesion_id), REFUSALS.c.file.is_not(None))
        with self.engine.connect() as connection:
            return [(row.id, row.file) for row in connection.execute(query)]

    def forget(self, lesion_id: str, refused: Collection[str], discard: Discard) -> list[str] | None:
        """Removes all that is known of a lesion but digests, and returns those of its images; None where nothing is known of it.

        `refused`: digests of images of its refused records.
        """
        lesion = lesion_digest(lesion_id)
        with writing(self.engine) as connection:
            ours = connection.scalars(
                sa.select(LABELS.c.digest).where(LABELS.c.lesion_id == lesion_id).distinct()
            ).all()
            files = connection.scalars(sa.select(ORIGINALS.c.original).where(ORIGINALS.c.digest.in_(ours))).all()
            of_lesion = sa.or_(REFUSALS.c.lesion_id == _legible(lesion_id), REFUSALS.c.file.in_(files))
            held = connection.execute(sa.select(REFUSALS).where(of_lesion)).all()
            before = connection.execute(sa.select(FORGOTTEN).where(FORGOTTEN.c.lesion == lesion)).all()
            if not (ours or held or before):
                return None
            kept = set(connection.scalars(sa.select(IMAGES.c.digest).where(IMAGES.c.digest.in_(refused)))) - set(ours)
            images = {*ours, *(set(refused) - kept)}
            images |= {row.digest for row in before if row.image}
            marks = {lesion, *images, *files, *(row.file for row in held if row.file)}
            marked = [{"digest": mark, "lesion": lesion, "image": mark in images} for mark in sorted(marks)]
            self._upsert(connection, FORGOTTEN, marked)
            for table in (ORIGINALS, LABELS, IMAGES):
                connection.execute(sa.delete(table).where(table.c.digest.in_(ours)))
            for row in held:
                if row.file:
                    discard(row.id, row.file)
            connection.execute(sa.delete(REFUSALS).where(of_lesion))
        return sorted(images)

    def originals(self) -> "NDArray[np.uint64]":
        """The first 64 bits of the digest of every file that came, sorted: what is not among them is surely not known."""
        import numpy as np

        starts = sa.select(sa.func.substr(ORIGINALS.c.original, 1, 16))

        def fetched(connection: sa.Connection) -> "NDArray[np.uint64]":
            return np.fromiter((int(start, 16) for start in connection.scalars(starts)), np.uint64)

        return np.sort(patience.read(self.engine, fetched))

    def known(self, original: str) -> tuple[str, Header] | None:
        """The digest and the header of the image that came as the file `original`, if it is here; called from several threads."""
        query = sa.select(IMAGES).join(ORIGINALS, ORIGINALS.c.digest == IMAGES.c.digest)
        found = query.where(ORIGINALS.c.original == original)
        row = patience.read(self.engine, lambda connection: connection.execute(found).first())
        return (row.digest, Header(row.format, row.width, row.height)) if row else None

    def refuse(self, source: str, refusals: Sequence[Refusal], discard: Discard = keep_all) -> None:
        """Keeps refusals; one record of a source has one, the latest. A file that it no longer has is discarded."""

        if not refusals:
            return

        def refused(connection: sa.Connection) -> None:
            for refusal in refusals:
                row = _refusal_row(source, refusal)
                before = connection.execute(sa.select(REFUSALS.c.file).where(_primary(row))).scalar()
                if before and before != refusal.file:
                    discard(str(row["id"]), before)
                self._upsert(connection, REFUSALS, [row])

        patience.write(self.engine, refused)

    def forget_refusals(self, source: str, but: Collection[str], discard: Discard = keep_all) -> None:
        """Forgets a source's refusals except those of the records named: at an ingest's end, the rest has been mended."""
        kept = {_legible(name) for name in but}
        ours = REFUSALS.c.source == _legible(source)

        def mend(connection: sa.Connection) -> None:
            held = connection.execute(sa.select(REFUSALS).where(ours)).all()
            mended = [row for row in held if row.name not in kept and row.reason not in (DAMAGED, MISSING)]
            for row in mended:
                if row.file:
                    discard(row.id, row.file)
            if mended:
                which = sa.delete(REFUSALS).where(ours, REFUSALS.c.name == sa.bindparam("mended"))
                connection.execute(which, [{"mended": row.name} for row in mended])

        patience.write(self.engine, mend)

    def unrefuse(self, source: str, refusal: Refusal, discard: Discard = keep_all) -> None:
        """Forgets one refusal and its file."""
        ours = sa.and_(REFUSALS.c.source == _legible(source), REFUSALS.c.name == _legible(refusal.name))

        def forget(connection: sa.Connection) -> None:
            if refusal.file:
                discard(refusal_id(source, refusal.name), refusal.file)
            connection.execute(sa.delete(REFUSALS).where(ours))

        patience.write(self.engine, forget)

    def refusals(self, reasons: Collection[str] = ()) -> list[tuple[str, Refusal]]:
        """Every refusal in quarantine with its source, or those of some reasons."""
        chosen = REFUSALS.c.reason.in_(reasons) if reasons else sa.true()
        query = sa.select(REFUSALS).where(REFUSALS.c.ruling == "", chosen).order_by(REFUSALS.c.source, REFUSALS.c.name)
        return patience.read(self.engine, lambda c: [(row.source, _refusal(row)) for row in c.execute(query)])

    def refusals_of(self, source: str, most: int) -> list[tuple[str, Refusal]]:
        """A source's refusals in quarantine with their ids, in the order of their names, so many at most."""
        ours = sa.and_(REFUSALS.c.source == _legible(source), REFUSALS.c.ruling == "")
        query = sa.select(REFUSALS).where(ours).order_by(REFUSALS.c.name).limit(most)
        return patience.read(self.engine, lambda c: [(row.id, _refusal(row)) for row in c.execute(query)])

    def last_taking(self, source: str) -> Taking | None:
        """The last finished taking of a batch, or None."""
        query = sa.select(BATCHES).where(BATCHES.c.source == _legible(source)).order_by(BATCHES.c.number.desc())
        row = patience.read(self.engine, lambda connection: connection.execute(query.limit(1)).first())
        return Taking(source, row.number, row.digest, row.receipt) if row else None

    def finish(self, taking: Taking) -> Taking:
        """Keeps a finished taking and returns it; or the one that was finished meanwhile, where two took the batch at once."""
        row = {"source": _legible(taking.source), "number": taking.number, "taking": taking.id, "digest": taking.digest}
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
        return row.source, _refusal(row)

    def rulings(self, source: str) -> dict[str, tuple[str, str]]:
        """What was decided about a source's refusals: id to ruling and the fingerprint of what was ruled on."""
        query = sa.select(REFUSALS).where(REFUSALS.c.source == _legible(source), REFUSALS.c.ruling != "")
        return patience.read(self.engine, lambda c: {row.id: (row.ruling, row.fingerprint) for row in c.execute(query)})

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
            gone = {arrival.record.digest, arrival.original, lesion_digest(arrival.record.labels.lesion_id)}
            if connection.execute(sa.select(FORGOTTEN).where(FORGOTTEN.c.digest.in_(gone))).first():
                raise BadInput("it was forgotten on request and is not taken in again; drop it")
            held = self._held(connection, [arrival])
            before = held.get(arrival.record.digest)
            if before:
                raise BadInput(
                    f"its image is in the catalogue already, as {before.record.image_id}; "
                    "drop this one, or correct that one in its source"
                )
            rows: Rows = {IMAGES: [], LABELS: [], ORIGINALS: []}
            taken = _take_one(rows, source, arrival, {} if force else held, ())
            if isinstance(taken, Refusal):
                raise BadInput(
                    f"it is refused again, {taken.reason}: {taken.detail}; --set corrects it, --force insists"
                )
            self._write(connection, rows)
            connection.execute(sa.update(REFUSALS).where(REFUSALS.c.id == refusal).values(ruling="released"))

    def emptied(self, refusal: str) -> None:
        """Notes that a released record's file has left quarantine."""
        with writing(self.engine) as connection:
            empty = {"record": None, "lesion_id": "", "file": None, "detail": ""}
            connection.execute(sa.update(REFUSALS).where(REFUSALS.c.id == refusal).values(**empty))

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
                found |= _held_images(connection, some)
        return found

    def records(self) -> list[Record]:
        """Every image with its current labels, in the order of the digests.

        Synthetic images step aside as soon as there is a real one: a demonstration must not teach a hospital's model.
        """
        chosen = IMAGES.c.source.not_like(SYNTHETIC) if self.holds_real_images() else sa.true()
        query = _latest().join(IMAGES, IMAGES.c.digest == LABELS.c.digest).where(chosen).order_by(LABELS.c.digest)
        with self.engine.connect() as connection:
            return [_record(row) for row in connection.execute(query)]

    def holds_real_images(self) -> bool:
        """Whether any image came from elsewhere than the synthetic source."""
        with self.engine.connect() as connection:
            return (
                connection.execute(
                    sa.select(IMAGES.c.digest).where(IMAGES.c.source.not_like(SYNTHETIC)).limit(1)
                ).first()
                is not None
            )

    def _held(self, connection: sa.Connection, arrivals: Sequence[Arrival]) -> dict[str, Held]:
        """What the catalogue says of the arrivals' images and of all images of their lesions, by digest."""
        digests = [arrival.record.digest for arrival in arrivals]
        lesions = [arrival.record.labels.lesion_id for arrival in arrivals]
        touched = sa.select(LABELS.c.digest).where(
            sa.or_(LABELS.c.digest.in_(digests), LABELS.c.lesion_id.in_(lesions))
        )
        return _held_images(connection, touched)

    def _write(self, connection: sa.Connection, rows: Rows) -> None:
        for table, these in rows.items():
            self._upsert(connection, table, these)

    def _upsert(self, connection: sa.Connection, table: sa.Table, rows: Sequence[Mapping[str, object]]) -> None:
        if not rows:
            return
        dialect = postgresql if self.engine.dialect.name == "postgresql" else sqlite
        statement = dialect.insert(table)
        rest = {column.name: statement.excluded[column.name] for column in table.columns if not column.primary_key}
        insist = statement.on_conflict_do_update(index_elements=list(table.primary_key.columns), set_=rest)
        connection.execute(insist, [{**dict.fromkeys(table.columns.keys()), **row} for row in rows])


def _take_one(
    rows: Rows, source: str, arrival: Arrival, held: dict[str, Held], stated: Collection[str], batch: str = ""
) -> str | Refusal:
    """What an arrival is, against what is held; what it brings is added to the rows to write, and to what is held."""
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
    if before is None or (before.source == source and before.record.labels != record.labels):
        revision = before.revision + 1 if before else 1
        if revision == 1:
            rows[IMAGES].append(_image_row(arrival, source))
        rows[LABELS].append({**record.as_row(), "revision": revision, "batch": batch})
        now = Held(record, source, revision, before.brought if before else batch, batch)
        held[record.digest] = now
        word = _brought(now, source, batch) or ("corrected" if before else "accepted")
    else:
        word = _brought(before, source, batch) or "known"
    if arrival.original:
        rows[ORIGINALS].append({"original": arrival.original, "digest": record.digest})
    return word


def _legible(text: str) -> str:
    """Text that any database takes: a file's name may hold bytes that are no text, and a broken cell half a file."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text[:400])


def lesion_digest(lesion_id: str) -> str:
    """What is left of a forgotten lesion's id."""
    return hashlib.sha256(f"lesion\n{lesion_id}".encode("utf-8", "surrogateescape")).hexdigest()


def forgotten(name: str) -> Refusal:
    """The refusal of a record that was forgotten on request; neither its row nor its file is kept."""
    return Refusal(name, "forgotten", "it was forgotten on request and never comes back; remove it from the source")


def _differs(one: Labels, other: Labels) -> bool:
    return one.lesion_id != other.lesion_id or bool(disagreement(one, other))


def _brought(held: Held, source: str, batch: str) -> str:
    """What this taking of a batch made of an image, now or before it was killed; empty where it did nothing."""
    if not batch or held.source != source:
        return ""
    return "accepted" if held.brought == batch else "corrected" if held.batch == batch else ""


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
    look = asdict(arrival.look) if arrival.look else {}
    return {"digest": arrival.record.digest, "source": source, **asdict(arrival.header), **look}


def _held_images(connection: sa.Connection, among: sa.Select[tuple[str]]) -> dict[str, Held]:
    """The images whose digests `among` selects."""
    query = _latest(among).join(IMAGES, IMAGES.c.digest == LABELS.c.digest).add_columns(IMAGES.c.source)
    first = LABELS.alias("first")
    same = sa.and_(first.c.digest == LABELS.c.digest, first.c.revision == 1)
    query = query.join(first, same).add_columns(first.c.batch.label("brought"))
    return {
        row.digest: Held(_record(row), row.source, row.revision, row.brought, row.batch)
        for row in connection.execute(query)
    }


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
