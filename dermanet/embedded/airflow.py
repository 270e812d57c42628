"""Airflow's public REST API, as much of it as watching a run needs."""

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from functools import cached_property
from typing import Any

import requests

from dermanet.errors import DermaNetError

DONE = frozenset({"success", "failed", "skipped", "upstream_failed", "removed"})

TIMEOUT = 30.0
"""Seconds that Airflow may be silent after a question."""

PAUSE = 1.0
"""Seconds before what got no answer is asked again."""


class NoAnswer(DermaNetError):
    """Airflow did not answer, or only that something went wrong in it: asked again, it may."""


@dataclass(frozen=True)
class Airflow:
    """One Airflow, asked as one user; what gets no answer is asked again for `patience` seconds, after `meanwhile` each time."""

    address: str
    user: str
    password: str
    patience: float = 0.0
    meanwhile: Callable[[], None] | None = None

    @cached_property
    def _session(self) -> requests.Session:
        session = requests.Session()
        # Loopback is never behind a proxy, whatever the environment says.
        session.trust_env = False
        login = {"username": self.user, "password": self.password}
        answer = _asked(session, "POST", f"{self.address}/auth/token", login)
        session.headers["Authorization"] = f"Bearer {_good(answer).json()['access_token']}"
        return session

    def has(self, dag: str) -> bool:
        """Whether the DAG has been parsed."""
        try:
            return self._once("GET", f"dags/{dag}").ok
        except NoAnswer:
            return False

    def unpause(self, dag: str) -> None:
        """Lets the scheduler run the DAG."""
        self._ask("PATCH", f"dags/{dag}", {"is_paused": False})

    def trigger(self, dag: str, conf: dict[str, Any]) -> str:
        """Starts a run by hand and returns its id."""
        # By an id of its own: a run that was started without an answer is not started twice, which Airflow refuses with 409.
        run = f"manual__{datetime.now(UTC).isoformat()}"
        answer = self._send("POST", f"dags/{dag}/dagRuns", {"dag_run_id": run, "logical_date": None, "conf": conf})
        return run if answer.status_code == 409 else str(_good(answer).json()["dag_run_id"])

    def runs(self, dag: str, latest: int = 20) -> list[dict[str, Any]]:
        """The latest runs, the newest first: `dag_run_id`, `state`, `run_type`, … Airflow tells of 100 at most."""
        return list(self._ask("GET", f"dags/{dag}/dagRuns?order_by=-run_after&limit={latest}")["dag_runs"])

    def run(self, dag: str, run: str) -> dict[str, Any]:
        """One run."""
        return self._ask("GET", f"dags/{dag}/dagRuns/{run}")

    def tasks(self, dag: str, run: str) -> list[dict[str, Any]]:
        """A run's task instances: `task_id`, `state`, `try_number`, …"""
        return list(self._ask("GET", f"dags/{dag}/dagRuns/{run}/taskInstances?limit=100")["task_instances"])

    def result(self, dag: str, run: str, task: str) -> Any:
        """What a task returned; None where it returned nothing."""
        path = f"dags/{dag}/dagRuns/{run}/taskInstances/{task}/xcomEntries/return_value?deserialize=true"
        answer = self._send("GET", path)
        return None if answer.status_code == 404 else _good(answer).json()["value"]

    def clear(self, dag: str, run: str, task: str) -> None:
        """Lets a task of a run, and all that come after it, run again."""
        body = {
            "dag_run_id": run,
            "task_ids": [task],
            "include_downstream": True,
            "only_failed": False,
            "dry_run": False,
        }
        self._ask("POST", f"dags/{dag}/clearTaskInstances", body)

    def clear_failed(self, dag: str, run: str) -> None:
        """Lets the failed tasks of a run, and those that they held up, run again: what one click in the UI does."""
        body = {"dag_run_id": run, "only_failed": True, "dry_run": False}
        self._ask("POST", f"dags/{dag}/clearTaskInstances", body)

    def clear_whole(self, dag: str, run: str) -> None:
        """Lets every task of a run run again."""
        self._ask("POST", f"dags/{dag}/dagRuns/{run}/clear", {"only_failed": False, "dry_run": False})

    def question(self, dag: str, run: str, task: str) -> dict[str, Any]:
        """What a task that waits for a person asks: `subject`, `body`, `options`, …"""
        return self._ask("GET", f"dags/{dag}/dagRuns/{run}/taskInstances/{task}/-1/hitlDetails")

    def answer(self, dag: str, run: str, task: str, option: str, **params: Any) -> None:
        """Answers it."""
        body = {"chosen_options": [option], "params_input": params}
        self._ask("PATCH", f"dags/{dag}/dagRuns/{run}/taskInstances/{task}/-1/hitlDetails", body)

    def _ask(self, verb: str, path: str, body: dict[str, Any] | None = None) -> dict[str, Any]:
        return dict(_good(self._send(verb, path, body)).json())

    def _send(self, verb: str, path: str, body: dict[str, Any] | None = None) -> requests.Response:
        until = time.monotonic() + self.patience
        while True:
            try:
                return self._once(verb, path, body)
            except NoAnswer:
                if self.meanwhile:
                    self.meanwhile()
                if time.monotonic() >= until:
                    raise
            time.sleep(PAUSE)

    def _once(self, verb: str, path: str, body: dict[str, Any] | None = None) -> requests.Response:
        url = f"{self.address}/api/v2/{path}"
        answer = _asked(self._session, verb, url, body)
        if answer.status_code == 401:
            # A token is good for a day, and a training may take longer: log in anew.
            vars(self).pop("_session")
            answer = _asked(self._session, verb, url, body)
        return answer


def _asked(session: requests.Session, verb: str, url: str, body: dict[str, Any] | None) -> requests.Response:
    try:
        answer = session.request(verb, url, json=body, timeout=TIMEOUT)
    except requests.RequestException as error:
        raise NoAnswer(f"Airflow did not answer {verb} {url}: {error}") from error
    if answer.status_code >= 500:
        raise NoAnswer(_told(answer))
    return answer


def _good(answer: requests.Response) -> requests.Response:
    if not answer.ok:
        raise DermaNetError(_told(answer))
    return answer


def _told(answer: requests.Response) -> str:
    return f"Airflow answered {answer.status_code} to {answer.request.method} {answer.url}: {answer.text[:300]}"
