"""One of the processes that train together; `members` starts it with its task as the one argument.

It ends when its standard input does, so that nothing that ends the stage, SIGKILL included, leaves it behind.
"""

import json
import os
import sys
import threading
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from dermanet import experiment, settings
from dermanet.errors import DermaNetError
from dermanet.stages.rooms import features_root, frozen_snapshot, prepared_root

EPOCHS = "epochs.json"
"""Where the first member tells of its epochs, in the training's folder."""


@dataclass(frozen=True, slots=True)
class Task:
    """What a member is to do: which training, and who it is among how many. Plain JSON, so that it fits a command line."""

    snapshot: str
    experiment: dict[str, Any]
    workdir: str
    coordinator: str
    index: int
    count: int

    def as_json(self) -> str:
        """The task as one line."""
        return json.dumps(asdict(self))


def take_part(task: Task) -> None:
    """Trains its share of every epoch, with pixels that are prepared already."""
    from dermanet.learning.distribution import together
    from dermanet.learning.train import Sides, learn
    from dermanet.learning.watching import Watch
    from dermanet.pixels.prepared import PreparedPixels
    from dermanet.pixels.preprocess import recipe

    here, chosen, workdir = settings.read(), experiment.from_dict(task.experiment), Path(task.workdir)
    frozen = frozen_snapshot(here, task.snapshot)
    pixels = PreparedPixels(prepared_root(here), recipe(chosen.recipe))
    with together(task.coordinator, task.index, task.count):
        sides = Sides(frozen.taxonomy.codes, frozen.train, frozen.validation, pixels)
        learn(chosen, sides, workdir, features_root(here), Watch(lambda history: _tell(workdir / EPOCHS, history)))


def _tell(path: Path, history: list[dict[str, float]]) -> None:
    temporary = path.with_suffix(".tmp")
    temporary.write_text(json.dumps(history))
    os.replace(temporary, path)


def _end_with_the_stage() -> None:
    # Not by Python's own file: its lock, held by this thread, would be waited for when the interpreter ends.
    os.read(0, 1)
    os._exit(1)


def main() -> None:
    """Takes part; ends with the status of a command, its reason on standard error."""
    threading.Thread(target=_end_with_the_stage, daemon=True).start()
    try:
        take_part(Task(**json.loads(sys.argv[1])))
    except DermaNetError as error:
        print(error, file=sys.stderr, flush=True)
        # At once: JAX would wait at its exit for members that wait for this one.
        os._exit(error.exit_status)
