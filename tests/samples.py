"""Small real inputs that the tests draw for themselves: images, label files, catalogued records."""

import csv
import hashlib
import struct
import zlib
from collections.abc import Iterable, Mapping
from itertools import islice
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray

from dermanet.records import Labels, Record

CODES = ("akiec", "bcc", "bkl", "df", "mel", "nv", "vasc")
PARTS = ("HAM10000_images_part_1", "HAM10000_images_part_2")


def pixels(seed: int = 0, width: int = 64, height: int = 48) -> NDArray[np.uint8]:
    """Soft coloured noise, RGB (height, width, 3): another picture for every seed."""
    noise = np.random.default_rng(seed).integers(0, 256, (height, width, 3), dtype=np.uint8)
    return np.asarray(cv2.GaussianBlur(noise, (0, 0), 2), np.uint8)


def jpeg(seed: int = 0, width: int = 64, height: int = 48) -> bytes:
    """`pixels` as a JPEG file."""
    return bytes(simplejpeg.encode_jpeg(pixels(seed, width, height), 92, "RGB", "444"))


def png(image: NDArray[Any]) -> bytes:
    """An image as a PNG file: RGB, RGBA or grey, 8 or 16 bits."""
    order = {2: ..., 3: np.s_[..., ::-1], 4: np.s_[..., [2, 1, 0, 3]]}[
        image.ndim if image.ndim == 2 else image.shape[2]
    ]
    return bytes(cv2.imencode(".png", image[order])[1].tobytes())


def png_chunk(kind: bytes, data: bytes) -> bytes:
    """One chunk of a PNG file with its length and checksum."""
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def huge_png(side: int = 60_000) -> bytes:
    """A few bytes whose header claims `side` x `side` pixels."""
    header = png_chunk(b"IHDR", struct.pack(">IIBBBBB", side, side, 8, 2, 0, 0, 0))
    return b"\x89PNG\r\n\x1a\n" + header + png_chunk(b"IDAT", zlib.compress(b"\0" * 1000)) + png_chunk(b"IEND", b"")


def huge_jpeg(side: int = 60_000) -> bytes:
    """A small JPEG file whose header claims `side` x `side` pixels."""
    data = jpeg()
    frame = data.index(b"\xff\xc0")
    return data[: frame + 5] + struct.pack(">HH", side, side) + data[frame + 9 :]


def many_scans(count: int, side: int = 64) -> bytes:
    """A progressive JPEG of `count` scans, `side` x `side`, whose second and further ones change no pixel."""

    def segment(marker: int, content: bytes) -> bytes:
        return struct.pack(">BBH", 0xFF, marker, len(content) + 2) + content

    # One code a table, of one bit: no difference, and an end of sixteen thousand blocks.
    codes = b"".join(segment(0xC4, bytes([table, 1, *[0] * 15, value])) for table, value in ((0, 0), (0x10, 0xE0)))
    frame = struct.pack(">BHHB", 8, side, side, 3) + b"".join(bytes([number, 0x11, 0]) for number in (1, 2, 3))
    blocks = (side // 8) ** 2
    first = segment(0xDA, b"\3\1\0\2\0\3\0\0\0\0") + bytes(3 * blocks // 8)
    steps = ((place, channel, low) for place in range(1, 64) for channel in (1, 2, 3) for low in range(13, -1, -1))
    scans = b"".join(
        segment(0xDA, bytes([1, channel, 0, place, place, (low + 1 if low < 13 else 0) << 4 | low])) + b"\0\0"
        for place, channel, low in islice(steps, count - 1)
    )
    tables = segment(0xDB, bytes([0, *[1] * 64]))
    return b"\xff\xd8" + tables + segment(0xC2, frame) + codes + first + scans + b"\xff\xd9"


def interlaced(image: NDArray[np.uint8]) -> bytes:
    """The seven passes of an interlaced PNG, RGB, written by hand."""
    passes = ((0, 0, 8, 8), (0, 4, 8, 8), (4, 0, 8, 4), (0, 2, 4, 4), (2, 0, 4, 2), (0, 1, 2, 2), (1, 0, 2, 1))
    raw = b"".join(
        b"\0" + line.tobytes()
        for row, column, down, right in passes
        for line in image[row::down, column::right]
        if line.size
    )
    header = struct.pack(">IIBBBBB", image.shape[1], image.shape[0], 8, 2, 0, 0, 1)
    parts = ((b"IHDR", header), (b"IDAT", zlib.compress(raw)), (b"IEND", b""))
    return b"\x89PNG\r\n\x1a\n" + b"".join(png_chunk(name, data) for name, data in parts)


def _gradient() -> NDArray[np.uint8]:
    """Every grey level from the left to the right, and not an edge: RGB (48, 256, 3)."""
    return np.tile(np.arange(256, dtype=np.uint8)[None, :, None], (48, 1, 3))


UNFIT: dict[str, bytes] = {
    "empty file": b"",
    "not an image": b"Dear colleague, the image follows.",
    "undecodable": b"\xff\xd8\xff" + bytes(500),
    "truncated": jpeg(12)[: len(jpeg(12)) // 2],
    "too small": jpeg(20, 27, 48),
    "too large": huge_jpeg(),
    "not RGB-convertible": png(np.dstack([pixels(22), np.full((48, 64), 128, np.uint8)])),
    "blurred": png(_gradient()),
    "blank": png(np.full((48, 64, 3), 128, np.uint8)),
}
"""A file for every reason for which its bytes alone have an image refused."""


def ham10000_row(number: int, **changes: str) -> dict[str, str]:
    """Row `number` (from 0) of a metadata file in HAM10000's columns, a lesion of its own each."""
    return {
        "lesion_id": f"HAM_{number:07d}", "image_id": f"ISIC_{number:07d}", "dx": CODES[number % 7], "dx_type": "histo",
        "age": f"{40 + number % 40}.0", "sex": ("male", "female")[number % 2], "localization": "back", **changes,
    }  # fmt: skip


def write_csv(path: Path, rows: Iterable[Mapping[str, str]]) -> None:
    """A CSV file with the columns of its first row."""
    rows = list(rows)
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)


def ham10000(
    folder: Path, count: int = 6, rows: Mapping[int, Mapping[str, str]] | None = None,
    files: Mapping[str, bytes | None] | None = None, extra: Iterable[Mapping[str, str]] = (),
) -> Path:  # fmt: skip
    """A folder in HAM10000's layout: metadata and two image folders.

    `rows`: cells of the rows that shall be otherwise, by number. `files`: the bytes of image files that shall be otherwise,
    by name; None leaves one out, a new name adds one. `extra`: further rows.
    """
    contents: dict[str, bytes | None] = {f"ISIC_{number:07d}.jpg": jpeg(number) for number in range(count)}
    contents |= files or {}
    for place, (name, data) in enumerate(contents.items()):
        target = folder / PARTS[place % 2] / name
        target.parent.mkdir(parents=True, exist_ok=True)
        if data is not None:
            target.write_bytes(data)
    changed = rows or {}
    table = [ham10000_row(number, **changed.get(number, {})) for number in range(count)]
    write_csv(folder / "HAM10000_metadata.csv", [*table, *extra])
    return folder


def record(number: int, **labels: Any) -> Record:
    """A catalogued record with a digest and a lesion of its own."""
    defaults: dict[str, Any] = {
        "lesion_id": f"L{number}", "diagnosis": CODES[number % 7], "age": 50.0, "sex": "female",
    }  # fmt: skip
    return Record(hashlib.sha256(str(number).encode()).hexdigest(), f"I{number}", Labels(**{**defaults, **labels}))
