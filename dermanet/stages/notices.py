"""Notices to people: a run that failed, or that is late. By e-mail, webhook or whatever else Apprise knows, to `DERMANET_NOTIFY`."""

import logging
from collections.abc import Mapping
from typing import Any

from dermanet import settings

log = logging.getLogger("dermanet.notices")


def notify(subject: str, text: str) -> bool:
    """Tells whoever is to be told. Returns whether all were; raises nothing: who cannot be told must not break what it is about."""
    targets = settings.read().notify
    if not targets:
        return False
    import apprise

    post = apprise.Apprise()
    # The addresses hold passwords: a wrong one is counted, not shown.
    wrong = [place for place, target in enumerate(targets, start=1) if not post.add(target)]
    if wrong:
        log.warning("DERMANET_NOTIFY: address %s is none that Apprise knows", ", ".join(map(str, wrong)))
    try:
        told = bool(post.notify(body=text, title=subject)) if len(post) else False
    except Exception as error:
        log.warning("a notice could not be sent: %s", type(error).__name__)
        return False
    if not told:
        log.warning("a notice did not reach all of %d addresses in DERMANET_NOTIFY", len(targets))
    return told and not wrong


def failed(context: Mapping[str, Any]) -> None:
    """What Airflow calls for a run that has failed."""
    run = context.get("dag_run")
    name, run_id = getattr(run, "dag_id", "a DAG"), getattr(run, "run_id", "")
    task = getattr(context.get("task_instance") or context.get("ti"), "task_id", "")
    where = f" in the task {task}" if task else ""
    notify(
        f"DermaNet: {name} failed",
        f"The run {run_id} of {name} failed{where}: {context.get('reason') or context.get('exception') or 'no reason given'}. "
        "The champion goes on serving. The DAG's page in Airflow says what to do and that any task may be cleared.",
    )


def late(**context: Any) -> None:
    """What Airflow calls for a run that has not ended by its deadline, be it that it waits for an answer."""
    run: Any = (context.get("context") or context).get("dag_run") or {}
    run_id = run.get("dag_run_id") or run.get("run_id") if isinstance(run, Mapping) else getattr(run, "run_id", "")
    notify(
        "DermaNet: a retrain is late",
        f"The run {run_id or 'of retrain'} has not ended within {settings.read().deadline_hours:g} hours. It trains longer than it "
        "should, waits for an answer under Required Actions in Airflow, or is stuck. The champion goes on serving.",
    )
