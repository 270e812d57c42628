"""
## Watch the model that is served

Judges yesterday's answers, and those of every complete day that was not judged yet: each version's against what it answered on its
own validation side (diagnosis, sex, age, certainty, novelty, quality of the photographs, colours and texture, how many were referred
to a person). It compares them with labels that came later, looks at failures and times, at the champion's age, the holdout's wear and
the growth of quarantine, and puts one page a day into MLflow's experiment *dermanet-monitoring*. When drift lasts (`asks` in
`monitoring.yaml`: three of the last five days, the latest among them), it starts **retrain** once, with what it found as the reason.

**When it runs:** daily at 01:30 UTC, over windows from midnight to midnight UTC. A day on which it did not run is judged by the next
run, as long as the log of predictions goes back (`DERMANET_PREDICTION_DAYS`). By hand at any time.

**Where to look:** the run's note says each window's verdict, with what drifted and what is warned of; *watch* returns it, and
`report.html` in the MLflow run has it with plots. `dermanet why` tells when a retrain was asked for; the run *drift__…* of **retrain**
answers it.

**If it fails:** nothing is lost, and the champion goes on serving; the next run judges what this one could not.
- *watch* says that MLflow or the database cannot be asked: it is retried; bring it back, then clear the task or wait for the next day.
- one line about the limits (`DERMANET_MONITORING`): correct the file and clear the task; it is not retried by itself.
- *start_retrain* failed: the ask is kept, and the next run of this DAG makes it again, under the same name.

**If it asks for a retrain:** look at the report first. Drift that a retrain cannot cure (a dirty lens, another device)
stays after it; monitoring rests for `rest_days`, and asks again if the windows that came since have drifted, too.

**Safe to clear:** yes. A window that was judged stays as it was judged, a report is drawn anew, and an ask is made once.
"""

from datetime import timedelta
from typing import Any

from airflow.providers.standard.operators.trigger_dagrun import TriggerDagRunOperator
from airflow.sdk import CronTriggerTimetable, dag, task

from dermanet import stages
from dermanet.retries import AGAIN

DAILY = CronTriggerTimetable("30 1 * * *", timezone="UTC", run_immediately=timedelta(0))


@dag(
    dag_id="monitor",
    schedule=DAILY,
    catchup=False,
    max_active_runs=1,
    doc_md=__doc__,
    tags=["dermanet", "monitoring"],
    on_failure_callback=stages.failed,
    default_args={"owner": "ml-engineering", **AGAIN},
)
def monitor() -> None:
    """Wires the tasks."""

    @task
    def watch() -> dict[str, Any]:
        """Every complete window that is due: verdicts, report, and what asks for a retrain."""
        return stages.monitor()

    @task.short_circuit
    def lasting_drift(found: dict[str, Any]) -> bool:
        """Whether a retrain is asked for, and nothing has answered yet."""
        return found["asks"] is not None

    # One run an ask, by its name: asked again before it was answered, there is nothing left to start.
    start_retrain = TriggerDagRunOperator(
        task_id="start_retrain",
        trigger_dag_id="retrain",
        trigger_run_id="{{ ti.xcom_pull(task_ids='watch')['asks']['run'] }}",
        conf={"drift": "{{ ti.xcom_pull(task_ids='watch')['asks']['because'] }}"},
        skip_when_already_exists=True,
    )
    lasting_drift(watch()) >> start_retrain


monitor()
