"""Textures: correlations of channels, sketched in a fixed number of numbers."""

import hashlib

import numpy as np
import pytest
from numpy.typing import NDArray

from dermanet.learning.lite import SKETCH
from dermanet.learning.quiet import keras
from dermanet.learning.textures import LEAST, scattered, sketch

CHANNELS = (80, 112)


def correlations(one: NDArray[np.float64]) -> NDArray[np.float64]:
    """Of one map (places, channels): the upper half of its matrix of correlations, in plain NumPy."""
    centred = one - one.mean(axis=0)
    found = centred / np.sqrt(np.mean(centred**2, axis=0) + LEAST)
    return np.asarray((found.T @ found / len(one))[np.triu_indices(one.shape[1], 1)])


def drawn(seed: int) -> list[NDArray[np.float32]]:
    """Two maps (4, 5, 5, channels) whose channels go together, otherwise in each of the four images."""
    rng = np.random.default_rng(seed)
    return [
        np.stack([rng.normal(size=(5, 5, 6)) @ rng.normal(size=(6, width)) for _ in range(4)]).astype(np.float32)
        for width in CHANNELS
    ]


def sketched(maps: list[NDArray[np.float32]]) -> NDArray[np.float32]:
    return np.array(sketch([keras.ops.convert_to_tensor(one) for one in maps]))


def test_every_correlation_is_dealt_out_once() -> None:
    places, signs = scattered(CHANNELS)
    wanted = [80 * 79 // 2, 112 * 111 // 2]
    assert len(places) == len(signs) == 5 * SKETCH
    dealt = places[signs != 0]
    assert len(set(dealt)) == len(dealt) == sum(wanted)
    assert np.sum(dealt < 80 * 80) == wanted[0]
    # Above the diagonal of its matrix, each.
    assert all(place // 80 < place % 80 for place in dealt if place < 80 * 80)
    assert all((place - 6400) // 112 < (place - 6400) % 112 for place in dealt if place >= 80 * 80)
    assert abs(signs.sum()) < 5 * np.sqrt(sum(wanted))


def test_a_sketch_is_never_another_one() -> None:
    # Kept features and the heads of registered versions stand on it: whoever changes it raises `feature_rows.REVISION`.
    places, signs = scattered(CHANNELS)
    assert hashlib.sha256(places.tobytes() + signs.tobytes()).hexdigest()[:16] == "ecbd7da45bca76fb"


def test_a_sketch_adds_up_correlations_with_their_signs() -> None:
    maps = drawn(1)
    places, signs = scattered(CHANNELS)
    for row, image in enumerate(zip(*maps, strict=True)):
        matrices = []
        for one, width in zip(image, CHANNELS, strict=True):
            half = np.zeros((width, width))
            half[np.triu_indices(width, 1)] = correlations(one.reshape(-1, width).astype(float))
            matrices.append(half.ravel())
        expected = np.zeros(SKETCH)
        np.add.at(expected, np.arange(len(places)) % SKETCH, np.concatenate(matrices)[places] * signs)
        assert np.allclose(sketched(maps)[row], expected, atol=1e-4)


def test_products_of_sketches_are_those_of_the_correlations() -> None:
    maps = drawn(2) + drawn(3)
    images = [
        [one[row].reshape(-1, one.shape[-1]).astype(float) for one in maps[at : at + 2]]
        for at in (0, 2)
        for row in range(4)
    ]
    whole = np.stack([np.concatenate([correlations(one) for one in image]) for image in images])
    short = np.concatenate([sketched(maps[:2]), sketched(maps[2:])])
    lengths = np.linalg.norm(whole, axis=1)
    wrong = (short @ short.T - whole @ whole.T) / np.outer(lengths, lengths)
    # One standard deviation of a count sketch is at most the square root of two in so many numbers.
    assert np.abs(wrong).max() < 5 * np.sqrt(2 / SKETCH)


@pytest.mark.parametrize("level", [0.0, 1000.0])
def test_what_is_the_same_everywhere_goes_with_nothing(level: float) -> None:
    maps = [np.full((2, 5, 5, width), level, np.float32) for width in CHANNELS]
    assert np.abs(sketched(maps)).max() < 1e-3


def test_neither_brightness_nor_contrast_of_a_channel_is_a_texture() -> None:
    maps = drawn(4)
    rng = np.random.default_rng(5)
    changed = [
        (one * rng.uniform(2, 3, one.shape[-1]) + rng.normal(size=one.shape[-1])).astype(np.float32) for one in maps
    ]
    assert np.allclose(sketched(maps), sketched(changed), atol=2e-3)
