"""Kinds of files: those that are read give what another reader gives, to one level; all others are refused by what they are."""

import io
import struct
import zlib
from itertools import product

import numpy as np
import pytest
import samples
import simplejpeg
from hypothesis import given
from hypothesis import strategies as st
from numpy.typing import NDArray
from PIL import Image

from dermanet.errors import UnreadableImage
from dermanet.imagefile import MOST_BYTES, decode, read_header
from dermanet.intake.metadata import strip
from dermanet.intake.screening import check_image
from dermanet.records import Refusal

PIXELS = samples.pixels(3, 64, 48)
PICTURE = Image.fromarray(PIXELS)
JPEG = samples.jpeg(3)
FRAME = JPEG.index(b"\xff\xc0")


def saved(picture: Image.Image, kind: str, **options: object) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def refused(data: bytes) -> str:
    with pytest.raises(UnreadableImage) as caught:
        decode(data)
    assert caught.value.reason == "not RGB-convertible" and "\n" not in str(caught.value)
    return caught.value.detail


def without(data: bytes, marker: int) -> bytes:
    """A JPEG without its first segment of a marker."""
    start = data.index(bytes([0xFF, marker]))
    return data[:start] + data[start + 2 + struct.unpack_from(">H", data, start + 2)[0] :]


def with_frame(marker: int = 0xC0, precision: int = 8) -> bytes:
    return JPEG[: FRAME + 1] + bytes([marker]) + JPEG[FRAME + 2 : FRAME + 4] + bytes([precision]) + JPEG[FRAME + 5 :]


def with_channels(*sampling: int) -> bytes:
    """A JPEG whose frame says that it has these channels; what follows is as it was."""
    channels = b"".join(bytes([number + 1, factors, 0]) for number, factors in enumerate(sampling))
    frame = struct.pack(">BHHB", 8, 48, 64, len(sampling)) + channels
    return JPEG[: FRAME + 2] + struct.pack(">H", len(frame) + 2) + frame + JPEG[FRAME + 19 :]


def png(kind: int, lines: NDArray[np.generic], *chunks: tuple[bytes, bytes], depth: int = 8) -> bytes:
    """A PNG written by hand: colour type and depth as the format numbers them, other chunks before the pixels."""
    header = struct.pack(">IIBBBBB", 64, 48, depth, kind, 0, 0, 0)
    raw = zlib.compress(b"".join(b"\0" + line.tobytes() for line in lines))
    parts = [(b"IHDR", header), *chunks, (b"IDAT", raw), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(samples.png_chunk(name, data) for name, data in parts)


READ = {
    "JPEG 4:4:4": saved(PICTURE, "JPEG", quality=95, subsampling=0),
    "JPEG 4:2:0": saved(PICTURE, "JPEG", quality=90),
    "JPEG progressive": saved(PICTURE, "JPEG", quality=90, progressive=True),
    "JPEG grey": saved(PICTURE.convert("L"), "JPEG"),
    "JPEG stored as RGB": saved(PICTURE, "JPEG", keep_rgb=True),
    "JPEG CMYK": saved(PICTURE.convert("CMYK"), "JPEG", quality=95),
    "JPEG YCCK": bytes(simplejpeg.encode_jpeg(np.asarray(PICTURE.convert("CMYK")).copy(), 95, "CMYK", "444")),
    "JPEG extended": with_frame(0xC1),
    "JPEG with restarts": saved(PICTURE, "JPEG", restart_marker_blocks=2),
    "PNG RGB": saved(PICTURE, "PNG"),
    "PNG interlaced": samples.interlaced(PIXELS),
    "PNG grey": saved(PICTURE.convert("L"), "PNG"),
    "PNG black and white": saved(PICTURE.convert("1"), "PNG"),
    "PNG palette": saved(PICTURE.quantize(200), "PNG"),
    "PNG palette of 4 bits": saved(PICTURE.quantize(16), "PNG", bits=4),
    "PNG opaque alpha": saved(PICTURE.convert("RGBA"), "PNG"),
    "PNG grey, opaque alpha": saved(PICTURE.convert("LA"), "PNG"),
    "PNG opaque palette": saved(PICTURE.quantize(8), "PNG", transparency=bytes([255] * 8)),
    "PNG gamma": png(2, PIXELS, (b"gAMA", struct.pack(">I", 100_000))),
    "PNG key that no pixel has": png(0, PIXELS[..., 0] | 1, (b"tRNS", struct.pack(">H", 100))),
    "APNG": saved(PICTURE, "PNG", save_all=True, append_images=[PICTURE.rotate(180)]),
    "APNG, another picture first": saved(
        PICTURE, "PNG", save_all=True, default_image=True, append_images=[PICTURE.rotate(180)]
    ),
    "APNG, two other pictures after it": saved(
        PICTURE, "PNG", save_all=True, default_image=True, append_images=[PICTURE.rotate(180), PICTURE.rotate(90)]
    ),
}
HALF = np.where(np.arange(64) < 32, 0, 255).astype(np.uint8) + np.zeros((48, 1), np.uint8)
ALMOST = np.full((48, 64), 255, np.uint8)
ALMOST[20, 30] = 254
REFUSED = {
    "lossless": (with_frame(0xC3), "a lossless JPEG"),
    "JPEG-LS": (with_frame(0xF7), "a lossless JPEG"),
    "hierarchical": (with_frame(0xC5), "a hierarchical JPEG"),
    "arithmetic": (with_frame(0xC9), "an arithmetically coded JPEG"),
    "arithmetic, progressive": (with_frame(0xCA), "an arithmetically coded JPEG"),
    "12 bits": (with_frame(0xC1, 12), "a JPEG with 12 bits a channel"),
    "two channels": (with_channels(0x11, 0x11), "a JPEG with 2 channels"),
    "five channels": (with_channels(*[0x11] * 5), "a JPEG with 5 channels"),
    "sampling": (with_channels(0x11, 0x22, 0x13), "a JPEG whose channels are sampled 1x1, 2x2, 1x3"),
    "inks without a mark": (without(saved(PICTURE.convert("CMYK"), "JPEG"), 0xEE), "without Adobe's mark"),
    "alpha": (samples.png(np.dstack([PIXELS, HALF])), "50.0% of the PNG is transparent"),
    "alpha of 16 bits": (samples.png(np.dstack([PIXELS, HALF]).astype(np.uint16) * 257), "50.0% of the PNG"),
    "one pixel": (samples.png(np.dstack([PIXELS, ALMOST])), "less than 0.1%"),
    "grey and alpha": (png(4, np.dstack([PIXELS[..., 0], HALF])), "50.0%"),
    "palette": (saved(PICTURE.quantize(8), "PNG", transparency=bytes([0] * 8)), "100.0%"),
    "colour key": (png(2, np.dstack([HALF] * 3), (b"tRNS", bytes(6))), "50.0%"),
    "grey key": (png(0, HALF, (b"tRNS", struct.pack(">H", 255))), "50.0%"),
    "grey key of one bit": (png(0, np.packbits(HALF > 0, axis=1), (b"tRNS", struct.pack(">H", 1)), depth=1), "50.0%"),
    "grey key of 16 bits": (png(0, HALF.astype(">u2") * 257, (b"tRNS", struct.pack(">H", 65535)), depth=16), "50.0%"),
}  # fmt: skip


@pytest.mark.parametrize("data", READ.values(), ids=READ)
def test_what_is_read_is_what_another_reader_reads(data: bytes) -> None:
    theirs = np.asarray(Image.open(io.BytesIO(data)).convert("RGB"), np.int16)
    assert np.abs(decode(data) - theirs).max() <= 1


@pytest.mark.parametrize("data", READ.values(), ids=READ)
def test_what_is_read_is_read_the_same_without_its_metadata(data: bytes) -> None:
    assert np.array_equal(decode(strip(data, read_header(data).format)), decode(data))


def test_what_is_taken_in_decodes_as_it_is_stored() -> None:
    # Two of these flips decode only as long as something follows the end, which is left behind.
    whole = saved(Image.fromarray(samples.pixels(3, 90, 70)).convert("CMYK"), "JPEG")
    scan = whole.index(b"\xff\xda") + 14
    taken = 0
    for place, bit in product(range(scan, scan + 100), range(8)):
        data = bytearray(whole + b"ten bytes!")
        data[place] ^= 1 << bit
        if isinstance(check_image(bytes(data), "I1", judge=False), tuple):
            decode(strip(bytes(data), "jpeg"))
            taken += 1
    assert taken


@pytest.mark.parametrize("change", [(b"IDAT", 3), (b"fcTL", -4)], ids=["pixels", "kind"])
def test_a_damaged_animation_is_read_as_its_picture_or_not_at_all(change: tuple[bytes, int]) -> None:
    data = bytearray(saved(PICTURE, "PNG", save_all=True, append_images=[PICTURE.rotate(180)]))
    chunk, place = change
    # What is stored has no animation, and must decode to what was judged.
    data[data.index(chunk) + 4 + place] ^= 1
    try:
        pixels = decode(bytes(data))
    except UnreadableImage:
        return
    assert np.array_equal(decode(strip(bytes(data), "png")), pixels)


def test_sixteen_grey_bits_become_eight() -> None:
    deep = PIXELS[..., 0].astype(np.uint16) * 256 + 100
    assert np.array_equal(decode(png(0, deep.astype(">u2"), depth=16))[..., 1], PIXELS[..., 0])


@pytest.mark.parametrize(("data", "said"), REFUSED.values(), ids=REFUSED)
def test_what_has_no_faithful_rgb_is_refused_by_what_it_is(data: bytes, said: str) -> None:
    assert said in refused(data) and "save it" in refused(data)
    found = check_image(data, "I1")
    assert isinstance(found, Refusal) and found.reason == "not RGB-convertible"


@pytest.mark.parametrize(
    ("data", "name"),
    [
        (saved(PICTURE, "GIF"), "GIF"), (saved(PICTURE, "TIFF"), "TIFF"), (saved(PICTURE, "BMP"), "BMP"),
        (saved(PICTURE, "WEBP"), "WebP"), (saved(PICTURE, "JPEG2000"), "JPEG 2000"), (saved(PICTURE, "PDF"), "PDF"),
        (saved(PICTURE, "AVIF"), "AVIF"),
        (b"\0\0\0\x18ftypheic\0\0\0\0mif1heic", "HEIC"), (bytes(128) + b"DICM\2\0\0\0", "DICOM"), (b"PK\3\4", "ZIP"),
    ],
)  # fmt: skip
def test_a_file_of_another_format_is_called_by_its_name(data: bytes, name: str) -> None:
    with pytest.raises(UnreadableImage, match=f"it looks like {name};") as caught:
        decode(data)
    assert caught.value.reason == "not an image"


WHOLE = {"jpeg": samples.jpeg(5, 90, 70), "png": samples.png(samples.pixels(5, 90, 70)), **READ}


def answered(data: bytes) -> bool:
    """Whether the whole screening takes the bytes or refuses them with a reason and one line; whatever else it does fails."""
    found = check_image(data, "I1")
    if isinstance(found, Refusal):
        assert found.reason and found.detail and "\n" not in found.detail
        return False
    return True


@pytest.mark.parametrize("data", WHOLE.values(), ids=WHOLE)
def test_a_file_cut_at_every_fiftieth_byte_is_refused(data: bytes) -> None:
    assert not any(answered(data[:end]) for end in range(0, len(data) - 12, 50))


@given(
    st.sampled_from(list(WHOLE.values())), st.lists(st.tuples(st.integers(0, 10**6), st.integers(1, 255)), max_size=8)
)
def test_whatever_bits_are_flipped_there_is_an_answer(data: bytes, flips: list[tuple[int, int]]) -> None:
    damaged = bytearray(data)
    for place, bits in flips:
        damaged[place % len(damaged)] ^= bits
    # A pixel array or a refusal with its reason: anything else would be raised here.
    assert answered(bytes(damaged)) in (True, False)


@pytest.mark.parametrize("fill", [b"\xff\xfe\0\2", b"\xff", b"\xff\xd0"], ids=["comments", "fill bytes", "restarts"])
def test_a_file_of_nothing_but_markers_costs_little(fill: bytes) -> None:
    data = b"\xff\xd8\xff\xe0" + struct.pack(">H", 2) + fill * (MOST_BYTES // 4 // len(fill))
    assert not answered(data)


def test_an_image_behind_more_segments_than_any_picture_needs_is_refused() -> None:
    found = check_image(JPEG[:2] + b"\xff\xfe\0\2" * 10_001 + JPEG[2:], "I1")
    assert isinstance(found, Refusal)
    assert (found.reason, found.detail[:21]) == ("too large", "more than 10,000 segm")


def test_a_mark_of_adobe_s_that_is_cut_short_is_none() -> None:
    inks = saved(PICTURE.convert("CMYK"), "JPEG")
    mark = inks.index(b"Adobe")
    short = inks[: mark - 2] + struct.pack(">H", 13) + inks[mark : mark + 11] + inks[mark + 12 :]
    assert "without Adobe's mark" in refused(short)
