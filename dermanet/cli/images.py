"""Commands about images: taken in, refused, tied together, forgotten, frozen, validated, prepared, kept."""

import shlex
from typing import Annotated, Any

import typer
from rich.table import Table

from dermanet import stages
from dermanet.cli.console import ExperimentName, Json, SnapshotId, bar_of, err, out, print_json, print_record
from dermanet.errors import BadInput, DataRefused

commands = typer.Typer()
quarantine = typer.Typer(no_args_is_help=True, help="Records that were refused, each with its reason and its file.")
commands.add_typer(quarantine, name="quarantine")
group_commands = typer.Typer(
    help="Lesions that belong together; where they lie on different sides, no snapshot is made."
)
commands.add_typer(group_commands, name="groups")

RefusalId = Annotated[str, typer.Argument(help="The record's id, as `quarantine list` prints it.")]
Part = Annotated[
    str, typer.Option("--part", help="One part of the images, as 2/8: for several machines that share a home.")
]
LesionId = Annotated[str, typer.Argument(help="The lesion's id, as the label file writes it.")]


@commands.command(
    epilog='Examples: dermanet holdout   |   dermanet holdout --renew --because "worn, and 600 lesions came from Graz" --yes'
)
def holdout(
    renew: Annotated[bool, typer.Option("--renew", help="Make a new one of lesions that no model has seen.")] = False,
    because: Annotated[str, typer.Option(help="Why: kept with your name.")] = "",
    yes: Annotated[bool, typer.Option("--yes", help="Do it; without, it is only said what would be done.")] = False,
    as_json: Json = False,
) -> None:
    """How worn the holdout is, and what a renewal would do: the lesions of the old one are trained on from then on."""
    print_record(stages.renew_holdout(because) if renew and yes else stages.holdout(), as_json)


@commands.command(
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
    with bar_of("ingest") as bar:
        task = bar.add_task("records", total=None)
        done = stages.ingest(source, lambda outcome: bar.update(task, completed=outcome.total), again)
    _say_unwritten(done)
    if as_json:
        print_json(done)
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


@quarantine.command("list")
def list_quarantine(
    reason: Annotated[str, typer.Option(help="Only those refused for this reason.")] = "", as_json: Json = False
) -> None:
    """Every record in quarantine: its id, its reason, its name."""
    found = stages.quarantined(reason)
    if as_json:
        return print_json(found)
    for record in found["records"]:
        where = f"{record['source']}{', which has it no more' if record['withdrawn'] else ''}"
        out.print(f"{record['id']}  {record['reason']}: {record['name']}  ({where})", markup=False)


@quarantine.command("show")
def show_quarantine(refusal: RefusalId, as_json: Json = False) -> None:
    """One record: what its source wrote, why it was refused, where its file is."""
    print_record(stages.show_quarantined(refusal), as_json)


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
    print_record(stages.release_quarantined(refusal, _cells(cells or []), force), as_json)


@quarantine.command(
    "drop", epilog="Example: dermanet quarantine drop 3f0c9a7e1b2d   |   dermanet quarantine drop --withdrawn"
)
def drop_quarantine(
    refusal: Annotated[str, typer.Argument(help="The record's id, as `quarantine list` prints it.")] = "",
    withdrawn: Annotated[
        bool, typer.Option("--withdrawn", help="Every record that its source has no more, instead of one.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Remove a record and its file for good."""
    if bool(refusal) == withdrawn:
        raise BadInput(
            "give the id of a record, as `dermanet quarantine list` prints it, or --withdrawn; one of the two"
        )
    print_record(stages.drop_withdrawn() if withdrawn else stages.drop_quarantined(refusal), as_json)


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
        return print_json(found)
    for group in found["groups"]:
        lesions = ", ".join(f"{lesion} ({side or 'no side yet'})" for lesion, side in group["lesions"].items())
        patients = [f"patient {patient}" for patient in group["patients"]]
        alike = [f"{one} and {other} {likeness:.2f}" for one, other, likeness in group["alike"]]
        moved = [f"{image} was of lesion {lesion} ({side}) before" for image, lesion, side in group["moved"]]
        out.print(f"{'TORN ' if group['torn'] else ''}{lesions}: {'; '.join(patients + alike + moved)}", markup=False)
    return err.print(f"{len(found['groups'])} groups of several lesions, {found['torn']} torn")


@group_commands.command("sheet")
def group_sheet(lesion: LesionId, as_json: Json = False) -> None:
    """Draw the images of a lesion's group side by side, as a PNG file."""
    print_record(stages.group_sheet(lesion), as_json)


@group_commands.command("part", epilog="Example: dermanet groups part ISIC_0024306 ISIC_0034529")
def part_images(
    image: Annotated[str, typer.Argument(help="An image's id, or its digest.")],
    other: Annotated[str, typer.Argument(help="The other image's.")],
    as_json: Json = False,
) -> None:
    """Say that two images only look alike: they tie their lesions no longer."""
    print_record(stages.part_images(image, other), as_json)


@group_commands.command("settle")
def settle_group(lesion: LesionId, as_json: Json = False) -> None:
    """Put the whole group of a lesion into train, for ever."""
    print_record(stages.settle_group(lesion), as_json)


@commands.command(epilog="Example: dermanet forget --lesion HAM_0000118   |   dermanet forget --patient P0042")
def forget(
    lesion: Annotated[str, typer.Option("--lesion", help="The lesion's id, as the label file writes it.")] = "",
    patient: Annotated[str, typer.Option("--patient", help="A patient's: all lesions, of now and before.")] = "",
    as_json: Json = False,
) -> None:
    """Remove a lesion's or a patient's images for good and keep them out; prints the versions trained or judged with them."""
    print_record(stages.forget(lesion, patient), as_json)


@commands.command()
def snapshot(as_json: Json = False) -> None:
    """Freeze the catalogue as it stands and print the snapshot's id."""
    print_record(stages.snapshot(), as_json)


@commands.command(
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
        print_json(found)
    else:
        _print_data(found)
    if refused:
        raise refused


@commands.command(
    epilog="Examples: dermanet prepare 3f0c9a7e1b2d4c55 --experiment plain128   |   "
    "dermanet prepare 3f0c9a7e1b2d4c55 -e plain128 --part 2/4"
)
def prepare(
    snapshot_id: SnapshotId, experiment: ExperimentName = "", part: Part = "1/1", as_json: Json = False
) -> None:
    """Prepare a snapshot's pixels; only what is new is computed."""
    chosen = stages.named_part(part)
    with bar_of("prepare") as bar:
        task = bar.add_task("images", total=None)
        done = stages.prepare_part(
            snapshot_id, experiment, chosen, lambda count, total: bar.update(task, completed=count, total=total)
        )
    print_record(done, as_json)


@commands.command(
    epilog="Examples: dermanet extract 3f0c9a7e1b2d4c55 --experiment probe   |   "
    "dermanet extract 3f0c9a7e1b2d4c55 -e probe --part 2/4"
)
def extract(
    snapshot_id: SnapshotId, experiment: ExperimentName = "", part: Part = "1/1", as_json: Json = False
) -> None:
    """Compute the features that a probe or a fine-tuning begins with; only what is new is computed."""
    chosen = stages.named_part(part)
    with bar_of("extract") as bar:
        task = bar.add_task("features", total=None)
        done = stages.extract(
            snapshot_id, experiment, chosen, lambda count, total: bar.update(task, completed=count, total=total)
        )
    print_record(done, as_json)


@commands.command(epilog="Example: dermanet cache   |   dermanet cache --check   |   dermanet cache --prune --yes")
def cache(
    check: Annotated[
        bool, typer.Option("--check", help="Read every shard and exported backbone; set the damaged ones aside.")
    ] = False,
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
        with bar_of("check") as bar:
            task = bar.add_task("shards", total=None)
            found = stages.check_cache(lambda done, total: bar.update(task, completed=done, total=total))
        if as_json:
            return print_json(found)
        for line in found["damaged"]:
            out.print(line, markup=False)
        return err.print(
            f"{len(found['damaged'])} damaged; the next `prepare` or `train` makes them again", markup=False
        )
    held = stages.cache()
    if as_json:
        return print_json(held)
    table = Table("pixels and features", "fingerprint", "images", "shards", "MB", "note", title=held["folder"])
    for one in held["recipes"] + held["features"]:
        counts = (f"{one[name]:,}" for name in ("images", "shards"))
        table.add_row(one["recipe"], one["fingerprint"], *counts, *_size_and_use(one))
    out.print(table)


@commands.command(
    epilog="Example: dermanet objects   |   dermanet objects --check   |   dermanet objects --prune --yes"
)
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
    with bar_of("check") as bar:
        task = bar.add_task("images", total=None)
        found = stages.check_objects(lambda done, total: bar.update(task, completed=done, total=total))
    if as_json:
        print_json(found)
    else:
        for line in found["faults"] + [f"orphan: {name}" for name in found["orphans"]]:
            out.print(line, markup=False)
        remedy = "".join(f"; `dermanet ingest {shlex.quote(source)}`" for source in found["sources"])
        err.print(f"{len(found['faults'])} of {found['images']} images damaged or missing{remedy}", markup=False)
    raise typer.Exit(1 if found["faults"] else 0)


def _cells(texts: list[str]) -> dict[str, str]:
    for text in texts:
        if "=" not in text:
            raise BadInput(f"--set {text!r} sets nothing; write COLUMN=VALUE, as in --set sex=male")
    return {name: value for name, _, value in (text.partition("=") for text in texts)}


def _print_objects(record: dict[str, Any], as_json: bool) -> None:
    if as_json:
        return print_json(record)
    table = Table("", "files", "MB", title=record["store"])
    for word in ("images", "quarantined", "orphans"):
        table.add_row(word, f"{record[word]['files']:,}", f"{record[word]['bytes'] / 1e6:,.1f}")
    out.print(table)
    if record["missing"]:
        err.print(f"{record['missing']} images are missing; `dermanet objects --check` names them", markup=False)


def _print_pruned(record: dict[str, Any], what: str, as_json: bool) -> None:
    if as_json:
        return print_json(record)
    for path in record[what]:
        out.print(path, markup=False)
    size = f"{len(record[what])} {what}, {record['bytes'] / 1e6:,.1f} MB"
    err.print(f"{size} removed" if record["removed"] else f"{size} would go; --yes removes them")


def _size_and_use(one: dict[str, Any]) -> tuple[str, str]:
    return f"{one['bytes'] / 1e6:,.1f}", "" if one["current"] else "of another version, never read"


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
