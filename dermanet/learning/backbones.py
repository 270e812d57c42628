"""Backbones by name: what turns prepared pixels into a vector of features.

plain                            the reference network, trained from nothing
efficientnet-lite0               also lite1 and lite2, with ImageNet weights from their packages
MobileNetV2, EfficientNetB0, …   any name of keras.applications; its weights are downloaded at the first use
efficientnet-lite0@224           fed 224 pixels, whatever the side of the prepared image
efficientnet-lite0@224x1.5       fed the middle of the image, magnified 1.5 times
A+B                              both, their features side by side
"""

import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np
from keras import layers
from numpy.typing import NDArray

from dermanet.errors import BadInput, DermaNetError
from dermanet.learning import efficientnet_lite

PLAIN = "plain"
TO_SIDE = ("rows_to_side", "columns_to_side")
"""The two layers that bring an image to the side a part is fed."""

PATTERN = re.compile(r"(?P<name>[A-Za-z][\w-]*?)(?:@(?P<side>\d{2,4})(?:x(?P<zoom>\d(?:\.\d+)?))?)?")


@dataclass(frozen=True, slots=True)
class Part:
    """One network among those whose features stand side by side."""

    name: str
    side: int = 0
    """Pixels it is fed along each side; 0: those of the prepared image."""
    zoom: float = 1.0
    """How many times the middle of the image is magnified; 1: the whole image."""

    def __str__(self) -> str:
        zoom = f"x{self.zoom:g}" if self.zoom != 1 else ""
        return self.name + (f"@{self.side}{zoom}" if self.side else "")

    @property
    def layer(self) -> str:
        """What the network is called inside a model that holds it: no slash, no space."""
        return re.sub(r"[^\w.-]", "_", str(self))


def parts(text: str) -> tuple[Part, ...]:
    """The networks of a backbone's name. Raises BadInput for a name there is not, or a side or zoom out of range."""
    found = tuple(_part(one) for one in text.split("+"))
    if len(set(found)) < len(found):
        raise BadInput(f"backbone {text!r}; each of its parts is allowed once")
    return found


def _part(text: str) -> Part:
    found = PATTERN.fullmatch(text)
    name = found["name"] if found else ""
    if not found or not (name == PLAIN or name in efficientnet_lite.VARIANTS or name in applications()):
        raise BadInput(
            f"backbone {text!r}; allowed are {', '.join((PLAIN, *efficientnet_lite.VARIANTS))} and the names of "
            "keras.applications, as MobileNetV2, each with @SIDE or @SIDExZOOM, joined by +"
        )
    part = Part(name, int(found["side"] or 0), float(found["zoom"] or 1))
    if (part.side and not 32 <= part.side <= 1024) or not 1 <= part.zoom <= 4:
        raise BadInput(f"backbone {text!r}; allowed are 32 to 1024 pixels and a zoom of 1 to 4")
    return part


def applications() -> dict[str, Callable[..., keras.Model]]:
    """The networks of keras.applications by name."""
    return {
        name: make for name, make in inspect.getmembers(keras.applications, inspect.isfunction) if name[0].isupper()
    }


def network(part: Part, side: int, *, pretrained: bool = True, taps: bool = False) -> keras.Model:
    """One network: prepared pixels (n, side, side, 3), values 0..255, in; features (n, d) out.

    `taps`: the means of earlier stages' maps are features too, where the network names its stages (EfficientNet-Lite): finer
    structure than the last map keeps. Raises DermaNetError where its weights cannot be had.
    """
    image = keras.Input((side, side, 3), name="pixels")
    pixels = _middle(image, part, side)
    if part.name == PLAIN:
        features = plain(layers.Rescaling(1 / 255, name="to_unit_range")(pixels))
    elif part.name in efficientnet_lite.VARIANTS:
        features = efficientnet_lite.features(pixels, efficientnet_lite.VARIANTS[part.name], taps)
    else:
        features = _application(part.name, pixels, pretrained)
    model = keras.Model(image, features, name=part.layer)
    _fill_sides(model, part, side)
    if pretrained and part.name in efficientnet_lite.VARIANTS:
        efficientnet_lite.load_weights(model, efficientnet_lite.VARIANTS[part.name])
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


def _application(name: str, pixels: Any, pretrained: bool) -> Any:
    make = applications()[name]
    module = inspect.getmodule(make)
    prepared = getattr(keras.applications, module.__name__.rpartition(".")[2]).preprocess_input(pixels)  # type: ignore[union-attr]
    try:
        base = make(include_top=False, weights="imagenet" if pretrained else None, input_shape=pixels.shape[1:])
    except OSError as error:
        raise DermaNetError(f"the ImageNet weights of {name} could not be had ({error}); is there a network?") from None
    except Exception as error:
        # Keras wraps what its download met into a plain Exception.
        if "URL fetch failure" not in str(error):
            raise
        raise DermaNetError(
            f"the ImageNet weights of {name} could not be downloaded; download them where there is a network into the folder "
            "`models` of KERAS_HOME, or take efficientnet-lite0, whose weights are installed"
        ) from None
    return layers.GlobalAveragePooling2D(name="pool")(base(prepared))


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
