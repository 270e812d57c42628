"""When a model abstains, on lesions that it has not seen and on pictures that show none.

    python -m benchmarks.abstention SOURCE... --others FOLDER

    python -m benchmarks.abstention SOURCE... --others FOLDER --pixels square@384     without a network: what pixels alone say

SOURCE: labelled images as `dermanet ingest` reads them, split in folds by lesion as `benchmarks.quality` has them: each image is
answered once, by a network whose limits were set without it. FOLDER: pictures that show no lesion, in folders named by their kind,
JPEG or PNG; every fold's model sees all. Beside them come what is drawn here (noise, blank, gradients, discs), synthetic lesions, and
a tenth of the test images spoilt (blurred, under- and overexposed, in false colours, enlarged). All go the scorer's way from their
bytes.

One JSON line: shares referred by reason, the accuracy of all and of what is answered, the interval of the age, each with its number of
images; the share of other pictures referred, by kind, with the names of those that pass most models; milliseconds an image.
"""

import argparse
import json
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from benchmarks.quality import CODES, Images, answered, folds, read_sources, work_of
from dermanet import experiment
from dermanet.errors import UnreadableImage
from dermanet.experiment import Experiment
from dermanet.imagefile import decode
from dermanet.imagequality import measure
from dermanet.intake.synthetic import SyntheticSource
from dermanet.learning import abstention as limits
from dermanet.learning.train import Sides, fit
from dermanet.pixels.prepared import PreparedPixels
from dermanet.pixels.preprocess import Recipe, apply, decoded, prepare, recipe
from dermanet.records import Answers, Record
from dermanet.serving.abstention import Abstention

Picture = NDArray[np.uint8]
LOOKED_AT = 500
SPOILT = 10
"""One in so many test images is spoilt, in every way."""

WORDS = ("blank", "blurred", "unlike", "not sure")


def drawn() -> dict[str, Picture]:
    """What no camera sees, RGB (450, 600, 3)."""
    rng, (rows, columns) = np.random.default_rng(0), np.mgrid[0:450, 0:600]
    skin = np.full((450, 600, 3), (220, 175, 155), np.float64)
    soft = cv2.GaussianBlur(rng.normal(0, 1, (450, 600, 3)), (0, 0), 20)
    soft /= soft.std()
    disc = (np.hypot(rows - 225, columns - 300) < 100)[..., None]
    found = {
        "noise": rng.integers(0, 256, skin.shape), "grey noise": np.repeat(rng.integers(0, 256, (450, 600, 1)), 3, axis=2),
        "coloured clouds": 128 + 50 * soft, "skin with soft shades": skin + 20 * soft[..., :1],
        "skin with grain": skin + rng.normal(0, 6, skin.shape), "skin": skin, "black": 0 * skin, "white": 0 * skin + 255,
        "grey gradient": np.repeat(columns[..., None] / 600 * 255, 3, axis=2), "skin gradient": skin - columns[..., None] / 6,
        "blue disc on skin": np.where(disc, (30, 60, 200), skin), "brown disc on skin": np.where(disc, (110, 70, 50), skin),
        "chequers": np.repeat((rows // 50 + columns // 50)[..., None] % 2 * 255, 3, axis=2),
    }  # fmt: skip
    return {name: np.clip(picture, 0, 255).astype(np.uint8) for name, picture in found.items()}


def _blurred(sigma: float, picture: Picture) -> Picture:
    return np.asarray(cv2.GaussianBlur(picture, (0, 0), sigma), np.uint8)


def _exposed(factor: float, picture: Picture) -> Picture:
    return np.clip(picture * factor, 0, 255).astype(np.uint8)


WAYS: dict[str, Callable[[Picture], Picture]] = {
    "lesion as it is": lambda picture: picture,
    "lesion, blurred over 4 pixels": partial(_blurred, 4),
    "lesion, blurred over 8 pixels": partial(_blurred, 8),
    "lesion at a quarter of the light": partial(_exposed, 0.25),
    "lesion at half the light": partial(_exposed, 0.5),
    "lesion at twice the light": partial(_exposed, 2.0),
    "lesion, red and blue swapped": lambda picture: np.ascontiguousarray(picture[..., ::-1]),
    "lesion, negative": lambda picture: np.asarray(255 - picture, np.uint8),
    "lesion in grey": lambda picture: np.repeat(cv2.cvtColor(picture, cv2.COLOR_RGB2GRAY)[..., None], 3, axis=2),
    "lesion with grain": lambda picture: np.clip(
        picture + np.random.default_rng(0).normal(0, 25, picture.shape), 0, 255
    ).astype(np.uint8),
    "lesion, a ninth of it enlarged": lambda picture: np.asarray(
        cv2.resize(picture[150:300, 200:400], (600, 450), interpolation=cv2.INTER_CUBIC), np.uint8
    ),
}


def others(folder: Path | None) -> Iterator[tuple[str, str, bytes]]:
    """Kind, name and bytes of every picture that shows no real lesion, but the spoilt ones."""
    for path in sorted(folder.rglob("*")) if folder else ():
        if path.suffix.lower() in (".jpg", ".jpeg", ".png"):
            yield f"folder: {path.parent.name}", path.stem, path.read_bytes()
    for name, picture in drawn().items():
        yield "drawn", name, _png(picture)
    synthetic = SyntheticSource(lesions=40, seed=99)
    for row in list(synthetic.rows())[:40]:
        yield "synthetic lesion", row.image_id, synthetic.read(str(row.image))


def spoilt(images: Images, records: Sequence[Record]) -> Iterator[tuple[str, str, bytes]]:
    """The same of some records' images, spoilt in every way."""
    for record in records[::SPOILT]:
        picture = decode(images.files[record.digest])
        for way, spoil in WAYS.items():
            yield way, record.image_id, _png(spoil(picture))


def _png(picture: Picture) -> bytes:
    return cv2.imencode(".png", picture[..., ::-1])[1].tobytes()


def set_limits(sides: Sides, images: Images, validation: Answers) -> Abstention:
    """As the stage of training sets them."""
    step = -(-len(sides.validation) // LOOKED_AT)
    photographs = [images.files[record.digest] for record in sides.validation[::step]]
    return Abstention(
        limits.familiarity(sides.pixels, sides.train, sides.validation),
        limits.least_certainty(validation.diagnosis),
        limits.age_error(validation, sides.validation),
        limits.usual([measure(decoded(data, sides.pixels.recipe)[0]) for data in photographs]),
    )


def reasons(found: Abstention, data: bytes, made_by: Recipe, diagnosis: NDArray[np.floating] | None) -> set[str]:
    """The first words of why an image is referred, and `note: …`; without a diagnosis, what its pixels alone say."""
    picture, factor = decoded(data, made_by)
    quality, novelty = measure(picture), found.novelty(apply(picture, factor, made_by))
    said = {"certain": 1.0} if diagnosis is None else dict(zip(CODES, map(float, diagnosis), strict=True))
    lines = found.reasons(quality, novelty, said)
    return {word for word in WORDS for line in lines if line.startswith(word)} | {f"note: {found.note(quality)}"}


def of_fold(
    chosen: Experiment | None,
    images: Images,
    split: Sequence[Any],
    pixels: PreparedPixels,
    workdir: Path,
    strangers: Sequence[Any],
) -> dict[str, Any]:
    """One network, or none, on its test side and on all else: rows by image, and what of the others is referred."""
    train, validation, test = split
    sides = Sides(CODES, train, validation, pixels)
    if chosen:
        trained = fit(chosen, sides, workdir / work_of(chosen, train, validation), workdir / "features")
        found, answers = set_limits(sides, images, trained.validation), answered(trained.onnx_file, pixels, test)
    else:
        found, answers = set_limits(sides, images, _sure(len(validation))), _sure(len(test))
    rows = [
        {
            "said": reasons(found, images.files[record.digest], pixels.recipe, answers.diagnosis[place]),
            "right": CODES[int(answers.diagnosis[place].argmax())] == record.labels.diagnosis,
            "melanoma": record.labels.diagnosis == "mel",
            "age": record.labels.age or None, "interval": found.interval(float(answers.age[place])),
        }
        for place, record in enumerate(test)
    ]  # fmt: skip
    shown = [*strangers, *spoilt(images, test)]
    return {
        "rows": rows, "least": found.least_certainty, "error": found.age_error,
        "shown": [(kind, name, _referred(found, data, pixels.recipe)) for kind, name, data in shown],
    }  # fmt: skip


def _sure(count: int) -> Answers:
    """What no network answers: limits that come of it refer nobody."""
    return Answers(*(np.ones((count, *rest), np.float32) for rest in ((), (3,), (len(CODES),))))


def _referred(found: Abstention, data: bytes, made_by: Recipe) -> set[str]:
    try:
        return reasons(found, data, made_by, None) & set(WORDS)
    except UnreadableImage:
        return {"refused"}


def figures(rows: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Of the test images of all folds."""
    by_reason = {word: float(np.mean([word in row["said"] for row in rows])) for word in WORDS}
    referred = np.array([bool(row["said"] & set(WORDS)) for row in rows])
    unsure = np.array(["not sure" in row["said"] for row in rows])
    right, melanoma = (np.array([row[name] for row in rows]) for name in ("right", "melanoma"))
    aged = [row for row in rows if row["age"] and row["interval"]]
    widths = [row["interval"][1] - row["interval"][0] for row in aged]
    return {
        "images": len(rows), "referred": float(referred.mean()), "by_reason": by_reason,
        "accuracy": {"all": [float(right.mean()), len(rows)], "answered": [_mean(right[~referred]), int((~referred).sum())],
                     "referred": [_mean(right[referred]), int(referred.sum())],
                     "unsure": [_mean(right[unsure]), int(unsure.sum())]},
        "melanomas": {"images": int(melanoma.sum()), "referred": float(referred[melanoma].mean())},
        "age": {"images": len(aged), "covered": _mean([r["interval"][0] <= r["age"] <= r["interval"][1] for r in aged]),
                "width": _mean(widths)},
        "notes": {note: float(np.mean([f"note: {note}" in row["said"] for row in rows]))
                  for note in sorted({n.removeprefix("note: ") for r in rows for n in r["said"] if n.startswith("note: ")})},
    }  # fmt: skip


def _mean(values: Any) -> float | None:
    return float(np.mean(values)) if len(values) else None


def by_kind(shown: Sequence[tuple[str, str, set[str]]]) -> dict[str, Any]:
    """Of pictures: how many, the share referred by their pixels, the shares by reason, and which pass most models."""
    found: dict[str, dict[str, list[set[str]]]] = defaultdict(lambda: defaultdict(list))
    for kind, name, said in shown:
        found[kind][name].append(said)
    table = {}
    for kind, pictures in found.items():
        seen = [said for sayings in pictures.values() for said in sayings]
        passed = [name for name, sayings in pictures.items() if np.mean([bool(said) for said in sayings]) < 0.5]
        table[kind] = {
            "pictures": len(pictures), "referred": float(np.mean([bool(said) for said in seen])),
            **{word: float(np.mean([word in said for said in seen])) for word in ("blank", "blurred", "unlike", "refused")},
            "pass": len(passed) if kind.startswith(("lesion", "synthetic")) else passed,
        }  # fmt: skip
    return table


def milliseconds(images: Images, made_by: Recipe, found: Any) -> dict[str, float]:
    """What measuring a photograph and its novelty take, the median of 100 calls."""
    data = next(iter(images.files.values()))
    picture, prepared = decoded(data, made_by)[0], prepare(data, made_by)
    whole = decode(data)
    calls: dict[str, Callable[[], Any]] = {
        "quality": lambda: measure(picture), "quality at full size": lambda: measure(whole),
        "novelty": lambda: found.novelty(prepared[None]),
    }  # fmt: skip
    return {
        name: round(1000 * float(np.median([_seconds(call) for _ in range(100)])), 3) for name, call in calls.items()
    }


def _seconds(call: Callable[[], Any]) -> float:
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def _rounded(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: _rounded(one) for name, one in value.items()}
    if isinstance(value, list | tuple):
        return [_rounded(one) for one in value]
    return round(value, 3) if isinstance(value, float) else value


def main() -> None:
    """Reads the command line, measures, and prints the line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("sources", nargs="+", metavar="SOURCE")
    parser.add_argument("--others", type=Path, metavar="FOLDER")
    parser.add_argument("--experiment", default="probe112")
    parser.add_argument("--pixels", metavar="RECIPE", help="no network: only what the pixels of this recipe say")
    parser.add_argument("--folds", type=int, default=5)
    parser.add_argument("--seed", type=int, default=0, help="of the folds; the experiment has its own")
    parser.add_argument("--workdir", type=Path)
    asked = parser.parse_args()
    cv2.setNumThreads(1)
    images, chosen = read_sources(asked.sources), None if asked.pixels else experiment.named(asked.experiment)
    strangers = list(others(asked.others))
    with tempfile.TemporaryDirectory() as temporary:
        workdir = asked.workdir or Path(temporary)
        pixels = PreparedPixels(workdir / "prepared", recipe(chosen.recipe if chosen else asked.pixels))
        pixels.fill(list(images.files), images.files.__getitem__)
        splits = list(folds(images, asked.folds, asked.seed))
        found = [of_fold(chosen, images, split, pixels, workdir, strangers) for split in splits]
        familiarity = limits.familiarity(pixels, splits[0][0], splits[0][1])
        times = milliseconds(images, pixels.recipe, familiarity)
    test = figures([row for one in found for row in one["rows"]])
    line = {
        "benchmark": "abstention", "experiment": chosen.name if chosen else None,
        "recipe": f"{pixels.recipe.name}@{pixels.recipe.size}", "folds": asked.folds, "seed": asked.seed,
        "test": test if chosen else {name: test[name] for name in ("images", "referred", "by_reason", "notes")},
        "others": by_kind([row for one in found for row in one["shown"]]), "milliseconds": times,
    }  # fmt: skip
    if chosen:
        line |= {"least_certainty": [one["least"] for one in found], "age_error": [one["error"] for one in found]}
    print(json.dumps(_rounded(line)))


if __name__ == "__main__":
    main()
