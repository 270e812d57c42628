"""The DAG `retrain` under Celery, with Redis, PostgreSQL and workers as processes: shared parts, a queue, a pool, a kill."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cluster
import mlflow
import postgres as postgresql
import pytest
from installation import GATES

from dermanet import stages
from dermanet.embedded.airflow import Airflow

DAGS = Path(__file__).parents[1] / "dags"
PROBE = "probe:backbone=efficientnet-lite0,recipe=square@32,taps=false,views=1"
EPOCHS = 30
SMOKE = f"smoke:epochs={EPOCHS},patience={EPOCHS}"


@dataclass(frozen=True)
class Stack:
    """Airflow with two workers for everything and one that trains, and a home that they share."""

    airflow: cluster.Cluster
    api: Airflow
    home: Path

    def retrained(self, experiment: str) -> str:
        return self.api.trigger("retrain", {"experiment": experiment, "force": "a test"})

    def tasks(self, run: str, name: str) -> list[dict[str, Any]]:
        return [task for task in self.api.tasks("retrain", run) if task["task_id"] == name]

    @property
    def mlflow(self) -> mlflow.MlflowClient:
        return mlflow.MlflowClient(f"sqlite:///{self.home / 'mlflow.db'}")


@pytest.fixture(scope="module")
def stack(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Stack]:
    cluster.require_celery()
    programs = postgresql.server()
    if programs is None:
        pytest.skip("needs PostgreSQL's programs initdb and postgres, which are not on this machine")
    folder = tmp_path_factory.mktemp("stack")
    (folder / "gates.yaml").write_text(GATES["open"])
    with (
        postgresql.running(programs) as server,
        cluster.redis_server(folder) as broker,
        pytest.MonkeyPatch.context() as patch,
    ):
        own = {
            "DERMANET_HOME": str(folder / "home"), "DERMANET_GATES": str(folder / "gates.yaml"),
            "DERMANET_CATALOGUE": postgresql.make_database(server.folder),
            "DERMANET_TRAINING_POOL": "training", "DERMANET_TRAINING_QUEUE": "gpu",
        }  # fmt: skip
        for name, value in own.items():
            patch.setenv(name, value)
        stages.ingest("synthetic:lesions=600,seed=3")
        variables = cluster.celery_variables(postgresql.make_database(server.folder), broker)
        airflow = cluster.Cluster(folder, DAGS, {**own, **variables})
        try:
            api = airflow.start("retrain")
            airflow.command("pools", "set", "training", "1", "one training at a time")
            airflow.worker("one"), airflow.worker("two"), airflow.worker("trainer", "gpu")
            yield Stack(airflow, api, folder / "home")
        finally:
            airflow.end()


def test_workers_share_the_parts_and_another_one_trains(stack: Stack) -> None:
    run = stack.retrained(PROBE)
    assert stack.airflow.ended(stack.api, "retrain", run) == "success"
    parts = stack.tasks(run, "extract_features")
    assert len(parts) == 4 and {part["try_number"] for part in parts} == {1}
    assert {part["hostname"] for part in [*parts, *stack.tasks(run, "prepare_pixels")]} <= {"one", "two"}
    (training,) = stack.tasks(run, "fit_network")
    assert (training["hostname"], training["queue"], training["pool"]) == ("trainer", "gpu", "training")
    assert stack.tasks(run, "promote_version")[0]["state"] == "success"


def test_a_worker_that_is_killed_in_a_training_is_replaced_by_another_which_goes_on(stack: Stack) -> None:
    versions = len(stack.mlflow.search_model_versions("name='dermanet'"))
    run = stack.retrained(SMOKE)
    stack.airflow.wait_for("an epoch", lambda: any((stack.home / "training").glob("*/progress.json")))
    stack.airflow.kill("trainer")
    stack.airflow.worker("substitute", "gpu")
    assert stack.airflow.ended(stack.api, "retrain", run) == "success"
    (training,) = stack.tasks(run, "fit_network")
    assert training["hostname"] == "substitute" and training["try_number"] == 2
    found = stack.api.result("retrain", run, "fit_network")
    losses = [metric.step for metric in stack.mlflow.get_metric_history(found, "val_loss")]
    assert losses == list(range(1, EPOCHS + 1)), "every epoch once"
    assert len(stack.mlflow.search_model_versions("name='dermanet'")) == versions + 1


def test_two_trainings_take_turns_at_the_pool(stack: Stack) -> None:
    stack.airflow.worker("another", "gpu")
    runs = [str(run["dag_run_id"]) for run in stack.api.runs("retrain")]
    before = {run: stack.tasks(run, "fit_network")[0]["end_date"] for run in runs}
    for run in runs:
        stack.api.clear("retrain", run, "fit_network")

    def trained_again(run: str) -> bool:
        (task,) = stack.tasks(run, "fit_network")
        return task["state"] == "success" and task["end_date"] > before[run]

    stack.airflow.wait_for("both trainings", lambda: all(map(trained_again, runs)))
    spans = sorted((t["start_date"], t["end_date"]) for run in runs for t in stack.tasks(run, "fit_network"))
    assert len(spans) == 2 and spans[0][1] <= spans[1][0], (
        "two workers of the queue were free, and one slot of the pool"
    )
