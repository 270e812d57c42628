"""Commands about this installation: all of it started on one machine, examined, named."""

import os
from typing import Annotated

import typer

from dermanet import __version__, stages
from dermanet.cli.console import Json, bar_of, out, print_json, print_record, say
from dermanet.errors import BadInput

commands = typer.Typer()


@commands.command(epilog="Example: dermanet run --once   |   dermanet run ./HAM10000")
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


@commands.command()
def doctor(as_json: Json = False) -> None:
    """What is configured, reachable and missing; ends with 1 if something is."""
    from dermanet import doctor as examination

    if as_json:
        found = examination.examine(os.environ)
        print_json(found)
        raise typer.Exit(0 if found["ok"] else 1)
    well = True
    for finding in examination.findings(os.environ):
        mark = "WARNING" if finding["warning"] else "ok     " if finding["ok"] else "MISSING"
        out.print(f"{mark} {finding['what']}: {finding['detail']}", markup=False)
        well &= finding["ok"]
    raise typer.Exit(0 if well else 1)


@commands.command(epilog="Examples: dermanet upkeep   |   dermanet upkeep --apply   |   dermanet upkeep --json")
def upkeep(
    apply: Annotated[bool, typer.Option("--apply", help="Remove it; without, it is only listed.")] = False,
    as_json: Json = False,
) -> None:
    """List what nobody needs any more, with sizes and reasons, or remove it: never what a version, an alias or a dossier names."""
    record = stages.upkeep(apply)
    if as_json:
        return print_json(record)
    for one in record.get("leaving", ()):
        many = f" ({one['count']:,})" if one["count"] > 1 else ""
        out.print(f"{one['kind']}  {one['name']}{many}  {one['bytes'] / 1e6:,.1f} MB: {one['why']}", markup=False)
    for line in record.get("left_out", ()):
        say(f"not looked at: {line}")
    for kind, total in record["totals"].items():
        say(f"{kind}: {total['count']:,}, {total['bytes'] / 1e6:,.1f} MB")
    size = f"{record['bytes'] / 1e6:,.1f} MB"
    return say(f"{size} removed, {record['kept']} kept" if apply else f"{size} would go; --apply removes them")


@commands.command(
    epilog="Examples: dermanet backup /backups   |   dermanet backup /backups --keep 7   |   dermanet backup /backups --verify"
)
def backup(
    folder: Annotated[str, typer.Argument(help="The folder of backups; each is a folder in it.")],
    keep: Annotated[int, typer.Option("--keep", help="Remove all but so many afterwards; 0: none.", min=0)] = 0,
    verify: Annotated[
        bool, typer.Option("--verify", help="Make none: read the last one, or the one that is named.")
    ] = False,
    as_json: Json = False,
) -> None:
    """Copy all that cannot be made again, while everything runs; or check a backup (ends with 1 where it is damaged)."""
    if verify and keep:
        raise BadInput("--keep goes with a backup that is made, not with --verify")
    if not verify:
        return print_record(stages.backup(folder, keep), as_json)
    with bar_of("verify") as bar:
        task = bar.add_task("files", total=None)
        record = stages.verify_backup(folder, lambda done, total: bar.update(task, completed=done, total=total))
    if as_json:
        print_json(record)
    else:
        for line in record["faults"]:
            out.print(line, markup=False)
        say(f"{record['backup']}: {sum(record['files'].values()):,} files, {len(record['faults'])} missing or damaged")
    raise typer.Exit(1 if record["faults"] else 0)


@commands.command(
    epilog="Examples: dermanet restore /backups   |   dermanet restore /backups/2026-11-22T050000Z --replace"
)
def restore(
    folder: Annotated[str, typer.Argument(help="A backup, or a folder of backups, of which the last is taken.")],
    replace: Annotated[bool, typer.Option("--replace", help="Though there is something already.")] = False,
    as_json: Json = False,
) -> None:
    """Put a backup back into the installation that the settings name, and prove it. Stop what works there first."""
    with bar_of("check") as bar:
        task = bar.add_task("files", total=None)
        record = stages.restore(folder, replace, lambda done, total: bar.update(task, completed=done, total=total))
    if as_json:
        return print_json(record)
    say(
        f"{record['backup']} is put back: {record['images']:,} images, {record['missing']} missing, {record['versions']} versions, "
        f"{record['snapshots']} snapshots; {record['forgotten']} lesions are forgotten again"
    )
    for name, path in record["aside"].items():
        say(f"{name}: the damaged database is kept as {path}")
    if "catalogue" in record["aside"]:
        say(
            "who was forgotten since the last backup is known only from the backups beside it, and from what can still be read of the "
            "damaged catalogue: repeat the requests since"
        )
    for line in record["then"]:
        say(f"when MLflow is up, for the pictures in its reports: {line}")
    return None


@commands.command()
def version() -> None:
    """The version of this program."""
    out.print(__version__)
