"""Backbones by name: each turns pixels in [0, 1] into one feature vector an image."""

from collections.abc import Callable
from typing import Any

from keras import layers

from dermanet.errors import BadInput

Backbone = Callable[[Any], Any]
"""A Keras tensor (n, side, side, 3) in [0, 1] in, a Keras tensor (n, features) out."""


def plain(pixels: Any) -> Any:
    """DermaNet's kind of network: convolution, batch normalisation, max-pooling, five times over; then the mean over places.

    The mean rather than a flattened map: a lesion may lie anywhere, and 256x256 flattened would be a million weights a unit.
    """
    for width in (16, 32, 64, 96, 128):
        pixels = layers.Conv2D(width, 3, padding="same", use_bias=False)(pixels)
        # Momentum below Keras's 0.99: with some forty steps an epoch, slower statistics would still be those of the start.
        pixels = layers.BatchNormalization(momentum=0.9)(pixels)
        pixels = layers.ReLU()(pixels)
        pixels = layers.MaxPooling2D(2, padding="same")(pixels)
    return layers.GlobalAveragePooling2D()(pixels)


BACKBONES: dict[str, Backbone] = {"plain": plain}


def backbone(name: str) -> Backbone:
    """A backbone by name. Raises BadInput with the names there are."""
    if name not in BACKBONES:
        raise BadInput(f"backbone {name!r}; allowed are {', '.join(BACKBONES)}")
    return BACKBONES[name]
