"""The images that files and folders stand for: found once, each once, in an order that stays, however many."""

import hashlib
import os
import re
from array import array
from collections.abc import Iterable, Iterator
from tempfile import SpooledTemporaryFile

import numpy as np
from numpy.typing import NDArray

from dermanet.imagefile import SUFFIXES

SPOOL = 1 << 20
"""Bytes of names that are held in memory; more lie in a file without a name."""

UNWRITABLE = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]")
"""What would end a line, or a terminal's patience, or is a byte of no text."""

SPELT = re.compile(r"\\(?:\\|x[0-9a-f]{2}|u[0-9a-f]{4})")
"""How such characters are written, and a backslash in a name that has any, or that looks as if it had."""


class ImageList:
    """Images in the order in which they were found, each once. Memory grows by some 20 bytes an image."""

    def __init__(self, given: Iterable[str]) -> None:
        """`given`: files and folders."""
        self._names = SpooledTemporaryFile(SPOOL)  # noqa: SIM115 - as long-lived as this object
        found = array("Q")
        for name in walk(given):
            self._names.write(os.fsencode(name) + b"\0")
            found.append(identity(place(name)))
        self._numbers = np.array(found, np.uint64)
        self._wanted = np.zeros(len(found), bool)
        self._wanted[np.unique(self._numbers, return_index=True)[1]] = True
        self.count = self.left = int(self._wanted.sum())

    def pass_over(self, done: NDArray[np.uint64]) -> None:
        """Leaves out what is done. `done`: its `identity`, (n,)."""
        self._wanted &= ~np.isin(self._numbers, done)
        self.left = int(self._wanted.sum())

    def __iter__(self) -> Iterator[str]:
        self._names.seek(0)
        return (name for name, wanted in zip(self._read(), self._wanted, strict=True) if wanted)

    def _read(self) -> Iterator[str]:
        rest = b""
        while piece := self._names.read(SPOOL):
            *names, rest = (rest + piece).split(b"\0")
            yield from map(os.fsdecode, names)


def walk(given: Iterable[str]) -> Iterator[str]:
    """Files as they are given, and the JPEG and PNG files in folders and below, by name; a folder that cannot be read is itself."""
    for name in given:
        if os.path.isdir(name):
            yield from _inside(name)
        else:
            yield name


def place(name: str) -> str:
    """A file's path from the root, as it stands in a file of results: the same from wherever it is named, and its own place."""
    return written(rooted(name))


def rooted(name: str) -> str:
    """A path from the root, without detours."""
    folder, file = os.path.split(name)
    if os.pardir in name.split(os.sep):
        # What is above a link's target is not what is above the link.
        folder = os.path.realpath(folder)
    return os.path.abspath(os.path.join(folder, file))


def identity(place: str) -> int:
    """64 bits that tell a file from every other, by its `place`."""
    return int.from_bytes(hashlib.blake2b(place.encode(), digest_size=8).digest(), "big")


def written(name: str) -> str:
    """A file's name as it stands in a file of results: text of one line, whatever bytes it holds, and never another file's."""
    if UNWRITABLE.search(name) or SPELT.search(name):
        return in_one_line(name.replace("\\", "\\\\"))
    return name


def in_one_line(text: str) -> str:
    """Text with what would not be written spelt out."""
    return UNWRITABLE.sub(_spelt, text)


def _spelt(found: re.Match[str]) -> str:
    number = ord(found[0])
    if 0xDC80 <= number <= 0xDCFF:
        # A byte that is no text, by Python's sign for it: told from the character of that number.
        return f"\\x{number - 0xDC00:02x}"
    return f"\\x{number:02x}" if number < 0x80 else f"\\u{number:04x}"


def _inside(folder: str) -> Iterator[str]:
    try:
        with os.scandir(folder) as entries:
            # A folder behind a link may be the one that holds the link.
            found = sorted((entry.name, entry.is_dir(follow_symlinks=False)) for entry in entries)
    except OSError:
        yield folder
        return
    for name, is_folder in found:
        if name.startswith("."):
            continue
        if is_folder:
            yield from _inside(os.path.join(folder, name))
        elif name.lower().endswith(SUFFIXES):
            yield os.path.join(folder, name)
