"""The network with three heads: one graph from prepared pixels (bytes 0..255) to age, sex and diagnosis."""

import gc
import json
import logging
import os
import tempfile
import warnings
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import onnx

from dermanet import memory
from dermanet.errors import DermaNetError
from dermanet.experiment import Experiment
from dermanet.learning import assembly, backbones
from dermanet.learning.parts import Part, parts
from dermanet.learning.quiet import keras, layers, ops
from dermanet.learning.views import all_of, mean_of
from dermanet.records import Answers

HEADS = ("age", "sex", "diagnosis")
AGE, SEX, SEX_KNOWN, DIAGNOSIS, STANDARDISE = "standardised_age", "male_female", "sex_known", "diagnosis", "standardise"
"""The layers whose weights a probe fits."""

FEATURES = "features"
"""The layer that has the features of all parts side by side, of every orientation."""

FITTED = (AGE, SEX, SEX_KNOWN, DIAGNOSIS, STANDARDISE)

FARTHEST = 10.0
"""Spreads from its mean beyond which a feature counts as this. What hardly ever shows in a few dozen images has next to no spread: an
image that shows it would be thousands of spreads away, and its age thousands of years. Of some nine hundred images it changes nothing
(docs/results.md)."""

CATCH = "TF2ONNX_CATCH_ERRORS"

PARITY = 1e-4
"""How far the ONNX graph may be from Keras, in probabilities and in hundredths of a century of age."""


@dataclass(frozen=True, slots=True)
class AgeScale:
    """Centre and spread of the ages trained on, in years: the head learns standardised years and answers in years."""

    centre: float
    spread: float


def build(
    experiment: Experiment, side: int, diagnoses: int, scale: AgeScale, *, only: Part | None = None, views: int = 1,
    weights: bool = True,
) -> keras.Model:  # fmt: skip
    """The network. Input `image`: (n, side, side, 3), values 0..255. Outputs by name: `age` (n, 1) in years,
    `sex` (n, 3) and `diagnosis` (n, diagnoses) as probabilities, in the order of `SEXES` and of the taxonomy.

    `only`: this part alone of the experiment's backbones. `views`: over how many orientations features are averaged. `weights`:
    whether a pretrained backbone's are read, which is needless where others are put in their place.
    """
    keras.utils.set_random_seed(experiment.seed)
    chosen = (only,) if only else parts(experiment.backbones)
    image = keras.Input((side, side, 3), name="image")
    pixels, side = _reduced(image, side, experiment.downscale)
    seen = all_of(pixels, views)
    networks = [
        backbones.network(part, side, pretrained=experiment.start != "random" and weights, taps=experiment.taps)
        for part in chosen
    ]
    found = [network(seen) for network in networks]
    features = layers.Concatenate(name=FEATURES)(found) if len(found) > 1 else layers.Identity(name=FEATURES)(found[0])
    features = mean_of(features, views)
    if experiment.method != "scratch":
        # Not trained: filled with the mean and the variance of the training side's features.
        features = layers.BatchNormalization(center=False, scale=False, epsilon=0.0, trainable=False, name=STANDARDISE)(
            features
        )
        features = ops.clip(features, -FARTHEST, FARTHEST)
    return keras.Model(image, _heads(features, experiment, diagnoses, scale), name="DermaNet")


def _reduced(image: Any, side: int, times: int) -> tuple[Any, int]:
    if times == 1:
        return image, side
    return layers.AveragePooling2D(times, name="downscale")(image), side // times


def _heads(features: Any, experiment: Experiment, diagnoses: int, scale: AgeScale) -> dict[str, Any]:
    hidden = layers.Dropout(experiment.dropout)(features)
    if experiment.hidden:
        hidden = layers.Dense(experiment.hidden, activation="relu", name="hidden")(hidden)
        hidden = layers.Dropout(experiment.dropout)(hidden)
    # Male or female is learned from images of which it is known; how likely it is to be on record stands beside it.
    known = layers.Dense(1, activation="sigmoid", name=SEX_KNOWN)(hidden)
    sexes = layers.Multiply(name="known_sex")([layers.Dense(2, activation="softmax", name=SEX)(hidden), known])
    unknown = layers.Rescaling(-1.0, offset=1.0, name="unknown_sex")(known)
    standardised = layers.Dense(1, name=AGE)(hidden)
    return {
        "age": layers.Rescaling(scale.spread, offset=scale.centre, name="age")(standardised),
        "sex": layers.Concatenate(name="sex")([sexes, unknown]),
        "diagnosis": layers.Dense(diagnoses, activation="softmax", name=DIAGNOSIS)(hidden),
    }


def unfreeze(backbone: Any, share: float) -> None:
    """Lets the last `share` of a backbone's layers be trained; its batch normalisation stays as ImageNet left it.

    Its statistics over batches of thirty-two photographs would be worse than those over a million; and a step is a third shorter.
    """
    layers_in_order = list(_leaves(backbone))
    frozen = round((1 - share) * len(layers_in_order))
    for place, layer in enumerate(layers_in_order):
        fixed = isinstance(layer, layers.BatchNormalization) or layer.name in backbones.TO_SIDE
        layer.trainable = place >= frozen and not fixed


def _leaves(model: Any) -> Iterator[Any]:
    for layer in model.layers:
        yield from _leaves(layer) if hasattr(layer, "layers") else (layer,)


def compile_for_training(model: keras.Model, experiment: Experiment, scale: AgeScale, steps: int) -> None:
    """AdamW, over `steps` steps in all where its rate falls; absolute error of age in spreads, categorical cross-entropy of sex and
    diagnosis, weighted by the experiment."""
    model.compile(
        optimizer=keras.optimizers.AdamW(
            _rate(experiment, steps), weight_decay=experiment.weight_decay, global_clipnorm=5.0
        ),
        loss={
            "age": "mae",
            "sex": "categorical_crossentropy",
            "diagnosis": keras.losses.CategoricalCrossentropy(label_smoothing=experiment.smoothing),
        },
        loss_weights={
            "age": experiment.age_weight / scale.spread,
            "sex": experiment.sex_weight,
            "diagnosis": experiment.diagnosis_weight,
        },
        # Weighted, as ages that are not known have no weight, and rows that fill up a shared evaluation have none either; so
        # training's accuracy counts diagnoses as the loss does, which validation's, without class weights, does not.
        weighted_metrics={"age": ["mae"], "sex": ["accuracy"], "diagnosis": ["accuracy"]},
    )
    _build_what_is_compiled(model)


def _build_what_is_compiled(model: keras.Model) -> None:
    """Makes the variables of optimizer, losses and metrics now: TensorFlow traces a first step that makes any twice."""
    model.optimizer.build(model.trainable_variables)
    outputs = zip(model.output_names, model.outputs, strict=True)
    nothing = {name: ops.zeros((1, tensor.shape[-1])) for name, tensor in outputs}
    weights = {name: ops.ones(1) for name in nothing}
    model.compute_loss(None, nothing, nothing, weights)
    model.compute_metrics(None, nothing, nothing, weights)
    model.reset_metrics()


def _rate(experiment: Experiment, steps: int) -> Any:
    """The learning rate over `steps` steps in all."""
    top, rising = experiment.learning_rate, round(experiment.warmup * steps / experiment.epochs)
    if not rising:
        return keras.optimizers.schedules.CosineDecay(top, steps) if experiment.cosine else top
    return keras.optimizers.schedules.CosineDecay(
        # An end of all that it rose to is no fall.
        top / 10, max(1, steps - rising), alpha=0.0 if experiment.cosine else 1.0, warmup_target=top, warmup_steps=rising,
    )  # fmt: skip


def export_onnx(
    model: keras.Model, path: Path, probe: np.ndarray, graphs: Iterable[onnx.ModelProto] = (), views: int = 1
) -> float:
    """Writes the graph as ONNX, its outputs in the order of `HEADS`; returns its largest difference from Keras on `probe`
    (n, side, side, 3).

    `graphs`: those of all its backbones in order, where they are converted one by one or have been before; they are put in as they
    are. Raises DermaNetError beyond `PARITY`: a graph that answers otherwise than the network that was judged must not leave
    here.
    """
    import onnxruntime

    pixels = probe.astype(np.float32)
    told = model.predict_on_batch(pixels)
    if backbones := list(graphs):
        onnx.save(assembly.assembled(_pieces(model, backbones, views), HEADS), path)
    else:
        write_graph(_in_order(model.inputs[0], model), path)
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    found = zip(HEADS, session.run(None, {session.get_inputs()[0].name: pixels}), (100.0, 1.0, 1.0), strict=True)
    difference = max(float(np.max(np.abs(answers - told[head]))) / unit for head, answers, unit in found)
    if not difference <= PARITY:
        raise DermaNetError(f"the ONNX graph differs from Keras by {difference:.2g}; at most {PARITY:g} is allowed")
    return difference


def _in_order(start: Any, model: keras.Model) -> keras.Model:
    """A model from one of its tensors to its answers, in the order of `HEADS`."""
    return keras.Model(start, [model.output[head] for head in HEADS])


def _pieces(model: keras.Model, graphs: Sequence[onnx.ModelProto], views: int) -> assembly.Pieces:
    image = model.inputs[0]
    before = None
    if views > 1:
        fresh = keras.Input(image.shape[1:], name="pixels")
        before = converted(keras.Model(fresh, all_of(fresh, views)))
    after = converted(_in_order(model.get_layer(FEATURES).output, model))
    return assembly.Pieces(image.shape[1], before, graphs, after)


def converted(model: Any) -> onnx.ModelProto:
    """A network with one input as an ONNX graph; nothing is compared."""
    with tempfile.TemporaryDirectory() as folder:
        write_graph(model, Path(folder, "piece.onnx"))
        found = onnx.load(Path(folder, "piece.onnx"))
    # The converter leaves up to 2 GB in objects that hold one another, and the next network would come on top of them.
    gc.collect()
    memory.give_back()
    return found


def write_graph(model: Any, path: Path) -> None:
    """Writes a network with one input as ONNX; nothing is compared.

    Raises DermaNetError where what Keras exports with is not installed: on JAX that is no part of an installation.
    """
    with warnings.catch_warnings():
        # Keras's converter asks NumPy for a name that NumPy has deprecated.
        warnings.simplefilter("ignore", FutureWarning)
        # Where one of its optimizations does not apply, a traceback says so; the graph is right without, and compared in the end.
        logging.getLogger("tf2onnx.optimizer").setLevel(logging.CRITICAL)
        try:
            try:
                with _no_copies():
                    _export(model, path)
            except ImportError:
                raise
            except Exception:  # of an optimization that does not apply, which may be any
                _export(model, path)
        except ImportError as error:
            raise DermaNetError(
                f"no ONNX graph can be written on {keras.backend.backend()} here ({error}); run the same on TensorFlow, without "
                "KERAS_BACKEND, on the same DERMANET_HOME: what was trained is kept there, and only the export is left to do"
            ) from None


def _export(model: Any, path: Path) -> None:
    # Told its input, Keras does not ask that the network has been called: a call would leave hundreds of megabytes behind.
    model.export(path, format="onnx", verbose=False, input_signature=model.inputs)


@contextmanager
def _no_copies() -> Iterator[None]:
    """tf2onnx copies the whole graph, weights and all, before each of some fifty optimizations, to go back where one fails; with this
    setting of its, whatever it is set to, it copies none and fails instead: a third of the time of an export."""
    before = os.environ.get(CATCH)
    os.environ[CATCH] = "FALSE"
    try:
        yield
    finally:
        if before is None:
            del os.environ[CATCH]
        else:
            os.environ[CATCH] = before


def export_published_form(model: keras.Model, path: Path) -> None:
    """Writes the network in the form DermaNet published: (1, 256, 256, 3) in [0, 1] in, (age, sex probabilities) out.

    A `.h5` for `tensorflow.keras.models.load_model`; the sexes stand in the order male, female, unknown.
    """
    image = keras.Input((256, 256, 3), name="image")
    side = model.inputs[0].shape[1]
    pixels = layers.Rescaling(255.0, name="to_bytes")(image)
    if side != 256:
        pixels = layers.Resizing(side, side, name="to_side")(pixels)
    answers = _apart(model)(pixels)
    published = keras.Model(image, [answers["age"], answers["sex"]], name="DermaNet")
    # Keras warns that the form is an old one, which is why it is asked for.
    logging.getLogger("absl").setLevel(logging.ERROR)
    published.save(path)
    # The old way to describe a network has no words for operations (orientations, textures, bounds); who reads it knows the new.
    with h5py.File(path, "r+") as file:
        file.attrs["model_config"] = json.dumps(keras.saving.serialize_keras_object(published)).encode()


def _apart(model: keras.Model) -> keras.Model:
    """The same network, the weights of its backbones under names of their own: side by side in one file, theirs would be the same."""

    def named(layer: Any) -> Any:
        with keras.name_scope(layer.name):
            return type(layer).from_config(layer.get_config())

    found = keras.models.clone_model(model, clone_function=named)
    found.set_weights(model.get_weights())
    return found


def load(path: Path) -> Any:
    """Reads a network that `train.fit` wrote."""
    return keras.models.load_model(path)


def answers(model: Any, pixels: np.ndarray) -> Answers:
    """What the network answers for prepared images: uint8 (n, side, side, 3) in, n rows out."""
    # As one graph: called layer by layer, a model keeps what every layer gave until the last one is done, gigabytes of it.
    found = model.predict_on_batch(pixels.astype(np.float32))
    return Answers(found["age"][:, 0], found["sex"], found["diagnosis"])
