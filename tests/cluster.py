"""A real Airflow of a test's own, as processes on loopback: by the LocalExecutor on SQLite, or by Celery on PostgreSQL and Redis."""

import importlib.util
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil
import pytest
from mlflowserver import free_port

from dermanet.embedded.airflow import DONE, Airflow

SECONDS = 900.0
"""How long anything is waited for: a machine that is busy is no failure."""

PASSWORD = "cluster-of-a-test"


WORKER = "TEST_WORKER"


def worker_name() -> str:
    """What Airflow takes for the host name of a worker: all of them are on this machine."""
    return os.environ.get(WORKER, "here")


class Cluster:
    """Airflow's processes, by name; their output lies in `<folder>/logs`. Everything shares `environment`."""

    def __init__(self, folder: Path, dags: Path, environment: dict[str, str]) -> None:
        self.folder = folder
        self.port = free_port()
        self.address = f"http://127.0.0.1:{self.port}"
        self.environment = {**_airflow_variables(folder, dags, self.address), **environment}
        self.running: dict[str, subprocess.Popen[bytes]] = {}

    def start(self, *dags: str) -> Airflow:
        """Makes the database and starts all but workers; waits until these DAGs are parsed. Airflow's API."""
        (self.folder / "logs").mkdir(parents=True, exist_ok=True)
        (self.folder / "passwords.json").write_text(json.dumps({"admin": PASSWORD}))
        self.command("db", "migrate")
        self.launch("api-server", "api-server", "--host", "127.0.0.1", "--port", str(self.port), "--workers", "1")
        self.launch("scheduler", "scheduler", "--skip-serve-logs")
        self.launch("dag-processor", "dag-processor")
        api = Airflow(self.address, "admin", PASSWORD)
        self.wait_for("the API", lambda: _listens(self.port))
        for dag in dags:
            self.wait_for(f"the DAG {dag}", lambda dag=dag: api.has(dag))  # type: ignore[misc]
        return api

    def command(self, *words: str) -> str:
        """What an `airflow` command prints."""
        done = subprocess.run(
            [sys.executable, "-m", "airflow", *words], env=self.environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
        return done.stdout

    def launch(self, name: str, *words: str, **environment: str) -> subprocess.Popen[bytes]:
        """Starts `airflow WORDS` as a process of its own session."""
        with (self.folder / "logs" / f"{name}.log").open("ab") as log:
            self.running[name] = subprocess.Popen(
                [sys.executable, "-m", "airflow", *words], env={**self.environment, **environment}, cwd=self.folder,
                stdin=subprocess.DEVNULL, stdout=log, stderr=log, start_new_session=True,
            )  # fmt: skip
        return self.running[name]

    def worker(self, name: str, *queues: str, **environment: str) -> subprocess.Popen[bytes]:
        """Starts a Celery worker, one task at a time, and waits until it listens."""
        words = ("celery", "worker", "--skip-serve-logs", "--concurrency", "1", "--celery-hostname", f"{name}@test")
        environment |= {"AIRFLOW__CORE__HOSTNAME_CALLABLE": "cluster.worker_name", WORKER: name}
        started = self.launch(name, *words, "--queues", ",".join(queues or ("default",)), **environment)
        log = self.folder / "logs" / f"{name}.log"
        self.wait_for(name, lambda: f"{name}@test ready" in log.read_text())
        return started

    def wait_for(self, what: str, ready: Callable[[], bool]) -> None:
        """Waits until `ready`, watching that every process lives."""
        until = time.monotonic() + SECONDS
        while not ready():
            for name, process in self.running.items():
                if process.poll() is not None:
                    pytest.fail(f"{name} ended with {process.returncode}:\n{self.log(name)}")
            if time.monotonic() > until:
                pytest.fail(f"{what} was not ready:\n" + "\n".join(map(self.log, self.running)))
            time.sleep(0.2)

    def ended(self, api: Airflow, dag: str, run: str) -> str:
        """The state that a run ends in."""
        self.wait_for(f"{dag} {run}", lambda: api.run(dag, run)["state"] in DONE)
        return str(api.run(dag, run)["state"])

    def log(self, name: str) -> str:
        """The end of a process's output."""
        return f"--- {name}\n" + (self.folder / "logs" / f"{name}.log").read_text()[-3000:]

    def kill(self, name: str) -> None:
        """Ends a process and all that it started, at once, as a machine that goes away does."""
        process = self.running.pop(name)
        family = [*_family(process.pid)]
        for member in family:
            _signal(member, signal.SIGKILL)
        process.wait()

    def end(self) -> None:
        """Ends everything."""
        for name in list(self.running):
            self.kill(name)


@contextmanager
def redis_server(folder: Path) -> Iterator[str]:
    """A Redis of a test's own on loopback; its URL."""
    port = free_port()
    words = ["--port", str(port), "--bind", "127.0.0.1", "--save", "", "--appendonly", "no", "--dir", str(folder)]
    with (folder / "redis.log").open("ab") as log:
        process = subprocess.Popen(["redis-server", *words], stdout=log, stderr=log)
    try:
        until = time.monotonic() + 30
        while not _listens(port):
            assert process.poll() is None and time.monotonic() < until, (folder / "redis.log").read_text()
            time.sleep(0.05)
        yield f"redis://127.0.0.1:{port}/0"
    finally:
        process.kill()
        process.wait()


def celery_variables(database: str, broker: str) -> dict[str, str]:
    """What makes an Airflow on PostgreSQL run its tasks by Celery."""
    return {
        "AIRFLOW__CORE__EXECUTOR": "CeleryExecutor", "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": database,
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN_ASYNC": database.replace("+psycopg:", "+psycopg_async:"),
        "AIRFLOW__CELERY__BROKER_URL": broker,
        "AIRFLOW__CELERY__RESULT_BACKEND": database.replace("postgresql+", "db+postgresql+"),
        "AIRFLOW__CELERY__WORKER_PREFETCH_MULTIPLIER": "1", "AIRFLOW__CORE__PARALLELISM": "8",
    }  # fmt: skip


def require_celery() -> None:
    """Skips a test where Celery or Redis are not to be had."""
    if importlib.util.find_spec("airflow.providers.celery") is None:
        pytest.skip("needs apache-airflow-providers-celery, which only `make test-workers` installs")
    if shutil.which("redis-server") is None:
        pytest.skip("needs redis-server, which is not on this machine (Debian: apt-get install redis-server)")


def _airflow_variables(folder: Path, dags: Path, address: str) -> dict[str, str]:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    modules = os.pathsep.join(filter(None, (str(Path(__file__).parent), os.environ.get("PYTHONPATH"))))
    kept = {n: v for n, v in os.environ.items() if not n.startswith(("AIRFLOW", "DERMANET_", "MLFLOW_TRACKING"))}
    return {
        **kept, "PATH": path, "PYTHONPATH": modules, "AIRFLOW_HOME": str(folder / "airflow"), "AIRFLOW__CORE__DAGS_FOLDER": str(dags),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False", "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
        "AIRFLOW__CORE__EXECUTOR": "LocalExecutor", "AIRFLOW__CORE__PARALLELISM": "2",
        "AIRFLOW__CORE__EXECUTION_API_SERVER_URL": f"{address}/execution/", "AIRFLOW__API__BASE_URL": address,
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_USERS": "admin:admin",
        "AIRFLOW__CORE__SIMPLE_AUTH_MANAGER_PASSWORDS_FILE": str(folder / "passwords.json"),
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{folder / 'airflow.db'}",
        "AIRFLOW__API__SECRET_KEY": "a secret key for the tests alone", "AIRFLOW__API_AUTH__JWT_SECRET": "x" * 64,
        "AIRFLOW__DAG_PROCESSOR__REFRESH_INTERVAL": "5", "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT": "30",
        "AIRFLOW__SCHEDULER__TASK_INSTANCE_HEARTBEAT_TIMEOUT_DETECTION_INTERVAL": "5",
        "TF_CPP_MIN_LOG_LEVEL": "3", "PYTHONUNBUFFERED": "1", "NO_PROXY": "127.0.0.1,localhost",
    }  # fmt: skip


def _listens(port: int) -> bool:
    with socket.socket() as probe:
        return probe.connect_ex(("127.0.0.1", port)) == 0


def _family(pid: int) -> Sequence[psutil.Process]:
    try:
        parent = psutil.Process(pid)
        return [parent, *parent.children(recursive=True)]
    except psutil.NoSuchProcess:
        return []


def _signal(process: psutil.Process, number: signal.Signals) -> None:
    try:
        process.send_signal(number)
    except psutil.NoSuchProcess:
        return
