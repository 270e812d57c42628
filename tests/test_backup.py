"""Backups: made while everything runs, whole or not there, proved before they are used, and put back elsewhere as they were."""

import json
import os
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from installation import Installation, photo
from storeroom import Installation as Store
from storeroom import dump

from dermanet import settings, stages
from dermanet.backup import archive, databases
from dermanet.database import engine
from dermanet.errors import BadInput, DermaNetError
from dermanet.stages.rooms import removing


def ask(home: Path) -> list[dict[str, Any]]:
    """What the champion answers."""
    return [{**row, "image": ""} for row in stages.predict([str(photo(home.parent))])]


def enter(home: Path, patch: pytest.MonkeyPatch) -> None:
    """Makes this process work in another home."""
    patch.setenv("DERMANET_HOME", str(home))
    # MLflow's client leaves its own behind in the environment.
    patch.delenv("MLFLOW_TRACKING_URI", raising=False)


def catalogue(home: Path) -> dict[str, Any]:
    """Every row of a home's catalogue."""
    return dump(Store(home, f"sqlite:///{home / 'catalogue.db'}"))


@pytest.fixture
def backups(tmp_path: Path) -> Path:
    return tmp_path / "backups"


def again(backups: Path) -> dict[str, Any]:
    """A backup of another second than the one before."""
    while time.strftime("%Y-%m-%dT%H%M%SZ", time.gmtime()) in {path.name for path in archive.every(backups)}:
        time.sleep(0.1)
    return stages.backup(str(backups))


def test_a_home_is_put_back_elsewhere_as_it_was(
    installation: Installation, backups: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers, rows = ask(installation.home), catalogue(installation.home)
    stages.searches()
    done = stages.backup(str(backups))
    assert (
        done["databases"] == ["catalogue", "mlflow", "searches"]
        and done["missing"] == []
        and done["new_bytes"] == done["bytes"]
    )
    assert stages.verify_backup(str(backups))["faults"] == []
    elsewhere = tmp_path / "elsewhere" / "home"
    shutil.rmtree(installation.home)
    enter(elsewhere, monkeypatch)
    told = stages.restore(str(backups))
    assert told["versions"] == 1 and told["missing"] == told["forgotten"] == 0 and told["images"] == len(rows["images"])
    assert catalogue(elsewhere) == rows and ask(elsewhere) == answers
    assert stages.check_objects()["faults"] == []
    stages.evaluate(str(stages.champion()["run_id"]))
    stages.compile_dossier("1")
    assert stages.retrain([], "smoke:epochs=1,seed=9")["version"] == "2"


def test_a_backup_under_load_names_nothing_that_it_has_not(
    installation: Installation, backups: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [sys.executable, "-m", "dermanet", "ingest", "synthetic:lesions=700,seed=11"]
    loading = subprocess.Popen(
        words, env=installation.environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    seen = []
    try:
        before = len(catalogue(installation.home)["images"])
        while loading.poll() is None and len(seen) < 4:
            if len(catalogue(installation.home)["images"]) > before:
                again(backups)
                seen.append(len(catalogue(installation.home)["images"]))
    finally:
        assert loading.wait(300) == 0
    assert len(seen) >= 2
    counted = []
    for number, folder in enumerate(archive.every(backups)):
        home = tmp_path / f"restored-{number}" / "home"
        enter(home, monkeypatch)
        told = stages.restore(str(folder))
        assert told["missing"] == 0 and stages.check_objects()["faults"] == []
        counted.append(told["images"])
    assert counted == sorted(counted) and counted[0] > before


def test_what_has_not_changed_is_the_same_file(
    installation: Installation, backups: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(archive, "RACY", 0.0)
    first = stages.backup(str(backups))
    stages.ingest("synthetic:lesions=2,seed=77")
    second = again(backups)
    assert second["new_bytes"] < first["bytes"] / 2 and second["files"]["objects"] > first["files"]["objects"]
    one, other = (Path(done["backup"]) for done in (first, second))
    shared = [path for path in (one / "objects").rglob("*") if path.is_file()]
    assert shared and all(path.samefile(other / path.relative_to(one)) for path in shared)
    third = stages.backup(str(backups), keep=1) if time.sleep(1.1) is None else {}
    assert third["removed"] == [one.name, other.name] and stages.verify_backup(str(backups))["faults"] == []


def test_two_of_one_second_are_one_clear_line(tmp_path: Path) -> None:
    (tmp_path / "2026-11-22T050000Z").mkdir()
    with pytest.raises(BadInput, match="was made this very second"), archive.making(tmp_path, "2026-11-22T050000Z"):
        pass
    assert [path.name for path in tmp_path.iterdir() if path.is_dir()] == ["2026-11-22T050000Z"]


def test_a_killed_backup_leaves_no_half_one(installation: Installation, backups: Path) -> None:
    for after in (2.5, 3.5, 4.0, 4.5, 5.0):
        words = [sys.executable, "-m", "dermanet", "backup", str(backups)]
        process = subprocess.Popen(
            words, env=installation.environment(), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            process.wait(after)
        except subprocess.TimeoutExpired:
            process.send_signal(signal.SIGKILL)
            process.wait()
        for folder in archive.every(backups):
            assert archive.faults(archive.opened(folder)) == []
    whole = len(archive.every(backups))
    again(backups)
    assert len(archive.every(backups)) == whole + 1
    assert {path.name for path in backups.iterdir()} == {".lock", *(path.name for path in archive.every(backups))}


@pytest.mark.parametrize("part", ["databases/catalogue.db", "objects", "artifacts", archive.MANIFEST])
def test_a_damaged_backup_is_refused(
    installation: Installation, backups: Path, tmp_path: Path, part: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = Path(stages.backup(str(backups))["backup"])
    parts = [folder / part, *(folder / part).rglob("*")]
    path = next(path for path in parts if path.is_file() and path.stat().st_size > 99)
    data = bytearray(path.read_bytes())
    data[50] ^= 1
    path.write_bytes(data)
    enter(tmp_path / "elsewhere", monkeypatch)
    if part == archive.MANIFEST:
        with pytest.raises(BadInput, match=r"manifest of backup .* cannot be used"):
            stages.verify_backup(str(folder))
    else:
        assert stages.verify_backup(str(folder))["faults"] == [
            f"{path.relative_to(folder)} holds other bytes than were written"
        ]
        path.unlink()
        assert "cannot be read" in stages.verify_backup(str(folder))["faults"][0]
    with pytest.raises(BadInput, match=r"is damaged: |cannot be used"):
        stages.restore(str(folder))
    assert not (tmp_path / "elsewhere").exists()


def written_ahead(path: Path) -> bool:
    """Whether a SQLite file's header says that it is written ahead, so that it is not opened without room beside it."""
    return path.read_bytes()[18:20] == b"\x02\x02"


def spoil(path: Path, table: str) -> None:
    """Damages a table of a SQLite file; that it is there is still known."""
    with closing(sqlite3.connect(path)) as connection:
        query = "SELECT rootpage FROM sqlite_master WHERE name = ?"
        (page,), ((size,),) = connection.execute(query, [table]).fetchone(), connection.execute("PRAGMA page_size")
    data = bytearray(path.read_bytes())
    data[(page - 1) * size : page * size] = b"\xff" * size
    path.write_bytes(data)


def nothing_beside(path: Path) -> None:
    """As on read-only media, though root may write on all others: SQLite cannot make its files beside this one."""
    for end in ("-wal", "-shm", "-journal"):
        path.with_name(path.name + end).mkdir()


def test_a_backup_of_what_is_written_ahead_is_put_back_from_read_only_media(
    installation: Installation, backups: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = catalogue(installation.home)
    for name in ("catalogue.db", "mlflow.db"):
        with closing(sqlite3.connect(installation.home / name)) as connection:
            connection.execute("PRAGMA journal_mode=WAL")
        assert written_ahead(installation.home / name)
    folder = Path(stages.backup(str(backups))["backup"])
    kept = sorted((folder / "databases").iterdir())
    assert [path.name for path in kept] == ["catalogue.db", "mlflow.db"]
    assert not any(written_ahead(path) for path in kept), "it is opened anywhere, by anything"
    for path in kept:
        nothing_beside(path)
    assert stages.verify_backup(str(backups))["faults"] == []
    enter(tmp_path / "elsewhere" / "home", monkeypatch)
    assert stages.restore(str(folder))["versions"] == 1
    assert catalogue(tmp_path / "elsewhere" / "home") == rows


def test_a_copy_that_is_written_ahead_is_read_without_room_beside_it(tmp_path: Path) -> None:
    path, target = tmp_path / "an old #1?.db", tmp_path / "new" / "target.db"
    with closing(sqlite3.connect(path)) as connection:
        connection.executescript("PRAGMA journal_mode=WAL; CREATE TABLE t (x); INSERT INTO t VALUES (7)")
    nothing_beside(path)
    assert written_ahead(path) and databases.fault(path) == ""
    databases.load(f"sqlite:///{target}", path)
    with closing(sqlite3.connect(target)) as connection:
        assert connection.execute("SELECT x FROM t").fetchall() == [(7,)]


def test_a_database_that_was_damaged_before_the_backup_is_named(
    installation: Installation, backups: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stages.searches()
    spoil(installation.home / "searches" / "studies.db", "studies")
    stages.backup(str(backups))
    (fault,) = stages.verify_backup(str(backups))["faults"]
    assert fault.startswith("databases/searches.db was damaged when it was copied (") and "\n" not in fault
    enter(tmp_path / "elsewhere", monkeypatch)
    with pytest.raises(BadInput, match=r"is damaged: databases/searches.db was damaged when"):
        stages.restore(str(backups))


@pytest.mark.parametrize("name", ["searches/studies.db", "mlflow.db", "catalogue.db"])
@pytest.mark.parametrize("kind", ["no database", "a schema that cannot be read", "no table"])
def test_a_database_that_cannot_be_read_is_named_in_one_line(
    installation: Installation, backups: Path, name: str, kind: str
) -> None:
    stages.searches()
    file = installation.home / name
    if kind == "a schema that cannot be read":
        with closing(sqlite3.connect(file)) as connection:
            connection.execute("PRAGMA writable_schema=ON")
            connection.execute("UPDATE sqlite_master SET sql = 'CREATE TAB' WHERE type = 'table'")
            connection.commit()
    else:
        file.write_bytes(b"rubbish\n" * 99 if kind == "no database" else b"")
    if kind == "no table" and name != "mlflow.db":
        # What has no table yet, and no revision to tell, is made at its first use.
        stages.backup(str(backups))
        return
    said = "the catalogue's database cannot be opened" if name == "catalogue.db" else str(file)
    with pytest.raises(DermaNetError, match=f"^{re.escape(said)}.*: ") as refused:
        stages.backup(str(backups))
    assert "\n" not in str(refused.value) and archive.every(backups) == []


def test_a_home_that_is_not_there_is_refused_and_no_backup_removed_for_it(
    installation: Installation, backups: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole = stages.backup(str(backups))["backup"]
    enter(tmp_path / "mistyped", monkeypatch)
    with pytest.raises(BadInput, match=r"nothing to back up: no catalogue in the home .*mistyped; set DERMANET_HOME"):
        stages.backup(str(backups), keep=1)
    assert [str(path) for path in archive.every(backups)] == [whole] and not (tmp_path / "mistyped").exists()


def test_a_restore_replaces_only_when_told(installation: Installation, backups: Path) -> None:
    rows = catalogue(installation.home)
    stages.backup(str(backups))
    stages.ingest("synthetic:lesions=2,seed=77")
    with pytest.raises(BadInput, match=r"something already: .*catalogue.*--replace"):
        stages.restore(str(backups))
    assert catalogue(installation.home) != rows
    stages.restore(str(backups), replace=True)
    assert catalogue(installation.home) == rows
    with pytest.raises(BadInput, match="no backup"):
        stages.restore(str(installation.root))


@pytest.mark.parametrize("table", ["", "images", "forgotten"])
def test_a_damaged_database_is_put_aside_and_replaced(installation: Installation, backups: Path, table: str) -> None:
    def restore(*words: str) -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-m", "dermanet", "restore", str(backups), *words]
        return subprocess.run(command, env=installation.environment(), capture_output=True, text=True, check=False)

    before, damaged = stages.backup(str(backups)), installation.home / "catalogue.db"
    rows = catalogue(installation.home)
    lesion = str(rows["labels"][0][3])
    stages.forget(lesion)
    if table:
        spoil(damaged, table)
    else:
        damaged.write_bytes(b"nothing of SQLite's" * 999)
    damaged.with_name("catalogue.db-wal").write_bytes(b"left by whoever wrote last")
    data = damaged.read_bytes()
    fault = r"database disk image is malformed|Tree|btree" if table else "file is not a database"
    refused = restore()
    assert refused.returncode == 2 and len(refused.stderr.strip().splitlines()) == 1
    assert "catalogue, which is damaged (" in refused.stderr and re.search(fault, refused.stderr)
    assert "--replace" in refused.stderr and damaged.read_bytes() == data
    done = restore("--replace")
    assert done.returncode == 0, done.stderr
    (aside,) = installation.home.glob("catalogue.db.damaged-*Z")
    assert f"catalogue: the damaged database is kept as {aside}" in done.stderr.replace("\n", " ")
    assert "known only from the backups beside it" in done.stderr
    assert aside.read_bytes() == data and not damaged.with_name("catalogue.db-wal").exists()
    back = {label[3] for label in catalogue(installation.home)["labels"]}
    assert (lesion in back) is (table != "images"), "what can still be read of who was forgotten is kept"
    assert len(back) >= len({label[3] for label in rows["labels"]}) - 1 and before["missing"] == []


def test_a_database_that_does_not_answer_is_not_put_aside(installation: Installation, backups: Path) -> None:
    stages.backup(str(backups))
    with closing(sqlite3.connect(installation.home / "mlflow.db")) as connection:
        connection.execute("BEGIN EXCLUSIVE")
        with pytest.raises(DermaNetError, match="does not answer: database is locked"):
            stages.restore(str(backups), replace=True)
    assert not list(installation.home.glob("*.damaged-*"))


def test_newer_software_is_needed_for_a_newer_backup(
    installation: Installation, backups: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stages.backup(str(backups))
    enter(tmp_path / "elsewhere", monkeypatch)
    monkeypatch.setattr(engine, "HEAD", "0003")
    with pytest.raises(BadInput, match="newer software; install DermaNet"):
        stages.restore(str(backups))
    monkeypatch.undo()
    installation.enter(monkeypatch)
    enter(tmp_path / "elsewhere", monkeypatch)
    monkeypatch.setattr("dermanet.stages.backups.version", lambda name: "2.0.0")
    with pytest.raises(BadInput, match="install mlflow"):
        stages.restore(str(backups))


@pytest.mark.parametrize("stopped", ["put_back", "load", "relocate"])
def test_a_killed_restore_is_called_again(
    installation: Installation, backups: Path, tmp_path: Path, stopped: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    answers = ask(installation.home)
    stages.backup(str(backups))
    enter(tmp_path / "elsewhere" / "home", monkeypatch)
    calls = []

    def dies(*words: Any) -> Any:
        calls.append(words)
        if len(calls) == (1 if stopped == "relocate" else 2):
            raise KeyboardInterrupt
        return real(*words)

    where: Any = {"put_back": archive, "load": databases}.get(stopped, sys.modules["dermanet.stages.backups"])
    real = getattr(where, stopped)
    with monkeypatch.context() as patch:
        patch.setattr(where, stopped, dies)
        with pytest.raises(KeyboardInterrupt):
            stages.restore(str(backups))
    assert stages.restore(str(backups))["versions"] == 1
    assert ask(tmp_path / "elsewhere" / "home") == answers


def test_who_was_forgotten_since_does_not_come_back(
    installation: Installation, backups: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = Path(stages.backup(str(backups))["backup"])
    rows = catalogue(installation.home)
    lesion = rows["labels"][0][3]
    gone = {row[0] for row in rows["labels"] if row[3] == lesion}
    stages.forget(str(lesion))
    told = stages.restore(str(old), replace=True)
    assert told["forgotten"] == 1 and told["then"] == [f"dermanet forget --lesion {lesion}"]
    assert (
        not gone & {row[0] for row in catalogue(installation.home)["images"]} and stages.check_objects()["faults"] == []
    )
    assert not [path for path in (installation.home / "objects").rglob("*") if path.name in gone]
    later = again(backups)
    enter(tmp_path / "elsewhere" / "home", monkeypatch)
    assert stages.restore(str(old))["forgotten"] == 1, "a later backup beside it knows"
    assert not gone & {row[0] for row in catalogue(tmp_path / "elsewhere" / "home")["images"]}
    assert later["files"]["objects"] == len(rows["images"]) - len(gone)


def test_nothing_is_forgotten_or_removed_while_a_backup_is_made(
    installation: Installation, backups: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun, go_on = threading.Event(), threading.Event()
    copy = archive.Making.copy

    def slowly(*words: Any) -> None:
        begun.set()
        go_on.wait(60)
        copy(*words)

    monkeypatch.setattr(archive.Making, "copy", slowly)
    making = threading.Thread(target=stages.backup, args=[str(backups)])
    making.start()
    assert begun.wait(60)
    monkeypatch.setattr("dermanet.database.turns.WAIT", 0.1)
    lesion = str(catalogue(installation.home)["labels"][0][3])
    with pytest.raises(DermaNetError, match="another process has been at the removals"):
        stages.forget(lesion)
    with pytest.raises(BadInput, match="another backup is being made"), archive.making(backups, "x"):
        pass
    go_on.set()
    making.join()
    with removing(settings.read()):
        pass
    assert stages.verify_backup(str(backups))["faults"] == [] and stages.verify_backup(str(backups))["missing"] == []


def test_the_commands_end_as_the_others_do(installation: Installation, backups: Path, tmp_path: Path) -> None:
    def run(*words: str, home: str = "") -> subprocess.CompletedProcess[str]:
        env = installation.environment() | ({"DERMANET_HOME": home} if home else {})
        return subprocess.run(
            [sys.executable, "-m", "dermanet", *words], env=env, capture_output=True, text=True, check=False
        )

    assert run("backup", str(backups), "--verify").returncode == 2
    made = json.loads(run("backup", str(backups), "--json").stdout)
    assert Path(made["backup"]).parent == backups and run("backup", str(backups), "--verify").returncode == 0
    refused = run("restore", str(backups))
    assert refused.returncode == 2 and len(refused.stderr.strip().splitlines()) == 1
    done = run("restore", str(backups), home=str(tmp_path / "elsewhere"))
    assert done.returncode == 0 and "1 versions" in done.stderr
    next((Path(made["backup"]) / "objects").rglob("*/*")).write_bytes(b"")
    damaged = run("backup", str(backups), "--verify")
    assert damaged.returncode == 1 and "has 0 bytes instead of" in damaged.stdout
    assert not os.path.exists(tmp_path / "nowhere")


def test_a_folder_that_nothing_can_be_written_into_is_the_caller_s_to_change(
    installation: Installation, tmp_path: Path
) -> None:
    (tmp_path / "file").touch()
    for folder in ("/proc/backups", str(tmp_path / "file"), str(tmp_path / "file" / "below")):
        with pytest.raises(BadInput, match=f"no backup can be made in {folder}: .*; name another folder"):
            stages.backup(folder)
