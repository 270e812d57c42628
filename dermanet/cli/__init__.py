"""The command line: the same stages by hand.

`--json` puts one JSON object on standard output; progress goes to standard error.
"""

import os
import sys

import typer

from dermanet import settings
from dermanet.cli import images, learning, machine, versions
from dermanet.errors import DermaNetError, no_room, no_space_left

app = typer.Typer(
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
    help="DermaNet: dermoscopic images in, a judged and served model out. For research use; not a medical device.\n\n"
    "Exit status: 0 done; 2 wrong use or bad input; 3 the gate, or the validation of the data, said no; 1 a fault.",
)
for panel, module in (("Images", images), ("Models", learning), ("Versions", versions), ("This machine", machine)):
    app.add_typer(module.commands)
    for command in (*module.commands.registered_commands, *module.commands.registered_groups):
        command.rich_help_panel = panel

QUIET = {"TF_CPP_MIN_LOG_LEVEL": "3", "MLFLOW_LOGGING_LEVEL": "WARNING", "MLFLOW_DISABLE_TELEMETRY": "true"}
"""What keeps TensorFlow's and MLflow's own chatter from standing between a person and the lines that matter."""


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
        if no_space_left(error):
            home = settings.read().home
            said = no_room(error, home, f"no space left on a disk; make room where {home} lies", "and run this again")
            print(f"dermanet: {said}", file=sys.stderr)
            raise SystemExit(1) from None
        print(f"dermanet: a fault: {type(error).__name__}: {error} (DERMANET_TRACEBACK=1 shows where)", file=sys.stderr)
        raise SystemExit(1) from None
