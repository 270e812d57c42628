"""Where a network looks: each place of an image is covered in turn, and what that takes from the diagnosis is that place's weight.

That is occlusion (Zeiler & Fergus, ECCV 2014). It asks for nothing but answers, so it is the same for every graph, and its unit
means something: points of probability. Places are covered with the colour of the skin around, softly: no edge comes in by covering.
"""

import base64
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from dermanet.serving.reader import Reader

COARSE, FINE = 6, 10
"""Places along each side. The network's graph alone decides which, so that an image has the same map whenever it is asked for."""

MOST = 4_000_000_000
"""Multiply-adds of one answer for a fine map: with as many it takes some three seconds on two cores. `probe` makes 2.6 billion."""

REACH = 0.18
"""How far a place is covered around its middle, as a share of the side. It is the same however fine the grid is, so that a large
network shows the same places, and more than a step of the coarsest grid, so that nothing falls between two."""

AT_ONCE = 128 * 1024
"""Pixels of one batch. What ONNX Runtime needs for a batch it keeps for ever, in every thread's share."""

FLOOR = 0.02
"""A probability that falls by less is not drawn in full colour: noise would look like a finding."""

STRONGEST = 0.9
"""Opacity of the overlay where most depends on a place."""

Probability = Callable[[NDArray[np.uint8]], NDArray[np.floating[Any]]]
"""Prepared images (n, size, size, 3) in, the probability of one diagnosis (n,) out."""
Runner = Callable[[Callable[[Sequence[int]], Any], Sequence[Sequence[int]]], Iterable[Any]]


@dataclass(frozen=True, slots=True)
class Saliency:
    """`heat` (g, g): 0 where nothing depends on a place, 1 where most does. `fall`: by how much the probability fell there."""

    heat: NDArray[np.float32]
    fall: float


def occlude(
    probability: Probability, pixels: NDArray[np.uint8], grid: int, batch: int = 16, run: Runner = map
) -> Saliency:
    """The map of one prepared image, uint8 (size, size, 3), on `grid` x `grid` places. `run`: `map`, or that of a pool."""
    whole = float(probability(pixels[None])[0])
    covers, skin = _covers(len(pixels), grid), _surroundings(pixels)

    def left(places: Sequence[int]) -> NDArray[np.floating[Any]]:
        return probability(np.stack([_covered(pixels, skin, covers, *divmod(place, grid)) for place in places]))

    batches = [range(start, min(start + batch, grid * grid)) for start in range(0, grid * grid, batch)]
    falls = whole - np.concatenate(list(run(left, batches))).reshape(grid, grid)
    fall = max(0.0, float(falls.max()))
    return Saliency(np.clip(falls / max(fall, FLOOR), 0, 1).astype(np.float32), fall)


def fineness(multiply_adds: int) -> int:
    """Places along each side, for a network whose answer to one image takes so many."""
    return FINE if multiply_adds <= MOST else COARSE


def overlay(heat: NDArray[np.float32], size: int) -> NDArray[np.uint8]:
    """The map as a picture to lay over the image: RGBA (size, size, 4), viridis, which colour-blind people tell apart as well.

    The less depends on a place, the more transparent it is.
    """
    smooth = np.clip(cv2.resize(heat, (size, size), interpolation=cv2.INTER_CUBIC), 0, 1)
    colours = cv2.cvtColor(cv2.applyColorMap((255 * smooth).astype(np.uint8), cv2.COLORMAP_VIRIDIS), cv2.COLOR_BGR2RGB)
    return np.dstack([colours, (255 * STRONGEST * smooth).round()]).astype(np.uint8)


def explain(reader: Reader, data: bytes, wanted: Callable[[], bool] = lambda: True) -> dict[str, Any]:
    """What is told of one JPEG or PNG: the image as the network sees it and the map, or the `error` that its row has.

    Raises TimeoutError once it is no longer `wanted`.
    """
    row = reader.read(data).row
    if row["error"]:
        return dict.fromkeys(("seen", "saliency", "diagnosis", "probability", "fall", "grid")) | {"error": row["error"]}
    pixels, network = reader.prepared(data), reader.network
    which = network.diagnoses.index(row["diagnosis"])

    def probability(images: NDArray[np.uint8]) -> NDArray[np.float32]:
        return network.answer(images).diagnosis[:, which]

    grid = fineness(network.multiply_adds)
    found = occlude(probability, pixels, grid, _batch(len(pixels)), partial(reader.side_by_side, wanted=wanted))
    return {
        "seen": _picture(pixels), "saliency": _picture(overlay(found.heat, len(pixels))), "diagnosis": row["diagnosis"],
        "probability": row["diagnosis_probabilities"][row["diagnosis"]], "fall": found.fall, "grid": grid, "error": None,
    }  # fmt: skip


def _covers(size: int, grid: int) -> NDArray[np.float32]:
    """How much of each pixel along a side is covered at each of `grid` places, 0 to 1: (grid, size)."""
    middles = (np.arange(grid) + 0.5) * size / grid
    away = np.abs(np.arange(size) + 0.5 - middles[:, None]) / (size * REACH)
    return np.where(away < 1, 0.5 + 0.5 * np.cos(np.pi * away), 0).astype(np.float32)


def _surroundings(pixels: NDArray[np.uint8]) -> NDArray[np.float32]:
    """The colour of what lies around: the median of the outermost sixteenth."""
    rim = max(1, len(pixels) // 16)
    inside = np.zeros(pixels.shape[:2], bool)
    inside[rim:-rim, rim:-rim] = True
    return np.median(pixels[~inside], axis=0).astype(np.float32)


def _covered(
    pixels: NDArray[np.uint8], skin: NDArray[np.float32], covers: NDArray[np.float32], row: int, column: int
) -> NDArray[np.uint8]:
    share = np.outer(covers[row], covers[column])[..., None]
    return np.asarray(np.rint(pixels + share * (skin - pixels)), np.uint8)


def _batch(size: int) -> int:
    return max(1, AT_ONCE // size**2)


def _picture(pixels: NDArray[np.uint8]) -> str:
    """A PNG as a data URI, of RGB or RGBA."""
    turned = cv2.cvtColor(pixels, cv2.COLOR_RGBA2BGRA if pixels.shape[2] == 4 else cv2.COLOR_RGB2BGR)
    return "data:image/png;base64," + base64.b64encode(cv2.imencode(".png", turned)[1].tobytes()).decode()
