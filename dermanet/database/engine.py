"""SQLite or PostgreSQL by URL, brought up to date when it is opened, one writer at a time.

SQLite: a writing transaction begins with BEGIN IMMEDIATE. PostgreSQL: it takes an advisory lock. Either way whatever a writer has
read is still so when it writes, schema changes included, and a killed writer leaves nothing behind.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from typing import Any

import sqlalchemy as sa

from dermanet.errors import BadInput, DermaNetError
from dermanet.settings import make_private

HEAD = "0011"
"""The migration that this code works with: the last in `migrations/versions`."""

VERSION_TABLE = "dermanet_version"
"""Not Alembic's default name, which MLflow and Airflow use: a database that somebody shares with them still works."""

MIGRATIONS = Path(__file__).with_name("migrations")
FIRST = "0001"
"""What a database holds that was made before there were migrations."""

ADVISORY_LOCK = 0x6465726D
"""PostgreSQL's number of the writers' lock: `derm` in ASCII."""

WAIT = 60
"""Seconds that a writer waits for its turn at SQLite's one."""

_MIGRATING = Lock()
"""Alembic keeps what it is doing in module variables, so that of one process one thread at a time may migrate."""


def open_database(url: str) -> sa.Engine:
    """The database at a SQLAlchemy URL, its tables made or migrated.

    Raises BadInput for a URL that names none, DermaNetError for one that does not answer or cannot be read.
    """
    try:
        parsed = sa.make_url(url)
        engine = _engine(parsed)
    except (sa.exc.ArgumentError, ModuleNotFoundError) as error:
        raise BadInput(
            f"DERMANET_CATALOGUE: {error}; write sqlite:///PATH or postgresql+psycopg://USER:PASSWORD@HOST/NAME"
        ) from None
    try:
        _migrate(engine)
    except sa.exc.DatabaseError as error:
        # Not only what does not answer: a SQLite file that is damaged, and a PostgreSQL user without rights, are no fault of ours.
        said = " ".join(str(error.orig).split())
        raise DermaNetError(f"the catalogue's database cannot be opened: {said}; see DERMANET_CATALOGUE") from error
    return engine


@contextmanager
def writing(engine: sa.Engine) -> Iterator[sa.Connection]:
    """A transaction that writes, and the only one that does."""
    with engine.connect().execution_options(writes=True) as connection, connection.begin():
        if engine.dialect.name == "postgresql":
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(ADVISORY_LOCK)))
        yield connection


@contextmanager
def nobody_writing(engine: sa.Engine) -> Iterator[None]:
    """A moment in which nobody writes, this process neither. Short, as all who want to write wait for its end."""
    with engine.connect().execution_options(writes=True) as connection, connection.begin() as turn:
        if engine.dialect.name == "postgresql":
            connection.execute(sa.select(sa.func.pg_advisory_xact_lock(ADVISORY_LOCK)))
        yield
        # SQLite would wait, to commit, for whoever has begun to read meanwhile.
        turn.rollback()


def _engine(url: sa.URL) -> sa.Engine:
    # What a statement was given is what rows say of patients: an error that quotes it would carry it into logs and mails.
    if url.get_backend_name() == "postgresql":
        # No pool: a stage opens a catalogue for a few batches, and what it kept open would count against the server's limit
        # until the process ends.
        return sa.create_engine(url, poolclass=sa.NullPool, hide_parameters=True)
    if url.get_backend_name() != "sqlite":
        raise sa.exc.ArgumentError(f"{url.get_backend_name()} is neither sqlite nor postgresql")
    if url.database:
        make_private(Path(url.database).parent)
    engine = sa.create_engine(url, connect_args={"timeout": WAIT}, hide_parameters=True)
    sa.event.listen(engine, "connect", _begin_by_ourselves)
    sa.event.listen(engine, "begin", _begin)
    return engine


def _begin_by_ourselves(connection: Any, record: Any) -> None:
    # Left to itself the driver begins at the first write: too late for what was read before, and never for a CREATE TABLE.
    connection.isolation_level = None


def _begin(connection: sa.Connection) -> None:
    writes = connection.get_execution_options().get("writes")
    connection.exec_driver_sql("BEGIN IMMEDIATE" if writes else "BEGIN")


def _migrate(engine: sa.Engine) -> None:
    with engine.connect() as connection:
        if _version(connection) == HEAD:
            return
    # Alembic is imported only where there is work for it: most openings end above.
    from alembic import command
    from alembic.config import Config
    from alembic.util import CommandError

    with _MIGRATING, writing(engine) as connection:
        config = Config(attributes={"connection": connection})
        config.set_main_option("script_location", str(MIGRATIONS).replace("%", "%%"))
        try:
            if _version(connection) is None and sa.inspect(connection).has_table("images"):
                command.stamp(config, FIRST)
            command.upgrade(config, "head")
        except CommandError as error:
            raise BadInput(f"the catalogue is of a newer DermaNet ({error}); install that one again") from None


def _version(connection: sa.Connection) -> str | None:
    if not sa.inspect(connection).has_table(VERSION_TABLE):
        return None
    found = connection.execute(sa.text(f"SELECT version_num FROM {VERSION_TABLE}")).scalar()
    return None if found is None else str(found)
