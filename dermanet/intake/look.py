"""What an image looks like, measured once on the way in: brightness, contrast, detail, a thumbnail and its perceptual hash."""

from dataclasses import dataclass
from typing import TYPE_CHECKING

from dermanet.intake.skintone import typology_angle

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SIDE = 256
"""Pixels of the longer side at which an image is looked at, so that what is found holds for every camera."""

THUMBNAIL = 64
"""Pixels of each side of the thumbnail, whatever the image's shape: enough to tell two photographs of one lesion apart."""

HASH_SIDE = 16
"""The perceptual hash keeps 16 x 16 bits: of dermoscopic images, with a spot in the middle each, 64 bits tell too few apart."""


@dataclass(frozen=True, slots=True)
class Look:
    """What pixels look like.

    `brightness`: mean luma, 0 to 255. `contrast`: grey levels from the 1st to the 99th percentile. `detail`: variance of the
    Laplacian. `phash`: 256 bits of the thumbnail's discrete cosine transform, hexadecimal.
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
    import numpy as np

    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    scale = SIDE / max(grey.shape)
    if scale < 1:
        # A very long strip keeps two lines.
        size = [max(2, round(side * scale)) for side in grey.shape[::-1]]
        grey = cv2.resize(grey, size, interpolation=cv2.INTER_AREA)
    tone = typology_angle(pixels)
    low, high = np.percentile(grey, (1, 99))
    detail = cv2.Laplacian(grey, cv2.CV_32F).var()
    small = cv2.resize(grey, (THUMBNAIL, THUMBNAIL), interpolation=cv2.INTER_AREA)
    return Look(float(grey.mean()), float(high - low), float(detail), perceptual_hash(small), small.tobytes(), tone)


def perceptual_hash(thumbnail: "NDArray[np.uint8]") -> str:
    """The signs of a thumbnail's lowest frequencies against their median (imagehash's pHash), 64 hexadecimal digits."""
    import imagehash
    from PIL import Image

    return str(imagehash.phash(Image.fromarray(thumbnail), hash_size=HASH_SIDE))
