"""From the bytes of an image to the pixels a network sees: one pure function, and recipes with fingerprints.

The chain is DermaNet's (Gaussian blur, CLAHE, 256x256), with two changes: blur and CLAHE work on the luminance alone, so that the
colour a diagnosis needs is kept; and the image is decoded at a reduced scale and resized first, which is four times as fast
(`docs/results.md` shows what differs). Pixels leave here as bytes 0..255; the model's own graph scales them to [0, 1].
"""

import hashlib
import json
import math
import re
from dataclasses import asdict, dataclass, replace
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from dermanet import imagefile
from dermanet.errors import BadInput

REVISION = 2
"""Raised whenever the code below changes a pixel of any recipe: it is part of every fingerprint."""


@dataclass(frozen=True, slots=True)
class Recipe:
    """How an image is prepared. Every field is part of the fingerprint."""

    name: str
    size: int = 256
    """The side of the prepared square."""
    order: str = "resize luma blur equalize"
    """The steps, in order. After `luma` they work on the luminance alone, and the colour is put back at the end; after `grey` it is
    gone."""
    room: int = 256
    """The side to which `resize` goes where `size` is smaller; the rest of the way is averaged at the end. OpenCV's CLAHE needs
    it: tiles of a few hundred pixels come out far brighter, since what is clipped goes to the darkest bins first."""
    reach: float = 0.875
    """An image is decoded as small as keeps both sides at least `reach` times that side; 0: at full size.

    At 7/8 a photograph of 600x450 is decoded to 300x225 for a square of 256: what that loses is finer than the blur leaves.
    """
    sampling: str = "area"
    """How `resize` shrinks: `area` averages, so that no hair aliases; `linear` is OpenCV's default, as the original had it."""
    blur: int = 5
    """Side of the Gaussian kernel in pixels of the whole image, 0 for none; narrowed by as much as the image has been reduced."""
    clip: float = 2.0
    """CLAHE's limit, 0 for none."""
    tiles: int = 8
    """CLAHE's tiles along each side."""

    @property
    def working_size(self) -> int:
        """The side that `resize` makes."""
        return max(self.size, self.room)

    @property
    def fingerprint(self) -> str:
        """Names the pixels this recipe makes: equal fingerprints, equal pixels. 16 hexadecimal digits."""
        return hashlib.sha256(json.dumps(self.as_dict(), sort_keys=True).encode()).hexdigest()[:16]

    def as_dict(self) -> dict[str, Any]:
        """The recipe and the revision of the code as plain JSON, as every model version records them."""
        return {**asdict(self), "revision": REVISION}


RECIPES = {
    recipe.name: recipe
    for recipe in (
        Recipe("dermanet"),
        Recipe("grey", order="grey blur equalize resize", room=0, reach=0, sampling="linear"),
        Recipe("plain", order="resize", room=0, reach=0, blur=0, clip=0.0),
        Recipe("square", order="centre resize", room=0, reach=0.875, blur=0, clip=0.0),
    )
}


def recipe(text: str) -> Recipe:
    """A recipe by name, at another side length if asked: `dermanet`, `dermanet@64`. Raises BadInput."""
    match = re.fullmatch(r"(\w+)(?:@(\d{1,4}))?", text)
    if not match or match[1] not in RECIPES:
        raise BadInput(
            f"recipe {text!r}; allowed are {', '.join(RECIPES)}, each with @SIZE for another side, as in dermanet@64"
        )
    size = int(match[2] or RECIPES[match[1]].size)
    if not 16 <= size <= 1024:
        raise BadInput(f"recipe {text!r}: a side of {size} pixels; allowed are 16 to 1024")
    return replace(RECIPES[match[1]], size=size)


def from_dict(record: dict[str, Any]) -> Recipe:
    """The recipe that `as_dict` recorded. Raises BadInput where this code's pixels would differ from the recorded ones."""
    fields = {key: value for key, value in record.items() if key != "revision"}
    if record.get("revision") != REVISION:
        raise BadInput(
            f"recipe {record.get('name')!r} has revision {record.get('revision')}; this code makes revision {REVISION}"
        )
    return Recipe(**fields)


def settle() -> None:
    """Readies this process for preparing many images side by side; for who fills every core with images, and not on import."""
    # One image is one core's work. OpenCV's own threads would only take cores from other images: at 256 pixels the pieces are too
    # small to be worth handing out, and in a pool of threads there would be as many squared.
    cv2.setNumThreads(1)
    # glibc maps a block above 128 kB anew each time, page fault by page fault, until it has seen a larger one freed; so it shall
    # see one that is larger than a decoded photograph. Without, an image may take a third longer.
    del [np.empty(4 << 20, np.uint8)][:]


def prepare(data: bytes, recipe: Recipe) -> NDArray[np.uint8]:
    """The prepared pixels of one JPEG or PNG: RGB, uint8, (size, size, 3). Raises UnreadableImage."""
    return apply(*decoded(data, recipe), recipe)


def decoded(data: bytes, recipe: Recipe) -> tuple[NDArray[np.uint8], int]:
    """The pixels of one JPEG or PNG at the scale from which the recipe begins, RGB, and how many times smaller they are.

    Raises UnreadableImage.
    """
    return imagefile.decode_reduced(data, math.ceil(recipe.reach * recipe.working_size))


def apply(image: NDArray[np.uint8], factor: int, recipe: Recipe) -> NDArray[np.uint8]:
    """The recipe on decoded pixels: uint8 RGB of any size in, decoded `factor` times smaller; uint8 RGB (size, size, 3) out."""
    height, width = (side * factor for side in image.shape[:2])
    colour = luma = None
    for step in recipe.order.split():
        if step == "grey":
            image = luminance(image)
        elif step == "centre":
            image = centre(image)
        elif step == "luma":
            colour, image = image, luminance(image)
            luma = image
        elif step == "blur" and recipe.blur:
            image = blur(image, recipe.blur, width / image.shape[1], height / image.shape[0])
        elif step == "equalize" and recipe.clip:
            image = equalize(image, recipe.clip, recipe.tiles)
        elif step == "resize":
            image = resize(image, recipe.working_size, recipe.sampling)
    if colour is not None and luma is not None:
        image = relit(colour, luma, image)
    elif image.ndim == 2:
        image = _three_channels(image)
    return image if len(image) == recipe.size else resize(image, recipe.size)


def centre(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The square in the middle, as wide as the shorter side: what `resize` makes of it keeps its shape."""
    side = min(image.shape[:2])
    top, left = ((length - side) // 2 for length in image.shape[:2])
    return image[top : top + side, left : left + side]


def luminance(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The luma of RGB, uint8 (height, width): 0.299 red, 0.587 green, 0.114 blue."""
    return np.asarray(cv2.cvtColor(image, cv2.COLOR_RGB2GRAY), np.uint8)


def blur(image: NDArray[np.uint8], side: int, across: float = 1.0, down: float = 1.0) -> NDArray[np.uint8]:
    """Gaussian blur of an image reduced `across` and `down` times, as a kernel of `side` x `side` would blur the whole image.

    The sigma is the one that OpenCV derives from the side, divided by the reduction. Where that is less than a quarter of a
    pixel nothing is left to blur.
    """
    if across == down == 1:
        return np.asarray(cv2.GaussianBlur(image, (side, side), 0), np.uint8)
    sigma = 0.3 * ((side - 1) * 0.5 - 1) + 0.8
    kernel = (2 * round(2 * sigma / across) + 1, 2 * round(2 * sigma / down) + 1)
    return (
        image if kernel == (1, 1) else np.asarray(cv2.GaussianBlur(image, kernel, sigma / across, None, sigma / down))
    )


def equalize(luma: NDArray[np.uint8], clip: float, tiles: int) -> NDArray[np.uint8]:
    """Contrast-limited adaptive histogram equalization (Zuiderveld, Graphics Gems IV, 1994) of uint8 (height, width)."""
    return np.asarray(cv2.createCLAHE(clipLimit=clip, tileGridSize=(tiles, tiles)).apply(luma), np.uint8)


def relit(colour: NDArray[np.uint8], luma: NDArray[np.uint8], wanted: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The colour image with the luma `wanted` in place of its own: all three channels raised or lowered by the difference.

    That is what a way to YCrCb and back does, to within 3 of 255: its roundings are left out, and four fifths of its time.
    """
    raised = cv2.add(colour, _three_channels(cv2.subtract(wanted, luma)))
    return np.asarray(cv2.subtract(raised, _three_channels(cv2.subtract(luma, wanted))), np.uint8)


def resize(image: NDArray[np.uint8], size: int, sampling: str = "area") -> NDArray[np.uint8]:
    """To `size` x `size`: averaged over areas where both sides shrink, unless `sampling` is `linear`; linear where one grows."""
    averaged = sampling == "area" and min(image.shape[:2]) >= size
    return np.asarray(
        cv2.resize(image, (size, size), interpolation=cv2.INTER_AREA if averaged else cv2.INTER_LINEAR), np.uint8
    )


def _three_channels(grey: Any) -> NDArray[np.uint8]:
    return np.asarray(cv2.cvtColor(grey, cv2.COLOR_GRAY2RGB), np.uint8)
