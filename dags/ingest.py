"""
## Take new labelled images in

Reads one source or several (a folder, a CSV file, `s3://bucket/prefix`, `inbox:PLACE` or `synthetic:`), screens every record, stores
each image once and writes the catalogue. What is refused is kept with its reason. When something new came in, the asset
`dermanet_catalogue` is updated, and that starts the DAG **retrain**.

**Inboxes:** a folder or prefix with a file `labels.csv` is a *batch*; `inbox:PLACE` takes every batch one level below PLACE, each as a
whole, each once, and answers it with a `receipt.json` beside its `labels.csv`. Folders without one yet are waiting, which is no error.
A batch that was corrected or completed is taken again, and its receipt replaced.

**When it runs:** Mondays at 02:00 UTC on `DERMANET_SOURCE`, or by hand with the parameter *source*.

**If it fails:** nothing is lost and nothing is half-taken. The champion goes on serving.
- *take_in* failed with one line that names the source: the source as a whole is wrong (no such folder, a column missing, a
  bucket that cannot be listed). Mend it and clear the task; it is not retried by itself, as it would say the same again.
- *name_wrong_batches* failed: its line names the batches of an inbox that are wrong as a whole, or that somebody was writing. All
  others were taken and announced. Mend those; the next run takes them, or clear *take_in*.
- any other failure: the store or the database was not reachable; it is retried for eight to twelve minutes, then clear it.

**Safe to clear:** yes, any task, at any time. What is known already is counted as known.
"""

from datetime import timedelta
from typing import Any

from airflow.sdk import Asset, CronTriggerTimetable, Param, dag, task

from dermanet import stages
from dermanet.retries import AGAIN

CATALOGUE = Asset("dermanet_catalogue")
MONDAYS = CronTriggerTimetable("0 2 * * 1", timezone="UTC", run_immediately=timedelta(0))


@dag(
    dag_id="ingest",
    schedule=MONDAYS,
    catchup=False,
    max_active_runs=1,
    on_failure_callback=stages.failed,
    doc_md=__doc__,
    tags=["dermanet", "intake"],
    default_args={"owner": "ml-engineering", **AGAIN},
    params={
        "source": Param(
            "",
            type="string",
            title="Source",
            description="Folders, CSV files, s3://bucket/prefix, inbox:PLACE or synthetic:lesions=N,seed=N. "
            "Empty: DERMANET_SOURCE.",
        )
    },
)
def ingest() -> None:
    """Wires the tasks."""

    @task
    def take_in(params: dict[str, Any] | None = None) -> dict[str, Any]:
        """Screens, stores and catalogues; returns the counts."""
        return stages.ingest_configured((params or {})["source"])

    @task.short_circuit
    def anything_new(counts: dict[str, Any]) -> bool:
        """Ends the run here, its later tasks skipped, when every record was known or refused."""
        return bool(counts["accepted"] or counts["corrected"])

    @task(outlets=[CATALOGUE])
    def announce() -> None:
        """Updates the asset that starts a retrain."""

    @task
    def name_wrong_batches(counts: dict[str, Any]) -> None:
        """Fails with one line where a batch of an inbox was not taken; beside the others' way, which it does not hold up."""
        stages.require_whole(counts)

    counts = take_in()
    anything_new(counts) >> announce()
    name_wrong_batches(counts)


ingest()
