"""Where MLflow's database says that files lie: made to say so where they lie now, and asked for the files of versions.

Without MLflow's client or server, neither of which is up when a backup is put back. Its tables are MLflow's own affair: the tests hold
these columns to the release that is pinned.
"""

from pathlib import Path

ADDRESSES = (
    ("experiments", "artifact_location"), ("runs", "artifact_uri"), ("logged_models", "artifact_location"),
    ("model_versions", "storage_location"), ("model_versions", "source"),
)  # fmt: skip
"""The columns that hold the address of files."""

PROXIED = "mlflow-artifacts:"
"""How an address begins that the server makes one of its own artifact store."""

GRAPH = "artifacts/model.onnx"


def relocate(database: str, before: str, now: str) -> None:
    """Makes every address below one place an address below another."""
    import sqlalchemy as sa

    engine = sa.create_engine(database, poolclass=sa.NullPool)
    with engine.begin() as connection:
        for old, new in {_uri(before): _uri(now), before: now}.items():
            for table, column in ADDRESSES if old != new else ():
                field: sa.ColumnClause[str] = sa.column(column, sa.Text)
                rows = sa.table(table, field)
                ours = sa.or_(field == old, field.startswith(f"{old}/", autoescape=True))
                changed = sa.literal(new) + sa.func.substr(field, len(old) + 1)
                connection.execute(sa.update(rows).where(ours).values({column: changed}))
    engine.dispose()


def version_files(database: str, artifacts: str = "") -> dict[str, str]:
    """Every version and the file of its graph, by its name in the artifact store."""
    import sqlalchemy as sa

    engine = sa.create_engine(database, poolclass=sa.NullPool)
    with engine.connect() as connection:
        query = sa.text(
            "SELECT name, version, storage_location, source FROM model_versions WHERE current_stage <> 'Deleted_Internal'"
        )
        found = connection.execute(query).all()
    engine.dispose()
    return {f"{row[0]} {row[1]}": _graph(str(row[2] or row[3]), artifacts) for row in found}


def _graph(location: str, artifacts: str) -> str:
    for root in (PROXIED, _uri(artifacts), artifacts):
        if root and location.startswith(root):
            location = location.removeprefix(root)
            break
    return f"{location.strip('/')}/{GRAPH}"


def _uri(place: str) -> str:
    return Path(place).as_uri() if place.startswith("/") else place
