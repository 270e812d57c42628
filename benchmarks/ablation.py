"""What each part of a training's recipe is worth: an experiment, and the same with one field changed at a time, on the same folds.

    python -m benchmarks.ablation SOURCE... [--base EXPERIMENT] [--rows ROW ...] [--folds 5] [--workdir DIR]

SOURCE: labelled images as `dermanet ingest` reads them. A row is `field=value[,field=value]`; without `--rows`, those of `ROWS` for
the base's method. Every image is tested once, by a network that has not seen its lesion. Choose by the validation side, which is
shown beside: its images are others than the test's in every fold.

One JSON line a row, as it is done: figures, how far they are from the base's with 95 % intervals by paired bootstrap over lesions,
seconds; and tables in Markdown at the end. `--workdir` keeps what is under way and what is done: called again, it goes on.
"""

import argparse
import hashlib
import json
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from benchmarks import quality
from benchmarks.quality import CODES, Images
from dermanet import experiment
from dermanet.experiment import Experiment
from dermanet.judging import metrics
from dermanet.judging.intervals import differences
from dermanet.learning import train
from dermanet.learning.model import answers
from dermanet.learning.train import Sides
from dermanet.pixels.prepared import PreparedPixels
from dermanet.pixels.preprocess import recipe
from dermanet.records import Answers, Record

BASE = "finetune:backbone=efficientnet-lite0@112,beside=,recipe=square@112"

ROWS = {
    "finetune": (
        "turns=false", "crops=1", "light=0", "cosine=false", "warmup=0", "weight_decay=0", "averaging=0", "smoothing=0", "balance=0",
        "balance=1", "balance=0,adjustment=0.5", "views=1", "views=8", "calibrate=false", "kept=best", "taps=false", "unfrozen=0.3",
        "unfrozen=1", "age_weight=1,sex_weight=1", "recipe=dermanet@112", "recipe=plain@112",
        "recipe=square@64,backbone=efficientnet-lite0@64", "recipe=square@160,backbone=efficientnet-lite0@160",
        "backbone=efficientnet-lite0@112+efficientnet-lite1@128", "seed=8", "seed=9",
    ),
    "probe": (
        "recipe=dermanet@384", "recipe=plain@384", "recipe=square@256", "backbone=efficientnet-lite0@224/textures", "taps=false",
        "last_map=true", "views=2", "balance=0", "balance=0.5", "balance=0,adjustment=1", "calibrate=false",
    ),
}  # fmt: skip
"""What is changed unless told, by the base's method."""

SHOWN = {
    "diagnosis_accuracy": "accuracy", "diagnosis_f1_macro": "macro F1", "diagnosis_balanced_accuracy": "balanced accuracy",
    "diagnosis_recall_mel": "melanoma recall", "age_mae": "age MAE", "sex_auc": "sex AUC",
}  # fmt: skip
"""Figures of a row; the paired intervals of a test side are of these."""

CHOSEN_BY = {**SHOWN, "diagnosis_log_loss": "log loss", "sex_log_loss": "sex log loss", "diagnosis_ece": "ECE"}
"""Those of a validation side: a log loss tells two networks apart where a share of so few images does not."""


@dataclass(frozen=True)
class Trial:
    """What an experiment's networks answered over all folds, for the validation sides and for the tests."""

    validation: Answers
    test: Answers
    seconds: float


def varied(base: str, row: str) -> Experiment:
    """An experiment by its text, with the fields of a row in place of its own. Raises BadInput."""
    name, _, given = base.partition(":")
    fields = dict(part.partition("=")[::2] for part in f"{given},{row}".split(",") if part)
    return experiment.named(f"{name}:{','.join(f'{field}={value}' for field, value in fields.items())}")


def tried(chosen: Experiment, images: Images, splits: Sequence[Any], workdir: Path) -> Trial:
    """Trains an experiment on every fold; what is done already is read."""
    folds = hashlib.sha256(" ".join(quality.work_of(chosen, *split[:2]) for split in splits).encode()).hexdigest()[:12]
    kept = workdir / f"{chosen.digest}-{folds}.npz"
    if not kept.exists():
        _keep(kept, _trained(chosen, images, splits, workdir))
    with np.load(kept) as file:
        sides = [
            Answers(*(file[f"{side}_{head}"] for head in ("age", "sex", "diagnosis")))
            for side in ("validation", "test")
        ]
        return Trial(sides[0], sides[1], float(file["seconds"]))


def _trained(chosen: Experiment, images: Images, splits: Sequence[Any], workdir: Path) -> Trial:
    start, validated, tested = time.monotonic(), [], []
    pixels = PreparedPixels(workdir / "prepared", recipe(chosen.recipe))
    pixels.fill(list(images.files), images.files.__getitem__)
    for taught, validation, test in splits:
        sides = Sides(CODES, taught, validation, pixels)
        found = train.fitted(chosen, sides, workdir / quality.work_of(chosen, taught, validation), workdir / "features")
        digests = [record.digest for record in test]
        validated.append(found.validation)
        tested += [
            answers(found.model, pixels.batch(digests[first : first + 32])) for first in range(0, len(digests), 32)
        ]
    return Trial(quality.joined(validated), quality.joined(tested), time.monotonic() - start)


def _keep(path: Path, found: Trial) -> None:
    arrays = {
        f"{side}_{head}": array
        for side, given in (("validation", found.validation), ("test", found.test))
        for head, array in asdict(given).items()
    }
    np.savez(path, seconds=found.seconds, **arrays)


def row(name: str, found: Trial, base: Trial, validation: Sequence[Record], test: Sequence[Record]) -> dict[str, Any]:
    """One row: the figures that are shown, on both sides, and how far each is from the base's on the test."""
    apart = differences(test, found.test, base.test, CODES)
    return {
        "row": name, "seconds": round(found.seconds),
        "validation": _shown(metrics.figures(validation, found.validation, CODES)),
        "test": _shown(metrics.figures(test, found.test, CODES)),
        "apart": {figure: [round(end, 3) for end in apart[figure]] for figure in SHOWN if figure in apart},
    }  # fmt: skip


def tables(rows: Sequence[dict[str, Any]]) -> str:
    """The rows in Markdown: the validation side's figures, then the test's, each with its distance from the base's, 95 %."""
    lines = [f"| validation: changed | {' | '.join(CHOSEN_BY.values())} |", "|---" * (len(CHOSEN_BY) + 1) + "|"]
    for one in rows:
        lines.append(f"| `{one['row']}` | {' | '.join(_cell(name, one['validation']) for name in CHOSEN_BY)} |")
    lines += ["", f"| test: changed | {' | '.join(SHOWN.values())} |", "|---" * (len(SHOWN) + 1) + "|"]
    for one in rows:
        cells = [f"{_cell(name, one['test'])} ({_between(name, one['apart'])})" for name in SHOWN]
        lines.append(f"| `{one['row']}` | {' | '.join(cells)} |")
    return "\n".join(lines)


def _cell(name: str, figures: dict[str, float]) -> str:
    return f"{figures[name]:.{2 if name == 'age_mae' else 3}f}"


def _between(name: str, apart: dict[str, list[float]]) -> str:
    digits = 2 if name == "age_mae" else 3
    return " to ".join(f"{end:+.{digits}f}" for end in apart[name])


def _shown(figures: dict[str, float]) -> dict[str, float]:
    return {name: round(figures[name], 3) for name in CHOSEN_BY}


def main() -> None:
    """Reads the command line, trains row after row, and prints them."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", nargs="+", metavar="SOURCE")
    parser.add_argument("--base", default=BASE)
    parser.add_argument("--rows", nargs="*", help="unless told, those of ROWS for the base's method")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0, help="of the folds; the experiment has its own")
    parser.add_argument("--workdir", type=Path)
    asked = parser.parse_args()
    rows = ROWS.get(experiment.named(asked.base).method, ()) if asked.rows is None else asked.rows
    chosen = {name: varied(asked.base, name) for name in ("", *rows)}
    cv2.setNumThreads(1)
    images = quality.read_sources(asked.sources)
    splits = list(quality.folds(images, asked.folds, asked.seed))
    validation, test = ([record for split in splits for record in split[side]] for side in (1, 2))
    with tempfile.TemporaryDirectory() as temporary:
        workdir, done = asked.workdir or Path(temporary), []
        base = tried(chosen[""], images, splits, workdir)
        for name, one in chosen.items():
            done.append(row(name or asked.base, tried(one, images, splits, workdir), base, validation, test))
            print(json.dumps({"benchmark": "ablation", **done[-1]}), flush=True)
    print(tables(done))


if __name__ == "__main__":
    main()
