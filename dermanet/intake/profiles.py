"""Colour profiles (ICC.1) of images: kept whole where they are profiles, and nothing else that is called one."""

import struct

HEAD, ENTRY = 128, 12
"""Bytes of a profile's header, and of an entry in the table of tags behind it."""

MOST_TAGS = 100
"""Tags of one profile; a real one has up to twenty or thirty."""

MOST_BYTES = 255 * 65_519
"""Bytes of one profile: as many as a JPEG can hold."""


def bare(profile: bytes) -> bytes | None:
    """A profile up to the size that it says; None where it is no profile, or not whole."""
    if len(profile) < HEAD + 4 or profile[36:40] != b"acsp":
        return None
    (size,), (count,) = struct.unpack_from(">I", profile), struct.unpack_from(">I", profile, HEAD)
    start = HEAD + 4 + ENTRY * count
    if count > MOST_TAGS or not start <= size <= len(profile):
        return None
    tags = struct.iter_unpack(">4sII", profile[HEAD + 4 : start])
    return profile[:size] if all(start <= at <= at + length <= size for _, at, length in tags) else None
