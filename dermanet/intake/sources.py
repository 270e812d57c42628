"""Sources of labelled images: what a folder, a CSV, a bucket or `synthetic:` holds, as rows of text and files to read."""

import codecs
import csv
import io
import os
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Protocol

from dermanet.errors import BadInput
from dermanet.intake.labelfile import columns, first_line
from dermanet.records import Refusal, Row
from dermanet.storage import Bucket, Entry, Folder, Place

HEADER_BYTES = 1 << 18
"""How much of a CSV file is read to learn its columns."""

SEPARATORS = {";": "semicolons", "\t": "tabs"}
"""What spreadsheets write between columns instead of commas."""


class Source(Protocol):
    """Where labelled images come from. Everything it says is text that nobody has checked yet."""

    @property
    def name(self) -> str:
        """What the catalogue calls it: an absolute path, a URL or a specification."""
        ...

    def rows(self) -> Iterator[Row | Refusal]:
        """One row a labelled image, in a fixed order; a refusal for what has no row or cannot be one. Raises BadInput at the start."""
        ...

    def read(self, image: str) -> bytes:
        """The bytes of a row's image. Raises OSError or BadInput where this one cannot be read, UnreadableImage with the reason."""
        ...

    def md5(self, image: str) -> str:
        """The MD5 of these bytes, 32 hexadecimal digits, where it is stated without reading them; else empty."""
        ...


def open_source(text: str) -> Source:
    """The source that `text` names, its layout told from its CSV files' headers. Raises BadInput with one line that says why not."""
    from dermanet.intake import synthetic

    if is_synthetic(text):
        return synthetic.parse(text)
    place, label_file = locate(text)
    return open_place(text, place, place.survey(), label_file)


def is_synthetic(text: str) -> bool:
    """Whether a source's text asks for drawn images, and names no folder."""
    return text == "synthetic" or text.startswith("synthetic:")


def open_place(text: str, place: Place, listing: Mapping[str, Entry], label_file: str | None) -> Source:
    """The source in a place with these files, its labels in `label_file` if that is named. Raises BadInput as `open_source`."""
    from dermanet.intake import isic2018, tables

    headers: dict[str, tuple[str, ...]] = {}
    faults = []
    for name in label_files(listing, label_file):
        try:
            headers[name] = header(place, name)
        except BadInput as error:
            faults.append(str(error))
    for layout in (isic2018, tables):
        source = layout.recognise(text, place, listing, headers)
        if source:
            return source
    seen = [f"{name} has {', '.join(columns) or 'no columns'}" for name, columns in headers.items()]
    raise BadInput(
        f"{text}: no label file recognised ({'; '.join(seen + faults) or 'no CSV file at all'}); {tables.NEEDED}"
    )


def locate(text: str) -> tuple[Place, str | None]:
    """The place that `text` names, and the label file where it names one. Raises BadInput."""
    if not text.strip():
        raise BadInput("the source is empty; give a folder, a CSV, s3://bucket/prefix, inbox:… or synthetic:")
    if text.startswith("s3://"):
        if text.lower().endswith(".csv"):
            folder, _, name = text.rpartition("/")
            return Bucket(folder), name
        return Bucket(text), None
    path = _straight(Path(text).expanduser().absolute())
    if path.is_file() and path.suffix.lower() == ".csv":
        return Folder(path.parent), path.name
    if not path.is_dir():
        raise BadInput(
            f"source {text!r} is no folder and no CSV file; give a folder, a CSV, s3://bucket/prefix or synthetic:"
        )
    return Folder(path), None


def _straight(path: Path) -> Path:
    """The path without `..`, so that a source has one name from wherever it is called; as it is where links make it another place."""
    straight = Path(os.path.normpath(path))
    return straight if straight.exists() and path.exists() and straight.samefile(path) else path


def label_files(listing: Iterable[str], only: str | None) -> list[str]:
    """The CSV files that may hold labels: the named one, or those in the place itself and one folder down."""
    names = [name for name in listing if name.lower().endswith(".csv")]
    return [name for name in names if name == only] if only else [name for name in names if name.count("/") <= 1]


def header(place: Place, name: str) -> tuple[str, ...]:
    """The column names of a CSV file, lower-cased and trimmed; none where it is empty.

    Raises BadInput where it is no CSV, or where two columns have one name.
    """
    # Only the start is read: beside its metadata, HAM10000 is given out with tables of pixels of a hundred megabytes.
    try:
        data = place.start(name, HEADER_BYTES)
    except OSError as error:
        raise BadInput(f"{place}/{name} cannot be read: {error.strerror or error}") from None
    try:
        text = codecs.getincrementaldecoder("utf-8-sig")().decode(data)
        first = first_line(csv.reader(io.StringIO(text, newline=""), strict=True))
    except UnicodeDecodeError as error:
        raise BadInput(f"{name}: byte {error.start} is not UTF-8; save the file as UTF-8") from None
    except csv.Error as error:
        raise BadInput(f"{name}: line 1: {error}; give a CSV file") from None
    if any("\0" in cell for cell in first):
        raise BadInput(f"{name} is no text, as a spreadsheet's own file or UTF-16 is none; save it as CSV in UTF-8")
    if first and first[0].strip().lower().startswith("sep="):
        raise BadInput(f"{name} begins with a line for spreadsheets, {first[0].strip()}; remove it")
    separator = next((word for sign, word in SEPARATORS.items() if len(first) == 1 and sign in first[0]), None)
    if separator:
        raise BadInput(f"{name} has {separator} between its columns; save it with commas")
    return columns(name, first)
