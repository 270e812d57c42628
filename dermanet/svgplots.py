"""Plots as SVG that stands inside a page and takes its colours from it, so that dark and light and paper all work."""

import io
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib import rc_context
from matplotlib.figure import Figure
from numpy.typing import NDArray

INK, FAINT = "#010203", "#040506"
COLOURS = {"before": "#070809", "now": "#0a0b0c", "new": "#0d0e0f"}
"""Stand-ins: each colour is replaced by a variable of the page's style sheet."""

VARIABLES = {INK: "var(--ink)", FAINT: "var(--faint)", **{colour: f"var(--{name})" for name, colour in COLOURS.items()}}

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

Mix = Mapping[str, int]
"""How many images have each word."""

Spread = Sequence[tuple[float, float]]
"""(value, how many), by value."""


def bars(groups: Mapping[str, Mix], names: Mapping[str, str]) -> str:
    """Shares of the words of a mix, group by group, as bars; empty where nothing is known. The rarest words are left out.

    `groups`: by `before`, `now` and `new`, as many as there are; `names`: what they are called.
    """
    mixes = {group: found for group, found in groups.items() if sum(found.values())}
    words = _commonest(mixes)
    if not words:
        return ""
    with rc_context(STYLE):
        height = 0.9 + 0.1 * len(words) * (len(mixes) + 1)
        figure, axes = panel(max(2.0, height))
        for place, (group, found) in enumerate(mixes.items()):
            total = sum(found.values())
            where = np.arange(len(words)) + (place - (len(mixes) - 1) / 2) * 0.8 / len(mixes)
            shares = [100 * found.get(word, 0) / total for word in words]
            axes.barh(where, shares, 0.8 / len(mixes), color=COLOURS[group], label=f"{names[group]} ({total:,})")
        axes.set_yticks(range(len(words)), [_short(word) for word in words])
        axes.invert_yaxis()
        axes.set_xlabel("per cent of images")
        return svg(figure)


def outlines(groups: Mapping[str, Spread], names: Mapping[str, str], unit: str, step: float = 0.0) -> str:
    """The distribution of one figure, group by group, as outlines; empty where nothing is known. Groups and `names` as in `bars`.

    `step`: by which values were rounded, so that no bar has more of its multiples than another.
    """
    spreads = {group: found for group, found in groups.items() if found}
    if not spreads:
        return ""
    values = [value for found in spreads.values() for value, _ in found]
    wide = not step and min(values) > 0 and max(values) / min(values) > WIDE
    bounds = _rounded_edges(min(values), max(values), step) if step else _edges(min(values), max(values), wide)
    with rc_context(STYLE):
        figure, axes = panel(2.4)
        for group, found in spreads.items():
            points, weights = np.array(found, float).T
            shares = 100 * weights / weights.sum()
            drawn: dict[str, Any] = {"histtype": "stepfilled" if group == "before" else "step", "color": COLOURS[group]}
            drawn["alpha"] = 0.45 if group == "before" else 1
            label = f"{names[group]} ({weights.sum():,.0f})"
            axes.hist(points, bounds, weights=shares, linewidth=1.6, label=label, **drawn)
        if wide:
            axes.set_xscale("log")
        axes.set_xlabel(unit)
        axes.set_ylabel("per cent of images")
        return svg(figure)


def panel(height: float, width: float = 3.4) -> tuple[Figure, Any]:
    """A figure of so many inches with one pair of axes."""
    figure = Figure(figsize=(width, height), layout="constrained")
    return figure, figure.subplots()


def svg(figure: Figure) -> str:
    """A figure with its legend, as text that goes into a page."""
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


def _short(word: str) -> str:
    return word if len(word) <= LONGEST else f"{word[: LONGEST - 1]}…"


def _edges(low: float, high: float, wide: bool) -> NDArray[np.float64]:
    """The bounds of the bars: even steps, or, over a `wide` range, even ratios."""
    if wide:
        return np.asarray(np.geomspace(low, high * 1.001, BINS + 1))
    room = max(high - low, 0.2 * abs(high)) or 1.0
    middle = (low + high) / 2
    return np.asarray(np.linspace(middle - 0.51 * room, middle + 0.51 * room, BINS + 1))


def _rounded_edges(low: float, high: float, step: float) -> NDArray[np.float64]:
    """The bounds of bars that hold equally many multiples of a step."""
    steps = max(round((high - low) / step), 4)
    width = -(-steps // BINS)
    return np.asarray(low + step * (np.arange(0, steps + width + 1, width) - 0.5))


def _commonest(mixes: Mapping[str, Mix]) -> list[str]:
    largest: dict[str, float] = {}
    for found in mixes.values():
        for word, count in found.items():
            largest[word] = max(largest.get(word, 0), count / sum(found.values()))
    return sorted(largest, key=lambda word: (-largest[word], word))[:MOST_BARS]
