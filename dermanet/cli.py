"""The command line: the same stages by hand.

`--json` puts one JSON object on standard output; progress goes to standard error.
"""

import json
import os
import shlex
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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
from rich.table import Table

from dermanet import __version__, stages
from dermanet.errors import BadInput, DataRefused, DermaNetError

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="DermaNet: dermoscopic images in, a judged and served model out. For research use; not a medical device.\n\n"
    "Exit status: 0 done; 2 wrong use or bad input; 3 the gate, or the validation of the data, said no; 1 a fault.",
)
quarantine = typer.Typer(no_args_is_help=True, help="Records that were refused, each with its reason and its file.")
app.add_typer(quarantine, name="quarantine")
group_commands = typer.Typer(
    help="Lesions that belong together; where they lie on different sides, no snapshot is made."
)
app.add_typer(group_commands, name="groups")
err = Console(stderr=True, highlight=False, soft_wrap=True)
out = Console(highlight=False, soft_wrap=True)

QUIET = {"TF_CPP_MIN_LOG_LEVEL": "3", "MLFLOW_LOGGING_LEVEL": "WARNING", "MLFLOW_DISABLE_TELEMETRY": "true"}
"""What keeps TensorFlow's and MLflow's own chatter from standing between a person and the lines that matter."""

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
Version = Annotated[str, typer.Argument(help="A version number of the registered model.")]


@app.command(
    epilog="Examples: dermanet ingest ./HAM10000   |   dermanet ingest s3://clinic/batch-7   |   "
    "dermanet ingest inbox:s3://clinic/inbox   |   dermanet ingest ./inbox/2026-11 --again   |   dermanet ingest synthetic:lesions=50"
)
def ingest(
    source: Annotated[
        str,
        typer.Argument(
            help="A folder, a CSV file, s3://bucket/prefix, inbox:PLACE, or synthetic:lesions=N,seed=N. A folder or prefix with a "
            "labels.csv is a batch: taken once, answered with a receipt.json; one whose folders have some is an inbox."
        ),
    ],
    again: Annotated[bool, typer.Option("--again", help="Take batches even if they were taken as they are.")] = False,
    as_json: Json = False,
) -> None:
    """Take labelled images in; refuse the bad ones, each with its reason."""
    with _bar("ingest") as bar:
        task = bar.add_task("records", total=None)
        done = stages.ingest(source, lambda outcome: bar.update(task, completed=outcome.total), again)
    _say_unwritten(done)
    if as_json:
        _print_json(done)
    else:
        _say_taken(done)
    stages.require_whole(done)


def _say_taken(done: dict[str, Any]) -> None:
    for story in done.get("batches", ()):
        err.print(f"{story['batch']}: {story['state']}", markup=False)
    for folder in done.get("waiting", ()):
        err.print(f"{done['source']}/{folder}: waiting for its labels.csv", markup=False)
    err.print(f"accepted {done['accepted']}, known already {done['known']}, corrected {done['corrected']}")
    for reason, count in done["quarantined"].items():
        err.print(f"quarantined {count}: {reason}")


def _say_unwritten(done: dict[str, Any]) -> None:
    for story in done.get("batches", ()):
        if story.get("unwritten"):
            err.print(story["unwritten"], markup=False)


RefusalId = Annotated[str, typer.Argument(help="The record's id, as `quarantine list` prints it.")]


@quarantine.command("list")
def list_quarantine(
    reason: Annotated[str, typer.Option(help="Only those refused for this reason.")] = "", as_json: Json = False
) -> None:
    """Every record in quarantine: its id, its reason, its name."""
    found = stages.quarantined(reason)
    if as_json:
        return _print_json(found)
    for record in found["records"]:
        out.print(f"{record['id']}  {record['reason']}: {record['name']}  ({record['source']})", markup=False)


@quarantine.command("show")
def show_quarantine(refusal: RefusalId, as_json: Json = False) -> None:
    """One record: what its source wrote, why it was refused, where its file is."""
    _print(stages.show_quarantined(refusal), as_json)


@quarantine.command("release", epilog="Example: dermanet quarantine release 3f0c9a7e1b2d --set sex=male --set age=45")
def release_quarantine(
    refusal: RefusalId,
    cells: Annotated[
        list[str] | None, typer.Option("--set", help="COLUMN=VALUE: a cell of the row to be set anew; may be repeated.")
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Insist: it is sharp enough, the labels do differ, or it is another lesion.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Take a record in after all, corrected, if it then passes the screening."""
    _print(stages.release_quarantined(refusal, _cells(cells or []), force), as_json)


@quarantine.command("drop")
def drop_quarantine(refusal: RefusalId, as_json: Json = False) -> None:
    """Remove a record and its file for good."""
    _print(stages.drop_quarantined(refusal), as_json)


@group_commands.callback(
    invoke_without_command=True,
    epilog="Example: dermanet groups   |   dermanet groups sheet HAM_0000118   |   dermanet groups settle HAM_0000118",
)
def list_groups(context: typer.Context, as_json: Json = False) -> None:
    """List the groups of several lesions, what ties them and their sides; those on different sides first."""
    if context.invoked_subcommand:
        return None
    found = stages.groups()
    if as_json:
        return _print_json(found)
    for group in found["groups"]:
        lesions = ", ".join(f"{lesion} ({side or 'no side yet'})" for lesion, side in group["lesions"].items())
        patients = [f"patient {patient}" for patient in group["patients"]]
        alike = [f"{one} and {other} {likeness:.2f}" for one, other, likeness in group["alike"]]
        out.print(f"{'TORN ' if group['torn'] else ''}{lesions}: {'; '.join(patients + alike)}", markup=False)
    return err.print(f"{len(found['groups'])} groups of several lesions, {found['torn']} torn")


LesionId = Annotated[str, typer.Argument(help="The lesion's id, as the label file writes it.")]


@group_commands.command("sheet")
def group_sheet(lesion: LesionId, as_json: Json = False) -> None:
    """Draw the images of a lesion's group side by side, as a PNG file."""
    _print(stages.group_sheet(lesion), as_json)


@group_commands.command("part", epilog="Example: dermanet groups part ISIC_0024306 ISIC_0034529")
def part_images(
    image: Annotated[str, typer.Argument(help="An image's id, or its digest.")],
    other: Annotated[str, typer.Argument(help="The other image's.")],
    as_json: Json = False,
) -> None:
    """Say that two images only look alike: they tie their lesions no longer."""
    _print(stages.part_images(image, other), as_json)


@group_commands.command("settle")
def settle_group(lesion: LesionId, as_json: Json = False) -> None:
    """Put the whole group of a lesion into train, for ever."""
    _print(stages.settle_group(lesion), as_json)


@app.command(epilog="Example: dermanet forget --lesion HAM_0000118   |   dermanet forget --patient P0042")
def forget(
    lesion: Annotated[str, typer.Option("--lesion", help="The lesion's id, as the label file writes it.")] = "",
    patient: Annotated[str, typer.Option("--patient", help="A patient's: all lesions, of now and before.")] = "",
    as_json: Json = False,
) -> None:
    """Remove a lesion's or a patient's images for good and keep them out; prints the versions trained or judged with them."""
    _print(stages.forget(lesion, patient), as_json)


@app.command()
def snapshot(as_json: Json = False) -> None:
    """Freeze the catalogue as it stands and print the snapshot's id."""
    _print(stages.snapshot(), as_json)


@app.command(
    epilog='Example: dermanet validate 3f0c9a7e1b2d4c55   |   … --accept "the new clinic sends melanomas only"'
)
def validate(
    snapshot_id: SnapshotId,
    accept: Annotated[str, typer.Option("--accept", help="Let anomalous data pass: why, kept with your name.")] = "",
    show: Annotated[bool, typer.Option("--open", help="Open the report in the browser.")] = False,
    as_json: Json = False,
) -> None:
    """Judge a snapshot's data against their limits and the snapshot before; ends with 3 where they are anomalous."""
    refused = None
    try:
        found = stages.validate(snapshot_id, accept)
    except DataRefused as error:
        found, refused = error.record, error
    if show and "run_id" in found:
        typer.launch(stages.report_file(found["run_id"]))
    if as_json:
        _print_json(found)
    else:
        _print_data(found)
    if refused:
        raise refused


@app.command(epilog="Example: dermanet prepare 3f0c9a7e1b2d4c55 --experiment plain128")
def prepare(snapshot_id: SnapshotId, experiment: ExperimentName = "", as_json: Json = False) -> None:
    """Prepare a snapshot's pixels; only what is new is computed."""
    with _bar("prepare") as bar:
        task = bar.add_task("images", total=None)
        done = stages.prepare(
            snapshot_id, experiment, lambda count, total: bar.update(task, completed=count, total=total)
        )
    _print(done, as_json)


@app.command(epilog="Example: dermanet cache   |   dermanet cache --check   |   dermanet cache --prune --yes")
def cache(
    check: Annotated[bool, typer.Option("--check", help="Read every shard; set the damaged ones aside.")] = False,
    prune: Annotated[bool, typer.Option("--prune", help="Remove what no snapshot needs.")] = False,
    everything: Annotated[bool, typer.Option("--all", help="With --prune: remove all of it.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="With --prune: do it; without, it is only listed.")] = False,
    as_json: Json = False,
) -> None:
    """Show the cache of prepared pixels and features, check it, or remove what is not needed: all of it is made again when needed."""
    if (check and prune) or ((everything or yes) and not prune):
        raise BadInput("--check and --prune exclude each other; --all and --yes go with --prune")
    if prune:
        return _print_pruned(stages.prune_cache(everything, yes), "shards", as_json)
    if check:
        with _bar("check") as bar:
            task = bar.add_task("shards", total=None)
            found = stages.check_cache(lambda done, total: bar.update(task, completed=done, total=total))
        if as_json:
            return _print_json(found)
        for line in found["damaged"]:
            out.print(line, markup=False)
        return err.print(
            f"{len(found['damaged'])} damaged; the next `prepare` or `train` makes them again", markup=False
        )
    held = stages.cache()
    if as_json:
        return _print_json(held)
    table = Table("pixels and features", "fingerprint", "images", "shards", "MB", "", title=held["folder"])
    for one in held["recipes"] + held["features"]:
        counts = (f"{one[name]:,}" for name in ("images", "shards"))
        table.add_row(one["recipe"], one["fingerprint"], *counts, *_size_and_use(one))
    out.print(table)


@app.command(epilog="Example: dermanet objects   |   dermanet objects --check   |   dermanet objects --prune --yes")
def objects(
    check: Annotated[bool, typer.Option("--check", help="Read every image; set the damaged ones aside.")] = False,
    prune: Annotated[bool, typer.Option("--prune", help="Remove what neither catalogue nor quarantine names.")] = False,
    yes: Annotated[bool, typer.Option("--yes", help="With --prune: do it; without, it is only listed.")] = False,
    as_json: Json = False,
) -> None:
    """Show the store of images, check it (ends with 1 where an image is damaged or missing), or remove orphans."""
    if (check and prune) or (yes and not prune):
        raise BadInput("--check and --prune exclude each other; --yes goes with --prune")
    if prune:
        return _print_pruned(stages.prune_objects(yes), "files", as_json)
    if not check:
        return _print_objects(stages.objects(), as_json)
    with _bar("check") as bar:
        task = bar.add_task("images", total=None)
        found = stages.check_objects(lambda done, total: bar.update(task, completed=done, total=total))
    if as_json:
        _print_json(found)
    else:
        for line in found["faults"] + [f"orphan: {name}" for name in found["orphans"]]:
            out.print(line, markup=False)
        remedy = "".join(f"; `dermanet ingest {shlex.quote(source)}`" for source in found["sources"])
        err.print(f"{len(found['faults'])} of {found['images']} images damaged or missing{remedy}", markup=False)
    raise typer.Exit(1 if found["faults"] else 0)


@app.command(epilog="Example: dermanet train 3f0c9a7e1b2d4c55 --experiment plain128:epochs=10")
def train(snapshot_id: SnapshotId, experiment: ExperimentName = "", as_json: Json = False) -> None:
    """Train on a snapshot and log the model; killed and called again, it resumes."""
    with _training_bar() as on_batch:
        done = stages.train(snapshot_id, experiment, progress=_say, on_batch=on_batch)
    _print(done, as_json)


@app.command()
def evaluate(run_id: RunId, as_json: Json = False) -> None:
    """Score a run's model, the champion and the trivial baseline on the same holdout."""
    record = stages.evaluate(run_id)
    if as_json:
        return _print_json(record)
    _print_figures(record, record["candidate"])


@app.command()
def judge(run_id: RunId, as_json: Json = False) -> None:
    """Apply the gates to a run's evaluation; ends with 3 unless the verdict is a pass."""
    record = stages.judge(run_id)
    if as_json:
        _print_json(record)
    else:
        _print_checks(record["verdict"], record["checks"])
    raise typer.Exit(0 if record["verdict"] == "pass" else 3)


@app.command()
def register(run_id: RunId, as_json: Json = False) -> None:
    """Register a run's model, if its verdict is a pass."""
    _print(stages.register(run_id), as_json)


@app.command(epilog="Example: dermanet retrain ./HAM10000 ./isic2018_task3 --experiment probe")
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
    with _training_bar() as on_batch:
        record = stages.retrain(sources or (), experiment, fresh, _say, accept_data, on_batch)
    if as_json:
        _print_json(record)
    else:
        _print_figures(record, record["metrics"])
        _print_checks(record["verdict"], record["checks"])
        err.print(
            f"registered as version {record['version']}, now champion"
            if record["version"]
            else "not registered; the champion stays"
        )
    raise typer.Exit(0 if record["verdict"] == "pass" else 3)


@app.command(
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
    found = stages.search(
        snapshot_id, experiment, space, objective, trials, jobs,
        lambda line: err.print(line, markup=False), sources or (), accept_data,
    )  # fmt: skip
    _print_json(found) if as_json else _print_study(found)


@app.command("trials", epilog="Example: dermanet trials   |   dermanet trials 9f1c0b7a2e4d5c63")
def list_trials(
    study: Annotated[str, typer.Argument(help="The study, as `search` prints it; none: the studies there are.")] = "",
    as_json: Json = False,
) -> None:
    """The trials of a search as a table, or all searches."""
    found = stages.trials(study) if study else stages.searches()
    if as_json:
        return _print_json(found)
    if not study:
        for one in found["studies"]:
            _print_study(one)
        return err.print(f"{len(found['studies'])} studies")
    table = Table("trial", "state", found["objective"], "epochs", "experiment")
    for one in found["all"]:
        value = "" if one["value"] is None else f"{one['value']:.4g}"
        table.add_row(str(one["trial"]), one["state"], value, str(one["epochs"]), one["experiment"])
    out.print(table)
    return _print_study(found)


@app.command(epilog="Example: dermanet promote 4")
def promote(version: Version, as_json: Json = False) -> None:
    """Make a version the champion; the one before becomes `previous`."""
    _print(stages.promote(version), as_json)


@app.command()
def rollback(as_json: Json = False) -> None:
    """Make the previous champion the champion again."""
    _print(stages.roll_back(), as_json)


@app.command(epilog="Example: dermanet predict photo.jpg other.png --model models:/dermanet/3")
def predict(
    images: Annotated[list[str], typer.Argument(help="JPEG or PNG files.")],
    model: Annotated[str | None, typer.Option("--model", help="A model address; default: the champion.")] = None,
    as_json: Json = False,
) -> None:
    """Age, sex and diagnosis of images. For research use; not a medical device."""
    rows = stages.predict(images, model)
    if as_json:
        _print_json(rows)
    else:
        for row in rows:
            out.print(_answer_line(row), markup=False)
    raise typer.Exit(2 if any("error" in row for row in rows) else 0)


@app.command(epilog="Example: dermanet export 3 DermaNet.h5")
def export(
    version: Version,
    path: Annotated[str, typer.Argument(help="Where to: an ending of .keras, .h5 or .onnx.")],
    as_json: Json = False,
) -> None:
    """Write a version as a file: `.keras`, `.onnx`, or `.h5` in the form DermaNet published."""
    _print(stages.export(version, path), as_json)


@app.command(epilog="Example: dermanet serve --port 8000")
def serve(
    host: Annotated[str, typer.Option(help="The address to bind to.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="The port to listen on.", min=1, max=65535)] = 8000,
    poll: Annotated[float, typer.Option(help="Seconds between two looks at the alias.", min=0.1)] = 5.0,
) -> None:
    """Serve the champion over HTTP with MLflow's own scoring server, and follow promotions."""
    from dermanet.serving import app as application

    application.serve(host, port, poll)


@app.command(epilog="Example: dermanet run --once   |   dermanet run ./HAM10000")
def run(
    source: Annotated[
        str, typer.Argument(help="What to take in: one source or, in one word, several; default: the synthetic source.")
    ] = "",
    once: Annotated[bool, typer.Option("--once", help="End after the first prediction instead of staying up.")] = False,
    airflow_port: Annotated[int, typer.Option(min=1, max=65535)] = 8080,
    mlflow_port: Annotated[int, typer.Option(min=1, max=65535)] = 5000,
    scorer_port: Annotated[int, typer.Option(min=1, max=65535)] = 8000,
) -> None:
    """Start Airflow, MLflow and the scorer on this machine and do the main job once, watched."""
    from dermanet.embedded import job
    from dermanet.embedded.services import Ports

    raise typer.Exit(job.run(source, once, Ports(airflow_port, mlflow_port, scorer_port)))


@app.command()
def doctor(as_json: Json = False) -> None:
    """What is configured, reachable and missing; ends with 1 if something is."""
    from dermanet import doctor as examination

    findings = examination.examine(os.environ)
    if as_json:
        _print_json(findings)
    else:
        for finding in findings["findings"]:
            out.print(
                f"{'ok     ' if finding['ok'] else 'MISSING'} {finding['what']}: {finding['detail']}", markup=False
            )
    raise typer.Exit(0 if findings["ok"] else 1)


@app.command()
def version() -> None:
    """The version of this program."""
    out.print(__version__)


def _cells(texts: list[str]) -> dict[str, str]:
    for text in texts:
        if "=" not in text:
            raise BadInput(f"--set {text!r} sets nothing; write COLUMN=VALUE, as in --set sex=male")
    return {name: value for name, _, value in (text.partition("=") for text in texts)}


def _bar(what: str) -> Progress:
    columns = (TextColumn(what), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, console=err, transient=not err.is_terminal)


@contextmanager
def _training_bar() -> Iterator[Callable[[int, int], None] | None]:
    """What moves a bar with every batch, from the first one on; None where standard error is no terminal: lines are enough there."""
    if not err.is_terminal:
        yield None
        return
    columns = (TextColumn("training"), BarColumn(), MofNCompleteColumn(), TextColumn("batches, at most"))
    bar = Progress(*columns, TimeRemainingColumn(), TextColumn("left"), console=err, transient=True)
    tasks: list[TaskID] = []

    def move(done: int, most: int) -> None:
        # Started late, so that nothing moves before there is something to see, and what an earlier call did is not counted as speed.
        if not tasks:
            tasks.append(bar.add_task("training", total=most, completed=done))
            bar.start()
        bar.update(tasks[0], completed=done)

    try:
        yield move
    finally:
        bar.stop()


def _say(line: str) -> None:
    err.print(line, markup=False)


def _print_json(record: Any) -> None:
    print(json.dumps(record, allow_nan=False))


def _print(record: dict[str, Any], as_json: bool) -> None:
    if as_json:
        return _print_json(record)
    for name, value in record.items():
        out.print(f"{name}: {value}", markup=False)


def _print_objects(record: dict[str, Any], as_json: bool) -> None:
    if as_json:
        return _print_json(record)
    table = Table("", "files", "MB", title=record["store"])
    for word in ("images", "quarantined", "orphans"):
        table.add_row(word, f"{record[word]['files']:,}", f"{record[word]['bytes'] / 1e6:,.1f}")
    out.print(table)
    if record["missing"]:
        err.print(f"{record['missing']} images are missing; `dermanet objects --check` names them", markup=False)


def _print_pruned(record: dict[str, Any], what: str, as_json: bool) -> None:
    if as_json:
        return _print_json(record)
    for path in record[what]:
        out.print(path, markup=False)
    size = f"{len(record[what])} {what}, {record['bytes'] / 1e6:,.1f} MB"
    err.print(f"{size} removed" if record["removed"] else f"{size} would go; --yes removes them")


def _size_and_use(one: dict[str, Any]) -> tuple[str, str]:
    return f"{one['bytes'] / 1e6:,.1f}", "" if one["current"] else "of another version, never read"


def _print_figures(record: dict[str, Any], candidate: dict[str, float]) -> None:
    champion = record.get("champion")
    table = Table("figure on the holdout", "candidate", "95 %", "trivial baseline", *(["champion"] if champion else []))
    for name, value in candidate.items():
        low, high = record["intervals"].get(name, (None, None))
        others = [figures.get(name) for figures in (record["baseline"], champion) if figures]
        between = f"{low:.3f} to {high:.3f}" if low is not None else ""
        table.add_row(name, f"{value:.3f}", between, *("" if other is None else f"{other:.3f}" for other in others))
    err.print(table)


def _print_checks(word: str, checks: list[dict[str, Any]]) -> None:
    err.print(f"verdict: {word}", markup=False)
    for check in checks:
        mark = "ok " if check["outcome"] == "pass" else "NO "
        err.print(f"  {mark} {check['metric']} ({check['kind']}): {check['reason']}", markup=False)


def _print_study(found: dict[str, Any]) -> None:
    counts = ", ".join(f"{count} {state}" for state, count in found["trials"].items()) or "no trial yet"
    out.print(f"study {found['study']} on snapshot {found['snapshot']}: {counts}", markup=False)
    if best := found["best"]:
        out.print(f"  best {found['objective']} {best['value']:.4g}, trial {best['trial']}", markup=False)
        out.print(f"  {found['command']}", markup=False)


def _print_data(found: dict[str, Any]) -> None:
    against = f"compared with {found['previous']}" if found.get("previous") else "nothing to compare with"
    out.print(f"data {found['verdict']}, {against}", markup=False)
    for level in ("anomalies", "warnings"):
        for line in found[level]:
            out.print(f"  {'ANOMALY' if level == 'anomalies' else 'warning'} {line}", markup=False)
    if found.get("because") and found["verdict"] == "accepted":
        out.print(f"  {found['because']}", markup=False)
    if "run_id" in found:
        out.print(f"  {found['report']} in MLflow run {found['run_id']}", markup=False)


def _answer_line(row: dict[str, Any]) -> str:
    if "error" in row:
        return f"{row['image']}: {row['error']}"
    sex, diagnosis = row["sex_probabilities"][row["sex"]], row["diagnosis_probabilities"][row["diagnosis"]]
    return f"{row['image']}: age {row['age']:.0f}, {row['sex']} ({sex:.0%}), {row['diagnosis']} ({diagnosis:.0%})"


def main() -> None:
    """The entry point: runs a command and turns what it raises into one line and an exit status."""
    for name, value in QUIET.items():
        os.environ.setdefault(name, value)
    try:
        app(prog_name="dermanet", standalone_mode=True)
    except DermaNetError as error:
        print(f"dermanet: {error}", file=sys.stderr)
        raise SystemExit(error.exit_status) from None
    except KeyboardInterrupt:
        raise SystemExit(130) from None
    except Exception as error:
        if os.environ.get("DERMANET_TRACEBACK"):
            raise
        print(f"dermanet: a fault: {type(error).__name__}: {error} (DERMANET_TRACEBACK=1 shows where)", file=sys.stderr)
        raise SystemExit(1) from None
