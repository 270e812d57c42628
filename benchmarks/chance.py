"""How often chance alone stops a candidate that is as good as the champion, and how surely one that is ruined in one slice is stopped.

    python -m benchmarks.chance METADATA [PAIRS]

No speed. METADATA: HAM10000_metadata.csv, whose labels are real; clinics, sharpness and skin tones, which it has not, are drawn.
Champion and candidate are made up: equally good, both misled by what makes an image hard and each by noise of its own. PAIRS of them
are judged by the reviewed gates on the holdout's lesions and on a fifth of those. Then, pair by pair and slice by slice of those that
are large enough to be judged, a candidate says another diagnosis of three images in ten of that slice. One JSON line.
"""

import csv
import json
import sys
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dermanet import settings, taxonomy
from dermanet.judging import gates, metrics
from dermanet.judging.evaluation import Answered, evaluated
from dermanet.judging.slices import Look, Slice, slices
from dermanet.judging.verdict import Verdict, judge
from dermanet.records import SEXES, Answers, Labels, Record
from dermanet.split import side

PAIRS, FEW, SPOILT = 100, 5, 0.3
CLINICS, TONES = (0.45, 0.35, 0.15, 0.05), (60.0, 15.0)
"""Shares of four clinics; mean and spread of the skin's angle in degrees."""

SIGNAL, HARD, OWN = 2.2, 1.0, 0.45
"""How far a network's score of the right answer is above the others', and the spread of what misleads both of them and each alone."""

AGE_HARD, AGE_OWN = 11.0, 5.0
"""Years."""

FIGURES = ("diagnosis_accuracy", "diagnosis_f1_macro", "sex_accuracy", "age_mae")
"""Those that are told, to see how good the made-up networks are."""

KNOWN = taxonomy.load(taxonomy.DEFAULT)
LIMITS = gates.load(settings.GATES, KNOWN.codes)


def holdout(metadata: Path, rng: np.random.Generator) -> tuple[list[Record], dict[str, Look]]:
    """The holdout's images among HAM10000's, by the project's own split of lesions, and what they may look like."""
    records: list[Record] = []
    clinics: dict[str, str] = {}
    with metadata.open() as file:
        for row in csv.DictReader(file):
            lesion = row["lesion_id"]
            if side(lesion) != "holdout":
                continue
            clinic = clinics.setdefault(lesion, f"clinic {rng.choice(len(CLINICS), p=CLINICS)}")
            labels = Labels(
                lesion, row["dx"], float(row["age"]) if row["age"] else None,
                row["sex"] if row["sex"] in SEXES else "unknown", row["localization"], row["dx_type"], clinic,
            )  # fmt: skip
            records.append(Record(row["image_id"], row["image_id"], labels))
    looks: dict[str, Look] = {
        one.digest: {"detail": float(rng.gamma(2, 50)), "ita": float(rng.normal(*TONES))} for one in records
    }
    return records, looks


def pair(records: list[Record], rng: np.random.Generator) -> tuple[Answers, Answers]:
    """Champion and candidate, equally good. A lesion's images are hard alike, half of it."""
    lesions = {one.labels.lesion_id: place for place, one in enumerate(records)}
    which = [lesions[one.labels.lesion_id] for one in records]

    def hard(*shape: int) -> NDArray[np.float64]:
        """Noise with a spread of 1 that the images of a lesion have half in common."""
        return (rng.normal(size=(len(records), *shape))[which] + rng.normal(size=(len(records), *shape))) / np.sqrt(2)

    diagnoses = np.array([KNOWN.codes.index(one.labels.diagnosis) for one in records])
    sexes = np.array([SEXES.index(one.labels.sex) for one in records])
    ages = np.array([52.0 if one.labels.age is None else one.labels.age for one in records])
    shared = hard(len(KNOWN.codes)), hard(len(SEXES)), hard()

    def answers() -> Answers:
        return Answers(
            (ages + AGE_HARD * shared[2] + AGE_OWN * hard()).astype(np.float32),
            _sure(sexes, 1.0, shared[1] + OWN * hard(len(SEXES))),
            _sure(diagnoses, SIGNAL, HARD * shared[0] + OWN * hard(len(KNOWN.codes))),
        )

    return answers(), answers()


def _sure(truth: NDArray[np.int64], signal: float, noise: NDArray[np.float64]) -> NDArray[np.float32]:
    scores = noise + signal * np.eye(noise.shape[1])[truth]
    odds = np.exp(2 * scores)
    return np.asarray(odds / odds.sum(axis=1, keepdims=True), np.float32)


def ruined(answers: Answers, rng: np.random.Generator) -> Answers:
    """The answers, of so many images the diagnosis of the next column."""
    spoilt = rng.random(len(answers.age)) < SPOILT
    moved = np.roll(answers.diagnosis, 1, axis=1)
    return Answers(answers.age, answers.sex, np.where(spoilt[:, None], moved, answers.diagnosis))


def verdict(records: list[Record], candidate: Answers, champion: Answers, parts: list[Slice], seed: int) -> Verdict:
    """The reviewed gates' verdict."""
    trivial = metrics.trivial_answers(records, len(records), KNOWN.codes)
    found = evaluated(records, Answered(candidate, trivial, champion), KNOWN, parts, seed=seed)
    return judge(LIMITS, found, (), KNOWN.codes)


def failed(found: Verdict) -> list[str]:
    """The checks that a verdict failed by, as names."""
    return [
        f"{one.metric} ({one.slice or one.kind})" for one in found.checks if one.outcome in ("fail", "insufficient")
    ]


def judged(records: list[Record], looks: dict[str, Look], pairs: int) -> dict[str, Any]:
    """What so many pairs come to on one holdout."""
    rng, parts = np.random.default_rng(0), slices(records, looks, LIMITS.named)
    large = [one for one in parts if _large(records, one)]
    stopped, in_slices, reasons, seen = 0, 0, Counter[str](), []
    caught: list[tuple[int, bool]] = []
    for number in range(pairs):
        champion, candidate = pair(records, rng)
        found = verdict(records, candidate, champion, parts, number)
        names = failed(found)
        whole = {one.metric for one in found.checks if one.outcome == "fail" and not one.slice}
        sliced = {one.slice for one in found.checks if one.outcome == "fail" and one.slice}
        stopped, in_slices = stopped + bool(names), in_slices + bool(sliced and not whole)
        reasons.update(names)
        apart = champion.diagnosis.argmax(axis=1) != candidate.diagnosis.argmax(axis=1)
        seen.append((metrics.figures(records, candidate, KNOWN.codes), float(apart.mean())))
        part = large[number % len(large)]
        some = [one for one, inside in zip(records, part.rows, strict=True) if inside]
        of_it = [
            Answers(one.age[part.rows], one.sex[part.rows], one.diagnosis[part.rows]) for one in (candidate, champion)
        ]
        alone = Slice(part.axis, part.value, np.ones(len(some), bool))
        told = verdict(some, ruined(of_it[0], rng), of_it[1], [alone], number)
        caught.append((len(some), any(one.outcome == "fail" and one.slice for one in told.checks)))
    return {
        "images": len(records), "lesions": len({one.labels.lesion_id for one in records}), "pairs": pairs,
        "checks": len(found.checks), "slices_judged": len(large),
        **{name: round(float(np.mean([one[name] for one, _ in seen])), 3) for name in FIGURES},
        "another_diagnosis": round(float(np.mean([share for _, share in seen])), 3),
        "stopped_by_chance": round(stopped / pairs, 3), "of_it_by_slices_alone": round(in_slices / pairs, 3),
        "by": dict(reasons.most_common(12)),
        "ruined_slices_caught": round(float(np.mean([yes for _, yes in caught])), 3),
        "missed_sizes": sorted(size for size, yes in caught if not yes),
    }  # fmt: skip


def _large(records: list[Record], part: Slice) -> bool:
    """Whether the reviewed gates judge a slice with as many cases as it has."""
    (least,) = (one.minimum_support for one in LIMITS.slices if one.axis == part.axis)
    cases = metrics.support([one for one, inside in zip(records, part.rows, strict=True) if inside])
    return all(cases[name] >= count for name, count in least.items())


def main() -> None:
    """Prints one JSON line."""
    rng = np.random.default_rng(1)
    records, looks = holdout(Path(sys.argv[1]), rng)
    pairs = max(1, int(sys.argv[2])) if len(sys.argv) > 2 else PAIRS
    lesions = sorted({one.labels.lesion_id for one in records})
    chosen = set(rng.choice(lesions, len(lesions) // FEW, replace=False))
    few = [one for one in records if one.labels.lesion_id in chosen]
    found = [judged(some, looks, pairs) for some in (records, few)]
    print(json.dumps({"benchmark": "chance", "holdouts": found}))


if __name__ == "__main__":
    main()
