"""The files of the stack, as far as they can be tried without a Docker Engine. With one: `make stack-test`."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml

ROOT = Path(__file__).parents[1]
COMPOSE = ROOT / "docker-compose.yml"
EXAMPLE = (ROOT / ".env.example").read_text()
SECRETS = re.findall(r"^([A-Z0-9_]+)=change-me$", EXAMPLE, re.MULTILINE)
OPTIONS = re.findall(r"^#([A-Z0-9_]+)=(.*)$", EXAMPLE, re.MULTILINE)
STACK: dict[str, Any] = yaml.safe_load(COMPOSE.read_text())
SERVICES: dict[str, dict[str, Any]] = STACK["services"]
ONCE = {name for name, service in SERVICES.items() if service["restart"] == "no"}
BIN = Path(sys.executable).parent


def test_compose_takes_the_file() -> None:
    schema = ("--builtin-schema", "vendor.compose-spec", str(COMPOSE))
    done = subprocess.run([BIN / "check-jsonschema", *schema], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.skipif(not shutil.which("docker-compose"), reason="needs docker-compose")
def test_compose_itself_takes_the_file(tmp_path: Path) -> None:
    done = _compose(_written(tmp_path))
    assert done.returncode == 0, done.stderr


@pytest.mark.skipif(not shutil.which("docker-compose"), reason="needs docker-compose")
def test_a_missing_secret_is_one_clear_line(tmp_path: Path) -> None:
    env = _written(tmp_path)
    env.write_text(env.read_text().replace("REDIS_PASSWORD=", "NOBODY="))
    done = _compose(env)
    assert done.returncode
    assert "make secrets" in done.stderr


@pytest.mark.skipif(not (BIN / "hadolint").exists(), reason="needs hadolint, which is locked for Linux only")
@pytest.mark.parametrize("file", sorted((ROOT / "docker").glob("*.Dockerfile")), ids=lambda path: path.stem)
def test_dockerfiles_are_clean(file: Path) -> None:
    done = subprocess.run([BIN / "hadolint", str(file)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.skipif(
    not (BIN / "shellcheck").exists(), reason="needs shellcheck, which is locked for Linux on x86_64 only"
)
@pytest.mark.parametrize("file", sorted((ROOT / "docker").rglob("*.sh")), ids=lambda path: path.name)
def test_scripts_are_clean(file: Path) -> None:
    done = subprocess.run([BIN / "shellcheck", str(file)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout


@pytest.mark.parametrize("name", SERVICES)
def test_no_service_may_more_than_it_needs(name: str) -> None:
    service = SERVICES[name]
    assert service["cap_drop"] == ["ALL"]
    assert service["security_opt"] == ["no-new-privileges:true"]
    assert service["read_only"]
    assert service["mem_limit"]
    assert not service.get("privileged")
    root = service.get("user", "") == "0:0" or name == "postgres"
    assert bool(service.get("cap_add")) == root, "what starts as root says what it needs that for"


@pytest.mark.parametrize("name", SERVICES)
def test_every_service_says_whether_it_is_well_or_ends(name: str) -> None:
    service = SERVICES[name]
    assert ("healthcheck" in service) != (name in ONCE)
    assert service["restart"] == ("no" if name in ONCE else "unless-stopped")


@pytest.mark.parametrize("name", SERVICES)
def test_services_start_when_what_they_need_is_there(name: str) -> None:
    for other, how in SERVICES[name].get("depends_on", {}).items():
        wanted = "service_completed_successfully" if other in ONCE else "service_healthy"
        assert how == {"condition": wanted}


def test_three_services_are_published_and_grafana_where_it_is_asked_for_and_here_alone() -> None:
    published = {name: service["ports"] for name, service in SERVICES.items() if service.get("ports")}
    always = {name for name in published if "profiles" not in SERVICES[name]}
    assert always == {"airflow-api-server", "mlflow", "scorer"}
    assert set(published) - always == {"grafana"}
    assert SERVICES["grafana"]["profiles"] == ["metrics"]
    assert all(port.startswith("127.0.0.1:") for ports in published.values() for port in ports)


def test_what_keeps_data_has_no_way_out() -> None:
    assert STACK["networks"]["inside"]["internal"]
    for name in ("postgres", "redis", "s3", "prometheus", "statsd"):
        assert SERVICES[name]["networks"] == ["inside"]


def test_every_secret_is_asked_for_and_none_is_written_down() -> None:
    text = COMPOSE.read_text()
    needed = set(re.findall(r"\$\{([A-Z0-9_]+):\?", text))
    assert needed == set(SECRETS)
    assert set(SERVICES["secrets"]["environment"]) == set(SECRETS)


def test_every_option_is_in_the_example_with_its_default() -> None:
    text = COMPOSE.read_text()
    used = {name: default for name, default in re.findall(r"\$\{([A-Z0-9_]+):-([^}]*)\}", text) if name not in SECRETS}
    undocumented = {"DERMANET_REVISION"}
    assert set(used) - undocumented == {name for name, _ in OPTIONS}
    for name, shown in OPTIONS:
        assert used[name] in ("", shown), f"{name}: shown is {shown}, in force {used[name]}"


def test_what_is_mounted_is_there() -> None:
    for service in SERVICES.values():
        for volume in service.get("volumes", []):
            source = re.sub(r"\$\{[A-Z_]+:-([^}]*)\}", r"\1", volume).split(":")[0]
            if source.startswith("./") and source != "./data":
                assert (ROOT / source).exists(), source


def test_images_are_named_with_their_version() -> None:
    for name, service in SERVICES.items():
        assert ":" in service["image"] or service["image"].startswith("dermanet-"), name


def test_secrets_are_random_and_made_once(tmp_path: Path) -> None:
    one, other = tmp_path / "one", tmp_path / "other"
    for folder in (one, other):
        folder.mkdir()
        _written(folder)
    first, second = _values(one / ".env"), _values(other / ".env")
    assert set(first) == set(SECRETS)
    assert all(len(value) >= 40 and value != second[name] for name, value in first.items())
    assert len(set(first.values())) == len(first)
    assert (one / ".env").stat().st_mode & 0o777 == 0o600
    _written(one)
    assert _values(one / ".env") == first


def test_a_secret_that_a_newer_version_asks_for_is_added(tmp_path: Path) -> None:
    kept = "POSTGRES_PASSWORD=a-word-of-our-own-choice\nOURS=1\n"
    (tmp_path / ".env").write_text(kept)
    values = _values(_written(tmp_path))
    assert values["POSTGRES_PASSWORD"] == "a-word-of-our-own-choice"
    assert set(values) == {*SECRETS, "OURS"}
    assert (tmp_path / ".env").read_text().startswith(kept)


def test_the_example_copied_as_it_is_gets_secrets_of_its_own(tmp_path: Path) -> None:
    (tmp_path / ".env").write_text(EXAMPLE)
    assert "change-me" not in _values(_written(tmp_path)).values()


@pytest.mark.parametrize("line", ["SCORER_TOKEN=", "SCORER_TOKEN = ", "SCORER_TOKEN=change-me-soon"])
def test_an_emptied_secret_is_made_anew(tmp_path: Path, line: str) -> None:
    env = _written(tmp_path)
    before = _values(env)
    env.write_text(env.read_text().replace(f"SCORER_TOKEN={before['SCORER_TOKEN']}", line))
    after = _values(_written(tmp_path))
    assert len(after.pop("SCORER_TOKEN")) >= 40
    del before["SCORER_TOKEN"]
    assert after == before and env.read_text().count("\nSCORER_TOKEN") == 1


@pytest.mark.parametrize("name", ["AIRFLOW_DB_PASSWORD", "REDIS_PASSWORD", "S3_OWNER_SECRET"])
@pytest.mark.parametrize("value", ["correct@horse/battery", "correct%20horse battery", 'correct"horse\\battery'])
def test_a_secret_that_would_break_an_address_or_a_file_is_refused(tmp_path: Path, name: str, value: str) -> None:
    values = _values(_written(tmp_path))
    done = _preflight(values | {name: value})
    assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
    assert name in done.stderr and "only letters" in done.stderr and value not in done.stderr
    assert _preflight(values | {"GRAFANA_ADMIN_PASSWORD": value}).returncode == 0, "people may log in with any"


@pytest.mark.parametrize(
    ("value", "said"),
    [(None, "missing"), ("change-me", "example"), ("short", "shorter"), ("change-me-too-long-enough", "example")],
)
def test_the_stack_does_not_start_with_a_bad_secret(tmp_path: Path, value: str | None, said: str) -> None:
    values = _values(_written(tmp_path)) | {"SCORER_TOKEN": value}
    done = _preflight({name: word for name, word in values.items() if word is not None})
    assert done.returncode == 2
    assert len(done.stderr.splitlines()) == 1
    assert "SCORER_TOKEN" in done.stderr
    assert said in done.stderr
    assert "make secrets" in done.stderr
    assert not any(word in done.stderr for name, word in values.items() if word and name != "SCORER_TOKEN")


def test_the_stack_starts_with_good_ones(tmp_path: Path) -> None:
    done = _preflight(_values(_written(tmp_path)))
    assert (done.returncode, done.stderr) == (0, "")


@pytest.mark.parametrize(
    ("status", "up", "said"), [(0, True, ""), (2, True, "nothing was changed"), (1, False, "stays stopped")]
)
def test_a_refused_restore_leaves_the_stack_running(tmp_path: Path, status: int, up: bool, said: str) -> None:
    done, calls = _make(tmp_path, "restore", restore=status)
    assert (done.returncode == 0) is (status == 0) and said in done.stdout
    words = [next(word for word in call.split() if word in ("build", "stop", "run", "up")) for call in calls]
    assert words == ["build", "stop", "run", *(["up"] if up else [])], (
        "what can fail before anything is stopped comes first"
    )


@pytest.mark.parametrize("target", ["backup", "restore"])
def test_a_new_machine_builds_what_the_backups_image_stands_on(tmp_path: Path, target: str) -> None:
    _, calls = _make(tmp_path, target, there=False)
    assert calls[0].endswith("build airflow-setup") and calls[1].endswith("build backup")
    base = re.search(r"^ARG BASE=(.*)$", (ROOT / "docker" / "backup.Dockerfile").read_text(), re.MULTILINE)
    assert base and SERVICES["airflow-setup"]["image"] == base[1] and "build" in SERVICES["airflow-setup"]


@pytest.mark.parametrize("lock", ["stack", "scorer", "mlflow"])
def test_images_hold_what_is_tested(lock: str) -> None:
    tested, shipped = _pins(ROOT / "requirements.lock"), _pins(ROOT / f"requirements-{lock}.lock")
    common = set(tested) & set(shipped)
    assert common
    assert {name: shipped[name] for name in common} == {name: tested[name] for name in common}


def test_the_scorers_image_needs_neither_tensorflow_nor_airflow() -> None:
    shipped = _pins(ROOT / "requirements-scorer.lock")
    assert not {
        "tensorflow",
        "keras",
        "apache-airflow",
        "apache-airflow-core",
        "mlflow",
        "scikit-learn",
        "matplotlib",
    } & set(shipped)


BLOCKED = """
import importlib.metadata as metadata, importlib.abc, sys
shipped = set({shipped!r})
owners = metadata.packages_distributions()
class Guard(importlib.abc.MetaPathFinder):
    def find_spec(self, name, path=None, target=None):
        top = name.partition(".")[0]
        found = {{one.lower().replace("_", "-") for one in owners.get(top, ())}}
        if found and top != "mlflow" and not found & (shipped | {{"dermanet"}}):
            raise ModuleNotFoundError(f"{{name}} of {{sorted(found)}} is not in the scorer's image", name=name)
sys.meta_path.insert(0, Guard())
from dermanet import cli
from dermanet.serving import server, app, routes, saliency, follow
import fastapi_offline, onnxruntime, mlflow.pyfunc.scoring_server
from dermanet.monitoring import predictions
from dermanet.database.engine import open_database
open_database("sqlite:///" + {database!r})
"""


def test_the_scorer_imports_nothing_that_its_image_lacks(tmp_path: Path) -> None:
    shipped = sorted(_pins(ROOT / "requirements-scorer.lock"))
    code = BLOCKED.format(shipped=shipped, database=str(tmp_path / "catalogue.db"))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False, cwd=ROOT)
    assert done.returncode == 0, done.stderr[-2000:]


def _written(folder: Path) -> Path:
    shutil.copy(ROOT / ".env.example", folder)
    subprocess.run([sys.executable, ROOT / "docker" / "write_secrets.py", folder], check=True, capture_output=True)
    return folder / ".env"


def _values(path: Path) -> dict[str, str]:
    lines = (line for line in path.read_text().splitlines() if line and not line.startswith("#"))
    return dict(line.split("=", 1) for line in lines)


def _compose(env: Path) -> subprocess.CompletedProcess[str]:
    words = ["docker-compose", "--project-directory", str(ROOT), "--env-file", str(env), "config", "--quiet"]
    environ = {name: value for name, value in os.environ.items() if name not in SECRETS}
    return subprocess.run(words, cwd=ROOT, env=environ, capture_output=True, text=True, check=False)


def _make(
    folder: Path, target: str, restore: int = 0, there: bool = True
) -> tuple[subprocess.CompletedProcess[str], list[str]]:
    """A target with a `docker` that only notes what it is told, and what it was told. `there`: whether Airflow's image is."""
    docker, notes = folder / "docker", folder / "notes"
    docker.write_text(
        f"""#!/bin/sh
        case "$*" in
            "image inspect"*) exit {0 if there else 1} ;;
            "compose version") exit 0 ;;
        esac
        echo "$*" >> "{notes}"
        case "$*" in *" backup restore "*) exit {restore} ;; esac
        """
    )
    docker.chmod(0o755)
    environ = {**os.environ, "PATH": f"{folder}:{os.environ['PATH']}", "BACKUPS": str(folder)}
    done = subprocess.run(["make", target], cwd=ROOT, env=environ, capture_output=True, text=True, check=False)
    return done, notes.read_text().splitlines()


def _preflight(values: dict[str, str]) -> subprocess.CompletedProcess[str]:
    words = ["sh", ROOT / "docker" / "preflight" / "secrets.sh", ROOT / ".env.example"]
    return subprocess.run(
        words, env={"PATH": os.environ["PATH"], **values}, capture_output=True, text=True, check=False
    )


def _pins(lock: Path) -> dict[str, str]:
    return dict(re.findall(r"^([a-z0-9-]+)(?:\[[^]]*\])?==(\S+)", lock.read_text(), re.MULTILINE))
