"""The eight orientations of a square image: a lesion has no upright. Views 0 to 7: as it is, mirrored, upside down, both; and the
same four of the image whose rows and columns have changed places.
"""

from typing import Any

from keras import ops
from numpy.typing import NDArray

VIEWS = 8


def one_of(images: NDArray[Any], view: int) -> NDArray[Any]:
    """`images` (n, side, side, channels) in one orientation, as a view of the same memory."""
    if view >= 4:
        images = images.transpose(0, 2, 1, 3)
    return images[:, :: -1 if view & 2 else 1, :: -1 if view & 1 else 1]


def all_of(images: Any, views: int) -> Any:
    """A Keras tensor (n, side, side, channels) in; its first `views` orientations behind one another, (views * n, …), out."""
    if views == 1:
        return images
    return ops.concatenate([_one_of(images, view) for view in range(views)], axis=0)


def mean_of(features: Any, views: int) -> Any:
    """What `all_of` became, (views * n, d), averaged over the orientations of each image: (n, d)."""
    if views == 1:
        return features
    return ops.mean(ops.reshape(features, (views, -1, features.shape[-1])), axis=0)


def _one_of(images: Any, view: int) -> Any:
    if view >= 4:
        images = ops.transpose(images, (0, 2, 1, 3))
    axes = [axis for bit, axis in ((2, 1), (1, 2)) if view & bit]
    return ops.flip(images, axis=axes) if axes else images
