"""A real `mlflow server` that hands out artifacts itself, with one registered version."""

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import requests

import dermanet
from dermanet.registry.tracking import Tracking
from dermanet.registry.versions import CHAMPION, Versions


@contextmanager
def running(folder: Path, *store: str, port: int = 0, **environment: str) -> Iterator[str]:
    """The address of a server that keeps everything in a folder; or where its own words `store` say. `port`: 0 for any."""
    port = port or free_port()
    own_store = (
        "--backend-store-uri",
        f"sqlite:///{folder}/mlflow.db",
        "--artifacts-destination",
        f"{folder}/artifacts",
    )
    words = ("server", "--host", "127.0.0.1", "--port", str(port), "--workers", "1", *(store or own_store))
    own = {name: value for name, value in os.environ.items() if not name.startswith("MLFLOW_TRACKING")}
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    environ = {**own, "PATH": path, "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false", **environment}
    with (folder / "log").open("a") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "mlflow", *words],
            env=environ,
            cwd=folder,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
    try:
        _wait(f"http://127.0.0.1:{port}", process, folder / "log")
        yield f"http://127.0.0.1:{port}"
    finally:
        # The server's workers are processes of its group.
        os.killpg(process.pid, 15)
        process.wait(30)


def free_port() -> int:
    """One that nobody listens at."""
    with socket.create_server(("127.0.0.1", 0)) as probe:
        return int(probe.getsockname()[1])


def register(server: str, files: Path, name: str = "dermanet") -> str:
    """Logs a model's files as a run of the server and makes them the champion. The version."""
    tracking = Tracking(server, Path("/unused"))
    run = tracking.run_for(f"work {time.monotonic_ns()}", "run", {}).info.run_id
    package = Path(dermanet.__file__).parent
    artifacts = {path.name: path for path in files.iterdir()}
    logged = tracking.log_model(run, package / "serving" / "scorer.py", artifacts, package, ["numpy"])
    versions = Versions(tracking.client, name)
    version = versions.register(run, logged, {})
    versions.move(CHAMPION, version)
    return version


def _wait(address: str, process: subprocess.Popen[bytes], log: Path) -> None:
    until = time.monotonic() + 120
    while process.poll() is None and time.monotonic() < until:
        try:
            if requests.get(f"{address}/health", timeout=5).ok:
                return
        except requests.RequestException:
            time.sleep(0.1)
    pytest.fail(f"mlflow server did not come up:\n{log.read_text()[-2000:]}")
