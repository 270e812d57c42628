"""Work on the catalogue's database that goes on where PostgreSQL was restarted in between: it waits, and does the transaction again.

A transaction whose answer was lost may have been committed all the same. Doing it again is harmless, but would find its own work and
say so. PostgreSQL knows by the transaction's number whether it was, and then the first answer is given.
"""

import time
from collections.abc import Callable
from typing import TypeVar

import sqlalchemy as sa

from dermanet.database.engine import writing
from dermanet.errors import DermaNetError

PATIENCE = 60.0
"""Seconds for which a database that was there before may be away."""

FIRST_PAUSE, LONGEST_PAUSE = 0.1, 5.0
"""Seconds between two attempts: doubled from the first to the longest."""

T = TypeVar("T")


def write(engine: sa.Engine, work: Callable[[sa.Connection], T]) -> T:
    """What `work` returns, done in a writing transaction; `work` may be called again, and must then change nothing more.

    Raises DermaNetError where the database stays away.
    """
    done: list[tuple[int, T]] = []

    def attempt() -> T:
        with writing(engine) as connection:
            # Done again in any case: a number that a crash took back may be another's transaction by now.
            number, result = _number(connection), work(connection)
            before = [answer for earlier, answer in done if _committed(connection, earlier)]
            done.append((number, result))
        return before[0] if before else result

    return _insisting(engine, attempt)


def read(engine: sa.Engine, work: Callable[[sa.Connection], T]) -> T:
    """What `work` returns, which only reads. Raises DermaNetError where the database stays away."""

    def attempt() -> T:
        with engine.connect() as connection:
            return work(connection)

    return _insisting(engine, attempt)


def _insisting(engine: sa.Engine, attempt: Callable[[], T]) -> T:
    pause, until = FIRST_PAUSE, time.monotonic() + PATIENCE
    while True:
        try:
            return attempt()
        except sa.exc.OperationalError as error:
            # SQLite is a file: it does not go away, and has waited for its turn already.
            if engine.dialect.name != "postgresql":
                raise
            if time.monotonic() + pause > until:
                raise DermaNetError(
                    f"the catalogue's database went away and has not come back for {PATIENCE:.0f} s ({_first_line(error)}); "
                    "start it and run this again: it goes on where it was"
                ) from None
        time.sleep(pause)
        pause = min(2 * pause, LONGEST_PAUSE)


def _number(connection: sa.Connection) -> int:
    """The transaction's number; 0 on SQLite, where a transaction's answer cannot be lost."""
    if connection.dialect.name != "postgresql":
        return 0
    return int(connection.execute(sa.select(sa.func.txid_current())).scalar_one())


def _committed(connection: sa.Connection, number: int) -> bool:
    return connection.scalar(sa.select(sa.func.txid_status(number))) == "committed"


def _first_line(error: sa.exc.OperationalError) -> str:
    return next(iter(str(error.orig).splitlines()), "no reason given")
