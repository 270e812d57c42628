"""The processes of one machine: Airflow's four, MLflow's server and the scorer; started, waited for, and ended, every one."""

import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import psutil
import requests

from dermanet import settings
from dermanet.errors import BadInput, DermaNetError
from dermanet.hold import held
from dermanet.settings import Settings

LOOPBACK = "127.0.0.1"
LAST_PORT = 65535
USER = "admin"
PARALLEL = "2"
"""Tasks at once."""

LOG_BYTES = 20 * 2**20
"""A log that is longer than this when its process starts is put by as `<name>.log.1`, in place of the one before it."""

ROOM = 2**20
"""Bytes: with fewer left, no process can go on."""

GRACE = 15.0
"""Seconds that a process gets to end by itself before it is killed."""


@dataclass(frozen=True, slots=True)
class Ports:
    """Where the three addresses listen, on loopback."""

    airflow: int = 8080
    mlflow: int = 5000
    scorer: int = 8000

    def address(self, service: str) -> str:
        """The URL of `airflow`, `mlflow` or `scorer`."""
        return f"http://{LOOPBACK}:{getattr(self, service)}"

    def require_free(self) -> None:
        """Raises BadInput that names every taken port and how to choose others, or one that was given twice."""
        if len({self.airflow, self.mlflow, self.scorer}) < 3:
            seen = f"{self.airflow} (airflow), {self.mlflow} (mlflow) and {self.scorer} (scorer)"
            raise BadInput(f"the ports are {seen}; each needs one of its own")
        taken = [name for name in ("airflow", "mlflow", "scorer") if _listens(getattr(self, name))]
        if taken:
            seen = " and ".join(f"{getattr(self, name)} ({name})" for name in taken)
            others = " ".join(f"{name.upper()}_PORT={_another(getattr(self, name))}" for name in taken)
            raise BadInput(f"port {seen} taken by another program; choose others, as in: make run {others}")


def alone(home: Path) -> AbstractContextManager[None]:
    """Keeps a home to one `make run`; services that outlive a killed one do not keep the next out. Raises BadInput."""
    settings.make_private(home)
    if not os.access(home, os.W_OK):
        raise BadInput(f"{home} cannot be written; set DERMANET_HOME to a folder that can")
    taken = f"another `make run` uses this home, {home}; end that one, or set DERMANET_HOME to another folder"
    return held(home / "run.lock", BadInput(taken))


class Services:
    """The running processes. Their output goes to `<home>/logs/<name>.log`; a list of them is kept beside it."""

    def __init__(self, here: Settings, ports: Ports) -> None:
        self.here = here
        self.ports = ports
        self.logs = here.home / "logs"
        self.environment = environment(here, ports)
        self._running: dict[str, subprocess.Popen[bytes]] = {}
        self._list = here.home / "processes.json"

    def set_up(self) -> None:
        """Makes the folders, Airflow's database and pools. May be called again."""
        self.logs.mkdir(parents=True, exist_ok=True)
        _write_password(Path(self.environment["AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE"]))
        self._set_up_airflow("db", "migrate")
        for pool, slots in {self.here.prepare_pool: PARALLEL, self.here.training_pool: "1"}.items():
            # A task whose pool does not exist waits for ever.
            if pool != settings.POOL:
                self._set_up_airflow("pools", "set", pool, slots, "DermaNet's")

    def _set_up_airflow(self, *words: str) -> None:
        with self._log("airflow-db") as log:
            done = subprocess.run(_airflow(*words), env=self.environment, stdout=log, stderr=log, check=False)
        if done.returncode:
            raise DermaNetError(f"Airflow's database could not be set up; {self._read_on(log.name)}")

    def start(self) -> None:
        """Starts everything; MLflow first, as the scorer asks it."""
        port = str(self.ports.mlflow)
        store = ["--backend-store-uri", f"sqlite:///{self.here.home / 'mlflow.db'}", "--no-serve-artifacts"]
        root = ["--default-artifact-root", self.here.artifacts.as_uri(), "--workers", "1"]
        self._launch(
            "mlflow", [sys.executable, "-m", "mlflow", "server", "--host", LOOPBACK, "--port", port, *store, *root]
        )
        # The log servers of these two would listen on every interface; one machine reads its logs from disk.
        self._launch("airflow-scheduler", _airflow("scheduler", "--skip-serve-logs"))
        self._launch("airflow-triggerer", _airflow("triggerer", "--skip-serve-logs"))
        self._launch("airflow-dag-processor", _airflow("dag-processor"))
        self._launch(
            "airflow-api-server", _airflow("api-server", "--host", LOOPBACK, "--port", str(self.ports.airflow))
        )
        self.wait_for("MLflow", lambda: _answers(self.ports.address("mlflow") + "/health"))
        serve = ["serve", "--host", LOOPBACK, "--port", str(self.ports.scorer), "--poll", "1"]
        self._launch("scorer", [sys.executable, "-m", "dermanet", *serve])
        self.wait_for("Airflow", lambda: _answers(self.ports.address("airflow") + "/api/v2/monitor/health"))
        self.wait_for("the scorer", lambda: _answers(self.ports.address("scorer") + "/health"))

    def wait_for(self, what: str, ready: Callable[[], bool], seconds: float = 180) -> None:
        """Waits until `ready`, watching that every process lives. Raises DermaNetError with the log to read."""
        end = time.monotonic() + seconds
        while not ready():
            self.require_alive()
            if time.monotonic() > end:
                raise DermaNetError(f"{what} was not ready after {seconds:.0f} s; {self._read_on(self.logs)}")
            time.sleep(0.5)

    def require_alive(self) -> None:
        """Raises DermaNetError where a process has ended, with its log."""
        for name, process in self._running.items():
            if process.poll() is not None:
                raise DermaNetError(
                    f"{name} ended with status {process.returncode}; {self._read_on(self.logs / f'{name}.log')}"
                )

    def _read_on(self, log: Path | str) -> str:
        """Where the reason stands; on a full disk it may not stand there, as nothing can be written any more."""
        full = shutil.disk_usage(self.here.home).free < ROOM
        return f"no space is left in {self.here.home}: make room and run this again" if full else f"see {log}"

    def stop(self) -> None:
        """Ends every process that was started, and their children: asked first, then made to."""
        own = [psutil.Process(process.pid) for process in self._running.values() if process.poll() is None]
        _end(own)
        for process in self._running.values():
            process.wait()
        self._running.clear()
        self._list.unlink(missing_ok=True)

    def end_leftovers(self) -> None:
        """Ends processes that an earlier run listed and could not end, because it was itself killed. Only for who is `alone`."""
        if self._list.exists():
            _end([process for entry in json.loads(self._list.read_text()) for process in _same(entry)])
            self._list.unlink(missing_ok=True)

    def _launch(self, name: str, command: list[str]) -> None:
        with self._log(name) as log:
            # A session of its own: Ctrl-C at the terminal reaches this program alone, which ends the others in order.
            self._running[name] = subprocess.Popen(
                command, env=self.environment, stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True
            )
        entries = [{"pid": p.pid, "started": psutil.Process(p.pid).create_time()} for p in self._running.values()]
        self._list.write_text(json.dumps(entries))

    def _log(self, name: str) -> BinaryIO:
        path = self.logs / f"{name}.log"
        if path.exists() and path.stat().st_size > LOG_BYTES:
            path.replace(self.logs / f"{name}.log.1")
        return path.open("ab")


def environment(here: Settings, ports: Ports) -> dict[str, str]:
    """The variables that all processes share: this installation's settings, and Airflow's and MLflow's own."""
    airflow = here.home / "airflow"
    own = {
        "DERMANET_HOME": str(here.home),
        "DERMANET_GATES": str(here.gates),
        "DERMANET_VALIDATION": str(here.validation),
        "DERMANET_TAXONOMY": str(here.taxonomy),
        "DERMANET_SOURCE": here.source,
        "DERMANET_EXPERIMENT": here.experiment,
        "MLFLOW_TRACKING_URI": ports.address("mlflow"),
        # For upkeep and backups, which look into what the servers keep; a task's own variable for Airflow's leads nowhere.
        "MLFLOW_BACKEND_STORE_URI": f"sqlite:///{here.home / 'mlflow.db'}",
        "DERMANET_AIRFLOW_DATABASE": f"sqlite:///{airflow / 'airflow.db'}",
        "AIRFLOW__LOGGING__BASE_LOG_FOLDER": str(airflow / "logs"),
        "MLFLOW_DISABLE_TELEMETRY": "true",
        # Evaluation jobs of language models: nine processes and two gigabytes that nothing here asks for.
        "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
        "TF_CPP_MIN_LOG_LEVEL": "3",
        "PYTHONUNBUFFERED": "1",
        **past_proxies(os.environ),
        "AIRFLOW_HOME": str(airflow),
        "AIRFLOW__CORE__DAGS_FOLDER": str(dags_folder()),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False",
        "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
        "AIRFLOW__CORE__PARALLELISM": PARALLEL,
        "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{ports.address('airflow')}/execution/",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": f"{USER}:admin",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(airflow / "passwords.json"),
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{airflow / 'airflow.db'}",
        "AIRFLOW__API__BASE_URL": ports.address("airflow"),
        "AIRFLOW__API__WORKERS": "1",
        "AIRFLOW__API__SECRET_KEY": _secret(airflow / "secret_key"),
        "AIRFLOW__API_AUTH__JWT_SECRET": _secret(airflow / "jwt_secret"),
        # A training may last longer than the ten minutes that a task's token is good for by default.
        "AIRFLOW__EXECUTION_API__JWT_EXPIRATION_TIME": "86400",
        # A task killed from outside is noticed after this many seconds instead of five minutes.
        "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "60",
        "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "10",
    }
    return {**os.environ, **own}


def past_proxies(environ: Mapping[str, str]) -> dict[str, str]:
    """`NO_PROXY` and `no_proxy` with loopback in them, beside what they say already."""
    found = {}
    for name, other in (("NO_PROXY", "no_proxy"), ("no_proxy", "NO_PROXY")):
        # The lower-case one counts first: made anew, it would hide what the other says.
        kept = environ.get(name) or environ.get(other, "")
        hosts = [host.strip() for host in kept.split(",") if host.strip()]
        # An asterisk is every host, but only where it stands alone.
        found[name] = kept if hosts == ["*"] else ",".join(dict.fromkeys((*hosts, LOOPBACK, "localhost")))
    return found


def dags_folder() -> Path:
    """The project's DAG files, beside the package. Raises BadInput where the package was installed without them."""
    folder = Path(__file__).parents[2] / "dags"
    if not folder.is_dir():
        raise BadInput(f"no DAG files at {folder}; run from a checkout of the project")
    return folder


def password(env: Mapping[str, str]) -> str:
    """The password of Airflow's user `admin`, made at the first start and kept in the home."""
    return str(json.loads(Path(env["AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE"]).read_text())[USER])


def _write_password(path: Path) -> None:
    if not path.exists():
        _write_private(path, json.dumps({USER: secrets.token_urlsafe(9)}))


def _secret(path: Path) -> str:
    if not path.exists():
        _write_private(path, secrets.token_urlsafe(32))
    return path.read_text()


def _write_private(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as file:
        file.write(text)


def _airflow(*words: str) -> list[str]:
    return [sys.executable, "-m", "airflow", *words]


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex((LOOPBACK, port)) == 0


def _another(port: int) -> int:
    """A port to suggest in place of one that is taken: a thousand above, or below where there is none above."""
    return port + 1000 if port + 1000 <= LAST_PORT else port - 1000


def _answers(url: str) -> bool:
    try:
        return requests.get(url, timeout=5).ok
    except requests.RequestException:
        return False


def _same(entry: dict[str, float]) -> list[psutil.Process]:
    """The process of an entry, if the number still belongs to the process that was started then."""
    try:
        process = psutil.Process(int(entry["pid"]))
        return [process] if abs(process.create_time() - entry["started"]) < 1 else []
    except psutil.NoSuchProcess:
        return []


def _end(parents: list[psutil.Process]) -> None:
    family = [member for parent in parents for member in [*_children(parent), parent]]
    for process in parents:
        _signal(process, signal.SIGTERM)
    alive = psutil.wait_procs(family, timeout=GRACE)[1]
    for process in alive:
        _signal(process, signal.SIGKILL)
    psutil.wait_procs(alive, timeout=GRACE)


def _children(process: psutil.Process) -> list[psutil.Process]:
    try:
        return process.children(recursive=True)
    except psutil.NoSuchProcess:
        return []


def _signal(process: psutil.Process, number: signal.Signals) -> None:
    try:
        process.send_signal(number)
    except psutil.NoSuchProcess:
        return
