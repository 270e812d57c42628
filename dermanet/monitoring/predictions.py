"""The log of predictions: what was answered when, by which version, for which image. What monitoring needs, and no image.

Whoever answers puts a row and goes on; a thread of its own writes. A process that is killed takes its last second's rows along.
"""

import logging
import secrets
import threading
import time
from collections import deque
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import asdict, dataclass, fields
from datetime import UTC, datetime, timedelta
from itertools import islice
from typing import Any

import sqlalchemy as sa
from sqlalchemy.dialects import postgresql, sqlite

from dermanet.database.engine import open_database, writing
from dermanet.database.schema import FORGOTTEN, PREDICTIONS
from dermanet.database.turns import turn
from dermanet.errors import DermaNetError

log = logging.getLogger("dermanet.monitoring")

ROOM = 20_000
"""Rows that may wait: a minute and more of the fastest server, and some 20 MB."""

BATCH = 500
"""Rows in one transaction, written or removed."""

EVERY = 0.5
"""Seconds that a row waits for company."""

AGAIN = 1.0
"""Seconds between two attempts while the database is away."""

SWEEP, BREATH = 3600.0, 0.05
"""Seconds between two removals of what is too old, and between two batches of one: others want to write, too."""

TURN = "predictions"
"""Whose turn a removal is."""


@dataclass(frozen=True, slots=True)
class Prediction:
    """What came of one image. `at`: aware; `error`: its kind alone; `milliseconds`: what it took.

    `brightness`, `contrast`, `detail`: of the photograph (`imagequality`). `sketch`: eight figures of its colours and texture, on the
    version's training side of mean 0 and variance 1; None where not known. The rest is as in a reader's row.
    """

    id: str
    at: datetime
    version: str
    digest: str
    age: float | None
    sex: str | None
    diagnosis: str | None
    probabilities: Mapping[str, Mapping[str, float]] | None
    quality: str | None
    novelty: float | None
    refer: str | None
    error: str | None
    milliseconds: float
    brightness: float | None = None
    contrast: float | None = None
    detail: float | None = None
    sketch: Sequence[float] | None = None

    @classmethod
    def of(
        cls, version: str, digest: str, row: Mapping[str, Any], seconds: float, at: datetime | None = None,
        look: Mapping[str, Any] | None = None,
    ) -> "Prediction":  # fmt: skip
        """From a reader's row. `digest`: SHA-256 of the image's bytes, hexadecimal; `at`: when it was answered, now by default.

        `look`: what the reader measured of the photograph, by the names of the fields.
        """
        at, seen = at or datetime.now(UTC), look or {}
        return cls(
            f"{int(at.timestamp() * 1e6):016x}{secrets.token_hex(8)}",
            at,
            version,
            digest,
            _number(row["age"]),
            row["sex"],
            row["diagnosis"],
            _probabilities(row),
            row["quality"],
            _number(row["novelty"]),
            row["refer"],
            # What follows the colon may speak of the file.
            row["error"].partition(":")[0] if row["error"] else None,
            round(seconds * 1000, 3),
            _number(seen.get("brightness")),
            _number(seen.get("contrast")),
            _number(seen.get("detail")),
            seen.get("sketch"),
        )


class PredictionLog:
    """Takes rows from any number of threads without making them wait, and writes them in batches. A process has one of its own.

    `written`, `dropped`: rows so far. `trouble`: why nothing can be written, or None.
    """

    def __init__(self, url: str, days: int, room: int = ROOM) -> None:
        """`url`: SQLAlchemy's, of the catalogue. `days`: how long rows are kept; 0: nothing is logged. `room`: rows that may wait."""
        self.written = 0
        self.dropped = 0
        self.trouble: str | None = None
        self._url, self._days, self._room = url, days, room
        self._waiting: deque[Prediction] = deque()
        self._changed = threading.Condition()
        self._closing = threading.Event()
        self._abandoned = threading.Event()
        self._thread = threading.Thread(target=self._work, name="predictions", daemon=True)
        if days:
            self._thread.start()

    def put(self, prediction: Prediction) -> None:
        """Takes a row, or counts it as dropped where there is no room. Never waits for the database, never raises."""
        if not self._days:
            return
        with self._changed:
            if self._closing.is_set() or len(self._waiting) >= self._room:
                self.dropped += 1
                return
            self._waiting.append(prediction)
            if len(self._waiting) in (1, BATCH):
                self._changed.notify()

    def close(self, timeout: float = 5.0) -> None:
        """Writes what is waiting, for so many seconds at most; what is left then is dropped."""
        self._closing.set()
        with self._changed:
            self._changed.notify()
        if self._days:
            self._thread.join(timeout)
        self._abandoned.set()

    def _work(self) -> None:
        engine: sa.Engine | None = None
        sweep = time.monotonic()
        while not (self._closing.is_set() and not self._waiting):
            self._wait_for_rows(sweep)
            try:
                # Opened here: whoever answers shall not wait for a database that is away when the server starts.
                engine = engine or open_database(self._url)
                self._write(engine)
                if time.monotonic() >= sweep and not self._closing.is_set():
                    self._remove_old(engine)
                    sweep = time.monotonic() + SWEEP
                self._tell(None)
            except Exception as error:
                # Whatever it is, the rows stay where they are, as many as there is room for, and the next attempt finds them.
                self._tell(error)
                if self._abandoned.wait(AGAIN):
                    break
        if engine:
            engine.dispose()

    def _wait_for_rows(self, until: float) -> None:
        """Until a row has come and had time for company; or until there is a batch, a removal is due, or it ends."""
        ending = self._closing.is_set
        with self._changed:
            self._changed.wait_for(lambda: bool(self._waiting) or ending(), max(until - time.monotonic(), 0))
            if self._waiting:
                self._changed.wait_for(lambda: len(self._waiting) >= BATCH or ending(), EVERY)

    def _write(self, engine: sa.Engine) -> None:
        """Writes what is waiting, batch by batch. A row leaves the queue when it is written, so that there are never more than fit."""
        while self._waiting and not self._abandoned.is_set():
            with self._changed:
                batch = list(islice(self._waiting, BATCH))
            lost = _add(engine, batch)
            with self._changed:
                for _ in batch:
                    self._waiting.popleft()
                self.written += len(batch) - lost
                self.dropped += lost

    def _remove_old(self, engine: sa.Engine) -> None:
        before = datetime.now(UTC) - timedelta(days=self._days)
        # Where another process is at it there is nothing to do.
        with suppress(DermaNetError), turn(engine, TURN, 0):
            while expire(engine, before) == BATCH and not self._closing.wait(BREATH):
                self._write(engine)

    def _tell(self, error: Exception | None) -> None:
        """Says once that there is trouble, and once that it is over."""
        before, self.trouble = self.trouble, f"{type(error).__name__}: {_first_line(error)}" if error else None
        if error and not before:
            log.warning("predictions cannot be written, at most %d wait: %s", self._room, self.trouble)
        elif before and not error:
            log.warning("predictions are written again; %d were dropped so far", self.dropped)


def between(engine: sa.Engine, since: datetime, until: datetime) -> Iterator[Prediction]:
    """The rows from `since` up to, and without, `until` (both aware), in the order of time; page by page, in constant memory."""
    at, number = _naive(since), ""
    place = sa.tuple_(PREDICTIONS.c.at, PREDICTIONS.c.id)
    chosen = sa.select(PREDICTIONS).where(PREDICTIONS.c.at < _naive(until)).order_by(*place).limit(BATCH)
    while True:
        # No transaction is open while the caller looks at a page: on SQLite nobody could write meanwhile.
        with engine.connect() as connection:
            page = connection.execute(chosen.where(place > sa.tuple_(at, number, types=_TYPES))).all()
        yield from (prediction_of(row._mapping) for row in page)
        if len(page) < BATCH:
            return
        at, number = page[-1].at, page[-1].id


def prediction_of(row: Mapping[Any, Any]) -> Prediction:
    """A row of the table, with or without others' columns beside its own."""
    own = {name: row[name] for name in _FIELDS}
    return Prediction(**{**own, "at": own["at"].replace(tzinfo=UTC)})


def expire(engine: sa.Engine, before: datetime) -> int:
    """Removes rows from before a moment (aware), the oldest first and `BATCH` at most; how many."""
    old = sa.select(PREDICTIONS.c.id).where(PREDICTIONS.c.at < _naive(before)).order_by(PREDICTIONS.c.at).limit(BATCH)
    with writing(engine) as connection:
        return connection.execute(sa.delete(PREDICTIONS).where(PREDICTIONS.c.id.in_(old))).rowcount


def expired(engine: sa.Engine, before: datetime) -> int:
    """How many rows are from before a moment (aware)."""
    query = sa.select(sa.func.count()).select_from(PREDICTIONS).where(PREDICTIONS.c.at < _naive(before))
    with engine.connect() as connection:
        return int(connection.scalar(query) or 0)


def expire_all(engine: sa.Engine, before: datetime) -> int:
    """Removes every row from before a moment (aware), by the turn in which a server does so; how many. Raises DermaNetError."""
    removed = 0
    with turn(engine, TURN):
        while gone := expire(engine, before):
            removed += gone
            time.sleep(BREATH)
    return removed


_FIELDS = tuple(field.name for field in fields(Prediction))
_TYPES = (PREDICTIONS.c.at.type, PREDICTIONS.c.id.type)


def _add(engine: sa.Engine, batch: Sequence[Prediction]) -> int:
    """Writes rows, and returns how many no database would take: one of those shall not hold up the rest for ever."""
    try:
        _insert(engine, batch)
    except Exception as error:
        if not _hopeless(error):
            raise
        if len(batch) == 1:
            log.error("a prediction could not be written: %s", type(error).__name__)
            return 1
        half = len(batch) // 2
        return _add(engine, batch[:half]) + _add(engine, batch[half:])
    return 0


def _insert(engine: sa.Engine, batch: Sequence[Prediction]) -> None:
    dialect = postgresql if engine.dialect.name == "postgresql" else sqlite
    # Where the answer to a commit was lost, the rows are there already.
    statement = dialect.insert(PREDICTIONS).on_conflict_do_nothing()
    digests = {prediction.digest for prediction in batch}
    with writing(engine) as connection:
        # Forgotten while it was on its way here, or asked for again: an image that was forgotten leaves no row.
        query = sa.select(FORGOTTEN.c.digest).where(FORGOTTEN.c.digest.in_(digests))
        forgotten = set(connection.scalars(query))
        rows = [{**asdict(one), "at": _naive(one.at)} for one in batch if one.digest not in forgotten]
        if rows:
            connection.execute(statement, rows)


def _hopeless(error: Exception) -> bool:
    """Whether an error lies in a row, so that another attempt would end the same."""
    if isinstance(error, sa.exc.DBAPIError):
        return isinstance(error, sa.exc.DataError | sa.exc.IntegrityError)
    return isinstance(error, sa.exc.StatementError | ValueError | TypeError | OverflowError)


def _probabilities(row: Mapping[str, Any]) -> dict[str, dict[str, float]] | None:
    if not row["sex_probabilities"]:
        return None
    # More digits than a monitor can use would be half of the table.
    heads = {head: row[f"{head}_probabilities"] for head in ("sex", "diagnosis")}
    return {head: {name: round(float(p), 5) for name, p in found.items()} for head, found in heads.items()}


def _number(value: float | None) -> float | None:
    return None if value is None else float(value)


def _naive(moment: datetime) -> datetime:
    """As both databases keep it: UTC, and not said."""
    return moment.astimezone(UTC).replace(tzinfo=None)


def _first_line(error: Exception) -> str:
    return next(iter(str(getattr(error, "orig", error)).splitlines()), "no reason given")
