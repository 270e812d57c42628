"""How far each recipe's pixels are from the chain written plainly at full size: one row a recipe, in levels of 255.

    python -m benchmarks.pixel_difference [FOLDER]     every JPEG below the folder; without one, synthetic images

The plain chain of a colour recipe decodes the whole image, blurs it 5x5, equalizes its luma in YCrCb and averages it down; that of
`grey` is the original app's, in OpenCV alone. Each file is measured as it is and re-encoded at quality 75.
"""

import dataclasses
import json
import sys
from collections.abc import Callable, Sequence

import cv2
import numpy as np
import simplejpeg
from numpy.typing import NDArray

from benchmarks.pixels import files_in, original
from dermanet import imagefile
from dermanet.pixels.preprocess import prepare, recipe

IMAGES = 200
"""Of a larger folder every n-th image, so that about this many are measured."""

Way = Callable[[bytes], NDArray[np.uint8]]


def whole(data: bytes) -> NDArray[np.uint8]:
    """Blur and CLAHE on the whole image, and the resize last: what `dermanet` is short for."""
    blurred = cv2.GaussianBlur(imagefile.decode(data), (5, 5), 0)
    ycc = cv2.cvtColor(blurred, cv2.COLOR_RGB2YCrCb)
    ycc[..., 0] = cv2.createCLAHE(clipLimit=2.0, tileGridSize=(8, 8)).apply(ycc[..., 0])
    return shrunk(np.asarray(cv2.cvtColor(ycc, cv2.COLOR_YCrCb2RGB), np.uint8))


def unequalized(data: bytes) -> NDArray[np.uint8]:
    """The same without CLAHE, which shows what reduced decoding alone changes."""
    return shrunk(np.asarray(cv2.GaussianBlur(imagefile.decode(data), (5, 5), 0), np.uint8))


def shrunk(image: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Averaged down to 256x256."""
    return np.asarray(cv2.resize(image, (256, 256), interpolation=cv2.INTER_AREA), np.uint8)


def app(data: bytes) -> NDArray[np.uint8]:
    """The original app's pixels, before it divides them by 255."""
    return np.asarray(np.rint(original(data) * 255), np.uint8)


PAIRS: dict[str, tuple[Way, Way]] = {
    "dermanet": (lambda data: prepare(data, recipe("dermanet")), whole),
    "dermanet, no CLAHE": (lambda data: prepare(data, dataclasses.replace(recipe("dermanet"), clip=0.0)), unequalized),
    "grey": (lambda data: prepare(data, recipe("grey")), app),
    "plain": (lambda data: prepare(data, recipe("plain")), lambda data: shrunk(imagefile.decode(data))),
}


def difference(files: Sequence[bytes], ours: Way, plain: Way) -> dict[str, float]:
    """Absolute differences over every pixel and channel: mean, 99th percentile, largest; and the mean of the worst image."""
    counts, worst = np.zeros(256, np.int64), 0.0
    for data in files:
        apart = cv2.absdiff(ours(data), plain(data))
        counts += np.bincount(apart.ravel(), minlength=256)
        worst = max(worst, float(apart.mean()))
    share = counts.cumsum() / counts.sum()
    return {
        "mean": round(float(counts @ np.arange(256) / counts.sum()), 3),
        "p99": int(np.searchsorted(share, 0.99)),
        "max": int(counts.nonzero()[0][-1]),
        "worst_image_mean": round(worst, 3),
    }


def again(data: bytes) -> bytes:
    """The file decoded and encoded anew, as other software would hand it on."""
    return bytes(simplejpeg.encode_jpeg(imagefile.decode(data), 75, "RGB", "420"))


def main() -> None:
    """Prints one JSON line a recipe and encoding."""
    files = files_in(sys.argv[1] if len(sys.argv) > 1 else None, IMAGES)
    for encoding, given in (("as it is", files), ("quality 75", [again(data) for data in files])):
        for name, (ours, plain) in PAIRS.items():
            row = {"recipe": name, "files": encoding, "images": len(given), **difference(given, ours, plain)}
            print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
