"""Which version a model address means and where MLflow keeps its files, without importing MLflow: that takes longer than an answer.

A server is asked over MLflow's REST API, a SQLite file is read as MLflow would read it. Its tables are MLflow's own affair: whatever
is not as expected there, in the address or in the environment is None here, and MLflow's client is asked. `tests/test_lookup.py`
holds the two equal.
"""

import os
import re
import sqlite3
from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

from dermanet.errors import DermaNetError

if TYPE_CHECKING:
    import requests

NAMED = re.compile(r"models:/(?P<name>[^/@]+)(?:@(?P<alias>[^/@]+)|/(?P<version>[0-9]{1,18}))")
"""The addresses that are looked up here: `models:/NAME@ALIAS` and `models:/NAME/VERSION`."""

OTHERWISE = (
    "MLFLOW_REGISTRY_URI", "MLFLOW_WORKSPACE", "MLFLOW_ENABLE_WORKSPACES", "MLFLOW_TRACKING_AUTH", "MLFLOW_TRACKING_AWS_SIGV4",
    "MLFLOW_TRACKING_CLIENT_CERT_PATH", "MLFLOW_TRACKING_SERVER_CERT_PATH", "MLFLOW_TRACKING_INSECURE_TLS",
)  # fmt: skip
"""Variables by which MLflow would look elsewhere, or in another way."""

CREDENTIALS = Path("~/.mlflow/credentials")
"""Where MLflow looks for a name and a password that no variable gives."""

API = "api/2.0/mlflow"
AWAY = (429, 502, 503, 504)
"""What a server says that cannot answer now; a 500 is a refusal, whose reason MLflow's client gives."""

PATIENCE = 10.0
"""Seconds without a byte from a server, at most."""


@dataclass(frozen=True, slots=True)
class Located:
    """A version of a registered model. `source`: the address of its folder: a path, `file:`, `mlflow-artifacts:`, `s3:` …"""

    name: str
    version: str
    source: str


def locate(uri: str, tracking_uri: str, environ: Mapping[str, str] | None = None) -> Located | None:
    """The version at a model address; None where MLflow itself must be asked, be it only for why there is none.

    Raises DermaNetError where the server does not answer.
    """
    environ = os.environ if environ is None else environ
    named = NAMED.fullmatch(uri)
    if named is None or named["alias"] == "latest" or any(environ.get(name) for name in OTHERWISE):
        return None
    if tracking_uri.startswith("sqlite:///"):
        return _in_database(named, tracking_uri.removeprefix("sqlite:///"))
    if tracking_uri.startswith(("http://", "https://")) and not _filed_credentials(environ):
        return _at_server(named, tracking_uri, environ)
    return None


@cache
def require_answer(tracking_uri: str) -> None:
    """Raises DermaNetError where a server does not answer within seconds. Asked once: who goes away later may come back."""
    if tracking_uri.startswith(("http://", "https://")) and not any(os.environ.get(name) for name in OTHERWISE):
        with session(os.environ) as asking:
            ask(asking, f"{tracking_uri.rstrip('/')}/health")


def session(environ: Mapping[str, str]) -> "requests.Session":
    """What asks an MLflow server, in the name that MLflow's own variables give; what is busy is asked again, twice."""
    import requests
    from requests.adapters import HTTPAdapter
    from urllib3.util import Retry

    made = requests.Session()
    again = Retry(2, backoff_factor=0.3, status_forcelist=AWAY, raise_on_status=False)
    for scheme in ("http://", "https://"):
        made.mount(scheme, HTTPAdapter(max_retries=again))
    user, password = environ.get("MLFLOW_TRACKING_USERNAME"), environ.get("MLFLOW_TRACKING_PASSWORD")
    if user and password:
        made.auth = (user, password)
    elif token := environ.get("MLFLOW_TRACKING_TOKEN"):
        made.headers["Authorization"] = f"Bearer {token}"
    return made


def ask(asking: "requests.Session", url: str, **params: str) -> "requests.Response | None":
    """A server's answer; None where it is a refusal. Raises DermaNetError where there is none, or only that it cannot."""
    import requests

    try:
        answer = asking.get(url, params=params, timeout=PATIENCE)
    except requests.RequestException as error:
        raise _no_answer(url, type(error).__name__) from None
    if answer.status_code in AWAY:
        raise _no_answer(url, f"status {answer.status_code}")
    return answer if answer.status_code == 200 else None


def fetch(asking: "requests.Session", url: str, to: Path) -> bool:
    """Writes what a server hands out, piece by piece; False where it is a refusal. Raises DermaNetError as `ask` does, and OSError."""
    import requests

    try:
        with asking.get(url, timeout=PATIENCE, stream=True) as answer, open(to, "wb") as out:
            if answer.status_code in AWAY:
                raise _no_answer(url, f"status {answer.status_code}")
            out.writelines(answer.iter_content(1 << 20) if answer.status_code == 200 else ())
            return answer.status_code == 200
    except requests.RequestException as error:
        raise _no_answer(url, type(error).__name__) from None


def _in_database(named: re.Match[str], path: str) -> Located | None:
    if "?" in path:
        return None
    try:
        # Read only: looking something up never makes a database, nor keeps anybody from writing.
        with closing(sqlite3.connect(f"file:{quote(path)}?mode=ro", uri=True)) as database:
            version = named["version"] or _holder(database, named)
            return _version(database, named["name"], int(version)) if version else None
    except sqlite3.Error:
        return None


def _holder(database: sqlite3.Connection, named: re.Match[str]) -> int | None:
    query = "SELECT version FROM registered_model_aliases WHERE workspace = 'default' AND name = ? AND alias = ?"
    found = database.execute(query, (named["name"], named["alias"])).fetchone()
    return int(found[0]) if found else None


def _version(database: sqlite3.Connection, name: str, version: int) -> Located | None:
    query = (
        "SELECT storage_location, source FROM model_versions "
        "WHERE workspace = 'default' AND name = ? AND version = ? AND current_stage <> 'Deleted_Internal'"
    )
    found = database.execute(query, (name, version)).fetchone()
    source = found and (found[0] or found[1])
    return Located(name, str(version), str(source)) if source else None


def _at_server(named: re.Match[str], server: str, environ: Mapping[str, str]) -> Located | None:
    base, name, version = f"{server.rstrip('/')}/{API}", named["name"], named["version"]
    with session(environ) as asking:
        if not version:
            found = _told(
                ask(asking, f"{base}/registered-models/alias", name=name, alias=named["alias"]), "model_version"
            )
            version = found.get("version") if isinstance(found, dict) else None
        if not version:
            return None
        source = _told(
            ask(asking, f"{base}/model-versions/get-download-uri", name=name, version=version), "artifact_uri"
        )
    return Located(name, str(int(version)), str(source)) if source else None


def _told(answer: "requests.Response | None", key: str) -> Any:
    """What an answer says under a key; None where it is no such answer."""
    try:
        told = answer.json() if answer is not None else None
    except ValueError:
        return None
    return told.get(key) if isinstance(told, dict) else None


def _filed_credentials(environ: Mapping[str, str]) -> bool:
    """Whether MLflow would read who asks from a file."""
    given = environ.get("MLFLOW_TRACKING_USERNAME") and environ.get("MLFLOW_TRACKING_PASSWORD")
    return not given and CREDENTIALS.expanduser().exists()


def _no_answer(url: str, why: str) -> DermaNetError:
    host = url.partition("://")[2].partition("/")[0].rpartition("@")[2]
    return DermaNetError(f"MLflow's server at {host} does not answer ({why}); start it, or see MLFLOW_TRACKING_URI")
