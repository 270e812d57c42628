"""From JPEG bytes to prepared pixels: the recipe `dermanet` against the original DermaNet app's chain and against decoding alone.

    python -m benchmarks.pixels [FOLDER]     every n-th JPEG below the folder; without one, synthetic images

Three ways take turns on one core; whole runs of the cache take turns on one core and on two, each in a process of its own that is
kept to its cores; and a run is repeated with one image in a hundred new. The ratios are what counts.
"""

import json
import multiprocessing
import os
import sys
import time
from collections.abc import Callable, Sequence
from itertools import islice
from multiprocessing.pool import Pool
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory

import cv2
import numpy as np

from dermanet.intake.synthetic import SyntheticSource
from dermanet.pixels import preprocess
from dermanet.pixels.prepared import PreparedPixels

ROUNDS = 7
FILES = 150
FILLED = 1000
"""Images of one run of the cache: the files again and again, under other digests."""


def original(data: bytes) -> np.ndarray:
    """The app's chain written plainly: read, grey, 5x5 blur, CLAHE 2.0 over 8x8 tiles, to RGB, 256x256, to [0, 1]."""
    grey = cv2.cvtColor(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2GRAY)
    flat = cv2.createCLAHE(clipLimit=2.0, tileGridSize=(8, 8)).apply(cv2.GaussianBlur(grey, (5, 5), 0))
    return cv2.resize(cv2.cvtColor(flat, cv2.COLOR_GRAY2RGB), (256, 256)) / 255.0


def decoding(data: bytes) -> np.ndarray:
    """OpenCV's decoder alone: the bound that every chain has."""
    return np.asarray(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR))


def files_in(folder: str | None, images: int) -> list[bytes]:
    """About `images` JPEG files spread over a folder and what is below it, or as many synthetic ones where none is named."""
    if folder is None:
        source = SyntheticSource(lesions=images)
        return [source.read(str(row.image)) for row in islice(source.rows(), images)]
    paths = sorted(Path(folder).rglob("*.jpg"))
    return [path.read_bytes() for path in paths[:: max(1, len(paths) // images)]]


def ways(files: Sequence[bytes]) -> dict[str, float]:
    """Images per second of a core's own time, the median of rounds that take turns, and the ratios of interest."""
    recipe = preprocess.recipe("dermanet")
    timed: dict[str, Callable[[bytes], object]] = {
        "recipe": lambda data: preprocess.prepare(data, recipe),
        "original": original,
        "decoding": decoding,
    }
    rates: dict[str, list[float]] = {name: [] for name in timed}
    for _ in range(ROUNDS):
        for name, way in timed.items():
            # The core's time, not the clock's: what else the machine does is nobody's speed.
            start = time.process_time()
            for data in files:
                way(data)
            rates[name].append(len(files) / (time.process_time() - start))
    middle = {f"{name}_images_per_second": round(median(values), 1) for name, values in rates.items()}
    return {**middle, "against_original": _ratio(rates, "original"), "against_decoding": _ratio(rates, "decoding")}


def _ratio(rates: dict[str, list[float]], other: str) -> float:
    return round(median(own / theirs for own, theirs in zip(rates["recipe"], rates[other], strict=True)), 2)


def runs(files: Sequence[bytes]) -> dict[str, float]:
    """Whole runs of the cache: two cores against one, and a second run after 1 % new images against the first, on two cores."""
    cores = sorted(os.sched_getaffinity(0))[:2]
    if len(cores) < 2:
        return {}
    context = multiprocessing.get_context("spawn")
    with context.Pool(1, _keep_to, (cores[:1],)) as one, context.Pool(1, _keep_to, (cores,)) as two:
        for pool in (one, two):
            _filled(pool, files[:4])
        seconds = [(_filled(one, files), _filled(two, files)) for _ in range(ROUNDS)]
    return {
        "one_core_images_per_second": round(FILLED / median(single[0] for single, _ in seconds), 1),
        "two_cores_images_per_second": round(FILLED / median(double[0] for _, double in seconds), 1),
        "two_cores_against_one": round(median(single[0] / double[0] for single, double in seconds), 2),
        "again_with_1_percent_new": round(median(double[1] / double[0] for _, double in seconds), 4),
    }


def _keep_to(cores: Sequence[int]) -> None:
    os.sched_setaffinity(0, cores)


def _filled(pool: Pool, files: Sequence[bytes]) -> tuple[float, float]:
    return pool.apply(_fill, (list(files),))


def _fill(files: list[bytes]) -> tuple[float, float]:
    """Seconds of a run that makes every image, and of the next, opened anew, with one image in a hundred new."""
    recipe, seconds = preprocess.recipe("dermanet"), []
    # The first run has the images 0 to FILLED, the second one in a hundred more.
    digests = [f"{number:064x}" for number in range(FILLED + FILLED // 100)]
    with TemporaryDirectory() as folder:
        for wanted in (digests[:FILLED], digests):
            start = time.perf_counter()
            PreparedPixels(Path(folder), recipe).fill(wanted, lambda digest: files[int(digest, 16) % len(files)])
            seconds.append(time.perf_counter() - start)
    return seconds[0], seconds[1]


def main() -> None:
    """Prints one JSON line."""
    cv2.setNumThreads(1)
    files = files_in(sys.argv[1] if len(sys.argv) > 1 else None, FILES)
    what = {"benchmark": "pixels", "images": len(files), "mean_bytes": sum(map(len, files)) // len(files)}
    print(json.dumps({**what, **ways(files), **runs(files)}))


if __name__ == "__main__":
    main()
