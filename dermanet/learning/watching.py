"""What a training tells to whoever watches it."""

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import timedelta
from typing import Any

from dermanet.learning.quiet import keras

Epoch = dict[str, float]
"""The figures of one epoch: `loss`, `val_loss`, `age_mae`, `val_age_mae`, `sex_accuracy`, …"""

Say = Callable[[str], None]
"""Takes one line."""

OnEpoch = Callable[[list[Epoch]], None]
"""Takes the whole history after every epoch, also of epochs from before a kill; and once before the first."""

OnBatch = Callable[[int, int], None]
"""Takes how many batches of all epochs are done, and of how many at most; it may be called from another thread."""


class BatchReport(keras.callbacks.Callback):
    """Tells after every training batch how far the training is."""

    async_safe = True
    """Keras may call it beside the training, so that no device waits for a picture of its progress."""

    def __init__(self, on_batch: OnBatch) -> None:
        super().__init__()
        self._on_batch = on_batch
        self._epoch = 0

    def on_epoch_begin(self, epoch: int, logs: dict[str, Any] | None = None) -> None:
        """Keras calls this with the number of the epoch that begins, counted from 0."""
        self._epoch = epoch

    def on_train_batch_end(self, batch: int, logs: dict[str, Any] | None = None) -> None:
        """Keras calls this with the number of the batch that ended, counted from 0."""
        steps = self.params["steps"]
        self._on_batch(self._epoch * steps + batch + 1, self.params["epochs"] * steps)


@dataclass(frozen=True, slots=True)
class Watch:
    """Those who watch a training."""

    on_epoch: OnEpoch = lambda history: None
    on_batch: OnBatch | None = None
    say: Say = lambda line: None

    def callbacks(self) -> list[keras.callbacks.Callback]:
        """What Keras shall call."""
        return [BatchReport(self.on_batch)] if self.on_batch else []

    def of_part(self, before: Sequence[Epoch], place: int, parts: int) -> "Watch":
        """For the training of the part at `place` of `parts`: its epochs and batches follow on those of the others."""
        past, told = list(before), self.on_batch
        return replace(
            self,
            on_epoch=lambda history: self.on_epoch(past + history),
            on_batch=None if told is None else lambda done, most: told(place * most + done, parts * most),
        )


UNWATCHED = Watch()


def counted(say: Say, what: str, every: float = 10.0) -> Callable[[int, int], None]:
    """Turns counts into a line now and then, with the time left: at most one in `every` seconds."""
    since, before = time.monotonic(), 0

    def count(done: int, total: int) -> None:
        nonlocal since, before
        now = time.monotonic()
        if now - since < every:
            return
        # By the pace since the last line: the next backbone has one of its own, and what is kept already takes no time.
        pace = (now - since) / (done - before) if done > before else None
        left = f", {timedelta(seconds=round((total - done) * pace))} left" if pace else ""
        say(f"{what}: {done} of {total}{left}")
        since, before = now, done

    return count
