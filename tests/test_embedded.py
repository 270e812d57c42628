"""`dermanet run`: everything on one machine, once, and nothing left behind."""

import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import psutil
import pytest
from installation import Installation
from rich.console import Console

from dermanet.embedded import airflow, job, services
from dermanet.embedded.airflow import Airflow, NoAnswer
from dermanet.embedded.services import Ports
from dermanet.errors import BadInput, DermaNetError
from dermanet.settings import DEMO_GATES, GATES, read

SOURCE = "synthetic:lesions=40,seed=3"


@pytest.fixture
def ports() -> Ports:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(3)]
    numbers = [found.getsockname()[1] for found in sockets]
    for found in sockets:
        found.close()
    return Ports(*numbers)


@pytest.fixture
def installation(tmp_path: Path) -> Installation:
    return Installation(tmp_path)


STAND_IN = (
    "-c",
    """
import os, signal
from dermanet import cli
from dermanet.embedded import job, services

signal.signal(signal.SIGHUP, signal.SIG_IGN if "NOHUP" in os.environ else signal.SIG_DFL)

def bring_up(watch):
    watch.services.logs.mkdir(parents=True, exist_ok=True)
    watch.services._launch("mlflow", ["sleep", "120"])
    if "ASKS" in os.environ:
        print("answers:", services._answers(os.environ["ASKS"]), flush=True)

job.Watch.bring_up = bring_up
job.Watch.do = lambda watch, source: ""
job.Watch.say_where = lambda watch: print("up", flush=True)
cli.main()
""",
)
"""`dermanet`, whose `run` starts one process that sleeps, and asks the address in `ASKS`; as `nohup` does, where `NOHUP` is set."""


@contextmanager
def _started(
    installation: Installation,
    ports: Ports,
    *words: str,
    program: Sequence[str] = ("-m", "dermanet"),
    output: int | None = None,
    **more: str,
) -> Iterator[subprocess.Popen[str]]:
    """`dermanet run`, ended with all it started whatever becomes of the test; what it complains of is apart if `output` is given."""
    numbers = [
        "--airflow-port",
        str(ports.airflow),
        "--mlflow-port",
        str(ports.mlflow),
        "--scorer-port",
        str(ports.scorer),
    ]
    own = {**installation.environment(), "DERMANET_EXPERIMENT": "smoke:epochs=1", "COLUMNS": "200", **more}
    process = subprocess.Popen(
        [sys.executable, *program, "run", *words, *numbers], env=own, cwd=installation.root,
        stdout=output or subprocess.PIPE, stderr=subprocess.PIPE if output else subprocess.STDOUT, text=True, start_new_session=True,
    )  # fmt: skip
    try:
        yield process
    finally:
        if process.poll() is None:
            family = psutil.Process(process.pid).children(recursive=True)
            process.kill()
            for member in family:
                member.kill()


def test_the_main_job_once_then_interrupted_and_nothing_left(installation: Installation, ports: Ports) -> None:
    with _started(installation, ports, SOURCE, DERMANET_TOKENS="t" * 16, DERMANET_METRICS_TOKEN="m" * 16) as first:
        text = _read_until(first, "its page")
        assert "one of DERMANET_TOKENS" in text, text
        assert "registered as version 1, now champion" in text, text
        assert "verdict: pass" in text
        assert "served by version 1" in text
        family = psutil.Process(first.pid).children(recursive=True)
        listening = [address for process in family for address in _listens_at(process)]
        assert {address.ip for address in listening} == {"127.0.0.1"}
        assert {ports.airflow, ports.mlflow, ports.scorer} <= {address.port for address in listening}
        os.kill(first.pid, signal.SIGINT)
        assert first.wait(60) == 0
        assert not [process for process in family if process.is_running()]
    with _started(installation, ports, SOURCE, "--once") as second:
        output = second.communicate(timeout=240)[0]
        assert second.returncode == 0, output
        assert "nothing new to train on; the champion stays" in output


def _listens_at(process: psutil.Process) -> list[Any]:
    """The addresses at which a process listens; one that has ended meanwhile, a task's, listens nowhere."""
    try:
        return [one.laddr for one in process.net_connections("tcp") if one.status == "LISTEN"]
    except psutil.NoSuchProcess:
        return []


def _read_until(process: subprocess.Popen[str], word: str) -> str:
    assert process.stdout is not None
    seen = []
    for line in process.stdout:
        seen.append(line)
        if word in line:
            break
    return "".join(seen)


def test_a_wrong_source_is_said_before_anything_is_started(installation: Installation, ports: Ports) -> None:
    with _started(installation, ports, "/no/such/folder", "--once") as process:
        output = process.communicate(timeout=60)[0]
    assert (process.returncode, len(output.strip().splitlines())) == (2, 1), output


def test_taken_ports_are_named_with_the_way_out() -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken:
        port = taken.getsockname()[1]
        with pytest.raises(BadInput, match=rf"port {port} \(mlflow\) taken .* make run MLFLOW_PORT="):
            Ports(airflow=1, mlflow=port, scorer=2).require_free()


def test_the_port_that_is_suggested_is_one() -> None:
    for port in range(65_535, 64_535, -1):
        with suppress(OSError), socket.create_server(("127.0.0.1", port)):
            with pytest.raises(BadInput, match=rf"make run SCORER_PORT={port - 1000}$"):
                Ports(airflow=1, mlflow=2, scorer=port).require_free()
            return
    pytest.fail("no port among the last thousand is free to try it with")


def test_a_port_that_is_given_twice_is_refused_before_anything_is_started() -> None:
    with pytest.raises(
        BadInput, match=r"8080 \(airflow\), 5000 \(mlflow\) and 8080 \(scorer\); each needs one of its own"
    ):
        Ports(scorer=8080).require_free()


def test_a_home_that_cannot_be_written_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(services.os, "access", lambda path, mode: False)
    with pytest.raises(BadInput, match="cannot be written; set DERMANET_HOME"):
        services.alone(tmp_path)


@pytest.mark.parametrize(("free", "said"), [(4096, "no space is left in "), (2**30, "mlflow.log")])
def test_a_process_that_a_full_disk_ended_is_said_to_be_that(
    home: Path, ports: Ports, monkeypatch: pytest.MonkeyPatch, free: int, said: str
) -> None:
    made = services.Services(read(), ports)
    made.logs.mkdir(parents=True)
    made._launch("mlflow", ["false"])
    made._running["mlflow"].wait()
    usage = shutil.disk_usage(home)._replace(free=free)
    monkeypatch.setattr(services.shutil, "disk_usage", lambda path: usage)
    with pytest.raises(DermaNetError, match=rf"mlflow ended with status 1; .*{said}"):
        made.require_alive()


def test_what_a_killed_run_left_behind_is_ended_and_nobody_else(home: Path, ports: Ports) -> None:
    sleeper, stranger = (subprocess.Popen(["sleep", "60"], start_new_session=True) for _ in range(2))
    made = services.Services(read(), ports)
    home.mkdir(exist_ok=True)
    started = psutil.Process(sleeper.pid).create_time()
    (home / "processes.json").write_text(
        f'[{{"pid": {sleeper.pid}, "started": {started}}}, {{"pid": {stranger.pid}, "started": 12345.0}}]'
    )
    made.end_leftovers()
    try:
        # Its status may have been collected by whoever ended it; alive, this would time out.
        assert sleeper.wait(5) is not None
        time.sleep(0.1)
        assert stranger.poll() is None
    finally:
        stranger.kill()
        stranger.wait()


def test_a_second_run_in_a_home_is_refused_and_the_first_goes_on(installation: Installation, ports: Ports) -> None:
    with _started(installation, ports, SOURCE, program=STAND_IN) as first:
        assert "up" in _read_until(first, "up")
        (service,) = psutil.Process(first.pid).children()
        with _started(installation, ports, SOURCE, program=STAND_IN) as second:
            output = second.communicate(timeout=60)[0]
        assert (second.returncode, len(output.strip().splitlines())) == (2, 1), output
        assert output.startswith("dermanet: another `make run` uses this home, ")
        assert first.poll() is None and service.is_running()
        first.kill()
        first.wait()
    assert service.is_running()
    with _started(installation, ports, SOURCE, program=STAND_IN) as third:
        assert "up" in _read_until(third, "up")
        assert not service.is_running(), "what a killed run left behind keeps nobody out"
        third.send_signal(signal.SIGINT)
        assert third.wait(60) == 0


def test_a_log_does_not_grow_for_ever(home: Path, ports: Ports, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(services, "LOG_BYTES", 10)
    made = services.Services(read(), ports)
    made.logs.mkdir(parents=True)
    for said in (b"short\n", b"and now it is long\n", b"begun anew\n"):
        with made._log("mlflow") as log:
            log.write(said)
    assert (made.logs / "mlflow.log").read_text() == "begun anew\n"
    assert (made.logs / "mlflow.log.1").read_text() == "short\nand now it is long\n"


def test_a_pool_is_made_where_one_is_named(home: Path, ports: Ports, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DERMANET_TRAINING_POOL", "training")
    made = services.Services(read(), ports)
    made.set_up()
    words = [sys.executable, "-m", "airflow", "pools", "get", "training", "--output", "json"]
    told = subprocess.run(words, env=made.environment, capture_output=True, text=True, check=True).stdout
    assert '"slots": "1"' in told, told


def test_the_instances_of_a_mapped_task_are_told_apart() -> None:
    task = {"task_id": "fit_network", "map_index": -1}
    mapped = [{"task_id": "prepare_pixels", "map_index": index} for index in range(2)]
    names = [name for name, _ in job._named([task, *mapped])]
    assert names == ["fit_network", "prepare_pixels 1 of 2", "prepare_pixels 2 of 2"]
    assert [name for name, _ in job._named([task, mapped[0]])] == ["fit_network", "prepare_pixels"]


def test_without_a_source_it_is_a_demonstration_with_gates_of_its_own(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    demo = job.configured(os.environ, "")
    assert (demo.source, demo.gates, demo.experiment) == (job.DEMO, DEMO_GATES, "demo")
    real = job.configured(os.environ, "s3://clinic/batch")
    assert (real.source, real.gates, real.experiment) == ("s3://clinic/batch", GATES, "probe")
    for name, asked in {"DERMANET_EXPERIMENT": "probe", "DERMANET_GATES": str(GATES)}.items():
        monkeypatch.setenv(name, asked)
    demo = job.configured(os.environ, "")
    assert (demo.source, demo.gates, demo.experiment) == (job.DEMO, GATES, "probe")


PASSWORD = "of a stand-in"


class StandIn(ThreadingHTTPServer):
    """Answers as Airflow's API does, each request with the next of `faults` as long as there are any."""

    def __init__(self) -> None:
        self.faults: list[str] = []
        self.tokens = 0
        self.runs: list[str] = []
        stand_in = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                length = int(self.headers.get("Content-Length", 0))
                body = json.loads(self.rfile.read(length)) if length else {}
                if self.path == "/health":
                    return self._say(200, {})
                if self.path == "/auth/token":
                    return self._log_in(body["password"])
                fault = stand_in.faults.pop(0) if stand_in.faults else ""
                if fault == "expired":
                    stand_in.tokens += 1
                if self.headers["Authorization"] != f"Bearer {stand_in.tokens}":
                    return self._say(401, {"detail": "Signature has expired"})
                answer = self._started(body["dag_run_id"]) if self.path.endswith("/dagRuns") else (200, self._told())
                if fault == "slow":
                    time.sleep(1.5)
                elif fault == "locked":
                    return self._say(500, {"detail": "database is locked"})
                elif fault == "gone":
                    return self.connection.close()
                self._say(*answer)

            do_POST = do_PATCH = do_GET  # noqa: N815

            def _log_in(self, password: str) -> None:
                stand_in.tokens += 1
                if password == PASSWORD:
                    return self._say(201, {"access_token": str(stand_in.tokens)})
                self._say(401, {"detail": "Invalid credentials"})

            def _started(self, run: str) -> tuple[int, dict[str, Any]]:
                if run in stand_in.runs:
                    return 409, {"detail": "Unique constraint violation"}
                stand_in.runs.append(run)
                return 200, {"dag_run_id": run}

            def _told(self) -> dict[str, Any]:
                return {
                    "state": "success",
                    "task_instances": [{"task_id": "take_in", "map_index": -1, "state": "success"}],
                }

            def _say(self, status: int, body: dict[str, Any]) -> None:
                text = json.dumps(body).encode()
                self.send_response(status)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text)

            def log_message(self, *words: Any) -> None:
                """Keeps the tests' output clean."""

        super().__init__(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.serve_forever, args=(0.05,), daemon=True).start()

    def handle_error(self, *words: Any) -> None:
        """Keeps the tests' output clean of those who did not wait for an answer."""


@pytest.fixture
def stand_in(monkeypatch: pytest.MonkeyPatch) -> Iterator[StandIn]:
    monkeypatch.setattr(airflow, "TIMEOUT", 1.0)
    monkeypatch.setattr(airflow, "PAUSE", 0.01)
    server = StandIn()
    yield server
    server.shutdown()
    server.server_close()


@pytest.fixture
def watch(home: Path, stand_in: StandIn, monkeypatch: pytest.MonkeyPatch) -> job.Watch:
    """A watch that is up, over no processes and an Airflow that is stood in for."""
    monkeypatch.setattr(services.Services, "set_up", lambda self: None)
    monkeypatch.setattr(services.Services, "start", lambda self: None)
    monkeypatch.setattr(job, "password", lambda env: PASSWORD)
    ports = Ports(airflow=stand_in.server_port)
    made = job.Watch(services.Services(read(), ports), ports, Console(highlight=False))
    made.bring_up()
    return made


def test_following_a_run_outlives_questions_without_an_answer(
    watch: job.Watch, stand_in: StandIn, capsys: pytest.CaptureFixture[str]
) -> None:
    for faults in (["locked"], ["slow"], ["gone"], ["expired"], ["", "locked", "slow", "expired", "gone"]):
        stand_in.faults = [*faults]
        watch._follow("ingest", "a run")
        assert not stand_in.faults
        assert "take_in: done" in capsys.readouterr().out


@pytest.mark.parametrize("fault", ["locked", "slow", "gone"])
def test_a_run_that_was_started_without_an_answer_is_not_started_twice(
    watch: job.Watch, stand_in: StandIn, fault: str
) -> None:
    stand_in.faults = [fault, fault]
    assert [watch.airflow.trigger("ingest", {})] == stand_in.runs


def test_an_airflow_that_answers_nothing_any_more_is_given_up(
    watch: job.Watch, stand_in: StandIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(job, "PATIENCE", 0.5)
    watch.bring_up()
    stand_in.faults = ["locked"] * 1000
    with pytest.raises(NoAnswer, match=r"500 to GET .*database is locked"):
        watch._follow("ingest", "a run")
    asked = 1000 - len(stand_in.faults)
    assert asked > 1
    ended = subprocess.Popen(["false"])
    ended.wait()
    watch.services._running["airflow-api-server"] = ended
    with pytest.raises(DermaNetError, match="airflow-api-server ended with status 1"):
        watch._follow("ingest", "a run")
    assert len(stand_in.faults) == 1000 - asked - 1, "who has ended is not waited for"


def test_a_wrong_password_is_said_at_once(stand_in: StandIn) -> None:
    with pytest.raises(DermaNetError, match=r"401 to POST .*Invalid credentials") as told:
        Airflow(f"http://127.0.0.1:{stand_in.server_port}", "admin", "wrong", patience=60).runs("ingest")
    assert not isinstance(told.value, NoAnswer) and stand_in.tokens == 1


@pytest.mark.parametrize(
    ("said", "upper", "lower"),
    [
        ({}, "127.0.0.1,localhost", "127.0.0.1,localhost"),
        ({"NO_PROXY": ".clinic"}, ".clinic,127.0.0.1,localhost", ".clinic,127.0.0.1,localhost"),
        ({"no_proxy": "s3, localhost"}, "s3,localhost,127.0.0.1", "s3,localhost,127.0.0.1"),
        ({"NO_PROXY": "a", "no_proxy": "b"}, "a,127.0.0.1,localhost", "b,127.0.0.1,localhost"),
        ({"no_proxy": "*"}, "*", "*"),
    ],
)
def test_loopback_is_kept_from_proxies_beside_what_the_user_keeps(
    home: Path, ports: Ports, monkeypatch: pytest.MonkeyPatch, said: dict[str, str], upper: str, lower: str
) -> None:
    for name in ("NO_PROXY", "no_proxy"):
        monkeypatch.delenv(name, raising=False)
    for name, value in said.items():
        monkeypatch.setenv(name, value)
    found = services.environment(read(), ports)
    assert (found["NO_PROXY"], found["no_proxy"]) == (upper, lower)


@pytest.mark.parametrize("kept", ["", ".clinic"])
def test_behind_a_proxy_loopback_is_asked_directly(
    installation: Installation, ports: Ports, stand_in: StandIn, monkeypatch: pytest.MonkeyPatch, kept: str
) -> None:
    # Nobody listens there: what goes to the proxy fails.
    monkeypatch.setenv("http_proxy", f"http://127.0.0.1:{ports.mlflow}")
    monkeypatch.setenv("no_proxy", kept)
    monkeypatch.setenv("ASKS", f"http://127.0.0.1:{stand_in.server_port}/health")
    with _started(installation, ports, SOURCE, "--once", program=STAND_IN) as process:
        output = process.communicate(timeout=60)[0]
    assert process.returncode == 0 and "answers: True" in output, output


def test_a_terminal_that_is_closed_ends_everything(installation: Installation, ports: Ports) -> None:
    terminal, inside = os.openpty()
    with _started(installation, ports, SOURCE, program=STAND_IN, output=inside) as process:
        os.close(inside)
        assert b"up" in os.read(terminal, 1000)
        (service,) = psutil.Process(process.pid).children()
        os.close(terminal)
        # Told twice, by the terminal and by the shell.
        for _ in range(2):
            process.send_signal(signal.SIGHUP)
        complaint = process.communicate(timeout=60)[1]
        assert not service.is_running()
        assert not (installation.home / "processes.json").exists() and "a fault" not in complaint, complaint


def test_with_nohup_it_stays_up(installation: Installation, ports: Ports, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("NOHUP", "1")
    with _started(installation, ports, SOURCE, program=STAND_IN) as process:
        assert "up" in _read_until(process, "up")
        (service,) = psutil.Process(process.pid).children()
        process.send_signal(signal.SIGHUP)
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(2)
        assert service.is_running()
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
        assert not service.is_running()
