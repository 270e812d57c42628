"""Who was forgotten, as it is known when a backup is put back that is older than that: nobody comes back who asked to be forgotten.

Tombstones are digests, and say of nobody who it was. Each backup has those that the catalogue had; so the later ones beside an old one
know whom that still holds.
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dermanet.errors import BadInput, DermaNetError
from dermanet.settings import Settings
from dermanet.storage import place


@dataclass(frozen=True, slots=True)
class Tombs:
    """Rows of the catalogue's table `forgotten`: digest, the lesion's or patient's digest, and whether it is an image's."""

    rows: tuple[tuple[Any, ...], ...]

    def with_more(self, other: "Tombs") -> "Tombs":
        """These and others."""
        return Tombs(tuple({row[0]: row for row in (*self.rows, *other.rows)}.values()))

    @property
    def digests(self) -> set[str]:
        """Of images, files as they came, lesions and patients."""
        return {row[0] for row in self.rows}

    def holds(self, name: str) -> bool:
        """Whether a file of the object store is one of them."""
        return name.rpartition("/")[2].rpartition("-")[2] in self.digests


def known(catalogue: str) -> Tombs:
    """Those that a catalogue has."""
    import sqlalchemy as sa

    from dermanet.database.engine import open_database
    from dermanet.database.schema import FORGOTTEN

    engine = open_database(catalogue)
    with engine.connect() as connection:
        query = sa.select(FORGOTTEN.c.digest, FORGOTTEN.c.lesion, FORGOTTEN.c.image)
        found = Tombs(tuple((row[0], row[1], bool(row[2])) for row in connection.execute(query)))
    engine.dispose()
    return found


def legible(catalogue: str) -> Tombs:
    """Those that can still be read in a catalogue that is damaged, which opening it as one would write into; none where none can."""
    from dermanet.backup import databases

    try:
        with databases.pinned(catalogue) as found:
            rows = found.rows("SELECT digest, lesion, image FROM forgotten")
    except DermaNetError:
        return Tombs(())
    return Tombs(
        tuple((row[0], row[1], bool(row[2])) for row in rows if all(isinstance(said, str) for said in row[:2]))
    )


def of_backups(root: Path) -> Tombs:
    """Those that the backups of a folder have."""
    from dermanet.backup import archive

    found = Tombs(())
    for folder in archive.every(root):
        try:
            kept = archive.opened(folder).about["forgotten"]
        except BadInput:
            continue
        found = found.with_more(Tombs(tuple((row[0], row[1], bool(row[2])) for row in kept)))
    return found


def forget_again(here: Settings, tombs: Tombs) -> dict[str, Any]:
    """Forgets, in a catalogue that was put back, whom it should not know any more, and keeps the tombstones.

    Returns how many lesions; and, as MLflow's server may be down, which commands take their pictures from its reports.
    """
    from dermanet.database.engine import writing
    from dermanet.intake import forgetting, tombstones
    from dermanet.intake.catalogue import Catalogue

    catalogue = Catalogue(here.catalogue)
    with writing(catalogue.engine) as connection:
        lesions = tombstones.lesions_below(connection, tombs.digests)
    for lesion in lesions:
        forgetting.forget(lesion, catalogue, place(here.objects))
    with writing(catalogue.engine) as connection:
        tombstones.bury(connection, tombs.rows)
    return {"forgotten": len(lesions), "then": [f"dermanet forget --lesion {lesion}" for lesion in lesions]}
