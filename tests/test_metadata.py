"""Metadata that may identify a patient is left behind, and not a pixel changes."""

import io
import struct
import zlib
from collections.abc import Callable
from pathlib import Path

import cv2
import numpy as np
import pytest
import samples
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image, ImageCms

from dermanet.errors import UnreadableImage
from dermanet.imagefile import chunks, decode
from dermanet.imagekind import SCAN_DATA, segments
from dermanet.intake.metadata import strip
from dermanet.intake.screening import check_image

SECRET = b"Anna Muster, born 1961"


def segment(marker: int, content: bytes) -> bytes:
    return b"\xff" + bytes([marker]) + struct.pack(">H", len(content) + 2) + content


def with_segments(data: bytes, *segments: bytes) -> bytes:
    """A JPEG with further segments after its first."""
    (length,) = struct.unpack_from(">H", data, 4)
    return data[: 4 + length] + b"".join(segments) + data[4 + length :]


SRGB = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()


def icc(profile: bytes, number: int = 1, count: int = 1) -> bytes:
    return segment(0xE2, b"ICC_PROFILE\0" + bytes([number, count]) + profile)


def without_tags(profile: bytes) -> bytes:
    return profile[:128] + struct.pack(">I", 10**6) + SECRET.ljust(len(profile) - 132)


SEGMENTS = {
    "EXIF": segment(0xE1, b"Exif\0\0MM\0*" + SECRET),
    "XMP": segment(0xE1, b"http://ns.adobe.com/xap/1.0/\0" + SECRET),
    "Photoshop": segment(0xED, b"Photoshop 3.0\0" + SECRET),
    "comment": segment(0xFE, SECRET),
    "JFXX": segment(0xE0, b"JFXX\0\x10" + SECRET),
    "MPF": segment(0xE2, b"MPF\0" + SECRET),
    "APP14 that is not Adobe's": segment(0xEE, b"Maker" + SECRET),
    "a number of lines": segment(0xDC, SECRET),
    "a second JFIF": segment(0xE0, b"JFIF\0\1\1" + SECRET),
    "a profile that is none": icc(SECRET * 9),
    "a profile with nothing in it": icc(without_tags(SRGB)),
    "a profile larger than it is": icc(b"\0\1\0\0" + SRGB[4:] + SECRET),
    "a restart outside a scan": b"\xff\xd0" + segment(0xFE, SECRET),
    "steps that no channel takes": segment(0xDB, b"\3" + SECRET.ljust(64)),
    "steps that others replace": segment(0xDB, b"\0" + SECRET.ljust(64) + b"\1" + b"\2" * 64),
    "codes that no scan uses": segment(0xC4, b"\x13\0\0\0\0\x16" + bytes(11) + SECRET),
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


def test_what_colours_need_stays() -> None:
    marked = with_segments(samples.jpeg(3), segment(0xEE, b"Adobe\0d\0\0\0\0\1"))
    assert strip(marked, "jpeg") == marked


@pytest.mark.parametrize("cut", [len(SRGB), 300])
def test_a_profile_stays_and_nothing_behind_it(cut: int) -> None:
    whole = with_segments(samples.jpeg(3), icc(SRGB))
    count = -(-len(SRGB) // cut)
    parts = [SRGB[at : at + cut] for at in range(0, len(SRGB), cut)]
    parts[-1] += SECRET
    more = with_segments(samples.jpeg(3), *(icc(part, number, count) for number, part in enumerate(parts, 1)))
    assert strip(whole, "jpeg") == whole == strip(more, "jpeg")
    assert np.array_equal(decode(more), decode(whole))


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


def saved(picture: Image.Image, kind: str = "PNG", **options: object) -> bytes:
    file = io.BytesIO()
    picture.save(file, kind, **options)
    return file.getvalue()


def with_chunks(data: bytes, change: Callable[[bytes, bytes], list[tuple[bytes, bytes]]]) -> bytes:
    """A PNG whose every chunk, kind and content, becomes those that `change` makes of it."""
    made = [part for kind, start, end in chunks(data) for part in change(kind, data[start + 8 : end - 4])]
    return data[:8] + b"".join(samples.png_chunk(*part) for part in made)


def beside(kind: bytes, *parts: tuple[bytes, bytes]) -> Callable[[bytes, bytes], list[tuple[bytes, bytes]]]:
    """Further chunks behind that of a kind."""
    return lambda found, content: [(found, content), *(parts if found == kind else ())]


def behind(kind: bytes, more: bytes) -> Callable[[bytes, bytes], list[tuple[bytes, bytes]]]:
    """More bytes at the end of the chunk of a kind."""
    return lambda found, content: [(found, content + more * (found == kind))]


NAMED = b"\0\0" + zlib.compress(SRGB, 9)
CHUNKS = {
    "behind the lines": behind(b"IDAT", SECRET),
    "another chunk of lines": beside(b"IDAT", (b"IDAT", SECRET)),
    "a key that is too long": beside(b"IHDR", (b"tRNS", SECRET * 3)),
    "a key that is too short": beside(b"IHDR", (b"tRNS", SECRET[:5]), (b"tEXt", SECRET)),
    "a key behind the lines": beside(b"IDAT", (b"tRNS", SECRET[:6]), (b"tEXt", SECRET)),
    "four letters of gamma": beside(b"IHDR", (b"gAMA", SECRET[:4]), (b"tEXt", SECRET)),
    "letters as colours": beside(b"IHDR", (b"cHRM", SECRET.ljust(32))),
    "a profile that is none": beside(b"IHDR", (b"iCCP", SECRET + NAMED[:99])),
    "a profile that is not compressed": beside(b"IHDR", (b"iCCP", b"icc\0\0" + SECRET)),
}


@pytest.mark.parametrize("name", CHUNKS)
def test_a_png_loses_it_and_keeps_its_pixels(name: str, capfd: pytest.CaptureFixture[str]) -> None:
    plain = samples.png(samples.pixels(4))
    marked = with_chunks(plain, CHUNKS[name])
    assert SECRET in marked
    found = strip(marked, "png")
    assert found == plain and isinstance(check_image(marked, "I1"), tuple)
    # What the decoder says of surplus bytes it says on the process's standard error.
    assert capfd.readouterr().err == ""
    assert np.array_equal(decode(marked), decode(plain))


PICTURES = {
    "colour": saved(Image.fromarray(samples.pixels(4, 67, 45))),
    "grey": saved(Image.fromarray(samples.pixels(4, 67, 45)[..., 0])),
    "one bit": saved(Image.fromarray(samples.pixels(4, 67, 45)).convert("1")),
    "palette": saved(Image.fromarray(samples.pixels(4, 67, 45)).quantize(16), bits=4),
    "grey and alpha": saved(Image.fromarray(samples.pixels(4, 67, 45)).convert("LA")),
    "deep": samples.png(samples.pixels(4, 67, 45).astype(np.uint16) * 257),
    "interlaced": samples.interlaced(samples.pixels(4, 67, 45)),
    "interlaced, few columns": samples.interlaced(samples.pixels(4, 28, 97)),
    "several chunks": saved(Image.fromarray(samples.pixels(4, 400, 300))),
}


@pytest.mark.parametrize("data", PICTURES.values(), ids=PICTURES)
def test_what_a_png_s_stream_holds_behind_its_lines_is_left_behind(data: bytes) -> None:
    stream = b"".join(data[start + 8 : end - 4] for kind, start, end in chunks(data) if kind == b"IDAT")
    more = zlib.compress(zlib.decompress(stream) + SECRET * 999, 0)
    marked = with_chunks(data, lambda kind, content: [(kind, content)] * (kind != b"IDAT"))
    marked = marked[:-12] + samples.png_chunk(b"IDAT", more) + marked[-12:]
    found = strip(marked, "png")
    assert SECRET in marked and SECRET not in found and len(found) < 2 * len(data)
    assert np.array_equal(decode(found), decode(data)) and strip(found, "png") == found
    assert strip(data, "png") == data


def test_a_png_with_fewer_lines_than_it_says_is_refused() -> None:
    data = PICTURES["interlaced"]
    stream = zlib.decompress(next(data[start + 8 : end - 4] for kind, start, end in chunks(data) if kind == b"IDAT"))
    for lines in (zlib.compress(stream[:-1]), zlib.compress(stream)[:-40], b"", SECRET):
        with pytest.raises(UnreadableImage):
            strip(with_chunks(data, lambda kind, content: [(kind, lines if kind == b"IDAT" else content)]), "png")  # noqa: B023


def test_a_png_s_profile_stays_and_not_its_name_nor_what_is_behind_it() -> None:
    plain = samples.png(samples.pixels(4))
    stream = zlib.compress(SRGB + SECRET)
    found = strip(with_chunks(plain, beside(b"IHDR", (b"iCCP", SECRET + b"\0\0" + stream + SECRET))), "png")
    assert SECRET not in found and np.array_equal(decode(found), decode(plain))
    assert Image.open(io.BytesIO(found)).info["icc_profile"] == SRGB and strip(found, "png") == found


@pytest.mark.parametrize(("bits", "colours"), [(1, 2), (2, 4), (4, 16), (4, 11), (8, 256)])
def test_a_palette_that_pixels_need_stays_and_no_more(bits: int, colours: int) -> None:
    plain = saved(Image.fromarray(samples.pixels(4)).quantize(colours), bits=bits)
    assert strip(plain, "png") == plain
    more = with_chunks(plain, lambda kind, content: [(kind, content.ljust(3 << bits) + (SECRET * 9)[:99] * (kind == b"PLTE"))]
                       if kind == b"PLTE" and bits < 8 else [(kind, content)])  # fmt: skip
    found = strip(more, "png")
    assert SECRET not in found and np.array_equal(decode(found), decode(plain))


@given(
    st.sampled_from(list(PICTURES.values())),
    st.binary(min_size=1),
    st.sampled_from([b"IDAT", b"tRNS", b"iCCP", b"gAMA", b"tEXt"]),
)
def test_whatever_stands_behind_a_png_s_lines_not_a_pixel_changes(data: bytes, noise: bytes, kind: bytes) -> None:
    marked = data[:-12] + samples.png_chunk(kind, noise) + data[-12:]
    assert strip(marked, "png") == data and np.array_equal(decode(marked), decode(data))


def test_a_progressive_jpeg_with_a_comment_between_its_scans() -> None:
    options = [cv2.IMWRITE_JPEG_PROGRESSIVE, 1, cv2.IMWRITE_JPEG_RST_INTERVAL, 4]
    plain = cv2.imencode(".jpg", samples.pixels(5, 160, 120), options)[1].tobytes()
    second = plain.index(b"\xff\xda", plain.index(b"\xff\xda") + 2)
    # A channel has taken its steps by then, and other tables and marks count no more.
    steps = segment(0xDB, b"\0" + SECRET.ljust(64) + b"\1" + SECRET.ljust(64))
    late = segment(0xEE, b"Adobe\0d\0\0\0\0\1") + icc(SRGB) + segment(0xE0, b"JFIF\0\1\1" + SECRET)
    marked = plain[:second] + SEGMENTS["comment"] + steps + late + plain[second:]
    assert plain.count(b"\xff\xda") > 3 and b"\xff\xd0" in plain
    assert strip(plain, "jpeg") == plain == strip(marked, "jpeg")
    assert np.array_equal(decode(marked), decode(plain))
    assert strip(plain[:-2] + steps + plain[-2:], "jpeg") == plain
    assert strip(with_segments(plain, segment(0xDD, SECRET[:2])), "jpeg") == plain


WRITTEN = {
    "baseline": samples.jpeg(5, 97, 61),
    "optimised": saved(Image.fromarray(samples.pixels(5, 97, 61)), "JPEG", optimize=True),
    "progressive": saved(Image.fromarray(samples.pixels(5, 97, 61)), "JPEG", progressive=True, quality=70),
    "two steps alike": saved(Image.fromarray(samples.pixels(5, 97, 61)), "JPEG", qtables=[[1] * 64], subsampling=2),
    "restarts": cv2.imencode(".jpg", samples.pixels(5, 97, 61), [cv2.IMWRITE_JPEG_RST_INTERVAL, 3])[1].tobytes(),
    "four inks": saved(Image.fromarray(samples.pixels(5, 97, 61)).convert("CMYK"), "JPEG"),
    "grey": saved(Image.fromarray(samples.pixels(5, 97, 61)[..., 0]), "JPEG"),
}


@pytest.mark.parametrize("data", WRITTEN.values(), ids=WRITTEN)
def test_a_jpeg_without_metadata_stays_as_it_is(data: bytes) -> None:
    assert strip(data, "jpeg") == data


@given(
    st.sampled_from(list(WRITTEN.values())),
    st.lists(st.tuples(st.integers(0), st.sampled_from(list(SEGMENTS.values()))), max_size=5),
)
def test_wherever_segments_stand_not_a_pixel_changes(data: bytes, more: list[tuple[int, bytes]]) -> None:
    # Before any segment but the first, which has to be JFIF's or Adobe's own.
    marked = bytearray(data)
    places = [start for marker, start, _ in segments(data) if marker != SCAN_DATA][1:]
    for place, one in sorted(((places[place % len(places)], one) for place, one in more), reverse=True):
        marked[place:place] = one
    try:
        pixels = decode(bytes(marked))
    except UnreadableImage:
        return
    found = strip(bytes(marked), "jpeg")
    assert np.array_equal(decode(found), pixels)
    # What a scan goes by is part of the picture, and shows there.
    assert SECRET not in found or not np.array_equal(pixels, decode(data))


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


@pytest.mark.parametrize("numbers", [(1, 2), (0, 1), (2, 1)])
def test_a_profile_that_is_not_whole_is_left_behind(numbers: tuple[int, int]) -> None:
    plain = samples.jpeg(3)
    assert strip(with_segments(plain, icc(SRGB, *numbers)), "jpeg") == plain
    assert strip(with_segments(plain, icc(SRGB, 1, 2), icc(SRGB, 1, 2)), "jpeg") == plain


def test_a_png_keeps_its_gamma() -> None:
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
            assert error.reason in ("undecodable", "truncated")


def test_real_images_keep_every_pixel(real_data: Path) -> None:
    for path in sorted(real_data.rglob("*.jpg"))[::40]:
        data = path.read_bytes()
        bare = strip(data, "jpeg")
        assert np.array_equal(decode(bare), decode(data)) and b"Exif" not in bare
        assert strip(bare, "jpeg") == bare and io.BytesIO(bare).read(2) == b"\xff\xd8"
