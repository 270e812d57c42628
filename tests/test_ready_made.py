"""The networks of keras.applications as backbones: each answers as Keras says, from its ONNX graph and loaded again, too."""

from pathlib import Path

import keras
import numpy as np
import onnxruntime
import pytest
from keras.src.applications.convnext import ConvNeXt

from dermanet.errors import BadInput, DermaNetError
from dermanet.learning import backbones, ready_made
from dermanet.learning import model as network
from dermanet.learning.parts import Part

SIDE = 64


def test_any_network_of_keras_applications_is_a_backbone() -> None:
    model = backbones.network(Part("MobileNetV2", 64, 1.5), 80, pretrained=False)
    assert model(np.full((2, 80, 80, 3), 200, np.float32)).shape == (2, 1280)


def test_a_network_that_is_fed_too_few_pixels_is_refused_in_one_line() -> None:
    with pytest.raises(
        BadInput, match=r"backbone InceptionV3 cannot be fed 64 pixels .*75x75.* as InceptionV3@224"
    ) as caught:
        backbones.network(Part("InceptionV3"), 64, pretrained=False)
    assert "\n" not in str(caught.value)


def test_weights_that_cannot_be_downloaded_are_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KERAS_HOME", str(tmp_path))
    monkeypatch.setattr("keras.src.backend.config._KERAS_DIR", str(tmp_path), raising=False)
    monkeypatch.setattr("keras.src.utils.file_utils.urlretrieve", _no_network)
    with pytest.raises(DermaNetError, match="ImageNet weights of MobileNetV2") as caught:
        backbones.network(Part("MobileNetV2", 96), 96)
    assert "\n" not in str(caught.value)


def _no_network(*given: object) -> None:
    raise OSError("no route to host")


@pytest.mark.parametrize("name", ["MobileNetV2", "MobileNetV3Small", "VGG16", "EfficientNetB0"])
def test_each_kind_answers_as_keras_says(name: str, tmp_path: Path) -> None:
    coarse = np.random.default_rng(4).integers(0, 256, (2, 8, 8, 3)).repeat(8, axis=1).repeat(8, axis=2)
    images = coarse.astype(np.float32)
    keras.utils.set_random_seed(5)
    theirs = ready_made.networks()[name](include_top=False, weights=None, input_shape=(SIDE, SIDE, 3))
    prepared = ready_made.prepare(name)(images.copy())
    wanted = np.asarray(theirs.predict_on_batch(prepared)).mean(axis=(1, 2))
    keras.utils.set_random_seed(5)
    ours = backbones.network(Part(name), SIDE, pretrained=False)
    ours.save(tmp_path / "network.keras")
    graph = onnxruntime.InferenceSession(network.converted(ours).SerializeToString())
    assert [one.name for one in graph.get_inputs()] == ["pixels"]
    for found in (
        ours.predict_on_batch(images), graph.run(None, {"pixels": images})[0],
        keras.models.load_model(tmp_path / "network.keras").predict_on_batch(images),
    ):  # fmt: skip
        assert np.max(np.abs(found - wanted)) <= 1e-4 * np.max(np.abs(wanted))


@pytest.mark.parametrize(
    "name", sorted({make.__module__: name for name, make in ready_made.networks().items()}.values())
)
def test_pixels_come_in_the_range_that_each_was_trained_with(name: str) -> None:
    images = np.random.default_rng(6).integers(0, 256, (2, 4, 4, 3)).astype(np.float32)
    prepare = ready_made.prepare(name)
    pixels = keras.Input((4, 4, 3))
    found = keras.Model(pixels, ready_made.in_its_range(prepare, pixels)).predict_on_batch(images)
    assert np.allclose(found, prepare(images.copy()), rtol=1e-5, atol=1e-4)


def test_a_small_convnext_answers_alike_without_what_onnx_cannot_hold(tmp_path: Path) -> None:
    theirs = ConvNeXt(
        depths=[1, 1, 1, 1], projection_dims=[8, 16, 24, 32], include_top=False, weights=None, input_shape=(SIDE, SIDE, 3),
        layer_scale_init_value=1.0, name="convnext", weights_name="convnext_tiny",
    )  # fmt: skip
    rng = np.random.default_rng(8)
    theirs.set_weights([rng.normal(scale=0.2, size=weight.shape) for weight in theirs.get_weights()])
    images = rng.integers(0, 256, (2, SIDE, SIDE, 3)).astype(np.float32)
    wanted = theirs.predict_on_batch(images)
    ours = ready_made.portable(theirs)
    graph = onnxruntime.InferenceSession(network.converted(ours).SerializeToString())
    for found in (ours.predict_on_batch(images), graph.run(None, {graph.get_inputs()[0].name: images})[0]):
        assert np.allclose(found, wanted, atol=1e-4 * np.max(np.abs(wanted)))
    ours.save(tmp_path / "network.keras")
    assert np.array_equal(
        keras.models.load_model(tmp_path / "network.keras").predict_on_batch(images), ours.predict_on_batch(images)
    )
