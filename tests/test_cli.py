"""The command line as people meet it: processes, their exit statuses and what they print."""

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest
import samples
from commands import Commands
from installation import Installation, photo
from typer.testing import CliRunner

from dermanet import __version__, cli, doctor, stages

COMMANDS = (
    "ingest", "snapshot", "validate", "prepare", "train", "evaluate", "judge", "register", "retrain",
    "promote", "rollback", "predict", "export", "serve", "run", "cache", "doctor", "version", "quarantine", "forget",
    "objects", "groups", "search", "trials", "extract",
)  # fmt: skip

Command = Callable[..., subprocess.CompletedProcess[str]]


def _dermanet(commands: Commands, installation: Installation, gates: str = "open") -> Command:
    return lambda *words: commands.run(words, installation.environment(gates), installation.root)


@pytest.fixture
def dermanet(commands: Commands, installation: Installation) -> Command:
    return _dermanet(commands, installation)


@pytest.fixture
def empty(commands: Commands, tmp_path: Path) -> Command:
    return _dermanet(commands, Installation(tmp_path))


def test_it_starts_as_a_module_of_its_own(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "dermanet", "version"]
    done = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout.strip()) == (0, __version__)


def test_every_command_is_listed_and_explains_itself(empty: Command) -> None:
    listed = empty("--help").stdout
    for name in COMMANDS:
        assert name in listed
        done = CliRunner().invoke(cli.app, [name, "--help"])
        assert (done.exit_code, "Usage" in done.stdout) == (0, True)


def test_the_same_stages_by_hand(empty: Command, tmp_path: Path) -> None:
    counts = json.loads(empty("ingest", "synthetic:lesions=40,seed=3", "--json").stdout)
    assert counts["accepted"] > 40
    assert counts["quarantined"] == {}
    snapshot = json.loads(empty("snapshot", "--json").stdout)["snapshot"]
    prepared = json.loads(empty("prepare", snapshot, "-e", "smoke", "--json").stdout)
    assert (prepared["snapshot"], prepared["computed"], prepared["reused"]) == (snapshot, counts["accepted"], 0)
    assert set(prepared) == {"snapshot", "images", "computed", "reused", "damaged", "seconds"}
    (held,) = json.loads(empty("cache", "--json").stdout)["recipes"]
    assert (held["recipe"], held["images"]) == ("dermanet@32", counts["accepted"])
    assert json.loads(empty("cache", "--check", "--json").stdout) == {"damaged": []}
    assert "0 shards" in empty("cache", "--prune").stderr and "would go" in empty("cache", "--prune", "--all").stderr
    run = json.loads(empty("train", snapshot, "-e", "smoke:epochs=1", "--json").stdout)["run_id"]
    assert json.loads(empty("evaluate", run, "--json").stdout)["candidate"]["age_mae"] > 0
    assert empty("judge", run).returncode == 0
    version = json.loads(empty("register", run, "--json").stdout)["version"]
    assert json.loads(empty("promote", version, "--json").stdout) == {
        "model": "dermanet",
        "champion": "1",
        "before": None,
    }


def test_a_refused_record_is_listed_shown_released_and_dropped(empty: Command, tmp_path: Path) -> None:
    folder = samples.ham10000(tmp_path / "in", rows={1: {"sex": "M"}, 2: {"age": "400"}})
    assert json.loads(empty("ingest", str(folder), "--json").stdout)["accepted"] == 4
    listed = json.loads(empty("quarantine", "list", "--json").stdout)
    assert listed["count"] == 2
    by_reason = {record["reason"]: record["id"] for record in listed["records"]}
    shown = json.loads(empty("quarantine", "show", by_reason["unknown sex"], "--json").stdout)
    assert (shown["name"], shown["row"]["sex"]) == ("ISIC_0000001", "M")
    assert (tmp_path / "home/objects" / shown["file"]).read_bytes() == samples.jpeg(1)
    refused = empty("quarantine", "release", by_reason["unknown sex"], "--set", "sex")
    assert (refused.returncode, len(refused.stderr.strip().splitlines())) == (2, 1)
    released = empty("quarantine", "release", by_reason["unknown sex"], "--set", "sex=male", "--json")
    assert json.loads(released.stdout)["sex"] == "male"
    assert json.loads(empty("quarantine", "drop", by_reason["impossible age"], "--json").stdout)["dropped"] is True
    assert json.loads(empty("quarantine", "list", "--json").stdout) == {"count": 0, "records": []}
    again = json.loads(empty("ingest", str(folder), "--json").stdout)
    assert (again["known"], again["quarantined"]) == (5, {"impossible age": 1})
    samples.ham10000(folder, files={"ISIC_0000004.jpg": b"no image", "ISIC_0000005.jpg": b"no image either"})
    empty("ingest", str(folder))
    assert "which has it no more" not in empty("quarantine", "list").stdout
    samples.ham10000(folder, 4)
    for broken in folder.rglob("ISIC_000000[45].jpg"):
        broken.unlink()
    empty("ingest", str(folder))
    assert empty("quarantine", "list").stdout.count("which has it no more)") == 2
    for words in ((), ("--withdrawn", by_reason["impossible age"])):
        refused = empty("quarantine", "drop", *words)
        assert (refused.returncode, len(refused.stderr.strip().splitlines())) == (2, 1)
    assert json.loads(empty("quarantine", "drop", "--withdrawn", "--json").stdout) == {"dropped": 2}
    assert json.loads(empty("quarantine", "list", "--json").stdout)["count"] == 0


def test_retrain_says_what_came_out_and_ends_with_3_when_the_gate_says_no(
    commands: Commands, installation: Installation
) -> None:
    shut = _dermanet(commands, installation, "shut")
    done = shut("retrain", "-e", "smoke:epochs=1,seed=4", "--json")
    record = json.loads(done.stdout)
    assert done.returncode == 3
    assert (record["verdict"], record["version"]) == ("fail", None)
    assert {"run_id", "snapshot", "verdict", "version", "metrics"} <= set(record)
    assert {"age_mae", "sex_accuracy", "diagnosis_f1_macro"} <= set(record["metrics"])
    registered = shut("register", record["run_id"])
    assert (registered.returncode, "age_mae" in registered.stderr) == (3, True)


def test_predict_answers_each_image_and_ends_with_2_for_a_bad_one(dermanet: Command, tmp_path: Path) -> None:
    good = str(photo(tmp_path))
    (tmp_path / "bad.png").write_text("no image")
    done = dermanet("predict", good, "--json")
    (row,) = json.loads(done.stdout)
    assert done.returncode == 0
    assert set(row) > {"image", "age", "sex", "diagnosis", "sex_probabilities", "diagnosis_probabilities"}
    assert "error" not in row
    mixed = dermanet("predict", good, str(tmp_path / "bad.png"))
    assert (mixed.returncode, len(mixed.stdout.splitlines())) == (2, 2)
    assert "not an image" in mixed.stdout


@pytest.mark.parametrize(
    ("words", "seen"),
    [
        (["ingest", "/no/such/folder"], "no folder"),
        (["ingest", "synthetic:lesions=many"], "lesions"),
        (["prepare", "0000"], "no snapshot '0000'"),
        (["retrain", "-e", "grand"], "experiment 'grand'"),
        (["snapshot"], "ingest some first"),
        (["predict", "x.jpg"], "champion"),
        (["validate", "0000"], "no snapshot '0000'"),
        (["judge", "nothing"], "no run 'nothing'"),
        (["cache", "--all"], "go with --prune"),
        (["rollback"], "no previous champion"),
        (["promote", "7"], "no version '7'"),
        (["serve", "--version", "7", "--port", "1"], "no version '7'"),
        (["nonsense"], "nonsense"),
    ],
)
def test_wrong_use_is_one_clear_line_and_status_2(empty: Command, words: list[str], seen: str) -> None:
    done = empty(*words)
    assert done.returncode == 2, done.stderr
    assert seen in done.stderr
    assert "Traceback" not in done.stderr
    if words != ["nonsense"]:  # The parser of the words draws a box of its own.
        assert len(done.stderr.strip().splitlines()) == 1, done.stderr


def test_doctor_names_what_is_missing(commands: Commands, dermanet: Command, installation: Installation) -> None:
    well = dermanet("doctor", "--json")
    assert (well.returncode, json.loads(well.stdout)["ok"]) == (0, True)
    (installation.root / "open.yaml").write_text("checks: 7\n")
    wrong = {
        "DERMANET_GATES": str(installation.root / "absent.yaml"),
        "DERMANET_GATE": "x",
        "DERMANET_EXPERIMENT": "grand",
    }
    own = {**installation.environment(), **wrong}
    ill = commands.run(["doctor"], own)
    assert ill.returncode == 1
    missing = [line for line in ill.stdout.splitlines() if line.startswith("MISSING")]
    assert [line.split()[1].rstrip(":") for line in missing] == ["settings", "experiment", "gates"]


def test_who_asks_an_mlflow_that_is_away_is_told_within_seconds(commands: Commands, tmp_path: Path) -> None:
    away = {**Installation(tmp_path).environment(), "MLFLOW_TRACKING_URI": "http://127.0.0.1:1"}
    line = "MLflow's server at 127.0.0.1:1 does not answer (ConnectionError); start it, or see MLFLOW_TRACKING_URI"
    start = time.monotonic()
    for words in (["judge", "a-run"], ["promote", "1"], ["rollback"], ["export", "1", "model.onnx"]):
        done = commands.run(words, away, tmp_path)
        assert (done.returncode, done.stderr.strip()) == (1, f"dermanet: {line}")
    told = commands.run(["doctor"], away, tmp_path)
    assert told.returncode == 1 and f"MISSING MLflow: DermaNetError: {line}" in told.stdout.splitlines()
    assert time.monotonic() - start < 60, "MLflow's own client would try for four minutes, each time"


def test_doctor_tells_what_it_finds_as_it_finds_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stages, "champion", lambda environ: pytest.fail("nobody has come so far"))
    found = doctor.findings({"DERMANET_HOME": str(tmp_path)})
    assert [next(found)["what"] for _ in range(2)] == ["settings", "home"]
