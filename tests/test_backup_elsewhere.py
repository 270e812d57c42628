"""A backup of the services that a team has: PostgreSQL, a bucket, and MLflow's server before another; destroyed and put back."""

from pathlib import Path

import mlflow
import mlflowserver
import postgres as postgresql
import pytest
import sqlalchemy as sa
from installation import Installation, photo

from dermanet import stages
from dermanet.errors import BadInput
from dermanet.registry.tracking import model_files
from dermanet.storage import place


def test_destroyed_and_put_back_it_answers_as_before(
    s3: str,
    bucket: str,
    postgres: Path,
    home: Path,
    tmp_path: Path,
    trained: Installation,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    mlflow.set_tracking_uri(trained.tracking_uri)
    files = model_files("models:/dermanet/1")
    urls = {name: postgresql.make_database(postgres) for name in ("catalogue", "mlflow", "airflow")}
    monkeypatch.setenv("DERMANET_CATALOGUE", urls["catalogue"])
    monkeypatch.setenv("DERMANET_OBJECTS", f"{bucket}-objects")
    monkeypatch.setenv("DERMANET_AIRFLOW_DATABASE", urls["airflow"])
    with sa.create_engine(urls["airflow"]).begin() as connection:
        connection.exec_driver_sql("CREATE TABLE alembic_version (version_num text)")
        connection.exec_driver_sql("INSERT INTO alembic_version VALUES ('0123')")
        connection.exec_driver_sql("CREATE TABLE dag_run (run_id text); INSERT INTO dag_run VALUES ('scheduled__1')")
    words = ("--backend-store-uri", urls["mlflow"], "--artifacts-destination", f"{bucket}-artifacts")
    (tmp_path / "mlflow").mkdir()
    image = [str(photo(tmp_path))]
    with mlflowserver.running(tmp_path / "mlflow", *words) as address:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        mlflowserver.register(address, files)
        stages.ingest("synthetic:lesions=10,seed=1")
        snapshot = stages.snapshot()["snapshot"]
        answers = stages.predict(image)
        with pytest.raises(BadInput, match="set MLFLOW_BACKEND_STORE_URI"):
            stages.backup(str(tmp_path / "backups"))
        monkeypatch.setenv("MLFLOW_BACKEND_STORE_URI", urls["mlflow"])
        monkeypatch.setenv("MLFLOW_ARTIFACTS_DESTINATION", f"{bucket}-artifacts")
        done = stages.backup(str(tmp_path / "backups"))
    assert done["databases"] == ["airflow", "catalogue", "mlflow"] and done["files"]["artifacts"] >= 5
    for store in (f"{bucket}-objects", f"{bucket}-artifacts"):
        for name in place(store).listing():
            place(store).remove(name)
    for url in urls.values():
        with sa.create_engine(url).begin() as connection:
            connection.exec_driver_sql("DROP SCHEMA public CASCADE; CREATE SCHEMA public")
    monkeypatch.setenv("DERMANET_HOME", str(tmp_path / "new"))
    told = stages.restore(str(tmp_path / "backups"))
    assert (told["images"], told["missing"], told["versions"], told["snapshots"]) == (done["files"]["objects"], 0, 1, 1)
    with sa.create_engine(urls["airflow"]).connect() as connection:
        assert connection.exec_driver_sql("SELECT run_id FROM dag_run").scalar() == "scheduled__1"
        # The scorer's user owns nothing, and sees its tables through this.
        assert connection.exec_driver_sql("SELECT has_schema_privilege('public', 'public', 'USAGE')").scalar()
    with mlflowserver.running(tmp_path / "mlflow", *words) as address:
        monkeypatch.setenv("MLFLOW_TRACKING_URI", address)
        assert stages.predict(image) == answers and stages.snapshot()["snapshot"] == snapshot
        assert stages.champion()["version"] == "1" and stages.check_objects()["faults"] == []
