"""What monitoring says of answers in which nothing has changed, and in which something has; and what 100,000 rows cost it.

    python -m benchmarks.monitoring [WINDOWS]
    DERMANET_HOME=… python -m benchmarks.monitoring champion

First, rows of one day are read from an SQLite log and judged. Then answers are drawn from a seed: eight correlated figures of a
photograph, an age, a sex and a diagnosis with its certainty. A reference and windows of several sizes are drawn from the same
population, so often (2,000 times by default), and the reviewed limits say what of it has drifted: that is chance. Then the population
changes in one way at a time. With `champion`, the champion of an installation answers its own holdout, as it is and spoilt in one way
after another, and windows are drawn from those answers. One JSON line each; seconds are by the clock.
"""

import hashlib
import json
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta
from itertools import chain
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import cv2
import numpy as np
from numpy.typing import NDArray

from benchmarks.resident import peak_mb
from dermanet import settings, taxonomy
from dermanet.database.engine import open_database
from dermanet.intake import stored
from dermanet.monitoring import drift, limits, reference
from dermanet.monitoring.predictions import BATCH, Prediction, _add, between
from dermanet.monitoring.sample import Gathering, Sample, gather
from dermanet.records import SEXES
from dermanet.registry.copies import model
from dermanet.serving.reader import Reader
from dermanet.stages.rooms import frozen_snapshot
from dermanet.storage import place

SHARES = (0.033, 0.051, 0.110, 0.012, 0.111, 0.670, 0.013)
"""Of the diagnoses in HAM10000, in the order of the default list."""

CODES = taxonomy.load(taxonomy.DEFAULT).codes
NOON = datetime(2026, 11, 16, 12, tzinfo=UTC)
REFERENCES, SIZES = (150, 1000), (50, 100, 300, 1000)
RULES = limits.load(settings.MONITORING)


@dataclass(frozen=True, slots=True)
class Population:
    """Where answers are drawn from; each field that is changed is a way to drift."""

    shares: tuple[float, ...] = SHARES
    years: float = 0.0
    light: float = 0.0
    """Standard deviations by which photographs are brighter."""
    blur: float = 1.0
    """What is left of their detail."""
    doubt: float = 0.0
    """What is lost of certainty."""
    lesion: float = 0.0
    """How alike images of one lesion are, 0 to 1: there are two of each then."""


CHANGES = {
    "brighter by a standard deviation": Population(light=1.0),
    "brighter by half of one": Population(light=0.5),
    "detail halved": Population(blur=0.5),
    "ten years older": Population(years=10.0),
    "melanomas three times as many": Population(shares=(0.033, 0.051, 0.110, 0.012, 0.333, 0.448, 0.013)),
    "less sure by 0.15": Population(doubt=0.15),
}


def draw(population: Population, count: int, seed: int, version: str = "1", at: datetime = NOON) -> list[Prediction]:
    """So many predictions, of different images, all of them at one moment."""
    rng = np.random.default_rng(seed)
    shared = rng.normal(size=((count + 1) // 2, 8)).repeat(2, axis=0)[:count]
    own = rng.normal(size=(count, 8))
    traits = np.sqrt(population.lesion) * shared + np.sqrt(1 - population.lesion) * own
    traits[:, 0] += population.light
    mixing = np.linalg.qr(np.random.default_rng(1).normal(size=(8, 8)))[0]
    sketch = np.round(traits @ mixing, 3)
    codes = rng.choice(len(CODES), count, p=population.shares)
    top = np.clip(0.75 - population.doubt + 0.12 * rng.normal(size=count) + 0.03 * traits[:, 1], 0.2, 0.999)
    ages = np.clip(52 + population.years + 14 * (0.9 * rng.normal(size=count) + 0.3 * traits[:, 2]), 0, 100)
    male = rng.random(count) < 0.54
    detail = population.blur * np.exp(4 + 0.5 * traits[:, 3])
    novelty = np.sqrt(np.square(sketch).mean(axis=1)) / 1.9
    return [
        Prediction(
            f"{seed:08x}{number:08x}", at, version, hashlib.sha256(f"{seed} {number}".encode()).hexdigest(),
            round(float(ages[number]), 1), SEXES[int(not male[number])], CODES[codes[number]],
            _probabilities(CODES[codes[number]], float(top[number]), bool(male[number])),
            "good" if abs(traits[number, 0]) < 2.3 else "bright", round(float(novelty[number]), 3),
            "not sure" if top[number] < 0.6 else None, None, 12.0, float(150 + 20 * traits[number, 0]),
            float(120 + 15 * traits[number, 4]), float(detail[number]), list(map(float, sketch[number])),
        )
        for number in range(count)
    ]  # fmt: skip


def gathered(predictions: Iterable[Prediction]) -> Gathering:
    """All of them, of one version."""
    found = Gathering()
    for one in predictions:
        found.add(one)
    return found


def sample(population: Population, count: int, seed: int) -> Sample:
    """What such predictions are like; where images of a lesion are alike there are half as many witnesses."""
    return gathered(draw(population, count, seed)).sample((count + 1) // 2 if population.lesion else None)


def judged(reference: Sample, population: Population, count: int, seed: int) -> drift.Verdict:
    """The verdict of the reviewed limits on a window."""
    return verdict(reference, gathered(draw(population, count, seed)))


def verdict(reference: Sample, found: Gathering) -> drift.Verdict:
    """The same of what was gathered, as the stage has it."""
    return drift.judge(RULES, reference, weighed(reference, found), found.traffic())


def weighed(reference: Sample, found: Gathering) -> Sample:
    """A window's sample as the stage judges it."""
    return drift.witnessed(RULES, reference, found.sample())


def differs(reference: Sample, found: Sample) -> bool:
    """Whether chance is ruled out for any figure, however small the difference."""
    chances = drift.adjusted([one.chance for one in drift.readings(reference, found)])
    return min(chances) <= RULES.false_alarms


def false_alarms(windows: int) -> Iterator[dict[str, object]]:
    """How often windows of an unchanged population differ at all by the tests, and how often they are called drifted."""
    for known, alike in ((REFERENCES[0], 0.0), (REFERENCES[1], 0.0), (REFERENCES[1], 0.8)):
        for size in SIZES:
            words, beyond = 0, 0
            for number in range(windows):
                reference = sample(Population(lesion=alike), known, 2 * number)
                found = gathered(draw(Population(lesion=alike), size, 2 * number + 1))
                beyond += differs(reference, weighed(reference, found))
                words += verdict(reference, found).word == "drift"
            yield {
                "benchmark": "monitoring", "what": "false alarms", "reference": known, "alike": alike, "images": size,
                "windows": windows, "differ": round(beyond / windows, 4), "drift": round(words / windows, 4),
            }  # fmt: skip


def power(windows: int) -> Iterator[dict[str, object]]:
    """How often a change is called drift, and by which figure most often."""
    for name, population in CHANGES.items():
        found = {size: [0, 0] for size in SIZES}
        for size in SIZES:
            for number in range(windows):
                reference = sample(Population(), REFERENCES[1], 2 * number)
                told = judged(reference, population, size, 2 * number + 1)
                found[size][0] += told.word == "drift"
                found[size][1] += bool(told.lines("drift", "warning"))
        shares = {
            str(size): {"drift": round(one / windows, 3), "told": round(two / windows, 3)}
            for size, (one, two) in found.items()
        }
        yield {"benchmark": "monitoring", "what": "power", "change": name, "windows": windows, **shares}


def cost(rows: int) -> dict[str, object]:
    """Seconds to read a day's rows from SQLite and to judge them, and the peak of memory."""
    with TemporaryDirectory() as folder:
        engine = open_database(f"sqlite:///{Path(folder)}/catalogue.db")
        for place in range(0, rows, BATCH):
            moment = NOON + timedelta(seconds=place * 0.1)
            _add(engine, [replace(one, at=moment) for one in draw(Population(), BATCH, place)])
        reference = sample(Population(), REFERENCES[1], 1)
        drift.judge(RULES, reference, reference, gathered([]).traffic())  # What is imported for it is not its cost.
        before = peak_mb()
        start = time.perf_counter()
        found = gather(between(engine, NOON, NOON + timedelta(days=1)))["1"]
        read = time.perf_counter()
        told = verdict(reference, found)
        end = time.perf_counter()
        engine.dispose()
    grown = peak_mb() - before
    return {
        "benchmark": "monitoring", "what": "cost", "rows": rows, "read_seconds": round(read - start, 2),
        "judge_seconds": round(end - read, 2), "memory_megabytes": grown, "verdict": told.word,
        "record_kilobytes": round(len(json.dumps(found.sample().as_dict())) / 1000, 1),
    }  # fmt: skip


def champion() -> Iterator[dict[str, object]]:
    """How often windows of the champion's answers to its own holdout, spoilt or not, are called drift, and by which figures."""
    here = settings.read()
    files = model(f"models:/{here.model}@champion", here.tracking_uri, here.home / "models").files
    reader, known = Reader.open(files), reference.load(files / reference.FILE)
    assert known, "the champion was logged without its reference"
    records = frozen_snapshot(here, reader.network.card["snapshot"]).holdout
    images = [stored.read(place(here.objects), record.digest) for record in records]
    for name, spoil in SPOILT.items():
        answers = reader.read_files([spoil(data) for data in images])
        rows = [Prediction.of("1", one.digest, one.row, one.seconds, NOON, one.look) for one in answers]
        for size in (60, 150):
            yield {
                "benchmark": "monitoring",
                "what": "champion",
                "change": name,
                "images": size,
                **_drawn(known, rows, size),
            }


def _drawn(known: Sample, rows: Sequence[Prediction], size: int, windows: int = 200) -> dict[str, object]:
    words, figures = 0, Counter[str]()
    for seed in range(windows):
        chosen = np.random.default_rng(seed).choice(len(rows), size, replace=False)
        found = gathered(rows[number] for number in chosen)
        told = verdict(known, found)
        words += told.word == "drift"
        figures.update(check.figure for check in told.checks if check.outcome == "drift")
    return {
        "windows": windows,
        "drift": round(words / windows, 3),
        "by": {name: round(n / windows, 2) for name, n in figures.most_common(5)},
    }


def _middle(image: NDArray[np.float64]) -> Any:
    height, width = image.shape[:2]
    middle = image[height // 4 : height - height // 4, width // 4 : width - width // 4]
    return cv2.resize(middle, (width, height), interpolation=cv2.INTER_LINEAR)


def _spoilt(change: Callable[[NDArray[np.float64]], Any]) -> Callable[[bytes], bytes]:
    def spoil(data: bytes) -> bytes:
        image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
        assert image is not None
        changed = np.clip(change(image.astype(np.float64)), 0, 255).astype(np.uint8)
        return bytes(cv2.imencode(".jpg", changed, [cv2.IMWRITE_JPEG_QUALITY, 95])[1].tobytes())

    return spoil


SPOILT: dict[str, Callable[[bytes], bytes]] = {
    "as they are": lambda data: data,
    "saved anew": _spoilt(lambda image: image),
    "a tenth brighter": _spoilt(lambda image: image * 1.1),
    "a third brighter": _spoilt(lambda image: image * 1.33),
    "blurred over 2 pixels": _spoilt(lambda image: cv2.GaussianBlur(image, (0, 0), 2)),
    "blurred over 4 pixels": _spoilt(lambda image: cv2.GaussianBlur(image, (0, 0), 4)),
    "a fifth redder": _spoilt(lambda image: image * (1, 1, 1.2)),
    "the middle enlarged twice": _spoilt(_middle),
}
"""Ways to spoil a photograph, in the order of colours that OpenCV has: blue, green, red."""


def _probabilities(code: str, top: float, male: bool) -> dict[str, dict[str, float]]:
    rest = (1 - top) / (len(CODES) - 1)
    sexes = {"male": 0.8 if male else 0.2, "female": 0.2 if male else 0.8, "unknown": 0.0}
    return {"sex": sexes, "diagnosis": {one: top if one == code else rest for one in CODES}}


def main() -> None:
    """Prints one JSON line for each measurement."""
    if sys.argv[1:] == ["champion"]:
        for line in champion():
            print(json.dumps(line), flush=True)
        return
    windows = int(sys.argv[1]) if len(sys.argv) > 1 else 2000
    print(json.dumps(cost(100_000)), flush=True)
    for line in chain(false_alarms(windows), power(max(windows // 10, 20))):
        print(json.dumps(line), flush=True)


if __name__ == "__main__":
    main()
