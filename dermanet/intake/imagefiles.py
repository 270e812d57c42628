"""The image files of a place by what a label file calls them, and reading one: never more than a file may have, never one of two."""

import re
import unicodedata
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import PurePosixPath

from dermanet.errors import UnreadableImage
from dermanet.imagefile import MOST_BYTES, OTHER_SUFFIXES, SUFFIXES
from dermanet.records import Refusal, Row
from dermanet.storage import Entry, Place

AMBIGUOUS = "ambiguous file"

MD5 = re.compile("[0-9a-f]{32}")


@dataclass(frozen=True)
class ImageFiles:
    """Image files by the words that may call them; several files may answer to one word.

    `others`: pictures with other endings, which answer where no image does: what they are is for the screening to say.
    """

    place: Place
    listing: Mapping[str, Entry]
    by_word: Mapping[str, tuple[str, ...]]
    others: Mapping[str, str]

    def called(self, word: str) -> str | None:
        """The first of the files that the word calls, or None."""
        word = _word(word)
        return self.by_word.get(word, (self.others.get(word),))[0]

    def strays(self, words: Collection[str], csv: str) -> Iterator[Refusal]:
        """A refusal for every file that none of the words of the label file calls."""
        detail = f"{csv} has no row for it; add one or remove the file"
        words = {_word(word) for word in words}
        for word, files in self.by_word.items():
            for file in () if word in words else files:
                row = Row(PurePosixPath(file).stem, "", "", "", "", image=file)
                yield Refusal(file, "image without a row", detail, row)

    def read(self, file: str) -> bytes:
        """A file's bytes. Raises UnreadableImage where it is too large, or where its word calls other bytes too; and OSError."""
        data = self._one(file)
        for other in self._twins.get(file, ()):
            if self.listing[other].size != self.listing[file].size or self._one(other) != data:
                raise UnreadableImage(AMBIGUOUS, f"{file} and {other} differ; keep the one that the label file means")
        return data

    def md5(self, file: str) -> str:
        """The MD5 of a file's bytes as its server states it, 32 hexadecimal digits; empty where nobody does."""
        etag = self.listing[file].etag
        # Of an object that came in parts, or is encrypted by a key of its owner's, the tag is something else, which no file's MD5 is.
        return etag if MD5.fullmatch(etag) and file not in self._twins else ""

    @cached_property
    def _twins(self) -> dict[str, tuple[str, ...]]:
        """Of words that call several files, the first with the others."""
        return {files[0]: files[1:] for files in self.by_word.values() if len(files) > 1}

    def _one(self, file: str) -> bytes:
        size = self.listing[file].size
        if size > MOST_BYTES:
            raise UnreadableImage("too large", f"{size:,} bytes; at most {MOST_BYTES:,} are read")
        # It may have grown since it was listed.
        return self.place.start(file, MOST_BYTES + 1)


def by_stem(place: Place, listing: Mapping[str, Entry], suffixes: tuple[str, ...] = SUFFIXES) -> ImageFiles:
    """The images of a place, called by their names without folder and ending."""
    found: dict[str, tuple[str, ...]] = {}
    for name in _images(listing, suffixes):
        stem = PurePosixPath(name).stem
        found[stem] = (*found.get(stem, ()), name)
    others = {PurePosixPath(name).stem: name for name in _images(listing, OTHER_SUFFIXES)}
    return ImageFiles(place, listing, found, others)


def by_path(place: Place, listing: Mapping[str, Entry], folder: str) -> ImageFiles:
    """The images below a folder of a place, called by their paths from there."""
    start = f"{folder}/" if folder else ""
    found: dict[str, tuple[str, ...]] = {}
    for name in _images(listing, SUFFIXES):
        if name.startswith(start):
            word = _word(name.removeprefix(start))
            found[word] = (*found.get(word, ()), name)
    others = {
        _word(name.removeprefix(start)): name for name in _images(listing, OTHER_SUFFIXES) if name.startswith(start)
    }
    return ImageFiles(place, listing, found, others)


def _word(text: str) -> str:
    # Archives from a Mac write é as two characters, label files as one.
    return unicodedata.normalize("NFC", text)


def _images(listing: Mapping[str, Entry], suffixes: tuple[str, ...]) -> list[str]:
    return [name for name in listing if name.lower().endswith(suffixes)]
