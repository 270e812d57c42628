"""Versions on this machine's disk: fetched beside the one that is served, whole or not at all, and there when the registry is not.

<root>/<version>-<model id>/MLmodel, artifacts/…    a version as it was fetched
<root>/served.json                                  which of them was served last, and what the registry said of it
<root>/bell                                         touched to have every process look at once
"""

import json
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

KEPT = 3
"""Versions that stay: the one that is served, the one that a rollback goes to, and the one that is being fetched."""

PARTIAL = "partial-"


@dataclass(frozen=True, slots=True)
class Shelf:
    """Versions of one model. Any number of processes may share one."""

    root: Path

    def get(self, name: str, fetch: Callable[[Path], None]) -> Path:
        """The folder of a version, filled by `fetch` if it is not there; what a killed process left by halves is not taken for it."""
        folder = self.root / name
        if not self.has(name):
            self.root.mkdir(parents=True, exist_ok=True)
            half = Path(mkdtemp(prefix=PARTIAL, dir=self.root))
            try:
                fetch(half)
                half.chmod(0o755)
                half.rename(folder)
            except OSError:
                # Another process was faster; its folder is as good.
                if not folder.is_dir():
                    raise
            finally:
                shutil.rmtree(half, ignore_errors=True)
        os.utime(folder)
        return folder

    def has(self, name: str) -> bool:
        """Whether a version is here already."""
        return (self.root / name).is_dir()

    def drop(self, name: str) -> None:
        """Removes a version that proved to be broken, so that it is fetched anew."""
        shutil.rmtree(self.root / name, ignore_errors=True)

    def tidy(self) -> None:
        """Removes all but the `KEPT` versions that were used last, and what killed processes left."""
        folders = sorted((one for one in self.root.iterdir() if one.is_dir()), key=_age)
        whole = [one for one in folders if not one.name.startswith(PARTIAL)]
        stale = [one for one in folders if one.name.startswith(PARTIAL) and _age(one) < _now(self.root) - 3600]
        for folder in [*whole[:-KEPT], *stale]:
            shutil.rmtree(folder, ignore_errors=True)

    def remember(self, name: str, about: dict[str, Any]) -> None:
        """Keeps which version is served, for a start without the registry."""
        half = self.root / f"served.json.{os.getpid()}"
        half.write_text(json.dumps({"name": name, "about": about}))
        half.rename(self.root / "served.json")

    def remembered(self) -> tuple[str, dict[str, Any]] | None:
        """What was served last, if it is still here."""
        try:
            record = json.loads((self.root / "served.json").read_text())
            found = str(record["name"]), dict(record["about"])
        except (OSError, ValueError, KeyError, TypeError):
            return None
        return found if self.has(found[0]) else None

    def ring(self) -> None:
        """Has every process that serves from here look at the registry at once."""
        self.root.mkdir(parents=True, exist_ok=True)
        (self.root / "bell").touch()

    def rung(self) -> float:
        """When that was asked for last; 0 if never."""
        try:
            return (self.root / "bell").stat().st_mtime
        except OSError:
            return 0.0


def _age(folder: Path) -> float:
    try:
        return folder.stat().st_mtime
    except OSError:
        return 0.0


def _now(root: Path) -> float:
    """The time by the clock of the file system, whichever machine it is on."""
    (root / "clock").touch()
    return (root / "clock").stat().st_mtime
