"""`dermanet` commands as real processes, forked from one that has done their imports: those cost seconds, and are nobody's subject.

What a command prints, its exit status and what a kill leaves are those of a process of its own. What starts threads when it is
imported (TensorFlow, ONNX Runtime) is left to the commands: a fork takes along their locks, but not whoever would open them.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from pathlib import Path

PARENT = """
import json, os, sys
os.environ.update(TF_CPP_MIN_LOG_LEVEL="3", MLFLOW_LOGGING_LEVEL="WARNING", MLFLOW_DISABLE_TELEMETRY="true")
import alembic.command, cv2, imagehash, mlflow.pyfunc
import mlflow.store.model_registry.sqlalchemy_store, mlflow.store.tracking.sqlalchemy_store
import numpy, pandas, psycopg, simplejpeg, sklearn.metrics
import sqlalchemy.dialects.postgresql.psycopg
from dermanet import cli, settings, stages
from dermanet.intake import catalogue, ingest, inventory, isic2018, look, snapshots, sources, synthetic, tables
from dermanet.judging import evaluation, gates, integrity, verdict
from dermanet.ledger import decisions
from dermanet.pixels import shards
from dermanet.registry import tracking, versions
imagehash.phash(imagehash.Image.new("L", (64, 64)))
{before}
print("ready", flush=True)
for line in sys.stdin:
    asked = json.loads(line)
    command = os.fork()
    if not command:
        os.environ.clear()
        os.environ.update(asked["environ"])
        os.chdir(asked["folder"])
        for number, file in enumerate(("/dev/null", asked["out"], asked["err"])):
            os.dup2(os.open(file, os.O_RDONLY if number == 0 else os.O_WRONLY | os.O_CREAT | os.O_TRUNC), number)
        sys.argv = ["dermanet", *asked["words"]]
        try:
            cli.main()
        except SystemExit as end:
            # As it is with nothing left to do: taking apart all that was imported would cost more than the command.
            sys.stdout.flush(), sys.stderr.flush()
            os._exit(end.code or 0)
        os._exit(0)
    print(command, flush=True)
    sys.stdin.readline()
    print(os.waitstatus_to_exitcode(os.waitpid(command, 0)[1]), flush=True)
"""


class Commands:
    """Runs `dermanet` commands, one after another. `before`: lines that the process they are forked from runs first."""

    def __init__(self, folder: Path, before: str = "") -> None:
        self._out, self._err = folder / "out", folder / "err"
        command = [sys.executable, "-c", PARENT.format(before=before)]
        self._parent = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
        assert self._line() == "ready"

    def run(
        self, words: Sequence[str], environ: Mapping[str, str], folder: Path | None = None, after: float | None = None
    ) -> subprocess.CompletedProcess[str]:
        """A command's end; `after`: killed so many seconds after its start, were it still there."""
        asked = {"words": list(words), "environ": {**environ}, "folder": str(folder or Path.cwd())}
        process = int(self._ask(json.dumps({**asked, "out": str(self._out), "err": str(self._err)})))
        if after is not None:
            time.sleep(after)
            # Whoever has ended by itself is not waited for before the next line, so that its number is no other's yet.
            os.kill(process, signal.SIGKILL)
        status = int(self._ask("wait for it"))
        return subprocess.CompletedProcess(list(words), status, self._out.read_text(), self._err.read_text())

    def _ask(self, line: str) -> str:
        assert self._parent.stdin
        print(line, file=self._parent.stdin, flush=True)
        return self._line()

    def _line(self) -> str:
        assert self._parent.stdout
        return self._parent.stdout.readline().strip()

    def close(self) -> None:
        """Ends the process that commands are forked from."""
        assert self._parent.stdin and self._parent.stdout
        self._parent.stdin.close()
        self._parent.wait()
        self._parent.stdout.close()
