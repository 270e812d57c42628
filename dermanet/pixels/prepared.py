"""Prepared pixels, made once: a cache by (image digest, recipe fingerprint), in shards that are mapped, not read.

    <root>/<fingerprint>/recipe.json     which recipe that is
    <root>/<fingerprint>/<shard>.npy     uint8 (n, size, size, 3)
    <root>/<fingerprint>/<shard>.json    the n image digests, in order, and a CRC-32 of each image's pixels; written last, so that a
                                         shard without it does not exist

A shard is named by its digests, so that its index proves itself. Its size is checked whenever a cache is opened, its pixels when an
image is first used: what is damaged is named and set aside, and the next run makes it again. Nothing is synced to the disk: what a
power cut takes is found by the same checks.
"""

import errno
import fcntl
import hashlib
import json
import os
import time
import zlib
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from dermanet.errors import DermaNetError
from dermanet.pixels.preprocess import Recipe, prepare, settle

SHARD = 256
"""Images in a shard: 50 MB at 256 pixels, so that a killed run loses seconds and a big set stays a few hundred files."""

STALE = 3600.0
"""Seconds after which a file that no index names and nobody holds is taken for what a killed run left."""

RECIPE = "recipe.json"


@dataclass(frozen=True, slots=True)
class Preparation:
    """What one run of `PreparedPixels.fill` did. `damaged`: the shards that were found so, and whose images were made again."""

    computed: int
    reused: int
    damaged: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Shard:
    """The index of one shard: where its pixels lie, whose they are, and their checksums."""

    path: Path
    digests: tuple[str, ...]
    checks: tuple[int, ...]
    side: int

    @property
    def shape(self) -> tuple[int, int, int, int]:
        """Of its pixels."""
        return len(self.digests), self.side, self.side, 3

    def mapped(self) -> NDArray[np.uint8]:
        """Its pixels, mapped for reading."""
        start = len(_header(self.shape))
        return np.memmap(self.path, np.uint8, "r", start, self.shape)

    def fault(self) -> str:
        """What is wrong with it as far as a look at the file's size can tell, or nothing."""
        try:
            size = self.path.stat().st_size
        except OSError as error:
            return f"cannot be read ({error.strerror})"
        wanted = len(_header(self.shape)) + int(np.prod(self.shape))
        return "" if size == wanted else f"has {size:,} bytes instead of {wanted:,}"

    def whole_fault(self) -> str:
        """What is wrong with it, every byte read; or nothing."""
        if wrong := self.fault():
            return wrong
        with self.path.open("rb") as file:
            if file.read(len(_header(self.shape))) != _header(self.shape):
                return "has another header"
        for digest, check, image in zip(self.digests, self.checks, self.mapped(), strict=True):
            if zlib.crc32(image.data) != check:
                return f"holds other pixels of image {digest[:12]}… than were written"
        return ""


class PreparedPixels:
    """The prepared images of one recipe under one root. Any number of readers and writers may share a root."""

    def __init__(self, root: Path, recipe: Recipe) -> None:
        self.recipe = recipe
        self.folder = root / recipe.fingerprint
        self._damaged: list[str] = []
        self._places: dict[str, tuple[Shard, int]] = {}
        self._shards: set[str] = set()
        self._mapped: dict[Path, NDArray[np.uint8]] = {}
        self._checked: set[str] = set()
        self._refresh()

    def fill(
        self, digests: Sequence[str], read: Callable[[str], bytes], progress: Callable[[int], None] = lambda done: None
    ) -> Preparation:
        """Makes what is missing of `digests`, reading each image's bytes by its digest; uses every core this process may use.

        Killed, it goes on from its last whole shard when called again. Raises UnreadableImage, and DermaNetError where the disk
        is full.
        """
        missing = [digest for digest in dict.fromkeys(digests) if digest not in self._places]
        reused = len(set(digests)) - len(missing)
        progress(reused)
        if missing:
            settle()
            try:
                self._make_folder()
                for done in self._made(missing, read):
                    progress(reused + done)
            except OSError as error:
                if error.errno not in (errno.ENOSPC, errno.EDQUOT):
                    raise
                raise DermaNetError(
                    f"no space left for prepared pixels in {self.folder}; make room (`dermanet cache --prune` may) and run this "
                    "again: it goes on from its last whole shard"
                ) from error
            self._refresh()
        damaged, self._damaged = tuple(self._damaged), []
        return Preparation(len(missing), reused, damaged)

    def __contains__(self, digest: str) -> bool:
        return digest in self._places

    def image(self, digest: str) -> NDArray[np.uint8]:
        """The prepared pixels of one image: uint8 (size, size, 3), a view into the mapped shard, checked at its first use.

        Raises KeyError, and DermaNetError where the pixels are not those that were written: the shard is then set aside.
        """
        shard, row = self._places[digest]
        if shard.path not in self._mapped:
            self._mapped[shard.path] = shard.mapped()
        pixels = self._mapped[shard.path][row]
        if digest not in self._checked:
            if zlib.crc32(pixels.data) != shard.checks[row]:
                # Looked at anew: another process may have put a sound one in its place, which must stay.
                if wrong := shard.whole_fault():
                    set_aside(shard.path)
                wrong = wrong or "was damaged, and has been made again since"
                raise DermaNetError(f"shard {shard.path} {wrong}; run this again: what is missing is made anew")
            self._checked.add(digest)
        return pixels

    def batch(self, digests: Sequence[str]) -> NDArray[np.uint8]:
        """The prepared pixels of several images: uint8 (n, size, size, 3), copied out of the shards."""
        return np.stack([self.image(digest) for digest in digests])

    def _made(self, missing: Sequence[str], read: Callable[[str], bytes]) -> Iterator[int]:
        """Writes shard after shard and gives the number of images done. The next shard is under way while one is written."""

        def one(digest: str) -> tuple[NDArray[np.uint8], int]:
            image = prepare(read(digest), self.recipe)
            return image, zlib.crc32(image.data)

        done = 0
        under_way: deque[tuple[list[str], list[Future[tuple[NDArray[np.uint8], int]]]]] = deque()
        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
            try:
                for chunk in [*_batched(missing, SHARD), []]:
                    under_way.append((chunk, [pool.submit(one, digest) for digest in chunk]))
                    if len(under_way) > 1:
                        ready, images = under_way.popleft()
                        self._write(ready, images)
                        done += len(ready)
                        yield done
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise

    def _write(self, digests: Sequence[str], images: Sequence[Future[tuple[NDArray[np.uint8], int]]]) -> None:
        name = hashlib.sha256("".join(digests).encode()).hexdigest()[:24]
        side, checks = self.recipe.size, []
        target = self.folder / f"{name}.npy"
        with _Temporary(self.folder) as file:
            # Written, not mapped: a full disk is an error here, and would be the death of the process there.
            file.write(_header((len(digests), side, side, 3)))
            for made in images:
                image, check = made.result()
                file.write(image.data)
                checks.append(check)
            file.rename(target)
        try:
            with _Temporary(self.folder) as file:
                file.write(json.dumps({"digests": digests, "crc32": checks}).encode())
                file.rename(target.with_suffix(".json"))
        except OSError:
            target.unlink(missing_ok=True)
            raise

    def _make_folder(self) -> None:
        self.folder.mkdir(parents=True, exist_ok=True)
        clean(self.folder)
        if not (self.folder / RECIPE).exists():
            with _Temporary(self.folder) as file:
                file.write(json.dumps(self.recipe.as_dict()).encode())
                file.rename(self.folder / RECIPE)

    def _refresh(self) -> None:
        for index in indexes(self.folder):
            if index.stem in self._shards:
                continue
            shard = read_index(index, self.recipe.size)
            if shard is None:
                continue
            wrong = shard if isinstance(shard, str) else shard.fault()
            if wrong:
                set_aside(index)
                self._damaged.append(f"{index.with_suffix('.npy')} {wrong}")
            elif isinstance(shard, Shard):
                self._shards.add(index.stem)
                self._places |= {digest: (shard, row) for row, digest in enumerate(shard.digests)}


def indexes(folder: Path) -> list[Path]:
    """The indexes of a recipe's folder, whole or not."""
    return sorted(path for path in folder.glob("*.json") if path.name != RECIPE and not path.name.startswith("."))


def read_index(index: Path, side: int) -> Shard | str | None:
    """The shard that an index describes, or what is wrong with the index; None where it has gone."""
    try:
        record = json.loads(index.read_bytes())
        digests, checks = tuple(map(str, record["digests"])), tuple(map(int, record["crc32"]))
    except FileNotFoundError:
        return None
    except (OSError, ValueError, KeyError, TypeError):
        return "has an index that cannot be read"
    named = hashlib.sha256("".join(digests).encode()).hexdigest()[:24]
    if named != index.stem or len(digests) != len(checks):
        return "has an index that is not its own"
    return Shard(index.with_suffix(".npy"), digests, checks, side)


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


def clean(folder: Path) -> None:
    """Removes what killed runs left in a recipe's folder: files under way that nobody holds, and old pixels without an index."""
    old = time.time() - STALE
    for path in folder.glob(".*"):
        _remove_if_left(path, old)
    for path in folder.glob("*.npy"):
        if not path.with_suffix(".json").exists() and _modified(path) < old:
            path.unlink(missing_ok=True)


def _remove_if_left(path: Path, old: float) -> None:
    try:
        with path.open("rb") as file:
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                return
            except OSError:
                # A file system without locks: only age tells.
                if _modified(path) > old:
                    return
            path.unlink(missing_ok=True)
    except FileNotFoundError:
        return


def _modified(path: Path) -> float:
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
            # Where this fails a cleaner holds it, and it is gone in a moment; or this file system knows no locks.
            with suppress(OSError):
                fcntl.flock(self._file, fcntl.LOCK_EX | fcntl.LOCK_NB)
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


def _header(shape: tuple[int, ...]) -> bytes:
    """NumPy's own file header, so that anyone may `np.load` a shard."""
    text = f"{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}"
    return b"\x93NUMPY\x01\x00\x76\x00" + text.ljust(117).encode() + b"\n"


def _batched(digests: Sequence[str], size: int) -> Iterator[list[str]]:
    return (list(digests[start : start + size]) for start in range(0, len(digests), size))
