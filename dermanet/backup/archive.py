"""A folder of backups: each one a folder of its own, whole or not there, that may be copied, checked and removed by itself.

<root>/2026-11-22T050000Z/    a backup: manifest.json, manifest.sha256, databases/, and a folder for each store
<root>/.2026-11-22T…          one under way, or what a killed process left

A file that has not changed since the backup before, by name, size and date, is the same file, under a second name (a hard link): a
backup costs what is new.
"""

import fcntl
import hashlib
import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import IO, Any

from dermanet.errors import BadInput, Changed, DermaNetError, no_space_left
from dermanet.storage import Entry, Folder, Place, inside

MANIFEST, SUM = "manifest.json", "manifest.sha256"
NAMED = re.compile(r"\d{4}-\d\d-\d\dT\d{6}Z")
"""The names of backups: when they were made, in UTC."""

THREADS = 8
"""Files copied at a time."""

RACY = 2.0
"""Seconds before a backup within which a change of a file may not show in its date."""

TRIES = 3
"""How often a file that is replaced while it is copied is begun again."""


@dataclass(frozen=True, slots=True)
class Kept:
    """A file in a backup. `changed`: when its original was, in seconds since 1970."""

    bytes: int
    sha256: str
    changed: float


@dataclass(frozen=True, slots=True)
class Backup:
    """A whole backup. `about`: what its manifest says besides the files."""

    folder: Path
    files: Mapping[str, Kept]
    about: Mapping[str, Any]

    @property
    def name(self) -> str:
        """When it was made."""
        return self.folder.name

    def below(self, store: str) -> dict[str, Kept]:
        """The files of a store, by their names in it."""
        return {
            name.removeprefix(f"{store}/"): kept for name, kept in self.files.items() if name.startswith(f"{store}/")
        }


@dataclass(slots=True)
class Making:
    """A backup under way, in a folder aside."""

    folder: Path
    before: Backup | None
    files: dict[str, Kept] = field(default_factory=dict)
    copied: int = 0
    """Bytes that are new in it."""

    def add(self, name: str, write: Callable[[Path], None]) -> None:
        """Adds a file that `write` makes at a path."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        write(path)
        seen = path.stat()
        self.files[name] = Kept(seen.st_size, _sum(path), seen.st_mtime)
        self.copied += seen.st_size

    def copy(self, store: str, source: Place, chosen: Callable[[str], bool] = lambda name: True) -> None:
        """Adds what lies in a place, under the store's name. What leaves it meanwhile is left out."""
        if isinstance(source, Folder) and not source.root.is_dir():
            return
        found = {name: entry for name, entry in source.survey().items() if chosen(name)}
        with ThreadPoolExecutor(THREADS) as pool:
            kept = pool.map(lambda name: self._one(f"{store}/{name}", name, found[name], source), found)
            for name, one in zip(found, kept, strict=True):
                if one:
                    self.files[f"{store}/{name}"] = one

    def _one(self, target: str, name: str, entry: Entry, source: Place) -> Kept | None:
        path = self.folder / inside(target)
        path.parent.mkdir(parents=True, exist_ok=True)
        if same := self._same(target, entry, path):
            return same
        for _ in range(TRIES):
            try:
                size, digest = _write(path, source.chunks(name))
            except Changed:
                continue
            except FileNotFoundError:
                path.unlink(missing_ok=True)
                return None
            self.copied += size
            return Kept(size, digest, entry.changed)
        raise DermaNetError(f"{source}/{name} is replaced again and again while it is copied; run this again")

    def _same(self, target: str, entry: Entry, path: Path) -> Kept | None:
        """The file of the backup before under a second name, if it is the same by size and date; else None."""
        before = self.before
        same = before.files.get(target) if before else None
        # What changed as it was copied may have changed again within the second that a bucket's dates have.
        if not before or not same or entry.changed > float(before.about.get("at", 0)) - RACY:
            return None
        if (same.bytes, same.changed) == (entry.size, entry.changed):
            with suppress(OSError):
                os.link(before.folder / target, path)
                return same
        return None


@contextmanager
def making(root: Path, name: str) -> Iterator[Making]:
    """A backup under way, which is there whole once `finish` was called, and gone otherwise.

    Raises BadInput where another is being made there, or was within the same second, where nothing can be written, and DermaNetError
    where the disk is full.
    """
    with _begun(root) as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise BadInput(f"another backup is being made in {root}; wait for it") from None
        if (root / name).exists():
            raise BadInput(f"{root / name} was made this very second; run this again in the next")
        for left in root.glob(".*Z"):
            shutil.rmtree(left, ignore_errors=True)
        aside = root / f".{name}"
        aside.mkdir(mode=0o700)
        try:
            yield Making(aside, latest(root))
        except Exception as error:
            if no_space_left(error):
                raise DermaNetError(f"no space left for a backup in {root}; make room and run this again") from error
            raise
        finally:
            shutil.rmtree(aside, ignore_errors=True)


def _begun(root: Path) -> IO[str]:
    """The file that is locked while a backup is made in a folder."""
    try:
        root.mkdir(parents=True, exist_ok=True, mode=0o700)
        return (root / ".lock").open("w")
    except OSError as error:
        if no_space_left(error):
            raise DermaNetError(f"no space left for a backup in {root}; make room and run this again") from error
        raise BadInput(f"no backup can be made in {root}: {error.strerror}; name another folder") from None


def finish(made: Making, about: Mapping[str, Any]) -> Backup:
    """Writes the manifest and gives the backup its name: from then on it is there."""
    record = {**about, "files": {name: asdict(kept) for name, kept in sorted(made.files.items())}}
    text = json.dumps(record, indent=1).encode()
    (made.folder / MANIFEST).write_bytes(text)
    (made.folder / SUM).write_text(f"{hashlib.sha256(text).hexdigest()}  {MANIFEST}\n")
    # What has a name must outlive a power cut; file by file this would take longer than the copying.
    os.sync()
    target = made.folder.with_name(made.folder.name.removeprefix("."))
    os.rename(made.folder, target)
    return Backup(target, dict(made.files), dict(about))


def every(root: Path) -> list[Path]:
    """The folders of whole backups, oldest first."""
    return sorted(path for path in root.iterdir() if NAMED.fullmatch(path.name)) if root.is_dir() else []


def latest(root: Path) -> Backup | None:
    """The last backup whose manifest can be read; None where there is none."""
    for folder in reversed(every(root)):
        with suppress(BadInput):
            return opened(folder)
    return None


def chosen(path: Path) -> Backup:
    """The backup at a path: its own folder's, or the last one in a folder of backups. Raises BadInput where there is none."""
    if (path / MANIFEST).exists():
        return opened(path)
    folders = every(path)
    if not folders:
        raise BadInput(f"there is no backup in {path}; `dermanet backup {path}` makes one")
    return opened(folders[-1])


def opened(folder: Path) -> Backup:
    """A backup by its folder. Raises BadInput where its manifest is damaged or missing."""
    try:
        text = (folder / MANIFEST).read_bytes()
        if hashlib.sha256(text).hexdigest() != (folder / SUM).read_text().split()[0]:
            raise ValueError("it is not what was written")
        record = json.loads(text)
        files = {inside(name): Kept(**kept) for name, kept in record.pop("files").items()}
    except (OSError, ValueError, LookupError, TypeError) as error:
        raise BadInput(f"the manifest of backup {folder} cannot be used: {error}; take another backup") from None
    return Backup(folder, files, record)


def faults(backup: Backup, progress: Callable[[int, int], None] = lambda done, total: None) -> list[str]:
    """Reads every file of a backup and names those that are missing or are not what was written, each with what is wrong."""
    found = []
    with ThreadPoolExecutor(THREADS) as pool:
        looked_at = pool.map(lambda name: _wrong(backup.folder / name, backup.files[name]), backup.files)
        for done, (name, wrong) in enumerate(zip(backup.files, looked_at, strict=True), 1):
            if wrong:
                found.append(f"{name} {wrong}")
            progress(done, len(backup.files))
    return found


def keep(root: Path, count: int) -> list[str]:
    """Removes all backups but the last `count`; the names of those removed."""
    going = every(root)[:-count]
    for folder in going:
        # Out of the way first, so that nobody takes a half one for whole.
        aside = folder.with_name(f".{folder.name}")
        os.rename(folder, aside)
        shutil.rmtree(aside, ignore_errors=True)
    return [folder.name for folder in going]


def put_back(backup: Backup, store: str, target: Place, skipped: Callable[[str], bool] = lambda name: False) -> int:
    """Writes the files of a store into a place, each proved on the way; how many. Raises DermaNetError for one that is damaged."""

    def one(name: str, kept: Kept) -> None:
        data = (backup.folder / store / name).read_bytes()
        if hashlib.sha256(data).hexdigest() != kept.sha256:
            raise DermaNetError(f"{store}/{name} of backup {backup.name} is damaged; take another backup")
        target.write(name, data)

    wanted = {name: kept for name, kept in backup.below(store).items() if not skipped(name)}
    with ThreadPoolExecutor(THREADS) as pool:
        for _ in pool.map(one, wanted.keys(), wanted.values()):
            pass
    return len(wanted)


def _write(path: Path, chunks: Iterator[bytes]) -> tuple[int, str]:
    size, digest = 0, hashlib.sha256()
    with path.open("wb") as file:
        for chunk in chunks:
            file.write(chunk)
            digest.update(chunk)
            size += len(chunk)
    return size, digest.hexdigest()


def _sum(path: Path) -> str:
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _wrong(path: Path, kept: Kept) -> str:
    try:
        size = path.stat().st_size
        if size != kept.bytes:
            return f"has {size:,} bytes instead of {kept.bytes:,}"
        return "" if _sum(path) == kept.sha256 else "holds other bytes than were written"
    except OSError as error:
        return f"cannot be read ({error.strerror})"
