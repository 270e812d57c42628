"""Promotion and rollback: by turns, whole or not at all, and every one with its reason; whoever else moves aliases."""

import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import mlflow
import pytest
import requests
from commands import Commands
from installation import Installation
from mlflow.exceptions import MlflowException

from dermanet import doctor, settings, stages
from dermanet.database import patience, turns
from dermanet.database.engine import open_database
from dermanet.errors import BadInput, DermaNetError, GateRefused
from dermanet.ledger.decisions import UNDER_WAY, Decision, Ledger
from dermanet.registry.versions import Versions
from dermanet.stages import smoke
from dermanet.stages.rooms import ledger_of, tracking_of
from dermanet.stages.verdicts import VERDICT

KILLS = 20
ATTEMPTS = 200


def _client() -> mlflow.MlflowClient:
    mlflow.set_tracking_uri(settings.read().tracking_uri)
    return mlflow.MlflowClient(settings.read().tracking_uri)


def _aliases() -> tuple[str | None, str | None]:
    """The versions that are `champion` and `previous`."""
    found = _client().get_registered_model("dermanet").aliases
    return tuple(None if found.get(name) is None else str(found[name]) for name in ("champion", "previous"))  # type: ignore[return-value]


def _more_versions(count: int) -> list[str]:
    """Versions 2 and on: the same model as the champion's, in runs of their own with the same verdict."""
    client, first = _client(), _client().get_model_version("dermanet", "1")
    made = []
    for _ in range(count):
        run = client.create_run(client.get_experiment_by_name("dermanet").experiment_id)
        verdict = json.loads(Path(client.download_artifacts(first.run_id, "verdict.json")).read_text())
        client.log_dict(run.info.run_id, {**verdict, "champion_version": "1"}, "verdict.json")
        evaluation = json.loads(Path(client.download_artifacts(first.run_id, "evaluation.json")).read_text())
        client.log_dict(run.info.run_id, evaluation, "evaluation.json")
        made.append(str(client.create_model_version("dermanet", first.source, run.info.run_id).version))
    return made


def _moves(name: str = "") -> list[tuple[str, str, str]]:
    moves = ("promotion", "rollback", "found")
    return [(one["kind"], one["outcome"], one["version"]) for one in stages.why(name, 1000) if one["kind"] in moves]


@pytest.fixture
def ledger(installation: Installation) -> Ledger:
    return ledger_of(settings.read())


def test_a_promotion_keeps_who_and_why_and_the_way_back(ledger: Ledger) -> None:
    _more_versions(2)
    assert stages.promote("2", "ana", "better on legs") == {"model": "dermanet", "champion": "2", "before": "1"}
    assert stages.promote("2") == {"model": "dermanet", "champion": "2", "before": "2"}, "twice changes nothing"
    assert _aliases() == ("2", "1")
    tags = _client().get_model_version("dermanet", "2").tags
    assert (tags["dermanet.approver"], tags["dermanet.approved_because"]) == ("ana", "better on legs")
    stages.promote("3", "ben", "better still")
    assert _aliases() == ("3", "2")
    for _ in range(2):
        assert stages.roll_back("cleo", "worse on faces")["champion"] == "2"
    assert _aliases() == ("2", "2")
    told = [(one["outcome"], one["version"], one["who"], one["reasons"][0]) for one in stages.why(limit=3)]
    assert told == [
        ("promoted", "2", "ana", "better on legs"),
        ("promoted", "3", "ben", "better still"),
        ("rolled back", "2", "cleo", "worse on faces"),
    ]


@pytest.mark.parametrize("name", ["02", "+2", " 2", "2 ", "2.0", "\u0662", "\u00b2", "0", "-1", ""])
def test_a_version_has_one_name(ledger: Ledger, name: str) -> None:
    _more_versions(1)
    stages.promote("2")
    for stage in (stages.promote, stages.promote_judged, stages.compile_dossier, stages.replay, stages.smoke_test):
        with pytest.raises(BadInput, match=r"dermanet has no version .*; there are \[1, 2\]"):
            stage(name)
    assert _aliases() == ("2", "1") and _moves()[-1] == ("promotion", "promoted", "2"), "the way back is still there"


def test_two_at_once_are_two_in_turn(installation: Installation, ledger: Ledger) -> None:
    made = _more_versions(6)
    with ThreadPoolExecutor(6) as threads:
        list(threads.map(stages.promote, made))
    champion, previous = _aliases()
    moved = [version for kind, outcome, version in _moves() if (kind, outcome) == ("promotion", "promoted")]
    assert sorted(moved) == ["1", *made] and moved[-1] == champion and moved[-2] == previous


@contextmanager
def _stopped_after(patch: pytest.MonkeyPatch, steps: int) -> Iterator[None]:
    """Lets so many aliases be moved; the next one finds MLflow gone."""
    move, left = Versions.move, [steps]

    def step(self: Versions, alias: str, version: str | None) -> None:
        if not left[0]:
            raise MlflowException("MLflow has gone")
        left[0] -= 1
        move(self, alias, version)

    with patch.context() as here:
        here.setattr(Versions, "move", step)
        yield


@pytest.mark.parametrize("steps", [0, 1])
def test_what_stopped_before_the_champion_moved_is_undone(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch, steps: int
) -> None:
    _more_versions(3)
    stages.promote("2")
    with _stopped_after(monkeypatch, steps), pytest.raises(MlflowException):
        stages.promote("3")
    last = ledger.last_move()
    assert last and last.outcome == UNDER_WAY and _aliases()[0] == "2", "the old champion serves meanwhile"
    assert stages.roll_back()["champion"] == "1", "the way back leads where it led before"
    assert [one for one in _moves() if one[0] == "promotion"][-1] == ("promotion", "undone", "3")
    assert stages.promote("3")["before"] == "1" and _aliases() == ("3", "1")


def test_what_stopped_after_the_champion_moved_is_done(ledger: Ledger, monkeypatch: pytest.MonkeyPatch) -> None:
    _more_versions(1)
    with monkeypatch.context() as patch:
        patch.setattr(Ledger, "finish", lambda *words: (_ for _ in ()).throw(DermaNetError("killed")))
        with pytest.raises(DermaNetError, match="killed"):
            stages.promote("2")
    assert _aliases() == ("2", "1")
    stages.promote("2")
    assert _moves()[-1] == ("promotion", "promoted", "2") and len([one for one in _moves() if one[2] == "2"]) == 1


def test_twenty_crashes_leave_one_champion(installation: Installation, commands: Commands, ledger: Ledger) -> None:
    _more_versions(3)
    environ = {**installation.environment(), "PYTHONPATH": str(Path(stages.__file__).parents[2])}
    for version in ("1", "2"):
        start = time.monotonic()
        assert commands.run(["promote", version], environ).returncode == 0
    takes, chance, crashed = time.monotonic() - start, random.Random(20261122), 0
    stages.promote("1")
    for attempt in range(ATTEMPTS):
        words = [["promote", "2"], ["promote", "3"], ["rollback"], ["promote", "4"]][attempt % 4]
        after = chance.uniform(0.3, 1.1) * takes
        done = commands.run(words, environ, after=after)
        crashed += done.returncode == -signal.SIGKILL
        # It takes no longer than that: measured first on a machine that was busy then, all would be done before they are killed.
        takes = takes if done.returncode else min(takes, after)
        assert done.returncode in (0, -signal.SIGKILL), done.stderr
        if crashed == KILLS:
            break
    assert crashed == KILLS
    before = _aliases()[0]
    stages.promote("1", because="after the crashes")
    champion, previous = _aliases()
    assert champion == "1" and previous == (before if before != "1" else previous)
    assert UNDER_WAY not in {outcome for _, outcome, _ in _moves()}
    last = ledger.last_move()
    assert last and last.version == "1"


def test_an_alias_moved_by_hand_is_noticed_and_respected(ledger: Ledger) -> None:
    _more_versions(2)
    _client().set_registered_model_alias("dermanet", "champion", "3")
    assert stages.promote("2")["before"] == "3" and _aliases() == ("2", "3")
    assert _moves()[-2:] == [("found", "moved", "3"), ("promotion", "promoted", "2")]
    _client().delete_registered_model_alias("dermanet", "champion")
    assert stages.roll_back()["champion"] == "3"
    assert _moves()[-2:] == [("found", "moved", ""), ("rollback", "rolled back", "3")]


def test_a_version_deleted_by_hand_is_no_champion_and_no_way_back(
    ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    _more_versions(3)
    stages.promote("2")
    stages.promote("3")
    _client().delete_model_version("dermanet", "2")
    with pytest.raises(BadInput, match=r"no version '2'; there are \[1, 3, 4\]"):
        stages.promote("2")
    with pytest.raises(BadInput, match="no previous champion to go back to; `dermanet promote VERSION` takes any"):
        stages.roll_back()
    _client().delete_model_version("dermanet", "3")
    assert stages.champion()["version"] is None
    assert stages.promote("4") == {"model": "dermanet", "champion": "4", "before": None}
    with _stopped_after(monkeypatch, 1), pytest.raises(MlflowException):
        stages.promote("1")
    assert _aliases() == ("4", "4")
    assert stages.promote("1")["before"] == "4", "what is undone does not need the version that was there"


def test_a_version_whose_files_are_gone_does_not_become_champion(ledger: Ledger) -> None:
    _more_versions(1)
    stages.promote("2")
    before, gone = (
        _moves(),
        r"the files of models:/dermanet/\d are not there \(card.json\); put them back from a backup",
    )
    model = _client().get_logged_model(_client().get_model_version("dermanet", "1").source.removeprefix("models:/"))
    files = Path(model.artifact_location.removeprefix("file://"))
    files.rename(files.with_name("elsewhere"))
    for move in (partial(stages.promote, "1"), stages.roll_back):
        with pytest.raises(BadInput, match=gone):
            move()
    assert _aliases() == ("2", "1") and _moves() == before
    with pytest.raises(BadInput, match=r"the files of models:/m-.* are not there \(artifacts\)"):
        stages.evaluate(str(_client().get_model_version("dermanet", "1").run_id))
    files.with_name("elsewhere").rename(files)
    assert stages.roll_back()["champion"] == "1"


def test_a_retrain_beside_a_champion_without_files_ends_before_it_trains(ledger: Ledger) -> None:
    run_id = _client().get_model_version("dermanet", "1").run_id
    bare = _client().create_model_version("dermanet", "file:///nowhere", run_id)
    _client().set_registered_model_alias("dermanet", "champion", bare.version)
    before = ledger.latest(99)
    said = rf"with the champion, version {bare.version}: the files of .* are not there .* \(dermanet promote\)"
    for begin in (partial(stages.decide, "smoke"), partial(stages.retrain, [], "smoke")):
        with pytest.raises(BadInput, match=said):
            begin()
    assert ledger.latest(99) == before
    (ill,) = [one for one in doctor.examine(os.environ)["findings"] if not one["ok"]]
    assert ill["what"] == "MLflow" and re.search(said, ill["detail"])


def test_a_verdict_beside_another_champion_promotes_nobody(ledger: Ledger) -> None:
    _more_versions(2)
    stages.promote("3")
    run = _client().get_model_version("dermanet", "2").run_id
    way = stages.way_of(run, "2")
    assert way["way"] == "keep"
    assert (
        way["because"]
        == f"version 2 was compared with version 1, and version 3 is champion now; evaluate and judge run {run} again"
    )
    with pytest.raises(GateRefused, match="version 3 is champion now"):
        stages.promote_judged("2")
    assert _aliases() == ("3", "1")
    stages.promote_judged("3")
    assert stages.why(run)[-1]["outcome"] == "not promoted"


def test_what_a_person_rolled_back_only_a_person_brings_back(ledger: Ledger) -> None:
    _more_versions(1)
    stages.promote_judged("2")
    stages.roll_back("ana", "misses melanomas")
    run = _client().get_model_version("dermanet", "2").run_id
    assert stages.way_of(run, "2")["way"] == "keep"
    with pytest.raises(GateRefused, match=r"rolled back by ana \(misses melanomas\); only a person brings it back"):
        stages.promote_judged("2")
    assert stages.promote_judged("2", {"approved": True, "who": "ben", "because": "they were scars"})["before"] == "1"
    assert stages.way_of(run, "2")["way"] == "promote"


def test_an_old_run_that_is_cleared_does_not_bring_its_version_back(ledger: Ledger) -> None:
    _more_versions(2)
    stages.promote_judged("2")
    stages.promote("3", "ana", "better on legs")
    run = _client().get_model_version("dermanet", "2").run_id
    verdict = json.loads(Path(_client().download_artifacts(run, "verdict.json")).read_text())
    # As it is judged again, beside the champion that there is now.
    _client().log_dict(run, {**verdict, "champion_version": "3"}, "verdict.json")
    way = stages.way_of(run, "2")
    assert way["way"] == "keep" and way["because"].startswith("version 2 was champion already, from ")
    with pytest.raises(GateRefused, match="only a person brings it back: dermanet promote 2"):
        stages.promote_judged("2")
    assert _aliases() == ("3", "2")
    assert stages.promote_judged("2", {"approved": True, "who": "ben", "because": "better on faces"})["before"] == "3"


def test_who_is_asked_sees_the_verdict_and_silence_is_a_no(
    installation: Installation, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    _more_versions(1)
    run = _client().get_model_version("dermanet", "2").run_id
    gates = installation.root / "asks.yaml"
    gates.write_text("promotion: approval\n" + Path(os.environ["DERMANET_GATES"]).read_text())
    monkeypatch.setenv("DERMANET_GATES", str(gates))
    way = stages.way_of(run, "2")
    assert way["way"] == "ask" and way["subject"] == "Shall version 2 of dermanet become champion?"
    assert (
        "| age_mae |" in way["body"] and "| diagnosis_recall_mel |" in way["body"] and "72 hours is a no" in way["body"]
    )
    for answer in (
        {
            "chosen_options": ["Reject"],
            "params_input": {"because": " no "},
            "responded_by_user": {"id": "7", "name": "ana"},
        },
        {"chosen_options": ["Reject"], "params_input": {}, "responded_by_user": None},
        {"chosen_options": ["Approve"], "params_input": {}, "responded_by_user": None},
        {},
    ):
        assert stages.answered(run, "2", answer)["approved"] is False
    no = stages.answered(run, "2", {"chosen_options": ["Reject"], "responded_by_user": {"name": "ana"}})
    verdict = {"verdict": "pass", "told": [], "registers": True, "mode": "enforce"}
    assert stages.keep_champion(run, verdict) == ["approval, rejected by ana: no reason given"]
    with pytest.raises(GateRefused, match="version 2 does not become champion: no reason given"):
        stages.promote_judged("2", no)
    with pytest.raises(GateRefused, match="nobody was asked"):
        stages.promote_judged("2")
    assert stages.promote_judged("1")["before"] == "1", "who is champion already stays it"
    yes = stages.answered(run, "2", {"chosen_options": ["Approve"], "responded_by_user": {"id": "7", "name": ""}})
    assert yes == {"approved": True, "who": "7", "because": "no reason given"}
    assert [one["outcome"] for one in stages.why(run)] == ["rejected", "timed out", "rejected", "approved"]
    assert stages.promote_judged("2", yes)["champion"] == "2"


def test_a_turn_is_one_process_s_and_ends_with_it(
    new_database: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    url = new_database()
    script = (
        "import sys, time; from dermanet.ledger.decisions import Ledger\n"
        "with Ledger(sys.argv[1]).moving():\n    print('mine', flush=True); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", script, url], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout and other.stdout.readline() == "mine\n"
        monkeypatch.setattr(turns, "WAIT", 0.3)
        with pytest.raises(DermaNetError, match="another process has been at the aliases"), Ledger(url).moving():
            pass
        with turns.turn(open_database(url), "something else"):
            pass
        other.kill()
        monkeypatch.setattr(turns, "WAIT", 30)
        with Ledger(url).moving():
            pass


def test_a_holdout_wears_by_verdicts_of_other_runs_and_by_the_lesions_in_it(new_database: Callable[[], str]) -> None:
    url = new_database()
    ledger = Ledger(url)
    with ledger.engine.begin() as connection:
        from dermanet.database.schema import SIDES

        rows = [{"lesion_id": f"L{n}", "side": "holdout", "because": ""} for n in range(10)]
        connection.execute(SIDES.insert(), rows)
    old, grown = [f"L{n}" for n in range(8)], [f"L{n}" for n in range(10)]

    def verdict(run: str, outcome: str = "pass", holdout: str = "h1", wore: bool = True) -> None:
        ledger.record(
            Decision("verdict", outcome, ("so",), run, holdout=holdout, wore=wore), old if holdout == "h1" else grown
        )

    for run in ("r1", "r1", "r2"):
        verdict(run)
    verdict("r1", "fail")
    verdict("r3", wore=False)
    assert (ledger.wear(old, "h1", "r9"), ledger.uses("h1", "r9")) == (2, 2), (
        "a run counts once, one that decides nothing never"
    )
    assert (ledger.wear(old, "h1", "r1"), ledger.uses("h1", "r1")) == (1, 1), (
        "a run's own verdict does not wear for itself"
    )
    assert ledger.wear(grown, "h2", "r9") == pytest.approx(1.6), "a few new lesions make it only a little fresher"
    verdict("r4", holdout="h2")
    assert ledger.wear(old) == 3 and ledger.wear(["L9"]) == 1 and ledger.wear([]) == 0
    assert len(ledger.about("r1")) == 2, "the same again is no decision, another outcome is"


def test_a_decision_whose_answer_was_lost_is_there_once(
    new_database: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    ledger = Ledger(new_database())
    write = patience.write
    # As `patience` does it after PostgreSQL was restarted between a commit and its answer.
    monkeypatch.setattr(patience, "write", lambda engine, work: (write(engine, work), write(engine, work))[1])
    move = Decision("promotion", "", ("so",), "r1", "2", before={"champion": "1", "previous": ""})
    begun = ledger.begin(move)
    ledger.finish(begun, "promoted")
    ledger.begin(move)
    assert [(one.number, one.outcome) for one in ledger.latest(9)] == [(1, "promoted"), (2, UNDER_WAY)]


def test_a_smoke_test_tells_a_good_version_from_a_broken_one(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", installation.environment()["PATH"])
    _more_versions(1)
    for name in ("http_proxy", "HTTP_PROXY"):
        monkeypatch.setenv(name, "http://127.0.0.1:9")
    for name in ("DERMANET_TOKENS", "DERMANET_METRICS_TOKEN"):
        monkeypatch.setenv(name, "t" * 16)
    assert stages.smoke_test("2") == {"version": "2", "smoke_test": "passed", "tried": True}, "no proxy is asked"
    assert stages.smoke_test("2")["tried"] is False
    assert _client().get_model_version("dermanet", "2").tags["dermanet.smoke_test"] == "passed"
    with monkeypatch.context() as patch:
        _client().delete_model_version_tag("dermanet", "2", "dermanet.smoke_test")
        patch.setattr(smoke, "_asked", _swapped(smoke._asked))
        with pytest.raises(GateRefused, match="does not answer as it did in training: golden images: sex"):
            stages.smoke_test("2")
    assert [one["outcome"] for one in stages.why("2") if one["kind"] == "smoke test"] == ["passed", "failed"]


def _swapped(asked: Callable[..., list[dict[str, Any]]]) -> Callable[..., list[dict[str, Any]]]:
    """A server whose list of sexes is in another order."""

    def ask(*words: Any) -> list[dict[str, Any]]:
        rows = asked(*words)
        for row in rows:
            odds = row["sex_probabilities"]
            odds["male"], odds["female"], odds["unknown"] = odds["female"], odds["unknown"], odds["male"]
            row["sex"] = max(odds, key=odds.get)
        return rows

    return ask


def test_mlflow_may_go_away_in_the_middle(
    installation: Installation, ledger: Ledger, monkeypatch: pytest.MonkeyPatch
) -> None:
    _more_versions(2)
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    address = f"http://127.0.0.1:{port}"

    @contextmanager
    def server() -> Iterator["subprocess.Popen[bytes]"]:
        words = [
            "server",
            "--host",
            "127.0.0.1",
            "--port",
            str(port),
            "--backend-store-uri",
            installation.tracking_uri,
            "--workers",
            "1",
        ]
        log = (installation.root / "mlflow.log").open("ab")
        own = {**installation.environment(), "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false"}
        with (
            log,
            subprocess.Popen(
                [sys.executable, "-m", "mlflow", *words], env=own, stdout=log, stderr=log, start_new_session=True
            ) as up,
        ):
            try:
                until = time.monotonic() + 90
                while not _up(address):
                    assert up.poll() is None and time.monotonic() < until
                    time.sleep(0.2)
                yield up
            finally:
                os.killpg(up.pid, signal.SIGKILL)

    monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
    monkeypatch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
    with server() as up:
        move = Versions.move

        def goes_away(self: Versions, alias: str, version: str | None) -> None:
            move(self, alias, version)
            os.killpg(up.pid, signal.SIGKILL)

        tracking, run = tracking_of(settings.read()), stages.champion()["run_id"]
        with monkeypatch.context() as patch, pytest.raises(MlflowException):
            patch.setattr(Versions, "move", goes_away)
            stages.promote("2")
    for asked in (tracking.run, partial(tracking.read_text, name=VERDICT), partial(tracking.read_json, name=VERDICT)):
        # BadInput would say that the run is not there, and Airflow would not try again.
        with pytest.raises(MlflowException):
            asked(run)
    with server():
        assert stages.champion()["version"] == "1"
        assert stages.promote("2")["before"] == "1" and _aliases() == ("2", "1")
    assert _moves()[-2:] == [("promotion", "undone", "2"), ("promotion", "promoted", "2")]


def _up(address: str) -> bool:
    try:
        return requests.get(f"{address}/health", timeout=2).ok
    except requests.RequestException:
        return False
