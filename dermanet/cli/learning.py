"""Commands about models: trained, searched, evaluated, judged, registered."""

from typing import Annotated, Any

import typer
from rich.table import Column, Table

from dermanet import stages
from dermanet.cli.console import (
    ExperimentName,
    Json,
    RunId,
    SnapshotId,
    err,
    out,
    print_json,
    print_record,
    say,
    told_when_ended,
    training_bar,
)

commands = typer.Typer()


@commands.command(epilog="Example: dermanet retrain ./HAM10000 ./isic2018_task3 --experiment probe")
def retrain(
    sources: Annotated[
        list[str] | None, typer.Argument(help="Sources to take in first; none: train on what is catalogued.")
    ] = None,
    experiment: ExperimentName = "",
    fresh: Annotated[
        str,
        typer.Option(
            "--fresh", help="A word of your own: train anew even if this snapshot and experiment were trained."
        ),
    ] = "",
    accept_data: Annotated[
        str, typer.Option("--accept-data", help="Let anomalous data pass: why, kept with your name.")
    ] = "",
    as_json: Json = False,
) -> None:
    """Every stage up to the verdict and, if it passes, the registered and promoted version."""
    with told_when_ended(), training_bar() as on_batch:
        record = stages.retrain(sources or (), experiment, fresh, say, accept_data, on_batch)
    if as_json:
        print_json(record)
    else:
        _print_figures(record, record["metrics"])
        _print_checks(record, record["gates"])
        now = {"promote": "now champion", "ask": f"waiting for you: dermanet promote {record['version']}"}
        way = now.get(record["promotion"]["way"], f"not served until you promote it: {record['promotion']['because']}")
        err.print(
            f"registered as version {record['version']}, {way}"
            if record["version"]
            else "not registered; the champion stays",
            markup=False,
        )
    raise typer.Exit(0 if record["version"] else 3)


@commands.command(epilog="Example: dermanet train 3f0c9a7e1b2d4c55 --experiment plain128:epochs=10")
def train(snapshot_id: SnapshotId, experiment: ExperimentName = "", as_json: Json = False) -> None:
    """Train on a snapshot and log the model; killed and called again, it resumes."""
    with told_when_ended(), training_bar() as on_batch:
        done = stages.train(snapshot_id, experiment, progress=say, on_batch=on_batch)
    print_record(done, as_json)


@commands.command(epilog="Example: dermanet evaluate 9f1c0b7a2e4d5c63 --open")
def evaluate(
    run_id: RunId,
    show: Annotated[bool, typer.Option("--open", help="Open the page of the evaluation in the browser.")] = False,
    as_json: Json = False,
) -> None:
    """Score a run's model, the champion and the trivial baseline on the same holdout, whole and in slices."""
    record = stages.evaluate(run_id)
    if show:
        typer.launch(stages.evaluation_page(run_id))
    if as_json:
        return print_json(record)
    _print_figures(record, record["candidate"])
    if record["flips"]:
        err.print(record["flips"]["sentence"], markup=False)


@commands.command(epilog="Example: dermanet judge 9f1c0b7a2e4d5c63")
def judge(run_id: RunId, as_json: Json = False) -> None:
    """Apply the gates to a run's evaluation; ends with 3 unless the verdict is a pass or the gates only watch."""
    record = stages.judge(run_id)
    if as_json:
        print_json(record)
    else:
        _print_checks(record, record["mode"])
    raise typer.Exit(0 if record["registers"] else 3)


@commands.command(epilog="Example: dermanet register 9f1c0b7a2e4d5c63")
def register(run_id: RunId, as_json: Json = False) -> None:
    """Register a run's model; ends with 3 unless its verdict is a pass or the gates only watch."""
    print_record(stages.register(run_id), as_json)


@commands.command(
    epilog="Examples: dermanet search ./HAM10000 --experiment plain128   |   "
    "dermanet search -e plain128 --space 'learning_rate=1e-4..1e-2:log,batch_size=16|32' --objective diagnosis_f1_macro   |   "
    "dermanet search --snapshot 3f0c9a7e1b2d4c55 --trials 40 --jobs 1"
)
def search(
    sources: Annotated[
        list[str] | None, typer.Argument(help="Sources to take in first; none: search on what is catalogued.")
    ] = None,
    experiment: ExperimentName = "",
    snapshot_id: Annotated[str, typer.Option("--snapshot", help="A snapshot to search on, instead of sources.")] = "",
    space: Annotated[
        str, typer.Option("--space", help="What to change: a YAML file, or field=low..high[:log],field=a|b|c.")
    ] = "",
    objective: Annotated[
        str,
        typer.Option("--objective", help="`loss`, or a figure of the validation side: diagnosis_f1_macro, age_mae, …"),
    ] = "loss",
    trials: Annotated[int, typer.Option("--trials", help="Trials in all, earlier ones included.", min=1)] = 20,
    jobs: Annotated[
        int, typer.Option("--jobs", help="Trials side by side; 0: as many as cores and memory hold.", min=0)
    ] = 0,
    accept_data: Annotated[
        str, typer.Option("--accept-data", help="Let anomalous data pass: why, kept with your name.")
    ] = "",
    as_json: Json = False,
) -> None:
    """Try many experiments, judge them on the validation side, print the best; called again, it goes on where it stopped."""
    with told_when_ended():
        found = stages.search(
            snapshot_id, experiment, space, objective, trials, jobs,
            lambda line: err.print(line, markup=False), sources or (), accept_data,
        )  # fmt: skip
    print_json(found) if as_json else _print_study(found)


@commands.command("trials", epilog="Example: dermanet trials   |   dermanet trials 9f1c0b7a2e4d5c63")
def list_trials(
    study: Annotated[str, typer.Argument(help="The study, as `search` prints it; none: the studies there are.")] = "",
    as_json: Json = False,
) -> None:
    """The trials of a search as a table, or all searches."""
    found = stages.trials(study) if study else stages.searches()
    if as_json:
        return print_json(found)
    if not study:
        for one in found["studies"]:
            _print_study(one)
        return err.print(f"studies: {len(found['studies'])}")
    table = Table("trial", "state", found["objective"], "epochs", "experiment")
    for one in found["all"]:
        value = "" if one["value"] is None else f"{one['value']:.4g}"
        table.add_row(str(one["trial"]), one["state"], value, str(one["epochs"]), one["experiment"])
    out.print(table)
    return _print_study(found)


def _print_figures(record: dict[str, Any], candidate: dict[str, float]) -> None:
    champion = record.get("champion")
    name_of = Column("figure on the holdout", overflow="fold")
    table = Table(name_of, "candidate", "95 %", "trivial baseline", *(["champion"] if champion else []))
    for name, value in candidate.items():
        low, high = record["intervals"].get(name, (None, None))
        others = [figures.get(name) for figures in (record["baseline"], champion) if figures]
        between = f"{low:.3f} to {high:.3f}" if low is not None else ""
        table.add_row(name, f"{value:.3f}", between, *("" if other is None else f"{other:.3f}" for other in others))
    err.print(table)


def _print_checks(record: dict[str, Any], mode: str) -> None:
    word = record["verdict"]
    err.print(f"verdict: {word}{'' if mode == 'enforce' else f' (gates: {mode})'}", markup=False)
    marks = {"pass": "ok ", "warning": "!! ", "fail": "NO ", "insufficient": "?? ", "not judged": "-- "}
    for check in stages.read_first(record):
        where = f" of {check['slice']}" if check["slice"] else ""
        err.print(
            f"  {marks[check['outcome']]} {check['metric']}{where} ({check['kind']}): {check['reason']}", markup=False
        )
    if record["in_slices"]:
        err.print(f"  in slices: {record['in_slices']}", markup=False)


def _print_study(found: dict[str, Any]) -> None:
    counts = ", ".join(f"{count} {state}" for state, count in found["trials"].items()) or "no trial yet"
    out.print(f"study {found['study']} on snapshot {found['snapshot']}: {counts}", markup=False)
    if best := found["best"]:
        out.print(f"  best {found['objective']} {best['value']:.4g}, trial {best['trial']}", markup=False)
        out.print(f"  {found['command']}", markup=False)
