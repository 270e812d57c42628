"""Training images changed at random, as the next photograph of the same lesion might be: turned, framed and lit otherwise."""

import cv2
import numpy as np
from numpy.typing import NDArray

from dermanet.experiment import Experiment
from dermanet.learning import orientations

Images = NDArray[np.uint8]


def augmented(images: Images, experiment: Experiment, rng: np.random.Generator) -> NDArray[np.float32]:
    """`images` (n, side, side, 3) in; the same, changed as the experiment says, values 0..255, out. Depends on `rng` alone."""
    if experiment.turns:
        images = orientations.turned(images, rng)
    if experiment.crops < 1:
        images = cropped(images, experiment.crops, rng)
    changed = images.astype(np.float32)
    return lit(changed, experiment.light, rng) if experiment.light else changed


def cropped(images: Images, least: float, rng: np.random.Generator) -> Images:
    """Of each image a random square, at least `least` of its side, enlarged to the whole."""
    side = images.shape[1]
    shares, places = rng.uniform(least, 1, len(images)), rng.random((len(images), 2))
    found = np.empty_like(images)
    for image, share, place, out in zip(images, shares, places, found, strict=True):
        seen = max(1, round(side * share))
        top, left = (int(at * (side - seen + 1)) for at in place)
        cv2.resize(image[top : top + seen, left : left + seen], (side, side), out, interpolation=cv2.INTER_LINEAR)
    return found


def lit(images: NDArray[np.float32], reach: float, rng: np.random.Generator) -> NDArray[np.float32]:
    """Contrast changed by up to `reach`, brightness by half of it, each colour by a quarter: in place, values kept in 0..255."""
    count = (len(images), 1, 1, 1)
    contrast = 1 + rng.uniform(-reach, reach, count)
    shift = 255 * (rng.uniform(-reach, reach, count) / 2 + rng.uniform(-reach, reach, (len(images), 1, 1, 3)) / 4)
    images *= contrast.astype(np.float32)
    images += (127.5 * (1 - contrast) + shift).astype(np.float32)
    return np.clip(images, 0, 255, out=images)
