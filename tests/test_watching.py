"""The profile `metrics` of the stack: what its rules and its dashboard name is what a scorer and Airflow really tell.

As far as it can be tried without its images: Debian's Prometheus collects from a real scorer by the very file that the stack mounts.
"""

import base64
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import requests
import samples
import yaml
from installation import Installation, photo
from mlflowserver import free_port
from waiting import until

ROOT = Path(__file__).parents[1]
METRICS = ROOT / "docker" / "metrics"
RULES = [rule for group in yaml.safe_load((METRICS / "rules.yml").read_text())["groups"] for rule in group["rules"]]
BOARD = json.loads((ROOT / "docker" / "grafana" / "dashboards" / "dermanet.json").read_text())
PANELS = [panel for panel in BOARD["panels"] if panel["type"] != "row"]
QUESTIONS = [target["expr"].replace("$__rate_interval", "1m") for panel in PANELS for target in panel["targets"]]
QUESTIONS += [note["expr"] for note in BOARD["annotations"]["list"]] + [rule["expr"] for rule in RULES]
STACK = yaml.safe_load((ROOT / "docker-compose.yml").read_text())

TOKEN = "the-token-of-a-test-for-metrics"
NAMED = re.compile(r"\b((?:dermanet|airflow)_\w+|up)\b(?:\{([^}]*)\})?")
"""A metric in a question, with its matchers."""

MADE = {"le", "job", "instance", "pid"}
"""Labels that no metric has of its own: of histograms, of Prometheus, of several processes."""

promtool = pytest.mark.skipif(not shutil.which("promtool"), reason="needs promtool, of Debian's package prometheus")
prometheus = pytest.mark.skipif(not shutil.which("prometheus"), reason="needs Prometheus, Debian's package prometheus")


def _labels(question: str, matchers: str) -> set[str]:
    grouped = re.findall(r"\bby \(([^)]*)\)", question)
    names = {name.strip() for group in grouped for name in group.split(",")}
    return (names | set(re.findall(r"(\w+)\s*(?:=~|!~|!=|=)", matchers))) - MADE


@promtool
def test_promtool_takes_the_files() -> None:
    for words in (("config", "--syntax-only", "prometheus.yml"), ("rules", "rules.yml")):
        done = subprocess.run(["promtool", "check", *words], cwd=METRICS, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stdout + done.stderr


@promtool
@pytest.mark.parametrize("file", ["alerts.yml", "alerts-days.yml"])
def test_rules_say_what_they_should_and_nothing_else(file: str) -> None:
    words = ["promtool", "test", "rules", str(ROOT / "tests" / file)]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr


def test_every_rule_is_tried_silent_and_said_and_explained() -> None:
    names = {rule["alert"] for rule in RULES}
    page = (ROOT / "docs" / "stack.md").read_text()
    tried = [
        case
        for file in ("alerts.yml", "alerts-days.yml")
        for test in yaml.safe_load((ROOT / "tests" / file).read_text())["tests"]
        for case in test["alert_rule_test"]
    ]
    assert {case["alertname"] for case in tried if case.get("exp_alerts")} == names
    assert {case["alertname"] for case in tried if not case.get("exp_alerts")} == names
    assert all(f"`{name}`" in page for name in names)


def test_the_dashboard_asks_the_source_that_is_provisioned_and_nothing_lies_over_another() -> None:
    source = yaml.safe_load((ROOT / "docker/grafana/provisioning/datasources/prometheus.yml").read_text())
    assert {panel["datasource"]["uid"] for panel in PANELS} == {source["datasources"][0]["uid"]}
    places = [panel["gridPos"] for panel in BOARD["panels"]]
    taken = [
        (x, y) for at in places for x in range(at["x"], at["x"] + at["w"]) for y in range(at["y"], at["y"] + at["h"])
    ]
    assert len(taken) == len(set(taken)) and max(x for x, _ in taken) == 23
    assert len({panel["id"] for panel in BOARD["panels"]}) == len(BOARD["panels"])


class Scorer:
    """A scorer that was asked about some images; what Prometheus is shown of it."""

    def __init__(self, installation: Installation, folder: Path) -> None:
        self.port = free_port()
        own = {"DERMANET_TOKENS": "the-token-of-a-test-for-people", "DERMANET_METRICS_TOKEN": TOKEN}
        command = [
            sys.executable,
            "-m",
            "dermanet",
            "serve",
            "--port",
            str(self.port),
            "--poll",
            "0.5",
            "--workers",
            "2",
        ]
        self.log = folder / "serve.log"
        with self.log.open("wb") as log:
            environ = {**installation.environment(), **own}
            self.process = subprocess.Popen(command, env=environ, cwd=folder, stdout=log, stderr=log)
        until(self._ready, 180)
        # One that is answered, one that is blank and so referred, one that is no image.
        images = [photo(folder).read_bytes(), samples.png(np.full((64, 64, 3), 128, np.uint8))]
        cells = [*(base64.b64encode(image).decode() for image in images), "%%%"]
        body = {"dataframe_records": [{"image": cell} for cell in cells]}
        for _ in range(8):
            assert self.ask("/invocations", own["DERMANET_TOKENS"], json=body).status_code == 200
        self.text = self.ask("/metrics", TOKEN).text

    def ask(self, path: str, token: str, **body: Any) -> requests.Response:
        verb = "POST" if body else "GET"
        head = {"Authorization": f"Bearer {token}"}
        return requests.request(verb, f"http://127.0.0.1:{self.port}{path}", headers=head, timeout=30, **body)

    def _ready(self) -> bool:
        assert self.process.poll() is None, self.log.read_text()
        try:
            return requests.get(f"http://127.0.0.1:{self.port}/ready", timeout=5).ok
        except requests.RequestException:
            return False


@pytest.fixture(scope="module")
def scorer(trained: Installation, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Scorer]:
    folder = tmp_path_factory.mktemp("watched")
    made = Scorer(trained.copy(folder / "installation"), folder)
    yield made
    made.process.terminate()
    made.process.wait(60)


def test_what_is_asked_of_a_scorer_is_what_it_tells(scorer: Scorer) -> None:
    told: dict[str, set[str]] = {}
    for name, labels in re.findall(r"^(dermanet_\w+)(?:\{([^}]*)\})? ", scorer.text, re.MULTILINE):
        told.setdefault(name, set()).update(re.findall(r'(\w+)="', labels))
    asked = [
        (name, _labels(question, matchers)) for question in QUESTIONS for name, matchers in NAMED.findall(question)
    ]
    ours = {name for name, _ in asked if name.startswith("dermanet_")}
    assert ours <= set(told)
    for question in QUESTIONS:
        for name, matchers in NAMED.findall(question):
            if name in ours and len(set(NAMED.findall(question))) == 1:
                assert _labels(question, matchers) <= told[name], question


@prometheus
def test_a_real_prometheus_collects_by_the_file_of_the_stack(scorer: Scorer, tmp_path: Path) -> None:
    for file in ("rules.yml", "prometheus.yml"):
        shutil.copy(METRICS / file, tmp_path)
    (tmp_path / "token").write_text(TOKEN)
    config = (METRICS / "prometheus.yml").read_text()
    for ours, here in (("scorer:8000", f"127.0.0.1:{scorer.port}"), ("/tmp/scorer-token", "token"), ("15s", "1s")):
        assert ours in config
        config = config.replace(ours, here)
    (tmp_path / "prometheus.yml").write_text(config)
    with _prometheus(tmp_path) as address:

        def answer(question: str) -> list[Any]:
            found = requests.get(f"{address}/api/v1/query", params={"query": question}, timeout=10).json()
            assert found["status"] == "success", (question, found)
            return list(found["data"]["result"])

        until(lambda: [one["value"][1] for one in answer('up{job="scorer"}')] == ["1"], 60)
        until(lambda: answer("sum(rate(dermanet_requests_total[1m])) >= 0"), 60)
        for question in QUESTIONS:
            answer(question)
        assert {one["value"][1] for one in answer("dermanet_served_version")} == {"1"}
        assert answer("max(dermanet_registry_seconds)") and answer("sum(dermanet_memory_bytes)")
        rules = requests.get(f"{address}/api/v1/rules", timeout=10).json()["data"]["groups"]
        assert {rule["name"] for group in rules for rule in group["rules"]} == {rule["alert"] for rule in RULES}


@contextmanager
def _prometheus(folder: Path) -> Iterator[str]:
    port = free_port()
    words = ["--config.file=prometheus.yml", f"--web.listen-address=127.0.0.1:{port}", "--storage.tsdb.path=data"]
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(["prometheus", *words], cwd=folder, stdout=log, stderr=log)
    address = f"http://127.0.0.1:{port}"

    def ready() -> bool:
        assert process.poll() is None, (folder / "log").read_text()
        try:
            return requests.get(f"{address}/-/ready", timeout=5).ok
        except requests.RequestException:
            return False

    try:
        until(ready, 60)
        yield address
    finally:
        process.terminate()
        process.wait(30)


SCHEDULED = """
import os, sys
from airflow.dag_processing.dagbag import DagBag
DagBag(sys.argv[1]).dags["promote"].test(run_conf={"action": "roll back"})
from airflow.api.common.trigger_dag import trigger_dag
from airflow.models.taskinstance import TaskInstance
from airflow.utils.session import create_session
from airflow.utils.types import DagRunTriggeredByType
for dag, state in (("ingest", "success"), ("promote", "failed"), ("retrain", None)):
    run = trigger_dag(dag, triggered_by=DagRunTriggeredByType.CLI, conf={"action": "roll back"} if dag == "promote" else {})
    if state:
        with create_session() as session:
            session.query(TaskInstance).filter_by(dag_id=dag, run_id=run.run_id).update({"state": state})
"""


class Stream:
    """What a real Airflow sends by UDP while it parses, schedules and runs, with the stack's own settings."""

    def __init__(self, root: Path) -> None:
        self.lines: list[str] = []
        self._socket = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._socket.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 2**22)
        self._socket.bind(("127.0.0.1", 0))
        threading.Thread(target=self._listen, daemon=True).start()
        stack = STACK["x-airflow"]["environment"]
        ours = {name: value for name, value in stack.items() if name.startswith("AIRFLOW__METRICS__")}
        here = {"STATSD_ON": "True", "STATSD_HOST": "127.0.0.1", "STATSD_PORT": str(self._socket.getsockname()[1])}
        own = {
            "AIRFLOW_HOME": str(root / "airflow"), "AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "dags"),
            "AIRFLOW__CORE__LOAD_EXAMPLES": "False", "AIRFLOW__CORE__DAGS_ARE_PAUSED_AT_CREATION": "False",
            "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{root}/airflow.db", "DERMANET_DEADLINE_HOURS": "0.0001",
            "AIRFLOW__SCHEDULER__DAGRUN_METRICS_INTERVAL": "1", "AIRFLOW__SCHEDULER__SCHEDULER_HEARTBEAT_SEC": "1",
        }  # fmt: skip
        self._environ = {**Installation(root).environment(), **ours, **own}
        self._environ |= {f"AIRFLOW__METRICS__{name}": value for name, value in here.items()}
        self._airflow("db", "migrate")
        self._airflow("dag-processor", "--num-runs", "1")
        # Nothing of what is triggered is to run: a scheduler alone is wanted.
        self._airflow("pools", "set", "default_pool", "0", "closed")
        self._run(sys.executable, "-c", SCHEDULED, str(ROOT / "dags"))

    def schedule(self, enough: Callable[[], bool]) -> None:
        """Runs a scheduler until there is enough. It is killed with its executor, which waits for ever where it cannot ask the API."""
        words = [sys.executable, "-m", "airflow", "scheduler", "--skip-serve-logs"]
        quiet = {"stdout": subprocess.DEVNULL, "stderr": subprocess.DEVNULL, "start_new_session": True}
        process = subprocess.Popen(words, env=self._environ, **quiet)
        try:
            until(enough, 180)
        finally:
            os.killpg(process.pid, signal.SIGKILL)
            process.wait()

    def _airflow(self, *words: str) -> None:
        self._run(sys.executable, "-m", "airflow", *words)

    def _run(self, *words: str) -> None:
        done = subprocess.run(words, env=self._environ, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr[-3000:]

    def _listen(self) -> None:
        while True:
            self.lines += self._socket.recv(65535).decode().splitlines()


def _mapped(line: str) -> tuple[str, set[str]] | None:
    """What the statsd exporter makes of a line by our file: name and labels; None where it is dropped. Its rules, as documented:
    InfluxDB's tags are labels; globs go by parts between dots; the first that fits; a regular expression after all globs."""
    name, *tags = line.rpartition(":")[0].split(",")
    for one in yaml.safe_load((METRICS / "statsd.yml").read_text())["mappings"]:
        if one.get("match_type") == "regex" and re.search(one["match"], name):
            return None
        pattern = ".".join("([^.]*)" if part == "*" else re.escape(part) for part in one["match"].split("."))
        if re.fullmatch(pattern.replace(".(", "\\.("), name):
            kind = line.rpartition("|")[2]
            return one["name"] + ("_count" if kind == "ms" else ""), {tag.partition("=")[0] for tag in tags} | set(
                one.get("labels", {})
            )
    raise AssertionError(f"the file does not say what becomes of {line}")


def test_what_is_asked_of_airflow_is_what_it_tells(tmp_path: Path) -> None:
    stream = Stream(tmp_path)
    wanted = {name for question in QUESTIONS for name, _ in NAMED.findall(question) if name.startswith("airflow_")}

    def told() -> dict[str, set[str]]:
        found: dict[str, set[str]] = {}
        for name, labels in filter(None, map(_mapped, tuple(stream.lines))):
            found.setdefault(name, set()).update(labels)
        # A histogram has both, or none.
        return found | {
            f"{name.removesuffix('_count')}_sum": labels for name, labels in found.items() if name.endswith("_count")
        }

    def states() -> set[str]:
        return {line.split(",")[0].rpartition(".")[2] for line in stream.lines if "dagrun.duration" in line}

    stream.schedule(lambda: wanted <= set(told()) and {"success", "failed"} <= states())
    for question in QUESTIONS:
        for name, matchers in NAMED.findall(question):
            if name in wanted:
                assert _labels(question, matchers) <= told()[name], question
    varying = [line for line in stream.lines if _mapped(line) and re.search(r"(run|job)_id=", line)]
    assert not varying, "a label that is another with every run fills Prometheus"


def test_airflow_says_nothing_unless_it_is_asked_to() -> None:
    assert STACK["x-airflow"]["environment"]["AIRFLOW__METRICS__STATSD_ON"] == "${AIRFLOW_METRICS:-False}"
