"""Upkeep: what somebody needs stays, whatever stands on what; what nobody needs goes, once, and only as it was listed."""

import fcntl
import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import mlflow
import pytest
import sqlalchemy as sa
from commands import Commands
from hypothesis import given
from installation import Installation, photo

from dermanet import experiment, settings, stages
from dermanet.database.engine import open_database
from dermanet.errors import BadInput, DermaNetError
from dermanet.monitoring.predictions import PREDICTIONS
from dermanet.registry.leavings import Registered, SeenModel, SeenRun
from dermanet.registry.shelf import Shelf
from dermanet.searching.space import chosen
from dermanet.searching.study import Plan
from dermanet.stages import needs, taskhistory
from dermanet.stages.needs import needs as needed
from dermanet.stages.rooms import ledger_of, removing, studies_of

YEAR = 365 * 86400
TINY = "smoke:epochs=1,patience=1,seed={}"

ids = st.integers(0, 5).map("r{}".format)
models = st.integers(0, 5).map("m{}".format)
snapshots = st.integers(0, 5).map("s{}".format)
moments = st.sampled_from([0.0, 100.0, 200.0])
installations = st.builds(
    needs.Installation,
    st.lists(st.builds(Registered, ids, models | st.just(""), snapshots | st.just("")), max_size=4),
    st.lists(
        st.builds(
            SeenRun, ids, st.sampled_from(["", "w0", "w1"]), snapshots, ids | st.just(""), moments, st.just("")
        ),
        max_size=6, unique_by=lambda run: run.run_id,
    ),
    st.lists(st.builds(SeenModel, models, ids, moments, st.just("")), max_size=6, unique_by=lambda model: model.model_id),
    st.sets(ids, max_size=3), st.sets(snapshots, max_size=2), st.sets(st.sampled_from(["w0", "w1"])),
    st.sets(snapshots, max_size=2), st.dictionaries(snapshots, moments),
)  # fmt: skip


@given(installations, st.sampled_from([50.0, 150.0, 250.0]))
def test_nothing_is_unneeded_that_something_names(found: needs.Installation, before: float) -> None:
    kept = needed(found, before)
    runs, logged = {run.run_id: run for run in found.runs}, {model.model_id: model for model in found.models}
    for version in found.versions:
        assert version.run_id in kept.runs and version.model_id in kept.models and version.snapshot in kept.snapshots
    assert {*found.decided} <= kept.runs and {*found.compared, *found.studied} <= kept.snapshots
    for run in runs.values():
        if run.last >= before or (run.work and run.work in found.works):
            assert run.run_id in kept.runs and run.snapshot in kept.snapshots
            assert {one.model_id for one in logged.values() if one.run_id == run.run_id} <= kept.models
        if run.run_id in kept.runs and run.parent in runs:
            assert run.parent in kept.runs
    for model in logged.values():
        assert model.last < before or model.model_id in kept.models
        assert model.model_id not in kept.models or model.run_id in kept.runs, "a model stays with its run"
    assert all(last < before or name in kept.snapshots for name, last in found.snapshots.items())


@given(installations)
def test_what_nothing_names_and_nobody_used_goes(found: needs.Installation) -> None:
    kept = needed(replace(found, works=()), 300.0)
    assert kept.models == {version.model_id for version in found.versions}
    assert kept.snapshots == {version.snapshot for version in found.versions} | {*found.compared, *found.studied}
    models = {model.run_id for model in found.models if model.model_id in kept.models}
    assert kept.runs >= models and kept.runs - {run.parent for run in found.runs} <= models | {
        *found.decided, *(version.run_id for version in found.versions)
    }  # fmt: skip


@pytest.fixture
def later(monkeypatch: pytest.MonkeyPatch) -> None:
    """Upkeep looks at everything a year from now."""
    monkeypatch.setattr(sys.modules["dermanet.stages.upkeep"], "now", lambda: time.time() + YEAR)


def client() -> mlflow.MlflowClient:
    mlflow.set_tracking_uri(settings.read().tracking_uri)
    return mlflow.MlflowClient(settings.read().tracking_uri)


def names(record: dict[str, Any], kind: str) -> list[str]:
    return [one["name"] for one in record["leaving"] if one["kind"] == kind]


def tree(folder: Path) -> dict[str, tuple[int, float]]:
    """Every file and when it was changed."""
    files = [
        path for path in folder.rglob("*") if path.is_file() and not path.name.endswith(("-journal", ".lock", "door"))
    ]
    return {path.relative_to(folder).as_posix(): (path.stat().st_size, path.stat().st_mtime) for path in files}


def clutter(installation: Installation) -> dict[str, str]:
    """One of each kind of things that nobody needs; what it is called."""
    home, here = installation.home, settings.read()
    run = stages.train(stages.snapshot()["snapshot"], TINY.format(5))["run_id"]
    model = client().get_run(run).data.tags["dermanet.model"].removeprefix("models:/")
    killed = home / "training" / ("f" * 24)
    killed.mkdir(parents=True)
    (killed / "progress.json").write_text("{}")
    folder = home / "snapshots" / ("e" * 16)
    shutil.copytree(next((home / "snapshots").iterdir()), folder)
    orphan = home / "objects" / "ab" / ("ab" + "0" * 62)
    orphan.parent.mkdir(exist_ok=True)
    orphan.write_bytes(b"nobody's")
    os.utime(orphan, (1, 1))
    shelf = Shelf(home / "models" / "dermanet")
    shelf.get("7-0123456789abcdef", lambda into: (into / "model.onnx").write_bytes(b"a graph") and None)
    base = experiment.named("smoke")
    study = studies_of(here).open(Plan("e" * 16, base, chosen("learning_rate=1e-4..1e-2", base), "loss"))
    taken = study.take(1)
    assert taken
    with taken:
        taken.finish(1.0)
    old = datetime.now(UTC) - timedelta(days=100)
    engine = open_database(here.catalogue)
    with engine.begin() as connection:
        row = {"id": "0" * 32, "at": old.replace(tzinfo=None), "version": "1", "digest": "0" * 64, "milliseconds": 1.0}
        connection.execute(PREDICTIONS.insert().values(**row))
    log = home / "airflow" / "logs" / "dag_id=ingest" / "run_id=manual__1" / "task_id=take_in" / "attempt=1.log"
    log.parent.mkdir(parents=True)
    log.write_text("it was long ago")
    return {
        "trainings": killed.name, "snapshots": folder.name, "objects": "ab/ab" + "0" * 62, "copies": "dermanet/7-0123456789abcdef",
        "studies": study.id, "runs": run, "models": model, "task logs": "dag_id=ingest/run_id=manual__1",
    }  # fmt: skip


def test_what_nobody_needs_goes_and_all_else_stays(installation: Installation, later: None) -> None:
    before = stages.predict([str(_photo(installation))])
    made = clutter(installation)
    record = stages.upkeep()
    for kind, name in made.items():
        assert names(record, kind) == [name], kind
    assert record["totals"]["predictions"]["count"] == 1
    assert record["totals"]["models"]["bytes"] > 10_000 < record["totals"]["runs"]["bytes"]
    seen = tree(installation.home)
    assert stages.upkeep()["leaving"] == [*record["leaving"]] and tree(installation.home) == seen, (
        "a list touches nothing"
    )
    done = stages.upkeep(apply=True)
    assert done["totals"] == record["totals"] and done["kept"] == 0
    home = installation.home
    assert not list((home / "training").iterdir()) and not (home / "snapshots" / ("e" * 16)).exists()
    assert not (home / "objects" / made["objects"]).exists() and not list((home / "models" / "dermanet").iterdir())
    assert stages.searches()["studies"] == [] and not list((home / "airflow" / "logs" / "dag_id=ingest").iterdir())
    with pytest.raises(BadInput, match="has no model"):
        stages.evaluate(made["runs"])
    assert not [
        path for path in (home / "mlartifacts").rglob("*") if made["runs"] in str(path) or made["models"] in str(path)
    ]
    _whole(installation, before)
    assert {kind: total["count"] for kind, total in stages.upkeep()["totals"].items()} == {"deleted": 2}
    assert stages.upkeep(apply=True)["kept"] == 0 and stages.upkeep()["leaving"] == []
    retrained = stages.train(stages.snapshot()["snapshot"], TINY.format(5))
    assert retrained["trained"] and retrained["run_id"] != made["runs"]


def _photo(installation: Installation) -> Path:
    return photo(installation.root)


def _whole(installation: Installation, before: Any) -> None:
    """The champion answers as before, every image is sound, and its dossier, its pixels and its snapshot are there."""
    assert stages.champion()["version"] == "1"
    assert stages.predict([str(_photo(installation))]) == before
    assert stages.check_objects()["faults"] == []
    stages.compile_dossier("1")
    stages.evaluate(str(stages.champion()["run_id"]))
    (snapshot,) = [path.name for path in (installation.home / "snapshots").iterdir()]
    assert stages.prepare(snapshot, "smoke")["computed"] == 0


def test_what_is_used_of_late_stays(installation: Installation) -> None:
    made = clutter(installation)
    record = stages.upkeep()
    assert set(record["totals"]) == {"objects", "predictions"}, "by their own ages"
    assert stages.upkeep(apply=True)["totals"] == record["totals"]
    assert client().get_run(made["runs"]).info.lifecycle_stage == "active"


def test_a_run_that_was_evaluated_of_late_stays_however_old(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = stages.train(stages.snapshot()["snapshot"], TINY.format(6))["run_id"]
    monkeypatch.setattr(sys.modules["dermanet.stages.upkeep"], "now", lambda: time.time() + YEAR)
    assert names(stages.upkeep(), "runs") == [run]
    client().set_tag(run, "dermanet.used", (datetime.now(UTC) + timedelta(days=364)).isoformat())
    assert names(stages.upkeep(), "runs") == names(stages.upkeep(), "models") == []


def test_a_judged_run_stays_without_its_model(installation: Installation, later: None) -> None:
    run = stages.train(stages.snapshot()["snapshot"], TINY.format(7))["run_id"]
    stages.evaluate(run)
    stages.judge(run)
    record = stages.upkeep()
    assert names(record, "runs") == [] and len(names(record, "models")) == 1
    stages.upkeep(apply=True)
    assert stages.why(run) and client().list_artifacts(run)
    with pytest.raises(BadInput, match="train its snapshot and experiment again"):
        stages.register(run)


def test_what_became_a_version_after_it_was_listed_stays(installation: Installation, later: None) -> None:
    run = stages.train(stages.snapshot()["snapshot"], TINY.format(8))["run_id"]
    found = stages.list_unneeded()
    assert found["totals"]["models"]["count"] == 1
    stages.evaluate(run)
    stages.judge(run)
    version = stages.register(run)["version"]
    done = stages.remove_listed(found["list"])
    assert done["removed"] == 0 and done["kept"] == 2
    stages.promote(version)
    assert "error" not in stages.predict([str(_photo(installation))])[0]


def test_a_removal_takes_nothing_that_was_not_listed(installation: Installation, later: None) -> None:
    found = stages.list_unneeded()
    made = clutter(installation)
    stages.remove_listed(found["list"])
    assert names(stages.upkeep(), "runs") == [made["runs"]]
    with pytest.raises(BadInput, match="no list"):
        stages.remove_listed("0" * 16)


def test_a_training_under_way_stays_and_so_does_its_run(installation: Installation, later: None) -> None:
    made = clutter(installation)
    with (installation.home / "training" / made["trainings"] / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        assert stages.upkeep(apply=True)["kept"] == 1
        assert (installation.home / "training" / made["trainings"] / "progress.json").exists()
    stages.upkeep(apply=True)
    assert not (installation.home / "training" / made["trainings"]).exists()


def test_two_at_once_do_it_once(installation: Installation, later: None) -> None:
    clutter(installation)
    found = stages.list_unneeded()
    count = sum(total["count"] for total in found["totals"].values())
    with ThreadPoolExecutor(2) as threads:
        done = list(threads.map(stages.remove_listed, [found["list"]] * 2))
    assert sum(one["removed"] for one in done) == count and min(one["removed"] for one in done) == 0


def test_forgetting_and_upkeep_take_turns(installation: Installation, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("dermanet.database.turns.WAIT", 0.1)
    with removing(settings.read()), pytest.raises(DermaNetError, match="another process has been at the removals"):
        stages.upkeep(apply=True)
    with removing(settings.read()), pytest.raises(DermaNetError, match="another process has been at the removals"):
        stages.forget("SYN_0000001")


@pytest.fixture(scope="module")
def later_commands(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Commands]:
    """Commands that run a year from now."""
    before = "import time\nfrom dermanet.registry import leavings\nfrom dermanet.searching import study\n"
    before += f"sys.modules['dermanet.stages.upkeep'].now = lambda: time.time() + {YEAR}"
    running = Commands(tmp_path_factory.mktemp("later"), before)
    yield running
    running.close()


def test_killed_at_any_moment_the_next_one_ends_it(
    installation: Installation, later_commands: Commands, later: None
) -> None:
    answers = stages.predict([str(_photo(installation))])
    clutter(installation)
    for seed in (20, 21, 22):
        stages.train(stages.snapshot()["snapshot"], TINY.format(seed))
    left = [len(stages.upkeep()["leaving"])]
    for after in (0.3, 0.5, 0.7, 0.9, 1.1, 1.3):
        later_commands.run(["upkeep", "--apply", "--json"], installation.environment(), after=after)
        left.append(len(stages.upkeep()["leaving"]))
    assert left[0] >= 11
    assert later_commands.run(["upkeep", "--apply"], installation.environment()).returncode == 0
    assert later_commands.run(["upkeep", "--apply"], installation.environment()).returncode == 0
    assert stages.upkeep()["leaving"] == []
    _whole(installation, answers)


def test_the_command_lists_and_removes(installation: Installation, later_commands: Commands) -> None:
    made = clutter(installation)
    told = later_commands.run(["upkeep"], installation.environment())
    assert told.returncode == 0 and f"runs  {made['runs']}" in told.stdout and "would go; --apply" in told.stderr
    record = json.loads(later_commands.run(["upkeep", "--json"], installation.environment()).stdout)
    assert names(record, "runs") == [made["runs"]]
    assert "removed, 0 kept" in later_commands.run(["upkeep", "--apply"], installation.environment()).stderr


def test_airflows_rows_go_by_its_own_command(tmp_path: Path, home: Path) -> None:
    database = f"sqlite:///{tmp_path / 'airflow.db'}"
    assert taskhistory.rows(database, time.time()) == {}
    env = {**os.environ, "AIRFLOW_HOME": str(tmp_path), "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": database}
    subprocess.run([sys.executable, "-m", "airflow", "db", "migrate"], env=env, check=True, capture_output=True)
    engine = sa.create_engine(database)
    with engine.begin() as connection:
        for event, at in (("old", "2020-01-01 00:00:00"), ("new", "2099-01-01 00:00:00")):
            connection.exec_driver_sql(f"INSERT INTO log (event, dttm) VALUES ('{event}', '{at}')")
    old = datetime(2021, 1, 1, tzinfo=UTC).timestamp()
    assert taskhistory.rows(database, old) == {"log": 1}
    taskhistory.drop_rows(database, old, ["log"])
    with engine.connect() as connection:
        assert [
            row[0] for row in connection.exec_driver_sql("SELECT event FROM log WHERE event IN ('old', 'new')")
        ] == ["new"]
    assert taskhistory.rows(database, old) == {}
    with pytest.raises(DermaNetError, match="see DERMANET_AIRFLOW_DATABASE"):
        taskhistory.rows("postgresql+psycopg://nobody@127.0.0.1:1/none", old)


def test_task_history_outlives_whoever_waits_for_a_person(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    now = 1e9
    assert now - taskhistory.oldest(settings.read(), now) == 30 * 86400
    monkeypatch.setenv("DERMANET_APPROVAL_HOURS", "2400")
    assert now - taskhistory.oldest(settings.read(), now) == (2400 + 24) * 3600 + 86400


def test_the_ledger_names_runs(installation: Installation) -> None:
    assert str(stages.champion()["run_id"]) in ledger_of(settings.read()).runs()
