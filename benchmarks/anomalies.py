"""Does validation let sound images pass, and stop spoilt ones? Two real sets, the second one spoilt in one way after another.

    python -m benchmarks.anomalies ISIC2018_TASK3 HAM10000

Every way is taken in by a real ingest after the first set, and judged by `dermanet/validation.yaml`. Prints a table in Markdown.
"""

import sys
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from tempfile import TemporaryDirectory

import cv2
import numpy as np
import simplejpeg  # type: ignore[import-untyped, unused-ignore]
from numpy.typing import NDArray

from dermanet import settings, taxonomy
from dermanet.imagefile import decode
from dermanet.intake import snapshots
from dermanet.intake.catalogue import Catalogue
from dermanet.intake.history import measured
from dermanet.intake.ingest import ingest
from dermanet.intake.sources import Source, open_source
from dermanet.records import Refusal, Row, Snapshot
from dermanet.storage import Folder
from dermanet.validating import drift, limits
from dermanet.validating.schema import breaches
from dermanet.validating.statistics import statistics
from dermanet.validating.table import newcomers, table

Pixels = NDArray[np.uint8]


def _half_of_them(row: Row) -> bool:
    return int(row.image_id[-1]) % 2 == 0


def _older(row: Row, years: int) -> Row:
    return replace(row, age=str(min(120.0, max(0.0, float(row.age) + years)))) if row.age else row


def _smaller(pixels: Pixels) -> Pixels:
    return np.asarray(cv2.resize(pixels, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA), np.uint8)


ROWS: dict[str, Callable[[Row], Row | None]] = {
    "as they are": lambda row: row,
    "only naevi": lambda row: row if row.diagnosis == "nv" else None,
    "only melanomas": lambda row: row if row.diagnosis == "mel" else None,
    "naevi called melanomas": lambda row: replace(row, diagnosis="mel") if row.diagnosis == "nv" else row,
    "ages all zero": lambda row: replace(row, age="0"),
    "ages 20 years too high": lambda row: _older(row, 20),
    "ages 20 years too low": lambda row: _older(row, -20),
    "ages missing": lambda row: replace(row, age=""),
    "sexes all male": lambda row: replace(row, sex="male"),
    "sexes all unknown": lambda row: replace(row, sex="unknown"),
    "half of the sites missing": lambda row: replace(row, localization="") if _half_of_them(row) else row,
}
PIXELS: dict[str, Callable[[Pixels], Pixels]] = {
    "encoded again": lambda pixels: pixels,
    "half as bright": lambda pixels: (pixels // 2).astype(np.uint8),
    "blurred over 2 pixels": lambda pixels: np.asarray(cv2.GaussianBlur(pixels, (0, 0), 2), np.uint8),
    "a quarter of the pixels": _smaller,
    "upside down": lambda pixels: np.ascontiguousarray(pixels[::-1]),
}


@dataclass(frozen=True)
class Spoilt:
    """A source whose rows or pixels were changed."""

    source: Source
    row: Callable[[Row], Row | None] = lambda row: row
    pixels: Callable[[Pixels], Pixels] | None = None

    @property
    def name(self) -> str:
        """The source's own."""
        return self.source.name

    def rows(self) -> Iterator[Row | Refusal]:
        """The rows that have a file, changed."""
        for row in self.source.rows():
            if isinstance(row, Row) and row.image and (changed := self.row(row)):
                yield changed

    def read(self, image: str) -> bytes:
        """The bytes of an image, encoded again if its pixels were changed."""
        data = self.source.read(image)
        if self.pixels is None:
            return data
        return bytes(simplejpeg.encode_jpeg(self.pixels(decode(data)), 92, "RGB", "444"))

    def md5(self, image: str) -> str:
        """Nothing: the bytes may be others than the source's."""
        return ""


def verdict(home: Path, first: Source, second: Source) -> tuple[drift.Verdict, int]:
    """The verdict on both sources after the first alone, and how many images the second brought."""
    catalogue, objects, known = Catalogue(f"sqlite:///{home}/c.db"), Folder(home / "objects"), taxonomy.load()
    frozen: list[Snapshot] = []
    for source in (first, second):
        ingest(source, catalogue, objects, known)
        frozen.append(snapshots.freeze(catalogue.records(), known, Folder(home / "snapshots")))
    looks = measured(catalogue)
    tables = [table(one, looks) for one in frozen]
    new = newcomers(tables[1], frozen[0])
    before, now, came = (statistics(frame, known.codes, known.digest) for frame in (*tables, new))
    rules = limits.load(settings.VALIDATION)
    return drift.judge(rules, {"whole": now, "new": came}, before, breaches(tables[1], known.codes)), len(new)


def lines(ways: Iterable[tuple[str, Source, Source]]) -> Iterator[str]:
    """The table, a line a way."""
    yield "| the second set | new images | verdict | anomalies: value (limit) | chance of the first |"
    yield "|---|---|---|---|---|"
    for name, first, second in ways:
        with TemporaryDirectory() as home:
            found, new = verdict(Path(home), first, second)
        told = [f"{c.scope} {c.figure} {c.measure} {c.value:.2f} ({c.limit:g})" for c in found.anomalies]
        chance = f"{found.anomalies[0].chance:.0e}" if found.anomalies else ""
        yield f"| {name} | {new} | {found.word} | {'; '.join(told)} | {chance} |"


def main(first: str, second: str) -> None:
    """Prints the table."""
    one, other = open_source(first), open_source(second)
    ways: list[tuple[str, Source, Source]] = [(name, one, Spoilt(other, row=row)) for name, row in ROWS.items()]
    ways += [(name, one, Spoilt(other, pixels=pixels)) for name, pixels in PIXELS.items()]
    ways.append(("the first set after the second", Spoilt(other), one))
    for line in lines(ways):
        print(line, flush=True)


if __name__ == "__main__":
    main(*sys.argv[1:])
