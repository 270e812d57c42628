"""What the processes of a scorer tell one another, and the one that is started next: files in the folder that they share.

<root>/served.json    which version was served last, and what the registry said of it
<root>/bell           touched to have every process look at the registry at once
"""

import json
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any


@dataclass(frozen=True, slots=True)
class Noticeboard:
    """One scorer's, however many processes it has."""

    root: Path

    def remember(self, name: str, about: dict[str, Any], registry: str) -> None:
        """Keeps which version of which registry is served, for a start that gets none. Raises OSError, as where the disk is full."""
        half = self.root / f"served.json.{os.getpid()}"
        try:
            half.write_text(json.dumps({"name": name, "about": about, "registry": registry}))
            half.rename(self.root / "served.json")
        finally:
            half.unlink(missing_ok=True)

    def remembered(self, registry: str) -> tuple[str, dict[str, Any]] | None:
        """What was served last, unless it was another registry's."""
        try:
            record = json.loads((self.root / "served.json").read_text())
            # Earlier checkouts did not say whose it was.
            ours = record.get("registry", registry) == registry
            return (str(record["name"]), dict(record["about"])) if ours else None
        except (OSError, ValueError, KeyError, TypeError, AttributeError):
            return None

    def ring(self) -> None:
        """Has every process look at the registry at once."""
        self.root.mkdir(parents=True, exist_ok=True)
        (self.root / "bell").touch()

    def rung(self) -> float:
        """When that was asked for last; 0 if never."""
        try:
            return (self.root / "bell").stat().st_mtime
        except OSError:
            return 0.0
