"""The DAG files: how they parse, what they say of themselves, and the whole way run by Airflow on small data."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from installation import Installation

DAGS = Path(__file__).parents[1] / "dags"
HEAVY = ("tensorflow", "keras", "mlflow", "cv2", "sklearn", "boto3", "onnxruntime", "matplotlib", "pandera", "scipy")

PARSE = """
import json, sys
from datetime import UTC, datetime
from types import SimpleNamespace
from airflow.sdk import BaseHook, Connection, Variable
def refuse(*args, **kwargs):
    raise AssertionError("a look-up while a DAG file is parsed")
BaseHook.get_connection = Connection.get = Variable.get = refuse
before = set(sys.modules)
from airflow.dag_processing.dagbag import DagBag
from airflow.serialization.serialized_objects import DagSerialization
from airflow.sdk import RetryAction
from dermanet.errors import DataRefused
bag = DagBag(sys.argv[1])
loaded = sorted(set(sys.modules))
from airflow.models.taskinstance import TaskInstance
def pauses(task, then=datetime(2026, 1, 1, tzinfo=UTC)):
    # Seconds before each try after the first, as the scheduler reckons them from what it has of the task.
    seen = SimpleNamespace(
        task=task, dag_id=task.dag_id, task_id=task.task_id, logical_date=then, end_date=then, retry_delay_override=None
    )
    return [
        (TaskInstance.next_retry_datetime(SimpleNamespace(**vars(seen), try_number=number)) - then).total_seconds()
        for number in range(1, task.retries + 1)
    ]
print("RESULT" + json.dumps({
    "errors": bag.import_errors, "loaded": [name for name in loaded if "." not in name],
    "dags": {name: {
        "doc": dag.doc_md, "tags": sorted(dag.tags), "catchup": dag.catchup, "file": dag.fileloc,
        "owners": sorted({task.owner for task in dag.tasks}), "told": getattr(dag.on_failure_callback, "__name__", ""),
        "pauses": [pauses(task) for task in DagSerialization.from_dict(DagSerialization.to_dict(dag)).tasks],
        "given_up": [
            task.task_id for task in dag.tasks for rule in task.retry_policy.rules
            if rule.action == RetryAction.FAIL and rule.matches(DataRefused("x"))
        ],
        "undocumented": [name for name, param in dag.params.items() if not dag.params.get_param(name).description],
        "untyped": [name for name in dag.params if "type" not in dag.params.get_param(name).schema],
        "tasks": sorted(dag.task_dict), "timetable": type(dag.timetable).__name__,
        "serialized": json.dumps(DagSerialization.to_dict(dag), sort_keys=True, default=str),
    } for name, dag in bag.dags.items()},
}))
"""

RUN = """
import json, os, sys

from airflow.dag_processing.dagbag import DagBag
bag = DagBag(sys.argv[1])
states = {}
for step, (name, conf, gates) in enumerate(json.loads(sys.argv[2])):
    os.environ["DERMANET_GATES"] = gates
    # `test` of Airflow 3.3 stumbles over deadlines, which only a scheduler keeps anyway.
    bag.dags[name].deadline = None
    run = bag.dags[name].test(run_conf=conf)
    tasks = {task.task_id: str(task.state) for task in run.get_task_instances()}
    states[step] = {"state": str(run.state), "run": f"{name}/{run.run_id}", "tasks": tasks}
print("RESULT" + json.dumps(list(states.values())))
"""

CLEAR = """
import json, sys
from datetime import UTC, datetime
from airflow.dag_processing.collection import update_dag_parsing_results_in_db
from airflow.dag_processing.dagbag import DagBag
from airflow.models import DagRun
from airflow.models.dagbag import DBDagBag
from airflow.models.deadline import Deadline
from airflow.models.taskinstance import clear_task_instances
from airflow.serialization.serialized_objects import LazyDeserializedDAG
from airflow.utils.session import create_session
from airflow.utils.state import DagRunState, TaskInstanceState
from airflow.utils.types import DagRunTriggeredByType, DagRunType
bag = DagBag(sys.argv[1])
found = {}
with create_session() as session:
    from airflow.models.dagbundle import DagBundleModel
    session.add(DagBundleModel(name="dags"))
    session.flush()
    update_dag_parsing_results_in_db(
        "dags", None, [LazyDeserializedDAG.from_dag(dag) for dag in bag.dags.values()], {}, 1.0, set(), session
    )
    session.commit()
    for name in bag.dags:
        run = DBDagBag().get_latest_version_of_dag(name, session=session).create_dagrun(
            run_id="one", run_after=datetime.now(UTC), run_type=DagRunType.MANUAL, triggered_by=DagRunTriggeredByType.TEST,
            state=DagRunState.QUEUED, session=session,
        )
        queued = run.queued_at
        run.state = DagRunState.FAILED
        for one in run.task_instances:
            one.state = TaskInstanceState.FAILED
        session.commit()
        clear_task_instances(run.task_instances, session)
        session.commit()
        due = session.query(Deadline).filter(Deadline.dagrun_id == run.id).all()
        found[name] = {"state": run.state, "due": [(one.deadline_time - queued).total_seconds() / 3600 for one in due]}
print("RESULT" + json.dumps(found))
"""


def _python(code: str, *words: str, env: dict[str, str]) -> Any:
    done = subprocess.run(
        [sys.executable, "-c", code, str(DAGS), *words], env=env, capture_output=True, text=True, check=False
    )
    lines = [line for line in done.stdout.splitlines() if line.startswith("RESULT")]
    assert lines, done.stdout[-3000:] + done.stderr[-3000:]
    return json.loads(lines[-1].removeprefix("RESULT"))


def _airflow(installation: Installation, database: str) -> dict[str, str]:
    own = {
        "AIRFLOW_HOME": str(installation.root / "airflow"), "AIRFLOW__CORE__DAGS_FOLDER": str(DAGS),
        "AIRFLOW__CORE__LOAD_EXAMPLES": "False", "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{database}",
    }  # fmt: skip
    return {**installation.environment(), **own}


@pytest.fixture(scope="module")
def parsed(tmp_path_factory: pytest.TempPathFactory) -> Any:
    # A database that cannot even be opened: a query while a file is parsed would fail.
    empty = Installation(tmp_path_factory.mktemp("parse"))
    return _python(PARSE, env=_airflow(empty, "/nowhere/at/all.db"))


def test_every_file_is_one_dag_of_its_name_and_imports(parsed: Any) -> None:
    assert parsed["errors"] == {}
    assert (
        set(parsed["dags"])
        == {path.stem for path in DAGS.glob("*.py")}
        == {"ingest", "retrain", "promote", "monitor", "upkeep"}
    )
    assert all(Path(dag["file"]).stem == name for name, dag in parsed["dags"].items())


def test_nothing_heavy_is_imported_while_parsing(parsed: Any) -> None:
    assert not set(HEAVY) & set(parsed["loaded"])


def test_a_process_that_died_is_soon_made_good_and_an_outage_of_minutes_is_waited_for(parsed: Any) -> None:
    for dag in parsed["dags"].values():
        for pauses in dag["pauses"]:
            assert 15 <= pauses[0] <= 30
            assert pauses == sorted(pauses)
            assert 7 * 60 <= sum(pauses) <= 12 * 60


def test_every_dag_has_its_run_book_owner_and_tags(parsed: Any) -> None:
    for dag in parsed["dags"].values():
        for heading in ("When it runs", "If it fails", "Safe to clear"):
            assert heading in dag["doc"]
        assert "dermanet" in dag["tags"]
        assert dag["owners"] == ["ml-engineering"]
        assert dag["undocumented"] == dag["untyped"] == []
        assert dag["catchup"] is False


def test_people_are_told_when_a_dag_fails(parsed: Any) -> None:
    assert {name: dag["told"] for name, dag in parsed["dags"].items()} == dict.fromkeys(parsed["dags"], "failed")


def test_a_retrain_is_started_by_the_clock_and_by_new_data(parsed: Any) -> None:
    assert parsed["dags"]["retrain"]["timetable"] == "AssetOrTimeSchedule"
    assert "dermanet_catalogue" in parsed["dags"]["retrain"]["serialized"]
    assert "dermanet_catalogue" in parsed["dags"]["ingest"]["serialized"]


def test_pixels_and_then_features_are_made_side_by_side_in_parts(parsed: Any) -> None:
    tasks = {task["__var"]["task_id"]: task["__var"] for task in _dag(parsed, "retrain")["tasks"]}
    way = ["list_parts", "prepare_pixels", "list_feature_parts", "extract_features", "fit_network"]
    assert [tasks[name]["downstream_task_ids"] for name in way[:-1]] == [[name] for name in way[1:]]
    assert [bool(tasks[name].get("_is_mapped")) for name in way] == [False, True, False, True, False]


def test_nothing_is_prepared_or_trained_before_the_data_are_validated(parsed: Any) -> None:
    tasks = {task["__var"]["task_id"]: task["__var"] for task in _dag(parsed, "retrain")["tasks"]}
    assert "validate_snapshot" in tasks["freeze_snapshot"]["downstream_task_ids"]
    assert set(tasks["validate_snapshot"]["downstream_task_ids"]) == {"list_parts", "fit_network"}
    assert "validate_snapshot" in parsed["dags"]["retrain"]["given_up"], "a person must look; again would say the same"
    assert "accept_data" in parsed["dags"]["retrain"]["serialized"]


def _dag(parsed: Any, name: str) -> Any:
    return json.loads(parsed["dags"][name]["serialized"])["dag"]


def test_parsing_twice_gives_the_same_dag(parsed: Any, tmp_path: Path) -> None:
    again = _python(PARSE, env=_airflow(Installation(tmp_path), "/nowhere/at/all.db"))
    assert {name: dag["serialized"] for name, dag in again["dags"].items()} == {
        name: dag["serialized"] for name, dag in parsed["dags"].items()
    }


def test_a_failed_run_can_be_cleared_and_keeps_its_deadline(tmp_path: Path) -> None:
    env = {**_airflow(Installation(tmp_path), str(tmp_path / "airflow.db")), "DERMANET_DEADLINE_HOURS": "6"}
    subprocess.run([sys.executable, "-m", "airflow", "db", "migrate"], env=env, check=True, capture_output=True)
    found = _python(CLEAR, env=env)
    assert {run["state"] for run in found.values()} == {"queued"}
    due = {name: [round(hours, 2) for hours in run["due"]] for name, run in found.items()}
    assert due == {"ingest": [], "monitor": [], "promote": [], "retrain": [6.0], "upkeep": []}


def test_the_whole_way_through_airflow(tmp_path: Path) -> None:
    installation = Installation(tmp_path)
    gates = str(installation.gates("open"))
    env = _airflow(installation, str(tmp_path / "airflow.db"))
    subprocess.run([sys.executable, "-m", "airflow", "db", "migrate"], env=env, check=True, capture_output=True)
    source, shut = {"source": "synthetic:lesions=40,seed=3"}, str(installation.gates("shut"))
    small = {"experiment": "smoke:epochs=1"}
    steps = [["ingest", source, gates], ["ingest", source, gates], ["retrain", small, gates]]
    other = {"experiment": "smoke:epochs=1,seed=2"}
    steps += [["retrain", other, shut], ["retrain", {}, gates], ["promote", {"action": "roll back"}, gates]]
    steps += [["upkeep", {"dry_run": True}, gates], ["upkeep", {"dry_run": False}, gates]]
    orphan = installation.home / "objects" / "ab" / ("ab" + "0" * 62)
    orphan.parent.mkdir(parents=True)
    orphan.write_bytes(b"nobody's")
    os.utime(orphan, (1, 1))
    first, second, passed, refused, unchanged, undone, listed, removed = _python(RUN, json.dumps(steps), env=env)
    assert first["state"] == "success"
    assert set(first["tasks"].values()) == {"success"}
    assert second["tasks"]["announce"] == "skipped", "nothing new must not start a retrain"
    assert passed["state"] == "success"
    assert passed["tasks"]["validate_snapshot"] == "success"
    made = ("list_parts", "prepare_pixels", "list_feature_parts", "extract_features")
    assert {passed["tasks"][name] for name in made} == {"success"}
    assert passed["tasks"]["promote_version"] == "success"
    assert passed["tasks"]["kept_the_champion"] == "skipped"
    assert refused["state"] == "success", "a refusal is an answer, not a crash"
    assert refused["tasks"]["kept_the_champion"] == "success"
    assert refused["tasks"]["register_version"] == refused["tasks"]["promote_version"] == "skipped"
    assert unchanged["state"] == "success" and unchanged["tasks"]["nothing_new"] == "success"
    assert {unchanged["tasks"][name] for name in ("freeze_snapshot", "fit_network", "kept_the_champion")} == {"skipped"}
    assert undone["tasks"] == {"move_alias": "failed"}, "there is no previous champion"
    assert listed["tasks"] == {"list_unneeded": "success", "for_real": "success", "remove_listed": "skipped"}
    assert set(removed["tasks"].values()) == {"success"} and not orphan.exists()
