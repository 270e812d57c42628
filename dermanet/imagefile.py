"""Image files: header first, then a whole decode or a refusal. The one decoder that intake, training and scoring share."""

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dermanet import imagekind
from dermanet.errors import UnreadableImage

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SMALLEST_SIDE = 28
"""Pixels. Below this nothing of a lesion can be seen (28 is the side of the public thumbnail sets)."""

MOST_PIXELS = 50_000_000
"""Pixels in one image: twice what today's dermatoscope cameras make, and 150 MB once decoded; on its way a PNG takes twice that."""

MOST_DEEP_PIXELS = MOST_PIXELS // 2
"""Pixels in a PNG with 16 bits a sample that may be transparent: to see whether it is takes 8 bytes a pixel, where others take 4."""

MOST_BYTES = 64 * 1024 * 1024
"""Bytes in one file."""

MOST_SCANS = 200
"""Scans of one JPEG: encoders of progressive ones make about ten.

A scan may say in a few hundred bytes that no pixel changes, and a decoder goes over all of them all the same: of the most pixels, two
hundred take it two seconds, and the thousands that a small file has room for half a minute.
"""

FACTORS = (8, 4, 2)
"""How many times smaller an image may be decoded: the scales for which JPEG decoders have a fast inverse transform."""

DEPTHS = (1, 2, 4, 8, 16)
"""Bits a sample of a PNG."""

ANIMATION = (b"acTL", b"fcTL", b"fdAT")
"""Chunks of a PNG that say how pictures beside its own follow one another."""

SUFFIXES = (".jpg", ".jpeg", ".png")
OTHER_SUFFIXES = (
    ".avif", ".bmp", ".dcm", ".gif", ".heic", ".heif", ".jfif", ".jp2", ".jpe", ".jxl", ".tif", ".tiff", ".webp",
)  # fmt: skip
"""Of pictures that are to be converted first, and JPEGs' rarer ones: whoever names such a file is told what it is."""

PICTURES = SUFFIXES + OTHER_SUFFIXES
"""What makes a file a picture by its name, whether it can be taken or not."""

_JPEG, _PNG = b"\xff\xd8\xff", b"\x89PNG\r\n\x1a\n"


@dataclass(frozen=True, slots=True)
class Header:
    """What the first bytes of a file say: its format (`jpeg` or `png`), width and height in pixels."""

    format: str
    width: int
    height: int


def read_header(data: bytes) -> Header:
    """The header of a JPEG or PNG, without decoding. Raises UnreadableImage for other bytes and for sizes outside the limits."""
    if not data:
        raise UnreadableImage("empty file", "0 bytes; give the whole image")
    if len(data) > MOST_BYTES:
        raise UnreadableImage("too large", f"{len(data):,} bytes; at most {MOST_BYTES:,} are read")
    if data.startswith(_JPEG):
        header = _jpeg_header(data)
    elif data.startswith(_PNG):
        header = _png_header(data)
    else:
        seen = imagekind.seen_as(data)
        looks = f"it looks like {seen}" if seen else "the first bytes are neither a JPEG's nor a PNG's"
        raise UnreadableImage("not an image", f"{looks}; convert it to a JPEG or a PNG")
    size = f"{header.width}x{header.height} pixels"
    if min(header.width, header.height) < SMALLEST_SIDE:
        raise UnreadableImage("too small", f"{size}; each side needs at least {SMALLEST_SIDE}")
    if header.width * header.height > MOST_PIXELS:
        raise UnreadableImage("too large", f"{size}; at most {MOST_PIXELS:,} pixels are decoded")
    if header.format == "jpeg" and (scans := imagekind.scans_of(data)) > MOST_SCANS:
        raise UnreadableImage("too large", f"{scans:,} scans; at most {MOST_SCANS} are decoded; {imagekind.REMEDY}")
    if header.width * header.height > MOST_DEEP_PIXELS and _is_deep(data, header):
        raise UnreadableImage(
            "too large",
            f"{size} of 16 bits with transparency; at most {MOST_DEEP_PIXELS:,} of those are decoded, save it without transparency",
        )
    return header


def decode(data: bytes) -> "NDArray[np.uint8]":
    """The pixels of a whole JPEG or PNG: RGB, uint8, (height, width, 3). Raises UnreadableImage; a partial image is none.

    An EXIF orientation is not applied: a lesion has no upright, and stripping metadata must not change a pixel.
    """
    return decode_reduced(data, 0)[0]


def decode_reduced(data: bytes, least: int) -> "tuple[NDArray[np.uint8], int]":
    """The pixels, decoded as many times smaller as leaves both sides at least `least` pixels; and that factor: 1, 2, 4 or 8.

    0 decodes at full size. Every byte is read all the same, so what `decode` refuses is refused here too. Raises UnreadableImage.
    """
    header = read_header(data)
    factor = next((factor for factor in FACTORS if min(_reduced(header, factor)) >= least > 0), 1)
    width, height = _reduced(header, factor)
    if header.format == "png":
        return _decode_png(data, width, height), factor
    # What the fast transform rounds otherwise is far less than what a reduced scale leaves out.
    return _decode_jpeg(data, width, height, fast=factor > 1), factor


def _reduced(header: Header, factor: int) -> tuple[int, int]:
    # Rounded up, as JPEG decoders do.
    return -(-header.width // factor), -(-header.height // factor)


def _jpeg_header(data: bytes) -> Header:
    import simplejpeg

    imagekind.check_jpeg(data)
    try:
        height, width, *_ = simplejpeg.decode_jpeg_header(data)
    except ValueError as error:
        raise imagekind.unread_header(data, str(error)) from None
    return Header("jpeg", width, height)


def _png_header(data: bytes) -> Header:
    if len(data) < 33 or data[12:16] != b"IHDR" or data[24] not in DEPTHS:
        raise UnreadableImage("undecodable", "a PNG whose header cannot be read")
    width, height = struct.unpack(">II", data[16:24])
    return Header("png", width, height)


def _is_deep(data: bytes, header: Header) -> bool:
    return header.format == "png" and data[24] == 16 and imagekind.may_be_transparent(data)


def _decode_jpeg(data: bytes, width: int, height: int, fast: bool) -> "NDArray[np.uint8]":
    import simplejpeg

    try:
        # Strict, which is the default, turns the decoder's warnings (a missing end, broken entropy data) into errors.
        return simplejpeg.decode_jpeg(data, "RGB", min_width=width, min_height=height, fastdct=fast)
    except ValueError as error:
        if "premature end of jpeg" in str(error).lower():
            raise UnreadableImage("truncated", "the JPEG ends before its last line; copy the file again") from None
        raise UnreadableImage("undecodable", "the JPEG's data are damaged; copy the file again") from None


def _decode_png(data: bytes, width: int, height: int) -> "NDArray[np.uint8]":
    import cv2
    import numpy as np

    whole = _png_picture(data)
    if imagekind.may_be_transparent(data):
        _check_opaque(whole, imagekind.grey_key(data))
    # Decoded with its depth reduced to 8 bits and its alpha dropped, which hides nothing.
    image = cv2.imdecode(np.frombuffer(whole, np.uint8), cv2.IMREAD_COLOR | cv2.IMREAD_IGNORE_ORIENTATION)
    if image is None:
        raise UnreadableImage("undecodable", "the PNG's data are damaged; copy the file again")
    if image.shape[:2] != (height, width):
        image = cv2.resize(image, (width, height), interpolation=cv2.INTER_AREA)
    return np.ascontiguousarray(image[..., ::-1], dtype=np.uint8)


def _check_opaque(whole: memoryview | bytearray, grey_key: int | None) -> None:
    import cv2
    import numpy as np

    image = cv2.imdecode(np.frombuffer(whole, np.uint8), cv2.IMREAD_UNCHANGED)
    if image is None:
        return  # Damaged: said where its colours are decoded.
    if image.ndim == 3 and image.shape[2] == 4:
        imagekind.check_opaque(float(np.mean(image[..., 3] < np.iinfo(image.dtype).max)))
    elif grey_key is not None:
        imagekind.check_opaque(float(np.mean(image == grey_key)))


def _png_picture(data: bytes) -> memoryview | bytearray:
    """The file up to its end mark, without an animation: OpenCV would take the first frame of one for the picture.

    Walked chunk by chunk: OpenCV tells no missing end from damage in between, and minds what follows.
    """
    whole, moves, end = memoryview(data), False, 0
    for kind, _, end in chunks(data):  # noqa: B007 - the last one's end is the picture's
        moves |= kind in ANIMATION
    if not moves:
        return whole[:end]
    picture = bytearray(_PNG)
    for kind, start, end in chunks(data):
        if kind not in ANIMATION:
            picture += whole[start:end]
    return picture


def chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Kind, start and end of every chunk of a PNG up to its end mark. Raises UnreadableImage at the end of a file without one."""
    start = len(_PNG)
    while len(data) >= start + 12:
        length, kind = struct.unpack_from(">I4s", data, start)
        end = start + 12 + length
        if end > len(data):
            break
        yield kind, start, end
        if kind == b"IEND":
            return
        start = end
    raise UnreadableImage("truncated", "the PNG has no end mark; copy the file again")
