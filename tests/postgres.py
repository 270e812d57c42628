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
    "-c", "listen_addresses=", "-c", "fsync=off", "-c", "full_page_writes=off",
    "-c", "shared_buffers=16MB", "-c", "max_connections=60",
)  # fmt: skip


def server() -> Path | None:
    """The folder with PostgreSQL's programs, the newest there is; None where it is not installed."""
    packaged = sorted(Path("/usr/lib/postgresql").glob("*/bin/initdb"), key=lambda path: int(path.parts[-3]))
    on_path = shutil.which("initdb")
    found = packaged[-1] if packaged else Path(on_path).resolve() if on_path else None
    return found.parent if found and found.with_name("postgres").exists() else None


class Server:
    """A server in a folder of its own; `folder` is that of its socket."""

    def __init__(self, programs: Path, keeps: bool) -> None:
        # Not below pytest's folders: PostgreSQL refuses to run as root, and who it runs as instead may not enter them.
        self.folder = Path(tempfile.mkdtemp(prefix="dermanet-postgres-"))
        self._programs, self._keeps, self._someone = programs, keeps, _someone()
        if self._someone:
            shutil.chown(self.folder, self._someone)
        made = [str(programs / "initdb"), "-D", str(self.folder / "data"), "-U", OWNER]
        options = ["-A", "trust", "-E", "UTF8", "--no-locale", "-N"]
        subprocess.run([*made, *options], user=self._someone, cwd=self.folder, check=True, capture_output=True)

    def start(self) -> None:
        """Starts it and waits until it answers."""
        data, lossy = self.folder / "data", () if self._keeps else ("-c", "synchronous_commit=off")
        command = [str(self._programs / "postgres"), "-D", str(data), "-k", str(self.folder), *NO_COMFORT, *lossy]
        log = self.folder / "log"
        with log.open("a") as out:
            self._process = subprocess.Popen(
                command, user=self._someone, cwd=self.folder, stdout=out, stderr=subprocess.STDOUT
            )
        _wait(self.folder, self._process, log)

    def stop(self) -> None:
        """Ends it at once, as `pg_ctl stop -m immediate` does: every connection breaks off, and the next start recovers."""
        # SIGTERM would wait for connections that tests have left open.
        self._process.send_signal(signal.SIGQUIT)
        try:
            self._process.wait(10)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()


@contextmanager
def running(programs: Path, keeps: bool = False) -> Iterator[Server]:
    """A server that is up, and gone with all that it held at the end. `keeps`: what was committed outlives a `stop`."""
    server = Server(programs, keeps)
    try:
        server.start()
        yield server
    finally:
        server.stop()
        shutil.rmtree(server.folder, ignore_errors=True)


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
