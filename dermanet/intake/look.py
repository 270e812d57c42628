"""What an image looks like, measured once on the way in: brightness, contrast, detail, a thumbnail and its perceptual hash."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from dermanet import imagequality
from dermanet.intake.skintone import typology_angle

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

THUMBNAIL = 64
"""Pixels of each side of the thumbnail, whatever the image's shape: enough to tell two photographs of one lesion apart."""

HASH_SIDE = 16
"""The perceptual hash keeps 16 x 16 bits: of dermoscopic images, with a spot in the middle each, 64 bits tell too few apart."""


@dataclass(frozen=True, slots=True)
class Look:
    """What pixels look like.

    `brightness`, `contrast`, `detail`: as in `imagequality`. `phash`: 256 bits of the thumbnail's discrete cosine transform,
    hexadecimal.
    `thumbnail`: 64 x 64 grey levels, row by row. `ita`: the individual typology angle of the skin in degrees, where skin is seen.
    """

    brightness: float
    contrast: float
    detail: float
    phash: str
    thumbnail: bytes
    ita: float | None = None


def look(pixels: "NDArray[np.uint8]") -> Look:
    """Looks at RGB pixels, uint8 (height, width, 3)."""
    import cv2

    grey = imagequality.shrunk(pixels)
    seen, tone = imagequality.of_grey(grey), typology_angle(pixels)
    small = cv2.resize(grey, (THUMBNAIL, THUMBNAIL), interpolation=cv2.INTER_AREA)
    return Look(seen.brightness, seen.contrast, seen.detail, perceptual_hash(small), small.tobytes(), tone)


def perceptual_hash(thumbnail: "NDArray[np.uint8]") -> str:
    """The signs of a thumbnail's lowest frequencies against their median (imagehash's pHash), 64 hexadecimal digits."""
    import imagehash
    from PIL import Image

    return str(imagehash.phash(Image.fromarray(thumbnail), hash_size=HASH_SIDE))
