"""The stage between a snapshot and its training: are its data fit, and is it the same kind of data as before?"""

import json
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from typing import TYPE_CHECKING, Any

from dermanet import settings
from dermanet.errors import BadInput, DataRefused, StoreFault
from dermanet.settings import Settings
from dermanet.stages.lateness import forgotten_among
from dermanet.stages.rooms import (
    frozen_snapshot,
    ledger_of,
    looked_at,
    snapshot_place,
    snapshot_tracking,
    whoever_asks,
    with_room,
)
from dermanet.storage import place

if TYPE_CHECKING:
    import pandas as pd

    from dermanet.contactsheet import Tile
    from dermanet.intake.catalogue import Catalogue
    from dermanet.intake.history import Entry
    from dermanet.records import Snapshot
    from dermanet.registry.tracking import Tracking
    from dermanet.validating.limits import Limits

REPORT, STATISTICS, MANIFEST = "report.html", "statistics.json", "manifest.json"
SNAPSHOT = "dermanet.snapshot"
"""The tag of a run that has such a report, or is about to: the snapshot's id."""

PICTURELESS = "Its snapshot is not here any more, and a lesion was forgotten since: the pictures went."


def validate(snapshot_id: str, accept: str = "", who: str = "") -> dict[str, Any]:
    """Judges a snapshot's data against its limits and the last sound snapshot before it; the report goes to MLflow.

    `accept`: why `who` (by default the user of this process) lets an anomalous one pass; kept with it, for ever. Returns the
    verdict with its lines and the MLflow run. Raises DataRefused for an anomaly where the limits are enforced, and BadInput;
    DermaNetError where a disk is full.
    """
    from dermanet.intake import history
    from dermanet.intake.catalogue import Catalogue
    from dermanet.validating import limits

    here = settings.read()
    rules = limits.load(here.validation)
    frozen = frozen_snapshot(here, snapshot_id)
    if rules.mode == "off":
        return {"snapshot": snapshot_id, "verdict": "off", "anomalies": [], "warnings": []}
    catalogue = Catalogue(here.catalogue)
    entry = history.enter(catalogue, snapshot_id)
    record = _judged(here, catalogue, entry, frozen, rules)
    verdict, because = record["verdict"], "; ".join(_lines(record, "anomaly"))
    if verdict == "anomalous" and accept:
        verdict, because = "accepted", f"accepted by {who or whoever_asks()}: {accept} ({because})"
    entry = history.conclude(catalogue, snapshot_id, record, verdict, because)
    _keep(here, entry, snapshot_id, who)
    with with_room(here, "the report on the data"):
        told = _told(entry, _publish(here, catalogue, entry, frozen))
    if entry.verdict == "anomalous" and rules.mode == "enforce":
        raise DataRefused(_refusal(told), told)
    return told


def _keep(here: Settings, entry: "Entry", snapshot_id: str, who: str) -> None:
    """Writes the verdict on the data into the ledger."""
    from dermanet.ledger.decisions import Decision

    person = (who or whoever_asks()) if entry.verdict == "accepted" else ""
    reasons = (entry.because or "every figure is within its limits",)
    ledger_of(here).record(
        Decision("data", entry.verdict, reasons, snapshot=snapshot_id, who=person, dag_run=here.dag_run)
    )


def require_not_anomalous(here: Settings, snapshot_id: str) -> None:
    """Raises DataRefused where a snapshot was judged anomalous, nobody has accepted it, and limits are enforced."""
    from dermanet.intake import history
    from dermanet.intake.catalogue import Catalogue
    from dermanet.validating import limits

    entry = history.entry(Catalogue(here.catalogue), snapshot_id)
    if entry is not None and entry.verdict == "anomalous" and limits.load(here.validation).mode == "enforce":
        raise DataRefused(
            f"the data of snapshot {snapshot_id} are anomalous ({entry.because}), and are not trained on; fix the source, or accept "
            f'them: dermanet validate {snapshot_id} --accept "why"'
        )


def data_tags(here: Settings, snapshot_id: str) -> dict[str, str]:
    """What a training run says of its data: the verdict and the run with the report; nothing where it was not validated."""
    from dermanet.intake import history
    from dermanet.intake.catalogue import Catalogue

    entry = history.entry(Catalogue(here.catalogue), snapshot_id)
    if entry is None or not entry.verdict:
        return {}
    tracking = snapshot_tracking(here)
    run_id = tracking.run_for(snapshot_id, f"snapshot {entry.number}", {}).info.run_id
    address = f"#/experiments/{tracking.experiment}/runs/{run_id}/artifacts/{REPORT}"
    note = f"Data: snapshot {entry.number}, {entry.verdict}. [Report on the data]({address})"
    return {"dermanet.data": entry.verdict, "dermanet.data_run": run_id, "mlflow.note.content": note}


def redraw_reports(here: Settings, lesions: Collection[str], digests: Collection[str]) -> int:
    """Draws the reports anew of every snapshot that holds some images or lesions, without what is gone. Returns how many.

    Of a snapshot that is not here any more, or damaged, nobody knows whose pictures its report shows: that one loses them all.
    """
    from dermanet.intake import history, snapshots
    from dermanet.intake.catalogue import Catalogue

    catalogue, tracking, drawn = Catalogue(here.catalogue), snapshot_tracking(here), 0
    for run_id in tracking.tagged(SNAPSHOT):
        entry = history.entry(catalogue, tracking.run(run_id).data.tags[SNAPSHOT])
        if entry is None or not entry.verdict:
            continue
        frozen: Snapshot | None = None
        with suppress(BadInput, StoreFault):
            frozen = snapshots.read(entry.id, snapshot_place(here))
        # By the digests, too: a second call knows a patient's lesions no more, and a lesion may have had another id.
        if _holds(frozen, lesions, digests) if frozen else _tells_more(tracking, run_id, entry):
            with tracking.writable(run_id):
                _publish(here, catalogue, entry, frozen, run_id)
            drawn += 1
    return drawn


def _holds(frozen: "Snapshot", lesions: Collection[str], digests: Collection[str]) -> bool:
    return any(record.digest in digests or record.labels.lesion_id in lesions for record in frozen.records)


def _tells_more(tracking: "Tracking", run_id: str, entry: "Entry") -> bool:
    """Whether a run has pictures in its report, or says what the catalogue says no more."""
    try:
        pictures = "data:image" in tracking.read_text(run_id, REPORT)
        return pictures or tracking.read_json(run_id, STATISTICS) != _figures(entry)
    except BadInput:
        return True  # A validation that was killed.


def report_file(run_id: str) -> str:
    """The path of a copy of a run's report, for people to look at. Raises BadInput where there is none."""
    here = settings.read()
    return str(snapshot_tracking(here).fetch(run_id, REPORT, looked_at(here, run_id)))


def limits_summary(here: Settings) -> str:
    """One line on the file of limits. Raises BadInput where it is wrong."""
    from dermanet.validating import limits

    rules = limits.load(here.validation)
    return f"{rules.mode}, {len(rules.limits)} limits in {here.validation}"


def _judged(
    here: Settings, catalogue: "Catalogue", entry: "Entry", frozen: "Snapshot", rules: "Limits"
) -> dict[str, Any]:
    """What is kept of a validation: statistics of the whole and of what is new, breaches, checks, and what it was compared with."""
    from dermanet.intake.hiding import HIDDEN
    from dermanet.intake.history import measured
    from dermanet.validating import drift, schema, statistics
    from dermanet.validating.table import table

    codes, digest = frozen.taxonomy.codes, frozen.taxonomy.digest
    frame = table(frozen, measured(catalogue))
    before = _before(catalogue, entry)
    new, note = _new(here, frame, before)
    scopes = {"whole": statistics.statistics(frame, codes, digest)}
    if len(new):
        scopes["new"] = statistics.statistics(new, codes, digest)
    kept = before.statistics if before and before.statistics and not note else None
    earlier = statistics.from_dict(kept["whole"]) if kept else None
    breaches = schema.without(schema.breaches(frame, codes), frame, catalogue.forgotten(), HIDDEN)
    passed = {(rule, case) for rule, cases in kept["breaches"].items() for case in cases} if kept else set()
    verdict = drift.judge(rules, scopes, earlier, breaches, passed)
    return {
        **verdict.as_dict(), "before": before.id if before else "", "previous": before.id if before and kept else "",
        "note": note,
        **{scope: found.as_dict() for scope, found in scopes.items()},
        "breaches": {breach.rule: list(breach.cases) for breach in breaches},
        "readings": drift.readings(earlier, scopes),
    }  # fmt: skip


def _before(catalogue: "Catalogue", entry: "Entry") -> "Entry | None":
    """The snapshot to compare with. One that is sound already keeps its own, so that it is judged as it was."""
    from dermanet.intake import history

    if entry.sound and entry.statistics:
        return history.entry(catalogue, entry.statistics["before"])
    return history.before(catalogue, entry.number)


def _new(here: Settings, frame: "pd.DataFrame", before: "Entry | None") -> "tuple[pd.DataFrame, str]":
    """The rows that the snapshot before has not; and why there is no comparison, if there is none though there was a snapshot."""
    from dermanet.validating.table import newcomers

    if before is None:
        return frame[:0], ""
    try:
        earlier = frozen_snapshot(here, before.id)
    except BadInput:
        # Its statistics are in the catalogue, but which images it held is not: another home froze it.
        return frame[:0], ""
    if not set(frame["digest"]) & {record.digest for record in earlier.records}:
        return frame[:0], f"It shares no image with snapshot {before.number} before it, and is not compared with that."
    return newcomers(frame, earlier), ""


def _figures(entry: "Entry") -> dict[str, Any]:
    return {"verdict": entry.verdict, "because": entry.because, **(entry.statistics or {})}


def _publish(
    here: Settings, catalogue: "Catalogue", entry: "Entry", frozen: "Snapshot | None", run_id: str = ""
) -> str:
    """Puts an entry's figures, files and report into its one MLflow run, or into that one, and returns the run's id."""
    record = entry.statistics or {}
    tracking = snapshot_tracking(here)
    run_id = run_id or tracking.run_for(entry.id, f"snapshot {entry.number}", {SNAPSHOT: entry.id}).info.run_id
    tracking.tag(run_id, snapshot=entry.id, verdict=entry.verdict, previous=record["previous"])
    counts = {name: record["whole"][name] for name in ("images", "lesions", "patients", "taxonomy")}
    tracking.log_params(run_id, {"number": entry.number, **counts})
    tracking.log_figures(run_id, {**record["readings"], "new_images": record.get("new", {}).get("images", 0)})
    if frozen:
        tracking.log_json(run_id, json.loads(snapshot_place(here).read(f"{entry.id}/manifest.json")), MANIFEST)
    digests = [record.digest for record in frozen.records] if frozen else []
    gone: set[str] | None = None
    # Once more where one of its images was forgotten while the report was drawn.
    while gone != (now := forgotten_among(here, digests)):
        gone = now
        tracking.log_text(run_id, _page(here, catalogue, entry, frozen, gone), REPORT)
    tracking.describe(run_id, _note(entry, record))
    # The last: where these are the catalogue's, so is everything before.
    tracking.log_json(run_id, _figures(entry), STATISTICS)
    tracking.end(run_id, "FINISHED")
    return run_id


def _page(
    here: Settings, catalogue: "Catalogue", entry: "Entry", frozen: "Snapshot | None", gone: Collection[str]
) -> str:
    """The report, without the pictures of images that are `gone`; without any where the snapshot is."""
    from dermanet.intake import history
    from dermanet.validating import drift, report, statistics

    record: Mapping[str, Any] = entry.statistics or {}
    before = history.entry(catalogue, record["previous"])
    groups = {"now": statistics.from_dict(record["whole"])}
    if before and before.statistics:
        groups = {"before": statistics.from_dict(before.statistics["whole"]), **groups}
    if "new" in record:
        groups["new"] = statistics.from_dict(record["new"])
    shown = _sheets(here, catalogue, before, frozen, gone) if frozen else []
    verdict = drift.Verdict(record["verdict"], tuple(drift.Check(**check) for check in record["checks"]))
    notes = [note for note in (record["note"], "" if frozen else PICTURELESS) if note]
    return report.html(
        report.Page(
            entry.id, entry.number, record["previous"], entry.verdict, entry.because, verdict, groups, shown, notes
        )
    )


def _sheets(
    here: Settings, catalogue: "Catalogue", before: "Entry | None", frozen: "Snapshot", gone: Collection[str]
) -> "list[tuple[str, list[Tile]]]":
    """The contact sheets of what is new in a snapshot, or of all of it where nothing is."""
    from dermanet.intake.history import measured
    from dermanet.validating import sheets
    from dermanet.validating.table import table

    frame = table(frozen, measured(catalogue))
    new = _new(here, frame, before)[0]
    chosen = sheets.choose(new if len(new) else frame, frozen.taxonomy.codes)
    return [(sheet.title, _tiles(here, [image for image in sheet.images if image[0] not in gone])) for sheet in chosen]


def _tiles(here: Settings, images: Sequence[tuple[str, str]]) -> "list[Tile]":
    from dermanet.contactsheet import tile
    from dermanet.intake.stored import object_name

    objects, found = place(here.objects), []
    for digest, caption in images:
        try:
            found.append(tile(objects.read(object_name(digest)), caption))
        except FileNotFoundError:
            continue  # Forgotten meanwhile: its lesion is on no sheet any more.
    return found


def _told(entry: "Entry", run_id: str) -> dict[str, Any]:
    record: Mapping[str, Any] = entry.statistics or {}
    return {
        "snapshot": entry.id, "number": entry.number, "previous": record["previous"], "verdict": entry.verdict,
        "because": entry.because, "anomalies": _lines(record, "anomaly"), "warnings": _lines(record, "warning"),
        "images": record["whole"]["images"], "new": record.get("new", {}).get("images", 0), "run_id": run_id,
        "report": REPORT,
    }  # fmt: skip


def _lines(record: Mapping[str, Any], outcome: str) -> list[str]:
    names = {"new": "new images", "whole": "snapshot", "schema": "schema"}
    return [
        f"{names[check['scope']]}, {check['figure']} {check['measure']} {check['reason']}"
        for check in record["checks"]
        if check["outcome"] == outcome
    ]


def _refusal(told: Mapping[str, Any]) -> str:
    first, *others = told["anomalies"]
    more = f" (and {len(others)} more)" if others else ""
    return (
        f"the data of snapshot {told['snapshot']} are anomalous: {first}{more}; look at {REPORT} in MLflow run {told['run_id']}, "
        f'then fix the source, or accept them: dermanet validate {told["snapshot"]} --accept "why"'
    )


def _note(entry: "Entry", record: Mapping[str, Any]) -> str:
    """What MLflow's page of the run shows first."""
    lines = [f"**{entry.verdict}** ({REPORT} among the artifacts)"]
    lines += [f"- anomaly: {line}" for line in _lines(record, "anomaly")]
    return "\n".join(lines + [f"- warning: {line}" for line in _lines(record, "warning")])
