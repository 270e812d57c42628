"""A model's files on this machine: where MLflow keeps them, or else a copy that is put by, so that a version travels once.

models/<name>/<version>-<key>/    the files, and sums.json with the SHA-256 of each
"""

import hashlib
import json
import logging
import os
import re
import shutil
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from urllib.parse import quote, unquote, urlsplit
from uuid import uuid4

from dermanet.errors import BadInput
from dermanet.registry.lookup import NAMED, Located, ask, fetch, locate, session

FILES = "artifacts"
"""The folder with a logged model's own files, below MLflow's."""

SUMS = "sums.json"
LEFT_OUT = ".keras"
"""The ending of what only training needs: half of what would travel."""

KEPT = 3
"""Copies of one model's versions."""

SAFE = re.compile(r"[\w-][\w.-]*")
"""A file's name as it may come from a server."""

Fetch = Callable[[Path], None]
"""Writes a model's files into an empty folder. Raises DermaNetError, OSError."""


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
    return Model(found.version, put_by(copies, found, tracking_uri, partial(_travel, found, tracking_uri, environ)))


def local_folder(source: str) -> Path | None:
    """The path behind an address, whether it is there or not; None for an address elsewhere."""
    parts = urlsplit(source)
    if parts.scheme == "file" and parts.netloc in ("", "localhost"):
        return Path(unquote(parts.path))
    return Path(source) if not parts.scheme and source.startswith("/") else None


def put_by(copies: Path, found: Located, tracking_uri: str, fetch: Fetch) -> Path:
    """The copy of a version, fetched where there is none or it is damaged; written whole by a rename."""
    # A version number is given again where a registry is made anew; the address of its files is not.
    key = hashlib.sha256(f"{tracking_uri}\n{found.name}\n{found.source}".encode()).hexdigest()[:16]
    place = copies / quote(found.name, safe="") / f"{found.version}-{key}"
    if not _whole(place):
        place.parent.mkdir(parents=True, exist_ok=True)
        half = place.parent / f".{uuid4().hex}"
        half.mkdir()
        try:
            fetch(half)
            (half / SUMS).write_text(json.dumps(_sums(half)))
            _move(half, place)
        finally:
            shutil.rmtree(half, ignore_errors=True)
    with suppress(OSError):
        os.utime(place)
    _prune(place.parent)
    return place


def _whole(place: Path) -> bool:
    try:
        told = json.loads((place / SUMS).read_text())
        return isinstance(told, dict) and bool(told) and _sums(place) == told
    except (OSError, ValueError):
        return False


def _sums(folder: Path) -> dict[str, str]:
    files = sorted(path for path in folder.iterdir() if path.name != SUMS)
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in files}


def _move(half: Path, place: Path) -> None:
    while not _whole(place):
        try:
            return os.rename(half, place)
        except OSError:
            # What is in the way is damaged, or somebody else's, whole by now.
            if not place.exists():
                raise
            if not _whole(place):
                with suppress(FileNotFoundError):
                    os.rename(place, half.with_name(f"{half.name}-damaged"))
                shutil.rmtree(half.with_name(f"{half.name}-damaged"), ignore_errors=True)


def _prune(folder: Path) -> None:
    """Removes all copies but the last ones that were used."""
    with suppress(OSError):
        copies = [path for path in folder.iterdir() if not path.name.startswith(".")]
        for path in sorted(copies, key=lambda path: -path.stat().st_mtime)[KEPT:]:
            shutil.rmtree(path, ignore_errors=True)


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
        return bool(wanted) and all(fetch(asking, f"{base}/{quote(f'{root}/{name}')}", into / name) for name in wanted)


def _by_mlflows_way(found: Located, tracking_uri: str, into: Path) -> None:
    """Fetches a version's files from wherever MLflow can. Raises BadInput."""
    from dermanet.registry.tracking import model_files

    _ask_mlflow_at(tracking_uri)
    for path in model_files(f"models:/{found.name}/{found.version}").iterdir():
        if not path.name.endswith(LEFT_OUT):
            shutil.copyfile(path, into / path.name)


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
    return Model(version, model_files(uri))


def _ask_mlflow_at(tracking_uri: str) -> None:
    import mlflow

    # What MLflow's database cannot do is raised, too; its page of traceback would bury the line that says what to do.
    logging.getLogger("mlflow.store.db.utils").setLevel(logging.CRITICAL)
    mlflow.set_tracking_uri(tracking_uri)
