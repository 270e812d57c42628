"""Features of a frozen pretrained backbone, computed by ONNX Runtime: several times as fast as Keras on a processor."""

import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from dermanet.learning import efficientnet_lite
from dermanet.learning.model import write_graph

Extractor = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
"""Prepared images, uint8 (n, side, side, 3), in; float32 (n, features) out."""


def extractor(name: str, side: int) -> Extractor:
    """A backbone by name, frozen, for images of `side` pixels. Raises BadInput for a name that there is not."""
    session = onnxruntime.InferenceSession(exported(name, side), providers=["CPUExecutionProvider"])
    pixels = session.get_inputs()[0].name
    return lambda images: np.asarray(session.run(None, {pixels: images.astype(np.float32)})[0], np.float32)


def exported(name: str, side: int) -> bytes:
    """The backbone as an ONNX graph."""
    model: Any = efficientnet_lite.pretrained(name, side)
    model(np.zeros((1, side, side, 3), np.float32))
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "backbone.onnx")
        write_graph(model, path)
        return path.read_bytes()
