"""What an evaluation costs: 10,015 answers beside a champion's, in slices, with intervals, drawn as a page and judged.

    python -m benchmarks.evaluation [IMAGES]

Everything after a network has answered: figures, slices and intervals of 1,000 draws, flips, pictures, the page with its small
photographs, and the verdict of the reviewed gates. Answers and photographs are made up from a seed. One JSON line; seconds are by
the clock. Targets on two cores: 90 in all, of which the bootstrap 20; judging 1.
"""

import hashlib
import json
import os
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from benchmarks.resident import peak_mb
from dermanet import __version__, settings, taxonomy
from dermanet.contactsheet import tile
from dermanet.intake.synthetic import SyntheticSource
from dermanet.judging import gates, metrics, mistakes, page, plots, report, verdict
from dermanet.judging.evaluation import Answered, Evaluation, evaluated, from_dict
from dermanet.judging.flips import flips, totals
from dermanet.judging.intervals import DRAWS
from dermanet.judging.slices import Look, slices
from dermanet.records import SEXES, Answers, Labels, Record
from dermanet.stages.pages import FLIPPED, MISTAKES

IMAGES, LESIONS = 10_015, 7_470
"""Of HAM10000."""

SHARES = (0.033, 0.051, 0.110, 0.012, 0.111, 0.670, 0.013)
"""Of the diagnoses there, in the order of the default list."""

SITES, CLINICS, CONFIRMATIONS = 14, 4, 4
AIMS = {"in_all": 90, "bootstrap": 20, "judging": 1}
"""Seconds."""

KNOWN = taxonomy.load(taxonomy.DEFAULT)
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Holdout:
    """A made-up holdout: its records, what they look like, and everyone's answers."""

    records: list[Record]
    looks: dict[str, Look]
    answered: Answered


def holdout(images: int, seed: int = 0) -> Holdout:
    """Shares as in HAM10000; candidate and champion are right of four diagnoses in five, each in its own way."""
    rng = np.random.default_rng(seed)
    truth = rng.choice(len(SHARES), images, p=SHARES)
    sexes = rng.choice(3, images, p=(0.54, 0.455, 0.005))
    lesions = max(1, images * LESIONS // IMAGES)
    records = [
        Record(
            hashlib.sha256(str(number).encode()).hexdigest(), f"I{number}",
            Labels(
                f"L{number % lesions}", KNOWN.codes[truth[number % lesions]], float(5 * rng.integers(1, 18)), SEXES[sexes[number]],
                f"site {rng.integers(SITES)}", f"confirmation {rng.integers(CONFIRMATIONS)}", f"clinic {rng.integers(CLINICS)}",
            ),
        )
        for number in range(images)
    ]  # fmt: skip
    looks: dict[str, Look] = {
        record.digest: {"detail": float(rng.gamma(2, 50)), "ita": float(rng.normal(45, 20))} for record in records
    }
    candidate, champion = (answers(records, rng) for _ in range(2))
    trivial = metrics.trivial_answers(records, images, KNOWN.codes)
    return Holdout(records, looks, Answered(candidate, trivial, champion))


def answers(records: list[Record], rng: np.random.Generator) -> Answers:
    """Of a network that is right of four diagnoses in five and two sexes in three, and ten years off the age."""

    def sure(truth: NDArray[np.intp], width: int, right: float) -> NDArray[np.float32]:
        said = np.where(rng.random(len(truth)) < right, truth, rng.integers(0, width, len(truth)))
        odds = rng.random((len(truth), width)).astype(np.float32)
        odds[np.arange(len(truth)), said] += 2
        return np.asarray(odds / odds.sum(axis=1, keepdims=True))

    diagnoses = np.array([KNOWN.codes.index(record.labels.diagnosis) for record in records])
    sexes = np.array([SEXES.index(record.labels.sex) for record in records])
    ages = np.array([record.labels.age for record in records], np.float32)
    return Answers(ages + rng.normal(0, 12, len(ages)).astype(np.float32), sure(sexes, 3, 0.6), sure(diagnoses, 7, 0.8))


def timed(done: Callable[[], T]) -> tuple[T, float]:
    """What a call returns, and its seconds by the clock."""
    start = time.perf_counter()
    return done(), time.perf_counter() - start


def drawn(held: Holdout, found: Evaluation) -> str:
    """The page of an evaluation, with as many small photographs as it shows at most."""
    candidate, champion = held.answered.candidate, held.answered.champion
    assert champion is not None
    changed = flips(held.records, candidate, champion, KNOWN)
    wrong = mistakes.worst(held.records, candidate, KNOWN, MISTAKES)
    source = SyntheticSource(lesions=1)
    photograph = source.read(str(next(iter(source.rows())).image))

    def card(place: int, title: str) -> page.Card:
        return page.Card(held.records[place].digest, tile(photograph, "").address, title, held.records[place].image_id)

    figures = report.pictures(
        held.records, candidate, KNOWN.codes, found.whole.intervals, mistakes.malignant_codes(KNOWN)
    )
    about = page.Page(
        "benchmark", "run", "snapshot", "holdout", "1", __version__, 0, "now", KNOWN.diagnoses, plots.drawn(figures),
        [card(one.place, f"{one.before} becomes {one.after}") for one in changed[:FLIPPED]],
        [card(one.place, f"{one.truth}, called {one.said}") for one in wrong],
    )  # fmt: skip
    return page.html(about, found, totals(changed, len(held.records), KNOWN))


def judged(text: str) -> verdict.Verdict:
    """The verdict of the reviewed gates on an evaluation as it is kept, the reading of both included."""
    return verdict.judge(gates.load(settings.GATES, KNOWN.codes), from_dict(json.loads(text)), (), KNOWN.codes)


def measured(images: int) -> dict[str, Any]:
    """Seconds of each part. The bootstrap's are those that the same evaluation without a draw does not take."""
    held = holdout(images)
    parts, slicing = timed(lambda: slices(held.records, held.looks))
    found, evaluating = timed(lambda: evaluated(held.records, held.answered, KNOWN, parts))
    without = timed(lambda: evaluated(held.records, held.answered, KNOWN, parts, draws=0))[1]
    text, drawing = timed(lambda: drawn(held, found))
    word, judging = timed(lambda: judged(json.dumps(found.as_dict())))
    seconds = {
        "in_all": slicing + evaluating + drawing + judging, "bootstrap": evaluating - without, "figures": without,
        "page": drawing, "judging": judging,
    }  # fmt: skip
    return {
        "benchmark": "evaluation", "images": images, "slices": len(parts), "draws": DRAWS,
        "seconds": {name: round(value, 2) for name, value in seconds.items()}, "aims": AIMS,
        "checks": len(word.checks), "page_kb": len(text) // 1024,
        "peak_mb": peak_mb(), "load": round(os.getloadavg()[0], 1),
    }  # fmt: skip


def main() -> None:
    """Prints one JSON line."""
    print(json.dumps(measured(int(sys.argv[1]) if len(sys.argv) > 1 else IMAGES)))


if __name__ == "__main__":
    main()
