"""Learning curves as a picture."""

from collections.abc import Sequence
from math import isfinite, nan
from typing import Any

from matplotlib import rc_context
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from dermanet.learning.watching import Epoch

PANELS = (("loss", "loss, all heads"), ("age_mae", "age: mean absolute error (years)"),
          ("sex_accuracy", "sex: accuracy"), ("diagnosis_accuracy", "diagnosis: accuracy"))  # fmt: skip
TRAINING, VALIDATION, KEPT = "#6B7280", "#0072B2", "#D55E00"
"""Okabe and Ito's blue and vermilion, and a grey: the colour-blind can tell them apart."""

STYLE = {
    "figure.dpi": 120, "font.family": "sans-serif", "font.size": 10.5, "axes.titlesize": 12, "axes.titlelocation": "left",
    "axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": TRAINING, "grid.alpha": 0.25,
}  # fmt: skip
WIDE = 10
"""How many times the least the largest loss may be before its axis counts in ratios."""


def draw(history: Sequence[Epoch], best_epochs: Sequence[int]) -> Figure:
    """Four panels over the epochs: loss and the three heads, training and validation, the kept epochs marked, with their values."""
    with rc_context(STYLE):
        figure = Figure(figsize=(11, 7), layout="constrained")
        for axes, (name, title) in zip(figure.subplots(2, 2, sharex=True).flat, PANELS, strict=True):
            _draw_panel(axes, history, name, best_epochs)
            axes.set_title(title)
        for axes in figure.axes[2:]:
            axes.set_xlabel("epoch")
        figure.axes[0].xaxis.set_major_locator(MaxNLocator(integer=True, steps=[1, 2, 5, 10], min_n_ticks=1))
        if _wide(history):
            figure.axes[0].set_yscale("log")
        count = f"{len(history)} epoch{'s' if len(history) > 1 else ''}"
        figure.suptitle(f"{count}, the weights of epoch {' and '.join(map(str, best_epochs))} kept", x=0.01, ha="left")
        handles, labels = figure.axes[0].get_legend_handles_labels()
        figure.legend(handles, labels, loc="outside upper right", ncols=3, frameon=False)
        return figure


def _draw_panel(axes: Any, history: Sequence[Epoch], name: str, best_epochs: Sequence[int]) -> None:
    epochs = range(1, len(history) + 1)
    # A side that knows no age has no figure for it: no line, and no value above the panel.
    trained, validated = ([epoch.get(key, nan) for epoch in history] for key in (name, f"val_{name}"))
    # A line of one point is nothing to be seen.
    marker = "o" if len(history) < 40 else None
    axes.plot(epochs, trained, color=TRAINING, marker=marker, markersize=3, label="training")
    axes.plot(epochs, validated, color=VALIDATION, marker=marker, markersize=3, label="validation")
    kept = [validated[epoch - 1] for epoch in best_epochs]
    for place, (epoch, value) in enumerate(zip(best_epochs, kept, strict=True)):
        axes.axvline(epoch, color=KEPT, linewidth=1, linestyle="--", label=None if place else "kept epoch")
        axes.plot(epoch, value, color=KEPT, marker="o", markersize=6)
    axes.set_title(", ".join(f"{value:.3g}" for value in kept if isfinite(value)), loc="right", color=KEPT)
    axes.set_xlim(0.5, len(history) + 0.5)
    axes.grid()


def _wide(history: Sequence[Epoch]) -> bool:
    losses = [epoch[name] for epoch in history for name in ("loss", "val_loss")]
    return min(losses) > 0 and max(losses) / min(losses) > WIDE
