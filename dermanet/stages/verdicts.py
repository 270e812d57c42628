"""The stages of judging: a run into figures, figures into a verdict."""

from dataclasses import asdict
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from dermanet import settings
from dermanet.errors import BadInput
from dermanet.settings import Settings
from dermanet.stages import pages
from dermanet.stages.datasets import judged_on
from dermanet.stages.lineage import learned_from
from dermanet.stages.pages import EVALUATION
from dermanet.stages.rooms import (
    frozen_snapshot,
    gates_of,
    holdout_answers,
    ledger_of,
    network_in,
    tracking_of,
    versions_of,
)

if TYPE_CHECKING:
    from collections.abc import Collection, Mapping, Sequence

    from dermanet.judging.flips import Flip, Totals
    from dermanet.judging.gates import Gates
    from dermanet.judging.slices import Look
    from dermanet.judging.verdict import Check, Verdict
    from dermanet.ledger.decisions import Ledger
    from dermanet.records import Answers, Snapshot
    from dermanet.registry.tracking import Tracking
    from dermanet.registry.versions import Versions
    from dermanet.serving.network import Network

VERDICT, GATES = "verdict.json", "gates.yaml"


def evaluate(run_id: str) -> dict[str, Any]:
    """Scores a run's model and the champion on the same holdout, by the same code, beside the trivial baseline.

    Whole and in slices, with 95 % intervals. A run whose own version is champion by now is scored beside the one that it took the
    place of; where nothing has changed its page keeps its verdict. Raises BadInput where the model answers another list of diagnoses
    than the snapshot has, or the gates' file, which may name slices, is wrong.
    """
    from dermanet.judging import evaluation, metrics, plots, report, verdict
    from dermanet.judging.flips import flips, totals
    from dermanet.judging.mistakes import malignant_codes
    from dermanet.judging.slices import slices
    from dermanet.registry.tracking import model_at_hand

    here = settings.read()
    tracking = tracking_of(here)
    tags = tracking.run(run_id).data.tags
    model = tracking.model_of(run_id)
    tracking.tag(run_id, used=datetime.now(UTC).isoformat(timespec="seconds"))
    frozen = frozen_snapshot(here, tags["dermanet.snapshot"])
    named = gates_of(here, frozen.taxonomy).named
    with model_at_hand(model) as files:
        holdout, network = frozen.holdout, network_in(files)
    if network.diagnoses != frozen.taxonomy.codes:
        raise BadInput(
            f"run {run_id} answers {', '.join(network.diagnoses)}, and the snapshot's diagnoses are "
            f"{', '.join(frozen.taxonomy.codes)}; train on this snapshot"
        )
    before = _kept(tracking, run_id)
    champion = _other(versions_of(here, tracking), run_id, before)
    answered = evaluation.Answered(
        holdout_answers(here, network, frozen),
        metrics.trivial_answers(frozen.train, len(holdout), frozen.taxonomy.codes),
        _champion_answers(here, f"models:/{here.model}/{champion}", frozen) if champion else None,
    )
    parts = slices(holdout, _looks(here), named)
    found = evaluation.evaluated(holdout, answered, frozen.taxonomy, parts)
    record: dict[str, Any] = {
        "run_id": run_id, "snapshot": frozen.id, "holdout": frozen.holdout_digest, "champion_version": champion,
        **found.as_dict(), "integrity": [asdict(check) for check in _integrity(here, tracking, network, frozen, answered.candidate)],
    }  # fmt: skip
    changed = flips(holdout, answered.candidate, answered.champion, frozen.taxonomy) if answered.champion else []
    told = totals(changed, len(holdout), frozen.taxonomy) if answered.champion else None
    record["flips"] = _flips(frozen, changed, told)
    tracking.log_figures(run_id, record["candidate"])
    tracking.log_figures(run_id, {f"baseline_{name}": value for name, value in record["baseline"].items()})
    tracking.log_datasets(run_id, [judged_on(here, frozen)])
    figures = report.pictures(
        holdout, answered.candidate, frozen.taxonomy.codes, found.whole.intervals, malignant_codes(frozen.taxonomy)
    )
    pictures = plots.drawn(figures)
    for name, picture in pictures.items():
        tracking.log_bytes(run_id, picture.png, name)
    page = pages.draw(here, record, network.card, frozen, answered.candidate, found, changed, told, pictures)
    # First: who forgets clears the pages of runs with this tag.
    tracking.tag(run_id, evaluated=frozen.holdout_digest)
    pages.keep_page(here, tracking, run_id, page)
    pages.keep_evaluation(here, tracking, run_id, record)
    if _same(before, record) and "dermanet.verdict" in tags:
        pages.keep_verdict(here, tracking, run_id, verdict.from_dict(tracking.read_json(run_id, VERDICT)))
    return record


def judge(run_id: str) -> dict[str, Any]:
    """Applies the gates to a run's evaluation. Returns and keeps the verdict with every check."""
    from dermanet.judging import evaluation, report, verdict
    from dermanet.judging.integrity import same_holdout

    here = settings.read()
    ledger = ledger_of(here)
    tracking = tracking_of(here)
    record = tracking.read_json(run_id, EVALUATION)
    frozen = frozen_snapshot(here, tracking.run(run_id).data.tags["dermanet.snapshot"])
    found = evaluation.from_dict(record)
    limits = gates_of(here, frozen.taxonomy)
    lesions = {one.labels.lesion_id for one in frozen.holdout}
    integrity = [
        same_holdout(record["holdout"], frozen.holdout_digest, found.whole.support["images"]),
        *(verdict.Check(**check) for check in record["integrity"]),
        _wear(ledger, record, lesions, limits),
        *_not_compared(record),
    ]
    judged = verdict.judge(limits, found, integrity, frozen.taxonomy.codes)
    told = {
        "run_id": run_id,
        "holdout": record["holdout"],
        "champion_version": record["champion_version"],
        **judged.as_dict(),
    }
    tracking.log_json(run_id, told, VERDICT)
    tracking.log_text(run_id, here.gates.read_text(encoding="utf-8"), GATES)
    tracking.log_text(run_id, report.verdict_page(judged, record), "verdict.md")
    pages.keep_verdict(here, tracking, run_id, judged)
    tracking.tag(run_id, verdict=judged.word, gates=judged.mode)
    _keep(ledger, here, record, judged, lesions)
    return told


def read_first(verdict: "Mapping[str, Any]") -> list[dict[str, Any]]:
    """The checks that a person reads first: those of the whole holdout, and of the many in slices what speaks against it, or warns.

    The others are counted in the verdict's `in_slices`.
    """
    return [
        check for check in verdict["checks"] if not check["slice"] or check["outcome"] not in ("pass", "not judged")
    ]


def _not_compared(record: "Mapping[str, Any]") -> "list[Check]":
    """A line where there is a champion that nothing could be compared with: nobody shall take a pass for more than it is."""
    from dermanet.judging.verdict import Check

    version = record["champion_version"]
    if not version or record["champion"] is not None:
        return []
    reason = f"version {version} answers another list of diagnoses: nothing is compared with it"
    return [Check("champion", "integrity", None, None, "warning", reason, record["support"]["images"])]


def _wear(ledger: "Ledger", record: "Mapping[str, Any]", lesions: "Collection[str]", limits: "Gates") -> "Check":
    from dermanet.judging.wear import wear

    run_id, holdout = record["run_id"], record["holdout"]
    given, uses = ledger.wear(lesions, holdout, run_id), ledger.uses(holdout, run_id)
    return wear(given, uses, limits.holdout_wear, record["support"]["images"])


def _keep(
    ledger: "Ledger", here: Settings, record: "Mapping[str, Any]", judged: "Verdict", lesions: "Collection[str]"
) -> None:
    """Writes the verdict into the ledger; one that decides wears the holdout."""
    from dermanet.ledger.decisions import Decision

    beside = (
        f"beside the champion, version {record['champion_version']}"
        if record["champion_version"]
        else "there is no champion"
    )
    mode = () if judged.mode == "enforce" else (f"gates: {judged.mode}",)
    made = sum(check.outcome != "not judged" for check in judged.checks)
    told = tuple(judged.told()) or (f"all {made} checks are passed, {beside}",)
    ledger.record(
        Decision(
            "verdict", judged.word, (*mode, *told), record["run_id"], "", record["snapshot"], record["holdout"],
            dag_run=here.dag_run, wore=judged.mode == "enforce",
        ),
        lesions,
    )  # fmt: skip


def _kept(tracking: "Tracking", run_id: str) -> dict[str, Any]:
    """The evaluation of a run from before; nothing at the first one."""
    try:
        return dict(tracking.read_json(run_id, EVALUATION))
    except BadInput:
        return {}


def _other(versions: "Versions", run_id: str, before: "Mapping[str, Any]") -> str | None:
    """The version that a run is compared with: the champion, or the one before it where the run's own is champion by now.

    Beside itself it could only be as good, and the page that says why it became champion would be lost.
    """
    from dermanet.registry.versions import CHAMPION

    champion = versions.holder(CHAMPION)
    if champion is None or versions.get(champion).run_id != run_id:
        return champion
    return versions.existing(before.get("champion_version") or "")


def _same(before: "Mapping[str, Any]", now: "Mapping[str, Any]") -> bool:
    """Whether two evaluations say the same, so that a verdict on one is a verdict on the other."""
    return all(before.get(name) == now[name] for name in ("holdout", "champion_version", "candidate", "champion"))


def _champion_answers(here: Settings, uri: str, frozen: "Snapshot") -> "Answers | None":
    """The champion's answers on this holdout; none where it answers another list of diagnoses: the two cannot be compared."""
    from dermanet.registry.tracking import model_at_hand

    with model_at_hand(uri) as files:
        network = network_in(files)
    return holdout_answers(here, network, frozen) if network.diagnoses == frozen.taxonomy.codes else None


def _flips(frozen: "Snapshot", changed: "Sequence[Flip]", told: "Totals | None") -> dict[str, Any] | None:
    """What the candidate answers otherwise than the champion, in one sentence and image by image; none without a champion."""
    if told is None:
        return None
    named = [(frozen.holdout[flip.place], flip) for flip in changed]
    flipped = [{"image_id": record.image_id, "digest": record.digest, **asdict(flip)} for record, flip in named]
    return {"sentence": told.sentence(), **told.as_dict(), "flipped": flipped}


def _looks(here: Settings) -> "Mapping[str, Look]":
    from dermanet.intake.catalogue import Catalogue
    from dermanet.intake.history import measured

    return measured(Catalogue(here.catalogue))


def _integrity(
    here: Settings, tracking: "Tracking", network: "Network", frozen: "Snapshot", answers: "Answers"
) -> "list[Check]":
    """Whether the holdout is new to the candidate, by what it learned from itself and by what those did that it began with."""
    from dermanet.judging.integrity import labels_in_order, unseen

    learned = {
        record for one in learned_from(here, tracking, network.card, frozen) for record in (*one.train, *one.validation)
    }
    return [unseen(frozen.holdout, learned), *labels_in_order(frozen.holdout, answers, frozen.taxonomy.codes)]
