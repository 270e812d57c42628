"""What every command writes with: lines for people on standard error, records on standard output, bars while something takes long."""

import json
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import FrameType
from typing import Annotated, Any

import typer
from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)

err = Console(stderr=True, highlight=False, soft_wrap=True)
out = Console(highlight=False, soft_wrap=True)

Json = Annotated[bool, typer.Option("--json", help="One JSON object on standard output.")]
ExperimentName = Annotated[
    str,
    typer.Option(
        "--experiment",
        "-e",
        help="What to try (default DERMANET_EXPERIMENT): probe, finetune, plain, plain128, …; `NAME:field=value,…` changes fields.",
    ),
]
RunId = Annotated[str, typer.Argument(help="The MLflow run, as `train` prints it.")]
SnapshotId = Annotated[str, typer.Argument(help="The snapshot, as `snapshot` prints it.")]


def bar_of(what: str) -> Progress:
    """A bar on standard error, which counts `what` is done; it leaves nothing behind where that is no terminal."""
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=err, transient=not err.is_terminal)


@contextmanager
def told_when_ended() -> Iterator[None]:
    """A polite kill interrupts meanwhile as Ctrl-C does, so that what is under way in MLflow is told its end."""
    before = signal.signal(signal.SIGTERM, _interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt


@contextmanager
def training_bar() -> Iterator[Callable[[int, int], None] | None]:
    """What moves a bar with every batch, from the first one on; None where standard error is no terminal: lines are enough there."""
    with _lasting("training", "batches, at most") as move:
        yield move


@contextmanager
def images_bar() -> Iterator[Callable[[int, int], None] | None]:
    """The same with every image that is answered, of all there are."""
    with _lasting("answering", "images") as move:
        yield move


@contextmanager
def _lasting(what: str, of: str) -> Iterator[Callable[[int, int], None] | None]:
    if not err.is_terminal:
        yield None
        return
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TextColumn(of))
    bar = Progress(*columns, TimeRemainingColumn(), TextColumn("left"), console=err, transient=True)
    tasks: list[TaskID] = []

    def move(done: int, most: int) -> None:
        # Started late, so that nothing moves before there is something to see, and what an earlier call did is not counted as speed.
        if not tasks:
            tasks.append(bar.add_task(what, total=most, completed=done))
            bar.start()
        bar.update(tasks[0], completed=done)

    try:
        yield move
    finally:
        bar.stop()


def say(line: str) -> None:
    """A line for a person."""
    err.print(line, markup=False)


def print_json(record: Any) -> None:
    """One JSON object on one line; a number that JSON does not have is a fault."""
    print(json.dumps(record, allow_nan=False))


def print_record(record: dict[str, Any], as_json: bool) -> None:
    """What a stage returned: as JSON, or a line for each of its names."""
    if as_json:
        return print_json(record)
    for name, value in record.items():
        out.print(f"{name}: {value}", markup=False)
