"""What people read of a validation: one page that needs nothing beside itself, on a screen of any width, in the dark, on paper."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dermanet.contactsheet import Tile
from dermanet.validating import plots
from dermanet.validating.drift import Verdict
from dermanet.validating.statistics import Statistics
from dermanet.webpage import rendered

TEMPLATE = Path(__file__).with_name("report.html")
PANELS = (
    ("Diagnosis", "diagnosis", ""), ("Sex", "sex", ""), ("Localization", "localization", ""), ("Clinic", "clinic", ""),
    ("Age", "age", "years"), ("Brightness", "brightness", "mean luma, 0 to 255"),
    ("Sharpness", "detail", "variance of the Laplacian at 256 pixels"),
    ("Contrast", "contrast", "grey levels from the 1st to the 99th percentile"),
    ("Resolution", "megapixels", "megapixels"), ("Shape", "aspect", "longer side by shorter side"),
)  # fmt: skip
SCOPES = {"schema": "rows", "new": "new images", "whole": "snapshot"}
CALLED = {"detail": "sharpness (detail)", "megapixels": "resolution (megapixels)", "aspect": "shape (aspect)"}
"""What figures are called on the page, where their name in the limits says little."""

FIGURES = {
    "age": "age", "sex": "sex", "localization": "localization", "confirmation": "confirmation", "clinic": "clinic",
    "patient_id": "patient", "look": "what it looks like",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Page:
    """What stands on a report. `previous` is empty where there was nothing to compare with; `word` may be `accepted`."""

    snapshot: str
    number: int
    previous: str
    word: str
    because: str
    verdict: Verdict
    groups: Mapping[str, Statistics]
    sheets: Sequence[tuple[str, Sequence[Tile]]]
    notes: Sequence[str] = ()


def html(page: Page) -> str:
    """The page as HTML: verdict, checks, counts, plots and contact sheets. Every text is escaped."""
    order = {"anomaly": 0, "warning": 1, "too few": 2, "pass": 3}
    checks = sorted(page.verdict.checks, key=lambda check: (order[check.outcome], check.scope, check.figure))
    drawn = [(title, _plot(page.groups, name, unit)) for title, name, unit in PANELS]
    return rendered(
        TEMPLATE, page=page, checks=checks, scopes=SCOPES, called=CALLED, figures=FIGURES, now=page.groups["now"],
        names=plots.NAMES, panels=[(title, svg) for title, svg in drawn if svg],
    )  # fmt: skip


def _plot(groups: Mapping[str, Statistics], name: str, unit: str) -> str:
    return plots.spread(groups, name, unit) if unit else plots.mix(groups, name)
