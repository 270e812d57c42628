"""The eight orientations of a square image: a lesion has no upright. Views 0 to 7: as it is, mirrored, upside down, both; and the
same four of the image whose rows and columns have changed places.
"""

from typing import Any

from numpy.typing import NDArray

VIEWS = 8


def one_of(images: NDArray[Any], view: int) -> NDArray[Any]:
    """`images` (n, side, side, channels) in one orientation, as a view of the same memory."""
    if view >= 4:
        images = images.transpose(0, 2, 1, 3)
    return images[:, :: -1 if view & 2 else 1, :: -1 if view & 1 else 1]
