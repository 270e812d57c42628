"""Every stage in order, by hand."""

from collections.abc import Sequence
from typing import Any

from dermanet import settings
from dermanet.errors import BadInput
from dermanet.stages.champions import register
from dermanet.stages.data import counted, ingest, prepare, snapshot
from dermanet.stages.decisions import way_of
from dermanet.stages.inbox import require_whole
from dermanet.stages.members import require_possible
from dermanet.stages.promotion import promote_judged, require_comparable
from dermanet.stages.rooms import OnBatch, Progress, chosen_experiment, ledger_of, say_nothing, whoever_asks
from dermanet.stages.smoke import smoke_test
from dermanet.stages.state import gates_summary
from dermanet.stages.training import train
from dermanet.stages.validation import limits_summary, validate
from dermanet.stages.verdicts import evaluate, judge


def gather(sources: Sequence[str], progress: Progress, accept_data: str = "") -> dict[str, Any]:
    """Takes sources in, freezes a snapshot and validates its data; returns what `validate` found, the snapshot's id in it."""
    for source in sources:
        progress(f"ingest {source}")
        done = ingest(source)
        progress(f"  {counted(done)}")
        require_whole(done)
    frozen = snapshot()
    sides = ", ".join(f"{frozen[side]} {side}" for side in ("train", "validation", "holdout"))
    progress(f"snapshot {frozen['snapshot']}: {sides} images")
    data = validate(frozen["snapshot"], accept_data)
    progress(f"data {data['verdict']}; warnings: {len(data['warnings'])}")
    return data


def retrain(
    sources: Sequence[str],
    experiment_text: str,
    attempt: str = "",
    progress: Progress = say_nothing,
    accept_data: str = "",
    on_batch: OnBatch | None = None,
) -> dict[str, Any]:
    """Every stage in order, by hand. Returns run, snapshot, verdict, version (None if refused) and the holdout figures.

    `accept_data`: why anomalous data are let pass, as in `validate`. Raises DataRefused where they are not.
    `progress` gets lines for people, `on_batch` how many batches of the training are done, and of how many at most.
    """
    from dermanet.ledger.decisions import Decision

    # What is wrong is said now, not after an hour of training.
    here = settings.read()
    if here.process:
        raise BadInput(f"DERMANET_PROCESS={here.process}; only `dermanet train` runs on other machines than the first")
    require_possible(here, chosen_experiment(here, experiment_text))
    gates_summary(here)
    limits_summary(here)
    require_comparable(here)
    ledger_of(here).add(Decision("retrain", "yes", ("asked for by hand",), who=whoever_asks(), dag_run=here.dag_run))
    data = gather(sources, progress, accept_data)
    prepared = prepare(data["snapshot"], experiment_text)
    progress(f"prepared {prepared['computed']} images, reused {prepared['reused']}")
    run_id = train(data["snapshot"], experiment_text, attempt, progress, on_batch)["run_id"]
    evaluation = evaluate(run_id)
    verdict = judge(run_id)
    version, way = None, {"way": "keep", "because": "; ".join(verdict["told"])}
    if verdict["registers"]:
        version = str(register(run_id)["version"])
        if verdict["verdict"] == "pass":
            progress(f"version {version} is registered; the server is tried out on it")
            smoke_test(version)
            way = way_of(run_id, version)
            if way["way"] == "promote":
                promote_judged(version)
    return {
        "run_id": run_id, "snapshot": data["snapshot"], "verdict": verdict["verdict"], "version": version,
        "metrics": evaluation["candidate"], "intervals": evaluation["intervals"], "baseline": evaluation["baseline"],
        "champion": evaluation["champion"],
        "checks": verdict["checks"], "in_slices": verdict["in_slices"], "gates": verdict["mode"], "data": data, "promotion": way,
    }  # fmt: skip
