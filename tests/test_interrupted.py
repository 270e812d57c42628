"""Ingests that are killed, doubled or watched: the end is that of one that nobody disturbed."""

import os
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import samples
from storeroom import Installation, dump, start

from dermanet import taxonomy
from dermanet.intake import ingest as room
from dermanet.intake.ingest import Outcome, ingest
from dermanet.intake.sources import open_source
from dermanet.records import Refusal, Row


def test_progress_is_told_batch_by_batch(
    here: Installation, ham10000: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "BATCH", 4)
    told: list[int] = []
    source = open_source(str(ham10000(10)))
    ingest(source, here.catalogue, here.objects, taxonomy.load(), lambda outcome: told.append(outcome.total))
    assert told == [4, 8, 10]


def test_images_are_not_read_far_ahead_of_what_is_written(here: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(room, "BATCH", 4)
    drawn: list[int] = []

    class Long:
        name = "long"

        def rows(self) -> Iterator[Row | Refusal]:
            for number in range(1000):
                yield Row(f"I{number}", f"L{number}", "50", "male", "nv", image=str(number))

        def read(self, image: str) -> bytes:
            drawn.append(int(image))
            return samples.jpeg(int(image))

        def md5(self, image: str) -> str:
            return ""

    class Enough(Exception):
        pass

    def stop(outcome: Outcome) -> None:
        raise Enough

    with pytest.raises(Enough):
        ingest(Long(), here.catalogue, here.objects, taxonomy.load(), stop)
    assert len(drawn) < 40 * (os.cpu_count() or 1)
    assert len(here.catalogue.records()) == 4


INGEST = """
import sys
from pathlib import Path
from dermanet import taxonomy
from dermanet.intake.catalogue import Catalogue
from dermanet.intake.ingest import ingest
from dermanet.intake.sources import open_source
from dermanet.intake.stored import object_name
from dermanet.storage import Folder
print("ready", flush=True)
sys.stdin.readline()
objects, url, source = Path(sys.argv[1]) / "objects", sys.argv[2], open_source(sys.argv[3])
ingest(source, Catalogue(url), Folder(objects), taxonomy.load())
"""


def ingester(here: Installation, source: Path) -> subprocess.Popen[str]:
    command = [sys.executable, "-c", INGEST, str(here.folder), here.url, str(source)]
    return subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)


@pytest.fixture
def many(ham10000: Callable[..., Path]) -> Path:
    """Five hundred rows in three batches, a bad one in every fifty."""
    rows = {number: {"age": "-3"} for number in range(0, 500, 100)}
    return ham10000(500, rows=rows, files={f"ISIC_{number:07d}.jpg": b"" for number in range(50, 500, 100)})


def test_two_ingests_at_once_end_in_the_catalogue_of_one(
    new_installation: Callable[[str], Installation], many: Path
) -> None:
    alone, together = new_installation("alone"), new_installation("together")
    alone.ingest(many)
    processes = [ingester(together, many) for _ in range(3)]
    for process in processes:
        start(process)
    outputs = [process.communicate()[0] for process in processes]
    assert [process.returncode for process in processes] == [0, 0, 0], outputs
    assert dump(together) == dump(alone)
    assert together.objects.listing() == alone.objects.listing()
