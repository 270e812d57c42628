"""Prepared pixels, made once: a cache by (image digest, recipe fingerprint), in shards that are mapped, not read.

    <root>/<fingerprint>/<shard>.npy     uint8 (n, size, size, 3)
    <root>/<fingerprint>/<shard>.json    the n image digests, in order; written last, so a shard without it does not exist

A shard is named by its digests. Killed half-way, a run leaves at most one unnamed file, and the next run makes only what is missing.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

import numpy as np
from numpy.typing import NDArray

from dermanet.errors import DermaNetError
from dermanet.pixels.preprocess import Recipe, prepare

SHARD = 256
"""Images in a shard: 50 MB at 256 pixels, so that a killed run loses seconds and a big set stays a few hundred files."""


@dataclass(frozen=True, slots=True)
class Preparation:
    """What one run of `PreparedPixels.fill` did."""

    computed: int
    reused: int


class PreparedPixels:
    """The prepared images of one recipe under one root. Any number of readers and writers may share a root."""

    def __init__(self, root: Path, recipe: Recipe) -> None:
        self.recipe = recipe
        self.folder = root / recipe.fingerprint
        self._places: dict[str, tuple[NDArray[np.uint8], int]] = {}
        self._shards: set[str] = set()
        self._refresh()

    def fill(
        self, digests: Sequence[str], read: Callable[[str], bytes], progress: Callable[[int], None] = lambda done: None
    ) -> Preparation:
        """Makes what is missing of `digests`, reading each image's bytes by its digest; uses every core. Raises UnreadableImage."""
        missing = [digest for digest in dict.fromkeys(digests) if digest not in self._places]
        reused = len(set(digests)) - len(missing)
        progress(reused)
        self.folder.mkdir(parents=True, exist_ok=True)
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            done = reused
            for chunk in _batched(missing, SHARD):
                images = pool.map(lambda digest: prepare(read(digest), self.recipe), chunk)
                self._write(chunk, images)
                done += len(chunk)
                progress(done)
        self._refresh()
        return Preparation(len(missing), reused)

    def __contains__(self, digest: str) -> bool:
        return digest in self._places

    def image(self, digest: str) -> NDArray[np.uint8]:
        """The prepared pixels of one image: uint8 (size, size, 3), a view into the mapped shard. Raises KeyError."""
        shard, row = self._places[digest]
        return shard[row]

    def batch(self, digests: Sequence[str]) -> NDArray[np.uint8]:
        """The prepared pixels of several images: uint8 (n, size, size, 3), copied out of the shards."""
        return np.stack([self.image(digest) for digest in digests])

    def _write(self, digests: Sequence[str], images: Iterator[NDArray[np.uint8]]) -> None:
        name = hashlib.sha256("".join(digests).encode()).hexdigest()[:24]
        side = self.recipe.size
        # The name is unique so that two runs at once cannot write into one file; the rename makes the last one win whole.
        temporary = self.folder / f".{name}.{uuid4().hex}"
        try:
            array = np.lib.format.open_memmap(temporary, "w+", np.uint8, (len(digests), side, side, 3))
            for row, image in enumerate(images):
                array[row] = image
            array.flush()
            os.replace(temporary, self.folder / f"{name}.npy")
            temporary.write_text(json.dumps(digests))
            os.replace(temporary, self.folder / f"{name}.json")
        finally:
            temporary.unlink(missing_ok=True)

    def _refresh(self) -> None:
        for index in sorted(self.folder.glob("*.json")):
            if index.stem in self._shards:
                continue
            digests = json.loads(index.read_text())
            array = self._mapped(index, (len(digests), self.recipe.size, self.recipe.size, 3))
            self._shards.add(index.stem)
            self._places |= {digest: (array, row) for row, digest in enumerate(digests)}

    def _mapped(self, index: Path, shape: tuple[int, ...]) -> NDArray[np.uint8]:
        shard = index.with_suffix(".npy")
        try:
            array = np.load(shard, mmap_mode="r")
        except (OSError, ValueError, EOFError) as error:
            raise DermaNetError(f"shard {shard} cannot be mapped ({error}); delete {index} and prepare again") from None
        if array.shape != shape:
            raise DermaNetError(f"shard {shard} has shape {array.shape}, not {shape}; delete {index} and prepare again")
        return array


def _batched(digests: Sequence[str], size: int) -> Iterator[list[str]]:
    return (list(digests[start : start + size]) for start in range(0, len(digests), size))
