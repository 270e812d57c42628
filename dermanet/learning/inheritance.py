"""Beginning a training with the weights of a network that was trained before, the champion's as a rule."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any
from zipfile import BadZipFile

import numpy as np

from dermanet.errors import DermaNetError
from dermanet.learning import model as network
from dermanet.learning.parts import Part
from dermanet.learning.quiet import keras

START = "start.keras"
"""The network that a training begins with, in its folder, where it does not begin with ImageNet's weights."""


def ancestor(workdir: Path) -> Any:
    """The network that a training in `workdir` begins with; None where there is none. Raises DermaNetError where it is damaged."""
    path = workdir / START
    if not path.exists():
        return None
    try:
        return network.load(path)
    except (ValueError, BadZipFile):
        # It is a copy: whoever calls a training again puts another one here.
        path.unlink(missing_ok=True)
        raise DermaNetError(
            f"the network that the training in {workdir} begins with is damaged, and was removed; run this again: it is copied anew"
        ) from None


def inherit(model: keras.Model, from_network: Any) -> None:
    """Gives a network all weights of another of the same kind."""
    model.set_weights(from_network.get_weights())


def inherit_part(model: keras.Model, from_network: Any, part: Part, parts: Sequence[Part], share: float) -> None:
    """Gives one part of a backbone and its heads their share of the weights of a network that begins with all `parts`, side by side.

    `share`: what a part's heads count for in the whole network's, which are a mean; a part's own are its rows of them, divided by it.
    """
    places = [from_network.get_layer(one.layer).output.shape[-1] for one in parts]
    first = sum(places[: parts.index(part)])
    mine = slice(first, first + places[parts.index(part)])
    model.get_layer(part.layer).set_weights(from_network.get_layer(part.layer).get_weights())
    for name in network.FITTED:
        one, other = from_network.get_layer(name).get_weights()
        if name == network.STANDARDISE:
            model.get_layer(name).set_weights([one[mine], other[mine]])
        else:
            model.get_layer(name).set_weights([one[mine] / np.float32(share), other])
