"""The orientations of an image inside a network: shown one behind another, their features averaged. See `orientations`."""

from typing import Any

from dermanet.learning.quiet import ops


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
