"""One stack of docker-compose.yml with secrets, ports, volumes and a name of its own: no other that runs here is touched."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from tempfile import TemporaryDirectory
from types import FrameType
from typing import Any

import requests
from rich.console import Console

from dermanet.embedded.airflow import DONE, Airflow
from dermanet.errors import BadInput, DermaNetError

ROOT = Path(__file__).parents[1]
LOOPBACK = "127.0.0.1"
PORTS = ("AIRFLOW_PORT", "MLFLOW_PORT", "SCORER_PORT")
PATIENCE = 300.0
"""Seconds within which what was killed must be back, and what was asked for must be there."""

console = Console(stderr=True, highlight=False)


def say(line: str) -> None:
    """One line, with the time."""
    console.print(f"[dim]{time.strftime('%H:%M:%S')}[/dim] {line}", soft_wrap=True)


def compose() -> list[str]:
    """The command: Compose as Docker's plugin, or by itself. Raises BadInput where no Docker Engine answers."""
    if not shutil.which("docker") or subprocess.run(["docker", "info"], capture_output=True, check=False).returncode:
        raise BadInput("no Docker Engine answers: install Docker, or start it")
    plugin = subprocess.run(["docker", "compose", "version"], capture_output=True, check=False)
    return ["docker", "compose"] if plugin.returncode == 0 else ["docker-compose"]


@dataclass
class Stack:
    """A stack under a name. `settings`: lines for its `.env` beside the secrets; `overrides`: further compose files."""

    name: str
    folder: Path
    settings: Mapping[str, str]
    overrides: tuple[Path, ...] = ()
    values: dict[str, str] = field(init=False)

    def __post_init__(self) -> None:
        shutil.copy(ROOT / ".env.example", self.folder)
        subprocess.run(
            [sys.executable, ROOT / "docker" / "write_secrets.py", self.folder], check=True, stdout=subprocess.DEVNULL
        )
        ports = dict(zip(PORTS, map(str, _free_ports(len(PORTS))), strict=True))
        with (self.folder / ".env").open("a") as file:
            file.writelines(f"{name}={value}\n" for name, value in {**ports, **self.settings}.items())
        lines = (self.folder / ".env").read_text().splitlines()
        self.values = dict(line.split("=", 1) for line in lines if "=" in line and not line.startswith("#"))

    def ask(self, *words: str, check: bool = True, timeout: float | None = None) -> str:
        """Compose's own command on this stack; what it printed. Raises DermaNetError with its last lines where it failed."""
        files = [word for path in (ROOT / "docker-compose.yml", *self.overrides) for word in ("--file", str(path))]
        command = [
            *compose(),
            "--project-name",
            self.name,
            "--project-directory",
            str(ROOT),
            "--env-file",
            str(self.folder / ".env"),
        ]
        # Variables of whoever started this would come before those of the file.
        environ = {name: value for name, value in os.environ.items() if name not in self.values}
        done = subprocess.run(
            [*command, *files, *words],
            env=environ,
            cwd=ROOT,
            capture_output=True,
            text=True,
            check=False,
            timeout=timeout,
        )
        if check and done.returncode:
            raise DermaNetError(f"{' '.join(words)} ended with {done.returncode}: {done.stderr.strip()[-2000:]}")
        return done.stdout

    def cli(self, *words: str) -> Any:
        """`dermanet` inside the stack, with `--json`."""
        lines = self.ask("run", "--rm", "-T", "cli", *words, "--json").strip().splitlines()
        return json.loads(lines[-1])

    def sql(self, database: str, query: str, user: str = "postgres") -> list[str]:
        """The rows that PostgreSQL answers, as text."""
        words = ("psql", "--no-psqlrc", "-v", "ON_ERROR_STOP=1", "-tA", "-U", user, "-d", database, "-c", query)
        return [line for line in self.ask("exec", "-T", "postgres", *words).splitlines() if line]

    def containers(self, service: str) -> list[str]:
        """The ids of a service's containers."""
        return self.ask("ps", "-q", service).split()

    def docker(self, verb: str, service: str) -> None:
        """`docker restart`, `pause`, … on every container of a service."""
        self.engine(verb, *self.containers(service))

    def engine(self, *words: str, check: bool = True) -> None:
        """One of Docker's own commands."""
        subprocess.run(["docker", *words], check=check, capture_output=True)

    def healthy(self, service: str) -> bool:
        """Whether every container of a service runs, and says that it is well."""
        form = "{{.State.Running}} {{if .State.Health}}{{.State.Health.Status}}{{end}}"
        found = [_inspected(container, form) for container in self.containers(service)]
        return bool(found) and all(state in ("true healthy", "true ") for state in found)

    def address(self, service: str) -> str:
        """Where `airflow`, `mlflow` or `scorer` is published."""
        return f"http://{LOOPBACK}:{self.values[f'{service.upper()}_PORT']}"

    def airflow_as(self, user: str) -> Airflow:
        """Airflow's API, asked by one of its people."""
        return Airflow(self.address("airflow"), user, self.values[f"AIRFLOW_{user.upper()}_PASSWORD"])

    @cached_property
    def airflow(self) -> Airflow:
        """Asked by its administrator."""
        return self.airflow_as("admin")

    def mlflow(self, path: str, body: Mapping[str, Any] | None = None) -> Any:
        """MLflow's REST API, asked by its reader; None where there is no such thing."""
        url = f"{self.address('mlflow')}/api/2.0/mlflow/{path}"
        login = ("reader", self.values["MLFLOW_READER_PASSWORD"])
        answer = requests.request("POST" if body else "GET", url, json=body, auth=login, timeout=30)
        if answer.status_code == 404:
            return None
        answer.raise_for_status()
        return answer.json()

    def scorer(self, path: str, **words: Any) -> requests.Response:
        """The scorer, asked with its token; with `files`, in a POST."""
        token = {"Authorization": f"Bearer {self.values['SCORER_TOKEN']}"}
        verb = "POST" if words else "GET"
        return requests.request(verb, f"{self.address('scorer')}{path}", headers=token, timeout=120, **words)

    def run_state(self, dag: str, run: str) -> str:
        """A run's state; `unknown` while Airflow cannot be asked."""
        try:
            return str(self.airflow.run(dag, run)["state"])
        except (requests.RequestException, DermaNetError):
            return "unknown"

    def task_state(self, dag: str, run: str, task: str) -> str:
        """The state of the first instance of a task; `unknown` while Airflow cannot be asked."""
        try:
            found = [one["state"] for one in self.airflow.tasks(dag, run) if one["task_id"] == task]
        except (requests.RequestException, DermaNetError):
            return "unknown"
        return str(found[0]) if found else "none"

    def ended(self, dag: str, run: str, seconds: float) -> str:
        """Waits until a run has ended; its state."""
        until(f"the end of {dag}", lambda: self.run_state(dag, run) in DONE, seconds)
        return self.run_state(dag, run)


@contextmanager
def stack(
    name: str, settings: Mapping[str, str], keep: bool = False, overrides: tuple[Path, ...] = (), workers: int = 1
) -> Iterator[Stack]:
    """A stack that is up and well; gone at the end with its volumes, unless `keep`."""
    # Both by name: a shell starts what it puts in the background with SIGINT ignored, and SIGTERM would leave the stack running.
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _end)
    with TemporaryDirectory(prefix=f"{name}-") as folder:
        made = Stack(name, Path(folder), settings, overrides)
        try:
            say(f"building and starting {name} …")
            made.ask("up", "--build", "--detach", "--scale", f"worker={workers}")
            for service in (
                "airflow-api-server",
                "airflow-scheduler",
                "airflow-dag-processor",
                "airflow-triggerer",
                "worker",
                "scorer",
            ):
                until(f"{service} to be well", lambda service=service: made.healthy(service), PATIENCE)  # type: ignore[misc]
            for dag in ("ingest", "retrain", "promote", "monitor", "upkeep"):
                until(f"the DAG {dag}", lambda dag=dag: made.airflow.has(dag), PATIENCE)  # type: ignore[misc]
            say(
                f"up: Airflow {made.address('airflow')}, MLflow {made.address('mlflow')}, scorer {made.address('scorer')}"
            )
            yield made
        finally:
            if keep:
                shutil.copy(made.folder / ".env", ROOT / f".env.{name}")
                say(f"left running; its secrets are in .env.{name}")
            else:
                made.ask("down", "--volumes", "--remove-orphans", "--timeout", "10", check=False)


def _end(number: int, frame: FrameType | None) -> None:
    sys.exit(128 + number)


def until(what: str, ready: Callable[[], bool], seconds: float) -> float:
    """Waits until something is so; how many seconds that took. Raises DermaNetError where it takes longer than `seconds`."""
    start = time.monotonic()
    while not ready():
        if time.monotonic() - start > seconds:
            raise DermaNetError(f"waited {seconds:.0f} s in vain for {what}")
        time.sleep(1)
    return time.monotonic() - start


def _inspected(container: str, form: str) -> str:
    return subprocess.run(
        ["docker", "inspect", "--format", form, container], capture_output=True, text=True, check=False
    ).stdout.rstrip("\n")


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server((LOOPBACK, 0)) for _ in range(count)]
    ports = [int(found.getsockname()[1]) for found in sockets]
    for found in sockets:
        found.close()
    return ports
