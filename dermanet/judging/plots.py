"""Pictures of an evaluation: ages against answers, whether probabilities can be believed, which diagnoses are mixed up.

Colours are Okabe and Ito's, which the colour-blind can tell apart.
"""

import base64
import io
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from numpy.typing import NDArray
from scipy.stats import binomtest

from dermanet.judging.calibration import BINS, Bins, expected_error

BLUE, VERMILION, GREY = "#0072B2", "#D55E00", "#6B7280"
MALIGNANT = [VERMILION, BLUE, "#009E73", "#CC79A7"]
STYLE = {
    "figure.dpi": 120, "savefig.dpi": 120, "font.family": "sans-serif", "font.size": 12, "axes.titlesize": 13,
    "axes.titlelocation": "left", "axes.spines.top": False, "axes.spines.right": False, "axes.edgecolor": GREY,
    "axes.axisbelow": True, "grid.alpha": 0.25, "legend.frameon": False, "legend.fontsize": 11,
}  # fmt: skip
DECADE, FEWEST = 10, 5
"""Answered ages are summed up by decades of true age, where at least so many images are in one."""

SCATTER = 1.2
"""Years by which a point is moved aside at most: label files round ages to five years, and points would hide one another."""


@dataclass(frozen=True, slots=True)
class Picture:
    """A drawing as PNG. `width`: the pixels of a screen that it must not be narrower than, one for each of its points."""

    png: bytes
    width: int

    @property
    def address(self) -> str:
        """It as a `data:` address, for a page that needs nothing beside itself."""
        return f"data:image/png;base64,{base64.b64encode(self.png).decode()}"


def drawn(figures: Mapping[str, Figure]) -> dict[str, Picture]:
    """Figures, each drawn, by their names."""
    return {name: _picture(figure) for name, figure in figures.items()}


def _picture(figure: Figure) -> Picture:
    kept = io.BytesIO()
    figure.savefig(kept, format="png")
    return Picture(kept.getvalue(), math.ceil(72 * figure.get_figwidth()))


@dataclass(frozen=True, slots=True)
class Curve:
    """A ROC curve: shares of negatives and of positives (n,) that are above each threshold, and the area under it."""

    name: str
    malignant: bool
    false: NDArray[np.float64]
    true: NDArray[np.float64]
    area: float


def age_scatter(
    true: Sequence[float], answered: Sequence[float], counted: str, interval: Sequence[float] | None
) -> Figure:
    """Answered ages against true ones, both (n,) in years, with median and quartiles of each decade and the identity.

    `counted`: on what, in words; `interval`: of the mean absolute error, 95 %, where there is one.
    """
    ages, said = np.asarray(true, float), np.asarray(answered, float)
    highest = 5 * np.ceil(max(ages.max(), said.max(), 80) / 5)
    with rc_context(STYLE):
        figure = Figure(figsize=(6.6, 6.9), layout="constrained")
        axes = figure.subplots()
        aside = np.random.default_rng(0).uniform(-SCATTER, SCATTER, len(ages))
        axes.plot([0, highest], [0, highest], color=GREY, linewidth=1, linestyle="--", label="perfect agreement")
        axes.scatter(ages + aside, said, s=16, color=BLUE, alpha=0.4, linewidths=0, label="one image")
        _draw_decades(axes, ages, said)
        axes.set(xlim=(-2, highest + 2), ylim=(-2, highest + 2), aspect="equal")
        axes.set(xlabel="true age (years)", ylabel="predicted age (years)")
        axes.set_title(f"Age, predicted against true\n{counted}\n{_error(np.abs(ages - said).mean(), interval)}")
        axes.grid()
        axes.legend(loc="upper left")
        return figure


def reliability(head: str, bins: Bins, counted: str, brier: float) -> Figure:
    """How often a head's answers are right against how sure it is of them, bin by bin, over how many answers each bin has.

    The intervals are Wilson's, as if no two images were of one lesion: a bin of three answers has too few lesions to draw from.
    """
    with rc_context(STYLE):
        figure = Figure(figsize=(6.6, 7.4), layout="constrained")
        axes, below = figure.subplots(2, 1, sharex=True, height_ratios=(4, 1))
        axes.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle="--", label="perfect calibration")
        _draw_bins(axes, bins)
        axes.set(ylim=(-0.02, 1.02), ylabel="accuracy")
        scores = f"expected calibration error {expected_error(bins):.3f}, Brier score {brier:.3f}"
        axes.set_title(f"Reliability diagram: {head}\n{counted}\n{scores}")
        axes.legend(loc="upper left")
        middles = (np.ceil(bins.confidence * BINS) - 0.5) / BINS
        bars = below.bar(middles, bins.count, 0.9 / BINS, color=BLUE, alpha=0.6)
        below.bar_label(bars, fontsize=11, padding=1)
        below.margins(y=0.25)
        below.set(xlim=(-0.02, 1.02), xlabel="confidence (probability of the answer)", ylabel="answers")
        for panel in (axes, below):
            panel.grid()
        return figure


def confusion_matrix(counts: NDArray[Any], codes: Sequence[str], counted: str) -> Figure:
    """Counts (k, k): the true diagnosis by rows, the answered one by columns, shaded by its share of the row."""
    shares = counts / counts.sum(axis=1, keepdims=True).clip(1)
    longest = max(map(len, codes))
    width, height = 3.0 + 0.08 * longest + 0.52 * len(codes), 1.8 + 0.52 * len(codes)
    with rc_context(STYLE):
        figure = Figure(figsize=(max(width, 6.6), max(height, 4.8)), layout="constrained")
        axes = figure.subplots()
        shaded = axes.imshow(shares, cmap="Blues", vmin=0, vmax=1)
        for (row, column), count in np.ndenumerate(counts):
            colour = "white" if shares[row, column] > 0.5 else "black" if count else GREY
            axes.text(column, row, str(count), ha="center", va="center", color=colour)
        slanted: dict[str, Any] = {"rotation": 45, "ha": "right"} if longest > 5 else {}
        axes.set_xticks(range(len(codes)), codes, **slanted)
        rows = zip(codes, counts.sum(axis=1), strict=True)
        axes.set_yticks(range(len(codes)), [f"{code} ({total})" for code, total in rows])
        axes.set(xlabel="predicted diagnosis", ylabel="true diagnosis (images)")
        axes.set_title(f"Confusion matrix\n{counted}")
        axes.tick_params(length=0)
        axes.spines[:].set_visible(False)
        figure.colorbar(shaded, ax=axes, shrink=0.8, label="share of the true diagnosis").outline.set_visible(False)
        return figure


def roc(curves: Sequence[Curve], counted: str) -> Figure:
    """ROC curves, one a diagnosis against all others; malignant ones in colour, with the areas under them."""
    with rc_context(STYLE):
        figure = Figure(figsize=(6.6, 6.9), layout="constrained")
        axes = figure.subplots()
        axes.plot([0, 1], [0, 1], color=GREY, linewidth=1, linestyle="--")
        colours, styles = iter(MALIGNANT * len(curves)), iter([":", "-.", (0, (5, 1)), (0, (1, 1))] * len(curves))
        for one in curves:
            drawn: Any = (
                {"color": next(colours), "linewidth": 2.2}
                if one.malignant
                else {"color": GREY, "linestyle": next(styles)}
            )
            axes.plot(
                one.false,
                one.true,
                label=f"{one.name} {one.area:.2f}{' (malignant)' if one.malignant else ''}",
                **drawn,
            )
        axes.set(xlim=(-0.01, 1.01), ylim=(-0.01, 1.01), aspect="equal")
        axes.set(xlabel="false positive rate (1 - specificity)", ylabel="true positive rate (sensitivity)")
        axes.set_title(f"ROC curves, each diagnosis against all others\n{counted}")
        axes.grid()
        axes.legend(loc="lower right", title="AUC")
        return figure


def _error(error: float, interval: Sequence[float] | None) -> str:
    between = f" (95 % CI {interval[0]:.1f} to {interval[1]:.1f})" if interval else ""
    return f"mean absolute error {error:.1f} years{between}"


def _draw_decades(axes: Any, ages: NDArray[np.float64], said: NDArray[np.float64]) -> None:
    decades = [said[(ages >= start) & (ages < start + DECADE)] for start in range(0, 120, DECADE)]
    places = [place for place, held in enumerate(decades) if len(held) >= FEWEST]
    if not places:
        return
    low, middle, high = np.array([np.percentile(decades[place], [25, 50, 75]) for place in places]).T
    where = (np.array(places) + 0.5) * DECADE
    label = "median and quartiles by decade"
    reach = (middle - low, high - middle)
    axes.errorbar(where, middle, reach, color=VERMILION, marker="o", markersize=5, capsize=3, label=label)


def _draw_bins(axes: Any, bins: Bins) -> None:
    hits = np.rint(bins.accuracy * bins.count).astype(int)
    tests = [binomtest(int(hit), int(count)) for hit, count in zip(hits, bins.count, strict=True)]
    low, high = np.array([test.proportion_ci(method="wilson") for test in tests]).T
    # An interval that begins or ends at the share itself may miss it by a rounding.
    reach = np.clip([bins.accuracy - low, high - bins.accuracy], 0, None)
    label = "accuracy, 95 % CI (Wilson)"
    axes.errorbar(
        bins.confidence,
        bins.accuracy,
        reach,
        color=BLUE,
        marker="o",
        markersize=6,
        capsize=3,
        linewidth=1.2,
        label=label,
    )
