"""The stage that tries a version out: the server that users get is started on it, and must answer as the network did in training."""

import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryFile
from typing import IO, TYPE_CHECKING, Any

from dermanet import settings
from dermanet.errors import DermaNetError, GateRefused
from dermanet.stages.rooms import ledger_of, tracking_of, versions_of

if TYPE_CHECKING:
    import requests

START, ANSWER, END = 120.0, 60.0, 15.0
"""Seconds within which the server must be up, must answer, and must have ended."""

TOKENS = ("DERMANET_TOKENS", "DERMANET_METRICS_TOKEN")
"""What the server on trial does not ask for."""

PASSED = "passed"
TAG = "dermanet.smoke_test"


def smoke_test(version: str) -> dict[str, Any]:
    """Starts `dermanet serve` on a version, sends the golden images over HTTP and compares; once a version has passed, it has.

    Raises GateRefused where the answers are others than in training, DermaNetError where the server does not come up.
    """
    from dermanet.ledger.decisions import Decision
    from dermanet.registry.tracking import model_at_hand
    from dermanet.serving import golden
    from dermanet.serving.network import CARD

    here = settings.read()
    tracking = tracking_of(here)
    versions = versions_of(here, tracking)
    found = versions.get(version)
    if found.tags.get(TAG) == PASSED:
        return {"version": version, "smoke_test": PASSED, "tried": False}
    ledger = ledger_of(here)

    def conclude(outcome: str, reason: str) -> None:
        ledger.add(Decision("smoke test", outcome, (reason,), found.run_id or "", version, dag_run=here.dag_run))
        versions.tag(version, smoke_test=outcome)

    try:
        with model_at_hand(f"models:/{here.model}/{version}") as files:
            diagnoses = [entry["code"] for entry in json.loads((files / CARD).read_text())["taxonomy"]]
            with _serving(version) as (client, address):
                rows = _asked(client, address, golden.request(files / golden.FILE))
            furthest = golden.check_rows(files / golden.FILE, rows, diagnoses)
    except _Silent as error:
        raise DermaNetError(f"version {version} was not tried out: {error}; run this again") from None
    except DermaNetError as error:
        conclude("failed", str(error))
        raise GateRefused(f"version {version} does not answer as it did in training: {error}") from None
    conclude(PASSED, f"{len(rows)} golden images answered over HTTP within {furthest:.2g} of what may differ")
    return {"version": version, "smoke_test": PASSED, "tried": True}


class _Silent(Exception):
    """The server has said nothing that could be judged."""


@contextmanager
def _serving(version: str) -> "Iterator[tuple[requests.Session, str]]":
    """A client and the address of a server of its own on a version, while it is used."""
    import requests

    port, client = _free_port(), requests.Session()
    # Loopback is never behind a proxy, whatever the environment says.
    client.trust_env = False
    address = f"http://127.0.0.1:{port}"
    words = ("serve", "--host", "127.0.0.1", "--port", str(port), "--version", version)
    command = [sys.executable, "-m", "dermanet", *words]
    with TemporaryFile() as said, subprocess.Popen(command, stdout=said, stderr=said, env=_environment()) as process:
        try:
            _wait(process, client, address, said, version)
            yield client, address
        finally:
            process.terminate()
            try:
                process.wait(END)
            except subprocess.TimeoutExpired:
                process.kill()


def _wait(
    process: "subprocess.Popen[bytes]", client: "requests.Session", address: str, said: IO[bytes], version: str
) -> None:
    until = time.monotonic() + START
    while time.monotonic() < until:
        if process.poll() is not None:
            break
        served = _get(client, f"{address}/model")
        if served.get("version") == version:
            return
        if served.get("trouble"):
            # What does not load here would not load for anybody.
            raise DermaNetError(str(served["trouble"]))
        time.sleep(0.2)
    said.seek(0)
    last = said.read().decode(errors="replace").strip().splitlines()[-1:] or ["it said nothing"]
    raise _Silent(f"the server on it has {'ended' if process.poll() is not None else 'not come up'}: {last[0]}")


def _get(client: "requests.Session", address: str) -> dict[str, Any]:
    import requests

    try:
        return dict(client.get(address, timeout=2).json())
    except (requests.RequestException, ValueError):
        return {}


def _asked(client: "requests.Session", address: str, images: Sequence[str]) -> list[dict[str, Any]]:
    """What /invocations answers to images, in MLflow's own form of a request."""
    import requests

    body = {"dataframe_split": {"columns": ["image"], "data": [[image] for image in images]}}
    try:
        answer = client.post(f"{address}/invocations", json=body, timeout=ANSWER)
    except requests.RequestException as error:
        raise _Silent(f"/invocations does not answer ({type(error).__name__})") from None
    if not answer.ok:
        raise DermaNetError(f"/invocations answers {answer.status_code}")
    return list(answer.json()["predictions"])


def _environment() -> dict[str, str]:
    """Where this very code is found, wherever the stage was started; without tokens, as this server is asked on loopback alone."""
    paths = [str(Path(__file__).parents[2]), *filter(None, [os.environ.get("PYTHONPATH")])]
    kept = {name: value for name, value in os.environ.items() if name not in TOKENS}
    return {**kept, "PYTHONPATH": os.pathsep.join(paths)}


def _free_port() -> int:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        return int(taken.getsockname()[1])
