"""Contact sheets: small pictures of lesions, each with its caption, for pages that people look through."""

import base64
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dermanet.imagefile import decode_reduced

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SIDE = 144
"""Pixels of a tile's longer side: enough to see what kind of picture it is, and 5 kB."""

QUALITY = 80


@dataclass(frozen=True, slots=True)
class Tile:
    """One small picture: what stands below it, and a `data:` address that needs no file beside the page."""

    caption: str
    address: str


def tile(data: bytes, caption: str, side: int = SIDE) -> Tile:
    """The whole image of a JPEG or PNG file, its longer side at most `side` pixels. Raises UnreadableImage."""
    return Tile(caption, f"data:image/jpeg;base64,{base64.b64encode(thumbnail(data, side)).decode()}")


def thumbnail(data: bytes, side: int = SIDE) -> bytes:
    """A JPEG of the whole image, its longer side at most `side` pixels, nothing enlarged. Raises UnreadableImage."""
    import simplejpeg

    pixels = decode_reduced(data, side)[0]
    pixels = fitted(pixels, side) if max(pixels.shape) > side else pixels
    return bytes(simplejpeg.encode_jpeg(pixels, QUALITY, "RGB", "420"))


def fitted(pixels: "NDArray[np.uint8]", side: int) -> "NDArray[np.uint8]":
    """The whole image with its longer side at `side` pixels."""
    import cv2
    import numpy as np

    scale = side / max(pixels.shape[:2])
    height, width = (max(1, round(length * scale)) for length in pixels.shape[:2])
    return np.asarray(cv2.resize(pixels, (width, height), interpolation=cv2.INTER_AREA), np.uint8)
