"""Verdicts on windows of the log, each kept once: whoever judges a window again is told what stands."""

from dataclasses import asdict, dataclass, replace
from datetime import UTC, datetime, timedelta
from typing import Any

import sqlalchemy as sa

from dermanet.database import patience
from dermanet.database.schema import IMAGES, ORIGINALS, PREDICTIONS, WINDOWS
from dermanet.monitoring.predictions import Prediction, prediction_of

TURN = "monitoring"
"""Whose turn judging is: two at once would ask twice."""


@dataclass(frozen=True, slots=True)
class Window:
    """One version in one window. `start`: aware; `version`: empty where nobody answered; `record`: what was seen, plain JSON.

    `at`: when it was judged, ISO 8601; `report`: MLflow's run with the page, empty before there is one.
    """

    start: datetime
    days: int
    version: str
    verdict: str
    images: int
    record: dict[str, Any]
    at: str = ""
    dag_run: str = ""
    report: str = ""

    @property
    def end(self) -> datetime:
        """Where the next one begins."""
        return self.start + timedelta(days=self.days)

    @property
    def name(self) -> str:
        """As people call it."""
        return name_of(self.start, self.days)


def name_of(start: datetime, days: int) -> str:
    """What a window is called: its day, or its first and last."""
    last = start + timedelta(days=days - 1)
    return f"{start:%Y-%m-%d}" if days == 1 else f"{start:%Y-%m-%d} to {last:%Y-%m-%d}"


def keep(engine: sa.Engine, window: Window) -> Window:
    """Keeps a window and returns it; one that is kept already is returned as it was judged first."""
    made = replace(window, at=datetime.now(UTC).isoformat(timespec="seconds"))

    def kept(connection: sa.Connection) -> Window:
        row = connection.execute(sa.select(WINDOWS).where(_same(window))).first()
        if row is None:
            connection.execute(sa.insert(WINDOWS).values(**{**asdict(made), "start": _naive(made.start)}))
        return _window(row) if row else made

    return patience.write(engine, kept)


def reported(engine: sa.Engine, start: datetime, days: int, run_id: str) -> None:
    """Notes where the report on a window is, for all versions in it."""
    ours = WINDOWS.c.start == _naive(start), WINDOWS.c.days == days
    change = sa.update(WINDOWS).where(*ours).values(report=run_id)
    patience.write(engine, lambda connection: connection.execute(change))


def every(engine: sa.Engine, days: int, since: datetime | None = None) -> list[Window]:
    """All kept windows of so many days from a moment (aware) on, in the order of time."""
    chosen = sa.select(WINDOWS).where(WINDOWS.c.days == days)
    if since is not None:
        chosen = chosen.where(WINDOWS.c.start >= _naive(since))
    rows = patience.read(engine, lambda c: c.execute(chosen.order_by(WINDOWS.c.start, WINDOWS.c.version)).all())
    return [_window(row) for row in rows]


def judged_in(engine: sa.Engine, dag_run: str) -> list[Window]:
    """The windows that were judged in a run of Airflow."""
    chosen = sa.select(WINDOWS).where(WINDOWS.c.dag_run == dag_run).order_by(WINDOWS.c.start, WINDOWS.c.version)
    return [_window(row) for row in patience.read(engine, lambda c: c.execute(chosen).all())]


def first_prediction(engine: sa.Engine) -> datetime | None:
    """The moment of the log's oldest row."""
    query = sa.select(sa.func.min(PREDICTIONS.c.at))
    found = patience.read(engine, lambda connection: connection.scalar(query))
    return found.replace(tzinfo=UTC) if found else None


def labelled(engine: sa.Engine, version: str, until: datetime) -> dict[str, Prediction]:
    """What a version answered last, up to a moment (aware), for each image that is in the catalogue by now, by the image's digest.

    An image is found by the digest of its file as it came, or as it is stored.
    """
    answered = sa.select(PREDICTIONS).where(
        PREDICTIONS.c.version == version, PREDICTIONS.c.error.is_(None), PREDICTIONS.c.at < _naive(until)
    )
    stored = answered.join(IMAGES, IMAGES.c.digest == PREDICTIONS.c.digest)
    came = answered.join(ORIGINALS, ORIGINALS.c.original == PREDICTIONS.c.digest)
    ways = stored.add_columns(IMAGES.c.digest.label("image")), came.add_columns(ORIGINALS.c.digest.label("image"))

    def read(connection: sa.Connection) -> dict[str, Prediction]:
        rows = [row._mapping for way in ways for row in connection.execute(way)]
        rows.sort(key=lambda row: (row["at"], row["id"]))
        return {row["image"]: prediction_of(row) for row in rows}

    return patience.read(engine, read)


def answered_images(engine: sa.Engine, version: str, until: datetime) -> int:
    """How many different images a version answered up to a moment (aware), as far back as the log goes."""
    count = sa.select(sa.func.count(sa.distinct(PREDICTIONS.c.digest)))
    ours = PREDICTIONS.c.version == version, PREDICTIONS.c.error.is_(None), PREDICTIONS.c.at < _naive(until)
    return int(patience.read(engine, lambda connection: connection.scalar(count.where(*ours))) or 0)


def _same(window: Window) -> sa.ColumnElement[bool]:
    return sa.and_(
        WINDOWS.c.start == _naive(window.start), WINDOWS.c.days == window.days, WINDOWS.c.version == window.version
    )


def _window(row: sa.Row[Any]) -> Window:
    return Window(**{**row._mapping, "start": row.start.replace(tzinfo=UTC)})


def _naive(moment: datetime) -> datetime:
    return moment.astimezone(UTC).replace(tzinfo=None)
