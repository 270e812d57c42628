"""Plots of statistics as SVG that stands inside a page and takes its colours from it, so that dark and light and paper all work."""

import io
import warnings
from collections.abc import Mapping
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from numpy.typing import NDArray

from dermanet.validating.statistics import Statistics, known

INK, FAINT = "#010203", "#040506"
COLOURS = {"before": "#070809", "now": "#0a0b0c", "new": "#0d0e0f"}
"""Stand-ins: each colour is replaced by a variable of the page's style sheet."""

VARIABLES = {INK: "var(--ink)", FAINT: "var(--faint)", **{colour: f"var(--{name})" for name, colour in COLOURS.items()}}
NAMES = {"before": "before", "now": "this snapshot", "new": "new in it"}
STYLE = {
    "svg.fonttype": "none", "svg.hashsalt": "dermanet", "font.family": "sans-serif", "font.size": 9, "text.color": INK,
    "axes.edgecolor": FAINT, "axes.labelcolor": INK, "xtick.color": INK, "ytick.color": INK, "axes.spines.top": False,
    "axes.spines.right": False,
    # A word of a label file may hold dollars, and is no formula.
    "text.parse_math": False,
}  # fmt: skip
MOST_BARS, LONGEST = 12, 24
"""Words of one mix that are drawn, and characters of each."""

BINS = 30
WIDE = 100
"""How many times the least the largest value may be before the axis counts in ratios."""

Groups = Mapping[str, Statistics]
"""Statistics by `before`, `now` and `new`, as many as there are."""


def mix(groups: Groups, name: str) -> str:
    """Shares of the words of one mix, group by group, as bars; empty where nothing is known. The rarest words are left out."""
    mixes = {group: found.mixes[name] for group, found in groups.items() if sum(found.mixes[name].values())}
    words = _commonest(mixes)
    if not words:
        return ""
    with rc_context(STYLE):
        height = 0.9 + 0.1 * len(words) * (len(mixes) + 1)
        figure, axes = _panel(max(2.0, height))
        for place, (group, found) in enumerate(mixes.items()):
            total = sum(found.values())
            where = np.arange(len(words)) + (place - (len(mixes) - 1) / 2) * 0.8 / len(mixes)
            shares = [100 * found.get(word, 0) / total for word in words]
            axes.barh(where, shares, 0.8 / len(mixes), color=COLOURS[group], label=f"{NAMES[group]} ({total:,})")
        axes.set_yticks(range(len(words)), [_short(word) for word in words])
        axes.invert_yaxis()
        axes.set_xlabel("per cent of images")
        return _svg(figure)


def spread(groups: Groups, name: str, unit: str) -> str:
    """The distribution of one figure, group by group, as outlines; empty where nothing is known."""
    spreads = {group: found.spreads[name] for group, found in groups.items() if found.spreads[name]}
    if not spreads:
        return ""
    values = [value for found in spreads.values() for value, _ in found]
    wide = min(values) > 0 and max(values) / min(values) > WIDE
    edges = _edges(min(values), max(values), wide)
    with rc_context(STYLE):
        figure, axes = _panel(2.4)
        for group, found in spreads.items():
            points, weights = np.array(found, float).T
            shares = 100 * weights / weights.sum()
            drawn: dict[str, Any] = {"histtype": "stepfilled" if group == "before" else "step", "color": COLOURS[group]}
            drawn["alpha"] = 0.45 if group == "before" else 1
            axes.hist(points, edges, weights=shares, linewidth=1.6, label=f"{NAMES[group]} ({known(found):,})", **drawn)
        if wide:
            axes.set_xscale("log")
        axes.set_xlabel(unit)
        axes.set_ylabel("per cent of images")
        return _svg(figure)


def _short(word: str) -> str:
    return word if len(word) <= LONGEST else f"{word[: LONGEST - 1]}…"


def _edges(low: float, high: float, wide: bool) -> NDArray[np.float64]:
    """The bounds of the bars: even steps, or, over a `wide` range, even ratios."""
    if wide:
        return np.asarray(np.geomspace(low, high * 1.001, BINS + 1))
    room = max(high - low, 0.2 * abs(high)) or 1.0
    middle = (low + high) / 2
    return np.asarray(np.linspace(middle - 0.51 * room, middle + 0.51 * room, BINS + 1))


def _commonest(mixes: Mapping[str, Mapping[str, int]]) -> list[str]:
    largest: dict[str, float] = {}
    for found in mixes.values():
        for word, count in found.items():
            largest[word] = max(largest.get(word, 0), count / sum(found.values()))
    return sorted(largest, key=lambda word: (-largest[word], word))[:MOST_BARS]


def _panel(height: float) -> tuple[Figure, Any]:
    figure = Figure(figsize=(3.4, height), layout="constrained")
    return figure, figure.subplots()


def _svg(figure: Figure) -> str:
    figure.legend(loc="outside upper center", ncols=2, frameon=False, handlelength=1.2, columnspacing=1)
    drawn = io.StringIO()
    with warnings.catch_warnings():
        # Words that the font at hand lacks are drawn by the reader's own: the text stays text.
        warnings.filterwarnings("ignore", "Glyph", UserWarning)
        figure.savefig(
            drawn,
            format="svg",
            transparent=True,
            metadata={"Date": None, "Creator": None, "Format": None, "Type": None},
        )
    text = drawn.getvalue()
    text = text[text.index("<svg") :]
    for stand_in, variable in VARIABLES.items():
        text = text.replace(stand_in, variable)
    return text
