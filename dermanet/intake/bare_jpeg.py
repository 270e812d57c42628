"""A JPEG without its metadata: of its segments those that a decoder goes by, of their tables those that a scan uses."""

import struct
from collections.abc import Iterator

from dermanet.imagekind import ADOBE, APP14, EOI, FRAMES, SCAN_DATA, SOS, segments
from dermanet.intake import profiles

START, END = b"\xff\xd8", b"\xff\xd9"
APP0, APP2, APP15, COM, DNL, DAC = 0xE0, 0xE2, 0xEF, 0xFE, 0xDC, 0xCC
DHT, DQT, DRI = 0xC4, 0xDB, 0xDD
PROGRESSIVE = 0xC2

LEFT_BEHIND = frozenset((*range(APP0, APP15 + 1), COM, DNL, DAC))
"""What a decoder passes over: but for a JFIF, a profile and Adobe's mark, which are put back."""

JFIF_HEAD = 12
"""Bytes of a JFIF segment's content up to the size of its thumbnail."""

PROFILE = b"ICC_PROFILE\0"
PIECE = 65_519
"""Bytes of a profile in one segment."""

Part = tuple[int, bytes]
"""A marker and its whole segment, or a scan's data."""

Table = tuple[int, int]
"""The marker of the segment that defines a table, and the table's number there."""


def bare_jpeg(data: bytes) -> bytes:
    """A whole JPEG without its metadata. Raises IndexError, struct.error or UnreadableImage for broken structure."""
    parts = [(marker, data[start:end]) for marker, start, end in segments(data) if marker != EOI]
    if not all(
        marker in (SCAN_DATA, SOS, DHT, DQT, DRI) or marker in LEFT_BEHIND or marker in FRAMES for marker, _ in parts
    ):
        raise IndexError
    return b"".join([START, *_picture(parts, _put_back(parts)), END])


def _put_back(parts: list[Part]) -> dict[int, bytes]:
    """What stays of what a decoder passes over, by its place: JFIF, which says that colours are YCbCr, Adobe's mark, the profile."""
    found: dict[int, bytes] = {}
    jfif, adobe, profile = list[int](), list[int](), list[int]()
    for place, (marker, segment) in enumerate(parts):
        content = segment[4:]
        if marker == SOS:
            break  # Later ones change nothing.
        if marker == APP0 and content.startswith(b"JFIF\0") and len(content) >= JFIF_HEAD + 2:
            jfif.append(place)
        elif marker == APP14 and content.startswith(b"Adobe") and len(content) >= ADOBE:
            adobe.append(place)
        elif marker == APP2 and content.startswith(PROFILE):
            profile.append(place)
    for place in jfif[:1]:
        found[place] = _segment(APP0, parts[place][1][4 : 4 + JFIF_HEAD] + b"\0\0")
    # Of several, decoders go by the last.
    for place in adobe[-1:]:
        found[place] = _segment(APP14, parts[place][1][4 : 4 + ADOBE])
    if profile:
        found[profile[0]] = _profile([parts[place][1][4 + len(PROFILE) :] for place in profile])
    return found


def _segment(marker: int, content: bytes) -> bytes:
    return struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content


def _profile(pieces: list[bytes]) -> bytes:
    """The segments of the colour profile, or nothing where it is none or not whole."""
    numbered = {piece[0]: piece[2:] for piece in pieces if len(piece) > 2 and piece[1] == len(pieces)}
    if sorted(numbered) != list(range(1, len(pieces) + 1)):
        return b""
    bare = profiles.bare(b"".join(numbered[number] for number in sorted(numbered))) or b""
    cut = [bare[at : at + PIECE] for at in range(0, len(bare), PIECE)]
    return b"".join(_segment(APP2, PROFILE + bytes((number, len(cut))) + piece) for number, piece in enumerate(cut, 1))


def _picture(parts: list[Part], put_back: dict[int, bytes]) -> list[bytes]:
    """Frame, scans and the tables that these use, in order, and what was put back."""
    uses = list(_uses(parts))
    kept: list[bytes] = []
    wanted: set[Table] = set()
    # From the end: a table counts until the next of its number takes its place.
    for place in range(len(parts) - 1, -1, -1):
        marker, segment = parts[place]
        if marker == SOS:
            wanted |= uses.pop()
        if marker in (DHT, DQT, DRI):
            kept.append(_used_tables(marker, segment, wanted))
        else:
            kept.append(put_back.get(place, b"") if marker in LEFT_BEHIND else segment)
    return kept[::-1]


def _uses(parts: list[Part]) -> Iterator[set[Table]]:
    """The tables that each scan goes by."""
    frame, marker_of_frame = b"", 0
    seen: set[int] = set()
    for marker, segment in parts:
        if marker in FRAMES:
            frame, marker_of_frame = segment, marker
        if marker != SOS:
            continue
        steps = {frame[at]: frame[at + 2] for at in range(10, 10 + 3 * frame[9], 3)}
        # Told apart by number, of which some writers give one twice; then any scan may be the first of its channel.
        distinct = len(steps) == frame[9]
        first, fine = segment[5 + 2 * segment[4]], segment[7 + 2 * segment[4]] >> 4
        used = {(DRI, 0)}
        for at in range(5, 5 + 2 * segment[4], 2):
            channel, codes = segment[at], segment[at + 1]
            if not distinct:
                used |= {(DQT, frame[place]) for place in range(12, 12 + 3 * frame[9], 3)}
            elif channel not in seen:
                # Decoders take a channel's steps at its first scan, for all that follow.
                used.add((DQT, steps.get(channel, 0)))
            seen.add(channel)
            if marker_of_frame != PROGRESSIVE or (first == 0 and fine == 0):
                used.add((DHT, codes >> 4))
            if marker_of_frame != PROGRESSIVE or first > 0:
                used.add((DHT, 0x10 | codes & 0x0F))
        yield used


def _used_tables(marker: int, segment: bytes, wanted: set[Table]) -> bytes:
    """What is left of a segment with tables; those that it defines are wanted no more."""
    kept = []
    for number, table in reversed(list(_tables(marker, segment[4:]))):
        if (marker, number) in wanted:
            wanted.remove((marker, number))
            kept.append(table)
    return _segment(marker, b"".join(kept[::-1])) if kept else b""


def _tables(marker: int, content: bytes) -> Iterator[tuple[int, bytes]]:
    """Number and bytes of every table of a segment."""
    if marker == DRI:
        yield 0, content[:2]
        return
    at = 0
    while at < len(content):
        number = content[at]
        if marker == DQT:
            # The upper half says whether a step has two bytes.
            length, number = 65 + 64 * (number >> 4 > 0), number & 0x0F
        else:
            length = 17 + sum(content[at + 1 : at + 17])
        if at + length > len(content):
            raise IndexError
        yield number, content[at : at + length]
        at += length
