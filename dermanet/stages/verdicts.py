"""The stages of judging: a run into figures, figures into a verdict."""

from typing import TYPE_CHECKING, Any

from dermanet import settings
from dermanet.settings import Settings
from dermanet.stages.datasets import judged_on
from dermanet.stages.rooms import frozen_snapshot, holdout_answers, network_in, tracking_of, versions_of

if TYPE_CHECKING:
    from dermanet.judging.metrics import Figures
    from dermanet.records import Snapshot

EVALUATION, VERDICT = "evaluation.json", "verdict.json"


def evaluate(run_id: str) -> dict[str, Any]:
    """Scores a run's model and the champion on the same holdout, by the same code, beside the trivial baseline."""
    from dermanet.judging import metrics, report
    from dermanet.judging.intervals import intervals
    from dermanet.registry.tracking import model_files
    from dermanet.registry.versions import CHAMPION

    here = settings.read()
    tracking = tracking_of(here)
    tags = tracking.run(run_id).data.tags
    frozen = frozen_snapshot(here, tags["dermanet.snapshot"])
    codes, holdout = frozen.taxonomy.codes, frozen.holdout
    answers = holdout_answers(here, network_in(model_files(tags["dermanet.model"])), frozen)
    champion = versions_of(here, tracking).holder(CHAMPION)
    record: dict[str, Any] = {
        "run_id": run_id, "snapshot": frozen.id, "holdout": frozen.holdout_digest,
        "candidate": metrics.figures(holdout, answers, codes),
        "intervals": intervals(holdout, answers, codes),
        "baseline": metrics.figures(holdout, metrics.trivial_answers(frozen.train, len(holdout), codes), codes),
        "champion": _champion_figures(here, f"models:/{here.model}/{champion}", frozen) if champion else None,
        "champion_version": champion,
        "support": metrics.support(holdout),
    }  # fmt: skip
    tracking.log_figures(run_id, record["candidate"])
    tracking.log_figures(run_id, {f"baseline_{name}": value for name, value in record["baseline"].items()})
    tracking.log_datasets(run_id, [judged_on(here, frozen)])
    for name, picture in report.pictures(holdout, answers, codes, record["intervals"]).items():
        tracking.log_picture(run_id, picture, name)
    tracking.log_json(run_id, record, EVALUATION)
    return record


def judge(run_id: str) -> dict[str, Any]:
    """Applies the gates to a run's evaluation. Returns and keeps the verdict with every check."""
    from dermanet.judging import gates, report

    here = settings.read()
    tracking = tracking_of(here)
    evaluation = tracking.read_json(run_id, EVALUATION)
    figures = (evaluation["candidate"], evaluation["baseline"], evaluation["champion"])
    verdict = gates.judge(gates.load(here.gates), *figures, evaluation["support"])
    record = {
        "run_id": run_id,
        "holdout": evaluation["holdout"],
        "champion_version": evaluation["champion_version"],
        **verdict.as_dict(),
    }
    tracking.log_json(run_id, record, VERDICT)
    tracking.log_text(run_id, report.verdict_page(verdict, evaluation), "verdict.md")
    tracking.tag(run_id, verdict=verdict.word)
    return record


def _champion_figures(here: Settings, uri: str, frozen: "Snapshot") -> "Figures | None":
    """The champion's figures on this holdout; none where it answers another list of diagnoses: the two cannot be compared."""
    from dermanet.judging import metrics
    from dermanet.registry.tracking import model_files

    network = network_in(model_files(uri))
    if network.diagnoses != frozen.taxonomy.codes:
        return None
    return metrics.figures(frozen.holdout, holdout_answers(here, network, frozen), frozen.taxonomy.codes)
