"""Textures: how the channels of a map vary together over its places, as a vector that linear heads can read.

Means over places say how much there is of each pattern; correlations say which patterns lie on one another, as a pigment network
does on its ground: second-order pooling (Lin, RoyChowdhury & Maji, *Bilinear CNN models*, ICCV 2015). There are thousands of them for
one map. A count sketch (Charikar, Chen & Farach-Colton, 2002) keeps the products that linear heads live on in `SKETCH` numbers: each
correlation is added, with a sign of its own, to one of them (*compact* pooling: Gao et al., CVPR 2016).
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dermanet.learning.lite import SKETCH
from dermanet.learning.quiet import ops

LEAST = 1e-4
"""What is added to a channel's variance: a channel that is the same everywhere is to correlate with none, not with noise."""

PRIME = 2**31 - 1
ORDER, SIGNS = (1_103_515_245, 12_345), (214_013, 2_531_011)
"""Of Carter and Wegman's hash functions (1979), `(a i + b) mod PRIME`: which number a correlation is added to, and with which sign.
They are part of what a network is, so they are arithmetic and no random generator's, whose draws may change."""


def sketch(maps: Sequence[Any]) -> Any:
    """Keras tensors (n, height, width, channels) of one image each in; their textures (n, `SKETCH`) out.

    Of each matrix of correlations the half above its diagonal counts: the other half says the same, and the diagonal is 1.
    """
    flat = [ops.reshape(_correlations(one), (-1, one.shape[-1] ** 2)) for one in maps]
    together = ops.concatenate(flat, axis=1) if len(flat) > 1 else flat[0]
    places, signs = scattered([one.shape[-1] for one in maps])
    chosen = ops.multiply(ops.take(together, places, axis=1), signs)
    return ops.sum(ops.reshape(chosen, (-1, len(places) // SKETCH, SKETCH)), axis=1)


def scattered(channels: Sequence[int]) -> tuple[NDArray[np.int32], NDArray[np.float32]]:
    """Where in the flattened matrices of maps with so many `channels` each correlation lies, in the order in which they are dealt out
    in rounds of `SKETCH`, and its sign; the last round is filled up with the sign 0."""
    starts = np.cumsum([0, *(width**2 for width in channels)])
    found = [
        start + row * width + column
        for start, width in zip(starts, channels, strict=False)
        for row, column in [np.triu_indices(width, 1)]
    ]
    places = np.concatenate(found)
    numbers = np.arange(len(places), dtype=np.int64)
    places = places[np.argsort(_hashed(numbers, ORDER), kind="stable")]
    signs = np.where(_hashed(numbers, SIGNS) % 2, 1.0, -1.0)
    missing = -len(places) % SKETCH
    return np.pad(places, (0, missing)).astype(np.int32), np.pad(signs, (0, missing)).astype(np.float32)


def _hashed(numbers: NDArray[np.int64], by: tuple[int, int]) -> NDArray[np.int64]:
    return (by[0] * numbers + by[1]) % PRIME


def _correlations(one: Any) -> Any:
    height, width, channels = one.shape[1:]
    rows = ops.reshape(one, (-1, height * width, channels))
    rows = rows - ops.mean(rows, axis=1, keepdims=True)
    rows = rows / ops.sqrt(ops.mean(ops.square(rows), axis=1, keepdims=True) + LEAST)
    return ops.matmul(ops.transpose(rows, (0, 2, 1)), rows) / (height * width)
