"""
## Remove what nobody needs any more

Lists what nobody needs any more, and removes exactly what was listed and is still unneeded then: old snapshots, pixels and features of
images that no snapshot which stays has, trainings that were killed long ago, logged models that never became versions, runs that
nothing names, copies of versions, orphans in the store of images, predictions, Airflow's own task logs and rows.

**Never:** what a registered version, an alias or a dossier names, nor the snapshot and the pixels of champion and previous; what the
ledger of decisions names; what was used within `DERMANET_KEEP_DAYS`; anything that is younger than a day. Records in quarantine wait
for a person, however long.

**When it runs:** Sundays at 05:00 UTC, or by hand; with the parameter *dry_run* it only lists.

**Where to look:** the task *list_unneeded* returns the list's name and its totals; the list, with a reason for each thing, is
`upkeep/NAME.json` in the home. *remove_listed* returns what was removed, and how many were kept as somebody needs them again.
`dermanet upkeep` lists the same at any time.

**If it fails:** nothing that is needed has been removed; it goes on where it was.
- *list_unneeded* failed: MLflow or the database was not reachable. Without them nobody knows what is named, so nothing goes. It is
  retried, then clear it.
- *remove_listed* says that another process has been at the removals: a backup or a `dermanet forget` is under way. It is retried;
  clear it when that has ended.
- *remove_listed* names what could not be removed, and why: all else has been. Mend that (rights of a folder, a key that may not
  delete in a bucket) and clear it.

**Safe to clear:** yes, any task, at any time. Two at once take turns, and the second finds the work done.
"""

from datetime import timedelta
from typing import Any

from airflow.sdk import CronTriggerTimetable, Param, dag, task

from dermanet import stages
from dermanet.retries import AGAIN

SUNDAYS = CronTriggerTimetable("0 5 * * 0", timezone="UTC", run_immediately=timedelta(0))


@dag(
    dag_id="upkeep",
    schedule=SUNDAYS,
    catchup=False,
    max_active_runs=1,
    doc_md=__doc__,
    tags=["dermanet", "operations"],
    on_failure_callback=stages.failed,
    default_args={"owner": "ml-engineering", **AGAIN},
    params={
        "dry_run": Param(
            False, type="boolean", title="Dry run", description="Only list what would go; nothing is removed."
        )
    },
)
def upkeep() -> None:
    """Wires the tasks."""

    @task
    def list_unneeded() -> dict[str, Any]:
        """What nobody needs any more: the list's name and its totals."""
        return stages.list_unneeded()

    @task.short_circuit
    def for_real(found: dict[str, Any], params: dict[str, Any] | None = None) -> bool:
        """Ends the run here, green, where it is a dry one or there is nothing on the list."""
        return bool(found["totals"]) and not (params or {})["dry_run"]

    @task
    def remove_listed(found: dict[str, Any]) -> dict[str, Any]:
        """What was removed, in all and by kind."""
        return stages.remove_listed(found["list"])

    found = list_unneeded()
    for_real(found) >> remove_listed(found)


upkeep()
