"""Approval through a real Airflow: nobody answers, somebody says no, somebody says yes; and who is told of what goes wrong."""

import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import mlflow
import pytest
from installation import Installation
from postbox import Mailbox

from dermanet import settings, stages
from dermanet.embedded import services
from dermanet.embedded.airflow import DONE, Airflow
from dermanet.embedded.services import Ports, Services

GATES = "promotion: approval\nchecks:\n  age_mae: {greater_is_better: false, threshold: 100}\n"
SECONDS = 30
"""How long the question waits for an answer."""

READING = 3
"""Seconds that a person reads at least: a task that is answered before the scheduler knows that it waits asks anew."""


@pytest.fixture
def airflow(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mailbox: Mailbox) -> Iterator[Airflow]:
    """A real Airflow with an MLflow and a scorer, whose gates ask a person."""
    installation = Installation(tmp_path)
    installation.enter(monkeypatch)
    own = {
        "DERMANET_GATES": str(tmp_path / "approval.yaml"), "DERMANET_EXPERIMENT": "smoke:epochs=1",
        "DERMANET_APPROVAL_HOURS": str(SECONDS / 3600), "DERMANET_DEADLINE_HOURS": "0.003",
        "DERMANET_NOTIFY": f"json://127.0.0.1:{mailbox.server_port}/notices", "PATH": installation.environment()["PATH"],
    }  # fmt: skip
    (tmp_path / "approval.yaml").write_text(GATES)
    for name, value in own.items():
        monkeypatch.setenv(name, value)
    taken = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
    ports = Ports(*(one.getsockname()[1] for one in taken))
    for one in taken:
        one.close()
    running = Services(settings.read(), ports)
    monkeypatch.setenv("MLFLOW_TRACKING_URI", ports.address("mlflow"))
    try:
        running.set_up()
        running.start()
        found = Airflow(ports.address("airflow"), services.USER, services.password(running.environment))
        for dag in ("retrain", "promote"):
            running.wait_for(dag, lambda dag=dag: found.has(dag))  # type: ignore[misc]
        yield found
    finally:
        running.stop()


def _until(what: str, done: Callable[[], Any], seconds: float = 240) -> Any:
    until = time.monotonic() + seconds
    while not (found := done()):
        assert time.monotonic() < until, f"{what} did not happen within {seconds:.0f} s"
        time.sleep(0.5)
    return found


def _another_champion(folder: Path) -> None:
    """Version 2, the same network in a run of its own, made champion by hand; and gates that ask nobody any more."""
    client = mlflow.MlflowClient(os.environ["MLFLOW_TRACKING_URI"])
    first = client.get_model_version("dermanet", "1")
    other = client.create_run(client.get_run(first.run_id).info.experiment_id).info.run_id
    client.create_model_version("dermanet", first.source, other, model_id=first.source.removeprefix("models:/"))
    stages.promote("2", "ana", "the next one")
    (folder / "approval.yaml").write_text(GATES.replace("approval", "automatic"))


def test_nobody_answers_then_no_then_yes_and_people_are_told(
    airflow: Airflow, mailbox: Mailbox, tmp_path: Path
) -> None:
    stages.ingest("synthetic:lesions=40,seed=3")
    airflow.unpause("retrain")
    run = airflow.trigger("retrain", {"force": "the test says so"})

    def state(task: str) -> str | None:
        return next((one["state"] for one in airflow.tasks("retrain", run) if one["task_id"] == task), None)

    def ended() -> bool:
        return airflow.run("retrain", run)["state"] in DONE

    def asked() -> None:
        _until("the question", lambda: state("ask_for_approval") == "awaiting_input" or ended())
        assert state("ask_for_approval") == "awaiting_input", airflow.tasks("retrain", run)
        time.sleep(READING)

    def ask_again() -> None:
        airflow.clear("retrain", run, "ask_for_approval")
        asked()

    asked()
    question = airflow.question("retrain", run, "ask_for_approval")
    assert question["subject"] == "Shall version 1 of dermanet become champion?"
    assert "The verdict on version 1 is **pass**" in question["body"] and "evaluation.html" in question["body"]
    _until("the no of nobody", ended)
    assert state("kept_the_champion") == "success" and state("promote_version") == "skipped"
    assert stages.champion()["version"] is None

    ask_again()
    airflow.answer("retrain", run, "ask_for_approval", "Reject", because="two melanomas are missed")
    _until("the no", ended)
    assert state("kept_the_champion") == "success" and stages.champion()["version"] is None
    assert "approval, rejected by admin: two melanomas are missed" in airflow.result(
        "retrain", run, "kept_the_champion"
    )

    ask_again()
    airflow.answer("retrain", run, "ask_for_approval", "Approve", because="they were scars")
    _until("the yes", ended)
    assert airflow.run("retrain", run)["state"] == "success" and state("promote_version") == "success"
    assert stages.champion()["version"] == "1"

    decided = [(one["kind"], one["outcome"], one["who"], one["reasons"][0]) for one in stages.why("1")]
    answers = [one for one in decided if one[0] == "approval"]
    assert [one[1:3] for one in answers] == [("timed out", ""), ("rejected", "admin"), ("approved", "admin")]
    assert decided[-1] == ("promotion", "promoted", "admin", "they were scars")
    assert decided[0][:2] == ("retrain", "yes") and decided[0][2:] == ("admin", "the test says so")
    note = _until("the note", lambda: airflow.run("retrain", run)["note"])
    assert "approval: timed out" in note and note.endswith(
        "promotion: promoted. they were scars; there was no champion"
    )

    _another_champion(tmp_path)
    airflow.clear_whole("retrain", run)
    _until("the run again", lambda: not ended(), 60)
    _until("its end", ended)
    assert airflow.run("retrain", run)["state"] == state("kept_the_champion") == "success"
    assert state("ask_for_approval") == state("promote_version") == "skipped"
    assert stages.champion()["version"] == "2", "an old run brings nobody back"
    assert [one["outcome"] for one in stages.why("1") if one["kind"] in ("smoke test", "promotion")] == [
        "passed", "promoted", "not promoted",
    ]  # fmt: skip

    airflow.unpause("promote")
    wrong = airflow.trigger("promote", {"version": "99", "because": "a typing error"})
    _until("the failure", lambda: airflow.run("promote", wrong)["state"] in DONE)
    assert airflow.run("promote", wrong)["state"] == "failed"
    expected = {question["subject"], "DermaNet: a retrain is late", "DermaNet: promote failed"}
    _until("all notices", lambda: {one["title"] for one in mailbox.notices} >= expected, 60)
    assert {one["title"] for one in mailbox.notices} == expected
    assert os.environ["DERMANET_HOME"] not in json.dumps(mailbox.notices)
