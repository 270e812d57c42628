"""A file of results that grows row by row, and is gone on with after whatever ended the one who wrote it.

A row is one line, written at once, so that at most the last line is half there. What stands in the file is its own record of how far
it is: which images, by which version.
"""

import csv
import fcntl
import io
import json
import os
import stat
from array import array
from collections.abc import Mapping, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dermanet.errors import BadInput, DermaNetError
from dermanet.stages.imagelist import identity, in_one_line, rooted

PIECE = 1 << 20
"""Bytes read at once."""

IMAGE, VERSION, DIGEST = "image", "version", "model_digest"
"""What a line says besides a reader's row; `model_digest` tells versions of one number from one another."""


class Csv:
    """A line of cells a row, flat: a column for each probability, differentials side by side in one cell."""

    def __init__(self, row: Mapping[str, Any]) -> None:
        """`row`: some answered row, whose probabilities name the columns."""
        self.columns = tuple(_flat(row))
        self.start = self.begin = self._line(self.columns)

    def line(self, row: Mapping[str, Any]) -> bytes:
        """A row as one line."""
        flat = _flat(row)
        return self._line([_cell(flat.get(column)) for column in self.columns])

    def read(self, line: bytes) -> Mapping[str, Any] | None:
        """A line's cells by column, empty ones as empty text; None where it is no such line."""
        cells = next(csv.reader([line.decode(errors="replace")]), [])
        return dict(zip(self.columns, cells, strict=True)) if len(cells) == len(self.columns) else None

    def _line(self, cells: Sequence[str]) -> bytes:
        text = io.StringIO()
        csv.writer(text, lineterminator="\n").writerow(cells)
        return text.getvalue().encode()


class JsonLines:
    """A JSON object a row, nested as a reader's rows are."""

    start, begin = b"", b'{"image": "'
    """The line before the first row, if there is one, and how a file begins."""

    def __init__(self, row: Mapping[str, Any]) -> None:
        pass

    def line(self, row: Mapping[str, Any]) -> bytes:
        """A row as one line."""
        return json.dumps(row, allow_nan=False).encode() + b"\n"

    def read(self, line: bytes) -> Mapping[str, Any] | None:
        """A line's object; None where it is no such line."""
        try:
            found = json.loads(line)
        except ValueError:
            return None
        return found if isinstance(found, dict) and {IMAGE, VERSION, DIGEST} <= set(found) else None


FORMS: dict[str, type[Csv] | type[JsonLines]] = {".csv": Csv, ".jsonl": JsonLines}


def form_of(path: Path) -> type[Csv] | type[JsonLines]:
    """How results are written, by the ending of their file. Raises BadInput."""
    if path.suffix not in FORMS:
        raise BadInput(f"{path}: the ending {path.suffix!r} names no form; allowed are {', '.join(FORMS)}")
    return FORMS[path.suffix]


class Results:
    """A file of results, opened by one process at a time; what a killed one left half-written is cut off.

    `done`: `identity` of the images in it, (n,); `errors`: how many rows in it say why there is no answer.
    """

    def __init__(self, path: Path, example: Mapping[str, Any], again: bool = False) -> None:
        """`example`: an answered row of the version that writes. `again`: begin anew, whatever stands there.

        Raises BadInput where the file was made by another version, has other columns, names images without their folder, or is being
        written by another process.
        """
        self.path, self._form = path, form_of(path)(example)
        self._model = {name: str(example[name]) for name in (VERSION, DIGEST)}
        self.errors = 0
        self._file = self._open()
        try:
            if again:
                os.ftruncate(self._file, 0)
            self.done = self._resumed()
        except BaseException:
            self.close()
            raise

    def add(self, row: Mapping[str, Any]) -> None:
        """Writes a row, which is there from then on. Raises DermaNetError where it cannot be written, as on a full disk."""
        self._write(self._form.line(row))
        self.errors += bool(row["error"])

    def close(self) -> None:
        """Lets another process write."""
        os.close(self._file)

    def _open(self) -> int:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            file = os.open(self.path, os.O_RDWR | os.O_CREAT | os.O_APPEND | os.O_NONBLOCK, 0o666)
        except OSError as error:
            raise BadInput(f"{self.path} cannot be written: {error.strerror}; name another file") from None
        try:
            if not stat.S_ISREG(os.fstat(file).st_mode):
                raise BadInput(f"{self.path} is no file that can be gone on with; name another")
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BaseException as error:
            os.close(file)
            if isinstance(error, BlockingIOError):
                raise BadInput(
                    f"{self.path} is being written by another process; wait for it, or name another"
                ) from None
            raise
        return file

    def _resumed(self) -> NDArray[np.uint64]:
        """What is done, by whole lines; the rest is cut off."""
        done, end, begin = array("Q"), 0, self._form.begin
        with open(self._file, "rb", buffering=PIECE, closefd=False) as lines:
            lines.seek(0)
            first = lines.readline()
            if first[: len(begin)] != begin[: len(first)]:
                raise self._refusal("has other columns, or is no file of answers")
            for number, line in enumerate(chain([first], lines), start=1):
                if line.endswith(b"\n"):
                    end += len(line)
                    if line != self._form.start:
                        done.append(self._checked(line, number))
        os.ftruncate(self._file, end)
        if not end:
            self._write(self._form.start)
        return np.array(done, np.uint64)

    def _checked(self, line: bytes, number: int) -> int:
        row = self._form.read(line)
        if row is None:
            raise self._refusal(f"has another form in line {number}")
        for name, ours in self._model.items():
            if str(row[name]) != ours:
                raise self._refusal(f"was made by {name.replace('_', ' ')} {row[name]}, and this is {ours}")
        image = str(row[IMAGE])
        if not os.path.isabs(image):
            # Seen from a folder that is not on record: taken from this one, it might be an image that nobody answered.
            raise self._refusal(
                f"names {image!r} in line {number} without its folder, as earlier releases did",
                "write names from the root, ",
            )
        self.errors += bool(row.get("error"))
        return identity(rooted(image))

    def _refusal(self, why: str, remedy: str = "") -> BadInput:
        return BadInput(f"{self.path} {why}; {remedy}name another file, or begin it anew with --again")

    def _write(self, line: bytes) -> None:
        left = memoryview(line)
        try:
            while left:
                left = left[os.write(self._file, left) :]
        except OSError as error:
            raise DermaNetError(
                f"{self.path} cannot be written to: {error.strerror}; once that is fixed, the same command goes on where it was"
            ) from None


def _flat(row: Mapping[str, Any]) -> dict[str, Any]:
    """A row's cells by column: `sex_probabilities` becomes `sex_probability_male` and so on."""
    flat: dict[str, Any] = {}
    for name, value in row.items():
        if isinstance(value, Mapping):
            flat |= {f"{name.removesuffix('ies')}y_{key}": each for key, each in value.items()}
        else:
            flat[name] = value
    return flat


def _cell(value: Any) -> str:
    if value is None:
        return ""
    return " ".join(value) if isinstance(value, list) else in_one_line(str(value))
