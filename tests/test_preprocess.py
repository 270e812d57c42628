"""From image bytes to prepared pixels: each operation alone, the chain as plain OpenCV says it, recipes by fingerprint."""

import dataclasses
from typing import Any

import cv2
import numpy as np
import pytest
import samples
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray

from dermanet import imagefile
from dermanet.errors import BadInput, UnreadableImage
from dermanet.intake.synthetic import SyntheticSource
from dermanet.pixels import preprocess
from dermanet.pixels.preprocess import RECIPES, Recipe, recipe

NOISE = np.random.default_rng(5).integers(0, 256, (90, 120, 3), dtype=np.uint8)
SKIN = np.clip(samples.pixels(5, 120, 90) // 4 + np.array((150, 100, 90), np.uint8), 0, 255).astype(np.uint8)


def chroma(image: NDArray[np.uint8]) -> NDArray[np.float64]:
    """Red and blue minus luma, pixel by pixel: what is left of a colour when its lightness is taken away."""
    rgb = image.astype(float)
    luma = rgb @ (0.299, 0.587, 0.114)
    return np.stack([rgb[..., 0] - luma, rgb[..., 2] - luma], axis=-1)


def relit(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """CLAHE on the luminance alone, as the recipe `dermanet` does it."""
    luma = preprocess.luminance(image)
    return preprocess.relit(image, luma, preprocess.equalize(luma, 2.0, 8))


def test_blur_lowers_variance_and_keeps_the_mean() -> None:
    found = preprocess.blur(NOISE, 5)
    assert found.shape == NOISE.shape and found.dtype == np.uint8
    assert found.var() < NOISE.var() / 4 and abs(found.mean() - NOISE.mean()) < 1


def test_a_wider_blur_lowers_it_more() -> None:
    variances = [preprocess.blur(NOISE, side).var() for side in (3, 5, 9)]
    assert variances == sorted(variances, reverse=True)


def test_equalizing_spreads_lightness_and_keeps_colour() -> None:
    found = relit(SKIN)
    assert found.mean(axis=2).std() > 1.3 * SKIN.mean(axis=2).std()
    assert np.abs(chroma(found) - chroma(SKIN)).mean() < 1.5


def test_equalizing_each_colour_alone_would_lose_it() -> None:
    # The chain that was published does so; this is why ours does not.
    clahe = cv2.createCLAHE(2.0, (8, 8))
    apart = np.dstack([clahe.apply(np.ascontiguousarray(SKIN[..., channel])) for channel in range(3)])
    ours = relit(SKIN)
    assert np.abs(chroma(apart) - chroma(SKIN)).mean() > 3 * np.abs(chroma(ours) - chroma(SKIN)).mean()


def test_equalizing_leaves_an_even_grey_without_colour() -> None:
    grey = np.full((64, 64, 3), 90, np.uint8)
    assert np.ptp(relit(grey), axis=2).max() == 0


@pytest.mark.parametrize("shape", [(90, 120), (28, 28), (450, 600), (64, 300)])
@pytest.mark.parametrize("size", [16, 64, 256])
def test_resize_makes_squares_of_any_shape(shape: tuple[int, int], size: int) -> None:
    assert preprocess.resize(np.zeros((*shape, 3), np.uint8), size).shape == (size, size, 3)


def test_shrinking_averages_and_does_not_pick() -> None:
    stripes = np.zeros((64, 64, 3), np.uint8)
    stripes[:, ::2] = 255
    found = preprocess.resize(stripes, 32)
    assert (np.abs(found.astype(int) - 127.5) < 1).all()


@pytest.mark.parametrize("name", list(RECIPES))
@pytest.mark.parametrize("shape", [(90, 120), (28, 400), (300, 200)])
def test_every_recipe_makes_its_square_of_bytes(name: str, shape: tuple[int, int]) -> None:
    found = preprocess.apply(np.resize(NOISE, (*shape, 3)), 1, recipe(f"{name}@48"))
    assert found.shape == (48, 48, 3) and found.dtype == np.uint8


def test_relighting_is_a_way_to_ycrcb_and_back_to_within_three_levels() -> None:
    luma, red, blue = cv2.split(cv2.cvtColor(SKIN, cv2.COLOR_RGB2YCrCb))
    there = cv2.merge([cv2.createCLAHE(2.0, (8, 8)).apply(luma), red, blue])
    apart = cv2.absdiff(cv2.cvtColor(there, cv2.COLOR_YCrCb2RGB), relit(SKIN))
    assert apart.max() <= 3 and apart.mean() < 0.5


def test_the_dermanet_recipe_is_what_plain_opencv_calls_make() -> None:
    image = cv2.cvtColor(cv2.imdecode(np.frombuffer(samples.png(NOISE), np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)
    large = cv2.resize(image, (256, 256))
    luma = cv2.cvtColor(large, cv2.COLOR_RGB2GRAY)
    blurred = cv2.GaussianBlur(luma, (11, 13), 1.1 * 256 / 120, None, 1.1 * 256 / 90)
    even = cv2.createCLAHE(2.0, (8, 8)).apply(blurred).astype(int)
    expected = np.clip(large + (even - luma)[..., None], 0, 255).astype(np.uint8)
    assert np.array_equal(preprocess.prepare(samples.png(NOISE), recipe("dermanet")), expected)
    smaller = cv2.resize(expected, (64, 64), interpolation=cv2.INTER_AREA)
    assert np.array_equal(preprocess.prepare(samples.png(NOISE), recipe("dermanet@64")), smaller)


@pytest.mark.parametrize("data", [samples.jpeg(4, 600, 450), samples.png(NOISE)], ids=["jpeg", "png"])
def test_the_grey_recipe_is_the_original_app_s_chain_to_the_last_bit(data: bytes) -> None:
    grey = cv2.cvtColor(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2GRAY)
    even = cv2.createCLAHE(clipLimit=2.0, tileGridSize=(8, 8)).apply(cv2.GaussianBlur(grey, (5, 5), 0))
    expected = cv2.resize(cv2.cvtColor(even, cv2.COLOR_GRAY2RGB), (256, 256))
    assert np.array_equal(preprocess.prepare(data, recipe("grey")), expected)


def whole(data: bytes, size: int) -> NDArray[np.uint8]:
    """What `dermanet` is short for: everything at full size and averaged down last."""
    ycc = cv2.cvtColor(cv2.GaussianBlur(imagefile.decode(data), (5, 5), 0), cv2.COLOR_RGB2YCrCb)
    ycc[..., 0] = cv2.createCLAHE(2.0, (8, 8)).apply(ycc[..., 0])
    return preprocess.resize(np.asarray(cv2.cvtColor(ycc, cv2.COLOR_YCrCb2RGB), np.uint8), size)


@pytest.mark.parametrize("size", [64, 128, 256, 400])
def test_a_reduced_scale_stays_close_to_the_chain_at_full_size(size: int) -> None:
    source = SyntheticSource(lesions=12)
    for data in [source.read(str(row.image)) for row in source.rows()][:12]:
        found = preprocess.prepare(data, recipe(f"dermanet@{size}"))
        apart = cv2.absdiff(found, whole(data, size))
        assert apart.mean() < 8 and np.percentile(apart, 99) < 28
        # What is no difference of scale: a channel swapped, a blur or an equalization left out.
        assert cv2.absdiff(found, whole(data, size)[..., ::-1]).mean() > 2 * apart.mean()


def test_a_blur_is_narrowed_by_as_much_as_the_image_was_reduced() -> None:
    big = samples.pixels(5, 480, 360)
    wanted = cv2.resize(preprocess.blur(big, 9), (240, 120), interpolation=cv2.INTER_AREA)
    small = np.asarray(cv2.resize(big, (240, 120), interpolation=cv2.INTER_AREA), np.uint8)
    assert cv2.absdiff(preprocess.blur(small, 9, 2, 3), wanted).mean() < cv2.absdiff(small, wanted).mean() / 2
    assert preprocess.blur(small, 5, 20, 20) is small


@pytest.mark.parametrize("image", [NOISE, NOISE.transpose(1, 0, 2)])
def test_the_square_recipe_keeps_the_middle_and_its_shape(image: NDArray[np.uint8]) -> None:
    middle = NOISE[:, 15:105] if image is NOISE else NOISE[:, 15:105].transpose(1, 0, 2)
    assert np.array_equal(preprocess.centre(image), middle)
    assert np.array_equal(preprocess.apply(image, 1, recipe("square@64")), preprocess.resize(middle, 64))


def test_the_plain_recipe_only_resizes() -> None:
    assert np.array_equal(preprocess.apply(NOISE, 1, recipe("plain@64")), preprocess.resize(NOISE, 64))


def test_blur_and_equalizing_still_show_inside_the_chain() -> None:
    full, plain = recipe("dermanet@90"), recipe("plain@90")
    only_blur = preprocess.apply(NOISE, 1, dataclasses.replace(full, clip=0.0))
    only_equal = preprocess.apply(SKIN, 1, dataclasses.replace(full, blur=0))
    assert preprocess.luminance(only_blur).var() < preprocess.luminance(preprocess.apply(NOISE, 1, plain)).var() / 2
    assert only_equal.mean(axis=2).std() > 1.2 * preprocess.apply(SKIN, 1, plain).mean(axis=2).std()


@given(st.integers(0, 2**32 - 1), st.integers(28, 90), st.integers(28, 90))
def test_preparing_changes_nothing_it_was_given_and_repeats_itself(seed: int, width: int, height: int) -> None:
    image = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    before = image.copy()
    first, second = (preprocess.apply(image, 1, recipe("dermanet@32")) for _ in range(2))
    assert np.array_equal(image, before) and np.array_equal(first, second)


def test_a_bad_file_is_refused_before_it_is_prepared() -> None:
    with pytest.raises(UnreadableImage):
        preprocess.prepare(samples.jpeg()[:-200], recipe("dermanet@32"))


CHANGES: list[dict[str, Any]] = [
    {"size": 128}, {"order": "luma blur equalize resize"}, {"reach": 1.0}, {"room": 128}, {"sampling": "linear"}, {"blur": 3},
    {"clip": 3.0}, {"tiles": 4},
]  # fmt: skip


def test_a_fingerprint_names_every_part_of_a_recipe() -> None:
    base = recipe("dermanet")
    others = [dataclasses.replace(base, **change) for change in CHANGES]
    assert {field.name for field in dataclasses.fields(Recipe)} == {"name"}.union(*CHANGES)
    assert recipe("dermanet@256").fingerprint == base.fingerprint == Recipe("dermanet").fingerprint
    assert len({other.fingerprint for other in (base, *others, recipe("plain"), recipe("grey"))}) == 11


def test_a_fingerprint_changes_with_the_revision_of_the_code(monkeypatch: pytest.MonkeyPatch) -> None:
    before = recipe("dermanet").fingerprint
    monkeypatch.setattr(preprocess, "REVISION", preprocess.REVISION + 1)
    assert recipe("dermanet").fingerprint != before


def test_a_recipe_comes_back_from_its_own_record_and_from_no_other_revision() -> None:
    found = recipe("dermanet@64")
    assert preprocess.from_dict(found.as_dict()) == found
    with pytest.raises(BadInput, match="revision 99"):
        preprocess.from_dict({**found.as_dict(), "revision": 99})
    with pytest.raises(BadInput, match="revision None"):
        preprocess.from_dict({"name": "dermanet"})


@pytest.mark.parametrize(
    "text", ["", "derma", "dermanet@", "dermanet@x", "dermanet@15", "dermanet@1025", "dermanet@64@64", "dermanet 64"]
)
def test_an_unknown_recipe_is_refused_in_one_line_that_says_what_is_allowed(text: str) -> None:
    with pytest.raises(BadInput, match=r"allowed are") as caught:
        recipe(text)
    assert repr(text) in str(caught.value) and "\n" not in str(caught.value)
