"""A label file: a CSV of a place, copied once to a file without a name, so that all who read it read the same bytes.

It is read several times (for its digest, for what its rows say of one another, then row by row with their images), may lie in a
bucket, and may be changed meanwhile. The copy is on disk, and goes with its process, also with one that is killed.
"""

import codecs
import csv
import hashlib
import io
import os
import tempfile
from collections.abc import Iterator, Sequence
from functools import cached_property
from typing import BinaryIO

from dermanet.errors import BadInput, DermaNetError, no_space_left
from dermanet.storage import Place

LONGEST_LINE = 1 << 20
"""Characters. A line of a label file has a few hundred; one without end must not fill the memory."""


class Line(dict[str, str]):
    """The cells of one line by column. `fault`: what is wrong with their number, or empty: which cell is which, nobody knows then."""

    fault = ""


class LabelFile:
    """A CSV file of labels in a place. Nothing is read before it is needed."""

    def __init__(self, place: Place, name: str) -> None:
        self.place = place
        self.name = name

    @property
    def digest(self) -> str:
        """SHA-256 of its bytes, hexadecimal. Raises BadInput where it is not UTF-8 text or cannot be read."""
        return self._copied[1]

    def rows(self) -> Iterator[Line]:
        """The rows by column name, names lower-cased and trimmed, values as they stand; a missing cell is empty.

        Raises BadInput before the first row where two columns have one name, or where a line further down is no CSV: half a label
        file is not taken in.
        """
        reader = csv.reader(_lines(self._sound), strict=True)
        names = columns(self.name, first_line(reader))
        # Spreadsheets end in rows of empty cells.
        for cells in filter(any, reader):
            line = Line(dict.fromkeys(names, "") | dict(zip(names, cells, strict=False)))
            if len(cells) < len(names) or any(cells[len(names) :]):
                line.fault = (
                    f"line {reader.line_num} has {len(cells)} cells and the header {len(names)}; "
                    "leave none out, and put a cell with a comma into quotation marks"
                )
            yield line

    def by(self, column: str) -> dict[str, Line]:
        """The rows by what stands in one column.

        Raises BadInput where two that differ have the same there, or where one has too few cells or too many.
        """
        found: dict[str, Line] = {}
        for line in self.rows():
            if line.fault:
                raise BadInput(f"{self.name}: {line.fault}")
            if found.setdefault(line[column], line) != line:
                raise BadInput(
                    f"{self.name} says two things of the {column} {line[column]!r}; keep the line that is right"
                )
        return found

    @cached_property
    def _copied(self) -> tuple[BinaryIO, str]:
        copy = tempfile.TemporaryFile()  # noqa: SIM115 - closed with this object
        digest, text = hashlib.sha256(), _Text(self.name)
        try:
            for chunk in self.place.chunks(self.name):
                digest.update(chunk)
                text.check(chunk)
                copy.write(chunk)
            copy.flush()
        except OSError as error:
            if no_space_left(error):
                raise DermaNetError(
                    f"no space left for a copy of {self.name} in {tempfile.gettempdir()}; make room there, or name another folder "
                    "by TMPDIR, and run this again"
                ) from error
            raise BadInput(f"{self.place}/{self.name} cannot be read: {error.strerror or error}") from None
        text.check(b"", final=True)
        return copy, digest.hexdigest()

    @cached_property
    def _sound(self) -> BinaryIO:
        """The copy, every line of which is CSV. Raises BadInput."""
        reader = csv.reader(_lines(self._copied[0]), strict=True)
        try:
            for _ in reader:
                pass
        except csv.Error as error:
            raise BadInput(f"{self.name}: line {reader.line_num}: {error}; correct the line") from None
        return self._copied[0]


def first_line(lines: Iterator[list[str]]) -> list[str]:
    """The first line that is not empty: the columns' names; nothing where all are."""
    return next(filter(any, lines), [])


def columns(name: str, cells: Sequence[str]) -> tuple[str, ...]:
    """The column names of a CSV file's first line, lower-cased and trimmed. Raises BadInput where two are the same."""
    found = tuple(cell.strip().lower() for cell in cells)
    twice = next((column for column in found if column and found.count(column) > 1), None)
    if twice:
        raise BadInput(f"{name} has two columns called {twice!r}; keep the one that is right")
    return found


def _lines(copy: BinaryIO) -> Iterator[str]:
    # Each reader has a position of its own in the one copy.
    text = io.TextIOWrapper(io.BufferedReader(_Pages(copy.fileno())), encoding="utf-8-sig", newline="")
    while line := text.readline(LONGEST_LINE + 1):
        if len(line) > LONGEST_LINE:
            raise csv.Error(f"it is longer than {LONGEST_LINE:,} characters")
        yield line


class _Text:
    """Checks that bytes which come in pieces are UTF-8."""

    def __init__(self, name: str) -> None:
        self.name = name
        self.decoder = codecs.getincrementaldecoder("utf-8")()
        self.checked = 0

    def check(self, chunk: bytes, final: bool = False) -> None:
        """Raises BadInput with the first byte that is wrong."""
        begun = len(self.decoder.getstate()[0])
        try:
            self.decoder.decode(chunk, final)
        except UnicodeDecodeError as error:
            where = self.checked - begun + error.start
            raise BadInput(f"{self.name}: byte {where} is not UTF-8; save the file as UTF-8") from None
        self.checked += len(chunk)


class _Pages(io.RawIOBase):
    """A file's bytes from its start, whatever others read of it."""

    def __init__(self, descriptor: int) -> None:
        self.descriptor = descriptor
        self.position = 0

    def readable(self) -> bool:
        """True."""
        return True

    def readinto(self, buffer: "memoryview[int] | bytearray") -> int:  # type: ignore[override]
        """Fills the buffer as far as there are bytes."""
        count = os.preadv(self.descriptor, [buffer], self.position)
        self.position += count
        return count
