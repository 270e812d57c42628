"""Metadata that may identify a patient is left behind, and not a pixel changes."""

import io
import struct
from pathlib import Path

import cv2
import numpy as np
import pytest
import samples
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from dermanet.errors import UnreadableImage
from dermanet.imagefile import decode
from dermanet.intake.metadata import strip

SECRET = b"Anna Muster, born 1961"


def segment(marker: int, content: bytes) -> bytes:
    return b"\xff" + bytes([marker]) + struct.pack(">H", len(content) + 2) + content


def with_segments(data: bytes, *segments: bytes) -> bytes:
    """A JPEG with further segments after its first."""
    (length,) = struct.unpack_from(">H", data, 4)
    return data[: 4 + length] + b"".join(segments) + data[4 + length :]


SEGMENTS = {
    "EXIF": segment(0xE1, b"Exif\0\0MM\0*" + SECRET),
    "XMP": segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + SECRET),
    "Photoshop": segment(0xED, b"Photoshop 3.0\0" + SECRET),
    "comment": segment(0xFE, SECRET),
    "JFXX": segment(0xE0, b"JFXX\0\x10" + SECRET),
    "MPF": segment(0xE2, b"MPF\0" + SECRET),
    "APP14 that is not Adobe's": segment(0xEE, b"Maker" + SECRET),
}


@pytest.mark.parametrize("name", SEGMENTS)
def test_a_jpeg_loses_it_and_keeps_its_pixels(name: str) -> None:
    plain = samples.jpeg(3)
    marked = with_segments(plain, SEGMENTS[name])
    assert SECRET in marked and strip(marked, "jpeg") == plain
    assert np.array_equal(decode(marked), decode(plain))


def test_what_follows_the_end_of_a_jpeg_is_left_behind() -> None:
    assert strip(samples.jpeg(3) + SECRET, "jpeg") == samples.jpeg(3)


def test_a_jpeg_s_thumbnail_is_left_behind() -> None:
    plain = samples.jpeg(3)
    (length,) = struct.unpack_from(">H", plain, 4)
    assert plain[6:11] == b"JFIF\0"
    small = plain[6 : 4 + length - 2] + b"\x02\x01" + b"skinny"
    assert strip(plain[:2] + segment(0xE0, small) + plain[4 + length :], "jpeg") == plain


@pytest.mark.parametrize(
    "kept", [segment(0xE2, b"ICC_PROFILE\0\1\1" + b"colours"), segment(0xEE, b"Adobe\0d\0\0\0\0\1")]
)
def test_what_colours_need_stays(kept: bytes) -> None:
    marked = with_segments(samples.jpeg(3), kept)
    assert strip(marked, "jpeg") == marked


def test_what_stands_behind_what_colours_need_is_left_behind() -> None:
    adobe = b"Adobe\0d\0\0\0\0\1"
    marked = with_segments(samples.jpeg(3), segment(0xEE, adobe + SECRET))
    assert strip(marked, "jpeg") == with_segments(samples.jpeg(3), segment(0xEE, adobe))


@pytest.mark.parametrize("kind", [b"gAMA", b"cHRM", b"sRGB", b"PLTE", b"IEND"])
def test_a_chunk_of_a_png_holds_no_more_than_it_is_to_hold(kind: bytes) -> None:
    plain = samples.png(samples.pixels(4))
    secret = samples.png_chunk(kind, SECRET.ljust(24))
    marked = plain[:-12] + secret if kind == b"IEND" else plain[:33] + secret + plain[33:]
    found = strip(marked, "png")
    assert SECRET in marked and SECRET not in found
    assert np.array_equal(decode(found), decode(plain))


def test_a_palette_that_pixels_need_stays() -> None:
    picture = Image.fromarray(samples.pixels(4)).quantize(16)
    written = io.BytesIO()
    picture.save(written, "png")
    assert strip(written.getvalue(), "png") == written.getvalue()


def test_a_progressive_jpeg_with_a_comment_between_its_scans() -> None:
    options = [cv2.IMWRITE_JPEG_PROGRESSIVE, 1, cv2.IMWRITE_JPEG_RST_INTERVAL, 4]
    plain = cv2.imencode(".jpg", samples.pixels(5, 160, 120), options)[1].tobytes()
    second = plain.index(b"\xff\xda", plain.index(b"\xff\xda") + 2)
    marked = plain[:second] + SEGMENTS["comment"] + plain[second:]
    assert plain.count(b"\xff\xda") > 3 and b"\xff\xd0" in plain
    assert strip(plain, "jpeg") == plain == strip(marked, "jpeg")


@given(
    st.lists(
        st.tuples(st.sampled_from([b"tEXt", b"zTXt", b"iTXt", b"eXIf", b"tIME", b"prIv"]), st.binary()), max_size=4
    )
)
def test_a_png_loses_every_chunk_that_pixels_do_not_need(chunks: list[tuple[bytes, bytes]]) -> None:
    plain = samples.png(samples.pixels(4))
    head = 8 + 25
    marked = plain[:head] + b"".join(samples.png_chunk(*chunk) for chunk in chunks) + plain[head:] + SECRET
    assert strip(marked, "png") == strip(plain, "png")
    assert np.array_equal(decode(strip(marked, "png")), decode(marked))


def test_a_png_keeps_its_gamma_and_its_profile() -> None:
    plain = strip(samples.png(samples.pixels(4)), "png")
    marked = plain[:33] + samples.png_chunk(b"gAMA", struct.pack(">I", 45455)) + plain[33:]
    assert strip(marked, "png") == marked


EVERY_KIND = {
    "colour": samples.pixels(4),
    "grey": samples.pixels(4)[..., 0],
    "opaque": np.dstack([samples.pixels(4), np.full((48, 64), 255, np.uint8)]),
    "deep": samples.pixels(4).astype(np.uint16) * 257,
}


@pytest.mark.parametrize("kind", EVERY_KIND)
def test_pixels_of_every_kind_of_png_stay(kind: str) -> None:
    data = samples.png(EVERY_KIND[kind])
    assert np.array_equal(decode(strip(data, "png")), decode(data))


@given(st.binary(max_size=200), st.integers(0, 3000))
def test_no_bytes_end_in_anything_but_a_file_or_a_refusal(noise: bytes, at: int) -> None:
    for data, kind in ((samples.jpeg(1), "jpeg"), (samples.png(samples.pixels(1)), "png")):
        try:
            strip(data[:at] + noise, kind)
        except UnreadableImage as error:
            assert error.reason == "undecodable"


def test_real_images_keep_every_pixel(real_data: Path) -> None:
    for path in sorted(real_data.rglob("*.jpg"))[::40]:
        data = path.read_bytes()
        bare = strip(data, "jpeg")
        assert np.array_equal(decode(bare), decode(data)) and b"Exif" not in bare
        assert strip(bare, "jpeg") == bare and io.BytesIO(bare).read(2) == b"\xff\xd8"
