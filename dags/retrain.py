"""
## Retrain, judge, and promote what passes

Decides whether enough is new, freezes the catalogue as a snapshot, validates its data against the snapshot before, prepares what is
new of its pixels, trains, scores the candidate, the champion and the trivial baseline on the same holdout of lesions, and applies
the gates. A pass is registered in MLflow, tried out in the server that users get, and becomes the `champion`, which the scorer
follows; where the gates say `promotion: approval`, a person is asked first. Anything else ends in *kept_the_champion* or
*nothing_new*: a green run.

**When it runs:** Mondays at 04:00 UTC, and whenever the DAG **ingest** took something new in. With fewer than
`DERMANET_MINIMUM_NEW` images new or labelled anew since the last verdict it ends in *nothing_new*; the parameter *force* says why
it shall retrain all the same, *fresh* trains anew what was trained before. With *drift* monitoring asks for it. Where that
verdict's snapshot or its run in MLflow is gone, nobody can tell what is new, and it retrains.

**Where to look:** the run's note, at its end, says what was decided in it and why (`dermanet why` has the same); the task
*validate_snapshot* returns every warning about the data and names the MLflow run with its report; the task *apply_gates* returns
every check with value, limit and reason; the MLflow run has `evaluation.html` with all of it and with pictures of what the
candidate would change, `verdict.md`, the learning curves, the datasets with their digests, and what the machine was doing (*System
metrics*). The log of *fit_network* has a line an epoch, with the time left.

**If a person is asked:** *ask_for_approval* waits under *Required Actions* with the verdict, what would change, and where its page
is. *Approve* or *Reject*, and say why: both are kept with your name. No answer within `DERMANET_APPROVAL_HOURS` is a no.

**If it fails:** the champion goes on serving. Who `DERMANET_NOTIFY` names is told, also of a run that takes longer than
`DERMANET_DEADLINE_HOURS`.
- *validate_snapshot* failed with *the data … are anomalous*: a figure is beyond its limit, and the line says which, before and now.
  Look at `report.html` in the MLflow run that it names (experiment *dermanet-snapshots*). Mend the source and ingest again; or,
  having looked, start a run with the parameter *accept_data* saying why: that is kept with your name, and later snapshots are
  compared with this one. It is not retried by itself.
- *freeze_snapshot* says that lesions which belong together lie on different sides: look at the contact sheet that it names, decide
  (`dermanet groups part` or `settle`) and clear it; it is not retried by itself.
- *prepare_pixels* was killed or found the disk full: make room (`dermanet cache --prune`) and clear it; it goes on from its last
  whole shard. A damaged shard is named in its result and has been made again.
- *extract_features* was killed or found the disk full: as *prepare_pixels*. An experiment without a frozen backbone has nothing to
  do there.
- *prepare_pixels* names stored images that are damaged or missing: start **ingest** on the sources that it names, then clear it.
- *fit_network* was killed (a full memory, a machine that went away): it is retried and resumes from its last whole epoch, in the
  same MLflow run. Clear it if the retries are spent.
- *fit_network* says that no space is left: make room in the folder that it names and clear it; the run is failed, nothing is
  registered, and it goes on from its last whole epoch.
- *fit_network* says that the loss is no number to learn from, or names ages of thousands of years: start a run with the parameter
  *experiment* and a lower `learning_rate`; it is not retried by itself.
- *fit_network* says that another process trains in a folder: the same work is under way, by hand or in another run; clear it when that
  has ended.
- *fit_network* says that a process of several has failed (`DERMANET_PROCESSES`): the others are ended, and it is retried; all go on
  together from the last whole epoch. Clear it if the retries are spent.
- *try_version* says that the version answers otherwise than in training: the server's environment is not the training's; mend it
  and clear the task. That the server did not come up is retried.
- *promote_version* says that another version is champion by now than the one that was compared with: somebody was quicker. Clear
  *score_holdout* to judge it again.
- *prepare_pixels* or *extract_features* failed with *stuck in queued*: more parts waited in Celery's queue than workers took in
  time. Give the pool `DERMANET_PREPARE_POOL` as many slots as all workers together have, and clear them.
- *fit_network* sits in *scheduled*: the pool `DERMANET_TRAINING_POOL` is taken by another training, or there is no such pool, which
  Airflow says beside the DAG: `airflow pools set NAME 1 "one training a machine"`. It sits in *queued*: no worker listens to the queue
  `DERMANET_TRAINING_QUEUE`.
- *no snapshot … here*, of a snapshot that *freeze_snapshot* has just made: the workers do not share one `DERMANET_HOME`.
- one line about the input (no images, an unknown experiment): mend it and clear the task; it is not retried by itself.

**Safe to clear:** yes, any task or a whole old run, at any time. A run has one MLflow run and at most one version. A version that was
champion already, and was rolled back or replaced, does not become champion again by its verdict.
"""

from datetime import timedelta
from typing import Any

from airflow.providers.standard.operators.hitl import HITLOperator
from airflow.sdk import (
    Asset,
    AssetOrTimeSchedule,
    CronTriggerTimetable,
    Param,
    dag,
    task,
)
from airflow.sdk.definitions.callback import SyncCallback
from airflow.sdk.definitions.deadline import DeadlineAlert

from dermanet import settings, stages
from dermanet.deadlines import SinceQueued
from dermanet.retries import AGAIN

HERE = settings.read()

CATALOGUE, CHAMPION = Asset("dermanet_catalogue"), Asset("dermanet_champion")
MONDAYS = CronTriggerTimetable("0 4 * * 1", timezone="UTC", run_immediately=timedelta(0))


@dag(
    dag_id="retrain",
    schedule=AssetOrTimeSchedule(timetable=MONDAYS, assets=[CATALOGUE]),
    catchup=False,
    max_active_runs=1,
    doc_md=__doc__,
    tags=["dermanet", "learning"],
    on_failure_callback=stages.failed,
    deadline=DeadlineAlert(
        SinceQueued(),
        timedelta(hours=HERE.deadline_hours),
        SyncCallback("dermanet.stages.notices.late"),
    ),
    default_args={"owner": "ml-engineering", **AGAIN},
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
        "force": Param(
            "",
            type="string",
            title="Retrain all the same",
            description="Why to retrain though little or nothing is new. Empty: only if enough is.",
        ),
        "drift": Param(
            "",
            type="string",
            title="Drift",
            description="What monitoring has found that asks for a retrain; kept as its reason, and as nobody's word.",
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
    def decide_retrain(params: dict[str, Any] | None = None, dag_run: Any = None) -> dict[str, Any]:
        """Whether to retrain, and why."""
        asked = params or {}
        force = asked["force"] or ("train anew" if asked["fresh"] else "")
        return stages.decide(asked["experiment"], force, person(dag_run), asked["drift"])

    @task.branch
    def worthwhile(decision: dict[str, Any]) -> str:
        """Which way the decision sends the run."""
        return "freeze_snapshot" if decision["retrain"] else "nothing_new"

    @task
    def nothing_new(decision: dict[str, Any]) -> list[str]:
        """Says why nothing was done."""
        return list(decision["reasons"])

    @task
    def freeze_snapshot() -> str:
        """The catalogue as it stands, named by its content."""
        return str(stages.snapshot()["snapshot"])

    @task
    def validate_snapshot(snapshot: str, params: dict[str, Any] | None = None, dag_run: Any = None) -> dict[str, Any]:
        """The verdict on the data, with every line; an anomaly ends the run here."""
        return stages.validate(snapshot, (params or {})["accept_data"], person(dag_run))

    @task
    def list_parts(snapshot: str, params: dict[str, Any] | None = None) -> list[dict[str, int]]:
        """Parts of at least a shard of new images each, and never many; one where nothing or little is new."""
        return stages.preparation_parts(snapshot, (params or {})["experiment"])

    @task(pool=HERE.prepare_pool)
    def prepare_pixels(snapshot: str, part: dict[str, int], params: dict[str, Any] | None = None) -> dict[str, Any]:
        """One part; only what is new is computed."""
        return stages.prepare_part(snapshot, (params or {})["experiment"], part)

    @task
    def list_feature_parts(snapshot: str, params: dict[str, Any] | None = None) -> list[dict[str, int]]:
        """Parts of images whose features are missing; one where nothing is new, or where the experiment trains from nothing."""
        return stages.feature_parts(snapshot, (params or {})["experiment"])

    @task(pool=HERE.prepare_pool)
    def extract_features(snapshot: str, part: dict[str, int], params: dict[str, Any] | None = None) -> dict[str, Any]:
        """One part, by every frozen backbone of the experiment; nothing where it has none."""
        return stages.extract_part(snapshot, (params or {})["experiment"], part)

    @task(
        execution_timeout=timedelta(hours=settings.TRAINING_HOURS),
        pool=HERE.training_pool,
        queue=HERE.training_queue,
        executor_config={"pod_template_file": HERE.training_pod} if HERE.training_pod else {},
    )
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
        return "register_version" if verdict["verdict"] == "pass" else "decided"

    @task
    def register_version(run: str) -> str:
        """One version a run, however often this is called."""
        return str(stages.register(run)["version"])

    @task
    def try_version(version: str) -> dict[str, Any]:
        """The server that users get, on this version, must answer as the network did in training."""
        return stages.smoke_test(version)

    @task
    def choose_way(run: str, version: str) -> dict[str, Any]:
        """Whether it is promoted, a person is asked, or the champion is kept; and what the person is shown."""
        return stages.way_of(run, version)

    @task.branch
    def must_ask(way: dict[str, Any]) -> str:
        """Whether a person is asked first."""
        return "ask_for_approval" if way["way"] == "ask" else "decided"

    @task
    def take_answer(run: str, version: str, answer: dict[str, Any]) -> dict[str, Any]:
        """Keeps who answered what, and why."""
        return stages.answered(run, version, answer)

    @task.branch(trigger_rule="none_failed_min_one_success")
    def decided(verdict: dict[str, Any], way: dict[str, Any] | None, answer: dict[str, Any] | None) -> str:
        """Where the verdict, the gates and, if one was asked, a person send the run."""
        # The one branch before both ends, and it always runs: one that is skipped in a run that was cleared would go on skipping what
        # it skipped before. What is not asked for here may be of then, too.
        goes = way["way"] if way and verdict["verdict"] == "pass" else "keep"
        yes = goes == "promote" or (goes == "ask" and bool(answer and answer["approved"]))
        return "promote_version" if yes else "kept_the_champion"

    @task(outlets=[CHAMPION])
    def promote_version(version: str, way: dict[str, Any], ti: Any = None) -> dict[str, Any]:
        """The alias moves; the scorer follows."""
        # Not asked, there may still be an answer, from before the run was cleared.
        return stages.promote_judged(version, ti.xcom_pull(task_ids="take_answer") if way["way"] == "ask" else None)

    @task
    def kept_the_champion(run: str, verdict: dict[str, Any]) -> list[str]:
        """Says why; where the gates only watch, a version is made, and not served."""
        return stages.keep_champion(run, verdict)

    decision, snapshot = decide_retrain(), freeze_snapshot()
    worthwhile(decision) >> [nothing_new(decision), snapshot]
    parts, seen, run = list_parts(snapshot), list_feature_parts(snapshot), fit_network(snapshot)
    validate_snapshot(snapshot) >> [parts, run]
    prepare_pixels.partial(snapshot=snapshot).expand(part=parts) >> seen
    extract_features.partial(snapshot=snapshot).expand(part=seen) >> run
    verdict = apply_gates(score_holdout(run))
    version = register_version(run)
    way = choose_way(run, version)
    try_version(version) >> way
    question = HITLOperator(
        task_id="ask_for_approval",
        subject="{{ ti.xcom_pull(task_ids='choose_way')['subject'] }}",
        body="{{ ti.xcom_pull(task_ids='choose_way')['body'] }}",
        options=[stages.APPROVE, stages.REJECT],
        defaults=[stages.REJECT],
        params={"because": Param("", type="string", title="Why", description="Kept with your name.")},
        response_timeout=timedelta(hours=HERE.approval_hours),
    )
    end = decided(verdict, way, take_answer(run, version, question.output))
    passed(verdict) >> [version, end]
    must_ask(way) >> [question, end]
    end >> [promote_version(version, way), kept_the_champion(run, verdict)]


def person(dag_run: Any) -> str:
    """Who started a run by hand, as far as Airflow knows."""
    return getattr(dag_run, "triggering_user_name", None) or "a person in Airflow"


retrain()
