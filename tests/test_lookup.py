"""A version found without MLflow's client: the same one that the client finds, or the client is asked."""

import json
import os
import shutil
import sqlite3
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import mlflow
import mlflowserver
import pytest
from installation import Installation, photo
from mlflow import MlflowClient
from mlflow.exceptions import MlflowException

from dermanet.errors import BadInput, DermaNetError
from dermanet.registry import copies
from dermanet.registry.copies import model
from dermanet.registry.lookup import OTHERWISE, Located, ask, locate, session
from dermanet.registry.shelf import KEPT, SUMS
from dermanet.registry.tracking import Tracking, model_at_hand, model_files

PLAIN = dict.fromkeys((*OTHERWISE, "MLFLOW_TRACKING_USERNAME", "MLFLOW_TRACKING_PASSWORD", "MLFLOW_TRACKING_TOKEN"), "")
ADDRESSES = (
    "models:/dermanet@champion", "models:/dermanet/1", "models:/dermanet/01", "models:/dermanet/2", "models:/dermanet@previous",
    "models:/dermanet@Champion", "models:/dermanet@nobody", "models:/other@champion", "models:/dermanet/77",
    "models:/dermanet/gone", "models:/a b@champion", "models:/dermanet/3",
)  # fmt: skip


@pytest.fixture(scope="module")
def server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server with nothing in it."""
    with mlflowserver.running(tmp_path_factory.mktemp("server")) as address:
        yield address


@pytest.fixture(scope="module")
def served(server: str, trained: Installation) -> str:
    """The same, with the trained installation's model as version 1."""
    mlflow.set_tracking_uri(trained.tracking_uri)
    files = model_files("models:/dermanet/1")
    assert mlflowserver.register(server, files) == "1"
    return server


def as_mlflow_says(uri: str, tracking_uri: str) -> Located | None:
    """What MLflow's own client answers; None where it refuses."""
    mlflow.set_tracking_uri(tracking_uri)
    client = MlflowClient(tracking_uri)
    name, _, last = uri.removeprefix("models:/").partition("@" if "@" in uri else "/")
    try:
        version = str(client.get_model_version_by_alias(name, last).version) if "@" in uri else last
        return Located(name, str(int(version)), client.get_model_version_download_uri(name, version))
    except (MlflowException, ValueError):
        return None


def hold_equal(tracking_uri: str) -> list[str]:
    """Which of the addresses were found, by either."""
    client = MlflowClient(tracking_uri)
    for _ in range(2):
        client.create_model_version("dermanet", "s3://nowhere/model")
    client.delete_model_version("dermanet", "3")
    client.set_registered_model_alias("dermanet", "previous", "2")
    client.create_registered_model("a b")
    client.create_model_version("a b", "s3://nowhere/a%20b")
    client.set_registered_model_alias("a b", "champion", "1")
    found = {uri: locate(uri, tracking_uri, PLAIN) for uri in ADDRESSES}
    assert found == {uri: as_mlflow_says(uri, tracking_uri) for uri in ADDRESSES}
    return [uri for uri in ADDRESSES if found[uri]]


FOUND = ["models:/dermanet@champion", "models:/dermanet/1", "models:/dermanet/01", "models:/dermanet/2",
         "models:/dermanet@previous", "models:/a b@champion"]  # fmt: skip


def test_a_database_is_read_as_mlflow_reads_it(installation: Installation) -> None:
    assert hold_equal(installation.tracking_uri) == FOUND


def test_a_server_is_asked_as_mlflow_asks_it(served: str) -> None:
    try:
        assert hold_equal(served) == FOUND
    finally:
        MlflowClient(served).delete_registered_model("a b")


@pytest.mark.parametrize(
    "uri",
    [
        "models:/m-0123", "models:/dermanet/Production", "models:/dermanet@latest", "runs:/abc/model", "dermanet",
        "models:/dermanet@champion/artifacts", "models://profile@databricks/dermanet/1", "",
    ],
)  # fmt: skip
def test_what_is_no_plain_address_is_left_to_mlflow(trained: Installation, uri: str) -> None:
    assert locate(uri, trained.tracking_uri, PLAIN) is None


@pytest.mark.parametrize("name", OTHERWISE)
def test_where_mlflow_would_look_elsewhere_it_is_asked(trained: Installation, name: str) -> None:
    assert locate("models:/dermanet/1", trained.tracking_uri, PLAIN) is not None
    assert locate("models:/dermanet/1", trained.tracking_uri, {**PLAIN, name: "x"}) is None


@pytest.mark.parametrize("change", ["ALTER TABLE model_versions RENAME TO versions", "ALTER TABLE model_versions DROP COLUMN source",
                                    "UPDATE model_versions SET storage_location = '', source = ''"])  # fmt: skip
def test_tables_that_are_not_as_expected_are_left_to_mlflow(installation: Installation, change: str) -> None:
    with sqlite3.connect(installation.home / "mlflow.db") as database:
        database.execute("PRAGMA foreign_keys = OFF")
        database.execute("DROP INDEX IF EXISTS idx_model_versions_run_id")
        database.execute(change)
    assert locate("models:/dermanet/1", installation.tracking_uri, PLAIN) is None


def test_a_database_that_is_not_there_is_not_made(tmp_path: Path) -> None:
    for uri in (f"sqlite:///{tmp_path}/no.db", f"sqlite:///{tmp_path}/no.db?mode=rwc"):
        assert locate("models:/dermanet/1", uri, PLAIN) is None
    with pytest.raises(BadInput, match=r"no\.db yet; train"):
        model("models:/dermanet@champion", f"sqlite:///{tmp_path}/no.db", tmp_path / "copies", PLAIN)
    assert list(tmp_path.iterdir()) == []


def test_files_that_are_here_are_taken_where_they_lie(trained: Installation, tmp_path: Path) -> None:
    found = model("models:/dermanet@champion", trained.tracking_uri, tmp_path / "copies", PLAIN)
    mlflow.set_tracking_uri(trained.tracking_uri)
    assert (found.version, found.files) == ("1", model_files("models:/dermanet@champion"))
    assert not (tmp_path / "copies").exists()


@pytest.mark.parametrize("uri", ["models:/dermanet@nobody", "models:/other/1", "models:/dermanet/9", "no/such/folder"])
def test_a_model_that_is_not_there_is_refused_in_mlflow_s_words(
    trained: Installation, tmp_path: Path, uri: str
) -> None:
    with pytest.raises(BadInput, match="cannot be read"):
        model(uri, trained.tracking_uri, tmp_path / "copies", PLAIN)


def test_mlflow_finds_the_same_version_where_it_must_be_asked(trained: Installation, tmp_path: Path) -> None:
    asked = {**PLAIN, "MLFLOW_REGISTRY_URI": trained.tracking_uri}
    found = model("models:/dermanet@champion", trained.tracking_uri, tmp_path / "copies", asked)
    assert found == model("models:/dermanet@champion", trained.tracking_uri, tmp_path / "copies", PLAIN)
    folder = model(str(found.files.parent), trained.tracking_uri, tmp_path / "copies", PLAIN)
    assert folder.version == "" and (folder.files / "model.onnx").exists()


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != SUMS}


def test_files_from_a_server_travel_once_and_are_checked(
    served: str, trained: Installation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = model("models:/dermanet/1", served, tmp_path, PLAIN)
    mlflow.set_tracking_uri(trained.tracking_uri)
    whole = contents(model_files("models:/dermanet/1"))
    del whole["model.keras"]
    assert contents(found.files) == whole
    with monkeypatch.context() as patch:
        patch.setattr(copies, "_travel", lambda *arguments: pytest.fail("it travelled again"))
        assert model("models:/dermanet/1", served, tmp_path, PLAIN) == found
    (found.files / "model.onnx").write_bytes(b"rot")
    assert contents(model("models:/dermanet/1", served, tmp_path, PLAIN).files) == whole
    place = found.files.parent
    assert [path.name for path in place.parent.iterdir()] == [place.name]


def test_what_travelled_for_a_look_leaves_no_copy_behind(
    served: str, trained: Installation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A task's process of Airflow ends without tidying up: what lies in the temporary folder then stays there for ever."""
    mlflow.set_tracking_uri(trained.tracking_uri)
    whole = contents(model_files("models:/dermanet/1"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    tracking = Tracking(served, tmp_path)
    with model_at_hand("models:/dermanet/1") as files:
        assert contents(files) == whole and files.is_relative_to(tmp_path)
    with model_at_hand("models:/dermanet/1", "model.onnx") as graph:
        assert graph.read_bytes() == whole["model.onnx"]
    run = tracking.client.create_run(tracking.experiment).info.run_id
    tracking.log_text(run, "<p>Anna</p>", "dossier/page.html")
    assert tracking.read_text(run, "dossier/page.html") == "<p>Anna</p>"
    with pytest.raises(BadInput, match=r"has no other\.html"):
        tracking.read_text(run, "other.html")
    assert list(tmp_path.iterdir()) == []


def test_what_the_server_does_not_hand_out_is_fetched_by_mlflow(
    served: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    handed_out = model("models:/dermanet/1", served, tmp_path / "one", PLAIN)
    monkeypatch.setattr(copies, "_handed_out", lambda *arguments: False)
    fetched = model("models:/dermanet/1", served, tmp_path / "other", PLAIN)
    assert contents(fetched.files) == contents(handed_out.files)


def test_several_that_fetch_at_once_end_with_one_whole_copy(tmp_path: Path) -> None:
    found, together = Located("dermanet", "1", "s3://bucket/m"), threading.Barrier(4)

    def fetch(into: Path) -> None:
        (into / "model.onnx").write_bytes(b"graph" * 1000)
        together.wait()

    with ThreadPoolExecutor(4) as pool:
        places = list(pool.map(lambda _: copies.put_by(tmp_path, found, "http://there", fetch), range(4)))
    assert len(set(places)) == 1 and contents(places[0]) == {"model.onnx": b"graph" * 1000}
    assert [path.name for path in places[0].parent.iterdir()] == [places[0].name]


def test_a_fetch_that_breaks_off_leaves_nothing(tmp_path: Path) -> None:
    def fetch(into: Path) -> None:
        (into / "model.onnx").write_bytes(b"gra")
        raise OSError("the line went dead")

    with pytest.raises(OSError, match="dead"):
        copies.put_by(tmp_path, Located("dermanet", "1", "s3://bucket/m"), "http://there", fetch)
    assert list((tmp_path / "dermanet").iterdir()) == []


def test_the_last_copies_that_were_used_are_kept(tmp_path: Path) -> None:
    for version in range(KEPT + 2):
        found = Located("dermanet", str(version), f"s3://bucket/{version}")
        copies.put_by(tmp_path, found, "http://there", lambda into: shutil.copy(__file__, into))
        time.sleep(0.02)
    assert sorted(path.name[0] for path in (tmp_path / "dermanet").iterdir()) == ["2", "3", "4"]


def test_a_server_that_is_away_is_one_line_at_once(tmp_path: Path) -> None:
    clock = time.monotonic()
    with pytest.raises(DermaNetError, match=r"127.0.0.1:1 does not answer"):
        model("models:/dermanet@champion", "http://name:secret@127.0.0.1:1", tmp_path, PLAIN)
    assert time.monotonic() - clock < 10


class Asked(BaseHTTPRequestHandler):
    """Keeps who asked."""

    authorizations: list[str | None] = []

    def do_GET(self) -> None:
        self.authorizations.append(self.headers["Authorization"])
        self.send_response(200)
        self.end_headers()
        self.wfile.write(b"{}")

    def log_message(self, format: str, *arguments: object) -> None:
        pass


def test_who_asks_is_said_as_mlflow_says_it() -> None:
    with ThreadingHTTPServer(("127.0.0.1", 0), Asked) as listening:
        threading.Thread(target=listening.serve_forever, daemon=True).start()
        address = f"http://127.0.0.1:{listening.server_port}"
        named = {"MLFLOW_TRACKING_USERNAME": "eve", "MLFLOW_TRACKING_PASSWORD": "word"}
        for environ in (PLAIN, {"MLFLOW_TRACKING_TOKEN": "token"}, named | {"MLFLOW_TRACKING_TOKEN": "token"}):
            ask(session(environ), address)
            assert locate("models:/dermanet/1", address, {**PLAIN, **environ}) is None
        listening.shutdown()
    assert Asked.authorizations[::2] == Asked.authorizations[1::2] == [None, "Bearer token", "Basic ZXZlOndvcmQ="]


def test_credentials_in_mlflow_s_file_are_left_to_mlflow(
    served: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HOME", str(tmp_path))
    assert locate("models:/dermanet/1", served, PLAIN) is not None
    (tmp_path / ".mlflow").mkdir()
    (tmp_path / ".mlflow/credentials").write_text("[mlflow]\nmlflow_tracking_username = eve\n")
    assert locate("models:/dermanet/1", served, PLAIN) is None


PREDICT = """
import sys
from dermanet import cli
sys.argv = ["dermanet", "predict", sys.argv[1], "--json"]
try:
    cli.main()
except SystemExit:
    print(*{"mlflow", "pandas", "tensorflow", "alembic"} & set(sys.modules))
"""


@pytest.mark.parametrize("where", ["database", "server"])
def test_an_image_is_answered_without_importing_mlflow(
    trained: Installation, served: str, tmp_path: Path, where: str
) -> None:
    tracking_uri = served if where == "server" else trained.tracking_uri
    own = {**os.environ, "DERMANET_HOME": str(tmp_path), "MLFLOW_TRACKING_URI": tracking_uri, "HOME": str(tmp_path)}
    command = [sys.executable, "-c", PREDICT, str(photo(tmp_path))]
    done = subprocess.run(command, env=own, capture_output=True, text=True, check=True)
    rows, imported = done.stdout.splitlines()
    assert ([row["image"] for row in json.loads(rows)], imported) == ([str(tmp_path / "photo.jpg")], "")
    assert len(list(tmp_path.glob(f"models/*/*/{SUMS}"))) == (where == "server")
