"""Features of frozen pretrained backbones, computed by ONNX Runtime and kept by (image digest, recipe, backbone, orientation).

    <root>/<fingerprint>/…        float16 (n, d) in shards, see `pixels.shards`
    <root>/graphs/<key>.onnx      the backbone that made them, with its checksum

What is new is computed, whatever else a snapshot holds. ONNX Runtime is several times as fast as Keras on a processor.
"""

import hashlib
import json
import os
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from numpy.typing import NDArray

from dermanet.errors import DermaNetError
from dermanet.experiment import Experiment
from dermanet.learning import lite, orientations
from dermanet.learning.parts import Part, parts
from dermanet.pixels.feature_rows import GRAPHS, KIND, REVISION, sealed, sound_graph
from dermanet.pixels.prepared import PreparedPixels
from dermanet.pixels.preprocess import Recipe
from dermanet.pixels.shards import Preparation, Row, Shards, checksum

READY_MADE = 2
"""Raised whenever a network of keras.applications is put together otherwise. The first graphs of most of them could not be run."""

BATCH = 32
Extractor = Callable[[NDArray[np.uint8]], NDArray[np.float32]]
"""Prepared images, uint8 (n, side, side, 3), in; float32 (n, features) out."""


@dataclass(frozen=True, slots=True)
class Kind:
    """Which features: of which backbone, on pixels of which recipe, in which orientation."""

    recipe: Recipe
    part: Part
    taps: bool
    view: int = 0

    @property
    def graph(self) -> str:
        """Names the frozen network: 16 hexadecimal digits."""
        return _digest({"backbone": str(self.part), "taps": self.taps, "side": self.recipe.size, **_origin(self.part)})

    @property
    def fingerprint(self) -> str:
        """Names the features: equal fingerprints, equal features. 16 hexadecimal digits."""
        return _digest({"graph": self.graph, "pixels": self.recipe.fingerprint, "view": self.view})

    def about(self, width: int) -> dict[str, Any]:
        """What a folder of these features says of itself."""
        turned = f", orientation {self.view}" if self.view else ""
        return {
            "name": f"{self.part}{' with taps' if self.taps else ''}{turned} on {self.recipe.name}", "size": self.recipe.size,
            "revision": REVISION, "width": width, "fingerprint": self.fingerprint, "graph": self.graph,
        }  # fmt: skip


class FeatureCache:
    """The features that experiments stand on, under one root. Any number of readers and writers may share it."""

    def __init__(self, root: Path, recipe: Recipe, experiment: Experiment) -> None:
        self.root = root
        self.recipe = recipe
        self.experiment = experiment
        self._opened: dict[Kind, Shards] = {}

    def fill(
        self, digests: Sequence[str], pixels: PreparedPixels, progress: Callable[[int, int], None] = lambda done, total: None
    ) -> Preparation:  # fmt: skip
        """Computes what is missing of every part in every orientation, and says how much that was, counted in images and parts.

        Killed, it goes on from its last whole shard. Raises DermaNetError where the disk is full or weights are missing.
        """
        kinds, computed, reused = list(self.kinds()), 0, 0
        damaged: list[str] = []
        total = len(set(digests)) * len(kinds)
        for place, kind in enumerate(kinds):
            before = place * len(set(digests))
            done = self._shards(kind).fill(
                digests,
                lambda chunks, kind=kind: _made(chunks, pixels, self._extractor(kind), kind.view),  # type: ignore[misc]
                lambda count, before=before: progress(before + count, total),  # type: ignore[misc]
            )
            computed, reused = computed + done.computed, reused + done.reused
            damaged += done.damaged
        return Preparation(computed, reused, tuple(damaged))

    def missing(self, digests: Sequence[str]) -> list[str]:
        """Those of `digests` of which features of some part or orientation are not kept yet, each once, in order."""
        lacking = {digest for kind in self.kinds() for digest in self._shards(kind).missing(digests)}
        return [digest for digest in dict.fromkeys(digests) if digest in lacking]

    def export(self) -> None:
        """Exports the backbones that are not kept yet, which takes ten seconds each; on a backend that does not export, nothing."""
        for part in parts(self.experiment.backbones):
            self._exported(Kind(self.recipe, part, self.experiment.taps))

    def read(self, digests: Sequence[str], only: Part | None = None) -> NDArray[np.float32]:
        """Features (n, d) of images that `fill` was called for, the mean over orientations: all parts side by side, or `only` one."""
        chosen = (only,) if only else parts(self.experiment.backbones)
        return np.concatenate([self._mean(digests, part) for part in chosen], axis=1)

    def passed_over(self, only: Part | None = None) -> NDArray[np.bool_] | None:
        """Which features (d,) a diagnosis is told without: the last map's, where textures are beside it. None: it reads all.

        What ImageNet's things are told by tells a sex and an age, and is noise to a diagnosis by frozen networks (docs/results.md).
        """
        chosen = (only,) if only else parts(self.experiment.backbones)
        if self.experiment.last_map or not any(part.textures for part in chosen):
            return None
        widths = [_width(part, self.recipe.size, self.experiment.taps) for part in chosen]
        return np.concatenate(
            [np.arange(width) < (lite.HEAD if part.textures else 0) for part, width in zip(chosen, widths, strict=True)]
        )

    def rows(self, digests: Sequence[str], only: Part | None = None) -> "Rows":
        """The same, read a piece at a time."""
        return Rows(self, tuple(digests), only)

    def kinds(self) -> Iterator[Kind]:
        """Every part of the backbone in every orientation."""
        for part in parts(self.experiment.backbones):
            for view in range(self.experiment.views):
                yield Kind(self.recipe, part, self.experiment.taps, view)

    def graphs(self) -> list[Path]:
        """The exported networks of all parts, in order; none where some are not kept on a backend that does not export."""
        kinds = [Kind(self.recipe, part, self.experiment.taps) for part in parts(self.experiment.backbones)]
        found = [self._graph(kind) if sound_graph(self._graph(kind)) else self._exported(kind) for kind in kinds]
        return [path for path in found if path] if all(found) else []

    def _graph(self, kind: Kind) -> Path:
        return self.root / GRAPHS / f"{kind.graph}.onnx"

    def _mean(self, digests: Sequence[str], part: Part) -> NDArray[np.float32]:
        total = np.zeros(1, np.float32)
        for kind in self.kinds():
            if kind.part == part:
                total = total + self._shards(kind).batch(digests).astype(np.float32)
        return np.asarray(total / np.float32(self.experiment.views), np.float32)

    def _shards(self, kind: Kind) -> Shards:
        if kind not in self._opened:
            width = _width(kind.part, kind.recipe.size, kind.taps)
            self._opened[kind] = Shards(self.root / kind.fingerprint, Row((width,), KIND), kind.about(width))
        return self._opened[kind]

    def _extractor(self, kind: Kind) -> Extractor:
        graph = self._exported(kind)
        if graph:
            return _running(graph.read_bytes())
        # Keras exports ONNX from TensorFlow; on the other backends, and their devices, it is quick enough itself.
        model = _network(kind.part, kind.recipe.size, taps=kind.taps)
        return lambda images: np.asarray(model.predict_on_batch(images.astype(np.float32)), np.float32)

    def _exported(self, kind: Kind) -> Path | None:
        """The exported network, made if it is not kept or damaged; None on a backend that does not export."""
        path = self._graph(kind)
        kept = sound_graph(path) is not None
        # Keras, whose start takes seconds in each task, is started by who makes one alone, or says that it runs on another backend.
        if ("KERAS_BACKEND" in os.environ or not kept) and not _exports():
            return None
        if not kept:
            path.parent.mkdir(parents=True, exist_ok=True)
            temporary = path.with_name(f".{os.getpid()}-{path.name}")
            try:
                temporary.write_bytes(sealed(exported(kind.part, kind.recipe.size, kind.taps)))
                os.replace(temporary, path)
            finally:
                temporary.unlink(missing_ok=True)
        return path


@dataclass(frozen=True, slots=True)
class Rows:
    """The features of some images, in order; they are read when they are asked for."""

    cache: FeatureCache
    digests: tuple[str, ...]
    only: Part | None = None

    def __len__(self) -> int:
        return len(self.digests)

    def __getitem__(self, rows: slice) -> NDArray[np.float32]:
        return self.cache.read(self.digests[rows], self.only)


def extractor(name: str, side: int) -> Extractor:
    """A backbone by name, frozen, for images of `side` pixels. Raises BadInput for a name that there is not."""
    (part,) = parts(name)
    return _running(exported(part, side))


def exported(part: Part, side: int, taps: bool = False) -> bytes:
    """The backbone as an ONNX graph."""
    from dermanet.learning.model import converted

    return bytes(converted(_network(part, side, taps=taps)).SerializeToString())


def _network(part: Part, side: int, **options: bool) -> Any:
    from dermanet.learning import backbones

    return backbones.network(part, side, **options)


def _exports() -> bool:
    from dermanet.learning.quiet import keras

    return bool(keras.backend.backend() == "tensorflow")


def _running(graph: bytes) -> Extractor:
    session = onnxruntime.InferenceSession(graph, providers=["CPUExecutionProvider"])
    pixels = session.get_inputs()[0].name
    return lambda images: np.asarray(session.run(None, {pixels: images.astype(np.float32)})[0], np.float32)


def _made(
    chunks: Iterable[list[str]], pixels: PreparedPixels, extract: Extractor, view: int
) -> Iterator[tuple[list[str], list[tuple[NDArray[Any], int]]]]:
    for chunk in chunks:
        found = []
        for start in range(0, len(chunk), BATCH):
            images = pixels.batch(chunk[start : start + BATCH])
            found.append(_kept(extract(orientations.one_of(images, view))))
        yield chunk, [(row, checksum(row)) for row in np.concatenate(found)]


def _kept(features: NDArray[np.float32]) -> NDArray[np.float16]:
    most = np.abs(features).max(initial=0.0)
    # A number that is none is not at most anything.
    if not most <= np.finfo(KIND).max:
        raise DermaNetError(
            f"a backbone makes features of {most:.3g}; kept are those of at most {np.finfo(KIND).max:.0f}: are its weights sound?"
        )
    return features.astype(KIND)


@lru_cache
def _width(part: Part, side: int, taps: bool) -> int:
    """How many features a part has; an EfficientNet-Lite's without building it."""
    if part.name in lite.VARIANTS:
        return lite.width(lite.VARIANTS[part.name], taps, part.textures)
    return int(_network(part, side, pretrained=False, taps=taps).output.shape[-1])


@lru_cache
def _origin(part: Part) -> dict[str, Any]:
    """Where a part's weights come from: the digest of an installed file, or the version of the library that downloads them."""
    if part.name in lite.VARIANTS:
        return {"revision": REVISION, "weights": lite.weights_file(lite.VARIANTS[part.name])[1]}
    return {"revision": [REVISION, READY_MADE], "weights": f"keras {version('keras')}"}


def _digest(record: Mapping[str, Any]) -> str:
    return hashlib.sha256(json.dumps(record, sort_keys=True).encode()).hexdigest()[:16]
