"""What `dermanet predict` costs: one image as a whole process, and 1,000 files against a plain loop in one process.

python -m benchmarks.predict [--model ADDRESS] [--times 5] [--images 1000]

Without `--model` a network is made first, EfficientNet-Lite 0 at 224 pixels; with it, this installation's model is asked.
"""

import argparse
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from dermanet import stages
from dermanet.intake.synthetic import SyntheticSource

LOOP = """
import sys, time
from pathlib import Path
from dermanet.imagefile import decode_reduced
from dermanet.pixels import preprocess
from dermanet.serving.network import CARD, load
preprocess.settle()
files, images = Path(sys.argv[1]), sorted(Path(sys.argv[2]).iterdir())
network = load(files / "model.onnx", files / CARD, threads=1)
recipe = network.recipe
network.answer(preprocess.prepare(images[0].read_bytes(), recipe)[None])
start = time.perf_counter()
for image in images:
    network.answer(preprocess.prepare(image.read_bytes(), recipe)[None])
print(time.perf_counter() - start)
"""
"""The yardstick: decode, preprocess and ONNX Runtime, one image after the other, in one process that has started already."""


class Cost(NamedTuple):
    """Of a process from its start to its end: seconds by the clock, seconds of processors, and what it printed."""

    wall: float
    processor: float
    printed: str


def cost(*command: str) -> Cost:
    """Of a Python process with these arguments."""
    before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run([sys.executable, *command], check=True, stdout=subprocess.PIPE, text=True)
    wall, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    return Cost(wall, after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime, done.stdout)


def ratio(pairs: Sequence[tuple[float, float]]) -> float:
    """The median of the ratios of pairs."""
    return round(statistics.median(first / second for first, second in pairs), 2)


def a_model(home: Path) -> None:
    """A home of its own with a champion: EfficientNet-Lite 0 with heads for a few synthetic images."""
    gates = home / "gates.yaml"
    gates.write_text("checks:\n  age_mae: {greater_is_better: false, threshold: 100}\n")
    os.environ |= {
        "DERMANET_HOME": str(home),
        "DERMANET_GATES": str(gates),
        "MLFLOW_TRACKING_URI": f"sqlite:///{home}/mlflow.db",
    }
    stages.retrain(["synthetic:lesions=60,seed=3"], "probe112:recipe=square@224")


def photographs(folder: Path, count: int) -> None:
    """So many synthetic JPEGs of 600x450 pixels, some of them the same."""
    source = SyntheticSource(lesions=60, seed=11)
    drawn = [source.read(str(row.image)) for row in source.rows()]
    folder.mkdir()
    for number in range(count):
        (folder / f"{number:05}.jpg").write_bytes(drawn[number % len(drawn)])


def main() -> None:
    """Prints one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--model", default="")
    parser.add_argument("--times", type=int, default=5)
    parser.add_argument("--images", type=int, default=1000)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        if not asked.model:
            a_model(root)
        photographs(root / "images", asked.images)
        named = ["--model", asked.model] if asked.model else []
        files, images = _files(asked.model), str(root / "images")
        alone, imports, pairs = [], [], []
        for turn in range(asked.times):
            alone.append(cost("-m", "dermanet", "predict", f"{images}/00000.jpg", *named).wall)
            imports.append(cost("-c", "import mlflow").wall)
            out = str(root / f"{turn}.csv")
            into = ("-m", "dermanet", "predict", images, "--out", out, "--json", *named)
            pairs.append((cost("-c", LOOP, files, images), cost(*into)))
    print(json.dumps({
        "benchmark": "predict", "images": asked.images, "cores": len(os.sched_getaffinity(0)), "load": round(os.getloadavg()[0], 1),
        "one_image": round(statistics.median(alone), 2), "import_mlflow": round(statistics.median(imports), 2),
        "loop_images_per_second": round(asked.images / statistics.median(float(loop.printed) for loop, _ in pairs)),
        "predict_images_per_second": round(asked.images / statistics.median(told.wall for _, told in pairs)),
        "faster_than_the_loop": ratio([(float(loop.printed), told.wall) for loop, told in pairs]),
        "faster_than_its_process": ratio([(loop.wall, told.wall) for loop, told in pairs]),
        "processor_time": ratio([(told.processor, loop.processor) for loop, told in pairs]),
    }))  # fmt: skip


def _files(address: str) -> str:
    from dermanet import settings
    from dermanet.registry.copies import model

    here = settings.read()
    return str(model(address or f"models:/{here.model}@champion", here.tracking_uri, here.home / "models").files)


if __name__ == "__main__":
    main()
