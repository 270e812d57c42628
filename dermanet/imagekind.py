"""What kind of file it is, told from its structure before anything is decoded: another format, or a JPEG or PNG that is not RGB.

Of JPEG and PNG there are kinds that a decoder reads into other colours than were meant, or not at all. What is let through gives the
same pixels in every decoder, to the rounding of one level:

    JPEG   Huffman-coded baseline, extended and progressive, 8 bits; grey, YCbCr or RGB; CMYK and YCCK with Adobe's mark
    PNG    every depth, palette and interlacing, the first picture of an animation; an alpha channel that hides nothing
"""

import re
import struct
from collections.abc import Iterator
from dataclasses import dataclass

from dermanet.errors import UnreadableImage

REASON = "not RGB-convertible"
REMEDY = "save it as an ordinary JPEG or PNG, 8 bits a channel, RGB or grey"

FORMATS = (
    (0, b"GIF8", "GIF"), (0, b"BM", "BMP"), (0, b"II*\0", "TIFF"), (0, b"MM\0*", "TIFF"), (0, b"II+\0", "BigTIFF"),
    (0, b"MM\0+", "BigTIFF"), (8, b"WEBP", "WebP"), (128, b"DICM", "DICOM"), (4, b"ftypavi", "AVIF"), (4, b"ftypqt", "video"),
    (4, b"ftypmp4", "video"), (4, b"ftypiso", "video"), (4, b"ftyphe", "HEIC"), (4, b"ftypmif1", "HEIC"),
    (0, b"\0\0\0\x0cjP", "JPEG 2000"), (0, b"\xff\x4f\xff\x51", "JPEG 2000"), (0, b"\xff\x0a", "JPEG XL"),
    (0, b"\0\0\0\x0cJXL ", "JPEG XL"), (0, b"%PDF", "PDF"), (0, b"PK\x03\x04", "ZIP"), (0, b"\x1f\x8b", "gzip"),
    (0, b"8BPS", "Photoshop"), (0, b"<svg", "SVG"), (0, b"<!DOCTYPE html", "HTML"), (0, b"<html", "HTML"), (0, b"<?xml", "XML"),
)  # fmt: skip
"""Where in a file which bytes stand, and what it then is; the first that fits."""

SOS, EOI, APP14 = 0xDA, 0xD9, 0xEE
STANDALONE = frozenset((0x01, *range(0xD0, 0xD9)))
"""Markers without a length: TEM, the restarts and the start of the image."""

LOWEST = 0xC0
"""Below are no markers in use, but for TEM."""

SCAN_DATA = 0
"""Stands for the marker of a scan's data, which have none."""

NO_FILL = re.compile(rb"[^\xff]")
SCAN_END = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
"""The first marker after a scan's data: in those, an FF byte is followed by 00 or is a restart marker."""

ADOBE = 12
"""Bytes of an Adobe segment's content, up to the one that says how colours were transformed; a shorter one no decoder knows."""

FRAMES = {
    **dict.fromkeys((0xC0, 0xC1, 0xC2), ""),
    **dict.fromkeys((0xC3, 0xC7, 0xCB, 0xCF, 0xF7), "a lossless JPEG"),
    **dict.fromkeys((0xC5, 0xC6, 0xCD, 0xCE), "a hierarchical JPEG"),
    **dict.fromkeys((0xC9, 0xCA), "an arithmetically coded JPEG"),
}
"""The markers that start a frame, and what it is where that is unusual."""

MOST_SEGMENTS = 10_000
"""Segments of one JPEG; a real file has a dozen, one with large metadata some hundred."""

PNG_HEAD = 8
"""Bytes before the first chunk of a PNG."""

GREY = 0
WITH_ALPHA = (4, 6)
"""Colour types of a PNG's header."""


@dataclass(frozen=True, slots=True)
class Frame:
    """What a JPEG says of its frame: marker, bits a sample, each channel's sampling, and whether Adobe marked it."""

    marker: int
    precision: int
    sampling: tuple[str, ...]
    adobe: bool


def seen_as(data: bytes) -> str:
    """What a file that is no JPEG and no PNG looks like, in a word; empty where nothing is recognised."""
    return next((name for start, magic, name in FORMATS if data[start : start + len(magic)] == magic), "")


def check_jpeg(data: bytes) -> None:
    """Lets a JPEG of an ordinary kind pass, and one whose structure cannot be read: that is the decoder's to say.

    Raises UnreadableImage, with what it is.
    """
    frame = frame_of(data)
    if frame is None:
        return
    channels = len(frame.sampling)
    what = ""
    if FRAMES[frame.marker]:
        what = FRAMES[frame.marker]
    elif frame.precision != 8:
        what = f"a JPEG with {frame.precision} bits a channel"
    elif channels not in (1, 3, 4):
        what = f"a JPEG with {channels} channels"
    elif channels == 4 and not frame.adobe:
        what = "a JPEG of four inks without Adobe's mark, which says whether 0 is no ink or all of it"
    if what:
        raise UnreadableImage(REASON, f"{what}; {REMEDY}")


def unread_header(data: bytes, said: str) -> UnreadableImage:
    """Why a decoder could not read a JPEG's header, of which it `said` something itself."""
    frame = frame_of(data)
    if frame is None or "subsampling" not in said:
        return UnreadableImage("undecodable", "a JPEG whose header cannot be read")
    return UnreadableImage(REASON, f"a JPEG whose channels are sampled {', '.join(frame.sampling)}; {REMEDY}")


def frame_of(data: bytes) -> Frame | None:
    """The frame of a JPEG; None where the file ends or breaks off before its first scan."""
    found, adobe = None, False
    try:
        for marker, start, end in segments(data):
            content = data[start + 4 : end]
            if marker == EOI:
                return None
            if marker == SOS:
                break
            if marker in FRAMES and found is None:
                precision, channels = content[0], content[5]
                sampling = (content[7 + 3 * channel] for channel in range(channels))
                found = marker, precision, tuple(f"{factors >> 4}x{factors & 15}" for factors in sampling)
            adobe |= marker == APP14 and content.startswith(b"Adobe") and len(content) >= ADOBE
    except (struct.error, IndexError):
        return None
    return Frame(*found, adobe) if found else None


def scans_of(data: bytes) -> int:
    """How many scans a JPEG has, or may have where its structure breaks off. Nothing is decoded."""
    try:
        return sum(marker == SOS for marker, _, _ in segments(data))
    except (struct.error, IndexError):
        # A decoder goes on behind a few wrong bytes, scan after scan, before it says so.
        return data.count(bytes([0xFF, SOS]))


def segments(data: bytes) -> Iterator[tuple[int, int, int]]:
    """Marker, start and end of every segment of a JPEG up to its end, and of each scan's data; markers that stand alone left out.

    Raises IndexError or struct.error where the structure breaks off, UnreadableImage for more segments than any picture needs.
    """
    at = 2
    for _ in range(MOST_SEGMENTS):
        if data[at] != 0xFF:
            raise IndexError
        at = _after_fill(data, at)
        marker = data[at - 1]
        if marker in STANDALONE:
            continue
        # What is none of these has no length that a decoder would go by: it looks for the next one.
        if marker < LOWEST:
            raise IndexError
        if marker == EOI:
            yield marker, at - 2, at
            return
        (length,) = struct.unpack_from(">H", data, at)
        end = at + length
        if length < 2 or end > len(data):
            raise IndexError
        yield marker, at - 2, end
        at = end
        if marker == SOS:
            found = SCAN_END.search(data, at)
            if found is None:
                raise IndexError
            yield SCAN_DATA, at, found.start()
            at = found.start()
    raise UnreadableImage("too large", f"more than {MOST_SEGMENTS:,} segments; {REMEDY}")


def _after_fill(data: bytes, at: int) -> int:
    """Where the marker ends that starts at `at`: any number of FF bytes may stand before it. Raises IndexError where none ends."""
    found = NO_FILL.search(data, at)
    if found is None:
        raise IndexError
    return found.end()


def may_be_transparent(data: bytes) -> bool:
    """Whether a PNG's header or a chunk before its pixels says that pixels may be transparent."""
    return data[25] in WITH_ALPHA or grey_key(data) is not None or _chunk(data, b"tRNS") is not None


def grey_key(data: bytes) -> int | None:
    """The grey level that means transparent in a grey PNG, on the scale of 8 bits, or of 16 in one of 16; None without one."""
    depth, kind, found = data[24], data[25], _chunk(data, b"tRNS")
    if kind != GREY or found is None or len(found) != 2:
        return None
    (level,) = struct.unpack(">H", found)
    return int(level) if depth >= 8 else int(level) * 255 // (2**depth - 1)


def _chunk(data: bytes, wanted: bytes) -> bytes | None:
    """The content of a PNG's first chunk of a kind, if it stands before the pixels."""
    at = PNG_HEAD
    while at + 12 <= len(data):
        length, kind = struct.unpack_from(">I4s", data, at)
        if kind == wanted:
            return data[at + 8 : at + 8 + length]
        if kind == b"IDAT":
            return None
        at += 12 + length
    return None


def check_opaque(transparent: float) -> None:
    """Refuses a picture of which a share, 0 to 1, is transparent: what lies below it is nobody's picture. Raises UnreadableImage."""
    if transparent > 0:
        share = f"{transparent:.1%}" if transparent >= 0.001 else "less than 0.1%"
        raise UnreadableImage(
            REASON,
            f"{share} of the PNG is transparent, and what lies below is not what people see; save it without transparency",
        )
