"""The network with three heads: one graph from prepared pixels (bytes 0..255) to age, sex and diagnosis."""

import logging
import warnings
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import keras
import numpy as np
from keras import layers

from dermanet.errors import DermaNetError
from dermanet.experiment import Experiment
from dermanet.learning.backbones import backbone
from dermanet.records import SEXES, Answers

HEADS = ("age", "sex", "diagnosis")
PARITY = 1e-4
"""How far the ONNX graph may be from Keras, in probabilities and in hundredths of a century of age."""


@dataclass(frozen=True, slots=True)
class AgeScale:
    """Centre and spread of the ages trained on, in years: the head learns standardised years and answers in years."""

    centre: float
    spread: float


def build(experiment: Experiment, side: int, diagnoses: int, scale: AgeScale) -> keras.Model:
    """The network. Input `image`: (n, side, side, 3), values 0..255. Outputs by name: `age` (n, 1) in years,
    `sex` (n, 3) and `diagnosis` (n, diagnoses) as probabilities, in the order of `SEXES` and of the taxonomy."""
    keras.utils.set_random_seed(experiment.seed)
    image = keras.Input((side, side, 3), name="image")
    pixels = layers.Rescaling(1 / 255, name="to_unit_range")(image)
    if experiment.downscale > 1:
        pixels = layers.AveragePooling2D(experiment.downscale, name="downscale")(pixels)
    features = layers.Dropout(experiment.dropout)(backbone(experiment.backbone)(pixels))
    hidden = layers.Dense(128, activation="relu", name="hidden")(features)
    hidden = layers.Dropout(experiment.dropout)(hidden)
    standardised = layers.Dense(1, name="standardised_age")(hidden)
    outputs = {
        "age": layers.Rescaling(scale.spread, offset=scale.centre, name="age")(standardised),
        "sex": layers.Dense(len(SEXES), activation="softmax", name="sex")(hidden),
        "diagnosis": layers.Dense(diagnoses, activation="softmax", name="diagnosis")(hidden),
    }
    return keras.Model(image, outputs, name=experiment.backbone)


def compile_for_training(model: keras.Model, experiment: Experiment, scale: AgeScale, steps: int) -> None:
    """Adam, over `steps` steps in all where its rate falls; absolute error of age in spreads, categorical cross-entropy of
    sex and diagnosis, weighted by the experiment."""
    rate: Any = experiment.learning_rate
    if experiment.cosine:
        rate = keras.optimizers.schedules.CosineDecay(experiment.learning_rate, steps)
    model.compile(
        optimizer=keras.optimizers.Adam(rate),
        loss={"age": "mae", "sex": "categorical_crossentropy", "diagnosis": "categorical_crossentropy"},
        loss_weights={
            "age": experiment.age_weight / scale.spread,
            "sex": experiment.sex_weight,
            "diagnosis": experiment.diagnosis_weight,
        },
        weighted_metrics={"age": ["mae"], "sex": ["accuracy"], "diagnosis": ["accuracy"]},
    )


def export_onnx(model: keras.Model, path: Path, probe: np.ndarray) -> float:
    """Writes the graph as ONNX, its outputs in the order of `HEADS`; returns its largest difference from Keras on `probe`
    (n, side, side, 3).

    Raises DermaNetError beyond `PARITY`: a graph that answers otherwise than the network that was judged must not leave here.
    """
    import onnxruntime

    ordered = keras.Model(model.inputs[0], [model.output[head] for head in HEADS])
    pixels = probe.astype(np.float32)
    # Called before it is exported: Keras refuses to export a network that never was.
    expected = [keras.ops.convert_to_numpy(output) for output in ordered(pixels, training=False)]
    write_graph(ordered, path)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    found = session.run(None, {session.get_inputs()[0].name: pixels})
    units = (100.0, 1.0, 1.0)
    difference = max(float(np.max(np.abs(f - e))) / unit for f, e, unit in zip(found, expected, units, strict=True))
    if not difference <= PARITY:
        raise DermaNetError(f"the ONNX graph differs from Keras by {difference:.2g}; at most {PARITY:g} is allowed")
    return difference


def write_graph(model: Any, path: Path) -> None:
    """Writes a network that has been called once as ONNX; nothing is compared.

    Raises DermaNetError where what Keras exports with is not installed: on JAX that is no part of an installation.
    """
    with warnings.catch_warnings():
        # Keras's converter asks NumPy for a name that NumPy has deprecated.
        warnings.simplefilter("ignore", FutureWarning)
        try:
            model.export(path, format="onnx", verbose=False)
        except ImportError as error:
            raise DermaNetError(
                f"no ONNX graph can be written on {keras.backend.backend()} here ({error}); run the same on TensorFlow, without "
                "KERAS_BACKEND, on the same DERMANET_HOME: what was trained is kept there, and only the export is left to do"
            ) from None


def export_published_form(model: keras.Model, path: Path) -> None:
    """Writes the network in the form DermaNet published: (1, 256, 256, 3) in [0, 1] in, (age, sex probabilities) out.

    A `.h5` for `tensorflow.keras.models.load_model`; the sexes stand in the order male, female, unknown.
    """
    image = keras.Input((256, 256, 3), name="image")
    side = model.inputs[0].shape[1]
    pixels = layers.Rescaling(255.0, name="to_bytes")(image)
    if side != 256:
        pixels = layers.Resizing(side, side, name="to_side")(pixels)
    answers = model(pixels)
    # Keras warns that the form is an old one, which is why it is asked for.
    logging.getLogger("absl").setLevel(logging.ERROR)
    keras.Model(image, [answers["age"], answers["sex"]], name="DermaNet").save(path)


def load(path: Path) -> Any:
    """Reads a network that `train.fit` wrote."""
    return keras.models.load_model(path)


def answers(model: Any, pixels: np.ndarray) -> Answers:
    """What the network answers for prepared images: uint8 (n, side, side, 3) in, n rows out."""
    found = {
        head: keras.ops.convert_to_numpy(output)
        for head, output in model(pixels.astype(np.float32), training=False).items()
    }
    return Answers(found["age"][:, 0], found["sex"], found["diagnosis"])
