"""`dermanet serve` as processes: several workers, the end of one, clients who do not end what they begin."""

import base64
import http.client
import json
import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from typing import Any

import hypothesis
import mlflow
import mlflowserver
import numpy as np
import psutil
import pytest
import requests
import samples
from hypothesis import strategies as st
from installation import Installation, photo
from urllib3.filepost import encode_multipart_formdata
from variants import older, registry
from waiting import until

from dermanet.database.engine import open_database
from dermanet.monitoring.predictions import between
from dermanet.registry.versions import CHAMPION
from dermanet.serving.server import HEAD_BYTES, HEAD_SECONDS, LAST_IMAGE

Serve = Callable[..., "Server"]


class Server:
    """A server that is up, and a client that no proxy stands before."""

    def __init__(self, installation: Installation, folder: Path, words: tuple[str, ...], **environment: str) -> None:
        self.port = mlflowserver.free_port()
        self.host = words[words.index("--host") + 1] if "--host" in words else "127.0.0.1"
        self.address = f"http://{self.host}:{self.port}"
        self.client = requests.Session()
        self.client.trust_env = False
        self.log = folder / "serve.log"
        command = [sys.executable, "-m", "dermanet", "serve", "--port", str(self.port), "--poll", "0.2", *words]
        environ = {**installation.environment(), **environment}
        with self.log.open("wb") as log:
            self.process = subprocess.Popen(command, env=environ, cwd=folder, stdout=log, stderr=log)

    def ready(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        try:
            return self.client.get(f"{self.address}/ready", timeout=5).ok
        except requests.RequestException:
            return False

    def ask(self, body: dict[str, Any]) -> requests.Response:
        return self.client.post(f"{self.address}/invocations", json=body, timeout=30)

    def model(self) -> dict[str, Any]:
        return dict(self.client.get(f"{self.address}/model", timeout=10).json())

    def connect(self) -> socket.socket:
        return socket.create_connection((self.host, self.port), timeout=30)

    def workers(self) -> list[psutil.Process]:
        """Those of its processes that serve."""
        children = psutil.Process(self.process.pid).children()
        alive = [child for child in children if child.status() != psutil.STATUS_ZOMBIE]
        return [child for child in alive if any("spawn_main" in word for word in child.cmdline())]

    def served_by(self) -> dict[int, str]:
        """Which version each process says that it serves, by its pid."""
        text = self.client.get(f"{self.address}/metrics", timeout=10).text
        found = re.findall(r'^dermanet_served_version\{pid="(\d+)"\} (\d+)\.0$', text, re.MULTILINE)
        return {int(pid): version for pid, version in found}

    def kill(self) -> None:
        """Ends all of it, however it is."""
        if self.process.poll() is None:
            family = [*psutil.Process(self.process.pid).children(recursive=True), psutil.Process(self.process.pid)]
            for one in family:
                one.kill()
            self.process.wait(30)

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(60)


@pytest.fixture
def serve(installation: Installation, tmp_path: Path) -> Iterator[Serve]:
    with _servers(installation, tmp_path) as start:
        yield start


@contextmanager
def _servers(installation: Installation, folder: Path) -> Iterator[Serve]:
    running: list[Server] = []

    def start(*words: str, **environment: str) -> Server:
        running.append(Server(installation, folder, words, **environment))
        until(running[-1].ready, 180)
        return running[-1]

    try:
        yield start
    finally:
        for server in running:
            server.kill()


@pytest.fixture
def body(tmp_path: Path) -> dict[str, Any]:
    return {"dataframe_records": [{"image": base64.b64encode(photo(tmp_path).read_bytes()).decode()}]}


def test_several_workers_all_follow_and_one_that_dies_comes_again(
    installation: Installation, serve: Serve, body: dict[str, Any], tmp_path: Path
) -> None:
    server = serve("--workers", "2")
    version = older(installation, tmp_path / "two")
    registry(installation).move(CHAMPION, version)
    time.sleep(3)
    # New connections go to either of them.
    seen = {requests.Session().get(f"{server.address}/model", timeout=10).json()["version"] for _ in range(20)}
    assert seen == {version}
    for _ in range(10):
        assert server.ask(body).status_code == 200
    assert server.served_by() == {one.pid: version for one in server.workers()}
    assert (
        'requests_total{path="/invocations",status="200"} 10.0' in server.client.get(f"{server.address}/metrics").text
    )
    old = server.workers()
    assert len(old) == 2
    old[0].kill()
    until(lambda: len(new := server.workers()) == 2 and old[0] not in new and server.ready(), 60)
    assert server.ask(body).status_code == 200
    # The dead one's state is no longer told, but what it counted is.
    until(lambda: server.served_by() == {one.pid: version for one in server.workers()}, 60)
    assert (
        'requests_total{path="/invocations",status="200"} 11.0' in server.client.get(f"{server.address}/metrics").text
    )
    assert server.stop() == 0


def test_a_worker_that_is_started_while_the_champion_does_not_load_serves_what_the_others_do(
    installation: Installation, serve: Serve, body: dict[str, Any], tmp_path: Path
) -> None:
    server = serve("--workers", "2")
    until(lambda: len(server.served_by()) == 2, 60)
    registry(installation).move(CHAMPION, older(installation, tmp_path / "two", spoilt="gone"))
    old = server.workers()
    old[0].kill()
    until(lambda: old[0] not in (new := server.workers()) and len(new) == 2, 60)
    until(lambda: server.served_by() == {one.pid: "1" for one in server.workers()}, 60)
    # New connections go to either of them.
    answers = [requests.post(f"{server.address}/invocations", json=body, timeout=30) for _ in range(20)]
    assert {answer.status_code for answer in answers} == {200}
    until(lambda: "does not load" in str(server.model()["trouble"]))


def test_one_that_dies_while_it_is_asked_whether_it_lives_comes_again_at_once(serve: Serve) -> None:
    server = serve("--workers", "2")
    until(lambda: len(server.workers()) == 2)
    # Asked every half second, it does not answer.
    hung = server.workers()[0]
    hung.suspend()
    time.sleep(2)
    hung.kill()
    until(lambda: len(new := server.workers()) == 2 and hung not in new, 20)
    assert server.stop() == 0


def test_who_is_told_to_end_while_a_worker_is_born_ends(serve: Serve) -> None:
    server = serve("--workers", "2")
    until(lambda: len(server.served_by()) == 2, 60)
    old = server.workers()
    old[0].kill()
    until(lambda: len(new := server.workers()) == 2 and old[0] not in new, 20)
    # Stopped, it is born for ever.
    (young,) = set(server.workers()) - set(old)
    young.suspend()
    time.sleep(1)
    server.process.send_signal(signal.SIGTERM)
    until(lambda: server.workers() == [young], 30)
    young.resume()
    assert server.process.wait(60) == 0


def test_what_was_answered_is_in_the_log_and_no_image(
    installation: Installation, serve: Serve, body: dict[str, Any], tmp_path: Path
) -> None:
    server = serve("--workers", "2")
    row = server.ask(body).json()["predictions"][0]
    server.client.post(f"{server.address}/predict", files={"image": b"GIF89a"}, timeout=30)
    tried = serve("--version", "1")
    silent = serve(DERMANET_PREDICTION_DAYS="0")
    for one in (tried, silent):
        assert one.ask(body).json()["predictions"] == [row]
    assert [one.stop() for one in (tried, silent, server)] == [0, 0, 0]
    engine, now = open_database(f"sqlite:///{installation.home / 'catalogue.db'}"), datetime.now(UTC)
    good, bad = sorted(between(engine, now - timedelta(hours=1), now), key=lambda one: one.error or "")
    data = (tmp_path / "photo.jpg").read_bytes()
    assert (good.version, good.digest, good.age, good.refer) == (
        "1",
        sha256(data).hexdigest(),
        row["age"],
        row["refer"],
    )
    assert good.probabilities
    assert good.probabilities["diagnosis"] == pytest.approx(row["diagnosis_probabilities"], abs=1e-5)
    assert (good.sex, good.diagnosis, good.quality, good.novelty) == tuple(
        row[name] for name in ("sex", "diagnosis", "quality", "novelty")
    )
    assert now - timedelta(hours=1) < good.at < now and good.milliseconds > 0
    assert good.sketch and len(good.sketch) == 8 and good.brightness and good.contrast and good.detail
    assert bad.error == "not an image" and (bad.sketch, bad.brightness) == (None, None)


def test_workers_end_with_the_process_that_started_them(serve: Serve) -> None:
    server = serve("--workers", "2")
    workers = server.workers()
    assert len(workers) == 2
    server.process.kill()
    assert not psutil.wait_procs(workers, timeout=30)[1]


@pytest.mark.parametrize("workers", ["1", "2"])
def test_sigterm_under_load_lets_requests_under_way_be_answered(
    serve: Serve, body: dict[str, Any], workers: str
) -> None:
    server, ended = serve("--workers", workers), threading.Event()

    def load() -> list[int]:
        found = []
        while not ended.is_set():
            try:
                found.append(requests.post(f"{server.address}/invocations", json=body, timeout=30).status_code)
            except requests.ConnectionError as error:
                # Nobody takes new connections any more; one that was taken is not broken off.
                assert "refused" in str(error) or "reset" in str(error), error
                return found
        return found

    with ThreadPoolExecutor(4) as pool:
        loads = [pool.submit(load) for _ in range(4)]
        time.sleep(1.5)
        assert server.stop() == 0
        ended.set()
        answers = [status for each in loads for status in each.result()]
    assert set(answers) == {200}
    assert len(answers) > 4


def test_sigterm_breaks_a_batch_off_that_takes_too_long_and_ends(serve: Serve) -> None:
    server = serve()
    large = samples.png(np.zeros((7000, 7000, 3), np.uint8))
    with ThreadPoolExecutor(1) as pool:
        files = [("image", ("large.png", large))] * 128
        batch = pool.submit(server.client.post, f"{server.address}/predict", files=files, timeout=120)
        time.sleep(4)
        server.process.send_signal(signal.SIGTERM)
        answer = batch.result()
    assert server.process.wait(LAST_IMAGE + 10) == 0
    assert (answer.status_code, answer.headers["connection"]) == (503, "close")
    assert answer.json()["message"].startswith("the scorer ends before this is answered")
    assert "Traceback" not in server.log.read_text()


def test_a_request_that_was_on_its_way_at_sigterm_is_answered_and_who_says_nothing_keeps_nobody(serve: Serve) -> None:
    server = serve()
    new, silent = server.connect(), server.connect()
    again = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30)
    again.request("GET", "/model")
    assert again.getresponse().read()
    server.process.send_signal(signal.SIGTERM)
    until(lambda: not _listening(server), 10)
    new.sendall(b"GET /model HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n")
    again.request("GET", "/model")
    said = b"".join(iter(lambda: new.recv(4096), b""))
    assert said.startswith(b"HTTP/1.1 200") and b"connection: close" in said.lower()
    assert again.getresponse().status == 200
    assert silent.recv(100) == b""
    assert server.process.wait(10) == 0


def _listening(server: Server) -> bool:
    """Whether new connections are taken."""
    try:
        server.connect().close()
    except ConnectionRefusedError:
        return False
    return True


def test_clients_who_do_not_end_what_they_begin_are_closed_and_the_others_served(
    serve: Serve, body: dict[str, Any]
) -> None:
    server = serve()
    slow = [server.connect() for _ in range(50)]
    start = time.monotonic()
    for one in slow:
        one.sendall(b"POST /invocations HTTP/1.1\r\nHost: 127.0.0.1\r\nX-")
    assert server.ask(body).status_code == 200
    endless = server.connect()
    endless.sendall(b"GET /model HTTP/1.1\r\nHost: 127.0.0.1\r\n")
    with pytest.raises(OSError, match=r"reset|pipe"):
        for _ in range(100):
            endless.sendall(b"X-More: " + b"x" * (HEAD_BYTES // 8) + b"\r\n")
            time.sleep(0.01)
    for one in slow:
        assert one.recv(100) == b""
        one.close()
    assert HEAD_SECONDS - 1 < time.monotonic() - start < HEAD_SECONDS + 15
    assert server.ask(body).status_code == 200


def test_a_body_of_two_gigabytes_is_refused_in_bounded_memory(serve: Serve, body: dict[str, Any]) -> None:
    server = serve(DERMANET_REQUEST_MEGABYTES="4")
    server.ask(body)
    before = psutil.Process(server.process.pid).memory_info().rss
    stated = server.connect()
    stated.sendall(b"POST /invocations HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 2147483648\r\n\r\n")
    assert stated.recv(4096).startswith(b"HTTP/1.1 413")
    unstated, sent = server.connect(), 0
    unstated.sendall(b"POST /invocations HTTP/1.1\r\nHost: 127.0.0.1\r\nTransfer-Encoding: chunked\r\n\r\n")
    part = b"100000\r\n" + b" " * 0x100000 + b"\r\n"
    with pytest.raises(OSError, match=r"reset|pipe"):
        for _ in range(2048):
            unstated.sendall(part)
            sent += 1
    assert sent < 100
    assert psutil.Process(server.process.pid).memory_info().rss - before < 60 * 1024 * 1024
    assert server.ask(body).status_code == 200


def _spoilt(whole: bytes) -> st.SearchStrategy[bytes]:
    """A body in which something was cut away, put in or written twice."""
    place, more = st.integers(0, len(whole)), st.binary(max_size=30)
    return st.builds(lambda one, other, put: whole[:one] + put + whole[other:], place, place, more)


def _garbage(described: dict[str, Any], image: bytes) -> st.SearchStrategy[tuple[str, str, bytes]]:
    """An address that takes a body by the API's own description, a type of content, and what is none of it or nearly so."""
    cell = base64.b64encode(image).decode()
    form, kind = encode_multipart_formdata({"image": ("image", image)}, "between")
    whole = {
        "application/json": json.dumps({"dataframe_split": {"columns": ["image"], "data": [[cell]]}}).encode(),
        "text/csv": f"image\n{cell}\n".encode(), kind: form,
    }  # fmt: skip
    names = ("dataframe_split", "dataframe_records", "inputs", "instances", "columns", "data", "image")
    words = st.sampled_from([*names, cell])
    leaves = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), words, st.text(max_size=20))
    nested = st.recursive(
        leaves, lambda one: st.lists(one, max_size=3) | st.dictionaries(words, one, max_size=3), max_leaves=8
    )
    none = st.one_of(
        st.binary(max_size=300), st.text(max_size=100).map(str.encode), nested.map(json.dumps).map(str.encode)
    )
    paths = [path for path, operations in described["paths"].items() if "requestBody" in operations.get("post", {})]
    assert set(paths) == {"/explain", "/invocations", "/predict"}
    kinds = st.sampled_from(
        [*whole, "multipart/form-data", "application/vnd.apache.parquet", "text/plain", "image/jpeg"]
    )
    # Of what may be a photograph still, the map would take longer than all the others.
    quick = st.sampled_from([path for path in paths if path != "/explain"])
    nearly = [st.tuples(quick, st.just(one), _spoilt(made)) for one, made in whole.items()]
    return st.one_of(st.tuples(st.sampled_from(paths), kinds, none), *nearly)


def test_ten_thousand_bodies_of_garbage_are_refused_and_it_stays_as_it_was(serve: Serve, body: dict[str, Any]) -> None:
    server = serve(DERMANET_REQUEST_MEGABYTES="1")
    described = server.client.get(f"{server.address}/openapi.json", timeout=30).json()
    connection, told = http.client.HTTPConnection("127.0.0.1", server.port, timeout=30), Counter[int]()
    before = list[int]()

    @hypothesis.settings(max_examples=10_000)
    @hypothesis.given(_garbage(described, samples.jpeg(3, 48, 48)))
    def refuses(garbage: tuple[str, str, bytes]) -> None:
        path, kind, data = garbage
        connection.request("POST", path, data, {"Content-Type": kind})
        answer = connection.getresponse()
        said = json.loads(answer.read())
        if answer.status in (200, 422):
            # It was a request after all. What it brings in place of an image has its reason; a spoilt photograph may be one still.
            assert {"predictions", "error"} & set(said)
        else:
            assert 400 <= answer.status < 500 and set(said) == {"error_code", "message"}
        told[answer.status] += 1
        if told.total() == 1000:
            before.append(psutil.Process(server.process.pid).memory_info().rss)

    refuses()
    assert told.total() >= 10_000 and told[200] + told[422] < told.total() / 2, told
    assert psutil.Process(server.process.pid).memory_info().rss - before[0] < 60 * 1024 * 1024
    assert server.ask(body).status_code == 200
    assert server.stop() == 0


def test_at_another_address_of_loopback_it_answers(serve: Serve) -> None:
    # `ready` asks there.
    server = serve("--host", "127.0.0.2")
    assert server.model()["version"] == "1"


def test_strangers_are_not_let_in_without_a_token(installation: Installation) -> None:
    command = [sys.executable, "-m", "dermanet", "serve", "--host", "0.0.0.0", "--port", "1"]
    done = subprocess.run(command, env=installation.environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 2
    assert "set DERMANET_TOKENS" in done.stderr
    weak = subprocess.run(
        command,
        env={**installation.environment(), "DERMANET_TOKENS": "short"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert weak.returncode == 2
    assert "fewer than 16 characters" in weak.stderr


@pytest.mark.parametrize("workers", ["1", "2"])
def test_a_port_that_is_taken_is_said_so(installation: Installation, workers: str) -> None:
    with socket.create_server(("127.0.0.1", 0), reuse_port=True) as taken:
        command = [
            sys.executable,
            "-m",
            "dermanet",
            "serve",
            "--workers",
            workers,
            "--port",
            str(taken.getsockname()[1]),
        ]
        done = subprocess.run(command, env=installation.environment(), capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert "cannot be listened at: Address already in use; name another with --port" in done.stderr


def _store(installation: Installation) -> tuple[str, ...]:
    """The words by which an MLflow server keeps what an installation has."""
    root = (installation.home / "mlartifacts").as_uri()
    return ("--backend-store-uri", installation.tracking_uri, "--no-serve-artifacts", "--default-artifact-root", root)


def test_a_webhook_of_mlflow_hastens_the_look(installation: Installation, serve: Serve, tmp_path: Path) -> None:
    version = older(installation, tmp_path / "two")
    allowed = {"MLFLOW_WEBHOOK_ALLOW_PRIVATE_IPS": "true", "MLFLOW_WEBHOOK_ALLOWED_SCHEMES": "http,https"}
    with mlflowserver.running(tmp_path, *_store(installation), **allowed) as address:
        # Nobody would look before the test has ended.
        server = serve("--poll", "3600", MLFLOW_TRACKING_URI=address)
        assert server.model()["version"] == "1"
        client = mlflow.MlflowClient(address)
        client.create_webhook("scorer", f"{server.address}/follow", ["model_version_alias.created"])
        client.set_registered_model_alias("dermanet", CHAMPION, version)
        until(lambda: server.model()["version"] == version, 60)
        assert server.model()["trouble"] is None


def test_mlflow_stopped_and_started_again(
    installation: Installation, serve: Serve, body: dict[str, Any], tmp_path: Path
) -> None:
    port, version = mlflowserver.free_port(), older(installation, tmp_path / "two")
    with mlflowserver.running(tmp_path, *_store(installation), port=port) as address:
        server = serve(MLFLOW_TRACKING_URI=address)
        assert server.model()["trouble"] is None
    until(lambda: server.model()["trouble"] is not None, 40)
    assert server.model()["trouble"].startswith("the registry cannot be asked: ")
    answer = server.ask(body)
    assert (answer.status_code, answer.headers["x-model-version"]) == (200, "1")
    registry(installation).move(CHAMPION, version)
    with mlflowserver.running(tmp_path, *_store(installation), port=port):
        # The version is swapped a moment before the look that brought it has ended, and with it the trouble.
        until(lambda: (told := server.model())["version"] == version and told["trouble"] is None, 40)
    mlflow.set_tracking_uri(installation.tracking_uri)
