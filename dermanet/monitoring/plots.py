"""How a model's use went, window after window, as curves."""

from collections.abc import Mapping, Sequence
from typing import Any

from matplotlib import rc_context

from dermanet.svgplots import COLOURS, FAINT, STYLE, panel, svg

MOST_DATES = 4

Trend = Sequence[Mapping[str, Any]]
"""One entry a window: `start`, `verdict`, `images`, `reach`, `referred`, `failed`."""


def trends(trend: Trend) -> list[tuple[str, str]]:
    """Titles and curves; nothing where there is but one window."""
    if len(trend) < 2:
        return []
    return [
        ("Distance from the validation side", _curves(trend, {"reach": "now"}, {"reach": "largest distance"}, "times its limit", 1.0)),
        ("Images answered", _bars(trend)),
        (
            "Referred and failed",
            _curves(trend, {"referred": "now", "failed": "new"}, {"referred": "referred", "failed": "failed"}, "%", scale=100),
        ),
    ]  # fmt: skip


def _curves(
    trend: Trend, colours: Mapping[str, str], names: Mapping[str, str], unit: str, line: float | None = None, scale: float = 1.0
) -> str:  # fmt: skip
    known = {name: [one for one in trend if one[name] is not None] for name in colours}
    if not any(known.values()):
        return ""
    with rc_context(STYLE):
        figure, axes = panel(2.4)
        for name, some in known.items():
            values = [scale * one[name] for one in some]
            axes.plot(
                [one["start"] for one in some],
                values,
                "o-",
                ms=3,
                lw=1.4,
                color=COLOURS[colours[name]],
                label=names[name],
            )
        drifted = [one for one in known.get("reach", []) if one["verdict"] == "drift"]
        if drifted:
            axes.plot(
                [one["start"] for one in drifted],
                [one["reach"] for one in drifted],
                "o",
                color=COLOURS["new"],
                label="drift",
            )
        if line is not None:
            axes.axhline(line, color=FAINT, lw=1, ls="--")
        axes.set_ylim(bottom=0)
        axes.set_ylabel(unit)
        _dates(axes, trend)
        return svg(figure)


def _bars(trend: Trend) -> str:
    with rc_context(STYLE):
        figure, axes = panel(2.4)
        starts, counts = [one["start"] for one in trend], [one["images"] for one in trend]
        axes.bar(
            starts, counts, width=(starts[1] - starts[0]).days * 0.8, color=COLOURS["now"], label="different images"
        )
        axes.set_ylabel("images")
        _dates(axes, trend)
        return svg(figure)


def _dates(axes: Any, trend: Trend) -> None:
    """Names some of the windows by their days, the latest among them."""
    starts = [one["start"] for one in trend][:: -max(1, -(-len(trend) // MOST_DATES))]
    axes.set_xticks(starts, [f"{start:%d %b}" for start in starts])
