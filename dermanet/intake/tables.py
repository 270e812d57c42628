"""The layouts with one CSV row an image: HAM10000 (metadata and image folders, found by image_id) and a plain CSV (paths).

HAM10000   lesion_id, image_id, dx, dx_type, age, sex, localization[, dataset, patient_id]   the file is <image_id>.jpg in any folder
plain      image (a path from the CSV's folder), lesion_id, age, sex, dx[, …]    the image_id is the file's name, with its folders'
           where images in several folders have one name, with its ending where two have but that to tell them apart;
           what an id may not hold is left out of it, and a digest of the name stands instead
"""

import hashlib
import posixpath
import re
import unicodedata
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property

from dermanet.errors import BadInput
from dermanet.imagefile import SUFFIXES
from dermanet.intake import imagefiles
from dermanet.intake.imagefiles import ImageFiles
from dermanet.intake.labelfile import LabelFile
from dermanet.records import NAME, Refusal, Row
from dermanet.storage import Entry, Place

NAMES = ("image_id", "image", "image_path", "path", "file", "filename")
"""Columns that may name the image; `image_id` makes it the HAM10000 layout."""

REQUIRED = ("lesion_id", "age", "sex", "dx")
NEEDED = f"needed are the columns {', '.join(REQUIRED)} and one of {', '.join(NAMES)}, or the files of ISIC 2018 Task 3"


@dataclass(frozen=True)
class Table:
    """A place with one CSV of labels."""

    name: str
    labels: LabelFile
    column: str
    images: ImageFiles
    """Every image file of the place by what the column may call it: a stem for `image_id`, else its path from the CSV."""

    def rows(self) -> Iterator[Row | Refusal]:
        """The CSV's rows, then a refusal for every image file that none of them names."""
        wanted: set[str] = set()
        for row in self.labels.rows():
            word = self._word(row[self.column])
            wanted.add(word)
            yield Row(
                image_id=self._image_id(word),
                lesion_id=row["lesion_id"], age=row["age"], sex=row["sex"], diagnosis=row["dx"],
                localization=row.get("localization", ""), confirmation=row.get("dx_type", ""), clinic=row.get("dataset", ""),
                image=self.images.called(word), patient_id=row.get("patient_id", ""), fault=row.fault,
            )  # fmt: skip
        yield from self.images.strays(wanted, self.labels.name)

    def read(self, image: str) -> bytes:
        """The bytes of an image file of the place. Raises UnreadableImage and OSError."""
        return self.images.read(image)

    def md5(self, image: str) -> str:
        """The MD5 of an image file, where the place states it; else empty."""
        return self.images.md5(image)

    def _word(self, cell: str) -> str:
        """What a cell calls an image file: an id, its file's ending left out, or a path from the CSV's folder without detours."""
        if self.column == "image_id":
            stem, ending = posixpath.splitext(cell)
            return stem if ending.lower() in SUFFIXES and self.images.called(cell) is None else cell
        return posixpath.normpath(cell) if _inside(cell) else cell

    def _image_id(self, word: str) -> str:
        # A path's own name is the id; a path that leaves its folder is passed on whole, for the screening to name and refuse.
        if self.column == "image_id" or not _inside(word):
            return word
        bare = posixpath.splitext(word)[0]
        names, paths = self._shared
        path = word if bare in paths else bare
        return _as_id(path.replace("/", "_") if posixpath.basename(bare) in names else posixpath.basename(path))

    @cached_property
    def _shared(self) -> tuple[frozenset[str], frozenset[str]]:
        """The names that images in several folders have, and the paths that several have but for their endings."""
        words = {self._word(row[self.column]) for row in self.labels.rows()}
        bare = Counter(posixpath.splitext(word)[0] for word in words if _inside(word))
        return _several(Counter(map(posixpath.basename, bare))), _several(bare)


def _several(counts: Counter[str]) -> frozenset[str]:
    return frozenset(text for text, count in counts.items() if count > 1)


def _as_id(name: str) -> str:
    """A file's name as an id: itself, or `Photo (2)` as `Photo_2-` and eight hexadecimal digits, on every system the same."""
    if NAME.fullmatch(name):
        return name
    digest = hashlib.sha256(unicodedata.normalize("NFC", name).encode()).hexdigest()[:8]
    return f"{re.sub('[^A-Za-z0-9]+', '_', name).strip('_')[:80] or 'image'}-{digest}"


def _inside(path: str) -> bool:
    return path != "" and ".." not in path and not path.startswith("/")


def recognise(
    text: str, place: Place, listing: Mapping[str, Entry], headers: Mapping[str, tuple[str, ...]]
) -> Table | None:
    """The place as a `Table`, if one CSV has the columns. Raises BadInput where two have, or where one lacks a column or two."""
    fitting = {name: _naming_column(columns) for name, columns in headers.items() if set(REQUIRED) <= set(columns)}
    whole = {name: column for name, column in fitting.items() if column}
    if len(whole) > 1:
        raise BadInput(
            f"{text}: several label files ({', '.join(whole)}); name the one to take, as in {text}/{next(iter(whole))}"
        )
    if not whole:
        _report_nearly(text, headers)
        return None
    name, column = next(iter(whole.items()))
    assert column is not None
    if column == "image_id":
        images = imagefiles.by_stem(place, listing)
    else:
        images = imagefiles.by_path(place, listing, name.rpartition("/")[0])
    return Table(_full_name(place, name), LabelFile(place, name), column, images)


def _full_name(place: Place, csv: str) -> str:
    return f"{place}/{csv}"


def _naming_column(columns: tuple[str, ...]) -> str | None:
    return next((name for name in NAMES if name in columns), None)


def _report_nearly(text: str, headers: Mapping[str, tuple[str, ...]]) -> None:
    for name, columns in headers.items():
        missing = [column for column in REQUIRED if column not in columns]
        if not _naming_column(columns):
            missing.append(f"one of {', '.join(NAMES)}")
        if len(missing) <= 2:
            raise BadInput(
                f"{text}: {name} lacks the column {' and '.join(missing)}; it has {', '.join(columns)}; {NEEDED}"
            )
