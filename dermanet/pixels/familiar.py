"""How unlike the images of a training a new one is: colours, texture and their distance from the training side's.

An image is described by 39 figures at 64 x 64 pixels in CIE Lab: levels of each channel, their spreads and correlations, and at four
scales how steep lightness is and whether one direction prevails. None of them changes when the image is mirrored or turned by
quarters: a lesion has no upright. The distance is Hotelling's (1931), of standardised figures. Tried beside it and no better on real
images: a principal subspace of small pictures with its residual (Jackson & Mudholkar, 1979), which lets noise and text pass, and the
nearest neighbours, which would carry a row of every training image into the model (docs/results.md).
"""

import base64
import math
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from dermanet.errors import BadInput
from dermanet.pixels.preprocess import resize

REVISION = 1
"""Raised whenever the code below changes a figure: what was fitted to others would measure something else."""

SIDE, SCALES = 64, 4
FIGURES = 39
LEVELS = (0.02, 0.25, 0.5, 0.75, 0.98)
STEEP = (0.5, 0.9, 0.99)
FAR = 1e4
"""Spreads beyond which a figure counts as this, so that squares stay numbers."""

SKETCH, ODDEST = 8, 20.0
"""Numbers that are kept of an image for monitoring, and how far from 0 any of them may lie."""


@dataclass(frozen=True, slots=True)
class Familiarity:
    """What the images of a training are like. `centre`, `spread` (39,): of the figures. `axes` (39, 39): standardised figures times
    them are uncorrelated, of unit variance on the training side. `limit`: the distance that counts as 1.
    """

    centre: NDArray[np.float32]
    spread: NDArray[np.float32]
    axes: NDArray[np.float32]
    limit: float = 1.0

    def novelty(self, pixels: NDArray[np.uint8]) -> NDArray[np.float64]:
        """Of prepared images, uint8 (n, size, size, 3), by the recipe of the training: (n,), 1 at the limit, beyond it unfamiliar."""
        return self.distance(describe(pixels)) / self.limit

    def distance(self, figures: NDArray[np.float32]) -> NDArray[np.float64]:
        """Of descriptions (n, 39): root mean square of the uncorrelated figures, (n,); about 1 for images of the training side."""
        return np.sqrt(np.square(self.places(figures)).mean(axis=1))

    def places(self, figures: NDArray[np.float32]) -> NDArray[np.float64]:
        """Descriptions (n, 39) as uncorrelated figures, mean 0 and variance 1 on the training side: what varies least there first."""
        return np.clip((figures.astype(float) - self.centre) / self.spread, -FAR, FAR) @ self.axes

    def as_dict(self) -> dict[str, Any]:
        """All of it as plain JSON, the arrays as base64 of little-endian 32-bit numbers."""
        arrays = {name: _text(getattr(self, name)) for name in ("centre", "spread", "axes")}
        return {"revision": REVISION, "limit": self.limit, **arrays}


def sketch(places: NDArray[np.float64]) -> NDArray[np.float64]:
    """What is kept of places (n, 39) for monitoring: along the `SKETCH` directions in which the training side varies most, (n, 8).

    Eight figures of colour and texture; no picture can be made of them.
    """
    return np.clip(np.nan_to_num(places[:, : -SKETCH - 1 : -1]), -ODDEST, ODDEST)


def from_dict(record: dict[str, Any]) -> Familiarity:
    """What `as_dict` recorded. Raises BadInput where this code describes images by other figures."""
    if record.get("revision") != REVISION:
        raise BadInput(f"images were described by revision {record.get('revision')}; this code describes by {REVISION}")
    centre, spread = (_array(record[name]) for name in ("centre", "spread"))
    return Familiarity(centre, spread, _array(record["axes"]).reshape(FIGURES, FIGURES), float(record["limit"]))


def describe(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The figures of prepared images: uint8 (n, size, size, 3) in, (n, 39) out."""
    return np.array([_figures(image) for image in pixels], np.float32).reshape(len(pixels), FIGURES)


def _figures(image: NDArray[np.uint8]) -> NDArray[np.float32]:
    lab = cv2.cvtColor(resize(image, SIDE).astype(np.float32) / 255, cv2.COLOR_RGB2Lab)
    channels = np.ascontiguousarray(lab.reshape(-1, 3).T)
    parts = [_ranked(channels, LEVELS).ravel(), _spreads(channels)]
    lightness, *colours = cv2.split(lab)
    for _ in range(SCALES):
        parts.append(_relief(lightness))
        lightness = cv2.resize(lightness, None, fx=0.5, fy=0.5, interpolation=cv2.INTER_AREA)
    steepness = [np.log(cv2.magnitude(*_slopes(colour)).mean() + 0.05) for colour in colours]
    return np.concatenate([*parts, steepness])


def _ranked(rows: Any, shares: tuple[float, ...]) -> Any:
    """The values (k, len(shares)) below which these shares of each row (k, n) lie."""
    places = [round(share * (rows.shape[1] - 1)) for share in shares]
    return np.sort(rows, axis=1)[:, places]


def _spreads(channels: Any) -> Any:
    """Logarithms of the standard deviations of three channels (3, n), and their correlations: (6,)."""
    centred = channels - channels.mean(axis=1, keepdims=True)
    covariance = centred @ centred.T / channels.shape[1]
    # Half a level is added, so that a channel with next to nothing in it correlates with none.
    deviation = np.sqrt(np.maximum(np.diag(covariance), 0)) + 0.5
    correlation = covariance / np.outer(deviation, deviation)
    return np.concatenate([np.log(deviation), correlation[[0, 0, 1], [1, 2, 2]]])


def _relief(lightness: Any) -> Any:
    """How steep lightness (s, s) is at most in half, nine tenths and 99 of 100 places, logarithms; how much one direction prevails."""
    one, other = _slopes(lightness)
    steep = np.log(_ranked(cv2.magnitude(one, other).reshape(1, -1), STEEP)[0] + 0.1)
    first, second, across = (float(np.vdot(left, right)) for left, right in ((one, one), (other, other), (one, other)))
    return np.append(steep, math.hypot(first - second, 2 * across) / (first + second + 0.01 * one.size))


def _slopes(channel: Any) -> tuple[Any, Any]:
    """Differences along both diagonals of every four neighbours (Roberts, 1963): turning the image only swaps them and their signs."""
    half = channel * np.float32(math.sqrt(0.5))
    return half[1:, 1:] - half[:-1, :-1], half[1:, :-1] - half[:-1, 1:]


def _text(array: NDArray[np.float32]) -> str:
    return base64.b64encode(array.astype("<f4").tobytes()).decode()


def _array(text: str) -> NDArray[np.float32]:
    return np.frombuffer(base64.b64decode(text), "<f4").astype(np.float32)
