"""Starting the processes that train together, watching them, and ending them all when one fails."""

import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from dermanet.errors import BadInput, DermaNetError
from dermanet.experiment import Experiment
from dermanet.settings import Settings
from dermanet.stages.lineage import CHAMPION
from dermanet.stages.member import EPOCHS, Task

History = list[dict[str, float]]

START = "from dermanet.stages.member import main; main()"

BACKENDS = {"tensorflow": "requirements.lock", "jax": "requirements-jax.lock", "torch": "PyTorch"}
"""What Keras can train on, and what to install for it."""

LOOK = 0.1
"""Seconds between two looks at the members."""

LOOPBACK = "127.0.0.1"

GRACE = 5.0
"""Seconds that members have to end by themselves before they are killed."""


@dataclass(frozen=True)
class Member:
    """One process that this stage has started, and the file of what it says."""

    task: Task
    process: "subprocess.Popen[bytes]"
    log: Path

    @property
    def name(self) -> str:
        """Who it is, for people."""
        return f"process {self.task.index} of {self.task.count}"

    def story(self) -> str:
        """How it ended, its last line with it."""
        status = self.process.returncode
        how = f"was killed ({signal.Signals(-status).name})" if status < 0 else f"ended with status {status}"
        lines = self.log.read_text(errors="replace").strip().splitlines()
        return f"{self.name} {how}" + (f": {lines[-1]}" if lines and status >= 0 else "")


def train(
    here: Settings, snapshot: str, chosen: Experiment, workdir: Path, on_epoch: Callable[[History], None]
) -> None:
    """Trains every epoch in `here.processes` processes on JAX: all of them here, or this machine's one of several machines'.

    `on_epoch` gets the whole history at the start and after every epoch, on the first process's machine. However this ends, no
    member is left. Whoever calls has asked `require_possible`. Raises BadInput where a member says that the input is wrong;
    DermaNetError where one fails: called again, all go on from the last whole epoch.
    """
    workdir.mkdir(parents=True, exist_ok=True)
    epochs = _Epochs(workdir / EPOCHS, on_epoch)
    with ExitStack() as stack:
        members = [stack.enter_context(_started(task, here)) for task in _tasks(here, snapshot, chosen, workdir)]
        while any(member.process.poll() is None for member in members):
            _require_sound(members)
            epochs.tell()
            time.sleep(LOOK)
        _require_sound(members)
        epochs.tell()


def require_backend() -> None:
    """Raises BadInput where Keras cannot train on what `KERAS_BACKEND` names; asked before anything takes time."""
    name = os.environ.get("KERAS_BACKEND", "")
    if name and name not in BACKENDS:
        raise BadInput(
            f"KERAS_BACKEND={name!r}; allowed are {', '.join(BACKENDS)} (docs/distributed.md), or unset KERAS_BACKEND"
        )
    if name and importlib.util.find_spec(name) is None:
        raise BadInput(
            f"KERAS_BACKEND={name}, which is not installed here; install {BACKENDS[name]} (docs/distributed.md), or unset "
            "KERAS_BACKEND"
        )


def require_possible(here: Settings, chosen: Experiment) -> None:
    """Raises BadInput where nothing can train this as Keras or several processes are set; asked before anything takes time."""
    require_backend()
    if here.coordinator and chosen.start == CHAMPION:
        raise BadInput(
            "start=champion is for the processes of one machine; with DERMANET_COORDINATOR begin with imagenet, or unset it"
        )
    if here.processes and chosen.method != "probe" and importlib.util.find_spec("jax") is None:
        raise BadInput(
            f"DERMANET_PROCESSES={here.processes} trains on JAX, which is not installed here; install requirements-jax.lock "
            "(docs/distributed.md), or unset DERMANET_PROCESSES"
        )


class _Epochs:
    """What the first member tells of its epochs, handed on once each."""

    def __init__(self, path: Path, on_epoch: Callable[[History], None]) -> None:
        path.unlink(missing_ok=True)
        self._path, self._on_epoch, self._told = path, on_epoch, -1

    def tell(self) -> None:
        if not self._path.exists():
            return
        history = json.loads(self._path.read_text())
        if len(history) > self._told:
            self._told = len(history)
            self._on_epoch(history)


def _tasks(here: Settings, snapshot: str, chosen: Experiment, workdir: Path) -> list[Task]:
    """One for each member that this machine starts."""
    address = here.coordinator or f"{LOOPBACK}:{_free_port()}"
    indices = [here.process] if here.coordinator else range(here.processes)
    return [Task(snapshot, chosen.as_dict(), str(workdir), address, index, here.processes) for index in indices]


def _free_port() -> int:
    """Free when it was looked for: should somebody else take it meanwhile, the members say so and the stage is run again."""
    with socket.socket() as probe:
        probe.bind((LOOPBACK, 0))
        return int(probe.getsockname()[1])


@contextmanager
def _started(task: Task, here: Settings) -> Iterator[Member]:
    """A member at work; ended with the block."""
    log = Path(task.workdir) / f"member-{task.index}.log"
    # Without its own session a Ctrl-C would reach it too, and it would say so at length.
    with log.open("wb") as said:
        process = subprocess.Popen(
            [sys.executable, "-c", START, task.as_json()],
            stdin=subprocess.PIPE, stdout=said, stderr=said, env=_environment(task, here), start_new_session=True,
        )  # fmt: skip
    try:
        yield Member(task, process, log)
    finally:
        _end(process)


def _environment(task: Task, here: Settings) -> dict[str, str]:
    own = {"KERAS_BACKEND": "jax", "TF_CPP_MIN_LOG_LEVEL": "3"}
    if not here.coordinator:
        # JAX would listen on every address of the machine.
        own["JAX_COORDINATOR_BIND_ADDRESS"] = task.coordinator
    return {**os.environ, **own}


def _end(process: "subprocess.Popen[bytes]") -> None:
    assert process.stdin is not None
    process.stdin.close()
    try:
        process.wait(GRACE)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _require_sound(members: list[Member]) -> None:
    failed = [member for member in members if member.process.poll() not in (None, 0)]
    if not failed:
        return
    stories = "; ".join(member.story() for member in failed)
    if any(member.process.returncode == BadInput.exit_status for member in failed):
        raise BadInput(stories)
    raise DermaNetError(
        f"{stories}; run this again: all go on from the last whole epoch (what they said: {failed[0].log.parent}/member-*.log)"
    )
