"""How good an experiment's network is on lesions that it has not seen, beside a reader who does not look.

    python -m benchmarks.quality SOURCE... --experiment finetune        five folds by lesion: each image is answered once
    python -m benchmarks.quality DERMAMNIST --experiment finetune28         the official split of DermaMNIST: its test images, once
    python -m benchmarks.quality DERMAMNIST --experiment finetune28 --by-lesion   the same images, split by lesion as 7 : 1 : 2

SOURCE: labelled images as `dermanet ingest` reads them. DERMAMNIST: a folder with `images.npz` and `labels.csv` (28x28 pixels,
official split in the column `dm_split`). In each fold an eighth of the training lesions is the validation side: whatever is chosen is
chosen there, with `--validation`, which leaves the test images alone. `--workdir` keeps what is under way: a killed run called again
goes on from its last whole epoch.

One JSON line: every figure with its 95 % interval by bootstrap over lesions, the trivial reader's, seconds, and the settings.
"""

import argparse
import hashlib
import json
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import onnxruntime
import pandas as pd
from sklearn.model_selection import StratifiedGroupKFold

from benchmarks.pixel_effect import labelled
from dermanet import experiment, taxonomy
from dermanet.experiment import Experiment
from dermanet.judging import metrics
from dermanet.judging.intervals import intervals
from dermanet.learning.train import Sides, fit, fitted
from dermanet.learning.watching import Epoch, Watch
from dermanet.pixels.prepared import PreparedPixels
from dermanet.pixels.preprocess import recipe
from dermanet.records import Answers, Labels, Record
from dermanet.stages.progress import epoch_line

CODES = taxonomy.load(taxonomy.DEFAULT).codes
VALIDATION = 8
"""One in so many training lesions is set apart to choose by."""


@dataclass(frozen=True)
class Images:
    """Labelled images by digest, and the split that came with them: `train`, `val` or `test`, where one did."""

    files: Mapping[str, bytes]
    records: Sequence[Record]
    split: Sequence[str] = ()


def read_sources(sources: Sequence[str]) -> Images:
    """Every image of the sources that has a file and good labels."""
    files, records = {}, []
    for data, labels in labelled(sources):
        digest = hashlib.sha256(data).hexdigest()
        files[digest] = data
        records.append(Record(digest, digest[:12], labels))
    return Images(files, records)


def read_dermamnist(folder: Path) -> Images:
    """All 28x28 images, each as a PNG: lossless, and read by the same code as a photograph."""
    pixels = np.load(folder / "images.npz")["images"]
    table = pd.read_csv(folder / "labels.csv", dtype=str)
    files, records = {}, []
    for row, image in zip(table.itertuples(), pixels, strict=True):
        data = cv2.imencode(".png", cv2.cvtColor(image, cv2.COLOR_RGB2BGR))[1].tobytes()
        # Two images may be alike to the last bit at this size.
        digest = hashlib.sha256(f"{row.image_id}".encode() + data).hexdigest()
        age = None if str(row.age) == "nan" else float(str(row.age))
        files[digest] = data
        labels = Labels(str(row.lesion_id), str(row.dx), age, str(row.sex))
        records.append(Record(digest, str(row.image_id), labels))
    return Images(files, records, list(table.dm_split))


def folds(images: Images, count: int, seed: int) -> Iterator[tuple[list[Record], list[Record], list[Record]]]:
    """Training, validation and test side, by lesion, the diagnoses spread as evenly as lesions allow; every image is tested once."""
    for rest, test in _grouped(images.records, count, seed):
        yield *_apart([images.records[place] for place in rest], seed), [images.records[place] for place in test]


def official(images: Images) -> Iterator[tuple[list[Record], list[Record], list[Record]]]:
    """The sides that the split names."""
    sides = [
        [record for record, side in zip(images.records, images.split, strict=True) if side == wanted]
        for wanted in ("train", "val", "test")
    ]
    yield sides[0], sides[1], sides[2]


def _grouped(records: Sequence[Record], count: int, seed: int) -> Iterator[tuple[Any, Any]]:
    lesions = [record.labels.lesion_id for record in records]
    diagnoses = [record.labels.diagnosis for record in records]
    yield from StratifiedGroupKFold(count, shuffle=True, random_state=seed).split(records, diagnoses, lesions)


def _apart(records: Sequence[Record], seed: int) -> tuple[list[Record], list[Record]]:
    train, validation = next(_grouped(records, VALIDATION, seed))
    return [records[place] for place in train], [records[place] for place in validation]


def answered(onnx_file: Path, pixels: PreparedPixels, records: Sequence[Record]) -> Answers:
    """What the exported graph answers."""
    session = onnxruntime.InferenceSession(onnx_file, providers=["CPUExecutionProvider"])
    found = []
    for start in range(0, len(records), 32):
        batch = pixels.batch([record.digest for record in records[start : start + 32]])
        found.append(session.run(None, {"image": batch.astype(np.float32)}))
    age, sex, diagnosis = (np.concatenate(parts) for parts in zip(*found, strict=True))
    return Answers(age[:, 0], sex, diagnosis)


def work_of(chosen: Experiment, train: Sequence[Record], validation: Sequence[Record]) -> str:
    """Names a training by all that it depends on, so that no other split of the same images goes on with it."""
    sides = " ".join([*(record.digest for record in train), "|", *(record.digest for record in validation)])
    return f"{chosen.digest}-{hashlib.sha256(sides.encode()).hexdigest()[:12]}"


def joined(parts: Sequence[Answers]) -> Answers:
    """The answers of several folds, one behind the other."""
    return Answers(*(np.concatenate([getattr(part, head) for part in parts]) for head in ("age", "sex", "diagnosis")))


def measured(
    chosen: Experiment, images: Images, splits: Sequence[Any], workdir: Path, validation_only: bool = False
) -> dict[str, Any]:
    """Trains on each split and scores its test side, or its validation side only; figures over all of them together."""
    pixels = PreparedPixels(workdir / "prepared", recipe(chosen.recipe))
    pixels.fill(list(images.files), images.files.__getitem__)
    tested, given, trivial, seconds = [], [], [], []
    for place, (train, validation, test) in enumerate(splits):
        start = time.monotonic()
        print(f"split {place + 1}: {len(train)} train, {len(validation)} validation, {len(test)} test", flush=True)
        sides = Sides(CODES, train, validation, pixels)
        folder = workdir / work_of(chosen, train, validation)
        watch = Watch(_told, say=_say)
        if validation_only:
            scored, answers = validation, fitted(chosen, sides, folder, workdir / "features", watch).validation
        else:
            scored, answers = (
                test,
                answered(fit(chosen, sides, folder, workdir / "features", watch).onnx_file, pixels, test),
            )
        given.append(answers)
        trivial.append(metrics.trivial_answers(train, len(scored), CODES))
        tested += scored
        seconds.append(round(time.monotonic() - start, 1))
        _say(json.dumps({"split": place, **_rounded(metrics.figures(scored, answers, CODES)), "seconds": seconds[-1]}))
    return {
        "experiment": chosen.as_dict(), "side": "validation" if validation_only else "test", "images": len(tested),
        "seconds": seconds,
        "figures": _rounded(metrics.figures(tested, joined(given), CODES)),
        "intervals": {name: [round(end, 3) for end in ends] for name, ends in intervals(tested, joined(given), CODES).items()},
        "trivial": _rounded(metrics.figures(tested, joined(trivial), CODES)),
    }  # fmt: skip


def _told(history: list[Epoch]) -> None:
    if history:
        _say(epoch_line(history))


def _say(line: str) -> None:
    print(line, flush=True)


def _rounded(figures: Mapping[str, float]) -> dict[str, float]:
    return {name: round(value, 3) for name, value in figures.items()}


def main() -> None:
    """Reads the command line, measures, and prints the line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", nargs="+", metavar="SOURCE")
    parser.add_argument("--experiment", default="finetune")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--only", type=int, help="one fold, counted from 0, to choose experiments by")
    parser.add_argument("--seed", type=int, default=0, help="of the folds; the experiment has its own")
    parser.add_argument("--validation", action="store_true", help="score the validation side, and leave the test alone")
    parser.add_argument("--by-lesion", action="store_true", help="split DermaMNIST by lesion instead")
    parser.add_argument("--workdir", type=Path)
    asked = parser.parse_args()
    cv2.setNumThreads(1)
    mnist = Path(asked.sources[0], "images.npz").exists()
    images = read_dermamnist(Path(asked.sources[0])) if mnist else read_sources(asked.sources)
    if mnist and not asked.by_lesion:
        splits = list(official(images))
    else:
        splits = list(folds(images, asked.folds, asked.seed))[: 1 if mnist else None]
    if asked.only is not None:
        splits = splits[asked.only : asked.only + 1]
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as temporary:
        workdir = asked.workdir or Path(temporary)
        found = measured(experiment.named(asked.experiment), images, splits, workdir, asked.validation)
    print(json.dumps({"benchmark": "quality", **found, "in_all": round(time.monotonic() - start, 1)}))


if __name__ == "__main__":
    main()
