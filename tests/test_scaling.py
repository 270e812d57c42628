"""Past one machine: what the DAG is told by settings, what the doctor finds, and pods that Airflow can make of the templates."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import fields
from pathlib import Path
from typing import Any

import pytest
import yaml

from dermanet import doctor, settings, stages
from dermanet.errors import BadInput

ROOT = Path(__file__).parents[1]
PODS = [ROOT / "docker" / "kubernetes" / name for name in ("pod-template.yaml", "training-pod.yaml")]

PARSE = """
import json, sys
from airflow.dag_processing.dagbag import DagBag
bag = DagBag(sys.argv[1])
print("RESULT" + json.dumps({
    task.task_id: [task.pool, task.queue, task.executor_config] for task in bag.dags["retrain"].tasks
} | {"errors": bag.import_errors}))
"""


def told(folder: Path, **environment: str) -> Any:
    """Pool, queue and pod of every task of `retrain`."""
    env = {**os.environ, "AIRFLOW_HOME": str(folder), "AIRFLOW__CORE__LOAD_EXAMPLES": "False", **environment}
    done = subprocess.run(
        [sys.executable, "-c", PARSE, str(ROOT / "dags")], env=env, capture_output=True, text=True, check=False
    )
    (line,) = [line for line in done.stdout.splitlines() if line.startswith("RESULT")]
    return json.loads(line.removeprefix("RESULT"))


def test_a_training_alone_has_the_pool_the_queue_and_the_pod_of_trainings(tmp_path: Path) -> None:
    usual = told(tmp_path)
    assert usual.pop("errors") == {} and all(task == ["default_pool", "default", {}] for task in usual.values())
    own = {
        "DERMANET_TRAINING_POOL": "training", "DERMANET_TRAINING_QUEUE": "gpu", "DERMANET_TRAINING_POD": "/pod.yaml",
        "DERMANET_PREPARE_POOL": "parts",
    }  # fmt: skip
    set_by_hand = told(tmp_path, **own)
    assert set_by_hand.pop("fit_network") == ["training", "gpu", {"pod_template_file": "/pod.yaml"}]
    parts = [set_by_hand.pop(name) for name in ("prepare_pixels", "extract_features")]
    assert parts == [["parts", "default", {}]] * 2 and set_by_hand.pop("errors") == {}
    assert all(task == ["default_pool", "default", {}] for task in set_by_hand.values())


@pytest.fixture
def airflow(home: Path, tmp_path: Path) -> dict[str, str]:
    """The environment of an Airflow whose database is ready."""
    own = {
        "AIRFLOW_HOME": str(tmp_path), "AIRFLOW__CORE__LOAD_EXAMPLES": "False", "AIRFLOW__CORE__EXECUTOR": "LocalExecutor",
        "AIRFLOW__DATABASE__SQL_ALCHEMY_CONN": f"sqlite:///{tmp_path}/airflow.db",
        "AIRFLOW__EXECUTION_API__JWT_EXPIRATION_TIME": "86400",
    }  # fmt: skip
    environ = {**os.environ, **own}
    subprocess.run([sys.executable, "-m", "airflow", "db", "migrate"], env=environ, check=True, capture_output=True)
    return environ


def found(environ: dict[str, str]) -> dict[str, Any]:
    (finding,) = [one for one in doctor.examine(environ)["findings"] if one["what"] == "Airflow"]
    return finding


def test_the_doctor_names_a_pool_that_is_not_there_and_how_to_make_it(airflow: dict[str, str]) -> None:
    assert found(airflow)["ok"] and "default_pool" in found(airflow)["detail"]
    own = {**airflow, "DERMANET_TRAINING_POOL": "training"}
    missing = found(own)
    assert not missing["ok"] and "airflow pools set training 1" in missing["detail"]
    words = [sys.executable, "-m", "airflow", "pools", "set", "training", "1", "one training at a time"]
    subprocess.run(words, env=own, check=True, capture_output=True)
    assert found(own)["ok"] and not found(own)["warning"]
    also = found({**own, "DERMANET_PREPARE_POOL": "parts"})
    assert not also["ok"] and "airflow pools set parts SLOTS" in also["detail"]


def test_the_doctor_warns_of_what_ends_before_a_training_does(airflow: dict[str, str]) -> None:
    short = found({**airflow, "AIRFLOW__EXECUTION_API__JWT_EXPIRATION_TIME": "600"})
    assert short["ok"] and short["warning"] and "43,200 s" in short["detail"]
    celery = {**airflow, "AIRFLOW__CORE__EXECUTOR": "CeleryExecutor"}
    assert not found(celery)["warning"]
    again = found({**celery, "AIRFLOW__CELERY_BROKER_TRANSPORT_OPTIONS__VISIBILITY_TIMEOUT": "3600"})
    assert again["warning"] and "hands a task out again after 3,600 s" in again["detail"]


def test_the_doctor_leaves_airflow_alone_where_nothing_of_it_is_set(home: Path) -> None:
    environ = {name: value for name, value in os.environ.items() if not name.startswith("AIRFLOW")}
    assert found(environ)["ok"] and "not looked at" in found(environ)["detail"]


def test_a_home_that_is_not_shared_is_named(
    home: Path, tmp_path: Path, ham10000: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    stages.ingest(str(ham10000(count=4)))
    snapshot = stages.snapshot()["snapshot"]
    monkeypatch.setenv("DERMANET_HOME", str(tmp_path / "another worker's"))
    with pytest.raises(BadInput, match="one DERMANET_HOME that all of them share"):
        stages.preparation_parts(snapshot, "smoke")


@pytest.mark.parametrize("path", PODS, ids=lambda path: path.stem)
def test_a_pod_has_what_airflow_and_dermanet_need_and_no_rights_beyond_that(path: Path) -> None:
    pod = yaml.safe_load(path.read_text())
    (container,) = pod["spec"]["containers"]
    variables = {one["name"]: one["value"] for one in container["env"]}
    assert container["name"] == "base" and pod["spec"]["restartPolicy"] == "Never"
    assert {"AIRFLOW__CORE__EXECUTION_API_SERVER_URL", "DERMANET_HOME", "MLFLOW_TRACKING_URI"} <= set(variables)
    assert settings.unknown(variables) == []
    mounts = {mount["mountPath"]: mount["name"] for mount in container["volumeMounts"]}
    claims = {volume["name"] for volume in pod["spec"]["volumes"] if "persistentVolumeClaim" in volume}
    assert mounts[variables["DERMANET_HOME"]] in claims, "the home outlives the pod"
    assert (
        container["securityContext"]["capabilities"] == {"drop": ["ALL"]}
        and pod["spec"]["securityContext"]["runAsNonRoot"]
    )
    assert (
        container["securityContext"]["readOnlyRootFilesystem"]
        and not container["securityContext"]["allowPrivilegeEscalation"]
    )
    assert not [name for name in variables if any(word in name for word in ("SECRET", "PASSWORD", "KEY", "TOKEN"))]


@pytest.mark.parametrize("path", PODS, ids=lambda path: path.stem)
def test_a_pod_runs_as_the_image_s_user_and_may_write_where_its_airflow_does(path: Path) -> None:
    image = (ROOT / "docker" / "airflow.Dockerfile").read_text()
    user = int(re.findall(r"useradd --uid (\d+) ", image)[0])
    writes = set(re.findall(r"(?:AIRFLOW_HOME|AIRFLOW__LOGGING__BASE_LOG_FOLDER|DERMANET_HOME)=(\S+)", image))
    spec = yaml.safe_load(path.read_text())["spec"]
    assert {spec["securityContext"][name] for name in ("runAsUser", "runAsGroup", "fsGroup")} == {user}
    assert len(writes) == 3 and writes <= {mount["mountPath"] for mount in spec["containers"][0]["volumeMounts"]}


def test_the_training_s_pod_is_the_other_with_a_gpu() -> None:
    plain, training = (yaml.safe_load(path.read_text()) for path in PODS)
    own = training["spec"]["containers"][0]
    assert own["resources"]["limits"]["nvidia.com/gpu"] == "1"
    assert plain["spec"]["volumes"] == training["spec"]["volumes"]
    assert plain["spec"]["securityContext"] == training["spec"]["securityContext"]
    assert {f"DERMANET_{field.name.upper()}" for field in fields(settings.Settings)} >= {"DERMANET_PROCESSES"}


@pytest.mark.parametrize("path", PODS, ids=lambda path: path.stem)
def test_kubernetes_own_client_reads_a_template_whole(path: Path) -> None:
    _require_kubernetes()
    from airflow.providers.cncf.kubernetes.pod_generator import PodGenerator
    from kubernetes.client import ApiClient

    # What the client does not know, a misspelt field, would be missing in what it gives back.
    read = ApiClient().sanitize_for_serialization(PodGenerator.deserialize_model_file(str(path)))
    assert read == yaml.safe_load(path.read_text())


def test_airflow_makes_its_pods_by_the_template(airflow: dict[str, str], tmp_path: Path) -> None:
    _require_kubernetes()
    own = {
        **airflow, "AIRFLOW__CORE__EXECUTOR": "KubernetesExecutor", "AIRFLOW__CORE__DAGS_FOLDER": str(ROOT / "dags"),
        "AIRFLOW__KUBERNETES_EXECUTOR__POD_TEMPLATE_FILE": str(PODS[0]),
    }  # fmt: skip
    # Not `retrain`: of mapped tasks this command of the provider 10.25 knows no DAG, and stumbles.
    words = [
        "kubernetes",
        "generate-dag-yaml",
        "--logical-date",
        "2026-11-23",
        "--output-path",
        str(tmp_path),
        "promote",
    ]
    done = subprocess.run(
        [sys.executable, "-m", "airflow", *words], env=own, capture_output=True, text=True, check=False
    )
    made = [yaml.safe_load(path.read_text()) for path in (tmp_path / "airflow_yaml_output").glob("*.yml")]
    assert made, done.stderr[-2000:]
    for pod in made:
        container = pod["spec"]["containers"][0]
        assert container["name"] == "base" and container["args"]
        assert {"name": "home", "persistentVolumeClaim": {"claimName": "dermanet-home"}} in pod["spec"]["volumes"]


def _require_kubernetes() -> None:
    pytest.importorskip(
        "airflow.providers.cncf.kubernetes",
        reason="needs apache-airflow-providers-cncf-kubernetes, which only `make test-workers` installs",
    )
