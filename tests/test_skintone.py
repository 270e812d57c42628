"""The typology angle: of skin and not of the lesion, the hair or the dark corners; none where no skin is."""

import cv2
import numpy as np
import pytest
from numpy.typing import NDArray

from dermanet.intake.skintone import typology_angle


def skin(lightness: float, yellowness: float, height: int = 450, width: int = 600) -> NDArray[np.uint8]:
    """A picture of one colour by its place in CIELAB."""
    one = np.float32([[[lightness, 12.0, yellowness]]])
    colour = np.rint(255 * cv2.cvtColor(one, cv2.COLOR_Lab2RGB)[0, 0]).astype(np.uint8)
    return np.tile(colour, (height, width, 1))


def lesion(pixels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """The same with a brown spot in the middle, hair across it, and the round picture of a dermoscope."""
    height, width = pixels.shape[:2]
    drawn = pixels.copy()
    cv2.ellipse(drawn, (width // 2, height // 2), (width // 5, height // 5), 20, 0, 360, (90, 50, 40), -1)
    for column in range(0, width, 60):
        cv2.line(drawn, (column, 0), (column + 90, height), (40, 30, 25), 2)
    inside = np.zeros((height, width), np.uint8)
    cv2.circle(inside, (width // 2, height // 2), int(0.58 * width), 1, -1)
    return np.where(inside[..., None] > 0, drawn, 4).astype(np.uint8)


@pytest.mark.parametrize(("lightness", "yellowness"), [(75, 12), (68, 16), (60, 20), (52, 22), (40, 18), (30, 12)])
def test_the_angle_is_that_of_the_skin_around_a_lesion(lightness: float, yellowness: float) -> None:
    expected = np.degrees(np.arctan2(lightness - 50, yellowness))
    assert typology_angle(skin(lightness, yellowness)) == pytest.approx(expected, abs=3)
    assert typology_angle(lesion(skin(lightness, yellowness))) == pytest.approx(expected, abs=4)


def test_no_skin_has_no_angle() -> None:
    assert typology_angle(np.zeros((450, 600, 3), np.uint8)) is None
    assert typology_angle(skin(70, 15, 5, 5)) is None


@pytest.mark.parametrize("shape", [(1, 600), (600, 1), (2, 3), (450, 600), (3000, 4000)])
def test_any_shape_is_looked_at(shape: tuple[int, int]) -> None:
    found = typology_angle(np.random.default_rng(0).integers(0, 256, (*shape, 3), np.uint8))
    assert found is None or -90 <= found <= 90


def test_skin_without_yellow_is_at_the_end_of_the_scale() -> None:
    assert typology_angle(skin(80, -3)) == pytest.approx(90, abs=0.1)
