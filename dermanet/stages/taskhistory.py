"""What Airflow keeps of tasks that ended long ago: their logs, which it never removes, and its rows, which `airflow db clean` does.

The last scheduled run of each DAG always stays. A task may wait for a person, and a run be late, so that nothing goes that is younger
than those may take (`DERMANET_APPROVAL_HOURS`, `DERMANET_DEADLINE_HOURS`).
"""

import os
import re
import shutil
import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

from dermanet.errors import DermaNetError
from dermanet.settings import Settings

LOGS = ("dag_id=*/run_id=*", "dag_processor/*", "scheduler/*")
"""The folders that Airflow makes: one a run, and one a day for its own processes."""

COUNTED = re.compile(r"Checking table (\w+)\s+Found (\d+) rows meeting deletion criteria")
"""What `airflow db clean --dry-run` says of a table."""


def oldest(here: Settings, now: float) -> float:
    """The moment before which task logs and rows are old, in seconds since 1970."""
    waiting = timedelta(hours=here.approval_hours + here.deadline_hours) + timedelta(days=1)
    return now - max(timedelta(days=here.log_days), waiting).total_seconds()


def logs(folder: Path, before: float) -> dict[str, int]:
    """The folders of logs in which nothing was written since a moment, by their names below `folder`; each with its bytes."""
    found = sorted(_folders(folder))
    return {path.relative_to(folder).as_posix(): _bytes(path) for path in found if _newest(path) < before}


def drop_logs(folder: Path, name: str, before: float) -> bool:
    """Removes a folder of logs if it is still there and that old; whether it was."""
    path = folder / name
    # Only this one is looked into: a month has a thousand, and each has a file for every try of a task.
    old = path in _folders(folder) and _newest(path) < before
    if old:
        shutil.rmtree(path)
    return old


def rows(database: str, before: float) -> dict[str, int]:
    """How many rows of each of Airflow's tables are from before a moment; nothing where there is no such database here."""
    if database.startswith("sqlite:///") and not Path(database.removeprefix("sqlite:///")).exists():
        return {}
    told = _db_clean(database, before, "--dry-run")
    return {table: int(count) for table, count in COUNTED.findall(told) if int(count)}


def drop_rows(database: str, before: float, tables: list[str]) -> None:
    """Removes the rows of tables from before a moment. Raises DermaNetError where Airflow could not."""
    _db_clean(database, before, "--yes", "--skip-archive", "--error-on-cleanup-failure", "--tables", ",".join(tables))


def _db_clean(database: str, before: float, *words: str) -> str:
    moment = datetime.fromtimestamp(before, UTC).isoformat(timespec="seconds")
    # A task of Airflow's has a variable that leads nowhere in the place of this one.
    environment = {**os.environ, "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": database}
    command = [sys.executable, "-m", "airflow", "db", "clean", "--clean-before-timestamp", moment, *words]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    if done.returncode:
        last = next(iter((done.stderr or done.stdout).strip().splitlines()[-1:]), f"status {done.returncode}")
        raise DermaNetError(f"`airflow db clean` failed: {last}; see DERMANET_AIRFLOW_DATABASE")
    return done.stdout


def _folders(folder: Path) -> set[Path]:
    return {path for pattern in LOGS for path in folder.glob(pattern) if path.is_dir() and not path.is_symlink()}


def _bytes(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _newest(folder: Path) -> float:
    return max(path.stat().st_mtime for path in (folder, *folder.rglob("*")))
