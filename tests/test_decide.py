"""Whether to retrain: what is new since the last verdict, or who says so; which code did it; and who is told."""

import json
import logging
import shutil
import subprocess
from pathlib import Path

import pytest
from installation import Installation
from mlflow.store.tracking.sqlalchemy_store import SqlAlchemyStore
from postbox import Mailbox

from dermanet import revision, settings, stages
from dermanet.errors import BadInput, DermaNetError
from dermanet.intake import snapshots
from dermanet.stages.rooms import snapshot_place, tracking_of


def test_a_retrain_wants_something_new_or_somebody_s_word(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    def decided(experiment: str = "smoke", force: str = "") -> tuple[bool, str]:
        found = stages.decide(experiment, force, "ana")
        return found["retrain"], found["reasons"][0]

    judged = next(one["snapshot"] for one in stages.why() if one["kind"] == "verdict")
    assert decided() == (
        False,
        "0 images are new and 0 labelled anew since the last verdict, 0 are gone; fewer than 1 (DERMANET_MINIMUM_NEW)",
    )
    assert decided(force="a new camera") == (True, "a new camera")
    stages.decide("smoke", drift="novelty in 3 of 4 weeks")
    asked = stages.why("", 1)[0]
    assert (asked["outcome"], asked["who"], asked["reasons"][0]) == (
        "yes",
        "",
        "drift asks for it: novelty in 3 of 4 weeks",
    )
    assert decided("smoke:seed=99")[0] is True and decided("smoke:seed=99")[1].endswith("the experiment is another")
    stages.ingest("synthetic:lesions=70,seed=3")
    retrain, reason = decided()
    assert (
        retrain and reason.endswith("at least 1 (DERMANET_MINIMUM_NEW)") and not reason.startswith("0 images are new")
    )
    monkeypatch.setenv("DERMANET_MINIMUM_NEW", "1000")
    assert decided()[0] is False
    frozen = snapshots.read(judged, snapshot_place(settings.read()))
    stages.forget(frozen.train[0].labels.lesion_id)
    retrain, reason = decided()
    assert retrain and "what is forgotten must not be remembered" in reason
    told = [(one["outcome"], one["who"]) for one in stages.why(limit=100) if one["kind"] == "retrain"]
    assert ("yes", "ana") in told and ("no", "") in told


def test_a_verdict_whose_run_is_gone_from_mlflow_does_not_end_retraining(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_id = next(one["run_id"] for one in stages.why() if one["kind"] == "verdict")
    with monkeypatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", "http://127.0.0.1:1")
        with pytest.raises(DermaNetError, match=r"MLflow's server at 127\.0\.0\.1:1 does not answer"):
            stages.decide("smoke")
    tracking = tracking_of(settings.read())
    tracking.client.delete_run(run_id)
    assert stages.decide("smoke")["retrain"] is False, "deleted, but not for good"
    SqlAlchemyStore(tracking.uri, str(installation.home))._hard_delete_run(run_id)
    gone = f"run {run_id}, on which the last verdict was given, is not in MLflow any more"
    assert stages.decide("smoke") == {"retrain": True, "reasons": [gone]}
    assert stages.decide("smoke", "a new camera", "ana", "novelty")["reasons"][-1] == gone


def test_the_first_retrain_needs_no_reason(home: Path) -> None:
    assert stages.decide("smoke") == {"retrain": True, "reasons": ["no model has been judged yet"]}
    with pytest.raises(BadInput, match="nothing was decided about 'x'"):
        stages.why("x")


def test_wrong_gates_are_refused_before_anything_is_trained(
    home: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    gates = tmp_path / "gates.yaml"
    gates.write_text("checks:\n  sex_acc: {greater_is_better: true, threshold: 0.5}\n")
    monkeypatch.setenv("DERMANET_GATES", str(gates))
    with pytest.raises(BadInput, match="line 2: sex_acc is no metric"):
        stages.decide("smoke")


def test_the_code_names_its_revision(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    package = tmp_path / "checkout" / "dermanet"
    package.mkdir(parents=True)
    shutil.copy(revision.__file__, package)
    monkeypatch.setattr(revision, "PACKAGE", package)
    assert revision.revision("built-7") == "built-7", "no checkout"

    def git(*words: str) -> str:
        own = ["-c", "user.name=t", "-c", "user.email=t@example.org"]
        return subprocess.run(
            ["git", *own, *words], cwd=package, check=True, capture_output=True, text=True
        ).stdout.strip()

    git("init", "-q", "..")
    (package / "other.txt").write_text("x")
    git("add", "other.txt")
    git("commit", "-qm", "another's")
    assert revision.revision("built-7") == "built-7", "another project's checkout around it"
    git("add", "revision.py")
    git("commit", "-qm", "ours")
    assert revision.revision() == git("rev-parse", "HEAD")[:12]
    (package / "revision.py").write_text("changed")
    assert revision.revision() == git("rev-parse", "HEAD")[:12] + "+changes"


def test_notices_reach_their_addresses_and_never_break_anything(
    home: Path, monkeypatch: pytest.MonkeyPatch, mailbox: Mailbox, caplog: pytest.LogCaptureFixture
) -> None:
    assert stages.notify("a", "b") is False, "nobody is to be told"
    right = f"json://127.0.0.1:{mailbox.server_port}/x"
    monkeypatch.setenv("DERMANET_NOTIFY", right)
    assert stages.notify("subject", "text") is True
    assert (mailbox.notices[0]["title"], mailbox.notices[0]["message"]) == ("subject", "text")
    stages.failed({})
    assert (
        mailbox.notices[1]["title"] == "DermaNet: a DAG failed"
        and "champion goes on serving" in mailbox.notices[1]["message"]
    )
    stages.late()
    assert "has not ended within 24 hours" in mailbox.notices[2]["message"]
    monkeypatch.setenv("DERMANET_NOTIFY", f"nonsense://user:secret@host {right} json://127.0.0.1:1/closed")
    with caplog.at_level(logging.WARNING, "dermanet.notices"):
        assert stages.notify("again", "text") is False
    assert len(mailbox.notices) == 4, "the others are told all the same"
    assert "address 1 is none that Apprise knows" in caplog.text and "secret" not in caplog.text


@pytest.mark.parametrize("text", ["0", "-3", "soon", "nan", "inf", "1e9"])
@pytest.mark.parametrize("name", ["approval_hours", "deadline_hours"])
def test_hours_that_are_none_are_refused(name: str, text: str) -> None:
    variable = f"DERMANET_{name.upper()}"
    with pytest.raises(BadInput, match=f"{variable}='.*'; needed are hours"):
        settings.read({variable: text})
    assert getattr(settings.read({variable: "0.5"}), name) == 0.5


def test_the_dag_run_is_read_from_airflow_s_own_variables() -> None:
    both = {"AIRFLOW_CTX_DAG_ID": "retrain", "AIRFLOW_CTX_DAG_RUN_ID": "manual__1"}
    assert settings.read(both).dag_run == "retrain/manual__1" and settings.read({}).dag_run == ""
    assert (
        json.dumps(settings.read({"DERMANET_NOTIFY": " json://a  mailto://b "}).notify) == '["json://a", "mailto://b"]'
    )
