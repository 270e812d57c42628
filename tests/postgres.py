"""A real PostgreSQL that the tests start and end themselves: a folder of its own, reached by a socket in it, no port."""

import os
import pwd
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from uuid import uuid4

import pytest
import sqlalchemy as sa

OWNER = "tests"
NO_COMFORT = (
    "-c", "listen_addresses=", "-c", "fsync=off", "-c", "synchronous_commit=off", "-c", "full_page_writes=off",
    "-c", "shared_buffers=16MB", "-c", "max_connections=60",
)  # fmt: skip


def server() -> Path | None:
    """The folder with PostgreSQL's programs, the newest there is; None where it is not installed."""
    packaged = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    on_path = shutil.which("initdb")
    found = packaged[-1] if packaged else Path(on_path).resolve() if on_path else None
    return found.parent if found and found.with_name("postgres").exists() else None


@contextmanager
def running(programs: Path) -> Iterator[Path]:
    """A server that is up, as the folder of its socket."""
    # Not below pytest's folders: PostgreSQL refuses to run as root, and who it runs as instead may not enter them.
    folder = Path(tempfile.mkdtemp(prefix="dermanet-postgres-"))
    someone = _someone()
    if someone:
        shutil.chown(folder, someone)
    data, log = folder / "data", folder / "log"
    try:
        initdb = [
            str(programs / "initdb"),
            "-D",
            str(data),
            "-U",
            OWNER,
            "-A",
            "trust",
            "-E",
            "UTF8",
            "--no-locale",
            "-N",
        ]
        subprocess.run(initdb, user=someone, cwd=folder, check=True, capture_output=True)
        command = [str(programs / "postgres"), "-D", str(data), "-k", str(folder), *NO_COMFORT]
        with log.open("w") as out:
            process = subprocess.Popen(command, user=someone, cwd=folder, stdout=out, stderr=subprocess.STDOUT)
        try:
            _wait(folder, process, log)
            yield folder
        finally:
            _end(process)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def make_database(folder: Path) -> str:
    """A new, empty database as SQLAlchemy's URL."""
    name = f"t{uuid4().hex}"
    engine = sa.create_engine(url(folder, "postgres"), isolation_level="AUTOCOMMIT")
    with engine.connect() as connection:
        connection.execute(sa.text(f"CREATE DATABASE {name}"))
    engine.dispose()
    return url(folder, name)


def url(folder: Path, name: str) -> str:
    """A database's URL by its name."""
    return f"postgresql+psycopg://{OWNER}@/{name}?host={folder}"


def _someone() -> str | None:
    """Whom the server runs as where we are root."""
    if os.geteuid() != 0:
        return None
    known = {entry.pw_name for entry in pwd.getpwall()}
    return next(name for name in ("postgres", "nobody") if name in known)


def _wait(folder: Path, process: subprocess.Popen[bytes], log: Path) -> None:
    engine = sa.create_engine(url(folder, "postgres"))
    until = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < until:
        try:
            engine.connect().close()
        except sa.exc.OperationalError:
            time.sleep(0.05)
        else:
            return engine.dispose()
    pytest.fail(f"PostgreSQL did not come up:\n{log.read_text()[-2000:]}")


def _end(process: subprocess.Popen[bytes]) -> None:
    # SIGTERM waits for connections that tests have left open; SIGQUIT does not, and nothing is kept.
    process.send_signal(signal.SIGQUIT)
    try:
        process.wait(10)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
