"""A network as an ONNX graph: the converter copies nothing, and where one of its optimizations fails the graph is right without."""

import copy
import os
from pathlib import Path
from typing import Any

import keras
import numpy as np
import onnxruntime
import pytest
from tf2onnx.graph import Graph
from tf2onnx.optimizer import GlobalPoolOptimizer

from dermanet.learning import model as network

SETTING = "TF2ONNX_CATCH_ERRORS"


@pytest.fixture
def copied(monkeypatch: pytest.MonkeyPatch) -> list[type]:
    """What the converter copied of whole graphs."""
    copies: list[type] = []
    deepcopy = copy.deepcopy

    def noted(given: Any, *others: Any) -> Any:
        if isinstance(given, Graph) and not others:
            copies.append(type(given))
        return deepcopy(given, *others)

    monkeypatch.setattr("copy.deepcopy", noted)
    return copies


@pytest.mark.parametrize("before", [None, "TRUE"])
def test_no_graph_is_copied_and_the_setting_is_as_it_was(
    before: str | None, copied: list[type], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv(SETTING, raising=False)
    if before:
        monkeypatch.setenv(SETTING, before)
    _answers_alike(tmp_path)
    assert (copied, os.environ.get(SETTING)) == ([], before)


def test_an_optimization_that_fails_is_passed_over(
    copied: list[type], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def failing(*given: object) -> None:
        raise ValueError("not such a graph")

    monkeypatch.delenv(SETTING, raising=False)
    monkeypatch.setattr(GlobalPoolOptimizer, "optimize", failing)
    _answers_alike(tmp_path)
    assert copied


def _answers_alike(folder: Path) -> None:
    pixels = keras.Input((16, 16, 3), name="pixels")
    model = keras.Model(pixels, keras.layers.GlobalAveragePooling2D()(keras.layers.Conv2D(4, 3)(pixels)))
    images = np.random.default_rng(2).integers(0, 256, (3, 16, 16, 3)).astype(np.float32)
    network.write_graph(model, folder / "network.onnx")
    found = onnxruntime.InferenceSession(folder / "network.onnx").run(None, {"pixels": images})[0]
    assert np.allclose(found, model.predict_on_batch(images), rtol=1e-4, atol=1e-3)
