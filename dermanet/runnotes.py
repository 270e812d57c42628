"""Airflow's plugin: at its end a run's note says what was decided in it, and why; and what deadlines count from."""

import logging
from typing import Any

from airflow.listeners import hookimpl
from airflow.plugins_manager import AirflowPlugin
from sqlalchemy.orm import object_session

from dermanet import stages
from dermanet.deadlines import SinceQueued
from dermanet.errors import BadInput

LONGEST = 1000
"""Characters that Airflow keeps of a note."""

log = logging.getLogger(__name__)


class Notes:
    """Listens to the scheduler, in whose transaction the run is: the note is written with its state."""

    @hookimpl
    def on_dag_run_success(self, dag_run: Any, msg: str) -> None:
        """A run ended well."""
        _note(dag_run)

    @hookimpl
    def on_dag_run_failed(self, dag_run: Any, msg: str) -> None:
        """A run failed."""
        _note(dag_run)


class RunNotes(AirflowPlugin):
    """Registered as an entry point, so that every Airflow has it that DermaNet is installed beside."""

    name = "dermanet"
    listeners = [Notes()]
    deadline_references = [SinceQueued]


def _note(dag_run: Any) -> None:
    if object_session(dag_run) is None or "dermanet" not in {tag.name for tag in dag_run.dag_model.tags}:
        # Another's DAG; or `dag.test()`, which has no scheduler.
        return
    try:
        lines = _told(f"{dag_run.dag_id}/{dag_run.run_id}")
    except Exception as error:
        # The scheduler schedules, whatever has become of the ledger.
        log.info("no decision is noted for %s: %s", dag_run.run_id, error)
        return
    text = "\n".join(lines)
    if not text:
        return
    dag_run.note = text if len(text) <= LONGEST else text[: LONGEST - 1] + "…"


def _told(name: str) -> list[str]:
    """What was decided in a run, and what was said of the windows that were judged in it."""
    try:
        found = stages.why(name)
    except BadInput:
        found = []
    return [f"{one['kind']}: {one['outcome']}. {'; '.join(one['reasons'])}" for one in found] + stages.window_lines(
        name
    )
