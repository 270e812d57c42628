"""Settings: environment variables with a prefix, everything under one home, nothing touched by reading them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from dermanet import settings, taxonomy
from dermanet.errors import BadInput


def test_everything_lies_under_the_home_by_default(home: Path) -> None:
    found = settings.read()
    assert found.home == home
    assert found.catalogue == f"sqlite:///{home}/catalogue.db"
    assert found.tracking_uri == f"sqlite:///{home}/mlflow.db"
    assert Path(found.objects).parent == home and found.artifacts.parent == home
    assert (found.gates, found.taxonomy) == (settings.GATES, taxonomy.DEFAULT)
    assert (found.experiment, found.model, found.source) == ("probe", "dermanet", "")


def test_reading_makes_no_folder(home: Path) -> None:
    settings.read()
    assert not home.exists()


def test_without_a_home_it_is_a_hidden_folder_here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert settings.read({}).home == tmp_path / ".dermanet"


def test_a_relative_path_means_the_folder_it_was_read_in(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    found = settings.read({"DERMANET_HOME": "here", "DERMANET_GATES": "my.yaml", "DERMANET_TAXONOMY": "list.yaml"})
    monkeypatch.chdir("/")
    assert (found.home, found.gates, found.taxonomy) == (
        tmp_path / "here",
        tmp_path / "my.yaml",
        tmp_path / "list.yaml",
    )


@pytest.mark.parametrize(
    ("variable", "field"),
    [
        ("DERMANET_SOURCE", "source"), ("DERMANET_EXPERIMENT", "experiment"), ("DERMANET_CATALOGUE", "catalogue"),
        ("DERMANET_OBJECTS", "objects"), ("MLFLOW_TRACKING_URI", "tracking_uri"),
    ],
)  # fmt: skip
def test_a_variable_sets_its_field_and_an_empty_one_does_not(variable: str, field: str) -> None:
    assert getattr(settings.read({variable: "s3://set/by-hand"}), field) == "s3://set/by-hand"
    assert getattr(settings.read({variable: ""}), field) == getattr(settings.read({}), field)


def test_a_misspelt_variable_is_told_and_others_are_left_alone() -> None:
    environ = {
        "DERMANET_HOME": "x",
        "DERMANET_HOEM": "x",
        "DERMANET_TRACEBACK": "1",
        "HOME": "y",
        "DERMANET_TRACKING_URI": "z",
    }
    assert settings.unknown(environ) == ["DERMANET_HOEM", "DERMANET_TRACKING_URI"]


def test_one_machine_s_processes_and_several_machines_are_told_apart() -> None:
    here = settings.read({"DERMANET_PROCESSES": "2", "DERMANET_PROCESS": "7"})
    assert (here.processes, here.coordinator, here.process) == (2, "", 0)
    told = {"DERMANET_COORDINATOR": "gpu-0:9000", "DERMANET_PROCESSES": "4", "DERMANET_PROCESS": "3"}
    here = settings.read(told)
    assert (here.processes, here.coordinator, here.process) == (4, "gpu-0:9000", 3)
    assert settings.read({}).processes == 0


@pytest.mark.parametrize(
    ("told", "line"),
    [
        ({"DERMANET_PROCESSES": "two"}, "DERMANET_PROCESSES='two'; allowed are 0 to 4096"),
        ({"DERMANET_PROCESSES": "-1"}, "DERMANET_PROCESSES='-1'"),
        ({"DERMANET_PROCESSES": "\u00b2"}, "DERMANET_PROCESSES='\u00b2'; allowed are 0 to 4096"),
        ({"DERMANET_KEEP_DAYS": "\u00b2"}, "DERMANET_KEEP_DAYS='\u00b2'; allowed are 1 to"),
        ({"DERMANET_COORDINATOR": "gpu-0:\u00b2"}, "host:port of the first process is needed"),
        ({"DERMANET_COORDINATOR": "gpu-0"}, "host:port of the first process is needed"),
        ({"DERMANET_COORDINATOR": "gpu-0:1"}, "DERMANET_PROCESSES=''; allowed are 1 to"),
        ({"DERMANET_COORDINATOR": "gpu-0:1", "DERMANET_PROCESSES": "2"}, "DERMANET_PROCESS=''; allowed are 0 to 1"),
        ({"DERMANET_COORDINATOR": "g:1", "DERMANET_PROCESSES": "2", "DERMANET_PROCESS": "2"}, "DERMANET_PROCESS=.2.; allowed"),
    ],
)  # fmt: skip
def test_processes_that_contradict_one_another_are_refused(told: dict[str, str], line: str) -> None:
    with pytest.raises(BadInput, match=line):
        settings.read(told)


def test_a_token_that_could_be_guessed_is_refused() -> None:
    for name in ("DERMANET_TOKENS", "DERMANET_METRICS_TOKEN"):
        with pytest.raises(BadInput, match=f"{name}: 1 of 1 have fewer than 16"):
            settings.read({name: "short"})
    told = settings.read({"DERMANET_TOKENS": "a" * 16 + " " + "b" * 16, "DERMANET_METRICS_TOKEN": "c" * 16})
    assert (told.tokens, told.metrics_token) == (("a" * 16, "b" * 16), "c" * 16)
    assert settings.read({}).metrics_token == ""


def test_the_log_of_predictions_goes_back_some_days_or_is_off() -> None:
    assert [settings.read({"DERMANET_PREDICTION_DAYS": text}).prediction_days for text in ("", "7", "0")] == [90, 7, 0]
    with pytest.raises(BadInput, match="DERMANET_PREDICTION_DAYS='forever'; allowed are 0 to"):
        settings.read({"DERMANET_PREDICTION_DAYS": "forever"})


def test_the_model_s_name_can_stand_in_addresses_and_queries() -> None:
    assert settings.read({"DERMANET_MODEL": "skin-2.b_1"}).model == "skin-2.b_1"
    for name in ("a/b", "it's", "a b", "a:b", "models@x", "..", "a\n"):
        with pytest.raises(BadInput, match=r"DERMANET_MODEL=.*; allowed are letters, digits and the signs"):
            settings.read({"DERMANET_MODEL": name})


@pytest.mark.parametrize("sign", "?%")
def test_a_home_that_no_database_could_be_in_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, sign: str
) -> None:
    odd = tmp_path / f"what{sign}41"
    with pytest.raises(BadInput, match=r"DERMANET_HOME=.*; a path with \? or % is none for databases: take another"):
        settings.read({"DERMANET_HOME": str(odd)})
    odd.mkdir()
    (tmp_path / "plain").symlink_to(odd)
    assert settings.read({"DERMANET_HOME": str(tmp_path / "plain")}).home == tmp_path / "plain", "a link is a way out"
    monkeypatch.chdir(odd)
    with pytest.raises(BadInput, match="DERMANET_HOME="):
        settings.read({})


DOORS = {
    "ingest": "from dermanet import stages; stages.ingest('synthetic:lesions=2,seed=1')",
    "doctor": "import os; from dermanet import doctor; next(one for one in doctor.findings(os.environ) if one['what'] == 'home')",
    "models": "from dermanet import settings; from dermanet.registry.tracking import Tracking; "
    "here = settings.read(); Tracking(here.tracking_uri, here.artifacts)",
    "make run": "from dermanet import settings; from dermanet.embedded.services import alone; alone(settings.read().home)",
}
"""What may make a home first."""


@pytest.mark.parametrize("door", DOORS)
def test_a_home_that_is_made_is_its_owners_alone(tmp_path: Path, door: str) -> None:
    home = tmp_path / "homes" / "one"
    command = [sys.executable, "-c", f"import os; os.umask(0o022); {DOORS[door]}"]
    # MLflow's client leaves an address of its own behind in the environment of whoever used it.
    environ = {name: value for name, value in os.environ.items() if name != "MLFLOW_TRACKING_URI"}
    subprocess.run(command, env={**environ, "DERMANET_HOME": str(home)}, capture_output=True, check=True)
    assert home.stat().st_mode & 0o777 == 0o700
    assert home.parent.stat().st_mode & 0o077, "what stands above it is nobody's business here"


def test_a_home_that_is_there_keeps_its_rights(tmp_path: Path) -> None:
    tmp_path.chmod(0o750)
    settings.make_private(tmp_path)
    assert tmp_path.stat().st_mode & 0o777 == 0o750


def test_a_home_that_cannot_be_made_is_one_line_with_the_remedy(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    for home in (tmp_path / "file", tmp_path / "file" / "home"):
        command = [sys.executable, "-m", "dermanet", "why"]
        environ = {**os.environ, "DERMANET_HOME": str(home)}
        done = subprocess.run(command, env=environ, capture_output=True, text=True, check=False)
        assert done.returncode == 2 and len(done.stderr.splitlines()) == 1
        assert str(home) in done.stderr and "set DERMANET_HOME" in done.stderr
