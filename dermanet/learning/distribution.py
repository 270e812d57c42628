"""Training over several processes: who this one is, and which rows of a batch are its own.

Keras on JAX does the rest (`keras.distribution`): every process holds the whole network, computes on its share of each global batch,
and all gradients, statistics and figures are those of the global batch. Nothing here is needed to train in one process.
"""

import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from dermanet.errors import BadInput, DermaNetError
from dermanet.learning.quiet import keras


@dataclass(frozen=True, slots=True)
class Share:
    """One process's part of a training: the `index`-th of `count`, counted from 0, which drive `devices` in all. By default: all."""

    index: int = 0
    count: int = 1
    devices: int = 1

    @property
    def first(self) -> bool:
        """Whether this process writes what the training leaves behind; exactly one does."""
        return self.index == 0

    @property
    def whole(self) -> bool:
        """Whether nobody else has a part: one process, one device."""
        return self.count == 1 and self.devices == 1

    def rows(self, batch_size: int) -> slice:
        """Its rows of a global batch: one stretch, so that the shares in their order are the batch as one process sees it.

        Raises BadInput where the devices cannot share the batch evenly.
        """
        parts = max(self.count, self.devices)
        if batch_size % parts:
            raise BadInput(
                f"batch_size={batch_size} cannot be shared by {parts} devices; allowed are multiples of {parts}"
            )
        size = batch_size // self.count
        return slice(self.index * size, (self.index + 1) * size)


def share() -> Share:
    """This process's share, as Keras's distribution in force has it; all, where there is none."""
    distribution = keras.distribution.distribution()
    if distribution is None:
        return Share()
    processes, devices = distribution.num_processes, distribution.num_model_replicas
    return Share(distribution.data_shard_id, processes, devices)


def clear_session() -> None:
    """Forgets what Keras keeps of networks that are done, but not the distribution in force, as Keras's own does.

    Each process would else take itself for the only one from then on, and all would write the same files.
    """
    distribution = keras.distribution.distribution()
    _forget_gradients()
    keras.backend.clear_session()
    keras.distribution.set_distribution(distribution)


def _forget_gradients() -> None:
    """TensorFlow keeps for ever how a gradient is passed through an optimizer's sum over replicas, and by that the whole graph of a
    training: 10 MB of the smallest network's. Nobody asks again about networks that are done."""
    ops = sys.modules.get("tensorflow.python.framework.ops")
    # No part of its interface; where there is none, there is nothing to forget.
    kept = getattr(getattr(ops, "gradient_registry", None), "_registry", {})
    for name in [name for name in kept if name.startswith("CustomGradient-")]:
        del kept[name]


@contextmanager
def together(coordinator: str, index: int, count: int) -> Iterator[None]:
    """Trains data-parallel over every device of `count` processes, this one the `index`-th; what is built and fitted inside is shared.

    `coordinator`: host:port of the first process, as JAX takes it. Waits for all processes. Called before any computation.
    Raises BadInput where Keras runs on another backend than JAX, and where processes have different numbers of devices.
    """
    backend = keras.backend.backend()
    if backend != "jax":
        raise BadInput(f"several processes train on JAX alone, and Keras runs on {backend}; set KERAS_BACKEND=jax")
    import jax

    keras.distribution.initialize(coordinator, count, index)
    devices = keras.distribution.list_devices()
    if jax.local_device_count() * count != len(devices):
        raise BadInput(
            f"process {index} has {jax.local_device_count()} of {len(devices)} devices; all {count} processes need as many"
        )
    with keras.distribution.DataParallel(devices=devices, auto_shard_dataset=False).scope():
        yield


@contextmanager
def alone() -> Iterator[None]:
    """What one process does by itself while the others go on: inside, Keras does not wait for them.

    Saving, for one, puts values on devices, which in a distribution every process would have to do at once.
    """
    distribution = keras.distribution.distribution()
    keras.distribution.set_distribution(None)
    try:
        yield
    finally:
        keras.distribution.set_distribution(distribution)


def as_the_first_says(figures: Mapping[str, float]) -> dict[str, float]:
    """The first process's figures, in every process: all must decide alike, whatever the last digit of their sums is."""
    if share().count == 1:
        return dict(figures)
    from jax.experimental import multihost_utils

    values: Any = multihost_utils.broadcast_one_to_all(np.array(list(figures.values()), np.float64))
    return dict(zip(figures, np.asarray(values).tolist(), strict=True))


def require_same(epochs: int, folder: Path) -> None:
    """Raises DermaNetError where another process sees another number of finished epochs: the folder is not one folder."""
    first = int(as_the_first_says({"epochs": float(epochs)})["epochs"])
    if epochs != first:
        raise DermaNetError(
            f"process {share().index} finds {epochs} epochs in {folder}, and the first process {first}; "
            "all need one shared folder: give every machine the same DERMANET_HOME"
        )
