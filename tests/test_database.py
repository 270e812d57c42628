"""The catalogue's database: made, adopted and migrated when it is opened, by however many at once, on SQLite and PostgreSQL."""

import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from threading import Barrier

import pytest
import samples
import sqlalchemy as sa
from alembic.autogenerate import compare_metadata
from alembic.config import Config
from alembic.migration import MigrationContext
from alembic.script import ScriptDirectory

from dermanet.database import engine as database
from dermanet.database.engine import HEAD, MIGRATIONS, VERSION_TABLE, open_database
from dermanet.database.schema import METADATA
from dermanet.errors import BadInput
from dermanet.imagefile import Header
from dermanet.intake.admission import Arrival
from dermanet.intake.catalogue import Catalogue
from dermanet.records import Record

OLD = """
CREATE TABLE images (digest VARCHAR(64) PRIMARY KEY, format VARCHAR(8) NOT NULL, width INTEGER NOT NULL, height INTEGER NOT NULL,
    source TEXT NOT NULL);
CREATE TABLE labels (digest VARCHAR(64) NOT NULL REFERENCES images (digest), revision INTEGER NOT NULL, image_id VARCHAR(128) NOT NULL,
    lesion_id VARCHAR(128) NOT NULL, diagnosis VARCHAR(32) NOT NULL, age FLOAT, sex VARCHAR(8) NOT NULL, localization TEXT NOT NULL,
    confirmation TEXT NOT NULL, clinic TEXT NOT NULL, PRIMARY KEY (digest, revision));
CREATE INDEX ix_labels_lesion_id ON labels (lesion_id);
CREATE TABLE refusals (source TEXT NOT NULL, name TEXT NOT NULL, reason TEXT NOT NULL, detail TEXT NOT NULL,
    PRIMARY KEY (source, name));
CREATE INDEX ix_refusals_reason ON refusals (reason);
INSERT INTO images VALUES ('aa', 'jpeg', 600, 450, '/old.csv');
INSERT INTO labels VALUES ('aa', 1, 'I1', 'L1', 'nv', 45.0, 'male', '', '', '');
INSERT INTO refusals VALUES ('/old.csv', 'I2', 'unknown sex', 'sex M');
"""
"""A catalogue from before there were migrations."""


def arrival(number: int, **labels: object) -> Arrival:
    return Arrival(samples.record(number, **labels), Header("jpeg", 64, 48))


def run_sql(url: str, text: str) -> None:
    engine = sa.create_engine(url)
    with engine.begin() as connection:
        for statement in text.strip().rstrip(";").split(";\n"):
            connection.exec_driver_sql(statement)
    engine.dispose()


def differences(engine: sa.Engine) -> list[object]:
    """What Alembic would still change to get the tables that the code knows; comments are left to PostgreSQL."""
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"version_table": VERSION_TABLE})
        found = compare_metadata(context, METADATA)
    return [change for change in found if "comment" not in str(change[0])]


def test_the_migrations_end_in_the_tables_that_the_code_knows(new_database: Callable[[], str]) -> None:
    assert differences(open_database(new_database())) == []


def test_a_missing_column_would_be_noticed(new_database: Callable[[], str]) -> None:
    url = new_database()
    engine = open_database(url)
    run_sql(url, "ALTER TABLE images DROP COLUMN width")
    assert [change[0] for change in differences(engine)] == ["add_column"]


def test_the_code_works_with_the_last_migration() -> None:
    config = Config()
    config.set_main_option("script_location", str(MIGRATIONS))
    assert ScriptDirectory.from_config(config).get_current_head() == HEAD


def test_a_catalogue_from_before_there_were_migrations_is_adopted(new_database: Callable[[], str]) -> None:
    url = new_database()
    run_sql(url, OLD)
    for _ in range(2):
        catalogue = Catalogue(url)
        assert [(record.image_id, record.labels.age) for record in catalogue.records()] == [("I1", 45.0)]
        assert [(source, refusal.name) for source, refusal in catalogue.refusals()] == [("/old.csv", "I2")]
    assert differences(catalogue.engine) == []


def test_a_catalogue_may_be_made_by_several_threads_at_once(new_database: Callable[[], str]) -> None:
    for _ in range(4):
        url, together = new_database(), Barrier(4)

        def make(url: str, together: Barrier = together) -> list[Record]:
            together.wait()
            return Catalogue(url).records()

        with ThreadPoolExecutor(4) as pool:
            assert list(pool.map(make, [url] * 4)) == [[]] * 4


def test_a_catalogue_may_be_made_by_several_processes_at_once(new_database: Callable[[], str]) -> None:
    url = new_database()
    script = "import sys\nfrom dermanet.intake.catalogue import Catalogue\nsys.stdin.readline()\nCatalogue(sys.argv[1])"
    command = [sys.executable, "-c", script, url]
    makers = [subprocess.Popen(command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, text=True) for _ in range(4)]
    for maker in makers:
        assert maker.stdin
        maker.stdin.write("go\n")
        maker.stdin.flush()
    troubles = [maker.communicate()[1] for maker in makers]
    assert [maker.returncode for maker in makers] == [0] * 4, troubles
    assert differences(open_database(url)) == []


def test_a_migration_that_breaks_off_leaves_the_database_as_it_was(
    new_database: Callable[[], str], monkeypatch: pytest.MonkeyPatch
) -> None:
    url = new_database()

    def break_off(*args: object, **options: object) -> None:
        raise RuntimeError("the power went")

    with monkeypatch.context() as patch:
        patch.setattr("alembic.op.create_index", break_off)
        with pytest.raises(RuntimeError, match="the power went"):
            open_database(url)
    with sa.create_engine(url).connect() as connection:
        assert sa.inspect(connection).get_table_names() == []
    assert differences(open_database(url)) == []


def test_a_catalogue_of_a_newer_version_is_left_alone(new_database: Callable[[], str]) -> None:
    url = new_database()
    open_database(url)
    run_sql(url, f"UPDATE {VERSION_TABLE} SET version_num = '9999'")
    with pytest.raises(BadInput, match="newer DermaNet"):
        open_database(url)


@pytest.mark.parametrize("url", ["nonsense", "mysql://somewhere/x", "oracle+nothing://x"])
def test_a_url_that_names_no_such_database_is_refused_with_what_is_allowed(url: str) -> None:
    with pytest.raises(BadInput, match="postgresql\\+psycopg://"):
        open_database(url)


def test_writers_take_turns_and_lose_no_revision(new_database: Callable[[], str]) -> None:
    url = new_database()
    Catalogue(url).take("s", [arrival(1)])
    together = Barrier(4)

    def correct(age: int) -> None:
        catalogue = Catalogue(url)
        together.wait()
        for step in range(5):
            catalogue.take("s", [arrival(1, age=float(age + step))])

    with ThreadPoolExecutor(4) as pool:
        list(pool.map(correct, (10, 20, 30, 40)))
    with Catalogue(url).engine.connect() as connection:
        revisions = connection.exec_driver_sql("SELECT revision FROM labels ORDER BY revision").scalars().all()
    assert revisions == list(range(1, 22))


def test_opening_again_needs_no_alembic(new_database: Callable[[], str], monkeypatch: pytest.MonkeyPatch) -> None:
    url = new_database()
    open_database(url)
    written: list[object] = []
    monkeypatch.setattr(database, "writing", written.append)
    open_database(url)
    assert written == []


def test_a_fault_of_the_database_quotes_nothing_that_rows_say(new_database: Callable[[], str]) -> None:
    engine = open_database(new_database())
    with pytest.raises(sa.exc.DBAPIError) as caught, engine.begin() as connection:
        connection.execute(sa.text("INSERT INTO nowhere VALUES (:name)"), {"name": "Anna Muster"})
    assert "nowhere" in str(caught.value) and "Anna" not in str(caught.value)
