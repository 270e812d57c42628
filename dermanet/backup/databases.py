"""Databases held still, written to a file and read back: SQLite by its own backup, PostgreSQL by `pg_dump` and `pg_restore`.

A database is *pinned* first, which takes milliseconds, and written as it was then, however long that takes and whatever is written
into it meanwhile. So several that name one another are all as they were at one moment.
"""

import os
import shutil
import sqlite3
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import sqlalchemy as sa

from dermanet.errors import BadInput, DermaNetError

SQLITE, POSTGRESQL = "sqlite", "postgresql"

BROKEN = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB, sqlite3.SQLITE_FORMAT, sqlite3.SQLITE_ERROR}
"""What SQLite says of a file that is damaged. By any other word it could not read it now, and asked again it may."""

PACKAGED = Path("/usr/lib/postgresql")
"""Where Debian keeps PostgreSQL's programs, by version."""


class Pinned(Protocol):
    """A database as it was at one moment."""

    @property
    def kind(self) -> str:
        """`sqlite` or `postgresql`."""
        ...

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        """What a query finds."""
        ...

    def dump(self, path: Path) -> None:
        """Writes all of it into a new file. Raises DermaNetError."""
        ...


def kind_of(url: str) -> str:
    """`sqlite` or `postgresql`. Raises BadInput for any other."""
    try:
        kind = sa.make_url(url).get_backend_name()
    except sa.exc.ArgumentError:
        kind = url.partition(":")[0]
    if kind not in (SQLITE, POSTGRESQL):
        raise BadInput(f"a database of kind {kind!r} cannot be backed up; allowed are {SQLITE} and {POSTGRESQL}")
    return kind


def exists(url: str) -> bool:
    """Whether there is a database: PostgreSQL's always, SQLite's where there is its file."""
    return kind_of(url) == POSTGRESQL or _file(url).exists()


def empty(url: str) -> bool:
    """Whether a database has no table. Raises DermaNetError where it does not answer."""
    if not exists(url):
        return True
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    try:
        return not sa.inspect(engine).get_table_names()
    except sa.exc.OperationalError as error:
        raise DermaNetError(f"a database does not answer: {_first_line(error.orig)}") from None


def damage(url: str) -> str:
    """What is wrong with a SQLite database; nothing where it is whole, or is not there. PostgreSQL looks after its own.

    Raises DermaNetError where it does not answer.
    """
    if kind_of(url) == POSTGRESQL or not exists(url):
        return ""
    with closing(sqlite3.connect(_file(url))) as connection:
        return _fault(connection)


def put_aside(url: str) -> Path:
    """Gives a SQLite file another name beside its own, with what SQLite keeps of it, which would spoil the next one; the name."""
    path = _file(url)
    aside = path.with_name(f"{path.name}.damaged-{time.strftime('%Y-%m-%dT%H%M%SZ', time.gmtime())}")
    # The file itself last: killed in between, it is still found.
    for end in ("-journal", "-wal", "-shm", ""):
        with suppress(FileNotFoundError):
            os.rename(f"{path}{end}", f"{aside}{end}")
    return aside


@contextmanager
def pinned(url: str) -> Iterator[Pinned]:
    """Holds a database as it is now. On SQLite whoever writes waits until it is let go."""
    with _pinned_file(_file(url)) if kind_of(url) == SQLITE else _pinned_server(sa.make_url(url)) as found:
        yield found


def load(url: str, path: Path) -> None:
    """Makes a database what was written by `dump`, whatever it held before; killed, it may be called again. Raises DermaNetError."""
    if kind_of(url) == SQLITE:
        _file(url).parent.mkdir(parents=True, exist_ok=True)
        with closing(_at_rest(path)) as source, closing(sqlite3.connect(_file(url))) as target:
            source.backup(target)
        return
    engine = sa.create_engine(url, poolclass=sa.NullPool)
    with engine.begin() as connection:
        connection.execute(sa.text("DROP SCHEMA public CASCADE"))
        connection.execute(sa.text("CREATE SCHEMA public"))
        # As PostgreSQL makes it: without it, users who own nothing here (the scorer's, who logs predictions) see none of its tables.
        connection.execute(sa.text("GRANT USAGE ON SCHEMA public TO PUBLIC"))
    whole = ("--no-owner", "--no-acl", "--single-transaction", "--exit-on-error")
    _program("pg_restore", sa.make_url(url), *whole, str(path))


def fault(path: Path) -> str:
    """What is wrong with a SQLite file that was written by `dump`; nothing where it is whole. Raises DermaNetError."""
    with closing(_at_rest(path)) as connection:
        return _fault(connection)


def _at_rest(path: Path) -> sqlite3.Connection:
    # A file that was written ahead (WAL) asks for files beside it, which read-only media refuse, unless nobody changes it.
    return sqlite3.connect(f"{path.absolute().as_uri()}?mode=ro&immutable=1", uri=True)


def _fault(connection: sqlite3.Connection) -> str:
    try:
        said = str(connection.execute("PRAGMA quick_check(1)").fetchone()[0])
    except sqlite3.DatabaseError as error:
        if getattr(error, "sqlite_errorcode", sqlite3.SQLITE_ERROR) & 0xFF not in BROKEN:
            raise DermaNetError(f"a database does not answer: {error}") from None
        return str(error)
    return "" if said == "ok" else " ".join(said.split())


@contextmanager
def _read(file: Path) -> Iterator[None]:
    """Names the file that cannot be read. Left out in silence, it would be missed only when the backup is needed."""
    try:
        yield
    except sqlite3.DatabaseError as error:
        raise DermaNetError(
            f"{file} cannot be read as a database: {error}; run this again when nothing uses it, put a backup's in its place "
            "(dermanet restore FOLDER --replace), or move it away"
        ) from error


@dataclass(frozen=True)
class _PinnedFile:
    file: Path
    connection: sqlite3.Connection
    kind: str = SQLITE

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        with _read(self.file):
            return list(self.connection.execute(query))

    def dump(self, path: Path) -> None:
        with closing(sqlite3.connect(path)) as target:
            self.connection.backup(target)
            # One that is written ahead (WAL) would ask whoever opens the copy for room beside it.
            target.execute("PRAGMA journal_mode=DELETE")


@dataclass(frozen=True)
class _PinnedServer:
    url: sa.URL
    connection: sa.Connection
    snapshot: str
    kind: str = POSTGRESQL

    def rows(self, query: str) -> list[tuple[Any, ...]]:
        try:
            return [tuple(row) for row in self.connection.execute(sa.text(query))]
        except sa.exc.ProgrammingError as error:
            said = _first_line(error.orig)
            raise DermaNetError(
                f"database {self.url.database!r} was not set up: {said}; set it up and run this again"
            ) from error

    def dump(self, path: Path) -> None:
        words = ("--format=custom", "--no-owner", "--no-acl", f"--snapshot={self.snapshot}", f"--file={path}")
        _program("pg_dump", self.url, *words)


@contextmanager
def _pinned_file(path: Path) -> Iterator[_PinnedFile]:
    with closing(sqlite3.connect(path, timeout=60, isolation_level=None)) as connection:
        # The lock that keeps others from writing comes with the first thing that is read.
        with _read(path):
            connection.execute("BEGIN")
            connection.execute("SELECT count(*) FROM sqlite_master").fetchall()
        yield _PinnedFile(path, connection)


@contextmanager
def _pinned_server(url: sa.URL) -> Iterator[_PinnedServer]:
    engine = sa.create_engine(url, poolclass=sa.NullPool, isolation_level="REPEATABLE READ")
    try:
        with engine.connect() as connection:
            snapshot = str(connection.scalar(sa.text("SELECT pg_export_snapshot()")))
            yield _PinnedServer(url, connection, snapshot)
    except sa.exc.OperationalError as error:
        raise DermaNetError(f"database {url.database!r} does not answer: {_first_line(error.orig)}") from None


def _file(url: str) -> Path:
    path = sa.make_url(url).database
    if not path:
        raise BadInput(f"{url!r} names no file; a database in memory cannot be backed up")
    return Path(path)


def _program(name: str, url: sa.URL, *words: str) -> None:
    """Runs one of PostgreSQL's programs on a database; the password goes by the environment, which others cannot see."""
    from psycopg.conninfo import make_conninfo

    said: dict[str, Any] = {**url.translate_connect_args(username="user", database="dbname"), **url.query}
    password = {"PGPASSWORD": said.pop("password")} if "password" in said else {}
    command = [_found(name), f"--dbname={make_conninfo(**said)}", *words]
    done = subprocess.run(command, env={**os.environ, **password}, capture_output=True, text=True, check=False)
    if done.returncode:
        raise DermaNetError(f"{name} of database {url.database!r} failed: {_first_line(done.stderr)}")


def _found(name: str) -> str:
    packaged: Sequence[Path] = sorted(PACKAGED.glob(f"*/bin/{name}"), key=lambda path: float(path.parts[-3]))
    found = str(packaged[-1]) if packaged else shutil.which(name)
    if not found:
        raise BadInput(
            f"{name} is not on this machine; install PostgreSQL's client programs, of the server's version or newer"
        )
    return found


def _first_line(said: Any) -> str:
    return next(iter(str(said).strip().splitlines()), "no reason given")
