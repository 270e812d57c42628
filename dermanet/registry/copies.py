"""A model's files on this machine: where MLflow keeps them, or else a copy that is put by, so that a version travels once.

models/<name>/    a shelf of one model's versions
"""

import atexit
import hashlib
import logging
import os
import re
import shutil
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from tempfile import mkdtemp
from urllib.parse import quote, unquote, urlsplit

from dermanet.errors import BadInput
from dermanet.registry.lookup import NAMED, Located, ask, fetch, locate, session
from dermanet.registry.shelf import LEFT_OUT, Fetch, Shelf

FILES = "artifacts"
"""The folder with a logged model's own files, below MLflow's."""

SAFE = re.compile(r"[\w-][\w.-]*")
"""A file's name as it may come from a server."""


@dataclass(frozen=True, slots=True)
class Model:
    """A model on this machine. `version`: of the registered model, empty where it is of none; `files`: the folder with its graph."""

    version: str
    files: Path


def model(uri: str, tracking_uri: str, copies: Path, environ: Mapping[str, str] | None = None) -> Model:
    """The model at an address that MLflow knows. `copies`: the folder for what has to travel.

    Raises BadInput where there is none or it cannot be read, and DermaNetError where MLflow's server does not answer.
    """
    environ = os.environ if environ is None else environ
    found = locate(uri, tracking_uri, environ)
    folder = local_folder(found.source) if found else None
    if found is None or (folder and not (folder / FILES).is_dir()):
        return _by_mlflow(uri, tracking_uri)
    if folder:
        return Model(found.version, folder / FILES)
    copy = put_by(copies, found, tracking_uri, partial(_travel, found, tracking_uri, environ))
    return Model(found.version, copy / FILES)


def local_folder(source: str) -> Path | None:
    """The path behind an address, whether it is there or not; None for an address elsewhere."""
    parts = urlsplit(source)
    if parts.scheme == "file" and parts.netloc in ("", "localhost"):
        return Path(unquote(parts.path))
    return Path(source) if not parts.scheme and source.startswith("/") else None


def put_by(copies: Path, found: Located, tracking_uri: str, fetch: Fetch) -> Path:
    """The copy of a version, fetched where there is none or it is damaged."""
    # A version number is given again where a registry is made anew; the address of its files is not.
    key = hashlib.sha256(f"{tracking_uri}\n{found.name}\n{found.source}".encode()).hexdigest()[:16]
    return Shelf(copies / quote(found.name, safe="")).get(f"{found.version}-{key}", fetch)


def _travel(found: Located, tracking_uri: str, environ: Mapping[str, str], into: Path) -> None:
    if not _handed_out(found, tracking_uri, environ, into):
        _by_mlflows_way(found, tracking_uri, into)


def _handed_out(found: Located, server: str, environ: Mapping[str, str], into: Path) -> bool:
    """Fetches a version's files where the MLflow server hands out artifacts; False where only MLflow can, or can say why not."""
    parts = urlsplit(found.source)
    # Whoever asks says to this server alone who it is.
    if parts.scheme != "mlflow-artifacts" or parts.netloc not in ("", urlsplit(server).netloc):
        return False
    base, root = f"{server.rstrip('/')}/api/2.0/mlflow-artifacts/artifacts", f"{unquote(parts.path).strip('/')}/{FILES}"
    with session(environ) as asking:
        listed = ask(asking, base, path=root)
        files = listed.json().get("files", []) if listed is not None else []
        if not all(SAFE.fullmatch(str(file["path"])) and not file.get("is_dir") for file in files):
            return False
        wanted = [str(file["path"]) for file in files if not str(file["path"]).endswith(LEFT_OUT)]
        (into / FILES).mkdir()
        addresses = {name: f"{base}/{quote(f'{root}/{name}')}" for name in wanted}
        return bool(wanted) and all(fetch(asking, url, into / FILES / name) for name, url in addresses.items())


def _by_mlflows_way(found: Located, tracking_uri: str, into: Path) -> None:
    """Fetches a version's files from wherever MLflow can. Raises BadInput."""
    from mlflow import MlflowClient

    from dermanet.registry.versions import Versions

    _ask_mlflow_at(tracking_uri)
    shutil.rmtree(into / FILES, ignore_errors=True)
    Versions(MlflowClient(), found.name).fetch(found.version, into)


def _by_mlflow(uri: str, tracking_uri: str) -> Model:
    """Asks MLflow's client, which knows every address, or else says what is wrong."""
    database = tracking_uri.removeprefix("sqlite:///")
    if uri.startswith(("models:", "runs:")) and database != tracking_uri and not Path(database).exists():
        raise BadInput(
            f"model {uri!r} cannot be read: there is no {database} yet; train a model first, or set MLFLOW_TRACKING_URI"
        )
    from mlflow import MlflowClient
    from mlflow.exceptions import MlflowException

    from dermanet.registry.tracking import model_files

    named, version = NAMED.fullmatch(uri), ""
    _ask_mlflow_at(tracking_uri)
    if named:
        # By its number from here on: the alias may move in between.
        with suppress(MlflowException):
            client = MlflowClient(tracking_uri)
            version = named["version"] or str(client.get_model_version_by_alias(named["name"], named["alias"]).version)
            uri = f"models:/{named['name']}/{version}"
    return Model(version, model_files(uri, _until_the_end() if tracking_uri.startswith("http") else None))


def _until_the_end() -> str:
    """A folder that goes when this process ends, which is a command's or the scorer's and ends in order."""
    folder = mkdtemp()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _ask_mlflow_at(tracking_uri: str) -> None:
    import mlflow

    # What MLflow's database cannot do is raised, too; its page of traceback would bury the line that says what to do.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
    mlflow.set_tracking_uri(tracking_uri)
