"""Commands about registered versions: promoted, undone, asked, exported, served."""

from typing import Annotated, Any

import typer

from dermanet import stages
from dermanet.cli.console import Json, images_bar, out, print_json, print_record, say, told_when_ended, training_bar
from dermanet.errors import BadInput

commands = typer.Typer()

Because = Annotated[str, typer.Option(help="Why: kept in the ledger, `dermanet why` shows it.")]
Version = Annotated[str, typer.Argument(help="A version number of the registered model.")]


@commands.command(epilog='Example: dermanet promote 4 --because "agreed in the tumour board of 3 May"')
def promote(version: Version, because: Because = "", as_json: Json = False) -> None:
    """Make a version the champion; the one before becomes `previous`. Kept with your name."""
    print_record(stages.promote(version, because=because), as_json)


@commands.command(epilog='Example: dermanet rollback --because "misses melanomas on legs"')
def rollback(because: Because = "", as_json: Json = False) -> None:
    """Make the previous champion the champion again. Kept with your name."""
    print_record(stages.roll_back(because=because), as_json)


@commands.command(epilog="Example: dermanet smoke-test 4")
def smoke_test(version: Version, as_json: Json = False) -> None:
    """Start the server on a version and compare its answers on the golden images with those in training."""
    print_record(stages.smoke_test(version), as_json)


@commands.command(epilog="Example: dermanet dossier 4")
def dossier(version: Version, as_json: Json = False) -> None:
    """Write a version's dossier anew: model card, verdict, report, decisions, data, licences, environment, bill of materials."""
    print_record(stages.compile_dossier(version), as_json)


@commands.command(epilog="Example: dermanet replay 4")
def replay(version: Version, as_json: Json = False) -> None:
    """Train a version again from its snapshot, experiment and seed, and print what came out otherwise; ends with 3 if anything."""
    with told_when_ended(), training_bar() as on_batch:
        record = stages.replay(version, say, on_batch)
    if as_json:
        print_json(record)
    else:
        out.print(f"version {version}, run {record['run_id']}; again in run {record['replay']}", markup=False)
        for name, (before, after) in record["differs"].items():
            out.print(f"  {name}: {before} then, {after} now", markup=False)
        out.print("the same figures" if record["same"] else f"{len(record['differs'])} figures differ", markup=False)
    raise typer.Exit(0 if record["same"] else 3)


@commands.command(
    epilog="Examples: dermanet why   |   dermanet why 4   |   dermanet why retrain/scheduled__2026-11-16T04:00:00+00:00"
)
def why(
    name: Annotated[
        str,
        typer.Argument(help="An MLflow run, a version, a snapshot, a holdout or DAG/run; none: the latest decisions."),
    ] = "",
    limit: Annotated[int, typer.Option(help="How many of the latest.", min=1)] = 20,
    as_json: Json = False,
) -> None:
    """Why things are as they are: every decision with its reasons, oldest first."""
    found = stages.why(name, limit)
    if as_json:
        return print_json(found)
    for one in found:
        out.print(_decision_line(one), markup=False)
        for reason in one["reasons"]:
            out.print(f"    {reason}", markup=False)


@commands.command(
    epilog="Examples: dermanet monitor --open   |   dermanet monitor --since 2026-11-01 --until 2026-11-15 --days 5 --dry-run"
)
def monitor(
    since: Annotated[
        str, typer.Option("--since", metavar="DATE", help="Judge windows from this day on; default: all that are due.")
    ] = "",
    until: Annotated[str, typer.Option("--until", metavar="DATE", help="… up to and with this day.")] = "",
    days: Annotated[
        int,
        typer.Option("--days", help="Days of a window; 0: as the limits say. Others never ask for a retrain.", min=0),
    ] = 0,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="Keep, report and ask nothing.")] = False,
    show: Annotated[bool, typer.Option("--open", help="Open the page of the latest window in the browser.")] = False,
    as_json: Json = False,
) -> None:
    """Compare what was answered with what the version answered on its validation side, and with labels that came later."""
    found = stages.monitor(since, until, days, dry_run)
    if show and found["run_id"]:
        typer.launch(stages.monitoring_report(found["run_id"]))
    print_json(found) if as_json else _print_watch(found)


@commands.command(
    epilog="Examples: dermanet predict photo.jpg other.png --model models:/dermanet/3   |   dermanet predict clinic/2026 "
    "--out results.csv   |   dermanet predict clinic --out results.jsonl --again"
)
def predict(
    images: Annotated[
        list[str], typer.Argument(help="JPEG or PNG files, or folders, with all that is in them and below.")
    ],
    into: Annotated[
        str,
        typer.Option(
            "--out",
            help="Write a row an image to this .csv or .jsonl file, as each is answered, with its path from the root. Called again, "
            "from any folder, it goes on where it was.",
        ),
    ] = "",
    again: Annotated[bool, typer.Option("--again", help="Begin the file of --out anew.")] = False,
    model: Annotated[str | None, typer.Option("--model", help="A model address; default: the champion.")] = None,
    as_json: Json = False,
) -> None:
    """Age, sex and diagnosis of images, however many. Ends with 2 if any could not be read. For research use; not a medical device."""
    if into:
        return _predict_into(into, images, model, again, as_json)
    if again:
        raise BadInput("--again goes with --out FILE")
    rows, bad = [], False
    for row in stages.predict_each(images, model):
        bad |= "error" in row
        if as_json:
            rows.append(row)
        else:
            out.print(_answer_line(row), markup=False)
    if as_json:
        print_json(rows)
    raise typer.Exit(2 if bad else 0)


def _predict_into(into: str, images: list[str], model: str | None, again: bool, as_json: bool) -> None:
    with images_bar() as move:

        def on_row(row: dict[str, Any], done: int, total: int) -> None:
            if row["error"]:
                say(f"{row['image']}: {row['error']}")
            if move:
                move(done, total)

        try:
            done = stages.predict_into(into, images, model, again, on_row)
        except KeyboardInterrupt:
            say(f"interrupted: what was answered is in {into}; the same command goes on from there")
            raise
    if as_json:
        print_json(done)
    else:
        say(
            f"{into}: {done['images']:,} images, {done['answered']:,} answered by version {done['version']}, "
            f"{done['errors']:,} not; {done['before']:,} were there before"
        )
    raise typer.Exit(2 if done["errors"] else 0)


@commands.command(epilog="Example: dermanet export 3 DermaNet.h5")
def export(
    version: Version,
    path: Annotated[str, typer.Argument(help="Where to: an ending of .keras, .h5 or .onnx.")],
    as_json: Json = False,
) -> None:
    """Write a version as a file: `.keras`, `.onnx`, or `.h5` in the form DermaNet published."""
    print_record(stages.export(version, path), as_json)


@commands.command(epilog="Examples: dermanet serve --port 8000   |   dermanet serve --workers 2 --poll 1")
def serve(
    host: Annotated[
        str, typer.Option(help="The address to bind to; any but loopback needs DERMANET_TOKENS.")
    ] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="The port to listen on.", min=1, max=65535)] = 8000,
    poll: Annotated[float, typer.Option(help="Seconds between two looks at the alias.", min=0.1)] = 5.0,
    version: Annotated[str, typer.Option(help="Serve this version, whoever is champion.")] = "",
    workers: Annotated[int, typer.Option(help="Processes that serve side by side.", min=1, max=256)] = 1,
) -> None:
    """Serve the champion over HTTP with MLflow's own scoring server, and follow promotions."""
    from dermanet.serving.server import Service
    from dermanet.serving.server import serve as run

    run(Service(host, port, poll, version, workers))


def _decision_line(decision: dict[str, Any]) -> str:
    about = {"version": decision["version"], "run": decision["run_id"], "snapshot": decision["snapshot"]}
    subject = ", ".join(f"{name} {value}" for name, value in about.items() if value)
    by = f", by {decision['who']}" if decision["who"] else ""
    where = f", in {decision['dag_run']}" if decision["dag_run"] else ""
    return f"{decision['at']}  {decision['kind']}: {decision['outcome']}  {subject}{by}{where}"


def _print_watch(found: dict[str, Any]) -> None:
    for one in found["windows"]:
        by = f"version {one['version']}, {one['images']:,} images" if one["version"] else "no requests"
        out.print(f"{one['window']}: {one['verdict']} ({by})", markup=False)
        for word, lines in (("drift", one["drift"]), ("warning", one["warnings"])):
            for line in lines:
                out.print(f"    {word}: {line}", markup=False)
    if live := found["live"]:
        why = (
            f": {live['why']}" if live["why"] else f", of {live['lesions']:,} lesions{', which are few' * live['few']}"
        )
        out.print(f"live: {live['labelled']:,} of {live['answered']:,} answered images are labelled{why}", markup=False)
        for one in live["figures"]:
            held = "" if one["holdout"] is None else f", holdout {one['holdout']:.3f}{', WORSE' * one['worse']}"
            out.print(f"    {one['figure']} {one['value']:.3f} of {one['images']:,}{held}", markup=False)
    if found["asks"]:
        say(f"asks for a retrain: {found['asks']['because']}; the DAG monitor starts it, or dermanet retrain")
    if found["mode"] == "off":
        say("monitoring is off (DERMANET_MONITORING)")


def _answer_line(row: dict[str, Any]) -> str:
    if "error" in row:
        return f"{row['image']}: {row['error']}"
    sex, diagnosis = row["sex_probabilities"][row["sex"]], row["diagnosis_probabilities"][row["diagnosis"]]
    refer = f"; a person should decide: {row['refer']}" if row["refer"] else ""
    return (
        f"{row['image']}: age {row['age']:.0f}, {row['sex']} ({sex:.0%}), {row['diagnosis']} ({diagnosis:.0%}){refer}"
    )
