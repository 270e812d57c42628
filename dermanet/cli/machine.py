"""Commands about this installation: all of it started on one machine, examined, named."""

import os
from typing import Annotated

import typer

from dermanet import __version__
from dermanet.cli.console import Json, out, print_json

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

    findings = examination.examine(os.environ)
    if as_json:
        print_json(findings)
    else:
        for finding in findings["findings"]:
            out.print(
                f"{'ok     ' if finding['ok'] else 'MISSING'} {finding['what']}: {finding['detail']}", markup=False
            )
    raise typer.Exit(0 if findings["ok"] else 1)


@commands.command()
def version() -> None:
    """The version of this program."""
    out.print(__version__)
