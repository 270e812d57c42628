"""Upkeep where the catalogue is in PostgreSQL, images are in a bucket, and MLflow's server hands out artifacts from another."""

import sys
import time
from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import mlflow
import mlflowserver
import postgres as postgresql
import pytest
from installation import Installation, photo
from mlflow import MlflowClient

from dermanet import stages
from dermanet.registry.tracking import Tracking, model_files
from dermanet.stages.upkeep import DAY
from dermanet.storage import place


@pytest.fixture
def database(postgres: Path) -> str:
    """MLflow's database."""
    return postgresql.make_database(postgres)


@pytest.fixture
def server(
    database: str, s3: str, bucket: str, postgres: Path, home: Path, tmp_path: Path, trained: Installation,
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[str]:  # fmt: skip
    """An installation whose champion is the trained one's; the address of its MLflow server."""
    mlflow.set_tracking_uri(trained.tracking_uri)
    files = model_files("models:/dermanet/1")
    (tmp_path / "mlflow").mkdir()
    words = ("--backend-store-uri", database, "--artifacts-destination", f"{bucket}-artifacts")
    monkeypatch.setenv("DERMANET_CATALOGUE", postgresql.make_database(postgres))
    monkeypatch.setenv("DERMANET_OBJECTS", f"{bucket}-objects")
    with mlflowserver.running(tmp_path / "mlflow", *words) as address:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        assert mlflowserver.register(address, files) == "1"
        yield address


def artifacts(bucket: str) -> list[str]:
    """What lies in MLflow's part of the bucket."""
    return list(place(f"{bucket}-artifacts").listing())


def unneeded_run(server: str, files: Path) -> str:
    """A run with a model that nobody needs."""
    tracking = Tracking(server, Path("/unused"))
    run = str(tracking.run_for(f"work {uuid4().hex}", "run", {}).info.run_id)
    tracking.log_text(run, "hello", "notes.txt")
    tracking.log_model(run, Path(files / "scorer.py"), {"model.onnx": files / "model.onnx"}, files, ["numpy"])
    tracking.end(run, "FINISHED")
    return run


def test_files_go_through_the_server_and_for_good_by_its_database(
    server: str, database: str, bucket: str, tmp_path: Path, trained: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    stages.ingest("synthetic:lesions=8,seed=1")
    orphan = "ab/ab" + "0" * 62
    place(f"{bucket}-objects").write(orphan, b"nobody's, and new")
    before, answers = artifacts(bucket), stages.predict([str(photo(tmp_path))])
    folder = tmp_path / "package"
    folder.mkdir()
    (folder / "scorer.py").write_text((Path(stages.__file__).parents[1] / "serving" / "scorer.py").read_text())
    (folder / "model.onnx").write_bytes(b"a graph")
    run = unneeded_run(server, folder)
    assert len(artifacts(bucket)) > len(before)
    assert stages.upkeep()["leaving"] == [], "all of it is new"
    monkeypatch.setattr(sys.modules["dermanet.stages.upkeep"], "now", lambda: time.time() + 400 * DAY)
    record = stages.upkeep()
    assert {kind: total["count"] for kind, total in record["totals"].items()} == {"models": 1, "runs": 1}
    assert record["totals"]["runs"]["bytes"] == len("hello") and record["left_out"]
    assert stages.upkeep(apply=True)["kept"] == 0
    assert artifacts(bucket) == before and stages.predict([str(photo(tmp_path))]) == answers
    client = MlflowClient(server)
    assert client.get_run(run).info.lifecycle_stage == "deleted"
    monkeypatch.setenv("MLFLOW_BACKEND_STORE_URI", database)
    assert set(stages.upkeep()["totals"]) == {"deleted"} and stages.upkeep()["left_out"] == []
    assert stages.upkeep(apply=True)["totals"]["deleted"]["count"] == 2
    with pytest.raises(mlflow.exceptions.MlflowException, match="not found"):
        client.get_run(run)
    assert stages.upkeep()["leaving"] == [] and stages.predict([str(photo(tmp_path))]) == answers
