"""Removing images from the prepared pixels, of every recipe."""

import json
from collections.abc import Collection
from pathlib import Path


def remove(root: Path, digests: Collection[str]) -> int:
    """Removes every shard that holds one of the images, and returns how many; the others of a shard are prepared again when needed.

    The pixels go before the index that leads to them: killed in between, the next call finds the index and finishes.
    """
    gone = set(digests)
    removed = 0
    for index in sorted(root.glob("*/*.json")):
        if gone.intersection(json.loads(index.read_text())):
            index.with_suffix(".npy").unlink(missing_ok=True)
            index.unlink(missing_ok=True)
            removed += 1
    return removed
