"""The main job, once and watched: sources in, a verdict, and one answer from the model that serves."""

import base64
import os
import signal
import time
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from types import FrameType
from typing import Any

import requests
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from dermanet import settings, stages
from dermanet.embedded.airflow import DONE, Airflow
from dermanet.embedded.services import USER, Ports, Services, alone, password, past_proxies
from dermanet.errors import DermaNetError, GateRefused
from dermanet.settings import DEMO_GATES, Settings

DEMO = "synthetic:lesions=700,seed=7"
DEMONSTRATION = {"DERMANET_SOURCE": DEMO, "DERMANET_EXPERIMENT": "demo", "DERMANET_GATES": str(DEMO_GATES)}
"""What is tried, and judged by what, where nobody has images."""

ENDING = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
"""What ends it: Ctrl-C, a polite kill, and a terminal that is closed."""

PATIENCE = 300.0
"""Seconds for which Airflow is asked the same again where it does not answer, as long as its processes live."""

MARKS = {
    "success": "done",
    "failed": "FAILED",
    "skipped": "skipped",
    "upstream_failed": "not reached",
    "up_for_retry": "will retry",
    "awaiting_input": "waits for your answer: Required Actions in Airflow",
}


def run(source: str, once: bool, ports: Ports) -> int:
    """Starts everything, does the job, and stays up until Ctrl-C (or ends, if `once`). Returns the exit status.

    Raises BadInput for a wrong source, a home in use or taken ports, GateRefused where `once` and the verdict is no pass, and
    DermaNetError for what breaks.
    """
    for number in ENDING:
        # By name: a shell starts what it puts in the background with SIGINT ignored. What `nohup` starts stays without its terminal.
        if number != signal.SIGHUP or signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, _interrupt)
    # For what this process itself asks: MLflow's client, too, would look for loopback behind the proxy.
    os.environ |= past_proxies(os.environ)
    here = configured(os.environ, stages.check_sources(source))
    with alone(here.home):
        return _watched(here, once, ports)


def _watched(here: Settings, once: bool, ports: Ports) -> int:
    services = Services(here, ports)
    services.end_leftovers()
    ports.require_free()
    watch = Watch(services, ports, Console(highlight=False))
    try:
        watch.bring_up()
        refused = watch.do(here.source)
        watch.say_where()
        if once and refused:
            raise GateRefused(refused)
        while not once:
            services.require_alive()
            time.sleep(1)
    except KeyboardInterrupt:
        _ignore_signals()
        # A terminal that was closed takes no farewell.
        with suppress(OSError):
            watch.say("\nending every process that was started …")
    finally:
        _ignore_signals()
        services.stop()
    return 0


def configured(environ: Mapping[str, str], source: str) -> Settings:
    """The settings of this run: without a source of one's own, the demonstration's, where the environment says nothing else."""
    here = settings.read(environ)
    if source or here.source or stages.holds_real_images(here):
        return replace(here, source=source or here.source)
    return settings.read({**DEMONSTRATION, **{name: value for name, value in environ.items() if value}})


@dataclass
class Watch:
    """Does the job over Airflow's API and tells a person what happens."""

    services: Services
    ports: Ports
    console: Console

    def say(self, line: str) -> None:
        """One line, with the time."""
        self.console.print(f"[dim]{time.strftime('%H:%M:%S')}[/dim] ", line, sep="", markup=True, soft_wrap=True)

    def bring_up(self) -> None:
        """Starts the processes and waits until all of them answer and all DAGs are parsed."""
        self.say(f"home {self.services.here.home}; logs in {self.services.logs}")
        self.say("setting up Airflow's database …")
        self.services.set_up()
        self.say("starting Airflow, MLflow and the scorer …")
        self.services.start()
        login = (USER, password(self.services.environment))
        self.airflow = Airflow(self.ports.address("airflow"), *login, PATIENCE, self.services.require_alive)
        for dag in ("ingest", "retrain", "promote", "monitor", "upkeep"):
            self.services.wait_for(f"the DAG {dag}", lambda dag=dag: self.airflow.has(dag))  # type: ignore[misc]
            self.airflow.unpause(dag)
        self.say("all up")

    def do(self, source: str) -> str:
        """Ingest, retrain if there is something to train on, one prediction. Returns why the gate refused, or nothing."""
        unfinished = self._unfinished("retrain")
        before = {run["dag_run_id"] for run in self.airflow.runs("retrain")}
        if source:
            self.say(f"ingest: {source}")
            run = self.airflow.trigger("ingest", {"source": source})
            self._follow("ingest", run)
            counts = self.airflow.result("ingest", run, "take_in")
            self.say(f"  {stages.counted(counts)}")
            if counts["accepted"] or counts["corrected"]:
                return self._retrained(unfinished or self._started_by_asset(before))
        if unfinished or self._champion() is None:
            return self._retrained(unfinished or self.airflow.trigger("retrain", {"force": "there is no champion yet"}))
        self.say("nothing new to train on; the champion stays")
        self._predict()
        return ""

    def say_where(self) -> None:
        """The three addresses, and how to log in."""
        table = Table("", "address", "log in", title="up; Ctrl-C ends it")
        table.add_row("Airflow", self.ports.address("airflow"), f"{USER} / {self.airflow.password}")
        table.add_row("MLflow", self.ports.address("mlflow"), "open")
        shown = "one of DERMANET_TOKENS" if self.services.here.tokens else "open"
        table.add_row("scorer and its page", self.ports.address("scorer"), shown)
        self.console.print(table)

    def _retrained(self, run: str) -> str:
        self.say(f"retrain: {run}")
        self._follow("retrain", run)
        verdict = self.airflow.result("retrain", run, "apply_gates")
        if verdict:
            self.console.print(_verdict_table(verdict))
        if promoted := self.airflow.result("retrain", run, "promote_version"):
            self.say(f"registered as version {promoted['champion']}, now champion")
        else:
            kept = self.airflow.result("retrain", run, "kept_the_champion") or self.airflow.result(
                "retrain", run, "nothing_new"
            )
            self.say(f"the champion stays: {'; '.join(kept or ['see the run in Airflow'])}")
        if self._champion():
            self._predict()
        refused = verdict and not verdict["registers"]
        return f"the verdict is {verdict['verdict']} ({'; '.join(verdict['told'])})" if refused else ""

    def _follow(self, dag: str, run: str) -> None:
        """Prints each task's state as it changes until the run ends. Raises DermaNetError if it failed."""
        shown: dict[str, str] = {}
        epochs = ""
        while True:
            state = self.airflow.run(dag, run)["state"]
            for name, task in _named(self.airflow.tasks(dag, run)):
                now = task["state"] or "waiting"
                if now in MARKS and shown.get(name) != now:
                    self.say(
                        f"  {name}: {MARKS[now]}"
                        + (f" in {task['duration']:.0f} s" if now in DONE and task.get("duration") else "")
                    )
                shown[name] = now
            if shown.get("fit_network") == "running" and (line := stages.training_now(self.services.here)) != epochs:
                epochs = line
                self.say(f"    {line}")
            if state in DONE:
                break
            self.services.require_alive()
            time.sleep(1)
        if state == "failed":
            failed = ", ".join(name for name, now in shown.items() if now == "failed")
            raise DermaNetError(
                f"{dag} failed in {failed}; see {self.services.here.home / 'airflow' / 'logs' / f'dag_id={dag}'}"
            )

    def _started_by_asset(self, before: set[str]) -> str:
        """The retrain that the asset started; an asset's event can be lost, so after a minute it is started by hand."""
        for _ in range(120):
            new = [run["dag_run_id"] for run in self.airflow.runs("retrain") if run["dag_run_id"] not in before]
            if new:
                return str(new[0])
            time.sleep(0.5)
        self.say("the asset's event did not start a run; starting it")
        return self.airflow.trigger("retrain", {})

    def _unfinished(self, dag: str) -> str:
        """A run that an interrupted evening left unfinished."""
        return next((str(run["dag_run_id"]) for run in self.airflow.runs(dag) if run["state"] not in DONE), "")

    def _champion(self) -> str | None:
        return stages.champion(self.services.environment)["version"]

    def _predict(self) -> None:
        """Waits until the scorer serves the champion and asks it for one image of the holdout."""
        champion = self._champion()
        address, tokens = self.ports.address("scorer"), self.services.here.tokens
        self.services.wait_for(
            "the champion", lambda: _ask("GET", f"{address}/model", tokens)["version"] == champion, 60
        )
        image = stages.example(self.services.here)
        cell = base64.b64encode(image["data"]).decode()
        body = {"dataframe_records": [{"image": cell}]}
        row = _ask("POST", f"{address}/invocations", tokens, body)["predictions"][0]
        self.say(f"served by version {champion}, holdout image {image['image_id']}:")
        for name in ("age", "sex", "diagnosis"):
            odds = row.get(f"{name}_probabilities")
            sure = f" ({odds[row[name]]:.0%})" if odds else ""
            self.say(f"    {name}: {row[name]}{sure}; labelled {image[name]}")


def _named(tasks: Sequence[dict[str, Any]]) -> list[tuple[str, dict[str, Any]]]:
    """Task instances by a name of their own: those that one task was mapped to are numbered, unless it is only one."""
    instances = Counter(task["task_id"] for task in tasks)

    def name(task: dict[str, Any]) -> str:
        count = instances[task["task_id"]]
        return f"{task['task_id']} {task['map_index'] + 1} of {count}" if count > 1 else str(task["task_id"])

    return [(name(task), task) for task in tasks]


def _ask(verb: str, url: str, tokens: Sequence[str], body: dict[str, Any] | None = None) -> Any:
    shown = {"Authorization": f"Bearer {tokens[0]}"} if tokens else {}
    answer = requests.request(verb, url, json=body, headers=shown, timeout=60)
    if not answer.ok:
        raise DermaNetError(f"the scorer answered {answer.status_code} to {verb} {url}")
    return answer.json()


def _verdict_table(verdict: dict[str, Any]) -> Table:
    table = Table("check", "against", "", "value and limit", title=f"verdict: {verdict['verdict']}")
    colours = {"pass": "green", "warning": "yellow", "not judged": "dim", "fail": "red", "insufficient": "yellow"}
    for check in stages.read_first(verdict):
        word = f"[{colours[check['outcome']]}]{check['outcome']}[/]"
        name = check["metric"] + (f"\n{check['slice']}" if check["slice"] else "")
        table.add_row(escape(name), check["kind"], word, escape(check["reason"]))
    if verdict["in_slices"]:
        table.add_row("in slices", "", "", verdict["in_slices"])
    return table


def _ignore_signals() -> None:
    # A second Ctrl-C, or the shell's word after the terminal's own, must not leave half of the processes running.
    for number in ENDING:
        signal.signal(number, signal.SIG_IGN)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise KeyboardInterrupt
