"""The whole way in the stack: ingest, retrain on two workers, a dermatologist's approval, an answer; and who may not.

    python -m drills.whole [SOURCE] [--experiment NAME] [--keep]

SOURCE: a folder of labelled images on this machine; without one, synthetic images. Prints a row a step, in Markdown; ends with 1
where one does not hold.
"""

import argparse
import base64
import json
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import requests
import yaml

from dermanet.embedded.airflow import DONE
from dermanet.errors import DermaNetError
from dermanet.settings import DEMO_GATES, GATES
from drills.stack import PATIENCE, ROOT, Stack, console, say, stack, until

NAME = "dermanet-test"
DEMO = "synthetic:lesions=700,seed=7"
HOUR = 3600.0
EXAMPLE = (
    "import base64; from dermanet import settings, stages; "
    "print(base64.b64encode(stages.example(settings.read())['data']).decode())"
)
RIGHTS = "SELECT DISTINCT table_name FROM information_schema.role_table_grants WHERE grantee = 'scorer' ORDER BY 1"
INTRUDER = "import boto3; boto3.client('s3').put_object(Bucket='mlflow', Key='x', Body=b'x')"


class Steps:
    """What was tried, whether it held, and how long it took."""

    def __init__(self) -> None:
        self.rows: list[tuple[str, str, float]] = []

    @contextmanager
    def step(self, what: str) -> Iterator[list[str]]:
        """One step: what is put into the list is said of it; what it raises ends the whole."""
        say(what)
        start, said = time.monotonic(), list[str]()
        yield said
        self.rows.append((what, "; ".join(said) or "holds", time.monotonic() - start))

    def table(self) -> str:
        """All of them in Markdown."""
        head = "| step | outcome | seconds |\n|---|---|---|\n"
        return head + "\n".join(f"| {what} | {said} | {seconds:.0f} |" for what, said, seconds in self.rows)


def main() -> None:
    """Tries the stack whole."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", nargs="?", type=Path, help="a folder of labelled images (default: synthetic ones)")
    parser.add_argument(
        "--experiment", default="", help="what to train (default: probe112 on images of yours, else demo)"
    )
    parser.add_argument("--keep", action="store_true", help="leave the stack running at the end")
    asked = parser.parse_args()
    experiment = asked.experiment or ("probe112" if asked.source else "demo")
    with tempfile.TemporaryDirectory() as folder:
        settings = {"GATES_FILE": str(_gates(Path(folder), bool(asked.source))), "DERMANET_EXPERIMENT": experiment}
        backups = Path(folder) / "backups"
        backups.mkdir()
        backups.chmod(0o1777)
        settings["BACKUPS"] = str(backups)
        if asked.source:
            settings["DERMANET_DATA"] = str(asked.source.resolve(strict=True))
        steps = Steps()
        start = time.monotonic()
        with stack(NAME, settings, asked.keep, (ROOT / "docker-compose.backup.yml",), workers=2) as here:
            steps.rows.append(("build and bring up", "every service is well", time.monotonic() - start))
            try:
                whole(here, "/data" if asked.source else DEMO, steps)
            finally:
                print(steps.table())


def whole(here: Stack, source: str, steps: Steps) -> None:
    """Every step, in order. Raises DermaNetError at the first that does not hold."""
    with steps.step("strangers") as said:
        strangers(here, said)
    with steps.step(f"ingest {source}") as said:
        run = here.airflow.trigger("ingest", {"source": _source(here, source)})
        _require(here.ended("ingest", run, HOUR) == "success", "ingest ended green")
        counts = here.airflow.result("ingest", run, "take_in")
        said.append(f"{counts['accepted']} accepted, {sum(counts['quarantined'].values())} quarantined")
    with steps.step("retrain, up to the question") as said:
        until("a run of retrain", lambda: bool(here.airflow.runs("retrain")), 120)
        run = str(here.airflow.runs("retrain")[0]["dag_run_id"])
        until("the question or the end", lambda: _asked(here, run) or here.run_state("retrain", run) in DONE, HOUR)
        verdict = here.airflow.result("retrain", run, "apply_gates")
        _require(_asked(here, run), f"a person is asked (the verdict: {json.dumps(verdict and verdict['told'])})")
        hosts = {str(task.get("hostname")) for task in here.airflow.tasks("retrain", run) if task.get("hostname")}
        said.append(f"verdict {verdict['verdict']}, {len(verdict['checks'])} checks; tasks ran on {len(hosts)} workers")
    with steps.step("the dermatologist approves") as said:
        said.append(dermatologist(here, run))
        _require(here.ended("retrain", run, 300) == "success", "retrain ended green")
    with steps.step("the scorer follows") as said:
        waited = until("version 1 to be served", lambda: here.scorer("/model").json()["version"] == "1", 60)
        said.append(f"version 1, {waited:.0f} s after the end of the run")
    with steps.step("an answer for an image of the holdout") as said:
        before = answer(here)
        said.append(before)
    with steps.step("the log of predictions") as said:
        until(
            "its rows",
            lambda: here.sql("catalogue", "SELECT count(*) FROM predictions WHERE version = '1'") == ["2"],
            30,
        )
        said.append("both answers, written by a user who may do nothing else")
    with steps.step("backup, while it runs") as said:
        here.ask("build", "backup")
        here.ask("run", "--rm", "-T", "backup", "backup", "/backups")
    with steps.step("all volumes destroyed, and restored") as said:
        said.append(restored(here, before))


def strangers(here: Stack, said: list[str]) -> None:
    """Whoever shows nothing gets nothing, and each service may do what it is for."""
    for address, path in (
        ("airflow", "/api/v2/dags"),
        ("mlflow", "/api/2.0/mlflow/experiments/search"),
        ("scorer", "/model"),
    ):
        status = requests.get(here.address(address) + path, timeout=30).status_code
        _require(status in (401, 403), f"{address} answers {status} to a stranger")
    said.append("401 from Airflow, MLflow and the scorer")
    login = ("reader", here.values["MLFLOW_READER_PASSWORD"])
    page = f"{here.address('mlflow')}/api/2.0/mlflow/registered-models/search"
    foreign = requests.get(page, headers={"Host": "attacker.example"}, auth=login, timeout=30).status_code
    _require(foreign == 403, f"MLflow answers {foreign} under a foreign host name")
    _require(requests.get(page, auth=login, timeout=30).ok, "MLflow's reader reads")
    doctor = here.airflow_as("dermatologist")
    _refused(lambda: doctor.trigger("ingest", {}), "a dermatologist starts no run")
    said.append("a dermatologist starts no run")
    key = ("-e", "AWS_ACCESS_KEY_ID=scorer", "-e", f"AWS_SECRET_ACCESS_KEY={here.values['S3_SCORER_SECRET']}")
    _refused(
        lambda: here.ask("run", "--rm", "-T", *key, "--entrypoint", "python", "cli", "-c", INTRUDER),
        "the scorer's key writes nothing",
    )
    said.append("the scorer's key writes nothing")
    tables = here.sql("catalogue", RIGHTS)
    _require(tables == ["dermanet_version", "forgotten", "predictions"], f"the scorer's tables are {tables}")


def dermatologist(here: Stack, run: str) -> str:
    """Looks at the question and says yes, with a reason. What was asked."""
    doctor = here.airflow_as("dermatologist")
    subject = str(doctor.question("retrain", run, "ask_for_approval")["subject"])
    doctor.answer("retrain", run, "ask_for_approval", "Approve", because="looked at the report")
    return subject


def restored(here: Stack, before: str) -> str:
    """Destroys every volume, restores the backup, and asks for the same image again. What is whole."""
    images = here.sql("catalogue", "SELECT count(*) FROM images")
    here.ask("down", "--volumes", "--timeout", "10")
    here.ask("run", "--rm", "-T", "backup", "restore", "/backups")
    here.ask("up", "--detach", "--scale", "worker=2")
    until("the scorer", lambda: here.healthy("scorer"), PATIENCE)
    until("version 1 to be served", lambda: here.scorer("/model").json()["version"] == "1", 60)
    _require(here.sql("catalogue", "SELECT count(*) FROM images") == images, "as many images as before")
    _require(answer(here) == before, "the same answer as before")
    until("Airflow", lambda: here.healthy("airflow-api-server"), PATIENCE)
    states = [run["state"] for run in here.airflow.runs("retrain")]
    _require(states == ["success"], f"the runs of retrain are {states}")
    return f"{images[0]} images, version 1, its run in Airflow, and the same answer"


def answer(here: Stack) -> str:
    """Sends an image of the holdout to the scorer, as a file and as MLflow's own payload; both answers must be the same."""
    cell = here.ask("run", "--rm", "-T", "--entrypoint", "python", "cli", "-c", EXAMPLE).strip().splitlines()[-1]
    row = here.scorer("/predict", files={"image": base64.b64decode(cell)}).json()["predictions"][0]
    other = here.scorer("/invocations", json={"dataframe_records": [{"image": cell}]}).json()["predictions"][0]
    _require(
        row["error"] is None and row["diagnosis"] == other["diagnosis"] and row["age"] == other["age"],
        "one answer by both ways",
    )
    return f"age {row['age']:.0f}, {row['sex']}, {row['diagnosis']}"


def _asked(here: Stack, run: str) -> bool:
    return here.task_state("retrain", run, "ask_for_approval") in ("awaiting_input", "deferred")


def _source(here: Stack, source: str) -> str:
    """A folder of folders is as many sources."""
    if source != "/data":
        return source
    root = Path(here.values["DERMANET_DATA"])
    parts = sorted(path.name for path in root.iterdir() if path.is_dir() and any(path.glob("*.csv")))
    return " ".join(f"/data/{name}" for name in parts) or "/data"


def _gates(folder: Path, real: bool) -> Path:
    """The gates that the project comes with, asking a person."""
    gates = yaml.safe_load((GATES if real else DEMO_GATES).read_text())
    path = folder / "gates.yaml"
    path.write_text(yaml.safe_dump({**gates, "promotion": "approval"}))
    path.chmod(0o644)
    folder.chmod(0o755)
    return path


def _require(held: bool, what: str) -> None:
    if not held:
        raise DermaNetError(f"does not hold: {what}")


def _refused(call: Callable[[], Any], what: str) -> None:
    try:
        call()
    except DermaNetError:
        return
    raise DermaNetError(f"does not hold: {what}")


if __name__ == "__main__":
    try:
        main()
    except DermaNetError as error:
        console.print(f"[red]{error}[/red]", soft_wrap=True)
        sys.exit(error.exit_status)
