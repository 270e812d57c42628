"""
## Retrain, judge, and promote what passes

Freezes the catalogue as a snapshot, validates its data against the snapshot before, prepares what is new of its pixels,
trains, scores the candidate, the champion and the trivial baseline on the same holdout of lesions, and applies the gates. A
pass is registered in MLflow and becomes the `champion`, which the scorer follows. Anything else ends in *kept_the_champion*:
a green run, nothing registered.

**When it runs:** Mondays at 04:00 UTC, and whenever the DAG **ingest** took something new in. A run on an unchanged catalogue finds
its training done and repeats only the judgement; the parameter *fresh* trains anew.

**Where to look:** the task *validate_snapshot* returns every warning about the data and names the MLflow run with its report; the
task *apply_gates* returns every check with value, limit and reason; the MLflow run has `evaluation.html` with all of it and with
pictures of what the candidate would change, `verdict.md`, the learning curves, the datasets with their digests, and what the
machine was doing (*System metrics*). The log of *fit_network* has a line an epoch, with the time left.

**If it fails:** the champion goes on serving.
- *validate_snapshot* failed with *the data … are anomalous*: a figure is beyond its limit, and the line says which, before and
  now. Look at `report.html` in the MLflow run that it names (experiment *dermanet-snapshots*). Mend the source and ingest again;
  or, having looked, start a run with the parameter *accept_data* saying why: that is kept with your name, and later snapshots are
  compared with this one. It is not retried by itself.
- *freeze_snapshot* says that lesions which belong together lie on different sides: look at the contact sheet that it names, decide
  (`dermanet groups part` or `settle`) and clear it; it is not retried by itself.
- *prepare_pixels* was killed or found the disk full: make room (`dermanet cache --prune`) and clear it; it goes on from its last
  whole shard. A damaged shard is named in its result and has been made again.
- *prepare_pixels* names stored images that are damaged or missing: start **ingest** on the sources that it names, then clear it.
- *fit_network* was killed (a full memory, a machine that went away): it is retried and resumes from its last whole epoch, in
  the same MLflow run. Clear it if the retries are spent.
- *fit_network* says that no space is left: make room in the folder that it names and clear it; the run is failed, nothing is
  registered, and it goes on from its last whole epoch.
- *fit_network* says that the loss is no number to learn from: start a run with the parameter *experiment* and a lower
  `learning_rate`; it is not retried by itself.
- *fit_network* says that a process of several has failed (`DERMANET_PROCESSES`): the others are ended, and it is retried; all go on
  together from the last whole epoch. Clear it if the retries are spent.
- one line about the input (no images, an unknown experiment): mend it and clear the task; it is not retried by itself.

**Safe to clear:** yes, any task, at any time. A run has one MLflow run and at most one version.
"""

from datetime import timedelta
from typing import Any

from airflow.sdk import (
    Asset,
    AssetOrTimeSchedule,
    CronTriggerTimetable,
    ExceptionRetryPolicy,
    Param,
    RetryAction,
    RetryRule,
    dag,
    task,
)

from dermanet import stages

CATALOGUE, CHAMPION = Asset("dermanet_catalogue"), Asset("dermanet_champion")
MONDAYS = CronTriggerTimetable("0 4 * * 1", timezone="UTC", run_immediately=timedelta(0))
WRONG: list[type[BaseException] | str] = [
    "dermanet.errors.BadInput", "dermanet.errors.GateRefused", "dermanet.errors.DataRefused", "dermanet.errors.StoreFault",
]  # fmt: skip
PATIENCE = ExceptionRetryPolicy([RetryRule(WRONG, RetryAction.FAIL, reason="it would say the same again")])


@dag(
    dag_id="retrain",
    schedule=AssetOrTimeSchedule(timetable=MONDAYS, assets=[CATALOGUE]),
    catchup=False,
    max_active_runs=1,
    doc_md=__doc__,
    tags=["dermanet", "learning"],
    default_args={
        "owner": "ml-engineering",
        "retries": 3,
        "retry_delay": timedelta(seconds=30),
        "retry_policy": PATIENCE,
    },
    params={
        "experiment": Param(
            "",
            type="string",
            title="Experiment",
            description="probe, finetune, plain, plain128, demo, smoke, or NAME:field=value,… Empty: DERMANET_EXPERIMENT.",
        ),
        "fresh": Param(
            False,
            type="boolean",
            title="Train anew",
            description="Train even if this very snapshot and experiment were trained before.",
        ),
        "accept_data": Param(
            "",
            type="string",
            title="Accept the data",
            description="Why anomalous data are let pass after a person has looked at the report. Empty: an anomaly stops the run.",
        ),
    },
)
def retrain() -> None:
    """Wires the tasks."""

    @task
    def freeze_snapshot() -> str:
        """The catalogue as it stands, named by its content."""
        return str(stages.snapshot()["snapshot"])

    @task
    def validate_snapshot(snapshot: str, params: dict[str, Any] | None = None, dag_run: Any = None) -> dict[str, Any]:
        """The verdict on the data, with every line; an anomaly ends the run here."""
        person = getattr(dag_run, "triggering_user_name", None) or "a person in Airflow"
        return stages.validate(snapshot, (params or {})["accept_data"], person)

    @task
    def list_parts(snapshot: str, params: dict[str, Any] | None = None) -> list[dict[str, int]]:
        """Parts of at least a shard of new images each, and never many; one where nothing or little is new."""
        return stages.preparation_parts(snapshot, (params or {})["experiment"])

    @task
    def prepare_pixels(snapshot: str, part: dict[str, int], params: dict[str, Any] | None = None) -> dict[str, Any]:
        """One part; only what is new is computed."""
        return stages.prepare_part(snapshot, (params or {})["experiment"], part)

    @task(execution_timeout=timedelta(hours=12))
    def fit_network(snapshot: str, params: dict[str, Any] | None = None, run_id: str | None = None) -> str:
        """Trains, or resumes, or finds it done; returns the MLflow run."""
        asked = params or {}
        return str(
            stages.train(snapshot, asked["experiment"], str(run_id) if asked["fresh"] else "", progress=print)["run_id"]
        )

    @task
    def score_holdout(run: str) -> str:
        """Candidate, champion and trivial baseline on the same holdout."""
        return str(stages.evaluate(run)["run_id"])

    @task
    def apply_gates(run: str) -> dict[str, Any]:
        """The verdict with every check."""
        return stages.judge(run)

    @task.branch
    def passed(verdict: dict[str, Any]) -> str:
        """Which way the verdict sends the run."""
        return "register_version" if verdict["verdict"] == "pass" else "kept_the_champion"

    @task
    def register_version(run: str) -> str:
        """One version a run, however often this is called."""
        return str(stages.register(run)["version"])

    @task(outlets=[CHAMPION])
    def promote_version(version: str) -> dict[str, Any]:
        """The alias moves; the scorer follows."""
        return stages.promote(version)

    @task
    def kept_the_champion(run: str, verdict: dict[str, Any]) -> list[str]:
        """Says why; where the gates only watch, a version is made that nobody serves."""
        return stages.keep_champion(run, verdict)

    snapshot = freeze_snapshot()
    run = fit_network(snapshot)
    parts = list_parts(snapshot)
    validate_snapshot(snapshot) >> [parts, run]
    prepare_pixels.partial(snapshot=snapshot).expand(part=parts) >> run
    verdict = apply_gates(score_holdout(run))
    version = register_version(run)
    promote_version(version)
    passed(verdict) >> [version, kept_the_champion(run, verdict)]


retrain()
