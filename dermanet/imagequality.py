"""How good a photograph is: brightness, contrast and detail, measured the same way at intake and for every image that is scored."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SIDE = 256
"""Pixels of the longer side at which an image is looked at, so that what is found holds for every camera."""

BLANK = 10.0
"""Grey levels. The flattest of 1,413 public dermoscopic images spans 35, of 10,015 thumbnails of 28 pixels 19 (docs/results.md)."""

BLURRED = 3.0
"""Detail. The softest of those images has 11.7, of the thumbnails 5.1; blurred over 4 pixels of 600, the median image has 2.7."""


@dataclass(frozen=True, slots=True)
class Quality:
    """How light, how rich in greys and how sharp a photograph is.

    `brightness`: mean luma, 0 to 255. `contrast`: grey levels from the 1st to the 99th percentile. `detail`: variance of the
    Laplacian; it depends on the scale at which an image was decoded: a photograph of 600x450 has two thirds of it at half its size.
    """

    brightness: float
    contrast: float
    detail: float


def measure(pixels: "NDArray[np.uint8]") -> Quality:
    """Measures RGB pixels, uint8 (height, width, 3), of any size."""
    return of_grey(shrunk(pixels))


def shrunk(pixels: "NDArray[np.uint8]") -> Any:
    """The luma of RGB pixels, uint8 (height, width, 3), with the longer side at most 256: uint8 (h, w)."""
    import cv2

    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    scale = SIDE / max(grey.shape)
    if scale >= 1:
        return grey
    # A very long strip keeps two lines.
    size = [max(2, round(side * scale)) for side in grey.shape[::-1]]
    return cv2.resize(grey, size, interpolation=cv2.INTER_AREA)


def of_grey(grey: "NDArray[np.uint8]") -> Quality:
    """The same of luma that is shrunk already, uint8 (h, w)."""
    import cv2
    import numpy as np

    counts = np.cumsum(cv2.calcHist([grey], [0], None, [256], [0, 256]), dtype=np.int64)
    low, high = (_percentile(counts, share) for share in (0.01, 0.99))
    detail = cv2.Laplacian(grey, cv2.CV_32F).var()
    return Quality(float(grey.mean()), high - low, float(detail))


def _percentile(counts: Any, share: float) -> float:
    """What np.percentile gives, from cumulated counts of levels (256,): a tenth of the time of ordering the pixels."""
    last = int(counts[-1]) - 1
    first = int(last * share)
    below, above = counts.searchsorted((first, min(first + 1, last)), side="right")
    return float(below + (above - below) * (last * share - first))
