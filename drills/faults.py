"""What may break is broken, one thing after another, while a retrain is under way: what happens, and is everything whole afterwards?

    python -m drills.faults [--only WORD] [--out docs/drills.md] [--keep]

After each: the run ends green by itself or after one click (its failed tasks cleared), there is one champion and the scorer serves it,
nothing is lost and nothing is there twice. Ends with 1 where one of these does not hold.
"""

import argparse
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import requests
import yaml

from dermanet.errors import DermaNetError
from dermanet.settings import DEMO_GATES
from drills.stack import PATIENCE, Stack, console, say, stack, until

NAME = "dermanet-drills"
SOURCE = "synthetic:lesions=700,seed=7"
EXPERIMENT = "demo:epochs=10,patience=10"
"""Long enough to be killed in the middle of."""

LONGEST = 900.0
"""Seconds that one run may take, faults included."""

HOME = "size=1g,uid=10001,gid=10001,mode=0750"
"""The home of the stack under drill: small enough to be filled."""


@dataclass(frozen=True, slots=True)
class Drill:
    """One fault. `during`: the task of `retrain`, or of `ingest`, that is under way when it happens; `mend`: what a person does."""

    what: str
    fault: Callable[[Stack], None]
    during: str = "fit_network"
    dag: str = "retrain"
    mend: Callable[[Stack], None] | None = None


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of a drill."""

    drill: Drill
    happened: str
    clicks: int
    seconds: float
    troubles: tuple[str, ...]


def crash(service: str, user: str = "") -> Callable[[Stack], None]:
    """Everything in a service's containers is killed at once, as by a full memory; Docker starts it again."""

    def fault(here: Stack) -> None:
        before = here.containers(service)
        for container in before:
            words = ("-u", user) if user else ()
            here.engine("exec", *words, container, "sh", "-c", "kill -9 -1", check=False)

    return fault


def restart(service: str) -> Callable[[Stack], None]:
    """A service is stopped in order and started again."""
    return lambda here: here.docker("restart", service)


def cut(service: str, seconds: float) -> Callable[[Stack], None]:
    """A service answers nobody for a time, and closes no connection."""

    def fault(here: Stack) -> None:
        here.docker("pause", service)
        time.sleep(seconds)
        here.docker("unpause", service)

    return fault


def away(service: str, seconds: float) -> Callable[[Stack], None]:
    """A service is killed, and nobody starts it again for a time."""

    def fault(here: Stack) -> None:
        found = here.containers(service)
        here.engine("kill", *found)
        time.sleep(seconds)
        here.engine("start", *found)

    return fault


def fill(here: Stack) -> None:
    """No byte is left on the volume that keeps snapshots, pixels and trainings."""
    filler = "dd if=/dev/zero of=/var/lib/dermanet/filler bs=1M 2>/dev/null; sync; exit 0"
    here.engine("exec", here.containers("airflow-scheduler")[0], "sh", "-c", filler)


def make_room(here: Stack) -> None:
    """What a person does then."""
    here.engine("exec", here.containers("airflow-scheduler")[0], "rm", "/var/lib/dermanet/filler")


def renew_token(here: Stack) -> None:
    """The scorer's token is another: the old one opens nothing from the moment the scorer is back."""
    old = dict(here.values)
    text = (here.folder / ".env").read_text()
    here.values["SCORER_TOKEN"] = "a-new-token-of-the-drill-0123456789"
    (here.folder / ".env").write_text(text.replace(old["SCORER_TOKEN"], here.values["SCORER_TOKEN"]))
    here.ask("up", "--detach", "--no-deps", "scorer")
    until("the scorer", lambda: here.healthy("scorer"), PATIENCE)
    bearer = {"Authorization": f"Bearer {old['SCORER_TOKEN']}"}
    status = requests.get(f"{here.address('scorer')}/model", headers=bearer, timeout=30).status_code
    if status != 401:
        raise DermaNetError(f"the scorer answers {status} to a token that is no longer good")


DRILLS = (
    Drill("PostgreSQL is killed", crash("postgres", "postgres")),
    Drill("the worker is killed in mid-training", crash("worker")),
    Drill("the disk is full", fill, mend=make_room),
    Drill("S3 is cut off for a minute", cut("s3", 60), "take_in", "ingest"),
    Drill("MLflow is killed while the version is registered", crash("mlflow"), "register_version"),
    Drill("PostgreSQL is restarted", restart("postgres"), "score_holdout"),
    Drill("the scheduler is killed", crash("airflow-scheduler")),
    Drill("the worker is killed while the champion changes", crash("worker"), "promote_version"),
    Drill("the scorer's token is renewed", renew_token),
    Drill("Airflow's API server is killed", crash("airflow-api-server")),
    Drill("S3 is killed while the version is registered", crash("s3"), "register_version"),
    Drill("Redis is killed", crash("redis"), "freeze_snapshot"),
    Drill("S3 is killed", crash("s3"), "take_in", "ingest"),
    Drill("MLflow is killed", crash("mlflow")),
    Drill("the triggerer is killed", crash("airflow-triggerer")),
    Drill("the DAG processor is killed", crash("airflow-dag-processor")),
    Drill("the scorer is killed", crash("scorer")),
    Drill("Airflow's API server is away for three minutes", away("airflow-api-server", 180)),
    Drill("MLflow is away for three minutes", away("mlflow", 180)),
    Drill("PostgreSQL is away for three minutes", away("postgres", 180)),
)


def main() -> None:
    """Does all drills, or those that a word names, and writes the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--only", default="", help="the drills that have this in their name")
    parser.add_argument("--out", type=Path, help="a Markdown file for the table (default: standard output alone)")
    parser.add_argument("--keep", action="store_true", help="leave the stack running at the end")
    asked = parser.parse_args()
    chosen = [drill for drill in DRILLS if asked.only.lower() in drill.what.lower()]
    with tempfile.TemporaryDirectory() as folder:
        settings, override = _prepared(Path(folder))
        with stack(NAME, settings, asked.keep, (override,)) as here:
            first(here)
            outcomes = list[Outcome]()
            for number, drill in enumerate(chosen):
                outcomes.append(done(here, number, drill))
                if asked.out:
                    # After each: what was seen is kept, whatever becomes of the next.
                    asked.out.write_text(page(outcomes))
    print(table(outcomes))
    if any(outcome.troubles for outcome in outcomes):
        sys.exit(1)


def first(here: Stack) -> None:
    """Images, and a champion, before anything breaks."""
    run = here.airflow.trigger("ingest", {"source": SOURCE})
    here.ended("ingest", run, LONGEST)
    until("a run of retrain", lambda: bool(here.airflow.runs("retrain")), 120)
    run = str(here.airflow.runs("retrain")[0]["dag_run_id"])
    if (state := here.ended("retrain", run, LONGEST)) != "success" or champion(here) != "1":
        raise DermaNetError(f"no champion to begin with: retrain ended {state}")


def done(here: Stack, number: int, drill: Drill) -> Outcome:
    """One drill: a run, the fault in it, and what is so afterwards. What is waited for in vain is a trouble; the next follows."""
    say(f"[bold]{drill.what}[/bold] (during {drill.during})")
    before, start = state(here), time.monotonic()
    seen = _Seen()
    try:
        _driven(here, number, drill, seen)
        troubles = tuple(troubled(here, before, seen.ended))
    except (DermaNetError, requests.RequestException) as error:
        troubles = (str(error),)
    say(
        f"  {seen.ended}, {seen.clicks} clicks, {seen.tries or 'no task tried twice'}; "
        + ("[red]" + "; ".join(troubles) + "[/red]" if troubles else "all whole")
    )
    return Outcome(drill, seen.tries, seen.clicks, time.monotonic() - start, troubles)


@dataclass
class _Seen:
    """What was seen of a drill so far."""

    ended: str = "not ended"
    clicks: int = 0
    tries: str = ""


def _driven(here: Stack, number: int, drill: Drill, seen: _Seen) -> None:
    """From the run's start, over the fault and the click where one is needed, to its end."""
    run = here.airflow.trigger(drill.dag, _asked_for(drill, number))
    until(
        f"{drill.during} to run",
        lambda: here.task_state(drill.dag, run, drill.during) in ("running", "success", "failed"),
        LONGEST,
    )
    if drill.during == "fit_network":
        # Into the epochs, past the imports.
        time.sleep(10)
    drill.fault(here)
    if drill.mend:
        try:
            until(
                f"{drill.during} to fail",
                lambda: here.task_state(drill.dag, run, drill.during) == "up_for_retry",
                LONGEST,
            )
        finally:
            drill.mend(here)
    seen.ended = here.ended(drill.dag, run, LONGEST)
    if seen.ended != "success":
        seen.clicks = 1
        say("  one click")
        here.airflow.clear_failed(drill.dag, run)
        time.sleep(5)
        seen.ended = here.ended(drill.dag, run, LONGEST)
    seen.tries = tries(here, drill.dag, run)
    if drill.dag == "ingest":
        follow_up(here)


def follow_up(here: Stack) -> None:
    """Waits for the retrain that new images have started."""
    until(
        "the retrain of the new images",
        lambda: here.airflow.runs("retrain")[0]["state"] in ("success", "failed"),
        LONGEST,
    )


def tries(here: Stack, dag: str, run: str) -> str:
    """Which tasks were tried more than once."""
    found = {one["task_id"]: one["try_number"] for one in here.airflow.tasks(dag, run) if (one["try_number"] or 0) > 1}
    return ", ".join(f"*{task}* was tried {count} times" for task, count in sorted(found.items()))


@dataclass(frozen=True, slots=True)
class State:
    """What must not get less, nor be there twice."""

    images: int
    versions: tuple[tuple[str, str], ...]
    """Version and the run that it came from."""


def state(here: Stack) -> State:
    """As it is now."""
    images = int(here.sql("catalogue", "SELECT count(*) FROM images")[0])
    versions = here.sql("mlflow", "SELECT version, run_id FROM model_versions WHERE name = 'dermanet' ORDER BY version")
    return State(images, tuple((row.split("|")[0], row.split("|")[1]) for row in versions))


def champion(here: Stack) -> str:
    """Its version, or nothing."""
    found = here.sql(
        "mlflow", "SELECT version FROM registered_model_aliases WHERE name = 'dermanet' AND alias = 'champion'"
    )
    return ",".join(found)


def troubled(here: Stack, before: State, ended: str) -> list[str]:
    """What is not as it must be, a line each."""
    found = [] if ended == "success" else [f"the run ended {ended}"]
    for service in ("postgres", "redis", "s3", "mlflow", "airflow-api-server", "airflow-scheduler", "worker", "scorer"):
        try:
            until(f"{service} to be well", lambda service=service: here.healthy(service), PATIENCE)  # type: ignore[misc]
        except DermaNetError as error:
            found.append(str(error))
    now = state(here)
    if now.images < before.images:
        found.append(f"{before.images - now.images} images are lost")
    if now.versions[: len(before.versions)] != before.versions:
        found.append("versions are lost or others")
    runs = [run for _, run in now.versions]
    if len(set(runs)) != len(runs):
        found.append("a run has two versions")
    results = (here.airflow.result("retrain", run, "register_version") for run in _ended_runs(here))
    registered = {str(version) for version in results if version}
    if registered != {version for version, _ in now.versions}:
        found.append(
            f"versions {sorted(version for version, _ in now.versions)}, registered in runs {sorted(registered)}"
        )
    return [*found, *_served(here), *_stored(here, now)]


def _served(here: Stack) -> list[str]:
    one = champion(here)
    if not one.isdigit():
        return [f"the champion is {one or 'nobody'}"]
    try:
        until("the scorer", lambda: here.scorer("/model").json()["version"] == one, 120)
    except DermaNetError:
        return [f"the scorer does not serve version {one}"]
    return []


def _stored(here: Stack, now: State) -> list[str]:
    """Every image of the catalogue is in the object store, as it was."""
    checked = here.cli("objects", "--check")
    bad = {name: checked[name] for name in ("damaged", "missing") if checked.get(name)}
    return [f"objects: {bad}"] if bad or checked["images"] != now.images else []


def _ended_runs(here: Stack) -> list[str]:
    return [str(run["dag_run_id"]) for run in here.airflow.runs("retrain", latest=100)]


def _asked_for(drill: Drill, number: int) -> dict[str, object]:
    if drill.dag == "ingest":
        return {"source": f"synthetic:lesions=300,seed={100 + number}"}
    return {"force": f"drill: {drill.what}", "fresh": True}


def _prepared(folder: Path) -> tuple[dict[str, str], Path]:
    """Settings: an experiment of seconds, gates that let an equal pass; and a home that can be filled."""
    folder.chmod(0o755)
    gates = yaml.safe_load(DEMO_GATES.read_text())
    checks = {
        metric: {**check, "champion": {"min_absolute_change": -100.0}} for metric, check in gates["checks"].items()
    }
    (folder / "gates.yaml").write_text(yaml.safe_dump({**gates, "checks": checks, "promotion": "automatic"}))
    home = {"driver": "local", "driver_opts": {"type": "tmpfs", "device": "tmpfs", "o": HOME}}
    (folder / "small-home.yml").write_text(yaml.safe_dump({"volumes": {"home": home}}))
    return {"GATES_FILE": str(folder / "gates.yaml"), "DERMANET_EXPERIMENT": EXPERIMENT}, folder / "small-home.yml"


def table(outcomes: Sequence[Outcome]) -> str:
    """A row a drill."""
    head = "| what | during | what happened | green | afterwards | seconds |\n|---|---|---|---|---|---|\n"
    return head + "\n".join(
        f"| {one.drill.what} | *{one.drill.during}* | {one.happened or 'no task was tried twice'} "
        f"| {'by itself' if not one.clicks else 'after one click'} | {'; '.join(one.troubles) or 'all whole'} | {one.seconds:.0f} |"
        for one in outcomes
    )


def page(outcomes: Sequence[Outcome]) -> str:
    """The page for `docs/drills.md`."""
    return f"""# Drills

`make drills` brings up [the stack](stack.md) for itself, with a champion on synthetic images, and breaks one thing after
another while a run is under way. *Killed*: every process of the service at once (SIGKILL); Docker starts it again. *Away*: nobody
starts it. *After one click*: the run had failed, and its failed tasks were cleared. *All whole*: there is one champion and the
scorer serves it; no image and no version is lost, or there twice; every image in the object store is what the catalogue says;
every service is well.

{table(outcomes)}

The last run took {sum(one.seconds for one in outcomes) / 60:.0f} minutes.

## By hand

On a stack of yours, a service crashes as in the drills by

    docker exec CONTAINER sh -c 'kill -9 -1'

(PostgreSQL's with `-u postgres`), and Docker starts it again. After `docker kill` or `docker stop` it does not, as it takes that for
what you want: `docker compose up --detach` brings back whatever is missing. Meanwhile tasks wait and are tried again for eight to
twelve minutes; what has failed by then is cleared with one click in Airflow, and goes on where it was.
"""


if __name__ == "__main__":
    try:
        main()
    except DermaNetError as error:
        console.print(f"[red]{error}[/red]", soft_wrap=True)
        sys.exit(error.exit_status)
