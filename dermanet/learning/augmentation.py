"""Training images changed at random, as the next photograph of the same lesion might be: turned, framed and lit otherwise."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from dermanet.experiment import Experiment
from dermanet.learning import orientations

Images = NDArray[np.uint8]

FLIPS = {1: 1, 2: 0, 3: -1}
"""OpenCV's names of: mirrored, upside down, both."""


@dataclass(frozen=True, slots=True)
class Draws:
    """What chance says of a batch of n images: numbers from 0 to 1, one a row but for `place` (n, 2) and `tint` (n, 3)."""

    view: NDArray[np.float64]
    share: NDArray[np.float64]
    place: NDArray[np.float64]
    contrast: NDArray[np.float64]
    brightness: NDArray[np.float64]
    tint: NDArray[np.float64]


def draw(rng: np.random.Generator, count: int, mine: slice = slice(None)) -> Draws:
    """For `count` images; of those, the rows `mine`: what they get does not depend on who else has a share of the batch."""
    one = [rng.random(count)[mine] for _ in range(4)]
    return Draws(one[0], one[1], rng.random((count, 2))[mine], one[2], one[3], rng.random((count, 3))[mine])


def augmented(images: Images, experiment: Experiment, draws: Draws) -> NDArray[np.float32]:
    """`images` (n, side, side, 3) in; the same, changed as the experiment says, values 0..255, out."""
    if experiment.turns:
        images = turned(images, draws)
    if experiment.crops < 1:
        images = cropped(images, experiment.crops, draws)
    return lit(images, experiment.light, draws) if experiment.light else images.astype(np.float32)


def turned(images: Images, draws: Draws) -> Images:
    """Each image in an orientation of its own, all eight equally likely."""
    found = np.empty(images.shape, images.dtype)
    for image, view, out in zip(images, (draws.view * orientations.VIEWS).astype(int), found, strict=True):
        # What `orientations.one_of` shows is in memory as it was: OpenCV turns a whole image in half the time it takes to copy that.
        turned = cv2.transpose(image) if view >= 4 else image
        out[:] = cv2.flip(turned, FLIPS[view % 4]) if view % 4 else turned
    return found


def cropped(images: Images, least: float, draws: Draws) -> Images:
    """Of each image a square, at least `least` of its side, enlarged to the whole."""
    side, found = images.shape[1], np.empty(images.shape, np.uint8)
    for image, share, place, out in zip(images, draws.share, draws.place, found, strict=True):
        seen = max(1, round(side * (least + (1 - least) * share)))
        top, left = (int(at * (side - seen + 1)) for at in place)
        out[:] = cv2.resize(image[top : top + seen, left : left + seen], (side, side), interpolation=cv2.INTER_LINEAR)
    return found


def lit(images: Images, reach: float, draws: Draws) -> NDArray[np.float32]:
    """Contrast changed by up to `reach`, brightness by half of it, each colour by a quarter; values kept in 0..255."""
    contrast = (1 + reach * (2 * draws.contrast - 1))[:, None, None]
    shift = 255 * reach * ((draws.brightness[:, None] - 0.5) + (draws.tint - 0.5) / 2)[:, None, :]
    # A table of what becomes of each of the 256 levels of each colour, (n, 256, 3): a third of the time that arithmetic takes.
    levels = np.arange(256.0)[None, :, None]
    tables = np.clip(contrast * (levels - 127.5) + 127.5 + shift, 0, 255).astype(np.float32)
    found = np.empty(images.shape, np.float32)
    for image, table, out in zip(images, tables, found, strict=True):
        cv2.LUT(image, table[None], dst=out)
    return found
