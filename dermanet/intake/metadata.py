"""Metadata that may identify a patient is left behind: EXIF, GPS, XMP, comments, thumbnails, and whatever follows the image's end.

Kept is what a decoder needs for the very same pixels, and the colour profile (`profiles`).

    JPEG   in: the frame, the tables that a scan goes by, the scans, JFIF without its thumbnail, Adobe's mark     (`bare_jpeg`)
    PNG    in: the critical chunks, gAMA, cHRM, sRGB, iCCP and tRNS                                                 (`bare_png`)

And of these no more than they are to hold: what stands behind it in a segment, a chunk or a compressed stream no decoder reads, and
may be anything. The compressed data stay as they are, but for a PNG's that hold more than its lines: those are compressed anew.
"""

import struct
import zlib

from dermanet.errors import UnreadableImage
from dermanet.intake.bare_jpeg import bare_jpeg
from dermanet.intake.bare_png import bare_png


def strip(data: bytes, kind: str) -> bytes:
    """A whole JPEG or PNG file (`kind` as in `imagefile.Header`) without its metadata. Raises UnreadableImage for broken structure."""
    try:
        return bare_jpeg(data) if kind == "jpeg" else bare_png(data)
    except (struct.error, LookupError, zlib.error):
        raise UnreadableImage("undecodable", "the file's parts do not fit together; copy the file again") from None
