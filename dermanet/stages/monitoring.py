"""The stage that watches a served model: windows of the log of predictions into verdicts and a report, lasting drift into an ask."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from dermanet import settings
from dermanet.errors import BadInput
from dermanet.settings import Settings
from dermanet.stages import condition, watchreport
from dermanet.stages.labelled import live_figures
from dermanet.stages.rooms import ledger_of, tracking_of, versions_of

if TYPE_CHECKING:
    import sqlalchemy as sa
    from mlflow.entities.model_registry import ModelVersion

    from dermanet.ledger.decisions import Decision, Ledger
    from dermanet.monitoring.limits import Limits
    from dermanet.monitoring.sample import Sample
    from dermanet.monitoring.windows import Window

ASKED = "asked"


@dataclass(frozen=True, slots=True)
class Watch:
    """What one call of the stage works with. `references`: of versions, as they were asked for."""

    here: Settings
    rules: "Limits"
    engine: "sa.Engine"
    days: int
    now: datetime
    champion: "ModelVersion | None"
    references: dict[str, "Sample | None"] = field(default_factory=dict)

    def reference(self, version: str) -> "Sample | None":
        """What a version's answers are compared with; None where it has none, or is in the registry no more."""
        if version not in self.references:
            self.references[version] = _reference(self.here, version) if version else None
        return self.references[version]


def clock() -> datetime:
    """The moment at which windows are complete or are not; a verdict on one does not depend on it."""
    return datetime.now(UTC)


def monitor(since: str = "", until: str = "", days: int = 0, dry_run: bool = False) -> dict[str, Any]:
    """Judges every complete window of the log that was not judged yet, reports on it, and asks for a retrain where drift lasts.

    `since`, `until`: dates (YYYY-MM-DD) between which windows are judged, both included, as far as the log goes back, instead of all
    there are. `days`: another
    length than the limits say; such windows never ask. `dry_run`: nothing is kept, reported or asked. Returns the windows that were
    judged, or the latest one where none was due; what asks for a retrain and was not answered yet; live figures; the MLflow run.
    Raises BadInput for wrong limits or dates, and DermaNetError or MlflowException where the registry is away: nothing is lost, as the
    next call judges what this one could not.
    """
    from dermanet.database.engine import open_database
    from dermanet.database.turns import turn
    from dermanet.monitoring import limits, windows
    from dermanet.registry.versions import CHAMPION

    here = settings.read()
    rules = limits.load(here.monitoring)
    if rules.mode == "off":
        return {"mode": "off", "judged": 0, "windows": [], "asks": None, "live": None, "condition": None, "run_id": ""}
    first, last = _date("since", since), _date("until", until)
    if days < 0 or days > 366:
        raise BadInput(f"days is {days}; 1 to 366 are needed, or 0 for what the limits say")
    length = days or rules.window.days
    if 0 < here.prediction_days <= length:
        raise BadInput(
            f"a window of {length} days is never whole in a log that goes back {here.prediction_days} days; "
            f"DERMANET_PREDICTION_DAYS={length + 1} at least, or shorter windows ({here.monitoring})"
        )
    engine = open_database(here.catalogue)
    try:
        with turn(engine, windows.TURN):
            champion = versions_of(here, tracking_of(here)).at(CHAMPION)
            watch = Watch(here, rules, engine, length, clock(), champion)
            return _monitored(watch, first, last, dry_run)
    finally:
        engine.dispose()


def window_lines(dag_run: str) -> list[str]:
    """What was said of the windows that were judged in a run of Airflow, a line each."""
    from dermanet.database.engine import open_database
    from dermanet.monitoring import windows

    engine = open_database(settings.read().catalogue)
    try:
        return [_line(_told(window)) for window in windows.judged_in(engine, dag_run)]
    finally:
        engine.dispose()


def monitoring_summary(here: Settings) -> str:
    """One line on the limits that the served model is watched by. Raises BadInput where their file is wrong."""
    from dermanet.monitoring import limits

    rules = limits.load(here.monitoring)
    return f"{rules.mode}, windows of {rules.window.days} days, limits in {here.monitoring}"


def _monitored(watch: Watch, first: datetime | None, last: datetime | None, dry_run: bool) -> dict[str, Any]:
    from dermanet.monitoring import windows

    kept = windows.every(watch.engine, watch.days)
    starts = _starts(watch, first, last, {one.start for one in kept})
    stands = _condition(watch, kept) if starts and not (first or last) else None
    judged = []
    for start in starts:
        found = _judged(watch, start, stands if start == starts[-1] else None)
        judged += found if dry_run else [windows.keep(watch.engine, one) for one in found]
    asks = None if dry_run or watch.days != watch.rules.window.days else _asks(watch)
    live = _live(watch)
    run_id = "" if dry_run else _reported(watch, live, asks)
    latest = [one for one in kept if one.start == kept[-1].start] if kept else []
    shown = judged or latest
    return {
        "mode": watch.rules.mode, "judged": len({one.start for one in judged}), "windows": [_told(one) for one in shown],
        "asks": asks, "live": live, "condition": _last_condition(shown or latest), "run_id": run_id,
    }  # fmt: skip


def _starts(watch: Watch, first: datetime | None, last: datetime | None, kept: set[datetime]) -> list[datetime]:
    from dermanet.monitoring import asking, windows

    oldest, retention = windows.first_prediction(watch.engine), watch.here.prediction_days
    if not first and not last:
        return asking.due(oldest, watch.now, watch.days, kept, retention)
    if oldest is None:
        return []
    settled = watch.now - asking.SETTLED
    until = settled if last is None or last >= watch.now else min(last + timedelta(days=1), settled)
    whole = asking.reach(oldest, watch.now, watch.days, retention)
    found = asking.complete(max(first, whole) if first else whole, until, watch.days)
    return [start for start in found if start not in kept]


def _judged(watch: Watch, start: datetime, stands: dict[str, Any] | None) -> "list[Window]":
    """Each version that answered in a window, judged by itself: a champion that changed within it has a share of it."""
    from dermanet.monitoring import drift
    from dermanet.monitoring.predictions import between
    from dermanet.monitoring.sample import Gathering, gather
    from dermanet.monitoring.windows import Window

    found = gather(between(watch.engine, start, start + timedelta(days=watch.days))) or {"": Gathering()}
    judged = []
    for version, answers in sorted(found.items()):
        known, traffic = watch.reference(version), answers.traffic()
        sample = drift.witnessed(watch.rules, known, answers.sample())
        verdict = drift.judge(watch.rules, known, sample, traffic)
        record = {"sample": sample.as_dict(), "traffic": asdict(traffic), **verdict.as_dict(), "condition": None}
        if stands:
            own = [asdict(check) for check in condition.checks(stands, watch.rules)]
            record |= {"condition": stands, "checks": [*record["checks"], *own]}
        judged.append(
            Window(start, watch.days, version, verdict.word, sample.images, record, dag_run=watch.here.dag_run)
        )
    return judged


def _condition(watch: Watch, kept: "Sequence[Window]") -> dict[str, Any]:
    return condition.condition(watch.here, watch.champion, watch.now, _last_condition(kept))


def _last_condition(kept: "Sequence[Window]") -> dict[str, Any] | None:
    return next((one.record["condition"] for one in reversed(kept) if one.record["condition"]), None)


def _reference(here: Settings, version: str) -> "Sample | None":
    from dermanet.monitoring import reference
    from dermanet.registry.copies import model

    try:
        files = model(f"models:/{here.model}/{version}", here.tracking_uri, here.home / "models").files
    except BadInput:
        return None
    return reference.load(files / reference.FILE)


def _asks(watch: Watch) -> dict[str, Any] | None:
    """What asks for a retrain and was not answered yet: from before, or from the windows as they stand now."""
    from dermanet.monitoring import asking, windows

    if watch.champion is None or watch.rules.mode != "enforce":
        return None
    champion, ledger = str(watch.champion.version), ledger_of(watch.here)
    last = ledger.last("monitoring")
    answer = _answer(ledger, last) if last else None
    if last and last.version == champion and answer is None:
        return _asked(last)
    if last and watch.now < datetime.fromisoformat(last.at) + timedelta(days=watch.rules.asks.rest_days):
        return None
    since = datetime.fromisoformat(answer.at) if last and answer and last.version == champion else None
    kept = [one for one in windows.every(watch.engine, watch.days) if one.version == champion]
    latest = asking.latest(watch.now, watch.days)
    words: list[Any] = [(one.start, one.verdict) for one in kept]
    over = asking.asking(watch.rules.asks, words, latest, watch.days, since)
    return _ask(watch, ledger, champion, [one for one in kept if one.start in over]) if over else None


def _answer(ledger: "Ledger", ask: "Decision") -> "Decision | None":
    """What answered an ask: a retrain that was begun, or a model that was judged."""
    answers = (
        one
        for one in ledger.after(ask.number)
        if (one.kind, one.outcome) == ("retrain", "yes") or one.kind == "verdict"
    )
    return next(answers, None)


def _ask(watch: Watch, ledger: "Ledger", champion: str, over: "Sequence[Window]") -> dict[str, Any]:
    from dermanet.ledger.decisions import Decision

    days = ", ".join(one.name for one in over)
    figures = sorted({check["figure"] for one in over for check in one.record["checks"] if check["outcome"] == "drift"})
    told = f"version {champion} has drifted in {len(over)} of the last {watch.rules.asks.of} windows ({days}): {', '.join(figures)}"
    decision = Decision("monitoring", ASKED, (told,), version=champion, dag_run=watch.here.dag_run)
    return _asked(ledger.add(decision))


def _asked(decision: "Decision") -> dict[str, Any]:
    """`run`: the one run of the DAG `retrain` that answers it, however often it is told."""
    return {
        "version": decision.version, "because": "; ".join(decision.reasons), "at": decision.at, "run": f"drift__{decision.number}",
    }  # fmt: skip


def _live(watch: Watch) -> dict[str, Any] | None:
    if watch.champion is None:
        return None
    one = watch.champion
    return live_figures(watch.here, watch.engine, str(one.version), one.tags, str(one.run_id), watch.now)


def _reported(watch: Watch, live: dict[str, Any] | None, asks: dict[str, Any] | None) -> str:
    """Puts a report on every kept window that has none into MLflow, and on the latest one anew. Returns the latest's run."""
    from dermanet.monitoring import windows

    kept = windows.every(watch.engine, watch.days)
    run_id = ""
    for start in sorted({one.start for one in kept if not one.report} | {one.start for one in kept[-1:]}):
        ours = [one for one in kept if one.start == start]
        latest = start == kept[-1].start
        run_id = watchreport.publish(
            watch.here, watchreport.About(
                ours, [one for one in kept if one.start <= start], {one.version: watch.reference(one.version) for one in ours},
                str(watch.champion.version) if watch.champion else "", live if latest else None, asks if latest else None,
            ),
        )  # fmt: skip
        windows.reported(watch.engine, start, watch.days, run_id)
    return run_id


def _told(window: "Window") -> dict[str, Any]:
    """A window for people and programs, without its samples."""
    checks: list[Mapping[str, Any]] = window.record["checks"]
    lines = {
        word: [f"{check['figure']} {check['reason']}" for check in checks if check["outcome"] == outcome]
        for word, outcome in (("drift", "drift"), ("warnings", "warning"))
    }
    traffic = window.record["traffic"]
    return {
        "window": window.name, "days": window.days, "version": window.version, "verdict": window.verdict, "images": window.images,
        "requests": traffic["requests"], "failed": sum(traffic["errors"].values()), "milliseconds": traffic["milliseconds"], **lines,
        "judged": window.at,
    }  # fmt: skip


def _line(told: Mapping[str, Any]) -> str:
    by = f"version {told['version']}, {told['images']:,} images" if told["version"] else "no requests"
    return "; ".join([f"{told['window']}: {told['verdict']} ({by})", *told["drift"], *told["warnings"]])


def _date(name: str, text: str) -> datetime | None:
    if not text:
        return None
    try:
        return datetime.strptime(text, "%Y-%m-%d").replace(tzinfo=UTC)
    except ValueError:
        raise BadInput(f"{name} is {text!r}; a date is needed: YYYY-MM-DD") from None
