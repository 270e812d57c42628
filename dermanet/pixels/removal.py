"""Removing images from a cache of shards: prepared pixels of every recipe, features of every backbone."""

import json
from collections.abc import Collection
from pathlib import Path

from dermanet.pixels.shards import ABOUT, clean, folders


def remove(root: Path, digests: Collection[str]) -> int:
    """Removes every shard that holds one of the images, and returns how many; the others of a shard are made again when needed.

    What killed runs left goes whatever its age, as nobody can tell whose rows it holds. Of what is being written now the writer itself
    takes them away: it looks at the tombstones once it has written.

    The rows go before the index that leads to them: killed in between, the next call finds the index and finishes. An index
    that cannot be read goes too: what it leads to may be one of the images.
    """
    gone = set(digests)
    removed = 0
    for index in sorted(root.glob("*/*.json")):
        if index.name != ABOUT and _may_hold(index, gone):
            index.with_suffix(".npy").unlink(missing_ok=True)
            index.unlink(missing_ok=True)
            removed += 1
    for folder in folders(root):
        clean(folder, stale=0.0)
    return removed


def _may_hold(index: Path, digests: set[str]) -> bool:
    try:
        return bool(digests.intersection(json.loads(index.read_bytes())["digests"]))
    except (ValueError, LookupError, TypeError, RecursionError):
        return True
