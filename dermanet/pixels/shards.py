"""Rows of one kind by image digest, made once: prepared pixels, or features of them; in shards that are mapped, not read.

    <folder>/recipe.json     what the rows are and how they were made
    <folder>/<shard>.npy     (n, *shape) of one type
    <folder>/<shard>.json    the n image digests, in order, and a CRC-32 of each row; written last, so that a shard without it does
                             not exist

A shard is named by its digests, so that its index proves itself. Its size is checked whenever a folder is opened, its rows when one
is first used: what is damaged is named and set aside, and the next run makes it again. Nothing is synced to the disk: what a
power cut takes is found by the same checks.
"""

import errno
import fcntl
import hashlib
import json
import mmap
import os
import re
import time
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import SystemRandom
from typing import Any, BinaryIO
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from dermanet.errors import DermaNetError

SHARD = 256
"""Rows in a shard: 50 MB of pixels at 256, so that a killed run loses seconds and a big set stays a few hundred files."""

STALE = 3600.0
"""Seconds after which a file that no index names and nobody holds is taken for what a killed run left."""

ABOUT = "recipe.json"


@dataclass(frozen=True, slots=True)
class Preparation:
    """What one run of `Shards.fill` did. `damaged`: the shards that were found so, and whose rows were made again."""

    computed: int
    reused: int
    damaged: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Row:
    """What every row of a folder is: an array of this shape and type."""

    shape: tuple[int, ...]
    dtype: np.dtype[Any]


Making = Callable[[Iterable[list[str]]], Iterator[tuple[list[str], Iterable[tuple[NDArray[Any], int]]]]]
"""Chunks of digests in; each chunk with its rows and their checksums out, in order. It may work ahead."""


@dataclass(frozen=True, slots=True)
class Shard:
    """The index of one shard: where its pixels lie, whose rows they are, and their checksums."""

    path: Path
    digests: tuple[str, ...]
    checks: tuple[int, ...]
    row: Row

    @property
    def shape(self) -> tuple[int, ...]:
        """Of its rows together."""
        return len(self.digests), *self.row.shape

    @property
    def header(self) -> bytes:
        """What its file begins with."""
        return header(self.shape, self.row.dtype)

    def mapped(self) -> mmap.mmap:
        """Its file, mapped for reading."""
        with self.path.open("rb") as file:
            return mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    def rows(self, mapped: mmap.mmap) -> NDArray[Any]:
        """Its rows in its mapped file."""
        return np.ndarray(self.shape, self.row.dtype, mapped, len(self.header))

    def fault(self) -> str:
        """What is wrong with it as far as a look at the file's size can tell, or nothing."""
        try:
            size = self.path.stat().st_size
        except OSError as error:
            return f"cannot be read ({error.strerror})"
        wanted = len(self.header) + int(np.prod(self.shape)) * self.row.dtype.itemsize
        return "" if size == wanted else f"has {size:,} bytes instead of {wanted:,}"

    def whole_fault(self) -> str:
        """What is wrong with it, every byte read; or nothing."""
        if wrong := self.fault():
            return wrong
        with self.path.open("rb") as file:
            if file.read(len(self.header)) != self.header:
                return "has another header"
        for digest, check, row in zip(self.digests, self.checks, self.rows(self.mapped()), strict=True):
            if checksum(row) != check:
                return f"holds other values of image {digest[:12]}… than were written"
        return ""


class Shards:
    """The rows of one folder. Any number of readers and writers may share it."""

    def __init__(self, folder: Path, row: Row, about: Mapping[str, Any]) -> None:
        """`about`: what the folder says of itself, as JSON."""
        self.folder = folder
        self.row = row
        self._about = about
        self._damaged: list[str] = []
        self._places: dict[str, tuple[Shard, int]] = {}
        self._shards: set[str] = set()
        self._mapped: dict[Path, mmap.mmap] = {}
        self._checked: set[str] = set()
        self._refresh()

    def missing(self, digests: Iterable[str]) -> list[str]:
        """Those of `digests` that have no row yet, each once, in order."""
        return [digest for digest in dict.fromkeys(digests) if digest not in self._places]

    def fill(
        self, digests: Sequence[str], make: Making, progress: Callable[[int], None] = lambda done: None
    ) -> Preparation:
        """Makes what is missing of `digests`, shard by shard.

        Killed, it goes on from its last whole shard when called again; processes side by side share the shards out. Raises
        DermaNetError where the disk is full.
        """
        missing, total, computed = self.missing(digests), len(set(digests)), 0
        done = total - len(missing)
        progress(done)

        def not_made_meanwhile() -> Iterator[list[str]]:
            nonlocal done
            # In no order, so that another process that makes the same is at another place.
            for chunk in SystemRandom().sample(chunks, len(chunks)):
                self._refresh()
                left = self.missing(chunk)
                if len(left) < len(chunk):
                    done += len(chunk) - len(left)
                    progress(done)
                if left:
                    yield left

        chunks = list(batched(missing))
        try:
            if digests:
                self._make_folder()
            for chunk, rows in make(not_made_meanwhile()) if missing else ():
                self._write(chunk, rows)
                computed += len(chunk)
                done += len(chunk)
                progress(done)
        except OSError as error:
            if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                raise
            raise DermaNetError(
                f"no space left in {self.folder}; make room (`dermanet cache --prune` may) and run this again: it goes on "
                "from its last whole shard"
            ) from error
        if missing:
            self._refresh()
        damaged, self._damaged = tuple(self._damaged), []
        return Preparation(computed, total - computed, damaged)

    def __contains__(self, digest: str) -> bool:
        return digest in self._places

    def one(self, digest: str) -> NDArray[Any]:
        """One row: a view into the mapped shard, checked at its first use.

        Raises KeyError, and DermaNetError where the row is not what was written: the shard is then set aside.
        """
        shard, place = self._places[digest]
        if shard.path not in self._mapped:
            # It may have been pruned, or cut, since this folder was opened.
            if wrong := shard.fault():
                raise DermaNetError(f"shard {shard.path} {wrong}; run this again: what is missing is made anew")
            self._mapped[shard.path] = shard.mapped()
        row = shard.rows(self._mapped[shard.path])[place]
        if digest not in self._checked:
            if checksum(row) != shard.checks[place]:
                # Looked at anew: another process may have put a sound one in its place, which must stay.
                if wrong := shard.whole_fault():
                    set_aside(shard.path)
                wrong = wrong or "was damaged, and has been made again since"
                raise DermaNetError(f"shard {shard.path} {wrong}; run this again: what is missing is made anew")
            self._checked.add(digest)
        return row

    def batch(self, digests: Sequence[str]) -> NDArray[Any]:
        """Several rows, (n, *shape), copied out of the shards, whose pages are given back: they stay in the system's cache alone.

        Else a process that has read every row would hold them all.
        """
        found = np.stack([self.one(digest) for digest in digests])
        for path in {self._places[digest][0].path for digest in digests}:
            self._mapped[path].madvise(mmap.MADV_DONTNEED)
        return found

    def _write(self, digests: Sequence[str], rows: Iterable[tuple[NDArray[Any], int]]) -> None:
        name, checks = hashlib.sha256("".join(digests).encode()).hexdigest()[:24], []
        target = self.folder / f"{name}.npy"
        with _Temporary(self.folder) as file:
            # Written, not mapped: a full disk is an error here, and would be the death of the process there.
            file.write(header((len(digests), *self.row.shape), self.row.dtype))
            for row, check in rows:
                file.write(row.data)
                checks.append(check)
            file.rename(target)
            # Held until the index leads to it, by which a cleaner sees that somebody is at work.
            try:
                with _Temporary(self.folder) as index:
                    index.write(json.dumps({"digests": digests, "crc32": checks}).encode())
                    index.rename(target.with_suffix(".json"))
            except OSError:
                target.unlink(missing_ok=True)
                raise

    def _make_folder(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        clean(self.folder)
        path, text = self.folder / ABOUT, json.dumps(dict(self._about)).encode()
        # A damaged one would have all of the folder taken for what nobody can use any more.
        if not path.exists() or path.read_bytes() != text:
            with _Temporary(self.folder) as file:
                file.write(text)
                file.rename(path)

    def _refresh(self) -> None:
        for index in indexes(self.folder):
            if index.stem in self._shards:
                continue
            shard = read_index(index, self.row)
            if shard is None:
                continue
            wrong = shard if isinstance(shard, str) else shard.fault()
            if wrong:
                set_aside(index)
                self._damaged.append(f"{index.with_suffix('.npy')} {wrong}")
            elif isinstance(shard, Shard):
                self._shards.add(index.stem)
                self._places |= {digest: (shard, place) for place, digest in enumerate(shard.digests)}


def checksum(row: NDArray[Any]) -> int:
    """The CRC-32 of a row's bytes."""
    return zlib.crc32(row.data)


def indexes(folder: Path) -> list[Path]:
    """The indexes of a folder, whole or not."""
    return sorted(path for path in folder.glob("*.json") if path.name != ABOUT and not path.name.startswith("."))


def read_index(index: Path, row: Row) -> Shard | str | None:
    """The shard that an index describes, or what is wrong with the index; None where it has gone."""
    try:
        record = json.loads(index.read_bytes())
        digests, checks = tuple(map(str, record["digests"])), tuple(map(int, record["crc32"]))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError, OverflowError, RecursionError):
        return "has an index that cannot be read"
    named = hashlib.sha256("".join(digests).encode()).hexdigest()[:24]
    if named != index.stem or len(digests) != len(checks):
        return "has an index that is not its own"
    return Shard(index.with_suffix(".npy"), digests, checks, row)


def set_aside(path: Path) -> int:
    """Removes a shard, its index first, so that nobody finds half of it; who has it mapped goes on. Returns the bytes given back."""
    freed = 0
    for part in (path.with_suffix(".json"), path.with_suffix(".npy")):
        try:
            size = part.stat().st_size
            part.unlink()
        except FileNotFoundError:
            continue
        freed += size
    return freed


def folders(root: Path) -> list[Path]:
    """The folders of a root that are named as fingerprints are, so that nothing else in it is ever touched."""
    if not root.is_dir():
        return []
    return sorted(path for path in root.iterdir() if path.is_dir() and re.fullmatch("[0-9a-f]{16}", path.name))


def left(folder: Path, stale: float = 0.0) -> list[Path]:
    """What killed runs left in a folder: files under way, and rows without an index of at least that age in seconds.

    Nobody holds any of it; where a file system knows no locks, it is older than `STALE`.
    """
    return [path for path in _halves(folder, stale) if _is_left(path)]


def clean(folder: Path, stale: float = STALE) -> None:
    """Removes what is `left` in a folder; young rows only if told so: an older DermaNet lets go of them before it has their index."""
    for path in _halves(folder, stale):
        remove_left(path)


def remove_left(path: Path) -> None:
    """Removes one of what was `left`, if it still is."""
    _is_left(path, remove=True)


def _halves(folder: Path, stale: float) -> list[Path]:
    old = time.time() - stale
    rows = [path for path in folder.glob("*.npy") if not _indexed(path) and modified(path) <= old]
    return sorted(path for path in {*folder.glob(".*"), *rows} if path.is_file())


def _indexed(path: Path) -> bool:
    return path.suffix == ".npy" and path.with_suffix(".json").exists()


def _is_left(path: Path, remove: bool = False) -> bool:
    """Whether nobody holds a file that is half of something; if so it is removed where that is asked, before anybody can hold it."""
    try:
        with path.open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return False
            except OSError:
                # A file system without locks: only age tells.
                if modified(path) > time.time() - STALE:
                    return False
            # Whose writer has let go has an index by now.
            if _indexed(path):
                return False
            if remove:
                path.unlink(missing_ok=True)
            return True
    except FileNotFoundError:
        return False


def modified(path: Path) -> float:
    """When a file was written, in seconds since 1970; one that has gone, just now."""
    try:
        return path.stat().st_mtime
    except FileNotFoundError:
        return time.time()


class _Temporary:
    """A file under way, of a name of its own and locked while its writer lives; gone at the end unless it was renamed."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __enter__(self) -> "_Temporary":
        while True:
            # The name is unique so that two runs at once cannot write into one file; the rename makes the last one win whole.
            self.path = self._folder / f".{uuid4().hex}"
            self._file: BinaryIO = self.path.open("xb")
            try:
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                # A cleaner has it, to see whether anybody does.
                self.path.unlink(missing_ok=True)
            except OSError:
                # This file system knows no locks.
                return self
            if self.path.exists():
                return self
            self._file.close()

    def write(self, data: "bytes | memoryview") -> None:
        self._file.write(data)

    def rename(self, target: Path) -> None:
        self._file.flush()
        os.replace(self.path, target)

    def __exit__(self, *failure: object) -> None:
        try:
            self._file.close()
        except OSError:
            # What could not be written is no news by now, and hides what was raised first.
            if failure[0] is None:
                raise
        finally:
            self.path.unlink(missing_ok=True)


def header(shape: tuple[int, ...], dtype: np.dtype[Any]) -> bytes:
    """NumPy's own file header, so that anyone may `np.load` a shard."""
    text = f"{{'descr': '{dtype.str}', 'fortran_order': False, 'shape': {shape}, }}"
    return b"\x93NUMPY\x01\x00\x76\x00" + text.ljust(117).encode() + b"\n"


def batched(digests: Sequence[str]) -> Iterator[list[str]]:
    """In chunks of a shard each."""
    return (list(digests[start : start + SHARD]) for start in range(0, len(digests), SHARD))
