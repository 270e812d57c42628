"""Rows of the catalogue's tables and the nouns they stand for, there and back; and writing many of them at once."""

import hashlib
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass, fields

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from dermanet.database.schema import IMAGES, LABELS
from dermanet.intake.look import Look
from dermanet.records import Labels, Record, Refusal, Row, refusal_id

LABEL_FIELDS = tuple(field.name for field in fields(Labels))

CELL = 4000
"""Characters of one cell that a refusal keeps: a label is a few, and a broken cell may hold half a file."""

Rows = dict[sa.Table, list[dict[str, object]]]
"""Rows to be written, table by table, in the order of the tables: an image before what refers to it."""


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


def write(connection: sa.Connection, rows: Rows) -> None:
    """Writes rows of several tables, each table in one statement."""
    for table, these in rows.items():
        upsert(connection, table, these)


def upsert(connection: sa.Connection, table: sa.Table, rows: Sequence[Mapping[str, object]]) -> None:
    """Inserts rows, or makes those of the same keys say the same; a column that a row does not name becomes null."""
    if not rows:
        return
    dialect = postgresql if connection.dialect.name == "postgresql" else sqlite
    statement = dialect.insert(table)
    rest = {column.name: statement.excluded[column.name] for column in table.columns if not column.primary_key}
    insist = statement.on_conflict_do_update(index_elements=list(table.primary_key.columns), set_=rest)
    connection.execute(insist, [{**dict.fromkeys(table.columns.keys()), **row} for row in rows])


def legible(text: str) -> str:
    """Text that any database takes: a file's name may hold bytes that are no text, and a broken cell half a file."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text[:400])


def held_images(connection: sa.Connection, among: sa.Select[tuple[str]]) -> dict[str, Held]:
    """The images whose digests `among` selects."""
    query = latest(among).join(IMAGES, IMAGES.c.digest == LABELS.c.digest).add_columns(IMAGES.c.source)
    first = LABELS.alias("first")
    same = sa.and_(first.c.digest == LABELS.c.digest, first.c.revision == 1)
    query = query.join(first, same).add_columns(first.c.batch.label("brought"))
    return {
        row.digest: Held(record_of(row), row.source, row.revision, row.brought, row.batch)
        for row in connection.execute(query)
    }


def kin(connection: sa.Connection, digests: Collection[str]) -> dict[str, set[str]]:
    """Of each of some images, all images of its lesion, itself included."""
    lesions = {row.digest: row.lesion_id for row in connection.execute(_lesions(LABELS.c.digest.in_(digests)))}
    found: dict[str, set[str]] = {}
    of_them = sa.select(LABELS.c.digest).where(LABELS.c.lesion_id.in_(set(lesions.values())))
    for row in connection.execute(_lesions(LABELS.c.digest.in_(of_them))):
        found.setdefault(row.lesion_id, set()).add(row.digest)
    return {digest: found[lesion] for digest, lesion in lesions.items()}


def _lesions(chosen: sa.ColumnElement[bool]) -> sa.Select[tuple[str, str]]:
    return latest(sa.select(LABELS.c.digest).where(chosen)).with_only_columns(LABELS.c.digest, LABELS.c.lesion_id)


def latest(among: sa.Select[tuple[str]] | None = None) -> sa.Select[tuple[object, ...]]:
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


def record_of(row: sa.Row[tuple[object, ...]]) -> Record:
    """A row of labels as the record it stands for."""
    return Record(row.digest, row.image_id, Labels(**{name: getattr(row, name) for name in LABEL_FIELDS}))


def look_row(seen: Look) -> dict[str, object]:
    """What the table of images keeps of a look: all but the thumbnail, which has a table of its own."""
    return {name: value for name, value in asdict(seen).items() if name != "thumbnail"}


def fingerprint(refusal: Refusal) -> str:
    """What a ruling is about: the row's text and the file's bytes. Either changed, the record is judged anew."""
    return hashlib.sha256(f"{_written(refusal.row)}\n{refusal.file}".encode()).hexdigest()


def _written(row: Row | None) -> str | None:
    """A row as JSON; plain ASCII, because a cell may hold what is no text."""
    if row is None:
        return None
    said = {name: value and value[:CELL] for name, value in asdict(row).items()}
    # What was ruled on before rows could have a fault stays ruled on.
    return json.dumps(said if row.fault else {name: value for name, value in said.items() if name != "fault"})


def refusal_row(source: str, refusal: Refusal) -> dict[str, object]:
    """What the table of refusals keeps of one."""
    texts = {"source": source, "name": refusal.name, "reason": refusal.reason, "detail": refusal.detail}
    return {
        **{name: legible(text) for name, text in texts.items()},
        "id": refusal_id(source, refusal.name), "record": _written(refusal.row), "file": refusal.file,
        "lesion_id": legible(refusal.row.lesion_id) if refusal.row else "",
        "ruling": refusal.ruling, "fingerprint": fingerprint(refusal), "withdrawn": refusal.withdrawn,
    }  # fmt: skip


def refusal_of(row: sa.Row[tuple[object, ...]]) -> Refusal:
    """A row of the table of refusals as the refusal it stands for."""
    written = Row(**json.loads(row.record)) if row.record else None
    return Refusal(row.name, row.reason, row.detail, written, row.file, row.ruling, row.withdrawn)
