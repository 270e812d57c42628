"""What people read of an evaluation: the verdict as a page of Markdown, the confusion matrix as a picture."""

from collections.abc import Sequence
from typing import Any

from matplotlib.figure import Figure
from numpy.typing import NDArray

from dermanet.judging.gates import Verdict

WORDS = {"pass": "passed", "fail": "FAILED", "insufficient": "not enough cases"}


def verdict_page(verdict: Verdict, evaluation: dict[str, Any]) -> str:
    """The verdict with every check, then every figure beside the trivial baseline's and the champion's, in Markdown."""
    lines = [
        f"# Verdict: {verdict.word}",
        "",
        f"Run {evaluation['run_id']}, snapshot {evaluation['snapshot']}, holdout {evaluation['holdout']}.",
        "",
    ]
    lines += ["| check | against | outcome | why |", "|---|---|---|---|"]
    lines += [
        f"| {check.metric} | {check.kind} | {WORDS[check.outcome]} | {check.reason} |" for check in verdict.checks
    ]
    champion = evaluation["champion"] or {}
    lines += ["", "| figure | candidate | 95 % | trivial baseline | champion |", "|---|---|---|---|---|"]
    for name, value in evaluation["candidate"].items():
        others = [f"{figures[name]:.3f}" if name in figures else "" for figures in (evaluation["baseline"], champion)]
        lines.append(
            f"| {name} | {value:.3f} | {_between(evaluation['intervals'].get(name))} | {others[0]} | {others[1]} |"
        )
    return "\n".join([*lines, "", "For research use; not a medical device.", ""])


def _between(interval: Sequence[float] | None) -> str:
    return f"{interval[0]:.3f} to {interval[1]:.3f}" if interval else ""


def confusion_matrix(counts: NDArray[Any], codes: Sequence[str]) -> Figure:
    """Counts (k, k) as a picture: the true diagnosis by rows, the answered one by columns, shaded within each row."""
    figure = Figure(figsize=(6.5, 5.5), layout="constrained")
    axes = figure.subplots()
    shares = counts / counts.sum(axis=1, keepdims=True).clip(1)
    axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
    for row, column in ((r, c) for r in range(len(codes)) for c in range(len(codes))):
        axes.text(
            column,
            row,
            str(counts[row, column]),
            ha="center",
            va="center",
            color="white" if shares[row, column] > 0.5 else "black",
        )
    axes.set_xticks(range(len(codes)), codes)
    axes.set_yticks(range(len(codes)), codes)
    axes.set_xlabel("answered")
    axes.set_ylabel("true diagnosis")
    axes.set_title("Diagnoses on the holdout")
    return figure
