"""The history of snapshots: each one's number, statistics and verdict in the catalogue; and what its images look like.

A number is given once, in the order of the first asking. Two who ask at once get the same, and a killed one leaves nothing behind.
"""

import json
from dataclasses import asdict, dataclass
from typing import Any

import sqlalchemy as sa

from dermanet.database.engine import writing
from dermanet.database.schema import IMAGES, SNAPSHOTS
from dermanet.intake.catalogue import Catalogue
from dermanet.intake.company import SYNTHETIC

SOUND = ("passed", "accepted")
"""Verdicts after which a snapshot may be trained on, and later ones are compared with it."""

LOOKS = ("width", "height", "brightness", "contrast", "detail", "ita")


@dataclass(frozen=True, slots=True)
class Entry:
    """What is known of one snapshot: verdict empty, `passed`, `anomalous` or `accepted`; `statistics` None until it was validated."""

    id: str
    number: int
    statistics: dict[str, Any] | None
    verdict: str
    because: str

    @property
    def sound(self) -> bool:
        """Whether it passed, or a person accepted it."""
        return self.verdict in SOUND


def enter(catalogue: Catalogue, snapshot: str) -> Entry:
    """The snapshot's entry; at the first call it is made, with the next number."""
    with writing(catalogue.engine) as connection:
        found = connection.execute(sa.select(SNAPSHOTS).where(SNAPSHOTS.c.id == snapshot)).first()
        if found is None:
            highest = connection.scalar(sa.select(sa.func.max(SNAPSHOTS.c.number))) or 0
            new = Entry(snapshot, highest + 1, None, "", "")
            connection.execute(sa.insert(SNAPSHOTS).values(**asdict(new)))
            return new
    return _entry(found)


def before(catalogue: Catalogue, number: int) -> Entry | None:
    """The last sound snapshot with a smaller number; None where there is none."""
    earlier = sa.select(SNAPSHOTS).where(SNAPSHOTS.c.number < number, SNAPSHOTS.c.verdict.in_(SOUND))
    with catalogue.engine.connect() as connection:
        found = connection.execute(earlier.order_by(SNAPSHOTS.c.number.desc()).limit(1)).first()
    return _entry(found) if found else None


def entry(catalogue: Catalogue, snapshot: str) -> Entry | None:
    """A snapshot's entry, if it has one."""
    with catalogue.engine.connect() as connection:
        found = connection.execute(sa.select(SNAPSHOTS).where(SNAPSHOTS.c.id == snapshot)).first()
    return _entry(found) if found else None


def conclude(catalogue: Catalogue, snapshot: str, statistics: dict[str, Any], verdict: str, because: str) -> Entry:
    """Keeps a verdict and returns the entry as it then stands. What a person accepted stays accepted, for the reason first given."""
    ours = SNAPSHOTS.c.id == snapshot
    with writing(catalogue.engine) as connection:
        if connection.scalar(sa.select(SNAPSHOTS.c.verdict).where(ours)) != "accepted":
            row = {"statistics": json.dumps(statistics), "verdict": verdict, "because": because}
            connection.execute(sa.update(SNAPSHOTS).where(ours).values(**row))
        return _entry(connection.execute(sa.select(SNAPSHOTS).where(ours)).one())


def measured(catalogue: Catalogue) -> dict[str, dict[str, float | str | None]]:
    """What every image looks like, by digest, as it was measured on its way in; and its `world`.

    That is the name of a synthetic source, whose lesions are its own, or empty.
    """
    columns = [IMAGES.c.digest, IMAGES.c.source, *(IMAGES.c[name] for name in LOOKS)]
    with catalogue.engine.connect() as connection:
        return {
            row.digest: {
                "world": row.source if row.source.startswith(SYNTHETIC[:-1]) else "",
                **{name: getattr(row, name) for name in LOOKS},
            }
            for row in connection.execute(sa.select(*columns))
        }


def _entry(row: sa.Row[Any]) -> Entry:
    kept = json.loads(row.statistics) if row.statistics else None
    return Entry(row.id, row.number, kept, row.verdict, row.because)
