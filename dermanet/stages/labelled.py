"""Live figures: what the champion answered, against the labels that came later."""

from datetime import datetime
from typing import TYPE_CHECKING, Any

from dermanet.errors import BadInput
from dermanet.settings import Settings
from dermanet.stages.pages import EVALUATION
from dermanet.stages.rooms import frozen_snapshot, tracking_of

if TYPE_CHECKING:
    from collections.abc import Mapping, Sequence

    import sqlalchemy as sa

    from dermanet.monitoring.predictions import Prediction
    from dermanet.records import Answers, Record, Snapshot

LEAST = 30
"""Lesions below which live figures are told, and said to be few."""


def live_figures(
    here: Settings, engine: "sa.Engine", version: str, tags: "Mapping[str, str]", run_id: str, until: datetime
) -> dict[str, Any]:
    """What a version's answers were worth on images that were labelled since, with intervals by lesion, beside the holdout's figures.

    Images of lesions or patients that its snapshot held do not count: it has learned from them, or was judged on them.
    `tags`: the version's.
    """
    from dermanet.intake.catalogue import Catalogue
    from dermanet.judging.integrity import known_again
    from dermanet.monitoring import windows

    answered = windows.answered_images(engine, version, until)
    try:
        frozen = frozen_snapshot(here, tags.get("dermanet.snapshot", ""))
    except BadInput:
        return _nothing(answered, "the version's snapshot is not in this home: what it has learned from is not known")
    answers = windows.labelled(engine, version, until)
    records = [one for one in Catalogue(here.catalogue).records() if one.digest in answers]
    seen = {one.digest for one in known_again(records, frozen.records)}
    new = [one for one in records if one.digest not in seen and one.labels.diagnosis in frozen.taxonomy.codes]
    if not new:
        why = "no label has come for an image that it answered, of a lesion that its snapshot had not"
        return {**_nothing(answered, why), "known": len(records)}
    figures = _figures(new, _answers(new, answers, frozen), frozen)
    return {
        "answered": answered, "labelled": len(new), "known": len(records) - len(new), "why": "",
        "lesions": len({one.labels.lesion_id for one in new}), "few": len({one.labels.lesion_id for one in new}) < LEAST,
        "figures": _beside(figures, _holdout(here, run_id)),
    }  # fmt: skip


def _nothing(answered: int, why: str) -> dict[str, Any]:
    return {"answered": answered, "labelled": 0, "known": 0, "lesions": 0, "few": True, "why": why, "figures": []}


def _answers(records: "Sequence[Record]", answers: "Mapping[str, Prediction]", frozen: "Snapshot") -> "Answers":
    import numpy as np

    from dermanet.records import SEXES, Answers

    found = [answers[record.digest] for record in records]
    heads = [one.probabilities or {} for one in found]
    return Answers(
        np.array([one.age for one in found], np.float32),
        np.array([[head["sex"].get(name, 0.0) for name in SEXES] for head in heads], np.float32),
        np.array([[head["diagnosis"].get(code, 0.0) for code in frozen.taxonomy.codes] for head in heads], np.float32),
    )


def _figures(records: "Sequence[Record]", answers: "Answers", frozen: "Snapshot") -> list[dict[str, Any]]:
    from dermanet.judging import intervals, metrics, mistakes

    codes, malignant = frozen.taxonomy.codes, mistakes.malignant_codes(frozen.taxonomy)
    values = metrics.figures(records, answers, codes)
    sure, support = intervals.intervals(records, answers, codes), metrics.support(records)
    wanted = {
        "age_mae": "ages",
        "sex_accuracy": "images",
        "diagnosis_accuracy": "images",
        "diagnosis_f1_macro": "images",
    }
    wanted |= {f"diagnosis_recall_{code}": f"diagnosis_{code}" for code in malignant}
    return [
        {"figure": name, "value": values[name], "interval": list(sure.get(name, ())), "images": support[counted]}
        for name, counted in wanted.items()
        if name in values
    ]


def _holdout(here: Settings, run_id: str) -> dict[str, Any]:
    """The evaluation of a version's run; empty where it is gone."""
    try:
        return dict(tracking_of(here).read_json(run_id, EVALUATION))
    except BadInput:
        return {}


def _beside(figures: list[dict[str, Any]], evaluation: "Mapping[str, Any]") -> list[dict[str, Any]]:
    """Live figures with the holdout's, and whether they are worse beyond both intervals."""
    before, sure = evaluation.get("candidate", {}), evaluation.get("intervals", {})
    found = []
    for one in figures:
        name = one["figure"]
        held = list(sure.get(name, ()))
        worse = bool(held and one["interval"]) and (
            one["interval"][0] > held[1] if name == "age_mae" else one["interval"][1] < held[0]
        )
        found.append({**one, "holdout": before.get(name), "holdout_interval": held, "worse": worse})
    return found
