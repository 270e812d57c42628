"""Image files: a whole JPEG or PNG becomes pixels, everything else a refusal with its reason, before it costs anything."""

import struct
import subprocess
import sys
import tracemalloc
import zlib
from collections.abc import Callable

import cv2
import numpy as np
import pytest
import samples
import simplejpeg
from hypothesis import given
from hypothesis import strategies as st

from dermanet import imagefile
from dermanet.errors import UnreadableImage
from dermanet.imagefile import Header, decode, read_header

PIXELS = samples.pixels(3, 64, 48)
JPEG, PNG = samples.jpeg(3, 64, 48), samples.png(PIXELS)


def reason(data: bytes) -> str:
    with pytest.raises(UnreadableImage) as caught:
        decode(data)
    assert "\n" not in str(caught.value)
    return caught.value.reason


def test_a_png_keeps_every_pixel() -> None:
    found = decode(PNG)
    assert found.dtype == np.uint8 and found.flags["C_CONTIGUOUS"]
    assert np.array_equal(found, PIXELS)


def test_a_jpeg_is_decoded_in_the_order_red_green_blue() -> None:
    found = decode(JPEG)
    assert found.shape == (48, 64, 3) and found.dtype == np.uint8
    assert np.abs(found.astype(int) - PIXELS).mean() < 3 < np.abs(found[..., ::-1].astype(int) - PIXELS).mean()


@pytest.mark.parametrize(("data", "name"), [(JPEG, "jpeg"), (PNG, "png")])
def test_the_header_is_read_without_the_rest(data: bytes, name: str) -> None:
    assert read_header(data) == read_header(data[: len(data) * 2 // 3]) == Header(name, 64, 48)


def test_grey_images_become_three_equal_channels() -> None:
    grey = PIXELS[..., 0]
    assert np.array_equal(decode(samples.png(grey)), np.dstack([grey] * 3))
    found = decode(simplejpeg.encode_jpeg(grey[..., None].copy(), 95, "GRAY", "GRAY"))
    assert found.shape == (48, 64, 3) and np.ptp(found, axis=2).max() == 0


def test_an_alpha_that_hides_nothing_is_dropped() -> None:
    alpha = np.full((48, 64, 1), 255, np.uint8)
    assert np.array_equal(decode(samples.png(np.concatenate([PIXELS, alpha], axis=2))), PIXELS)


def test_sixteen_bits_become_eight() -> None:
    assert np.array_equal(decode(samples.png(PIXELS.astype(np.uint16) * 257)), PIXELS)


def test_a_cmyk_jpeg_becomes_red_green_and_blue() -> None:
    # Inverted, as Adobe writes it: no cyan, all magenta, all yellow, no black is red.
    inks = np.tile(np.array([255, 0, 0, 255], np.uint8), (48, 64, 1))
    assert np.abs(decode(simplejpeg.encode_jpeg(inks, 95, "CMYK", "444")).astype(int) - (255, 0, 0)).max() < 8


def test_a_progressive_jpeg_is_read() -> None:
    data = cv2.imencode(".jpg", PIXELS[..., ::-1], [cv2.IMWRITE_JPEG_PROGRESSIVE, 1])[1].tobytes()
    assert np.abs(decode(data).astype(int) - PIXELS).mean() < 6


@pytest.mark.parametrize("data", [JPEG, PNG])
@pytest.mark.parametrize("count", [1, 100, 10_000])
def test_bytes_behind_the_end_change_nothing(data: bytes, count: int) -> None:
    assert np.array_equal(decode(data + b"\0" * count), decode(data))


@pytest.mark.parametrize("orientation", [3, 6, 8])
def test_an_orientation_in_the_metadata_turns_nothing(orientation: int) -> None:
    tiff = b"II*\0\x08\0\0\0" + struct.pack("<HHHII", 1, 0x0112, 3, 1, orientation) + b"\0\0\0\0"
    exif = b"Exif\0\0" + tiff
    turned_jpeg = JPEG[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + JPEG[2:]
    turned_png = PNG[:33] + samples.png_chunk(b"eXIf", tiff) + PNG[33:]
    assert np.array_equal(decode(turned_jpeg), decode(JPEG))
    assert np.array_equal(decode(turned_png), PIXELS)


@pytest.mark.parametrize("write", [samples.jpeg, lambda *size: samples.png(samples.pixels(*size))], ids=["jpeg", "png"])
@pytest.mark.parametrize(
    ("size", "least", "factor"),
    [((600, 450), 224, 2), ((600, 450), 226, 1), ((600, 450), 112, 4), ((601, 451), 226, 2), ((613, 459), 28, 8),
     ((600, 450), 0, 1), ((64, 48), 48, 1), ((64, 300), 30, 2)],
)  # fmt: skip
def test_an_image_is_reduced_as_far_as_both_sides_stay_large_enough(
    write: Callable[..., bytes], size: tuple[int, int], least: int, factor: int
) -> None:
    data = write(3, *size)
    found, by = imagefile.decode_reduced(data, least)
    width, height = (-(-side // factor) for side in size)
    assert (found.shape, by) == ((height, width, 3), factor) and found.flags["C_CONTIGUOUS"]
    wanted = cv2.resize(decode(data), (width, height), interpolation=cv2.INTER_AREA)
    assert cv2.absdiff(found, wanted).mean() < 4


@pytest.mark.parametrize("share", [0.3, 0.8, 0.99])
def test_a_file_cut_short_is_found_at_a_reduced_scale_too(share: float) -> None:
    data = samples.jpeg(3, 600, 450)
    with pytest.raises(UnreadableImage) as caught:
        imagefile.decode_reduced(data[: int(len(data) * share)], 28)
    assert caught.value.reason == "truncated"
    middle = len(data) // 2
    with pytest.raises(UnreadableImage, match="undecodable"):
        imagefile.decode_reduced(data[:middle] + bytes(2048) + data[middle + 2048 :], 28)


@pytest.mark.parametrize("data", [JPEG, PNG], ids=["jpeg", "png"])
def test_a_file_cut_anywhere_is_refused(data: bytes) -> None:
    for end in range(1, len(data), 17):
        assert reason(data[:end]) in {"truncated", "undecodable", "not an image"}, end


@pytest.mark.parametrize("data", [JPEG, PNG], ids=["jpeg", "png"])
@pytest.mark.parametrize("share", [0.5, 0.8, 0.99])
def test_a_file_cut_in_its_pixels_is_called_truncated(data: bytes, share: float) -> None:
    assert reason(data[: int(len(data) * share)]) == "truncated"


def test_a_png_with_an_end_but_too_few_lines_is_refused() -> None:
    lines = b"".join(b"\0" + line.tobytes() for line in PIXELS)
    short = zlib.compress(lines[: len(lines) // 2])
    header = PNG[:33]
    assert reason(header + samples.png_chunk(b"IDAT", short) + samples.png_chunk(b"IEND", b"")) == "undecodable"
    assert reason(header + samples.png_chunk(b"IEND", b"")) == "undecodable"


@pytest.mark.parametrize("data", [samples.jpeg(3, 400, 300), PNG], ids=["jpeg", "png"])
def test_a_stretch_of_zeros_in_the_middle_is_refused(data: bytes) -> None:
    # A JPEG has no checksum: a few wrong bytes may decode to a wrong block, a lost disk sector does not.
    middle = len(data) // 2
    assert reason(data[:middle] + bytes(2048) + data[middle + 2048 :]) == "undecodable"


@given(st.sampled_from([JPEG, PNG]), st.integers(0, 10_000), st.binary(min_size=1, max_size=200))
def test_whatever_bytes_are_overwritten_the_answer_is_whole_pixels_or_a_refusal(
    data: bytes, start: int, junk: bytes
) -> None:
    start %= len(data)
    try:
        found = decode(data[:start] + junk + data[start + len(junk) :])
    except UnreadableImage as error:
        assert error.reason in {
            "undecodable", "truncated", "not an image", "too large", "too small", "not RGB-convertible",
        }  # fmt: skip
    else:
        assert found.ndim == 3 and found.shape[2] == 3 and min(found.shape[:2]) >= imagefile.SMALLEST_SIDE


@pytest.mark.parametrize(
    ("data", "expected"),
    [
        (b"", "empty file"), (b"GIF89a" + bytes(100), "not an image"), (b"image_id,dx\n", "not an image"),
        (b"BM" + bytes(100), "not an image"), (b"\xff\xd8\xff", "undecodable"), (PNG[:8], "undecodable"),
        (b"RIFF\0\0\0\0WEBPVP8 ", "not an image"), (JPEG[1:], "not an image"),
    ],
)  # fmt: skip
def test_what_is_no_jpeg_and_no_png_is_refused(data: bytes, expected: str) -> None:
    assert reason(data) == expected


@pytest.mark.parametrize("data", [samples.huge_png(), samples.huge_jpeg()], ids=["png", "jpeg"])
def test_a_header_that_claims_a_huge_image_is_refused_for_nothing(data: bytes) -> None:
    tracemalloc.start()
    try:
        assert reason(data) == "too large"
        assert tracemalloc.get_traced_memory()[1] < 1_000_000
    finally:
        tracemalloc.stop()


@pytest.mark.parametrize(
    ("depth", "kind", "more", "allowed"),
    [(16, 6, b"", 25), (16, 4, b"", 25), (16, 2, samples.png_chunk(b"tRNS", bytes(6)), 25), (16, 2, b"", 50), (8, 6, b"", 50)],
    ids=["rgba16", "grey16 with alpha", "rgb16 with a transparent colour", "rgb16", "rgba8"],
)  # fmt: skip
def test_an_image_that_takes_more_bytes_a_pixel_may_have_fewer(
    depth: int, kind: int, more: bytes, allowed: int
) -> None:
    def read(megapixels: int, over: int) -> Header:
        head = struct.pack(">IIBBBBB", 1000 * megapixels + over, 1000, depth, kind, 0, 0, 0)
        rest = more + samples.png_chunk(b"IDAT", b"") + samples.png_chunk(b"IEND", b"")
        return read_header(b"\x89PNG\r\n\x1a\n" + samples.png_chunk(b"IHDR", head) + rest)

    assert read(allowed, 0).width == 1000 * allowed
    with pytest.raises(UnreadableImage, match=f"at most {allowed},000,000 "):
        read(allowed, 1)


def test_a_huge_claim_is_refused_where_there_is_no_memory_for_it() -> None:
    # The decoders' own memory is not Python's: here the process as a whole may not grow.
    script = (
        "import resource, sys, samples, cv2, simplejpeg; from dermanet.imagefile import decode\n"
        "from dermanet.errors import UnreadableImage\n"
        "data = samples.huge_png(), samples.huge_jpeg()\n"
        "grown = int(open('/proc/self/statm').read().split()[0]) * resource.getpagesize() + 2**26\n"
        "resource.setrlimit(resource.RLIMIT_AS, (grown, grown))\n"
        "for one in data:\n"
        "    try: decode(one)\n"
        "    except UnreadableImage as error: print(error.reason)\n"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, cwd=samples.__file__[:-11])
    assert done.stdout == "too large\ntoo large\n", done.stderr


SECOND = samples.many_scans(500).index(b"\xff\xda", samples.many_scans(500).index(b"\xff\xda") + 2)


@pytest.mark.parametrize(
    "between", [b"", b"\xff\xff", b"x\0\xff\0", b"\xff\x02\xff\xff", b"\xff\xd0", b"\xff\1", b"\xff\xdb\0\2a"]
)
def test_a_jpeg_of_more_scans_than_encoders_make_is_refused_undecoded(
    between: bytes, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(simplejpeg, "decode_jpeg", lambda *given, **options: pytest.fail("it was decoded"))
    data = samples.many_scans(500)
    with pytest.raises(UnreadableImage, match="too large: 500 scans; at most 200 are decoded; save it as"):
        decode(data[:SECOND] + between + data[SECOND:])


def test_scans_are_counted_without_what_looks_like_one() -> None:
    assert decode(samples.many_scans(imagefile.MOST_SCANS)).shape == (64, 64, 3)
    scan = b"\xff\xda" * 300
    comment = b"\xff\xfe" + struct.pack(">H", len(scan) + 2) + scan
    assert decode(JPEG[:2] + comment + JPEG[2:] + scan).shape == (48, 64, 3)
    restarts = cv2.imencode(".jpg", samples.pixels(5, 800, 600), [cv2.IMWRITE_JPEG_RST_INTERVAL, 1])[1].tobytes()
    assert restarts.count(b"\xff\xd0") > 200 and decode(restarts).shape == (600, 800, 3)


@pytest.mark.parametrize("size", [(27, 400), (400, 27), (1, 1)])
def test_an_image_too_small_to_show_a_lesion_is_refused(size: tuple[int, int]) -> None:
    assert reason(samples.png(np.zeros(size, np.uint8))) == "too small"
    assert decode(samples.png(np.zeros((28, 28), np.uint8))).shape == (28, 28, 3)


def test_a_file_beyond_the_limit_of_bytes_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(imagefile, "MOST_BYTES", len(JPEG))
    assert decode(JPEG).shape == (48, 64, 3)
    assert reason(JPEG + b"\0") == "too large"


@pytest.mark.parametrize("depth", [0, 3, 32, 255])
def test_a_png_with_a_depth_that_there_is_not_is_refused(depth: int) -> None:
    header = samples.png_chunk(b"IHDR", struct.pack(">IIBBBBB", 64, 48, depth, 0, 0, 0, 0))
    pixels = samples.png_chunk(b"IDAT", zlib.compress(b"\0" * 3120))
    data = (
        b"\x89PNG\r\n\x1a\n" + header + samples.png_chunk(b"tRNS", b"\0\1") + pixels + samples.png_chunk(b"IEND", b"")
    )
    with pytest.raises(UnreadableImage, match="header cannot be read"):
        decode(data)
