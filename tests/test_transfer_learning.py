"""Backbones by name, features that are computed once, heads that scikit-learn fits, and one graph at the end of either method."""

import hashlib
import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path

import keras
import numpy as np
import onnx
import onnxruntime
import pytest
import samples
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image
from sklearn.linear_model import LogisticRegression

from benchmarks import ablation
from dermanet import experiment
from dermanet.errors import BadInput, DermaNetError
from dermanet.learning import backbones, calibration, heads, orientations, train, yardstick
from dermanet.learning import model as network
from dermanet.learning.dataset import Batches, Targets, class_weights
from dermanet.learning.features import FeatureCache
from dermanet.learning.inheritance import START
from dermanet.learning.model import AgeScale
from dermanet.learning.parts import Part, parts
from dermanet.learning.survival import Average
from dermanet.learning.train import Sides
from dermanet.learning.views import all_of, mean_of
from dermanet.learning.watching import Watch
from dermanet.pixels import feature_rows, upkeep
from dermanet.pixels.prepared import PreparedPixels
from dermanet.pixels.preprocess import recipe
from dermanet.pixels.shards import ABOUT, set_aside
from dermanet.records import Answers, Record

CODES = samples.CODES
SMALL = recipe("square@32")
FILES = {hashlib.sha256(data).hexdigest(): data for data in (samples.jpeg(seed) for seed in range(40))}
RECORDS = [
    Record(digest, f"I{n}", samples.record(n, age=20.0 + n, sex=("male", "female", "unknown")[n % 3],
                                          diagnosis=CODES[n % 4]).labels)
    for n, digest in enumerate(FILES)
]  # fmt: skip
PROBE = replace(experiment.named("probe"), backbone="efficientnet-lite0", taps=False, recipe="square@32", views=2)
TWO = replace(PROBE, backbone="efficientnet-lite0+efficientnet-lite0@48x1.5/textures", taps=True, views=4)
FINETUNE = replace(
    experiment.named("finetune"),
    backbone=TWO.backbone,
    beside="",
    recipe="square@32",
    views=2,
    epochs=1,
    patience=1,
    unfrozen=0.05,
)


@pytest.fixture(scope="module")
def pixels(tmp_path_factory: pytest.TempPathFactory) -> PreparedPixels:
    made = PreparedPixels(tmp_path_factory.mktemp("prepared"), SMALL)
    made.fill(list(FILES), FILES.__getitem__)
    return made


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Features are kept across the tests of this module, as they are across trainings."""
    return tmp_path_factory.mktemp("features")


@pytest.fixture
def sides(pixels: PreparedPixels) -> Sides:
    return Sides(CODES, RECORDS[:28], RECORDS[28:], pixels)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("plain", [Part("plain")]),
        ("efficientnet-lite0", [Part("efficientnet-lite0")]),
        ("efficientnet-lite2@260", [Part("efficientnet-lite2", 260)]),
        ("MobileNetV2@96+efficientnet-lite1@224x1.5", [Part("MobileNetV2", 96), Part("efficientnet-lite1", 224, 1.5)]),
        ("efficientnet-lite0@48x2/textures", [Part("efficientnet-lite0", 48, 2.0, textures=True)]),
    ],
)
def test_a_backbone_is_read_from_its_name_and_says_it_again(text: str, expected: list[Part]) -> None:
    found = parts(text)
    assert list(found) == expected and "+".join(map(str, found)) == text


@pytest.mark.parametrize(
    "text", ["", "plane", "efficientnet-lite3", "plain+", "efficientnet-lite0@8", "plain@64x9", "plain+plain", "plain@2000", "Model",
     "MobileNetV2@96/textures", "plain/textures", "efficientnet-lite0/textures@48"],
)  # fmt: skip
def test_a_wrong_backbone_is_refused_in_one_line(text: str) -> None:
    with pytest.raises(BadInput, match="allowed") as caught:
        parts(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ("probe:backbone=plain", "needs a pretrained backbone"), ("probe:hidden=16", "needs hidden=0"),
        ("finetune:downscale=2", "needs downscale=1"), ("probe:views=3", "allowed are 1, 2, 4, 8"),
        ("plain:method=magic", "allowed are scratch, probe, finetune"), ("probe:beside=probe112", "needs method=finetune"),
        ("finetune:beside=plain", "beside=plain; allowed are nothing, probe, probe112"),
        ("finetune:backbone=efficientnet-lite0,beside=probe112", "each is allowed once"),
    ],
)  # fmt: skip
def test_what_a_method_would_pass_over_in_silence_is_refused(changes: str, said: str) -> None:
    with pytest.raises(BadInput, match=said):
        experiment.named(changes)


def test_a_zoom_sees_the_middle_alone() -> None:
    model = backbones.network(Part("efficientnet-lite0", 64, 2.0), 64, taps=True)
    images = np.full((1, 64, 64, 3), 180, np.float32)
    images[:, 24:36, 28:40] = 60
    framed = images.copy()
    framed[:, :16] = framed[:, -16:] = framed[:, :, :16] = framed[:, :, -16:] = 0
    assert np.array_equal(np.array(model(images)), np.array(model(framed)))
    framed[:, 30:40, 20:30] = 60
    assert not np.array_equal(np.array(model(images)), np.array(model(framed)))


def test_orientations_are_eight_and_the_same_in_both_forms() -> None:
    images = np.random.default_rng(1).integers(0, 256, (3, 6, 6, 3)).astype(np.float32)
    found = [orientations.one_of(images, view) for view in range(8)]
    assert len({view[0].tobytes() for view in found}) == 8
    assert np.array_equal(np.array(all_of(images, 8)), np.concatenate(found))
    flat = np.concatenate([view.reshape(3, -1) for view in found])
    assert np.allclose(np.array(mean_of(keras.ops.array(flat), 8)), flat.reshape(8, 3, -1).mean(axis=0), atol=1e-4)


def test_features_are_computed_once_for_each_image_backbone_and_orientation(
    pixels: PreparedPixels, tmp_path: Path
) -> None:
    wanted = list(FILES)[:12]
    first = FeatureCache(tmp_path, SMALL, PROBE).fill(wanted[:10], pixels)
    assert (first.computed, first.reused) == (20, 0)
    again = FeatureCache(tmp_path, SMALL, PROBE).fill(wanted, pixels)
    assert (again.computed, again.reused) == (4, 20)
    more = FeatureCache(tmp_path, SMALL, replace(PROBE, views=4)).fill(wanted, pixels)
    assert (more.computed, more.reused) == (24, 24)
    assert (
        FeatureCache(tmp_path, SMALL, replace(PROBE, views=4, seed=3, balance=0.5)).fill(wanted, pixels).computed == 0
    )
    assert FeatureCache(tmp_path, recipe("square@33"), PROBE).fill([], pixels).computed == 0
    held = upkeep.survey(tmp_path, feature_rows.rows)
    assert len(held) == 4 and all(one.current and one.images == 12 for one in held)
    assert {one.recipe for one in held} >= {"efficientnet-lite0 on square@32"}
    assert upkeep.check(tmp_path, rows=feature_rows.rows) == []


def test_kept_features_are_what_keras_makes_of_the_images(pixels: PreparedPixels, root: Path) -> None:
    wanted = list(FILES)[:6]
    cache = FeatureCache(root, SMALL, TWO)
    cache.fill(wanted, pixels)
    found = cache.read(wanted)
    images = pixels.batch(wanted).astype(np.float32)
    expected = np.concatenate(
        [
            np.mean(
                [backbones.network(part, 32, taps=True)(orientations.one_of(images, view)) for view in range(4)], axis=0
            )
            for part in parts(TWO.backbone)
        ],
        axis=1,
    )
    assert found.shape == expected.shape == (6, 2 * (1280 + 744) + 2048)
    assert np.allclose(found, expected, rtol=2e-3, atol=2e-3)
    assert np.array_equal(cache.read(wanted, parts(TWO.backbone)[1]), found[:, 2024:])


def test_an_exported_backbone_goes_with_the_last_features_that_it_made(tmp_path: Path) -> None:
    kinds = list(FeatureCache(tmp_path, SMALL, TWO).kinds())
    (tmp_path / "graphs").mkdir()
    for kind in kinds:
        (tmp_path / "graphs" / f"{kind.graph}.onnx").touch()
        (tmp_path / kind.fingerprint).mkdir()
        (tmp_path / kind.fingerprint / ABOUT).write_text(json.dumps(kind.about(1280)))
        (tmp_path / kind.fingerprint / "shard.npy").touch()
    shards = {tmp_path / kind.fingerprint / "shard.npy": kind.graph for kind in kinds}
    first = kinds[0].graph
    going = {path for path, graph in shards.items() if graph == first}
    assert feature_rows.idle_graphs(tmp_path, going) == [tmp_path / "graphs" / f"{first}.onnx"]
    assert feature_rows.idle_graphs(tmp_path, list(going)[1:]) == []
    assert len(feature_rows.idle_graphs(tmp_path, shards)) == len(set(shards.values())) == 2
    for damage in ("{}", "[]", "no JSON"):
        (tmp_path / kinds[-1].fingerprint / ABOUT).write_text(damage)
        assert feature_rows.idle_graphs(tmp_path, going) == []
    (tmp_path / kinds[-1].fingerprint / ABOUT).unlink()
    assert feature_rows.idle_graphs(tmp_path, going) == []


def test_a_damaged_shard_of_features_is_made_again(pixels: PreparedPixels, tmp_path: Path) -> None:
    wanted = list(FILES)[:5]
    one = replace(PROBE, views=1)
    cache = FeatureCache(tmp_path, SMALL, one)
    cache.fill(wanted, pixels)
    before = cache.read(wanted)
    (shard,) = tmp_path.glob("*/*.npy")
    shard.write_bytes(shard.read_bytes()[:-1])
    again = FeatureCache(tmp_path, SMALL, one)
    done = again.fill(wanted, pixels)
    assert done.computed == 5 and len(done.damaged) == 1 and np.array_equal(again.read(wanted), before)


def test_a_damaged_backbone_is_exported_again_before_it_makes_a_feature(pixels: PreparedPixels, tmp_path: Path) -> None:
    wanted, one = list(FILES)[:5], replace(PROBE, views=1)
    cache = FeatureCache(tmp_path, SMALL, one)
    cache.fill(wanted, pixels)
    (graph,) = cache.graphs()
    expected, written = cache.read(wanted), graph.read_bytes()
    assert feature_rows.check_graphs(tmp_path) == []
    # Another weight in the middle: it is read without a word, and answers otherwise.
    graph.write_bytes(written[:1_000_000] + bytes(400) + written[1_000_400:])
    for shard in tmp_path.glob("*/*.npy"):
        set_aside(shard)
    again = FeatureCache(tmp_path, SMALL, one)
    again.fill(wanted, pixels)
    assert np.array_equal(again.read(wanted), expected)
    # And where every feature is kept, before it goes into a model.
    graph.write_bytes(written[: len(written) // 2])
    assert again.graphs() == [graph] and onnx.load(graph).graph.input[0].name


@pytest.mark.parametrize(
    "damage", [b"", b"no graph", feature_rows.sealed(b"a graph")[:-1], b"another" + feature_rows.sealed(b"")]
)
def test_a_backbone_that_is_not_what_was_written_is_named_and_removed(tmp_path: Path, damage: bytes) -> None:
    (tmp_path / "graphs").mkdir()
    sound, broken, underway = (tmp_path / "graphs" / name for name in ("a.onnx", "b.onnx", ".7-c.onnx"))
    sound.write_bytes(feature_rows.sealed(b"a graph"))
    broken.write_bytes(damage)
    underway.write_bytes(b"half")
    assert feature_rows.sound_graph(broken) is None and feature_rows.sound_graph(tmp_path / "none.onnx") is None
    (named,) = feature_rows.check_graphs(tmp_path)
    assert named.startswith(str(broken)) and not broken.exists() and sound.exists() and underway.exists()


@pytest.mark.parametrize(("times", "said"), [(1e9, "features of"), (np.nan, "features of nan")])
def test_features_that_cannot_be_kept_are_refused_in_one_line(
    pixels: PreparedPixels, tmp_path: Path, times: float, said: str
) -> None:
    wanted, one = list(FILES)[:5], replace(PROBE, views=1)
    cache = FeatureCache(tmp_path, SMALL, one)
    cache.export()
    (graph,) = cache.graphs()
    whole = onnx.load(graph)
    last = whole.graph.output[0].name
    made = next(node for node in whole.graph.node if last in node.output)
    made.output[list(made.output).index(last)] = "before"
    whole.graph.initializer.append(onnx.numpy_helper.from_array(np.array(times, np.float32), "times"))
    whole.graph.node.append(onnx.helper.make_node("Mul", ["before", "times"], [last]))
    whole.doc_string = ""
    graph.write_bytes(feature_rows.sealed(whole.SerializeToString()))
    with pytest.raises(DermaNetError, match=said) as caught:
        cache.fill(wanted, pixels)
    assert "\n" not in str(caught.value) and cache.missing(wanted) == wanted


def test_features_that_are_the_same_for_all_images_are_refused_in_one_line() -> None:
    (x, y), (v, w) = made_up(60, 20, 1), made_up(30, 20, 2)
    with pytest.raises(DermaNetError, match="all 90 images have the same features: efficientnet-lite0") as caught:
        heads.fit(PROBE, np.zeros_like(x), y, np.zeros_like(v), w, AgeScale(50.0, 17.0))
    assert "\n" not in str(caught.value)


def made_up(count: int, width: int, seed: int) -> tuple[np.ndarray, Targets]:
    """Features that tell diagnosis, sex and age to who looks, of `count` records."""
    rng = np.random.default_rng(seed)
    codes, sexes = rng.integers(0, 4, count), rng.integers(0, 3, count)
    ages = rng.uniform(20, 80, count).astype(np.float32)
    signal = np.random.default_rng(99).normal(size=(8, width))
    state = np.concatenate([np.eye(4)[codes], np.eye(3)[sexes], (ages[:, None] - 50) / 20], axis=1)
    found = (state @ signal + rng.normal(scale=0.3, size=(count, width))).astype(np.float32)
    return found, Targets(
        ages, np.ones(count, np.float32), np.eye(3, dtype=np.float32)[sexes], np.eye(7, dtype=np.float32)[codes]
    )


@pytest.mark.parametrize("width", [12, 300])
def test_heads_find_what_the_features_tell(width: int) -> None:
    train_side, validation = made_up(150, width, 1), made_up(60, width, 2)
    scale = AgeScale(50.0, 17.0)
    both, alone = heads.fit(PROBE, *train_side, *validation, scale)
    unseen, wanted = made_up(80, width, 3)
    for found in (both, alone):
        given = found.answers(unseen, scale)
        assert (given.diagnosis.argmax(1) == wanted.diagnosis.argmax(1)).mean() > 0.9
        assert (given.sex.argmax(1) == wanted.sex.argmax(1)).mean() > 0.85
        assert np.abs(given.age - wanted.age).mean() < 8
        assert np.allclose(given.sex.sum(1), 1, atol=1e-5) and np.allclose(given.diagnosis.sum(1), 1, atol=1e-5)


@pytest.mark.parametrize("width", [12, 300])
def test_a_diagnosis_is_told_as_if_what_it_passes_over_were_not_there(width: int) -> None:
    train_side, validation = made_up(150, width, 1), made_up(60, width, 2)
    scale = AgeScale(50.0, 17.0)
    passed_over = np.arange(width) % 3 == 0
    read = ~passed_over
    found = heads.fit(PROBE, *train_side, *validation, scale, passed_over)
    without = heads.fit(PROBE, train_side[0][:, read], train_side[1], validation[0][:, read], validation[1], scale)
    whole = heads.fit(PROBE, *train_side, *validation, scale)
    for one, expected, other in zip(found, without, whole, strict=True):
        assert np.abs(one.diagnosis.weights[passed_over]).max() < 1e-6
        assert np.allclose(one.diagnosis.weights[read], expected.diagnosis.weights, atol=1e-3)
        assert one.chosen["diagnosis"] == expected.chosen["diagnosis"]
        # To the last bit on one machine and not on another: where arrays lie decides in which order a processor sums them.
        assert all(
            np.allclose(getattr(one, head).weights, getattr(other, head).weights, rtol=0, atol=1e-6)
            for head in ("age", "sex", "sex_known")
        )


def test_a_diagnosis_passes_over_the_last_map_where_textures_are_beside_it(tmp_path: Path) -> None:
    cache = FeatureCache(tmp_path, SMALL, TWO)
    plain, textured = parts(TWO.backbone)
    assert FeatureCache(tmp_path, SMALL, replace(TWO, last_map=True)).passed_over() is None
    found = cache.passed_over()
    assert found is not None and found.shape == (2 * (1280 + 744) + 2048,)
    assert np.array_equal(np.flatnonzero(found), 2024 + np.arange(1280))
    assert cache.passed_over(plain) is None
    assert np.array_equal(cache.passed_over(textured), found[2024:])


@pytest.mark.parametrize("width", [30, 200])
def test_principal_axes_find_the_heads_that_all_coordinates_would(width: int) -> None:
    found, wanted = made_up(40, width, 5)
    found -= found.mean(axis=0)
    labels = wanted.diagnosis.argmax(1)
    axes = heads.principal(found)
    coordinates = found @ axes
    assert coordinates.shape[1] <= 40 and np.allclose(coordinates @ axes.T, found, atol=1e-3)
    short, whole = (LogisticRegression(C=0.1, tol=1e-8, max_iter=2000).fit(x, labels) for x in (coordinates, found))
    assert np.allclose(short.coef_ @ axes.T, whole.coef_, atol=2e-3)
    axes = heads.principal(found, 5)
    fewer = found @ axes
    assert fewer.shape == (40, 5) and np.allclose(axes.T @ axes, np.eye(5), atol=1e-4)
    assert np.allclose(sorted(np.linalg.svd(found, compute_uv=False)[:5]), np.linalg.norm(fewer, axis=0), rtol=1e-3)


def test_heads_fitted_to_features_read_piece_by_piece_are_those_of_all_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    train_side, validation, scale = made_up(90, 40, 1), made_up(31, 40, 2), AgeScale(50.0, 17.0)
    whole = heads.fit(PROBE, *train_side, *validation, scale)
    monkeypatch.setattr(heads, "PIECE", 17)
    pieces = heads.fit(PROBE, *train_side, *validation, scale)
    assert [one.chosen for one in pieces] == [one.chosen for one in whole]
    for found, wanted in zip(pieces, whole, strict=True):
        assert np.allclose(found.diagnosis.weights, wanted.diagnosis.weights, atol=1e-4)
        given, expected = found.answers(validation[0], scale), wanted.answers(validation[0], scale)
        assert np.allclose(given.diagnosis, expected.diagnosis, atol=1e-4)
        assert np.allclose(given.age, expected.age, atol=1e-2)


def test_the_mean_and_the_deviation_of_features_are_those_of_both_sides_together() -> None:
    rng = np.random.default_rng(3)
    first, second = rng.normal(3, 2, (1500, 4)).astype(np.float32), rng.normal(-1, 5, (40, 4)).astype(np.float32)
    first[:, 3] = second[:, 3] = 7
    centre, spread = heads.moments((first, second))
    both = np.concatenate([first, second]).astype(float)
    assert np.allclose(centre, both.mean(axis=0), atol=1e-5)
    assert np.allclose(spread[:3], both.std(axis=0)[:3], atol=1e-5) and spread[3] == 1


def test_one_age_that_is_far_off_hardly_moves_the_others() -> None:
    (x, y), scale = made_up(200, 12, 1), AgeScale(50.0, 17.0)
    before = heads._age(x, y, 1.0, scale)(x)[1:, 0] * scale.spread
    ages = y.age.copy()
    ages[0] = 1000.0
    after = heads._age(x, Targets(ages, y.age_known, y.sex, y.diagnosis), 1.0, scale)(x)[1:, 0] * scale.spread
    assert np.abs(after - before).mean() < 2


def spoiled(wanted: Targets, how: str) -> Targets:
    sex, diagnosis = wanted.sex.copy(), wanted.diagnosis.copy()
    if how == "no sex":
        sex[:] = (0, 0, 1)
    if how == "all sexes":
        sex[:] = (1, 0, 0)
    if how == "one diagnosis":
        diagnosis[:] = np.eye(7)[2]
    return Targets(wanted.age, wanted.age_known, sex, diagnosis)


@pytest.mark.parametrize("how", ["no sex", "all sexes", "one diagnosis"])
def test_a_head_with_nothing_to_tell_apart_answers_with_what_there_is(how: str) -> None:
    (x, y), (v, w) = made_up(60, 20, 1), made_up(30, 20, 2)
    found = heads.fit(PROBE, x, spoiled(y, how), v, spoiled(w, how), AgeScale(50.0, 17.0))[0].answers(
        v, AgeScale(50.0, 17.0)
    )
    assert all(np.isfinite(part).all() for part in (found.age, found.sex, found.diagnosis))
    expected = {"no sex": found.sex[:, 2], "all sexes": found.sex[:, 0], "one diagnosis": found.diagnosis[:, 2]}[how]
    assert (expected > 0.9).all()


def test_what_hardly_ever_showed_makes_nobody_thousands_of_years_old() -> None:
    scale = AgeScale(50.0, 17.0)
    (x, y), (v, w), (unseen, wanted) = (made_up(count, 20, seed) for count, seed in ((60, 1), (30, 2), (80, 3)))
    for features in (x, v):
        features[:, 0] = 0
    x[y.age.argmax(), 0], unseen[:, 0] = 1e-3, 1
    for found in heads.fit(PROBE, x, y, v, w, scale):
        given = found.answers(unseen, scale)
        assert (
            np.abs(given.age - wanted.age).mean() < 12
            and (given.diagnosis.argmax(1) == wanted.diagnosis.argmax(1)).mean() > 0.8
        )


def test_a_network_bounds_its_features_as_its_heads_do(sides: Sides) -> None:
    model = network.build(PROBE, 32, len(CODES), sides.scale)
    images = sides.pixels.batch([record.digest for record in sides.validation]).astype(np.float32)
    features = keras.Model(model.inputs[0], model.get_layer(network.FEATURES).output).predict_on_batch(images)
    rng, width = np.random.default_rng(1), features.shape[1]
    # Next to no spread, so that all of the images are far from the middle.
    linear = [
        heads.Linear(rng.normal(scale=0.01, size=(width, k)).astype(np.float32), np.zeros(k, np.float32))
        for k in (7, 2, 1, 1)
    ]
    found = heads.Heads(features.mean(axis=0), np.full(width, 1e-3, np.float32), *linear, chosen={})
    found.put_into(model)
    given, expected = network.answers(model, images), found.answers(features, sides.scale)
    assert np.abs(heads.standardised(features, found.centre, found.spread)).max() == network.FARTHEST
    assert np.allclose(given.age, expected.age, atol=0.05) and np.allclose(
        given.diagnosis, expected.diagnosis, atol=1e-3
    )


def test_a_diagnosis_that_nobody_has_is_unlikely_and_not_impossible() -> None:
    (x, y), (v, w) = made_up(60, 20, 1), made_up(30, 20, 2)
    found = heads.fit(PROBE, x, y, v, w, AgeScale(50.0, 17.0))[0].answers(v, AgeScale(50.0, 17.0))
    assert (found.diagnosis[:, 5] > 0).all() and found.diagnosis[:, 5].mean() < 0.1


@given(st.integers(0, 1000), st.floats(0.3, 3.0))
def test_a_temperature_undoes_what_made_the_logits_too_sure(seed: int, factor: float) -> None:
    rng = np.random.default_rng(seed)
    logits = rng.normal(scale=2, size=(4000, 3))
    chances = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    wanted = np.eye(3)[(chances.cumsum(axis=1) > rng.random((4000, 1))).argmax(axis=1)]
    assert calibration.temperature(logits * factor, wanted) == pytest.approx(factor, rel=0.15)
    assert calibration.temperature(logits[:5], wanted[:5]) == 1


def test_a_temperature_leaves_one_only_as_far_as_images_say_so() -> None:
    # The same hundred rows, once and forty times over: as much is to be gained, and more images say it.
    rng = np.random.default_rng(3)
    logits = rng.normal(scale=2, size=(100, 3))
    wanted = np.eye(3)[(logits + rng.gumbel(size=logits.shape)).argmax(axis=1)]
    few, many = (
        calibration.temperature(np.tile(logits * 3, (times, 1)), np.tile(wanted, (times, 1))) for times in (1, 40)
    )
    assert 1.3 < few < many < 3.5
    assert calibration.temperature(np.zeros((100, 3)), wanted) == pytest.approx(1, abs=1e-3)


def answers_of(path: Path, images: np.ndarray) -> Sequence[np.ndarray]:
    session = onnxruntime.InferenceSession(path, providers=["CPUExecutionProvider"])
    return [np.asarray(one) for one in session.run(None, {session.get_inputs()[0].name: images.astype(np.float32)})]


def test_a_probe_answers_as_its_heads_do_on_kept_features(sides: Sides, root: Path, tmp_path: Path) -> None:
    plainly = replace(TWO, calibrate=False)
    trained = train.fit(plainly, sides, tmp_path, root)
    assert len(trained.history) == 1 and trained.parity < 1e-4 and trained.history[0]["val_loss"] > 0
    cache = FeatureCache(root, SMALL, plainly)
    seen, wanted = train._features(sides, cache), sides.targets()
    both = heads.fit(plainly, seen[0], wanted[0], seen[1], wanted[1], sides.scale, cache.passed_over())[0]
    expected = both.answers(cache.read([record.digest for record in sides.validation]), sides.scale)
    images = sides.pixels.batch([record.digest for record in sides.validation])
    age, sex, diagnosis = answers_of(trained.onnx_file, images)
    # Features are kept in half precision.
    assert np.allclose(age[:, 0], expected.age, atol=0.3) and np.allclose(sex, expected.sex, atol=0.01)
    assert np.allclose(diagnosis, expected.diagnosis, atol=0.01)
    loaded = keras.models.load_model(trained.keras_file)
    assert np.allclose(network.answers(loaded, images).diagnosis, diagnosis, atol=1e-4)
    # And in the form that DermaNet published, which knows fewer layers.
    network.export_published_form(loaded, tmp_path / "m.h5")
    flat = np.full((1, 256, 256, 3), 0.5, np.float32)
    published = keras.models.load_model(tmp_path / "m.h5", compile=False).predict(flat, verbose=0)
    direct = network.answers(loaded, np.full((1, *images.shape[1:]), 127.5, np.float32))
    assert np.allclose(published[0][:, 0], direct.age, atol=0.01) and np.allclose(published[1], direct.sex, atol=1e-4)


def test_a_graph_that_answers_otherwise_than_keras_is_refused(sides: Sides, tmp_path: Path) -> None:
    (part,) = parts(PROBE.backbone)
    model = network.build(PROBE, 32, len(CODES), sides.scale)
    another = network.converted(backbones.network(part, 32, pretrained=False))
    images = sides.pixels.batch([record.digest for record in sides.validation])
    with pytest.raises(DermaNetError, match=r"the ONNX graph differs from Keras by .*; at most 0.0001 is allowed"):
        network.export_onnx(model, tmp_path / "model.onnx", images, [another])


def test_without_any_age_it_is_said_before_any_feature_is_computed(pixels: PreparedPixels, tmp_path: Path) -> None:
    ageless = [replace(record, labels=replace(record.labels, age=None)) for record in RECORDS]
    with pytest.raises(BadInput, match="no training record states an age"):
        train.fitted(PROBE, Sides(CODES, ageless[:28], ageless[28:], pixels), tmp_path / "work", tmp_path / "features")
    assert not (tmp_path / "features").exists()


def test_two_probes_are_the_same(sides: Sides, root: Path, tmp_path: Path) -> None:
    told: list[int] = []
    watch = Watch(on_epoch=lambda history: told.append(len(history)))
    first, second = (train.fit(PROBE, sides, tmp_path / name, root, watch) for name in "ab")
    assert first.history == second.history and told == [0, 1, 0, 1]  # Before the fit and after it: nothing is resumed.
    images = sides.pixels.batch([record.digest for record in sides.validation])
    pairs = zip(answers_of(first.onnx_file, images), answers_of(second.onnx_file, images), strict=True)
    assert all(np.array_equal(one, other) for one, other in pairs)


def test_calibration_and_adjustment_change_certainty_and_preference(sides: Sides) -> None:
    model = network.build(experiment.PLAIN, 32, len(CODES), sides.scale)
    images = sides.pixels.batch([record.digest for record in sides.train])
    before = network.answers(model, images)
    calibration.apply(model, calibration.Temperatures(2.0, 2.0))
    cooler = network.answers(model, images)
    assert same(cooler, calibration.tempered(before, calibration.Temperatures(2.0, 2.0)))
    assert np.array_equal(before.diagnosis.argmax(1), cooler.diagnosis.argmax(1))
    assert (cooler.diagnosis.max(1) < before.diagnosis.max(1)).all() and np.allclose(
        cooler.sex[:, 2], before.sex[:, 2], atol=1e-5
    )
    rare = Targets(*(np.repeat(part, [1] + [20] * (len(images) - 1), axis=0) for part in vars_of(sides)))
    calibration.adjust(model, 1.0, rare)
    assert same(network.answers(model, images), calibration.adjusted(cooler, 1.0, rare))
    wanted = sides.targets()[0].diagnosis[0].argmax()
    assert (network.answers(model, images).diagnosis[:, 6] > cooler.diagnosis[:, 6]).all() and wanted == 0


def same(one: Answers, other: Answers) -> bool:
    return all(np.allclose(getattr(one, head), getattr(other, head), atol=1e-5) for head in network.HEADS)


def test_what_judges_a_network_did_not_teach_it(sides: Sides, root: Path, tmp_path: Path) -> None:
    images = sides.pixels.batch([record.digest for record in sides.validation])
    probe = train.fitted(replace(PROBE, calibrate=False), sides, tmp_path / "probe", root)
    assert probe.history[0]["val_loss"] == pytest.approx(loss_of(probe.validation, sides), rel=1e-5)
    # Its heads were fitted to these images in the end: what it says of them now is too good to be true.
    assert loss_of(network.answers(probe.model, images), sides) < probe.history[0]["val_loss"] - 0.01
    chosen = replace(experiment.named("smoke"), recipe="square@32", adjustment=0.5)
    scratch = train.fitted(chosen, sides, tmp_path / "scratch", root)
    assert same(scratch.validation, network.answers(scratch.model, images))


def loss_of(answers: Answers, sides: Sides) -> float:
    taught, wanted = sides.targets()
    return yardstick.loss(answers, wanted, taught, sides.scale, PROBE)


def vars_of(sides: Sides) -> tuple[np.ndarray, ...]:
    wanted = sides.targets()[0]
    return wanted.age, wanted.age_known, wanted.sex, wanted.diagnosis


def test_a_fine_tuned_network_answers_with_the_mean_logits_of_its_parts(
    sides: Sides, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    kept: list[dict[str, list[np.ndarray]]] = []
    join = train._join
    monkeypatch.setattr(train, "_join", lambda model, fitted: (kept.extend(fitted), join(model, fitted))[1])
    chosen = replace(FINETUNE, views=1, calibrate=False)
    trained = train.fit(chosen, sides, tmp_path, root)
    assert trained.best_epochs == [1, 2] and len(trained.history) == 2 and trained.parity < 1e-4
    images = sides.pixels.batch([record.digest for record in sides.validation])
    logits = []
    for part, weights in zip(parts(chosen.backbone), kept, strict=True):
        model = network.build(chosen, 32, len(CODES), sides.scale, only=part, weights=False)
        for name, tensors in weights.items():
            model.get_layer(name).set_weights(tensors)
        logits.append(np.log(network.answers(model, images).diagnosis))
        first = model.get_layer(part.layer).get_layer("stem_conv").get_weights()[0]
        assert np.array_equal(first, backbones.network(part, 32).get_layer("stem_conv").get_weights()[0])
    mean = np.exp(np.mean(logits, axis=0))
    assert np.allclose(answers_of(trained.onnx_file, images)[2], mean / mean.sum(axis=1, keepdims=True), atol=1e-4)


def test_a_fine_tuning_goes_on_from_what_another_made_of_each_part(sides: Sides, root: Path, tmp_path: Path) -> None:
    before = network.build(FINETUNE, 32, len(CODES), sides.scale, weights=False)
    rng = np.random.default_rng(5)
    for name in network.FITTED:
        layer = before.get_layer(name)
        layer.set_weights([rng.random(weights.shape) + 0.1 for weights in layer.get_weights()])
    before.save(tmp_path / START)
    chosen, cache = parts(FINETUNE.backbone), FeatureCache(root, SMALL, FINETUNE)
    begun = [train._warm(FINETUNE, sides, cache, part, tmp_path) for part in chosen]
    images = sides.pixels.batch([record.digest for record in sides.validation])
    mean = np.exp(np.mean([np.log(network.answers(model, images).diagnosis) for model in begun], axis=0))
    expected = network.answers(before, images)
    assert np.allclose(mean / mean.sum(axis=1, keepdims=True), expected.diagnosis, atol=1e-4)
    assert np.allclose(
        np.mean([network.answers(model, images).age for model in begun], axis=0), expected.age, atol=1e-2
    )


BESIDE = replace(FINETUNE, backbone="efficientnet-lite0@48", beside="probe112", taps=False)


@pytest.mark.parametrize("damage", [b"", b"PK\x03\x04 half of a network"])
def test_a_damaged_network_to_begin_with_is_removed_so_that_another_may_come(
    sides: Sides, root: Path, tmp_path: Path, damage: bytes
) -> None:
    (tmp_path / START).write_bytes(damage)
    with pytest.raises(DermaNetError, match="begins with is damaged, and was removed; run this again"):
        train.fitted(replace(experiment.named("smoke"), recipe="square@32", epochs=1), sides, tmp_path, root)
    assert not (tmp_path / START).exists()


@pytest.fixture(scope="module")
def both(pixels: PreparedPixels, root: Path, tmp_path_factory: pytest.TempPathFactory) -> train.Trained:
    """A network that was trained beside a probe."""
    return train.fit(BESIDE, Sides(CODES, RECORDS[:28], RECORDS[28:], pixels), tmp_path_factory.mktemp("both"), root)


def test_a_probe_beside_a_fine_tuning_has_half_of_every_answer(
    both: train.Trained, sides: Sides, root: Path, tmp_path: Path
) -> None:
    assert BESIDE.companion and BESIDE.companion.backbone == "efficientnet-lite0"
    assert both.parity < 1e-4
    halves = [
        train.fit(one, sides, tmp_path / one.method, root) for one in (replace(BESIDE, beside=""), BESIDE.companion)
    ]
    images = sides.pixels.batch([record.digest for record in RECORDS])
    found, *given = (Answers(*answers_of(one.onnx_file, images)) for one in (both, *halves))
    expected = calibration.mean([replace(one, age=one.age[:, 0]) for one in given])
    # Twelve images of a validation side are too few for a temperature: nothing else is done to the mean.
    assert np.allclose(found.age[:, 0], expected.age, atol=1e-2)
    assert np.allclose(found.sex, expected.sex, atol=1e-4) and np.allclose(
        found.diagnosis, expected.diagnosis, atol=1e-4
    )
    for one in ("sex", "diagnosis"):
        assert not np.allclose(getattr(given[0], one), getattr(given[1], one), atol=1e-2)
    judged = calibration.mean([one.validation for one in halves])
    assert np.allclose(both.validation.diagnosis, judged.diagnosis, atol=1e-4)


def test_a_fine_tuning_beside_a_probe_goes_on_from_its_own_half_of_another(
    both: train.Trained, sides: Sides, root: Path, tmp_path: Path
) -> None:
    shutil.copy(both.keras_file, tmp_path / START)
    begun = train._warm(BESIDE, sides, FeatureCache(root, SMALL, BESIDE), parts(BESIDE.backbone)[0], tmp_path)
    whole = network.load(both.keras_file)
    for layer in ("standardise", "diagnosis"):
        mine, all_of_them = (model.get_layer(layer).get_weights()[0] for model in (begun, whole))
        assert np.allclose(mine, all_of_them[:1280] * (2 if layer == "diagnosis" else 1))


@pytest.mark.parametrize("kept", ["best", "last"])
def test_the_epoch_that_is_kept_is_the_best_or_the_last(sides: Sides, root: Path, tmp_path: Path, kept: str) -> None:
    # So fast that validation gets worse from the first epoch on.
    chosen = replace(
        experiment.named("smoke"),
        recipe="square@32",
        epochs=4,
        patience=1,
        kept=kept,
        learning_rate=0.05,
        averaging=0.5,
    )
    trained = train.fit(chosen, sides, tmp_path, root)
    losses = [epoch["val_loss"] for epoch in trained.history]
    expected = 4 if kept == "last" else 1 + losses.index(min(losses))
    assert trained.best_epochs == [expected] and (len(losses) == 4 or kept == "best")


def halved(file: Path) -> None:
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


@pytest.mark.parametrize(
    ("damaged", "how"),
    [
        ("epoch-2.keras", halved), ("epoch-2.keras", Path.unlink), ("epoch-2.averaged.keras", halved),
        ("epoch-2.average.npz", halved), ("progress.json", halved), ("progress.json", lambda file: file.write_text('{"a": 1}')),
    ],
)  # fmt: skip
def test_a_training_whose_last_epoch_is_damaged_begins_anew_and_says_so(
    sides: Sides, root: Path, tmp_path: Path, damaged: str, how: Callable[[Path], object]
) -> None:
    chosen = replace(
        experiment.named("smoke"), recipe="square@32", epochs=2, patience=2, kept="last", averaging=0.5, dropout=0.1
    )
    whole = train.fitted(chosen, sides, tmp_path, root)
    said: list[str] = []
    assert train.fitted(chosen, sides, tmp_path, root, Watch(say=said.append)).history == whole.history and not said
    how(tmp_path / damaged)
    again = train.fitted(chosen, sides, tmp_path, root, Watch(say=said.append))
    assert said == [f"what the last epoch left in {tmp_path} is damaged; the training begins anew"]
    assert [epoch["val_loss"] for epoch in again.history] == pytest.approx(
        [epoch["val_loss"] for epoch in whole.history], abs=1e-4
    )


def test_only_the_last_layers_are_trained_and_no_statistics() -> None:
    backbone = backbones.network(Part("efficientnet-lite0"), 32)
    network.unfreeze(backbone, 0.1)
    trained = {layer.name for layer in backbone.layers if layer.trainable and layer.weights}
    assert "head_conv" in trained and "stem_conv" not in trained and not any("norm" in name for name in trained)
    network.unfreeze(backbone, 1.0)
    assert backbone.get_layer("stem_conv").trainable
    network.unfreeze(backbone, 0.0)
    assert not backbone.trainable_variables


@pytest.mark.parametrize(("seen", "side"), [(21, 48), (32, 32), (300, 224), (256, 64)])
def test_an_image_is_brought_to_a_side_as_pillow_does(seen: int, side: int) -> None:
    line = np.random.default_rng(2).integers(0, 256, (seen, seen), dtype=np.uint8)
    weights = backbones.interpolation(seen, side)
    expected = np.asarray(Image.fromarray(line).resize((side, side), Image.Resampling.BILINEAR), float)
    assert np.abs(weights.T @ line @ weights - expected).max() < 1.1


@pytest.mark.parametrize(("cosine", "end"), [(True, 0.0), (False, 0.1)])
def test_a_rate_that_rises_first_falls_to_nothing_or_stays(sides: Sides, cosine: bool, end: float) -> None:
    chosen = replace(experiment.PLAIN, epochs=10, warmup=2.0, learning_rate=0.1, cosine=cosine)
    model = network.build(chosen, 32, len(CODES), sides.scale)
    network.compile_for_training(model, chosen, sides.scale, steps=100)

    def rate(step: int) -> float:
        model.optimizer.iterations.assign(step)
        return float(model.optimizer.learning_rate)

    assert [rate(step) for step in (0, 10, 20, 100)] == pytest.approx([0.01, 0.055, 0.1, end])


def test_the_loss_of_a_training_is_what_the_experiment_says(sides: Sides) -> None:
    chosen = replace(
        experiment.PLAIN,
        smoothing=0.2,
        age_weight=2.0,
        sex_weight=0.5,
        diagnosis_weight=3.0,
        balance=1.0,
        weight_decay=0.01,
    )
    model = network.build(chosen, 32, len(CODES), sides.scale)
    network.compile_for_training(model, chosen, sides.scale, steps=10)
    heavy = class_weights(sides.targets()[0], chosen.balance)
    images, labels, weights = Batches(sides.train, sides.codes, sides.pixels, 16, weights=heavy)[0]
    # As of ages that nobody has stated.
    weights["age"] = np.arange(16, dtype=np.float32) % 3 / 2
    given = model.predict_on_batch(images)
    smoothed = labels["diagnosis"] * 0.8 + 0.2 / len(CODES)
    parts_of_it = (
        2.0 / sides.scale.spread * np.abs(given["age"] - labels["age"])[:, 0] * weights["age"],
        -0.5 * (labels["sex"] * np.log(given["sex"])).sum(axis=1),
        -3.0 * (smoothed * np.log(given["diagnosis"])).sum(axis=1) * heavy[labels["diagnosis"].argmax(axis=1)],
    )
    found = model.test_on_batch(images, labels, sample_weight=weights, return_dict=True)["loss"]
    assert found == pytest.approx(sum(float(one.mean()) for one in parts_of_it), rel=1e-4)
    assert model.optimizer.weight_decay == 0.01 and isinstance(model.optimizer, keras.optimizers.AdamW)


def test_the_average_of_the_weights_is_judged_and_kept_and_the_training_goes_on_without_it() -> None:
    model = keras.Sequential([keras.Input((1,)), keras.layers.Dense(1, use_bias=False)])
    average = Average(0.5, [])
    average.set_model(model)

    def weight() -> float:
        return float(model.get_weights()[0][0, 0])

    model.set_weights([np.zeros((1, 1))])
    average.on_train_begin()
    for value in (1.0, 2.0):
        model.set_weights([np.full((1, 1), value)])
        average.on_train_batch_end(0)
    average.on_test_begin()
    judged = weight()
    average.on_test_end()
    after = weight()
    with average.in_place():
        kept = weight()
    assert (judged, after, kept, weight()) == (1.25, 2.0, 1.25, 2.0)


def test_male_or_female_is_not_learned_from_images_of_which_it_is_unknown(sides: Sides) -> None:
    chosen = replace(experiment.PLAIN, dropout=0.0)
    model = network.build(chosen, 32, len(CODES), sides.scale)
    network.compile_for_training(model, chosen, sides.scale, steps=10)
    images, labels, weights = Batches(sides.train, sides.codes, sides.pixels, 16)[0]

    def moved(sexes: Sequence[int]) -> list[float]:
        """How far the two layers of the sex went in a step: male or female, and whether it is on record."""
        before = [model.get_layer(name).get_weights()[0] for name in (network.SEX, network.SEX_KNOWN)]
        model.train_on_batch(images, {**labels, "sex": np.eye(3, dtype=np.float32)[list(sexes)]}, sample_weight=weights)
        after = [model.get_layer(name).get_weights()[0] for name in (network.SEX, network.SEX_KNOWN)]
        return [float(np.abs(one - other).max()) for one, other in zip(before, after, strict=True)]

    unknown, known = moved([2] * 16), moved([0, 1] * 8)
    assert unknown[0] < chosen.learning_rate / 10 < unknown[1] and min(known) > chosen.learning_rate / 10


def test_the_step_of_a_training_is_traced_once(sides: Sides) -> None:
    """TensorFlow traces a step twice that makes variables of its own: seconds of each training, and of each part of a fine-tuning."""
    model = network.build(experiment.PLAIN, 32, len(CODES), sides.scale)
    network.compile_for_training(model, experiment.PLAIN, sides.scale, steps=2)
    traced, step = [], model.train_step
    model.train_step = lambda data: traced.append(1) or step(data)
    model.fit(Batches(sides.train, sides.codes, sides.pixels, 16), verbose=0)
    assert len(traced) == 1


@pytest.mark.parametrize("base", [ablation.BASE, "probe"])
def test_each_row_of_an_ablation_is_an_experiment_and_changes_its_base(base: str) -> None:
    given = experiment.named(base)
    rows = [ablation.varied(base, row) for row in ablation.ROWS[given.method]]
    assert ablation.varied(base, "") == given and len({given, *rows}) == len(rows) + 1
