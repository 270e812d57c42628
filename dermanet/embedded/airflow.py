"""Airflow's public REST API, as much of it as watching a run needs."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import requests

from dermanet.errors import DermaNetError

DONE = frozenset({"success", "failed", "skipped", "upstream_failed", "removed"})


@dataclass(frozen=True)
class Airflow:
    """One Airflow, asked as one user."""

    address: str
    user: str
    password: str

    @cached_property
    def _session(self) -> requests.Session:
        session = requests.Session()
        # Loopback is never behind a proxy, whatever the environment says.
        session.trust_env = False
        login = {"username": self.user, "password": self.password}
        answer = session.post(f"{self.address}/auth/token", json=login, timeout=30)
        answer.raise_for_status()
        session.headers["Authorization"] = f"Bearer {answer.json()['access_token']}"
        return session

    def has(self, dag: str) -> bool:
        """Whether the DAG has been parsed."""
        return self._session.get(f"{self.address}/api/v2/dags/{dag}", timeout=30).ok

    def unpause(self, dag: str) -> None:
        """Lets the scheduler run the DAG."""
        self._ask("PATCH", f"dags/{dag}", {"is_paused": False})

    def trigger(self, dag: str, conf: dict[str, Any]) -> str:
        """Starts a run by hand and returns its id."""
        return str(self._ask("POST", f"dags/{dag}/dagRuns", {"logical_date": None, "conf": conf})["dag_run_id"])

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
        path = f"{self.address}/api/v2/dags/{dag}/dagRuns/{run}/taskInstances/{task}/xcomEntries/return_value?deserialize=true"
        answer = self._session.get(path, timeout=30)
        return answer.json()["value"] if answer.ok else None

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
        answer = self._session.request(verb, f"{self.address}/api/v2/{path}", json=body, timeout=30)
        if not answer.ok:
            raise DermaNetError(f"Airflow answered {answer.status_code} to {verb} {path}: {answer.text[:300]}")
        return dict(answer.json())
