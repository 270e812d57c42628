"""The catalogue: every image once, its labels in revisions, every refusal with its reason; and snapshots frozen from it."""

from collections.abc import Collection, Sequence
from dataclasses import asdict, dataclass

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from dermanet.imagefile import Header
from dermanet.intake.database import open_database, writing
from dermanet.intake.schema import IMAGES, LABELS, REFUSALS
from dermanet.records import Labels, Record, Refusal

SYNTHETIC = "synthetic:%"
"""What the names of synthetic sources are like, in SQL."""

LABEL_FIELDS = ("lesion_id", "diagnosis", "age", "sex", "localization", "confirmation", "clinic")


@dataclass(frozen=True, slots=True)
class Arrival:
    """One screened image on its way in."""

    record: Record
    header: Header


class Catalogue:
    """What the installation knows of its images. SQLite or PostgreSQL, by URL; every write may be repeated."""

    def __init__(self, url: str) -> None:
        self.engine = open_database(url)

    def take(self, source: str, arrivals: Sequence[Arrival]) -> dict[str, str]:
        """Writes a batch and says what each image was: digest to `accepted`, `known` or `corrected` (its labels had changed)."""
        outcome: dict[str, str] = {}
        with writing(self.engine) as connection:
            current = self._current(connection, [arrival.record.digest for arrival in arrivals])
            for arrival in arrivals:
                record = arrival.record
                before, revision = current.get(record.digest, (None, 0))
                if before == record.labels:
                    outcome.setdefault(record.digest, "known")
                    continue
                if revision == 0:
                    self._upsert(connection, IMAGES, _image_row(arrival, source))
                self._upsert(connection, LABELS, {**record.as_row(), "revision": revision + 1})
                current[record.digest] = (record.labels, revision + 1)
                outcome.setdefault(record.digest, "corrected" if revision else "accepted")
        return outcome

    def refuse(self, source: str, refusals: Sequence[Refusal]) -> None:
        """Keeps refusals; one record of a source has one, the latest."""
        with writing(self.engine) as connection:
            for refusal in refusals:
                row = {"source": source, **asdict(refusal)}
                self._upsert(connection, REFUSALS, {name: _legible(text) for name, text in row.items()})

    def forget_refusals(self, source: str, but: Collection[str]) -> None:
        """Forgets a source's refusals except those of the records named: at an ingest's end, the rest has been mended."""
        kept = {_legible(name) for name in but}
        ours = REFUSALS.c.source == _legible(source)
        with writing(self.engine) as connection:
            names = connection.scalars(sa.select(REFUSALS.c.name).where(ours)).all()
            mended = [{"mended": name} for name in names if name not in kept]
            if mended:
                connection.execute(sa.delete(REFUSALS).where(ours, REFUSALS.c.name == sa.bindparam("mended")), mended)

    def refusals(self) -> list[tuple[str, Refusal]]:
        """Every kept refusal with its source."""
        with self.engine.connect() as connection:
            rows = connection.execute(sa.select(REFUSALS).order_by(REFUSALS.c.source, REFUSALS.c.name))
            return [(row.source, Refusal(row.name, row.reason, row.detail)) for row in rows]

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

    def _current(self, connection: sa.Connection, digests: Sequence[str]) -> dict[str, tuple[Labels | None, int]]:
        rows = connection.execute(_latest().where(LABELS.c.digest.in_(digests)))
        return {row.digest: (_record(row).labels, row.revision) for row in rows}

    def _upsert(self, connection: sa.Connection, table: sa.Table, row: dict[str, object]) -> None:
        dialect = postgresql if self.engine.dialect.name == "postgresql" else sqlite
        statement = dialect.insert(table).values(row)
        rest = {column.name: statement.excluded[column.name] for column in table.columns if not column.primary_key}
        connection.execute(statement.on_conflict_do_update(index_elements=list(table.primary_key.columns), set_=rest))


def _legible(text: str) -> str:
    """Text that any database takes: a file's name may hold bytes that are no text, and a broken cell half a file."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in text[:400])


def _image_row(arrival: Arrival, source: str) -> dict[str, object]:
    return {"digest": arrival.record.digest, "source": source, **asdict(arrival.header)}


def _latest() -> sa.Select[tuple[object, ...]]:
    highest = (
        sa.select(LABELS.c.digest, sa.func.max(LABELS.c.revision).label("revision"))
        .group_by(LABELS.c.digest)
        .subquery()
    )
    both = sa.and_(LABELS.c.digest == highest.c.digest, LABELS.c.revision == highest.c.revision)
    return sa.select(LABELS).join(highest, both)


def _record(row: sa.Row[tuple[object, ...]]) -> Record:
    return Record(row.digest, row.image_id, Labels(**{name: getattr(row, name) for name in LABEL_FIELDS}))
