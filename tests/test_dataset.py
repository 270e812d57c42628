"""Batches: labels as the heads need them, an order that depends on seed and epoch alone, turns that keep every pixel."""

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import samples
from hypothesis import given
from hypothesis import strategies as st

from dermanet.errors import BadInput
from dermanet.experiment import PLAIN
from dermanet.learning import orientations
from dermanet.learning.augmentation import cropped, draw, lit, turned
from dermanet.learning.dataset import Batch, Batches, age_scale, class_weights, targets
from dermanet.learning.distribution import Share
from dermanet.learning.model import AgeScale
from dermanet.learning.yardstick import figures
from dermanet.pixels.prepared import PreparedPixels
from dermanet.pixels.preprocess import prepare, recipe
from dermanet.records import Answers, Record

CODES = samples.CODES
AUGMENT = replace(PLAIN, crops=0.7, light=0.2)
SMALL = recipe("plain@16")
FILES = {hashlib.sha256(data).hexdigest(): data for data in (samples.jpeg(seed) for seed in range(11))}
RECORDS = [
    Record(
        digest,
        f"I{n}",
        samples.record(n, age=(None, 0.0, 40.0)[n % 3], sex=("male", "female", "unknown")[n % 3]).labels,
    )
    for n, digest in enumerate(FILES)
]


@pytest.fixture(scope="module")
def pixels(tmp_path_factory: pytest.TempPathFactory) -> PreparedPixels:
    made = PreparedPixels(tmp_path_factory.mktemp("prepared"), SMALL)
    made.fill(list(FILES), FILES.__getitem__)
    return made


def epochs(batches: Batches, count: int) -> list[list[Batch]]:
    """All batches of `count` epochs, as Keras draws them."""
    found = []
    for _ in range(count):
        found.append([batches[place] for place in range(len(batches))])
        batches.on_epoch_end()
    return found


def same(first: list[Batch], second: list[Batch]) -> bool:
    return all(
        np.array_equal(images, others)
        and all(np.array_equal(labels[head], other_labels[head]) for head in labels)
        and all(np.array_equal(weights[head], other_weights[head]) for head in weights)
        for (images, labels, weights), (others, other_labels, other_weights) in zip(first, second, strict=True)
    )


def test_labels_become_one_hot_in_the_order_of_the_lists() -> None:
    records = [samples.record(1, sex="female", diagnosis="mel"), samples.record(2, sex="unknown", diagnosis="akiec")]
    found = targets(records, CODES)
    assert found.sex.tolist() == [[0, 1, 0], [0, 0, 1]]
    assert found.diagnosis.tolist() == [[0, 0, 0, 0, 1, 0, 0], [1, 0, 0, 0, 0, 0, 0]]
    assert found.age.dtype == found.sex.dtype == found.diagnosis.dtype == np.float32


def test_a_missing_age_and_an_age_of_zero_are_masked() -> None:
    found = targets([samples.record(n, age=age) for n, age in enumerate((None, 0.0, 40.0))], CODES)
    assert found.age_known.tolist() == [0, 0, 1] and found.age.tolist() == [0, 0, 40]


def test_diagnoses_weigh_by_the_inverse_of_their_frequency_and_one_on_average() -> None:
    wanted = targets([samples.record(n, diagnosis="nv" if n else "mel") for n in range(10)], CODES)
    assert class_weights(wanted, 0.0)[[CODES.index("nv"), CODES.index("mel")]].tolist() == [1, 1]
    weights = class_weights(wanted, 1.0)
    assert weights[CODES.index("mel")] == pytest.approx(9 * weights[CODES.index("nv")])
    assert weights[CODES.index("df")] == 0 and (wanted.diagnosis @ weights).mean() == pytest.approx(1)


def test_figures_are_those_of_the_known_ages_and_of_every_label() -> None:
    records = [samples.record(n, age=age, sex="male", diagnosis="nv") for n, age in enumerate((None, 40.0))]
    sure = np.eye(7, dtype=np.float32)[[CODES.index("nv"), CODES.index("mel")]]
    answers = Answers(np.array([90.0, 50.0]), np.tile([0.5, 0.25, 0.25], (2, 1)), sure * 0.86 + 0.02)
    wanted = targets(records, CODES)
    taught = targets([samples.record(n, diagnosis=code) for n, code in enumerate(CODES)], CODES)
    found = figures(answers, wanted, taught, AgeScale(40.0, 20.0), PLAIN, prefix="val_")
    assert found["val_age_mae"] == 10 and found["val_sex_accuracy"] == 1 and found["val_diagnosis_accuracy"] == 0.5
    assert found["val_loss"] == pytest.approx(0.5 - np.log(0.5) - (np.log(0.88) + np.log(0.02)) / 2)


def test_the_scale_of_age_is_that_of_the_known_ages() -> None:
    scale = age_scale([samples.record(n, age=age) for n, age in enumerate((30.0, None, 40.0, 80.0))])
    assert scale.centre == 40.0 and scale.spread == pytest.approx(np.std([30, 40, 80]))
    assert age_scale([samples.record(0, age=50.0)] * 3).spread == 1.0


def test_a_training_side_without_any_age_is_refused() -> None:
    with pytest.raises(BadInput, match="no training record states an age"):
        age_scale([samples.record(0, age=None)])


def test_without_a_seed_the_batches_are_the_records_in_order(pixels: PreparedPixels) -> None:
    batches = Batches(RECORDS, CODES, pixels, 4)
    assert len(batches) == 3
    (first,) = epochs(batches, 1)
    assert [len(images) for images, _, _ in first] == [4, 4, 3]
    images = np.concatenate([images for images, _, _ in first])
    assert images.dtype == np.float32
    assert np.array_equal(images, [prepare(data, SMALL) for data in FILES.values()])
    wanted = targets(RECORDS, CODES)
    assert np.array_equal(np.concatenate([labels["age"] for _, labels, _ in first])[:, 0], wanted.age)
    assert np.array_equal(np.concatenate([weights["age"] for *_, weights in first]), wanted.age_known)
    assert all((weights["sex"] == 1).all() and (weights["diagnosis"] == 1).all() for *_, weights in first)


def test_an_epoch_holds_every_image_once_with_its_own_labels(pixels: PreparedPixels) -> None:
    ages = {prepare(data, SMALL).tobytes(): record.labels for data, record in zip(FILES.values(), RECORDS, strict=True)}
    for epoch in epochs(Batches(RECORDS, CODES, pixels, 4, augment=replace(PLAIN, turns=False)), 2):
        seen = []
        for images, labels, weights in epoch:
            for row, image in enumerate(images):
                true = ages[image.astype(np.uint8).tobytes()]
                assert CODES[labels["diagnosis"][row].argmax()] == true.diagnosis
                assert (weights["age"][row] == 0) == (not true.age) and labels["age"][row, 0] == (true.age or 0)
                seen.append(image.tobytes())
        assert len(set(seen)) == len(RECORDS)


def test_order_and_augmentation_depend_on_seed_and_epoch_alone(pixels: PreparedPixels) -> None:
    def made(seed: int, first_epoch: int = 0) -> Batches:
        return Batches(RECORDS, CODES, pixels, 4, augment=replace(AUGMENT, seed=seed), first_epoch=first_epoch)

    unbroken = epochs(made(5), 4)
    assert all(same(a, b) for a, b in zip(unbroken[2:], epochs(made(5, first_epoch=2), 2), strict=True))
    assert not same(unbroken[0], unbroken[1]) and not same(unbroken[0], epochs(made(6), 1)[0])
    batches = made(5)
    backwards = [batches[place] for place in reversed(range(len(batches)))][::-1]
    assert same(backwards, unbroken[0])


def test_the_same_image_is_turned_otherwise_in_another_epoch(pixels: PreparedPixels) -> None:
    drawn = epochs(Batches(RECORDS[:1], CODES, pixels, 1, augment=PLAIN), 20)
    assert len({epoch[0][0].tobytes() for epoch in drawn}) > 4


def test_every_batch_of_a_training_is_whole(pixels: PreparedPixels) -> None:
    (epoch,) = epochs(Batches(RECORDS, CODES, pixels, 4, augment=replace(PLAIN, turns=False)), 1)
    images = np.concatenate([images for images, *_ in epoch])
    assert len(images) == 12 and np.array_equal(images[11], images[0])
    (few,) = epochs(Batches(RECORDS[:3], CODES, pixels, 8, augment=replace(PLAIN, turns=False)), 1)
    assert np.array_equal(few[0][0], few[0][0][[0, 1, 2, 0, 1, 2, 0, 1]])


@pytest.mark.parametrize("count", [2, 4])
def test_shares_side_by_side_are_the_batches_of_one_process(pixels: PreparedPixels, count: int) -> None:
    def made(share: Share) -> list[list[Batch]]:
        return epochs(Batches(RECORDS, CODES, pixels, 4, augment=AUGMENT, share=share), 2)

    shares = [made(Share(index, count, count)) for index in range(count)]
    for epoch, *parts in zip(made(Share()), *shares, strict=True):
        assert all(len(images) == 4 // count for part in parts for images, *_ in part)
        assert same([joined(*batches) for batches in zip(*parts, strict=True)], epoch)


def joined(*parts: Batch) -> Batch:
    """One batch of several processes' rows."""
    images, labels, weights = zip(*parts, strict=True)
    return (
        np.concatenate(images),
        {head: np.concatenate([part[head] for part in labels]) for head in labels[0]},
        {head: np.concatenate([part[head] for part in weights]) for head in weights[0]},
    )


def test_a_shared_evaluation_comes_to_the_same_means(pixels: PreparedPixels) -> None:
    """As Keras takes them: the loss of a batch is divided by its rows and weighs as much; a figure is divided by its weights."""

    def means(batches: list[Batch]) -> tuple[float, float]:
        wrong = [np.abs(labels["age"][:, 0] - 33) for _, labels, _ in batches]
        weights = [weights["age"] for *_, weights in batches]
        sums = [float((error * weight).sum()) for error, weight in zip(wrong, weights, strict=True)]
        return sum(sums) / sum(map(len, weights)), sum(sums) / float(sum(weight.sum() for weight in weights))

    (alone,) = epochs(Batches(RECORDS, CODES, pixels, 4), 1)
    parts = [epochs(Batches(RECORDS, CODES, pixels, 4, share=Share(index, 2, 2)), 1)[0] for index in range(2)]
    shared = [joined(*batches) for batches in zip(*parts, strict=True)]
    assert [len(images) for images, *_ in shared] == [4, 4, 4] and len(alone[-1][0]) == 3
    assert means(shared) == pytest.approx(means(alone), rel=1e-6)


def test_a_batch_that_devices_cannot_share_is_refused(pixels: PreparedPixels) -> None:
    with pytest.raises(BadInput, match="batch_size=6 cannot be shared by 4 devices; allowed are multiples of 4"):
        Batches(RECORDS, CODES, pixels, 6, share=Share(0, 2, 4))


@given(st.integers(0, 2**32 - 1), st.integers(1, 6), st.integers(2, 5))
def test_a_turned_image_holds_the_same_pixels_at_one_of_eight_places(seed: int, count: int, side: int) -> None:
    images = np.random.default_rng(seed).integers(0, 256, (count, side, side, 3), dtype=np.uint8)
    before = images.copy()
    draws = draw(np.random.default_rng(seed), count)
    found = turned(images, draws)
    for place, view in enumerate((draws.view * 8).astype(int)):
        assert np.array_equal(found[place], orientations.one_of(images[place : place + 1], view)[0])
    assert np.array_equal(images, before) and found.shape == images.shape and found.dtype == np.uint8
    for image, other in zip(images, found, strict=True):
        ways = [np.rot90(way, quarter) for way in (image, image[:, ::-1]) for quarter in range(4)]
        assert any(np.array_equal(way, other) for way in ways)


def test_all_eight_turns_are_drawn_about_equally_often() -> None:
    image = np.arange(4, dtype=np.uint8).reshape(1, 2, 2, 1).repeat(3, axis=3)
    found = turned(image.repeat(4000, axis=0), draw(np.random.default_rng(0), 4000))
    counts = np.unique(found.reshape(4000, -1), axis=0, return_counts=True)[1]
    assert len(counts) == 8 and counts.min() > 400


def test_an_image_that_was_not_prepared_is_not_trained_on(tmp_path: Path) -> None:
    with pytest.raises(KeyError):
        Batches(RECORDS, CODES, PreparedPixels(tmp_path, SMALL), 4)[0]


@given(st.integers(0, 10_000), st.floats(0.05, 0.9))
def test_light_changes_contrast_brightness_and_tint_and_nothing_from_place_to_place(seed: int, reach: float) -> None:
    images = np.random.default_rng(seed).integers(0, 256, (3, 6, 6, 3), dtype=np.uint8)
    draws = draw(np.random.default_rng(seed), 3)
    contrast = 1 + reach * (2 * draws.contrast - 1)
    shift = 255 * reach * ((draws.brightness[:, None] - 0.5) + (draws.tint - 0.5) / 2)
    expected = (images - 127.5) * contrast[:, None, None, None] + 127.5 + shift[:, None, None, :]
    assert np.allclose(lit(images, reach, draws), np.clip(expected, 0, 255), atol=1e-3)


def test_a_crop_is_a_square_of_at_least_its_share_and_the_whole_at_one() -> None:
    # The red of a pixel tells its column, the green its row.
    rows, columns = np.mgrid[0:64, 0:64].astype(np.uint8)
    image = np.stack([columns, rows, np.zeros_like(rows)], axis=-1)[None].repeat(500, axis=0)
    found = cropped(image, 0.5, draw(np.random.default_rng(1), 500)).astype(int)
    width, height = (np.ptp(found[:, :, :, place], axis=(1, 2)) + 1 for place in (0, 1))
    assert np.abs(width - height).max() <= 1 and width.min() >= 32 and width.max() >= 63 and len(set(width)) > 20
    assert np.array_equal(cropped(image, 1.0, draw(np.random.default_rng(1), 500)), image)


def test_no_known_age_is_no_error_of_nought_years() -> None:
    wanted = targets([samples.record(n, age=None) for n in range(2)], CODES)
    answers = Answers(np.array([90.0, 50.0]), wanted.sex, wanted.diagnosis)
    found = figures(answers, wanted, wanted, AgeScale(40.0, 20.0), PLAIN, prefix="val_")
    assert set(found) == {"val_loss", "val_sex_accuracy", "val_diagnosis_accuracy"}
