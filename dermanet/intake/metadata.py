"""Metadata that may identify a patient is left behind: EXIF, GPS, XMP, comments, thumbnails, and whatever follows the image's end.

Kept is what a decoder needs for the very same pixels, and the colour profile. Not a bit of the compressed data is touched.

    JPEG   out: APP1 to APP15 except an Adobe APP14 and an APP2 with a colour profile, COM, APP0 other than JFIF, JFIF's thumbnail
    PNG    in: the critical chunks, gAMA, cHRM, sRGB, iCCP and tRNS

And of these no more than they are to hold: what stands behind it in a segment or chunk no decoder reads, and may be anything.
"""

import re
import struct
import zlib

from dermanet.errors import UnreadableImage
from dermanet.imagekind import after_fill

PNG_CHUNKS = frozenset({b"IHDR", b"PLTE", b"IDAT", b"IEND", b"gAMA", b"cHRM", b"sRGB", b"iCCP", b"tRNS"})
LENGTHS = {b"gAMA": 4, b"cHRM": 32, b"sRGB": 1}
"""Bytes that some of these hold; one of another length says nothing that a decoder knows."""

PALETTE = 3
"""The colour type of a PNG whose pixels are numbers of colours; in others a palette is a mere suggestion."""

ADOBE = 12
"""Bytes of an Adobe segment's content, up to the one that says how colours were transformed."""

PNG_START = b"\x89PNG\r\n\x1a\n"
APP0, APP2, APP14, APP15, COM = 0xE0, 0xE2, 0xEE, 0xEF, 0xFE
START_OF_SCAN, END_OF_IMAGE = 0xDA, 0xD9
SCAN_END = re.compile(rb"\xff[^\x00\xd0-\xd7\xff]")
"""The first marker after a scan's data: in those, an FF byte is followed by 00 or is a restart marker."""

JFIF_HEAD = 12
"""Bytes of a JFIF segment's content up to the size of its thumbnail."""


def strip(data: bytes, kind: str) -> bytes:
    """A whole JPEG or PNG file (`kind` as in `imagefile.Header`) without its metadata. Raises UnreadableImage for broken structure."""
    try:
        return _strip_jpeg(data) if kind == "jpeg" else _strip_png(data)
    except (struct.error, IndexError):
        raise UnreadableImage("undecodable", "the file's parts do not fit together; copy the file again") from None


def _strip_jpeg(data: bytes) -> bytes:
    kept, at = [data[:2]], 2
    while True:
        if data[at] != 0xFF:
            raise IndexError
        at = after_fill(data, at) - 2
        marker = data[at + 1]
        if marker == END_OF_IMAGE:
            return b"".join([*kept, data[at : at + 2]])
        (length,) = struct.unpack_from(">H", data, at + 2)
        end = at + 2 + length
        if length < 2 or end > len(data):
            raise IndexError
        kept.append(_kept_segment(marker, data[at:end]))
        at = end
        if marker == START_OF_SCAN:
            found = SCAN_END.search(data, at)
            if found is None:
                raise IndexError
            kept.append(data[at : found.start()])
            at = found.start()


def _kept_segment(marker: int, segment: bytes) -> bytes:
    """The segment, what is left of it, or nothing."""
    content = segment[4:]
    if marker == APP0 and content.startswith(b"JFIF\0") and len(content) >= JFIF_HEAD + 2:
        bare = content[:JFIF_HEAD] + b"\0\0"
        return segment[:2] + struct.pack(">H", len(bare) + 2) + bare
    if marker == APP14 and content.startswith(b"Adobe"):
        bare = content[:ADOBE]
        return segment[:2] + struct.pack(">H", len(bare) + 2) + bare
    colour = marker == APP2 and content.startswith(b"ICC_PROFILE\0")
    return segment if colour or not (APP0 <= marker <= APP15 or marker == COM) else b""


def _strip_png(data: bytes) -> bytes:
    kept, at = [PNG_START], len(PNG_START)
    while True:
        length, kind = struct.unpack_from(">I4s", data, at)
        end = at + 12 + length
        if end > len(data):
            raise IndexError
        if kind == b"IEND":
            return b"".join([*kept, struct.pack(">I4sI", 0, kind, zlib.crc32(kind))])
        needless = kind == b"PLTE" and data[25] != PALETTE
        if kind in PNG_CHUNKS and LENGTHS.get(kind, length) == length and not needless:
            kept.append(data[at:end])
        at = end
