"""Turns at what is not in the database, such as MLflow's aliases: one process at a time, over all machines that share the database.

PostgreSQL: an advisory lock of a connection's own. SQLite: a lock on a file beside the database's. Either ends with its holder,
however that ends.
"""

import fcntl
import hashlib
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import IO

import sqlalchemy as sa

from dermanet.errors import DermaNetError

WAIT = 60.0
"""Seconds that somebody waits for a turn."""

PAUSE = 0.05
"""Seconds between two looks at whether it has come."""


@contextmanager
def turn(engine: sa.Engine, name: str, patience: float | None = None) -> Iterator[None]:
    """The turn at `name`. Raises DermaNetError where another keeps it for longer than `patience` seconds, or else `WAIT`."""
    wait = WAIT if patience is None else patience
    if engine.dialect.name == "postgresql":
        with engine.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            _wait(partial(_lock_in_postgres, connection, name), name, wait)
            # Closed at the end, not pooled: the lock goes with the connection.
            yield
        return
    with open(f"{engine.url.database}.{name}.lock", "w") as file:
        _wait(partial(_lock_file, file), name, wait)
        yield


def _lock_in_postgres(connection: sa.Connection, name: str) -> bool:
    number = int.from_bytes(hashlib.sha256(f"dermanet {name}".encode()).digest()[:8], "big", signed=True)
    return bool(connection.scalar(sa.select(sa.func.pg_try_advisory_lock(number))))


def _lock_file(file: IO[str]) -> bool:
    try:
        fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _wait(taken: Callable[[], bool], name: str, wait: float) -> None:
    until = time.monotonic() + wait
    while not taken():
        if time.monotonic() > until:
            raise DermaNetError(
                f"another process has been at the {name} for {wait:.0f} s; wait for it and run this again"
            )
        time.sleep(PAUSE)
