"""The networks of `keras.applications`, so that they can be trained here, answered from ONNX and loaded anywhere."""

import inspect
import math
import warnings
from collections.abc import Callable
from typing import Any

import numpy as np

from dermanet.errors import BadInput, DermaNetError
from dermanet.learning.quiet import keras, layers, ops


def networks() -> dict[str, Callable[..., keras.Model]]:
    """What builds each of them, by name."""
    return {
        name: make for name, make in inspect.getmembers(keras.applications, inspect.isfunction) if name[0].isupper()
    }


def features(name: str, pixels: Any, pretrained: bool) -> Any:
    """What a network by name makes of `pixels`, a Keras tensor (n, side, side, 3) of 0..255: the means (n, d) of its last map.

    Raises BadInput where it cannot be fed so few pixels, and DermaNetError where its weights cannot be had.
    """
    try:
        with warnings.catch_warnings():
            # MobileNets say at every side but a few that the weights are those of 224 pixels; they are good at any.
            warnings.simplefilter("ignore", UserWarning)
            base = networks()[name](
                include_top=False, weights="imagenet" if pretrained else None, input_shape=pixels.shape[1:]
            )
    except ValueError as error:
        # Keras says so of an image that is too small for all of a network's steps.
        raise BadInput(
            f"backbone {name} cannot be fed {pixels.shape[1]} pixels ({str(error).splitlines()[0]}); give it more, as {name}@224"
        ) from None
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
    return layers.GlobalAveragePooling2D(name="pool")(portable(base)(in_its_range(prepare(name), pixels)))


def prepare(name: str) -> Callable[[Any], Any]:
    """What a network's images went through in its training: Keras's own function of pixels 0..255."""
    module = networks()[name].__module__.rpartition(".")[2]
    return getattr(keras.applications, module).preprocess_input  # type: ignore[no-any-return]


def in_its_range(prepared: Callable[[Any], Any], pixels: Any) -> Any:
    """`pixels`, a Keras tensor of 0..255, as `prepared` makes them, by stock layers alone.

    All that it does is to scale each channel, and some exchange red and blue; constants of its own would be missing in ONNX graphs.
    """
    black, *bright = np.asarray(prepared(255 * np.eye(4, 3, -1, np.float32)[None, None]))[0, 0]
    slopes = (np.stack(bright) - black) / 255
    if np.array_equal(slopes, np.eye(3)) and not black.any():
        return pixels
    if not slopes[0, 0]:
        pixels, slopes = ops.flip(pixels, axis=-1), slopes[::-1]
    return layers.Rescaling(slopes.diagonal().tolist(), black.tolist(), name="to_its_range")(pixels)


def portable(base: keras.Model) -> keras.Model:
    """The same network with its weights, other layers in place of those that TensorFlow does not convert to ONNX.

    Those are `Normalization`, convolutions in groups, and the activation GELU.
    """
    if all(_instead_of(layer) is layer for layer in base.layers):
        return base
    found = keras.models.clone_model(base, clone_function=_copy)
    for layer in found.layers:
        if layer.weights:
            kept = base.get_layer(layer.name).get_weights()
            layer.set_weights([old.reshape(new.shape) for old, new in zip(kept, layer.weights, strict=True)])
    return found


def _copy(layer: Any) -> Any:
    other = _instead_of(layer)
    return type(layer).from_config(layer.get_config()) if other is layer else other


def _instead_of(layer: Any) -> Any:
    if isinstance(layer, layers.Normalization):
        mean, variance = (ops.convert_to_numpy(value).ravel() for value in (layer.mean, layer.variance))
        slope = 1 / np.maximum(np.sqrt(variance), keras.config.epsilon())
        return layers.Rescaling(slope.tolist(), (-mean * slope).tolist(), name=layer.name)
    if isinstance(layer, layers.Conv2D) and layer.groups > 1:
        # Of one channel each: keras.applications has no others.
        return layers.DepthwiseConv2D(
            layer.kernel_size, layer.strides, layer.padding, use_bias=layer.use_bias, name=layer.name
        )
    if isinstance(layer, layers.Activation) and layer.activation is keras.activations.gelu:
        values = keras.Input(layer.output.shape[1:])
        return keras.Model(values, values * (1 + ops.erf(values / math.sqrt(2))) / 2, name=layer.name)
    return layer
