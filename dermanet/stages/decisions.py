"""The stages that decide, and the one that says why: whether to retrain, which way a version goes, what a person answered."""

from collections.abc import Mapping
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from dermanet import settings
from dermanet.errors import BadInput
from dermanet.settings import Settings
from dermanet.stages.notices import notify
from dermanet.stages.pages import EVALUATION, PAGE
from dermanet.stages.promotion import asks, require_comparable, why_not
from dermanet.stages.rooms import (
    chosen_experiment,
    frozen_snapshot,
    gates_of,
    ledger_of,
    tracking_of,
    versions_of,
    whoever_asks,
)
from dermanet.stages.verdicts import VERDICT

if TYPE_CHECKING:
    from dermanet.ledger.decisions import Ledger

APPROVE, REJECT = "Approve", "Reject"
"""What a person who is asked may answer."""


def decide(experiment_text: str = "", force: str = "", who: str = "", drift: str = "") -> dict[str, Any]:
    """Whether to retrain: where enough is new since the last verdict, nothing was ever judged, or it is asked for all the same.

    `force`: why a person asks, whose name is `who`; `drift`: what monitoring has found, which asks by itself. Returns `retrain` and
    the reasons; they are kept in the ledger. Raises BadInput where the gates are wrong or the champion's files are not there: said
    after hours of training it would be said too late.
    """
    from dermanet.ledger.decisions import Decision

    here = settings.read()
    gates_of(here)
    require_comparable(here)
    ledger = ledger_of(here)
    retrain, reasons = _whether(here, ledger, chosen_experiment(here, experiment_text).digest)
    if force or drift:
        found = f"drift asks for it: {drift}" if drift else ""
        retrain, reasons = True, (*filter(None, (force, found)), *reasons)
    asked = (who or whoever_asks()) if force else ""
    ledger.record(Decision("retrain", "yes" if retrain else "no", reasons, who=asked, dag_run=here.dag_run))
    return {"retrain": retrain, "reasons": list(reasons)}


def way_of(run_id: str, version: str) -> dict[str, Any]:
    """Which way a registered version goes: `promote`, `ask` a person, or `keep` the champion, and why.

    Where a person is asked: what is shown, as `subject` and as `body` in Markdown; from Airflow, people are told that they are.
    """
    from dermanet.ledger.decisions import Decision
    from dermanet.registry.versions import CHAMPION

    here = settings.read()
    ledger, by_person = ledger_of(here), asks(here)
    tracking = tracking_of(here)
    champion = versions_of(here, tracking).holder(CHAMPION)
    if champion == version:
        return {"way": "promote", "because": "it is champion already"}
    if reason := why_not(tracking, ledger, run_id, version, champion, approved=by_person):
        ledger.record(Decision("promotion", "not promoted", (reason,), run_id, version, dag_run=here.dag_run))
        return {"way": "keep", "because": reason}
    if not by_person:
        return {"way": "promote", "because": "its verdict is a pass"}
    asked = _question(here, run_id, version)
    if here.dag_run:
        notify(asked["subject"], asked["body"])
    return {"way": "ask", "because": "promotion: approval", **asked}


def answered(run_id: str, version: str, answer: Mapping[str, Any]) -> dict[str, Any]:
    """Keeps what a person answered who was asked in Airflow. Returns `approved`, `who` and `because`. No answer in time is a no.

    `answer`: `chosen_options`, `params_input` with `because`, `responded_by_user` with `name`, as Airflow's operator returns them.
    """
    from dermanet.ledger.decisions import Decision

    here = settings.read()
    person = answer.get("responded_by_user") or {}
    who = str(person.get("name") or person.get("id") or "")
    approved = list(answer.get("chosen_options") or ()) == [APPROVE] and bool(who)
    because = str((answer.get("params_input") or {}).get("because") or "").strip() or "no reason given"
    if not who:
        because = f"nobody answered within {here.approval_hours:g} hours"
    outcome = "approved" if approved else "rejected" if who else "timed out"
    ledger_of(here).record(Decision("approval", outcome, (because,), run_id, version, who=who, dag_run=here.dag_run))
    versions_of(here, tracking_of(here)).tag(version, approval=outcome, approval_by=who, approval_because=because)
    return {"approved": approved, "who": who, "because": because}


def why(name: str = "", limit: int = 20) -> list[dict[str, Any]]:
    """The decisions about a run, a version, a snapshot, a holdout or a DAG run, oldest first; without a name the latest ones.

    Raises BadInput where nothing was decided about `name`.
    """
    here = settings.read()
    ledger = ledger_of(here)
    found = ledger.about(name) if name else ledger.latest(limit)
    if name and not found:
        raise BadInput(
            f"nothing was decided about {name!r}; give an MLflow run, a version, a snapshot, a holdout or DAG/run, or nothing at all"
        )
    return [asdict(one) for one in found]


def _whether(here: Settings, ledger: "Ledger", digest: str) -> tuple[bool, tuple[str, ...]]:
    last = ledger.last("verdict")
    if last is None:
        return True, ("no model has been judged yet",)
    try:
        known = {record.digest: record.labels for record in frozen_snapshot(here, last.snapshot).records}
    except BadInput:
        return True, (f"snapshot {last.snapshot}, on which the last verdict was given, is not in this home",)
    tracking = tracking_of(here)
    try:
        run = tracking.run(last.run_id)
    except BadInput:
        return True, (f"run {last.run_id}, on which the last verdict was given, is not in MLflow any more",)
    return _news(here, known, run.data.tags.get("dermanet.experiment", digest) != digest)


def _news(here: Settings, known: Mapping[str, Any], other_experiment: bool) -> tuple[bool, tuple[str, ...]]:
    from dermanet import taxonomy
    from dermanet.intake.catalogue import Catalogue

    codes = taxonomy.load(here.taxonomy).codes
    now = {one.digest: one.labels for one in Catalogue(here.catalogue).records() if one.labels.diagnosis in codes}
    new = len(now.keys() - known.keys())
    relabelled = sum(known[digest] != labels for digest, labels in now.items() if digest in known)
    gone = len(known.keys() - now.keys())
    told = f"{new:,} images are new and {relabelled:,} labelled anew since the last verdict, {gone:,} are gone"
    if gone:
        return True, (f"{told}: what is forgotten must not be remembered by a model",)
    if other_experiment:
        return True, (f"{told}; the experiment is another",)
    enough = new + relabelled >= here.minimum_new
    return enough, (f"{told}; {'at least' if enough else 'fewer than'} {here.minimum_new:,} (DERMANET_MINIMUM_NEW)",)


def _question(here: Settings, run_id: str, version: str) -> dict[str, str]:
    from dermanet import taxonomy
    from dermanet.webpage import in_markdown

    tracking = tracking_of(here)
    verdict, evaluation = tracking.read_json(run_id, VERDICT), tracking.read_json(run_id, EVALUATION)
    champion, candidate = evaluation["champion"] or {}, evaluation["candidate"]
    malignant = [f"diagnosis_recall_{one.code}" for one in taxonomy.load(here.taxonomy).diagnoses if one.malignant]
    rows = [
        f"| {name} | {candidate[name]:.3f} | {f'{champion[name]:.3f}' if name in champion else ''} |"
        for name in ("diagnosis_accuracy", "diagnosis_f1_macro", *malignant, "sex_accuracy", "age_mae")
        if name in candidate
    ]
    flips = evaluation["flips"]["sentence"] + "." if evaluation["flips"] else "There is no champion to compare it with."
    body = [
        f"The verdict on version {version} is **{verdict['verdict']}**: {len(verdict['checks'])} checks.",
        *map(in_markdown, verdict["told"]), "", flips, "",
        "| figure on the holdout | candidate | champion |", "|---|---|---|", *rows, "",
        f"The page with all figures and with pictures of what would change: {tracking.address(run_id, PAGE)}", "",
        f"No answer within {here.approval_hours:g} hours is a no. For research use; not a medical device.",
    ]  # fmt: skip
    return {"subject": f"Shall version {version} of {here.model} become champion?", "body": "\n".join(body)}
