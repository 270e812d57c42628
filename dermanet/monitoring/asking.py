"""Which windows there are, which are due, and whether together they ask for a retrain: pure functions of moments and verdicts."""

from collections.abc import Collection, Sequence
from datetime import UTC, datetime, timedelta

from dermanet.monitoring.drift import Word
from dermanet.monitoring.limits import Asks

FIRST = datetime(1970, 1, 5, tzinfo=UTC)
"""A Monday: windows of a week begin on Mondays."""

SETTLED = timedelta(minutes=15)
"""How long after its end a window is complete: rows reach the log in seconds, unless its database was away."""


def start_of(moment: datetime, days: int) -> datetime:
    """When the window of so many days began that holds a moment (aware)."""
    return moment - (moment - FIRST) % timedelta(days=days)


def complete(since: datetime, until: datetime, days: int) -> list[datetime]:
    """The starts of all windows that lie wholly between two moments (aware), the first one first."""
    start, length = start_of(since, days), timedelta(days=days)
    start = start if start >= since else start + length
    found = []
    while start + length <= until:
        found.append(start)
        start += length
    return found


def latest(now: datetime, days: int) -> datetime:
    """The start of the last window that is complete at a moment (aware)."""
    return start_of(now - SETTLED, days) - timedelta(days=days)


def due(first: datetime | None, now: datetime, days: int, kept: Collection[datetime], retention: int) -> list[datetime]:
    """The starts of the windows to be judged: complete, not `kept` yet, with rows that are all still there.

    `first`: the moment of the log's first row, or None; then it is the latest complete window alone. `retention`: the days that the
    log goes back; 0: it is switched off.
    """
    last = latest(now, days)
    if first is None:
        return [] if last in kept else [last]
    back = reach(first, now, days, retention)
    return [start for start in sorted({*complete(back, now - SETTLED, days), last}) if start not in kept]


def reach(first: datetime, now: datetime, days: int, retention: int) -> datetime:
    """From which moment on windows have rows that are all still there; arguments as those of `due`."""
    began = start_of(first, days)
    return max(began, now - timedelta(days=retention)) if retention else began


def asking(
    rule: Asks, words: Sequence[tuple[datetime, Word]], last: datetime, days: int, since: datetime | None = None
) -> list[datetime]:
    """The windows that ask for a retrain: `windows` of the `of` up to the `last`, that one among them; none where they do not.

    `words`: what was said of one version's windows, in any order. `since`: windows that began before it count no more.
    """
    begin = last - timedelta(days=days) * (rule.of - 1)
    over = sorted(
        start
        for start, word in words
        if word == "drift" and begin <= start <= last and (since is None or start >= since)
    )
    return over if len(over) >= rule.windows and over[-1] == last else []
