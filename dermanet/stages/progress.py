"""What people are told of a training under way: one line an epoch, with the time that is left."""

import time
from collections.abc import Callable, Mapping, Sequence
from datetime import timedelta
from statistics import median

History = Sequence[Mapping[str, float]]
RECENT = 5
"""How many of the last epochs say how long one takes, without the first: that one also pays for building the network."""


class EpochReport:
    """Called after each epoch with the history so far: hands it to `keep`, and a line with the time left to `progress`."""

    def __init__(
        self, keep: Callable[[History], None], epochs: int, patience: int, progress: Callable[[str], None]
    ) -> None:
        self._keep, self._epochs, self._patience, self._progress = keep, epochs, patience, progress
        self._took: list[float] = []
        self._since: float | None = None
        self._told = 0

    def __call__(self, history: History) -> None:
        """The first call, before the first epoch, brings what an earlier training of the same work had come to.

        One that brings nothing new begins the next network of a training of several: what went before it was no epoch.
        """
        self._keep(history)
        now = time.monotonic()
        if self._since is not None and len(history) > self._told:
            self._took.append(now - self._since)
            line = f"{epoch_line(history, self._epochs)}; {self._time_left(history)}"
            self._progress(line)
        elif history and self._since is None:
            self._progress(f"resumes after epoch {len(history)}")
        self._since, self._told = now, len(history)

    def _time_left(self, history: History) -> str:
        one = median(self._took[1:][-RECENT:] or self._took)
        most = self._epochs - len(history)
        fewest = min(most, self._patience - (len(history) - best_epoch(history)))
        if fewest <= 0:
            return f"{one:.1f} s an epoch, ended"
        unless = f", {spoken(fewest * one)} if nothing gets better" if fewest < most else ""
        return f"{one:.1f} s an epoch, {spoken(most * one)} left at most{unless}"


def epoch_line(history: History, epochs: int | None = None) -> str:
    """The last of the epochs so far as one line for people; `epochs`: how many there are at most, where that is known."""
    last, done = history[-1], len(history)
    best = best_epoch(history)
    age = f"age error {last['val_age_mae']:.1f} years, " if "val_age_mae" in last else ""
    mark = "best so far" if best == done else f"best {history[best - 1]['val_loss']:.3f} in epoch {best}"
    return (
        f"epoch {done}{f' of {epochs}' if epochs else ''}: validation loss {last['val_loss']:.3f} ({mark}), "
        f"{age}sex {last['val_sex_accuracy']:.3f}, diagnosis {last['val_diagnosis_accuracy']:.3f}"
    )


def best_epoch(history: History) -> int:
    """The epoch with the least validation loss, counted from 1; the first of several."""
    losses = [epoch["val_loss"] for epoch in history]
    return losses.index(min(losses)) + 1


def spoken(seconds: float) -> str:
    """A time as h:mm:ss."""
    return str(timedelta(seconds=round(seconds)))
