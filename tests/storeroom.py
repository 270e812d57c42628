"""An empty installation of a test's own: a catalogue, on either database, and an object store."""

import subprocess
from dataclasses import dataclass
from pathlib import Path

import sqlalchemy as sa

from dermanet import taxonomy
from dermanet.database.schema import METADATA
from dermanet.intake.catalogue import Catalogue
from dermanet.intake.ingest import Outcome, ingest
from dermanet.intake.sources import open_source
from dermanet.storage import Folder, Place


@dataclass(frozen=True)
class Installation:
    """A catalogue and an object store of a test's own."""

    folder: Path
    url: str

    @property
    def catalogue(self) -> Catalogue:
        return Catalogue(self.url)

    @property
    def objects(self) -> Place:
        return Folder(self.folder / "objects")

    def ingest(self, source: Path) -> Outcome:
        return ingest(open_source(str(source)), self.catalogue, self.objects, taxonomy.load())

    def refused(self) -> dict[str, str]:
        return {refusal.name: refusal.reason for _, refusal in self.catalogue.refusals()}


def start(process: subprocess.Popen[str]) -> None:
    """Lets a process go on that says `ready` when it has imported what it needs, and then waits for a line."""
    assert process.stdout and process.stdin and process.stdout.readline() == "ready\n"
    process.stdin.write("go\n")
    process.stdin.flush()


def dump(here: Installation) -> dict[str, list[tuple[object, ...]]]:
    """Every row of every table of a catalogue."""
    with here.catalogue.engine.connect() as connection:
        return {
            table.name: sorted((tuple(row) for row in connection.execute(sa.select(table))), key=repr)
            for table in METADATA.sorted_tables
        }
