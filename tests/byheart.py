"""Networks that answer whatever a test wants: a real graph that knows the prepared pixels of some images by heart, in a real run."""

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import onnx
from numpy.typing import NDArray
from onnx import TensorProto, helper, numpy_helper

from dermanet import settings, stages
from dermanet.records import SEXES, Answers, Record
from dermanet.registry.tracking import model_files
from dermanet.serving import golden
from dermanet.serving.network import CARD, load
from dermanet.stages.rooms import fill_pixels, frozen_snapshot, tracking_of

SHARP = 1e-3
"""By how much the nearest image is preferred: those that are known are told apart to the last digit."""


def right(records: Sequence[Record], codes: Sequence[str]) -> Answers:
    """The answers of whoever is always right, and fairly sure."""
    labels = [record.labels for record in records]
    sexes = np.eye(3, dtype=np.float32)[[SEXES.index(label.sex) for label in labels]]
    diagnoses = np.eye(len(codes), dtype=np.float32)[[codes.index(label.diagnosis) for label in labels]]
    ages = np.array([50 if label.age is None else label.age for label in labels], np.float32)
    return Answers(ages, sexes * 0.9 + 0.1 / 3, diagnoses * 0.9 + 0.1 / len(codes))


def candidate(name: str, records: Sequence[Record], answers: Answers, folder: Path) -> str:
    """A run of the newest snapshot whose model answers just so for `records`. Its id; the model is otherwise the champion's."""
    here, snapshot = settings.read(), stages.snapshot()["snapshot"]
    tracking = tracking_of(here)
    run = tracking.run_for(f"{name} by heart", name, {"dermanet.snapshot": snapshot}).info.run_id
    own = model_files(f"models:/{here.model}/{stages.champion()['version']}") / CARD
    card = {**json.loads(own.read_text()), "run_id": run, "snapshot": snapshot}
    files = folder / name / "artifacts"
    files.mkdir(parents=True)
    (files / CARD).write_text(json.dumps(card))
    recipe = card["recipe"]
    pixels = fill_pixels(here, f"{recipe['name']}@{recipe['size']}", frozen_snapshot(here, snapshot).records)[0]
    onnx.save(_graph(pixels.batch([record.digest for record in records]), answers), files / "model.onnx")
    network, images = load(files / "model.onnx", files / CARD), golden.draw()
    golden.write(files / golden.FILE, images, network.recipe, network.answer(golden.prepared(images, network.recipe)))
    tracking.client.log_artifacts(run, str(files), "model/artifacts")
    tracking.tag(run, model=f"runs:/{run}/model")
    return str(run)


def _graph(pixels: NDArray[np.uint8], answers: Answers) -> onnx.ModelProto:
    """The answers of the nearest image, by the squared distance of pixels."""
    known = pixels.reshape(len(pixels), -1).astype(np.float32) - 128
    constants = {
        "middle": np.float32(128), "flat": np.array([0, -1]), "known": known.T * 2 * SHARP,
        "length": (known**2).sum(axis=1) * SHARP, "age known": answers.age[:, None], "sex known": answers.sex,
        "diagnosis known": answers.diagnosis,
    }  # fmt: skip
    nodes = [
        helper.make_node("Sub", ["image", "middle"], ["centred"]),
        helper.make_node("Reshape", ["centred", "flat"], ["row"]),
        helper.make_node("MatMul", ["row", "known"], ["alike"]),
        helper.make_node("Sub", ["alike", "length"], ["near"]),
        helper.make_node("Softmax", ["near"], ["share"], axis=1),
        *(helper.make_node("MatMul", ["share", f"{head} known"], [head]) for head in golden.HEADS),
    ]  # fmt: skip
    graph = helper.make_graph(
        nodes, "by heart",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["n", *pixels.shape[1:]])],
        [helper.make_tensor_value_info(head, TensorProto.FLOAT, ["n", None]) for head in golden.HEADS],
        [numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()],
    )  # fmt: skip
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)
