"""The moment that a deadline counts from: when its run was queued.

Airflow 3.3's own reference for that cannot be cleared with its run: it reads the interval as the number that it was before 3.3, and
answers 500 to whoever clears a run that has not ended well (apache/airflow issue 70368). One that is no built-in is left alone.
"""

from datetime import datetime
from typing import TYPE_CHECKING, Any

from airflow.sdk.definitions.deadline import BaseDeadlineReference

if TYPE_CHECKING:
    from sqlalchemy.orm import Session


class SinceQueued(BaseDeadlineReference):
    """Counts from when a run was queued first; a run that is cleared keeps its deadline, as whoever waits for it does."""

    required_kwargs = {"dag_id", "run_id"}

    def _evaluate_with(self, *, session: "Session", dag_id: str, run_id: str, **_: Any) -> datetime | None:
        """What the scheduler counts from, in whose transaction the run was made; None where it was not queued."""
        import sqlalchemy as sa
        from airflow.models import DagRun

        return session.scalar(sa.select(DagRun.queued_at).where(DagRun.dag_id == dag_id, DagRun.run_id == run_id))
