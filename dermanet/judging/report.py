"""What people see of an evaluation: the verdict as a page of Markdown, the answers on the holdout as pictures."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from sklearn import metrics

from dermanet.judging import calibration, plots
from dermanet.judging.intervals import Intervals
from dermanet.judging.metrics import confusion, probability_figures
from dermanet.judging.verdict import QUIET, Verdict
from dermanet.records import SEXES, Answers, Record
from dermanet.webpage import in_markdown

WORDS = {
    "pass": "passed",
    "warning": "warning",
    "fail": "failed",
    "insufficient": "too few cases",
    "not judged": "not judged",
}
"""What outcomes of checks are called."""


def verdict_page(verdict: Verdict, evaluation: dict[str, Any]) -> str:
    """The verdict with every check, then every figure beside the trivial baseline's and the champion's, in Markdown."""
    lines = [
        f"# Verdict: {verdict.word}{'' if verdict.mode == 'enforce' else f' (gates: {verdict.mode})'}",
        "",
        f"Run {evaluation['run_id']}, snapshot {evaluation['snapshot']}, holdout {evaluation['holdout']}.",
        "",
    ]
    if evaluation.get("flips"):
        lines += [evaluation["flips"]["sentence"] + ".", ""]
    lines += ["| check | against | outcome | reason |", "|---|---|---|---|"]
    lines += [
        f"| {check.metric}{f' ({in_markdown(check.slice)})' if check.slice else ''} | {check.kind} | {WORDS[check.outcome]} "
        f"| {in_markdown(check.reason)} |"
        for check in sorted(verdict.checks, key=lambda check: check.outcome in QUIET)
    ]
    champion = evaluation["champion"] or {}
    lines += ["", "| figure | candidate | 95 % CI | trivial reader | champion |", "|---|---|---|---|---|"]
    for name, value in evaluation["candidate"].items():
        others = [f"{figures[name]:.3f}" if name in figures else "" for figures in (evaluation["baseline"], champion)]
        lines.append(
            f"| {name} | {value:.3f} | {between(evaluation['intervals'].get(name))} | {others[0]} | {others[1]} |"
        )
    return "\n".join([*lines, "", "For research use; not a medical device.", ""])


def between(interval: Sequence[float] | None) -> str:
    """An interval as text; nothing where there is none."""
    return f"{interval[0]:.3f} to {interval[1]:.3f}" if interval else ""


def pictures(
    records: Sequence[Record],
    answers: Answers,
    codes: Sequence[str],
    intervals: Intervals,
    malignant: Sequence[str] = (),
) -> dict[str, Figure]:
    """The pictures of `answers` (n rows) on `records` (n, same order), by file name: those that the records can give."""
    counted = _counted(records)
    drawn = {"confusion_matrix.png": plots.confusion_matrix(confusion(records, answers, codes), codes, counted)}
    if records:
        sexes = [SEXES.index(record.labels.sex) for record in records]
        diagnoses = [codes.index(record.labels.diagnosis) for record in records]
        drawn["reliability_sex.png"] = _reliability("sex", answers.sex, sexes, counted)
        drawn["reliability_diagnosis.png"] = _reliability("diagnosis", answers.diagnosis, diagnoses, counted)
    curves = _curves(records, answers, codes, malignant)
    if curves:
        drawn["roc.png"] = plots.roc(curves, counted)
    aged = [(record, age) for record, age in zip(records, answers.age, strict=True) if record.labels.age is not None]
    if aged:
        known, said = zip(*aged, strict=True)
        true = [record.labels.age or 0.0 for record in known]
        drawn["age_scatter.png"] = plots.age_scatter(true, said, _counted(known), intervals.get("age_mae"))
    return drawn


def _curves(
    records: Sequence[Record], answers: Answers, codes: Sequence[str], malignant: Sequence[str]
) -> list[plots.Curve]:
    truth, found = np.array([record.labels.diagnosis for record in records]), []
    for place, code in enumerate(codes):
        positive, scores = truth == code, answers.diagnosis[:, place]
        if positive.any() and not positive.all():
            false, true, _ = metrics.roc_curve(positive, scores)
            area = float(metrics.roc_auc_score(positive, scores))
            found.append(plots.Curve(code, code in malignant, false, true, area))
    return found


def _reliability(head: str, probabilities: NDArray[np.floating], truth: Sequence[int], counted: str) -> Figure:
    places = np.array(truth)
    brier = probability_figures(head, probabilities, places)[f"{head}_brier"]
    return plots.reliability(head, calibration.binned(probabilities, places), counted, brier)


def _counted(records: Sequence[Record]) -> str:
    return f"{len(records):,} images of {len({record.labels.lesion_id for record in records}):,} lesions"
