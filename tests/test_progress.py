"""What people are told of a training: the lines of its epochs, the time that is left, a bar that moves on a terminal alone."""

import io
from collections.abc import Callable

import pytest
from rich.console import Console

from dermanet.cli import console as commands
from dermanet.learning import watching
from dermanet.stages import progress
from dermanet.stages.progress import EpochReport, History, epoch_line, spoken


def epochs(*losses: float) -> list[dict[str, float]]:
    return [
        {"val_loss": loss, "val_age_mae": 9.04, "val_sex_accuracy": 0.5, "val_diagnosis_accuracy": 0.25}
        for loss in losses
    ]


def test_a_line_says_which_epoch_and_which_was_best() -> None:
    assert epoch_line(epochs(3.0, 2.5), 100) == (
        "epoch 2 of 100: validation loss 2.500 (best so far), age error 9.0 years, sex 0.500, diagnosis 0.250"
    )
    assert "epoch 3: validation loss 2.500 (best 2.500 in epoch 2)" in epoch_line(epochs(3.0, 2.5, 2.5))


def test_a_line_without_a_known_age_says_nothing_of_it() -> None:
    told = [{name: value for name, value in epoch.items() if name != "val_age_mae"} for epoch in epochs(3.0)]
    assert epoch_line(told) == "epoch 1: validation loss 3.000 (best so far), sex 0.500, diagnosis 0.250"


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    """Sets the time that the report reads."""
    now = [0.0]
    for reader in (progress, watching):
        monkeypatch.setattr(reader.time, "monotonic", lambda: now[0])
    return lambda seconds: now.__setitem__(0, seconds)


def test_the_time_left_is_that_of_the_epochs_left_and_ends_sooner_where_nothing_gets_better(
    clock: Callable[[float], None],
) -> None:
    lines: list[str] = []
    kept: list[History] = []
    report = EpochReport(lambda history: kept.append(list(history)), 100, 4, lines.append)
    report([])
    assert lines == [] and kept == [[]]
    for seconds, losses in ((60, [3]), (70, [3, 2]), (80, [3, 2, 2.5]), (100, [3, 2, 2.5, 2.5, 2.5, 2.5])):
        clock(seconds)
        report(epochs(*losses))
    assert [line.partition("; ")[2] for line in lines] == [
        "60.0 s an epoch, 1:39:00 left at most, 0:04:00 if nothing gets better",
        "10.0 s an epoch, 0:16:20 left at most, 0:00:40 if nothing gets better",
        "10.0 s an epoch, 0:16:10 left at most, 0:00:30 if nothing gets better",
        "10.0 s an epoch, ended",
    ]


def test_a_resumed_training_counts_only_its_own_epochs(clock: Callable[[float], None]) -> None:
    lines: list[str] = []
    report = EpochReport(lambda history: None, 10, 10, lines.append)
    report(epochs(3.0, 2.9, 2.8))
    clock(7)
    report(epochs(3.0, 2.9, 2.8, 2.7))
    assert lines[0] == "resumes after epoch 3" and lines[1].endswith("; 7.0 s an epoch, 0:00:42 left at most")


def test_the_next_network_begins_without_a_word_and_its_start_is_no_epoch(clock: Callable[[float], None]) -> None:
    lines: list[str] = []
    report = EpochReport(lambda history: None, 10, 10, lines.append)
    for seconds, losses in ((0, []), (5, [3.0]), (10, [3.0, 2.9]), (60, [3.0, 2.9]), (65, [3.0, 2.9, 2.8])):
        clock(seconds)
        report(epochs(*losses))
    assert [line.partition(":")[0] for line in lines] == ["epoch 1 of 10", "epoch 2 of 10", "epoch 3 of 10"]
    assert lines[-1].endswith("; 5.0 s an epoch, 0:00:35 left at most")


def test_counts_are_a_line_now_and_then_with_the_time_that_their_pace_leaves(clock: Callable[[float], None]) -> None:
    lines: list[str] = []
    count = watching.counted(lines.append, "features")
    # The second half costs twice as much.
    for seconds, done in (
        (0, 0),
        (9, 900),
        (10, 1000),
        (15, 1500),
        (20, 2000),
        (40, 3000),
        (45, 3250),
        (60, 4000),
        (70, 4000),
    ):
        clock(seconds)
        count(done, 4000)
    assert lines == [
        "features: 1000 of 4000, 0:00:30 left", "features: 2000 of 4000, 0:00:20 left", "features: 3000 of 4000, 0:00:20 left",
        "features: 4000 of 4000, 0:00:00 left", "features: 4000 of 4000",
    ]  # fmt: skip


def test_hours_are_spoken_as_hours() -> None:
    assert [spoken(seconds) for seconds in (0.4, 61, 36_061)] == ["0:00:00", "0:01:01", "10:01:01"]


@pytest.mark.parametrize("terminal", [True, False])
def test_a_bar_moves_on_a_terminal_alone(terminal: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    console = Console(file=io.StringIO(), force_terminal=terminal, width=100)
    monkeypatch.setattr(commands, "err", console)
    with commands.training_bar() as on_batch:
        assert (on_batch is not None) == terminal
        if on_batch:
            on_batch(41, 90)
            on_batch(42, 90)
    assert isinstance(console.file, io.StringIO)
    assert ("42/90" in console.file.getvalue()) == terminal
