"""Which revision of the code this is."""

import subprocess
from pathlib import Path

PACKAGE = Path(__file__).parent
CHANGED = "+changes"


def revision(stated: str = "") -> str:
    """The Git revision that this code was checked out from, with `+changes` where it has been changed since.

    `stated`: what to say where there is no checkout, as in an image of a container (`DERMANET_REVISION`).
    """
    found = _git("rev-parse", "HEAD")
    if not found or not _git("ls-files", "--", "revision.py"):
        # No checkout, or another project's that happens to lie around an installed package.
        return stated
    return found[:12] + (CHANGED if _git("status", "--porcelain", "--", ".") else "")


def _git(*words: str) -> str:
    try:
        done = subprocess.run(["git", *words], cwd=PACKAGE, capture_output=True, text=True, timeout=10, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return ""
    return done.stdout.strip() if done.returncode == 0 else ""
