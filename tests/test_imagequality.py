"""Brightness, contrast and detail: measured fast, and as they were measured before."""

import cv2
import numpy as np
import pytest
import samples
from hypothesis import given
from hypothesis import strategies as st

from dermanet import imagequality
from dermanet.imagequality import Quality
from dermanet.intake.look import look


@pytest.mark.parametrize("shape", [(450, 600), (225, 300), (28, 28), (2, 3000), (300, 41)])
def test_quality_is_what_it_was_before_it_was_fast(shape: tuple[int, int]) -> None:
    pixels = samples.pixels(3, shape[1], shape[0])
    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    if max(shape) > 256:
        size = [max(2, round(length * 256 / max(shape))) for length in shape[::-1]]
        grey = cv2.resize(grey, size, interpolation=cv2.INTER_AREA)
    low, high = np.percentile(grey, (1, 99))
    found = imagequality.measure(pixels)
    assert found == Quality(float(grey.mean()), float(high - low), float(cv2.Laplacian(grey, cv2.CV_32F).var()))
    seen = look(pixels)
    assert (seen.brightness, seen.contrast, seen.detail) == (found.brightness, found.contrast, found.detail)


@given(st.integers(2, 40), st.integers(2, 40), st.integers(0, 1000))
def test_contrast_is_the_difference_of_numpy_s_percentiles(width: int, height: int, seed: int) -> None:
    grey = np.random.default_rng(seed).integers(0, 256, (height, width), dtype=np.uint8)
    low, high = np.percentile(grey, (1, 99))
    assert imagequality.of_grey(grey).contrast == pytest.approx(high - low, abs=1e-9)
