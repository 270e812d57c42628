"""Prepared pixels, made once: a cache by (image digest, recipe fingerprint), `<root>/<fingerprint>/`, in shards (see `shards`)."""

import os
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dermanet.pixels.preprocess import Recipe, prepare, settle
from dermanet.pixels.shards import Preparation, Row, Shards, checksum

Pixels = tuple[NDArray[np.uint8], int]
"""The prepared pixels of one image and their checksum."""


class PreparedPixels:
    """The prepared images of one recipe under one root. Any number of readers and writers may share a root."""

    def __init__(self, root: Path, recipe: Recipe) -> None:
        self.recipe = recipe
        self.shards = Shards(root / recipe.fingerprint, row_of(recipe), recipe.as_dict())

    def fill(
        self, digests: Sequence[str], read: Callable[[str], bytes], progress: Callable[[int], None] = lambda done: None
    ) -> Preparation:
        """Makes what is missing of `digests`, reading each image's bytes by its digest; uses every core this process may use.

        Killed, it goes on from its last whole shard when called again. Raises UnreadableImage, and DermaNetError where the disk
        is full.
        """
        return self.shards.fill(digests, lambda chunks: self._made(chunks, read), progress)

    def missing(self, digests: Iterable[str]) -> list[str]:
        """Those of `digests` that are not prepared yet, each once, in order."""
        return self.shards.missing(digests)

    def __contains__(self, digest: str) -> bool:
        return digest in self.shards

    def image(self, digest: str) -> NDArray[np.uint8]:
        """The prepared pixels of one image: uint8 (size, size, 3), a view into the mapped shard, checked at its first use.

        Raises KeyError, and DermaNetError where the pixels are not those that were written: the shard is then set aside.
        """
        return self.shards.one(digest)

    def batch(self, digests: Sequence[str]) -> NDArray[np.uint8]:
        """The prepared pixels of several images: uint8 (n, size, size, 3), copied out of the shards."""
        return self.shards.batch(digests)

    def _made(
        self, chunks: Iterable[list[str]], read: Callable[[str], bytes]
    ) -> Iterator[tuple[list[str], Iterator[Pixels]]]:
        """Chunk after chunk. The next is under way while one is written."""

        def one(digest: str) -> Pixels:
            image = prepare(read(digest), self.recipe)
            return image, checksum(image)

        settle()
        under_way: deque[tuple[list[str], list[Future[Pixels]]]] = deque()
        with ThreadPoolExecutor(len(os.sched_getaffinity(0))) as pool:
            try:
                for chunk in chain(chunks, [[]]):
                    under_way.append((chunk, [pool.submit(one, digest) for digest in chunk]))
                    if len(under_way) > 1:
                        ready, images = under_way.popleft()
                        yield ready, (image.result() for image in images)
            except BaseException:
                pool.shutdown(wait=False, cancel_futures=True)
                raise


def row_of(recipe: Recipe) -> Row:
    """What a recipe's rows are: uint8 (size, size, 3)."""
    return Row((recipe.size, recipe.size, 3), np.dtype(np.uint8))
