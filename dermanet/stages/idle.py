"""Folders of trainings that nobody goes on with: found by their age, removed under the lock that a training holds."""

import fcntl
import shutil
from contextlib import suppress
from pathlib import Path

LOCK = "lock"


def folders(root: Path, before: float) -> dict[str, int]:
    """The trainings in which nothing was written since a moment, in seconds since 1970, by name; each with its bytes."""
    if not root.is_dir():
        return {}
    found = {path.name: _files(path) for path in sorted(root.iterdir()) if path.is_dir()}
    return {name: sum(files.values()) for name, files in found.items() if _newest(root / name) < before}


def drop(root: Path, name: str, before: float) -> bool:
    """Removes a training's folder, if nobody trains in it and it is still that old; whether it was removed."""
    folder = root / name
    if not folder.is_dir():
        return False
    newest = _newest(folder)
    with suppress(BlockingIOError), (folder / LOCK).open("a") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if newest < before:
            shutil.rmtree(folder)
            return True
    return False


def _files(folder: Path) -> dict[Path, int]:
    return {path: path.stat().st_size for path in folder.rglob("*") if path.is_file()}


def _newest(folder: Path) -> float:
    return max(path.stat().st_mtime for path in (folder, *folder.rglob("*")))
