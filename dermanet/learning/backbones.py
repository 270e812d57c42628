"""Backbones, built: what turns prepared pixels into a vector of features. Their names: `parts`."""

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dermanet.learning import efficientnet_lite, lite, ready_made
from dermanet.learning.parts import PLAIN, Part
from dermanet.learning.quiet import keras, layers

TO_SIDE = ("rows_to_side", "columns_to_side")
"""The two layers that bring an image to the side a part is fed."""


def network(part: Part, side: int, *, pretrained: bool = True, taps: bool = False) -> keras.Model:
    """One network: prepared pixels (n, side, side, 3), values 0..255, in; features (n, d) out.

    `taps`: the means of earlier stages' maps are features too, where the network names its stages (EfficientNet-Lite): finer
    structure than the last map keeps. Raises DermaNetError where its weights cannot be had.
    """
    image = keras.Input((side, side, 3), name="pixels")
    pixels = _middle(image, part, side)
    if part.name == PLAIN:
        features = plain(layers.Rescaling(1 / 255, name="to_unit_range")(pixels))
    elif part.name in lite.VARIANTS:
        features = efficientnet_lite.features(pixels, lite.VARIANTS[part.name], taps, part.textures)
    else:
        features = ready_made.features(part.name, pixels, pretrained)
    model = keras.Model(image, features, name=part.layer)
    _fill_sides(model, part, side)
    if pretrained and part.name in lite.VARIANTS:
        efficientnet_lite.load_weights(model, lite.VARIANTS[part.name])
    return model


def _middle(image: Any, part: Part, side: int) -> Any:
    seen = round(side / part.zoom)
    before = (side - seen) // 2
    if seen < side:
        margin = (before, side - seen - before)
        image = layers.Cropping2D((margin, margin), name="middle")(image)
    if part.side and part.side != seen:
        for name, equation, shape in (
            (TO_SIDE[0], "bhwc,hs->bswc", (part.side, seen, 3)), (TO_SIDE[1], "bhwc,ws->bhsc", (part.side, part.side, 3)),
        ):  # fmt: skip
            image = layers.EinsumDense(equation, shape, name=name, trainable=False)(image)
    return image


def _fill_sides(model: keras.Model, part: Part, side: int) -> None:
    for layer in model.layers:
        if layer.name in TO_SIDE:
            layer.set_weights([interpolation(round(side / part.zoom), part.side)])


def interpolation(seen: int, side: int) -> NDArray[np.float32]:
    """What each of `side` pixels takes of `seen` along one axis, (seen, side): linear, and averaged where there are fewer.

    As Pillow's `BILINEAR`. Two matrix products: TensorFlow's own resizing neither averages nor comes out of its conversion to
    ONNX as it went in, where a convolution follows.
    """
    step = seen / side
    reach = max(step, 1.0)
    centres = (np.arange(side) + 0.5) * step - 0.5
    weights = np.maximum(0, 1 - np.abs(np.arange(seen)[:, None] - centres) / reach)
    return (weights / weights.sum(axis=0)).astype(np.float32)


def plain(pixels: Any) -> Any:
    """DermaNet's kind of network: convolution, batch normalisation, max-pooling, five times over; then the mean over places.

    A Keras tensor (n, side, side, 3) in [0, 1] in, (n, 128) out. The mean rather than a flattened map: a lesion may lie
    anywhere, and 256x256 flattened would be a million weights a unit.
    """
    for width in (16, 32, 64, 96, 128):
        pixels = layers.Conv2D(width, 3, padding="same", use_bias=False)(pixels)
        # Momentum below Keras's 0.99: with some forty steps an epoch, slower statistics would still be those of the start.
        pixels = layers.BatchNormalization(momentum=0.9)(pixels)
        pixels = layers.ReLU()(pixels)
        pixels = layers.MaxPooling2D(2, padding="same")(pixels)
    return layers.GlobalAveragePooling2D()(pixels)
