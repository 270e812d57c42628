"""A PNG without its metadata: of its chunks those that say colours, each with what it is to hold, and the stream of its lines."""

import struct
import zlib

from dermanet.imagefile import chunks
from dermanet.intake import profiles

START = b"\x89PNG\r\n\x1a\n"
HEADER = START + b"\0\0\0\x0dIHDR"

GREY, COLOUR, PALETTE = 0, 2, 3
"""Colour types of the header."""

SAMPLES = {GREY: 1, COLOUR: 3, PALETTE: 1, 4: 2, 6: 4}
"""Samples a pixel, by colour type."""

KEYS = {GREY: 2, COLOUR: 6}
"""Bytes of the colour that means transparent, by colour type."""

CRITICAL = (b"IHDR", b"PLTE", b"IDAT")
"""Chunks that a decoder cannot do without."""

NUMBERS = {b"gAMA": 1, b"cHRM": 8}
MOST = 1_000_000
"""How many numbers of four bytes these chunks hold, and the largest that means anything: ten times what stands for 1."""

INTENTS = 4
"""What the one byte of sRGB may say."""

PASSES = ((0, 0, 8, 8), (4, 0, 8, 8), (0, 4, 4, 8), (2, 0, 4, 4), (0, 2, 2, 4), (1, 0, 2, 2), (0, 1, 1, 2))
"""Of an interlaced picture: the first column and row of each pass, and the steps to the next."""

WHOLE = ((0, 0, 1, 1),)
"""The same of one that is not."""

PROFILE_NAME = b"ICC Profile"
"""What every profile is called, whatever its name was."""

FED, TAKEN = 1 << 16, 1 << 20
"""Bytes that go into a decompressor at a time, and that come out at most."""


def bare_png(data: bytes) -> bytes:
    """A whole PNG without its metadata. Raises IndexError, struct.error, zlib.error or UnreadableImage for broken structure."""
    if not data.startswith(HEADER) or not all(struct.unpack_from(">II", data, 16)):
        raise IndexError
    whole, lines = memoryview(data), list[tuple[int, int]]()
    # Of each kind the first that a decoder takes, and none behind the lines.
    kept: dict[bytes, bytes] = {}
    for kind, start, end in chunks(data):
        if kind == b"IDAT":
            lines.append((start, end))
        elif kind in CRITICAL and kind in kept:
            raise IndexError
        elif not lines and kind not in kept:
            content = data[start + 8 : end - 4]
            bare = _bare_content(kind, content, data[24], data[25], max(0, len(kept.get(b"PLTE", b"")) - 12) // 3)
            if bare is None or not _sound(whole[start:end], kind):
                continue
            kept[kind] = data[start:end] if bare == content else _chunk(kind, bare)
    return b"".join([START, *kept.values(), *_bare_lines(whole, lines), _chunk(b"IEND", b"")])


def _chunk(kind: bytes, content: bytes) -> bytes:
    return struct.pack(">I4s", len(content), kind) + content + struct.pack(">I", zlib.crc32(kind + content))


def _sound(chunk: memoryview, kind: bytes) -> bool:
    """Whether a chunk has its checksum; a decoder passes over one that has not. Raises IndexError where it cannot do without."""
    sound = chunk[-4:] == struct.pack(">I", zlib.crc32(chunk[4:-4]))
    if not sound and kind in CRITICAL:
        raise IndexError
    return sound


def _bare_content(kind: bytes, content: bytes, depth: int, colours: int, palette: int) -> bytes | None:
    """What a chunk before the lines is to hold; None for one that no decoder takes. `palette`: how many colours stand before it."""
    if kind == b"IHDR":
        return content
    if kind == b"PLTE":
        # In other pictures it is a mere suggestion.
        return content[: 3 << depth] if colours == PALETTE else None
    if kind == b"tRNS":
        fits = 0 < len(content) <= palette if colours == PALETTE else len(content) == KEYS.get(colours, 0) > 0
        return content if fits else None
    if kind == b"iCCP":
        return _bare_profile(content)
    if kind == b"sRGB":
        return content if len(content) == 1 and content[0] < INTENTS else None
    if kind in NUMBERS and len(content) == 4 * NUMBERS[kind]:
        return content if max(struct.unpack(f">{NUMBERS[kind]}I", content)) <= MOST else None
    return None


def _bare_profile(content: bytes) -> bytes | None:
    _, _, stream = content.partition(b"\0")
    try:
        profile = zlib.decompressobj().decompress(stream[1:], profiles.MOST_BYTES)
    except zlib.error:
        return None
    bare = profiles.bare(profile)
    return None if bare is None else PROFILE_NAME + b"\0\0" + zlib.compress(bare, 9)


def _bare_lines(whole: memoryview, chunks: list[tuple[int, int]]) -> list[memoryview | bytes]:
    """The chunks of a picture's lines, as they are where they hold nothing else. Raises zlib.error for too few lines."""
    pieces = [whole[start:end] for start, end in chunks]
    if not all(_sound(piece, b"IDAT") for piece in pieces):
        raise IndexError
    stream, size = b"".join(piece[8:-4] for piece in pieces), _size(whole)
    left = _stream_end(stream, size)
    if not left:
        # What the stream holds beside the lines can only be left out by compressing them anew.
        return [_chunk(b"IDAT", zlib.compress(zlib.decompressobj().decompress(stream, size)))]
    kept: list[memoryview | bytes] = []
    for piece in pieces:
        held = len(piece) - 12
        if left:
            kept.append(piece if held <= left else _chunk(b"IDAT", bytes(piece[8 : 8 + left])))
        left -= min(held, left)
    return kept


def _size(whole: memoryview) -> int:
    """Bytes of a picture's lines, uncompressed, each with the byte that says how it was filtered."""
    width, height, depth, colours, _, _, interlaced = struct.unpack_from(">IIBBBBB", whole, 16)
    total = 0
    for column, row, right, down in PASSES if interlaced else WHOLE:
        across, lines = max(0, -(-(width - column) // right)), max(0, -(-(height - row) // down))
        total += lines * (1 + -(-across * SAMPLES[colours] * depth // 8)) if across else 0
    return total


def _stream_end(stream: bytes, size: int) -> int:
    """Where a stream ends that holds `size` bytes and no more; 0 for one that holds more, or goes on without an end.

    Raises zlib.error where it is damaged or holds less.
    """
    reading, left = zlib.decompressobj(), size
    for start in range(0, len(stream), FED):
        piece = stream[start : start + FED]
        full = True
        while full or piece:
            limit = min(left, TAKEN) or 1
            try:
                found = len(reading.decompress(piece, limit))
            except zlib.error:
                if left:
                    raise
                return 0
            if found > left:
                return 0
            left, full, piece = left - found, found == limit, reading.unconsumed_tail
            if reading.eof:
                if left:
                    raise zlib.error
                return min(start + FED, len(stream)) - len(reading.unused_data)
    if left:
        raise zlib.error
    return 0
