"""From JPEG bytes to prepared pixels, one core: each recipe against the original DermaNet app's chain, in turn in one run."""

import json
import time
from collections.abc import Callable, Sequence
from statistics import median

import cv2
import numpy as np

from dermanet.intake.synthetic import SyntheticSource
from dermanet.pixels import preprocess

ROUNDS = 7


def original(data: bytes) -> np.ndarray:
    """The app's chain written plainly: read, grey, 5x5 blur, CLAHE 2.0 over 8x8 tiles, to RGB, 256x256, to [0, 1]."""
    grey = cv2.cvtColor(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR), cv2.COLOR_BGR2GRAY)
    flat = cv2.createCLAHE(clipLimit=2.0, tileGridSize=(8, 8)).apply(cv2.GaussianBlur(grey, (5, 5), 0))
    return cv2.resize(cv2.cvtColor(flat, cv2.COLOR_GRAY2RGB), (256, 256)) / 255.0


def decoding(data: bytes) -> np.ndarray:
    """OpenCV's decoder alone: the bound that every chain has."""
    return np.asarray(cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR))


def measure(files: Sequence[bytes]) -> dict[str, float]:
    """Images per second of each way, the median of rounds that take turns, and the ratios of interest."""
    recipe = preprocess.recipe("dermanet")
    ways: dict[str, Callable[[bytes], object]] = {
        "recipe": lambda data: preprocess.prepare(data, recipe),
        "original": original,
        "decoding": decoding,
    }
    rates: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(ROUNDS):
        for name, way in ways.items():
            start = time.perf_counter()
            for data in files:
                way(data)
            rates[name].append(len(files) / (time.perf_counter() - start))
    middle = {f"{name}_images_per_second": round(median(values), 1) for name, values in rates.items()}
    return {**middle, "against_original": _ratio(rates, "original"), "against_decoding": _ratio(rates, "decoding")}


def _ratio(rates: dict[str, list[float]], other: str) -> float:
    return round(median(own / theirs for own, theirs in zip(rates["recipe"], rates[other], strict=True)), 2)


def main() -> None:
    """Prints one JSON line."""
    cv2.setNumThreads(1)
    source = SyntheticSource(lesions=60)
    files = [source.read(str(row.image)) for row in source.rows()]
    print(json.dumps({"benchmark": "pixels", **measure(files)}))


if __name__ == "__main__":
    main()
