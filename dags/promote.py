"""
## Promote a version, or roll back

Makes a version of the registered model the `champion`, or the one before it again. The scorer follows within seconds. What was done,
by whom and why, is kept (`dermanet why VERSION`); `dermanet promote VERSION` and `dermanet rollback` do the same.

**When it runs:** only by hand, with the parameters *action*, *version* and *because*.

**If it fails:** the champion goes on serving.
- one line says that there is no such version, or no previous champion: start another run with one that there is.
- MLflow or the database was not reachable: it is retried, then clear the task. A promotion that was killed half-way is ended first.

**Safe to clear:** yes. A second time changes nothing, as long as nobody has promoted another version since.
"""

from typing import Any

from airflow.sdk import Asset, Param, dag, task

from dermanet import stages
from dermanet.retries import AGAIN

CHAMPION = Asset("dermanet_champion")


@dag(
    dag_id="promote",
    schedule=None,
    catchup=False,
    max_active_runs=1,
    doc_md=__doc__,
    tags=["dermanet", "registry"],
    on_failure_callback=stages.failed,
    default_args={"owner": "ml-engineering", **AGAIN},
    params={
        "action": Param(
            "promote",
            type="string",
            enum=["promote", "roll back"],
            title="What to do",
            description="Promote the version below, or go back to the previous champion.",
        ),
        "version": Param(
            "",
            type="string",
            pattern="^([1-9][0-9]*)?$",
            title="Version",
            description="The version to promote, a number; empty to roll back.",
        ),
        "because": Param(
            "no reason given",
            type="string",
            minLength=1,
            title="Why",
            description="Kept with your name in the ledger and on the version.",
        ),
    },
)
def promote() -> None:
    """Wires the task."""

    @task(outlets=[CHAMPION])
    def move_alias(params: dict[str, Any] | None = None, dag_run: Any = None) -> dict[str, Any]:
        """One move; the scorer follows."""
        asked, who = params or {}, getattr(dag_run, "triggering_user_name", None) or "a person in Airflow"
        if asked["action"] == "promote":
            return stages.promote(asked["version"], who, asked["because"])
        return stages.roll_back(who, asked["because"])

    move_alias()


promote()
