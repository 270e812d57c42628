"""What a row of kept features is: apart from what computes them, so that who counts or removes them need not import Keras."""

import json
import zlib
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dermanet.pixels.shards import ABOUT, Row

REVISION = 1
"""Raised whenever the code changes what a backbone makes of an image: it is part of every fingerprint."""

GRAPHS = "graphs"
"""The folder of the exported backbones, among those of the features that they make."""

SEAL = b"\x32\x08"
"""What stands before the checksum of an exported backbone: the tag of ONNX's `doc_string`, which computes nothing, and its length."""

KIND = np.dtype(np.float16)
"""Of kept features: their error, a two-thousandth, is far below what separates two photographs of one lesion."""


def rows(about: Mapping[str, Any], fingerprint: str) -> Row | None:
    """The rows of a folder of features; None where this code makes others."""
    if about.get("revision") != REVISION or about.get("fingerprint") != fingerprint:
        return None
    width = about.get("width")
    return Row((width,), KIND) if isinstance(width, int) else None


def sealed(graph: bytes) -> bytes:
    """An ONNX graph with the CRC-32 of its bytes behind it, as its `doc_string`: it is the same graph to everyone who reads it."""
    return graph + SEAL + f"{zlib.crc32(graph):08x}".encode()


def sound_graph(path: Path) -> bytes | None:
    """An exported backbone, sealed; None where there is none, or another than was written."""
    try:
        found = path.read_bytes()
    except FileNotFoundError:
        return None
    return found if found == sealed(found[: -len(sealed(b""))]) else None


def check_graphs(root: Path) -> list[str]:
    """Reads every exported backbone; what is damaged is named and removed, so that it is exported again when it is needed."""
    # One that is being written has a name of its own, with a dot before it.
    kept = sorted(path for path in (root / GRAPHS).glob("*.onnx") if not path.name.startswith("."))
    damaged = [path for path in kept if sound_graph(path) is None]
    for path in damaged:
        path.unlink(missing_ok=True)
    return [f"{path} is another graph than was written" for path in damaged]


def idle_graphs(root: Path, leaving: Collection[Path]) -> list[Path]:
    """The exported backbones that have made nothing of what is kept under `root` once the shards `leaving` have gone.

    None of them where a folder that stays does not say which one made it.
    """
    staying = {shard.parent for shard in root.glob("*/*.npy") if shard not in leaving}
    made = {_maker(folder) for folder in staying}
    return [] if None in made else sorted(path for path in (root / GRAPHS).glob("*.onnx") if path.stem not in made)


def _maker(folder: Path) -> str | None:
    try:
        return str(json.loads((folder / ABOUT).read_bytes())["graph"])
    except (OSError, ValueError, KeyError, TypeError):
        return None
