"""What people read of a window: one run in MLflow each, with its page, its figures and what was seen."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from dermanet import settings
from dermanet.settings import Settings
from dermanet.stages.rooms import looked_at, monitoring_tracking

if TYPE_CHECKING:
    from dermanet.monitoring.report import Page
    from dermanet.monitoring.sample import Sample
    from dermanet.monitoring.windows import Window

REPORT, RECORD = "report.html", "window.json"


@dataclass(frozen=True, slots=True)
class About:
    """All that a report is about. `windows`: one for each version that answered; `history`: all up to this one, in order.

    `live`, `asks`: None but for the latest window.
    """

    windows: "Sequence[Window]"
    history: "Sequence[Window]"
    references: "Mapping[str, Sample | None]"
    champion: str
    live: dict[str, Any] | None
    asks: dict[str, Any] | None


def publish(here: Settings, about: About) -> str:
    """Puts the report on a window into its one MLflow run, and returns that run's id; again, it is drawn anew."""
    from dermanet.monitoring import report

    tracking, first = monitoring_tracking(here), about.windows[0]
    work = f"monitoring {first.start:%Y-%m-%d} {first.days}"
    run_id = tracking.run_for(work, first.name, {"dermanet.window": first.name}).info.run_id
    main = chief(about)
    tracking.tag(run_id, verdict=main.verdict, version=main.version)
    tracking.log_params(run_id, {"window": first.name, "days": first.days})
    tracking.log_figures(run_id, _figures(main, about.live))
    tracking.log_json(run_id, [_record(one) for one in about.windows], RECORD)
    page = _page(about, main)
    tracking.log_text(run_id, report.html(page), REPORT)
    tracking.describe(run_id, _note(page))
    tracking.end(run_id, "FINISHED")
    return str(run_id)


def monitoring_report(run_id: str) -> str:
    """The path of a copy of a window's page, for people to look at. Raises BadInput where there is none."""
    here = settings.read()
    return str(monitoring_tracking(here).fetch(run_id, REPORT, looked_at(here, run_id)))


def chief(about: About) -> "Window":
    """The window of the version that matters most: the champion's, or else of whoever answered most."""
    return max(about.windows, key=lambda one: (one.version == about.champion and bool(one.version), one.images))


def _page(about: About, main: "Window") -> "Page":
    from dermanet.monitoring import drift, sample
    from dermanet.monitoring.report import Page, Part

    parts = [
        Part(
            one.version, drift.from_dict(one.record), sample.from_dict(one.record["sample"]), about.references.get(one.version),
            one.record["traffic"],
        )
        for one in sorted(about.windows, key=lambda one: one is not main)
    ]  # fmt: skip
    found = next((one.record["condition"] for one in about.windows if one.record["condition"]), None)
    return Page(main.name, main.at, about.champion, parts, _trend(about), about.live, found, about.asks)


def _trend(about: About) -> list[dict[str, Any]]:
    """One entry a window of the past, of its chief version: what the curves are drawn from."""
    starts = sorted({one.start for one in about.history})[-60:]
    found = []
    for start in starts:
        ours = [one for one in about.history if one.start == start]
        one = chief(About(ours, (), {}, about.champion, None, None))
        limited = [
            check for check in one.record["checks"] if check["value"] is not None and check["limit"] and check["chance"]
        ]
        traffic, (referred, of) = one.record["traffic"], one.record["sample"]["rates"]["referred"]
        found.append(
            {
                "start": start, "version": one.version, "verdict": one.verdict, "images": one.images,
                "reach": max((check["value"] / check["limit"] for check in limited), default=None),
                "referred": referred / of if of else None,
                "failed": sum(traffic["errors"].values()) / traffic["requests"] if traffic["requests"] else None,
            }
        )  # fmt: skip
    return found


def _figures(window: "Window", live: "Mapping[str, Any] | None") -> dict[str, float]:
    traffic = window.record["traffic"]
    found: dict[str, float] = {
        "images": window.images, "requests": traffic["requests"], "failed": sum(traffic["errors"].values()),
        **{check["figure"]: check["value"] for check in window.record["checks"] if check["value"] is not None},
        **{f"live_{one['figure']}": one["value"] for one in (live or {}).get("figures", ())},
    }  # fmt: skip
    return {name: float(value) for name, value in found.items()}


def _record(window: "Window") -> dict[str, Any]:
    return {"window": window.name, "days": window.days, "version": window.version, "at": window.at, **window.record}


def _note(page: "Page") -> str:
    """What MLflow's page of the run shows first."""
    main = page.parts[0]
    lines = [f"**{main.verdict.word}** ({REPORT} among the artifacts)"]
    lines += [f"- asks for a retrain: {page.asks['because']}"] if page.asks else []
    lines += [f"- drift: {line}" for line in main.verdict.lines("drift")]
    return "\n".join(lines + [f"- warning: {line}" for line in main.verdict.lines("warning")])
