"""What the tests share: a home of their own, a folder of drawn images, a real S3 server, a real PostgreSQL."""

import fcntl
import os
import signal
import subprocess
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from uuid import uuid4

import hypothesis
import postgres as postgresql
import pytest
import samples
import storeroom
from commands import Commands
from installation import SOURCE, Installation
from postbox import Mailbox
from seaweed import BUCKET, Seaweed

from dermanet import stages

# Started in the background of a script, this process ignores Ctrl-C, and so would every command that a test interrupts.
if signal.getsignal(signal.SIGINT) == signal.SIG_IGN:
    signal.signal(signal.SIGINT, signal.default_int_handler)

# A deadline measures the machine, not the code; and the same examples on every run make a failure one that can be found again.
hypothesis.settings.register_profile("tests", deadline=None, derandomize=True, max_examples=60)
hypothesis.settings.load_profile("tests")


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A DERMANET_HOME of this test's own; every other setting has its default."""
    for name in [name for name in os.environ if name.startswith("DERMANET_") or name == "MLFLOW_TRACKING_URI"]:
        monkeypatch.delenv(name)
    monkeypatch.setenv("DERMANET_HOME", str(tmp_path / "home"))
    return tmp_path / "home"


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of one megabyte."""
    folder = tmp_path / "disk"
    folder.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", folder], capture_output=True).returncode:
        pytest.skip("needs the right to mount a small tmpfs")
    yield folder
    subprocess.run(["umount", "-l", folder], check=True)


@pytest.fixture
def mailbox() -> Iterator[Mailbox]:
    """A webhook that keeps what it is told."""
    box = Mailbox()
    yield box
    box.close()


@pytest.fixture
def ham10000(tmp_path: Path) -> Callable[..., Path]:
    """`samples.ham10000` with this test's folder filled in: `ham10000(count=6, rows={2: {"age": "-3"}})`."""
    return partial(samples.ham10000, tmp_path / "HAM10000")


@pytest.fixture(scope="session")
def commands(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Commands]:
    """Runs `dermanet` commands as processes that need not import anything first."""
    running = Commands(tmp_path_factory.mktemp("commands"))
    yield running
    running.close()


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
    server = Seaweed(tmp_path_factory.mktemp("s3"))
    with pytest.MonkeyPatch.context() as patch:
        for name, value in server.environment.items():
            patch.setenv(name, value)
        server.start()
        try:
            server.wait()
            yield server.endpoint
        finally:
            server.kill()


@pytest.fixture
def own_s3(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Seaweed]:
    """A real S3 server of this test's own, which it may kill and start again."""
    (tmp_path / "s3").mkdir()
    server = Seaweed(tmp_path / "s3")
    for name, value in server.environment.items():
        monkeypatch.setenv(name, value)
    server.start()
    try:
        server.wait()
        yield server
    finally:
        server.kill()


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


@pytest.fixture(scope="module")
def own_postgres() -> Iterator[postgresql.Server]:
    """A PostgreSQL of a module's own, which its tests stop and start."""
    programs = postgresql.server()
    if programs is None:
        pytest.skip("needs PostgreSQL's programs initdb and postgres, which are not on this machine")
    with postgresql.running(programs, keeps=True) as running:
        yield running


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
    made = trained.copy(tmp_path / "installation")
    made.enter(monkeypatch)
    return made
