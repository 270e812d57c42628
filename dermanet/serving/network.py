"""A trained network as scoring needs it: an ONNX graph, the recipe of its pixels and the lists of its answers. No TensorFlow."""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from dermanet import memory
from dermanet.errors import DermaNetError
from dermanet.pixels import preprocess
from dermanet.records import SEXES, Answers

CARD = "card.json"
"""What a model says of itself, beside its graph: recipe and fingerprint, diagnoses, sexes, experiment, snapshot, holdout, and what an
answer costs."""

A_BYTE = 40
"""So many multiply-adds are taken for a byte of a graph whose card is from before they were counted."""


@dataclass(frozen=True, slots=True)
class Network:
    """A loaded graph with its card. Safe to call from several threads."""

    session: onnxruntime.InferenceSession
    recipe: preprocess.Recipe
    diagnoses: tuple[str, ...]
    card: dict[str, Any]
    multiply_adds: int = 0
    """For one image."""

    def answer(self, pixels: NDArray[np.uint8]) -> Answers:
        """Answers for prepared images: uint8 (n, size, size, 3) in, n rows out."""
        options = onnxruntime.RunOptions()
        if len(pixels) > 1:
            # Else what a batch needed besides would be kept for ever, and a request's one image needs a fraction of it.
            options.add_run_config_entry("memory.enable_memory_arena_shrinkage", "cpu:0")
        given = {self.session.get_inputs()[0].name: pixels.astype(np.float32)}
        age, sex, diagnosis = self.session.run(None, given, options)
        return Answers(age[:, 0], sex, diagnosis)

    def answer_in_batches(self, batches: Sequence[NDArray[np.uint8]]) -> Answers:
        """The same for many images, batch after batch, so that memory does not grow with their number; none give none."""
        size = self.recipe.size
        parts = [self.answer(batch) for batch in batches] or [self.answer(np.zeros((0, size, size, 3), np.uint8))]
        return Answers(
            *(np.concatenate([getattr(part, name) for part in parts]) for name in ("age", "sex", "diagnosis"))
        )


def load(graph: Path, card: Path, threads: int = 0) -> Network:
    """Reads a graph and its card. `threads`: of one run; 0 leaves it to ONNX Runtime.

    Raises DermaNetError where this code would prepare other pixels than the network was trained on: its answers would be
    wrong without looking wrong.
    """
    stated = json.loads(card.read_text())
    recipe = preprocess.from_dict(stated["recipe"])
    if recipe.fingerprint != stated["fingerprint"]:
        raise DermaNetError(
            f"the model was trained on pixels {stated['fingerprint']}, this code makes {recipe.fingerprint}; not served"
        )
    if tuple(stated["sexes"]) != SEXES:
        raise DermaNetError(f"the model answers the sexes {stated['sexes']}, this code knows {list(SEXES)}; not served")
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    session = onnxruntime.InferenceSession(graph, options, providers=["CPUExecutionProvider"])
    # The file as it was taken apart is as large as the weights, and free by now.
    memory.give_back()
    cost = int(stated.get("multiply_adds", A_BYTE * graph.stat().st_size))
    return Network(session, recipe, tuple(entry["code"] for entry in stated["taxonomy"]), stated, cost)
