"""Training images changed at random, as the next photograph of the same lesion might be: turned, framed and lit otherwise."""

from dataclasses import dataclass

import cv2
import numpy as np
from numpy.typing import NDArray

from dermanet.experiment import Experiment
from dermanet.learning import orientations

Images = NDArray[np.uint8]


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
    changed = images.astype(np.float32)
    return lit(changed, experiment.light, draws) if experiment.light else changed


def turned(images: Images, draws: Draws) -> Images:
    """Each image in an orientation of its own, all eight equally likely."""
    found = np.empty(images.shape, images.dtype)
    for place, view in enumerate((draws.view * orientations.VIEWS).astype(int)):
        found[place] = orientations.one_of(images[place : place + 1], view)[0]
    return found


def cropped(images: Images, least: float, draws: Draws) -> Images:
    """Of each image a square, at least `least` of its side, enlarged to the whole."""
    side, found = images.shape[1], np.empty(images.shape, np.uint8)
    for image, share, place, out in zip(images, draws.share, draws.place, found, strict=True):
        seen = max(1, round(side * (least + (1 - least) * share)))
        top, left = (int(at * (side - seen + 1)) for at in place)
        out[:] = cv2.resize(image[top : top + seen, left : left + seen], (side, side), interpolation=cv2.INTER_LINEAR)
    return found


def lit(images: NDArray[np.float32], reach: float, draws: Draws) -> NDArray[np.float32]:
    """Contrast changed by up to `reach`, brightness by half of it, each colour by a quarter: in place, values kept in 0..255."""
    contrast = 1 + reach * (2 * draws.contrast - 1)
    shift = 255 * reach * ((draws.brightness[:, None] - 0.5) + (draws.tint - 0.5) / 2)
    images *= contrast[:, None, None, None].astype(np.float32)
    images += (127.5 * (1 - contrast)[:, None] + shift)[:, None, None, :].astype(np.float32)
    return np.clip(images, 0, 255, out=images)
