"""Plots of statistics: mixes as bars, spreads as outlines, group by group."""

from collections.abc import Mapping

from dermanet import svgplots
from dermanet.validating.statistics import Statistics

NAMES = {"before": "before", "now": "this snapshot", "new": "new in it"}

Groups = Mapping[str, Statistics]
"""Statistics by `before`, `now` and `new`, as many as there are."""


def mix(groups: Groups, name: str) -> str:
    """Shares of the words of one mix, group by group, as bars; empty where nothing is known. The rarest words are left out."""
    return svgplots.bars({group: found.mixes[name] for group, found in groups.items()}, NAMES)


def spread(groups: Groups, name: str, unit: str) -> str:
    """The distribution of one figure, group by group, as outlines; empty where nothing is known."""
    return svgplots.outlines({group: found.spreads[name] for group, found in groups.items()}, NAMES, unit)
