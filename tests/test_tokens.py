"""Tokens of tasks, in a real Airflow: a task that runs for longer than its token, and one whose worker stands still for longer."""

import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil
from cluster import Cluster

from dermanet.embedded.airflow import DONE, Airflow

TOKEN = 12
"""Seconds; Airflow's own default is 600."""

LONG = """
import os, pathlib, time
from airflow.sdk import dag, task

@dag(dag_id="long", schedule=None, params={"name": ""})
def long():
    @task(retries=0)
    def sit(params: dict | None = None):
        folder = pathlib.Path(os.environ["TEST_FOLDER"])
        name = params["name"]
        (folder / f"{name}.pid").write_text(f"{os.getppid()} ")
        while not (folder / f"{name}.go").exists():
            time.sleep(0.1)
    sit()
long()
"""


@contextmanager
def airflow(folder: Path, token: int) -> Iterator[tuple[Cluster, Airflow]]:
    """An Airflow whose tokens are good for so many seconds, with the DAG `long`."""
    (folder / "dags").mkdir()
    (folder / "dags" / "long.py").write_text(LONG)
    cluster = Cluster(
        folder, folder / "dags",
        {
            "TEST_FOLDER": str(folder), "AIRFLOW__EXECUTION_API__JWT_EXPIRATION_TIME": str(token),
            "AIRFLOW__API_AUTH__JWT_LEEWAY": "0", "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "60",
        },
    )  # fmt: skip
    try:
        yield cluster, cluster.start("long")
    finally:
        cluster.end()


def begun(cluster: Cluster, api: Airflow, name: str) -> tuple[str, psutil.Process]:
    """A run whose task sits, and the process that watches over the task."""
    run = api.trigger("long", {"name": name})
    file = cluster.folder / f"{name}.pid"
    cluster.wait_for(name, lambda: file.exists() and file.read_text().endswith(" "))
    return run, psutil.Process(int(file.read_text()))


def stand_still(process: psutil.Process, seconds: float) -> None:
    """As a machine does that is put to sleep, or a container that is paused."""
    os.kill(process.pid, signal.SIGSTOP)
    time.sleep(seconds)
    os.kill(process.pid, signal.SIGCONT)


def the_task(api: Airflow, run: str) -> dict[str, Any]:
    (task,) = api.tasks("long", run)
    return task


def test_a_short_token_is_renewed_while_the_task_runs_and_is_lost_when_its_worker_stands_still(tmp_path: Path) -> None:
    with airflow(tmp_path, TOKEN) as (cluster, api):
        patient, _ = begun(cluster, api, "patient")
        sleeper, watcher = begun(cluster, api, "sleeper")
        stand_still(watcher, TOKEN + 2)
        # Each heartbeat brings a new token in its answer; the one that the task began with is long gone.
        time.sleep(TOKEN)
        (tmp_path / "patient.go").touch()
        assert cluster.ended(api, "long", patient) == "success" and the_task(api, patient)["try_number"] == 1
        # Three heartbeats are refused, then the watcher ends the task, although nothing was wrong with it.
        assert cluster.ended(api, "long", sleeper) == "failed"
        assert not (tmp_path / "sleeper.go").exists()


def test_a_token_that_outlives_the_training_survives_that(tmp_path: Path) -> None:
    with airflow(tmp_path, 86_400) as (cluster, api):
        sleeper, watcher = begun(cluster, api, "sleeper")
        stand_still(watcher, TOKEN + 2)
        # Three heartbeats and more: none of them may have been refused.
        time.sleep(20)
        assert the_task(api, sleeper)["state"] not in DONE
        (tmp_path / "sleeper.go").touch()
        assert cluster.ended(api, "long", sleeper) == "success" and the_task(api, sleeper)["try_number"] == 1
