"""A catalogue that an earlier revision wrote, brought up to date: nothing is lost, and a snapshot of it is the one that it was.

`tests/upgrade/catalogue-0008.json` holds the rows of a catalogue as revision 0008 wrote them: twelve synthetic lesions, a batch with a
refused record, a snapshot, decisions and a prediction. A migration that needs another upgrade tried adds another file.
"""

import json
from collections.abc import Callable
from contextlib import suppress
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest
import sqlalchemy as sa
from alembic import command
from alembic.config import Config

from dermanet import stages
from dermanet.database.engine import HEAD, MIGRATIONS, VERSION_TABLE, open_database

FILES = sorted((Path(__file__).parent / "upgrade").glob("catalogue-*.json"))


@pytest.fixture(params=FILES, ids=lambda path: path.stem)
def earlier(request: pytest.FixtureRequest) -> dict[str, Any]:
    return dict(json.loads(request.param.read_text()))


@pytest.fixture
def upgraded(earlier: dict[str, Any], new_database: Callable[[], str]) -> str:
    """The URL of a database that was made at the earlier revision, filled, and opened by this code."""
    url = new_database()
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        config = Config(attributes={"connection": connection})
        config.set_main_option("script_location", str(MIGRATIONS))
        command.upgrade(config, earlier["revision"])
        found = sa.MetaData()
        found.reflect(connection)
        for table in found.sorted_tables:
            if rows := earlier["tables"].get(table.name):
                connection.execute(sa.insert(table), [_typed(row) for row in rows])
    engine.dispose()
    open_database(url).dispose()
    return url


def test_it_is_of_this_revision(upgraded: str) -> None:
    assert _rows(upgraded, VERSION_TABLE) == [{"version_num": HEAD}]


def test_every_row_is_as_it_was(upgraded: str, earlier: dict[str, Any]) -> None:
    for table, before in earlier["tables"].items():
        now = [{name: row[name] for name in before[0]} for row in _rows(upgraded, table)] if before else []
        wanted = [_typed(row) for row in before]
        assert sorted(map(repr, map(_plain, now))) == sorted(map(repr, map(_plain, wanted))), table


def test_it_freezes_to_the_snapshot_that_it_was(
    upgraded: str, earlier: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DERMANET_HOME", str(tmp_path))
    monkeypatch.setenv("DERMANET_CATALOGUE", upgraded)
    frozen = stages.snapshot()
    assert (frozen["snapshot"], frozen["holdout_digest"]) == (earlier["snapshot"], earlier["holdout"])
    assert len(stages.why()) == len(earlier["tables"]["decisions"])


def _rows(url: str, table: str) -> list[dict[str, Any]]:
    engine = sa.create_engine(url)
    with engine.connect() as connection:
        rows = [dict(row._mapping) for row in connection.execute(sa.text(f"SELECT * FROM {table}"))]
    engine.dispose()
    return rows


def _typed(row: dict[str, Any]) -> dict[str, Any]:
    return {
        name: datetime.fromisoformat(value["moment"]) if isinstance(value, dict) and "moment" in value else value
        for name, value in row.items()
    }


def _plain(row: dict[str, Any]) -> dict[str, Any]:
    """As text: the databases' drivers read numbers, moments and JSON each in their own way."""
    return {name: _text(value) for name, value in row.items()}


def _text(value: Any) -> str:
    if isinstance(value, str):
        # SQLite hands JSON and moments out as text when it is asked in plain SQL.
        with suppress(ValueError):
            value = json.loads(value)
    if isinstance(value, datetime):
        return value.isoformat(sep=" ")
    if isinstance(value, int | float):
        return f"{float(value):.6f}"
    return json.dumps(value, sort_keys=True) if isinstance(value, dict | list) else str(value).removesuffix(".000000")
