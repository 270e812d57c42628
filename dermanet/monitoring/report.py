"""What people read of a window: one page that needs nothing beside itself, on a screen of any width, in the dark, on paper."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dermanet import svgplots
from dermanet.monitoring import plots
from dermanet.monitoring.drift import Verdict
from dermanet.monitoring.sample import SKETCH_STEP, STEPS, Sample
from dermanet.webpage import rendered

TEMPLATE = Path(__file__).with_name("report.html")
PANELS = (
    ("Diagnosis predicted", "diagnosis", ""), ("Sex predicted", "sex", ""), ("Age predicted", "age", "years"),
    ("Confidence", "certainty", "probability of the predicted diagnosis"),
    ("Novelty", "novelty", "1: the limit of the training images"),
    ("Brightness", "brightness", "mean luma, 0 to 255"),
    ("Contrast", "contrast", "grey levels from the 1st to the 99th percentile"),
    ("Sharpness", "detail", "logarithm of the Laplacian's variance"),
)  # fmt: skip
NAMES = {"before": "validation side", "now": "this window"}
CALLED = {
    "referred": "referred to a person", "remarked": "photographs with a quality note", "detail": "sharpness (detail)",
    "sketch": "colours and texture (sketch)", "failed": "could not be answered", "milliseconds": "latency, 95th percentile (ms)",
    "champion_days": "age of the champion", "newer_images": "images newer than the champion", "refused": "refused at intake",
    "holdout_wear": "wear of the holdout",
}  # fmt: skip
"""What figures are called on the page, where their name in the limits says little."""


@dataclass(frozen=True, slots=True)
class Part:
    """One version in the window. `reference`: None where it has none; `traffic`: as `sample.Traffic`, plain."""

    version: str
    verdict: Verdict
    sample: Sample
    reference: Sample | None
    traffic: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Page:
    """What stands on a report: the parts, the chief one first; the `trend` of windows so far; and, of the latest window alone, live
    figures, the condition of champion, holdout and quarantine, and what asks for a retrain.
    """

    window: str
    at: str
    champion: str
    parts: Sequence[Part]
    trend: Sequence[Mapping[str, Any]]
    live: Mapping[str, Any] | None
    condition: Mapping[str, Any] | None
    asks: Mapping[str, Any] | None


def html(page: Page) -> str:
    """The page as HTML. Every text is escaped."""
    order = {"drift": 0, "warning": 1, "pass": 2, "too few": 3, "not known": 3}
    parts = [
        (part, sorted(part.verdict.checks, key=lambda one: order[one.outcome]), _drawn(part)) for part in page.parts
    ]
    trend = [(title, svg) for title, svg in plots.trends(page.trend) if svg]
    return rendered(TEMPLATE, page=page, parts=parts, trend=trend, called=CALLED)


def _drawn(part: Part) -> list[tuple[str, str]]:
    sketch = _furthest(part)
    wanted = [
        *PANELS,
        *([("Colours and texture, largest distance", sketch, f"figure {sketch[7:]} of 8")] if sketch else []),
    ]
    drawn = [(title, _panel(part, name, unit)) for title, name, unit in wanted]
    return [(title, svg) for title, svg in drawn if svg]


def _panel(part: Part, name: str, unit: str) -> str:
    groups = {"before": part.reference, "now": part.sample}
    known = {group: found for group, found in groups.items() if found is not None}
    if not unit:
        return svgplots.bars({group: found.mixes[name] for group, found in known.items()}, NAMES)
    spreads = {group: found.spreads.get(name, []) for group, found in known.items()}
    return svgplots.outlines(spreads, NAMES, unit, STEPS.get(name, SKETCH_STEP))


def _furthest(part: Part) -> str:
    """Which figure of the sketch the verdict speaks of."""
    found = next((one for one in part.verdict.checks if one.figure == "sketch" and one.value is not None), None)
    return f"sketch_{found.before.rpartition(' ')[2]}" if found else ""
