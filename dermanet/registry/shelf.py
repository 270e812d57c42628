"""Versions on this machine's disk: fetched once, whole or not at all, proved at every use, the last ones kept.

<root>/<name>/        a version's files, and sums.json with the SHA-256 of each
<root>/.<digits>/     one that is being fetched, or that a killed process left
"""

import hashlib
import json
import os
import shutil
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

SUMS = "sums.json"
LEFT_OUT = ".keras"
"""The ending of what only training and `export` want of a model's files: half of what would travel."""

KEPT = 3
"""Versions that stay: the one in use, the one that a rollback goes to, and the one that is being fetched."""

ABANDONED = 3600.0
"""Seconds after which nobody is fetching any more."""

Fetch = Callable[[Path], None]
"""Writes a version's files into an empty folder; raises where they cannot be had."""


@dataclass(frozen=True, slots=True)
class Shelf:
    """Versions of one model. Any number of processes may share one."""

    root: Path

    def get(self, name: str, fetch: Fetch) -> Path:
        """The folder of a version, fetched where there is none or it is damaged."""
        place = self.root / name
        if not _whole(place):
            self.root.mkdir(parents=True, exist_ok=True)
            half = self.root / f".{uuid4().hex}"
            half.mkdir()
            try:
                fetch(half)
                (half / SUMS).write_text(json.dumps(_sums(half)))
                _move(half, place)
            finally:
                shutil.rmtree(half, ignore_errors=True)
        with suppress(OSError):
            os.utime(place)
        self._prune()
        return place

    def find(self, name: str) -> Path | None:
        """The folder of a version, if it is here and whole."""
        place = self.root / name
        return place if _whole(place) else None

    def drop(self, name: str) -> None:
        """Removes a version that proved to be of no use, so that it is fetched anew."""
        shutil.rmtree(self.root / name, ignore_errors=True)

    def idle(self, before: float) -> dict[str, int]:
        """The versions that nobody has used since a moment, and what killed processes left; each with its bytes."""
        if not self.root.is_dir():
            return {}
        folders = {path: path.stat().st_mtime for path in self.root.iterdir() if path.is_dir()}
        halves = time.time() - ABANDONED
        idle = [path for path, used in folders.items() if used < (halves if path.name.startswith(".") else before)]
        return {path.name: _bytes(path) for path in sorted(idle)}

    def _prune(self) -> None:
        """Removes all but the last versions that were used, and what killed processes left."""
        with suppress(OSError):
            folders = sorted((-path.stat().st_mtime, path) for path in self.root.iterdir() if path.is_dir())
            whole = [path for _, path in folders if not path.name.startswith(".")]
            until = time.time() - ABANDONED
            halves = [path for used, path in folders if path.name.startswith(".") and -used < until]
            for path in [*whole[KEPT:], *halves]:
                shutil.rmtree(path, ignore_errors=True)


def _whole(place: Path) -> bool:
    try:
        told = json.loads((place / SUMS).read_text())
        return isinstance(told, dict) and bool(told) and _sums(place) == told
    except (OSError, ValueError):
        return False


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _sums(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.rglob("*") if path.is_file() and path != folder / SUMS)
    return {path.relative_to(folder).as_posix(): hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def _move(half: Path, place: Path) -> None:
    while not _whole(place):
        try:
            return os.rename(half, place)
        except OSError:
            # What is in the way is damaged, or somebody else's, whole by now.
            if not place.exists():
                raise
            if not _whole(place):
                with suppress(FileNotFoundError):
                    os.rename(place, half.with_name(f"{half.name}-damaged"))
                shutil.rmtree(half.with_name(f"{half.name}-damaged"), ignore_errors=True)
