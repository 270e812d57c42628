"""How many synthetic images one core makes in a second, drawing and JPEG encoding included.

Run `python benchmarks/synthetic.py [IMAGES]` in the project's folder; one JSON line on stdout. Target: 100 at 600x450.
"""

import json
import sys
import time
from itertools import islice

import cv2

from dermanet.intake.synthetic import SyntheticSource


def measure(images: int) -> dict[str, str | int | float]:
    """Reads `images` images on this thread after one warm-up read, which fills the textures' cache."""
    cv2.setNumThreads(1)
    source = SyntheticSource(lesions=images)
    names = [str(row.image) for row in islice(source.rows(), images)]
    source.read(names[0])
    start = time.perf_counter()
    size = sum(len(source.read(name)) for name in names)
    seconds = time.perf_counter() - start
    return {
        "benchmark": "synthetic",
        "images_per_second_one_core": round(images / seconds, 1),
        "images": images,
        "size": "x".join(map(str, source.size)),
        "mean_bytes": size // images,
    }


if __name__ == "__main__":
    print(json.dumps(measure(int(sys.argv[1]) if len(sys.argv) > 1 else 300)))
