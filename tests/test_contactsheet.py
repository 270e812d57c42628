"""Contact sheets: whole images, small, never enlarged, with nothing that needs another file."""

import base64

import numpy as np
import pytest
import samples

from dermanet.contactsheet import SIDE, thumbnail, tile
from dermanet.errors import UnreadableImage
from dermanet.imagefile import decode, read_header


@pytest.mark.parametrize(
    ("size", "small"), [((600, 450), (144, 108)), ((450, 600), (108, 144)), ((1600, 400), (144, 36))]
)
def test_a_tile_shows_the_whole_image_at_its_own_shape(size: tuple[int, int], small: tuple[int, int]) -> None:
    width, height = size
    pixels = np.zeros((height, width, 3), np.uint8)
    pixels[:, width // 2 :] = 200
    shown = decode(thumbnail(samples.png(pixels)))
    assert shown.shape == (small[1], small[0], 3)
    assert shown[:, : small[0] // 2 - 12].max() < 20 and shown[:, small[0] // 2 + 12 :].min() > 180


def test_a_small_image_is_not_enlarged() -> None:
    header = read_header(thumbnail(samples.jpeg(width=64, height=48)))
    assert (header.width, header.height) == (64, 48)


def test_a_tile_is_an_address_with_the_jpeg_in_it() -> None:
    made = tile(samples.jpeg(width=600, height=450), "ISIC_1, nv")
    kind, _, data = made.address.partition(",")
    assert (made.caption, kind) == ("ISIC_1, nv", "data:image/jpeg;base64")
    assert read_header(base64.b64decode(data)).width == SIDE


def test_a_file_that_is_no_image_is_refused() -> None:
    with pytest.raises(UnreadableImage, match="not an image"):
        thumbnail(b"nothing of the kind")
