"""What a training tells within an epoch, to whoever wants to see it move."""

from collections.abc import Callable
from typing import Any

import keras

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
