"""What training costs: the input pipeline's share of a step, and what a retrain costs when little is new.

    python -m benchmarks.training            step time from shards against the same batches from memory, in pairs
    python -m benchmarks.training --probe    a cold probe of 10,015 images of 112 pixels, and again after 1 % new images

The probe runs as a process of its own, from prepared pixels to the exported graph, imports included. One JSON line each.
"""

import argparse
import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from benchmarks.resident import peak_mb
from dermanet import experiment, taxonomy
from dermanet.experiment import Experiment
from dermanet.pixels.prepared import PreparedPixels
from dermanet.pixels.preprocess import recipe
from dermanet.pixels.shards import checksum
from dermanet.records import SEXES, Labels, Record

CODES = taxonomy.load(taxonomy.DEFAULT).codes
STEPS, PAIRS, COUNT = 12, 7, 10_015


def records(count: int) -> list[Record]:
    """Made-up images: the digest says what is in them."""
    found = []
    for number in range(count):
        digest = hashlib.sha256(str(number).encode()).hexdigest()
        place = int(digest[:6], 16)
        code, sex = CODES[min(place % 11, 6)], SEXES[place % 2]
        found.append(Record(digest, f"I{number}", Labels(f"L{number}", code, 20.0 + place % 60, sex)))
    return found


def image(digest: str, side: int) -> NDArray[np.uint8]:
    """A soft pattern in which the labels can be seen, if not read at once."""
    rng = np.random.default_rng(int(digest[:12], 16))
    coarse = rng.integers(60, 200, (7, 7, 3))
    coarse[3, 3] = 40 + 20 * (int(digest[:6], 16) % 11)
    return np.asarray(cv2.resize(coarse.astype(np.uint8), (side, side), interpolation=cv2.INTER_CUBIC), np.uint8)


def filled(root: Path, text: str, wanted: list[Record]) -> PreparedPixels:
    """The prepared pixels of `wanted`, written to shards without a photograph behind them."""
    pixels = PreparedPixels(root, recipe(text))

    def made(chunks: Iterable[list[str]]) -> Iterator[tuple[list[str], list[tuple[NDArray[Any], int]]]]:
        for chunk in chunks:
            rows = [image(digest, pixels.recipe.size) for digest in chunk]
            yield chunk, [(row, checksum(row)) for row in rows]

    pixels.shards.fill([record.digest for record in wanted], made)
    return pixels


def step_time(text: str, folder: Path) -> dict[str, Any]:
    """One epoch's time with batches from shards, augmented, over the same batches from memory: the median of pairs.

    `system_share`: of the processor time of an epoch, what the system took of it, which is clearing pages for the most part.
    """
    import keras

    from dermanet.learning.dataset import Batches
    from dermanet.learning.train import Sides

    chosen = experiment.named(text)
    some = records(STEPS * chosen.batch_size)
    pixels = filled(folder, chosen.recipe, some)
    drawn = Batches(some, CODES, pixels, chosen.batch_size, augment=chosen)
    memory = [drawn[place] for place in range(len(drawn))]

    class Held(keras.utils.PyDataset):
        def __len__(self) -> int:
            return len(memory)

        def __getitem__(self, index: int) -> Any:
            return memory[index]

    model = untrained(chosen, Sides(CODES, some, some, pixels))
    held = Held()
    ratios, system = [], []
    for pair in range(PAIRS + 1):
        seconds = {}
        for name, batches in (("shards", drawn), ("memory", held))[:: 1 if pair % 2 else -1]:
            start, used = time.perf_counter(), os.times()
            model.fit(batches, epochs=1, shuffle=False, verbose=0)
            seconds[name], now = time.perf_counter() - start, os.times()
            system.append((now.system - used.system) / (now.system + now.user - used.system - used.user))
        ratios.append(seconds["shards"] / seconds["memory"])
    # The first pair pays for tracing.
    kept = sorted(ratios[1:])
    return {
        "benchmark": "step", "experiment": text, "batch": chosen.batch_size, "ratio": round(statistics.median(kept), 3),
        "ratios": [round(ratio, 3) for ratio in kept], "images_per_second": round(len(some) / seconds["shards"], 1),
        "system_share": round(statistics.median(system[2:]), 3),
    }  # fmt: skip


def untrained(chosen: Experiment, sides: Any) -> Any:
    """What the epochs of an experiment are spent on: the whole network, or in fine-tuning the first part of its backbone."""
    from dermanet.learning import model as network
    from dermanet.learning.parts import parts

    part = parts(chosen.backbone)[0] if chosen.method == "finetune" else None
    model = network.build(chosen, sides.pixels.recipe.size, len(CODES), sides.scale, only=part)
    if part:
        network.unfreeze(model.get_layer(part.layer), chosen.unfrozen)
    network.compile_for_training(model, chosen, sides.scale, steps=1000)
    return model


def probe(text: str, folder: Path, count: int) -> tuple[float, int]:
    """Seconds and peak of memory (MB) of a process that fits a probe to `count` images, from prepared pixels to the exported graph."""
    start = time.perf_counter()
    command = [sys.executable, "-m", "benchmarks.training", "--fit", text, str(folder), str(count)]
    told = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    return time.perf_counter() - start, json.loads(told.splitlines()[-1])["peak_mb"]


def fit(text: str, folder: Path, count: int) -> None:
    """What that process does."""
    from dermanet.learning.train import Sides, fit

    chosen: Experiment = experiment.named(text)
    every = records(count)
    pixels = PreparedPixels(folder / "prepared", recipe(chosen.recipe))
    sides = Sides(CODES, [one for place, one in enumerate(every) if place % 10], every[::10], pixels)
    # Fewer than all find nothing that all would then be spared.
    features = folder / ("features" if count >= COUNT else "features-of-fewer")
    fit(replace(chosen, seed=count), sides, folder / f"work-{count}", features)
    print(json.dumps({"peak_mb": peak_mb()}))


def probes(text: str, folder: Path) -> dict[str, Any]:
    """The cold probe, the same after 1 % new images, and how one's time is to the other's; and what a tenth of the images takes."""
    more = COUNT + COUNT // 100
    filled(folder / "prepared", experiment.named(text).recipe, records(more))
    (tenth, tenth_mb), (cold, cold_mb), (warm, warm_mb) = (
        probe(text, folder, count) for count in (COUNT // 10, COUNT, more)
    )
    return {
        "benchmark": "probe", "experiment": text, "images": COUNT, "cold_seconds": round(cold, 1),
        "after_1_percent_seconds": round(warm, 1), "ratio": round(warm / cold, 3), "tenth_seconds": round(tenth, 1),
        "peak_mb": {"tenth": tenth_mb, "cold": cold_mb, "after 1 percent": warm_mb},
    }  # fmt: skip


def main() -> None:
    """Reads the command line and measures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--probe", action="store_true")
    parser.add_argument("--fit", nargs=3, help=argparse.SUPPRESS)
    parser.add_argument("--experiment", help="instead of plain128 and of probe112")
    asked = parser.parse_args()
    if asked.fit:
        return fit(asked.fit[0], Path(asked.fit[1]), int(asked.fit[2]))
    with tempfile.TemporaryDirectory() as folder:
        found = (
            probes(asked.experiment or "probe112", Path(folder))
            if asked.probe
            else step_time(asked.experiment or "plain128", Path(folder))
        )
    print(json.dumps(found), flush=True)


if __name__ == "__main__":
    main()
