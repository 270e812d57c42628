"""The stage `monitor` on real answers of a real model: windows, verdicts, reports, asks, labels that come later, on both databases."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import cv2
import mlflow
import mlflowserver
import numpy as np
import pytest
import samples
import sqlalchemy as sa
from commands import Commands
from installation import Installation
from mlflow.exceptions import MlflowException
from test_dags import RUN, _airflow, _python
from variants import registry

from dermanet import runnotes, settings, stages
from dermanet.database.engine import open_database
from dermanet.database.schema import WINDOWS
from dermanet.errors import BadInput, DermaNetError
from dermanet.intake import snapshots, stored
from dermanet.intake.synthetic import SyntheticSource
from dermanet.ledger.decisions import Decision, Ledger
from dermanet.monitoring import predictions, reference, windows
from dermanet.monitoring.predictions import Prediction
from dermanet.monitoring.sample import STEPS, Gathering
from dermanet.registry.copies import model
from dermanet.registry.versions import CHAMPION
from dermanet.serving.reader import Reader
from dermanet.stages import monitoring
from dermanet.stages.rooms import snapshot_place
from dermanet.storage import Folder

TODAY = datetime.now(UTC).replace(hour=0, minute=0, second=0, microsecond=0)
NOW, DAY = TODAY + timedelta(hours=1, minutes=30), timedelta(days=1)
FEW = 60
"""Images in a window."""


def lesions(seed: int, count: int) -> list[bytes]:
    source = SyntheticSource(lesions=count, seed=seed)
    return [source.read(str(row.image)) for row in list(source.rows())[:count]]


def spoilt(data: bytes) -> bytes:
    """The same photograph by a careless hand: brighter and out of focus."""
    image = cv2.imdecode(np.frombuffer(data, np.uint8), cv2.IMREAD_COLOR)
    assert image is not None
    brighter = np.clip(image.astype(int) + 40, 0, 255).astype(np.uint8)
    return bytes(cv2.imencode(".jpg", cv2.GaussianBlur(brighter, (0, 0), 3))[1].tobytes())


class Use:
    """Real answers of the installation's network, made once: as it should be used, and on spoilt photographs."""

    def __init__(self, trained: Installation) -> None:
        self.files = model("models:/dermanet/1", trained.tracking_uri, trained.home / "models").files.parent
        reader = Reader.open(self.files / "artifacts")
        self.known, self.fine = reader.read_files(lesions(11, 150)), reader.read_files(lesions(12, FEW))
        self.odd = reader.read_files([spoilt(data) for data in lesions(13, FEW)])
        self.failed = reader.read(b"no image")
        self.reader = reader

    def rows(self, kind: str, day: int, version: str, images: int = FEW) -> list[Prediction]:
        """What a scorer would have logged `day` days ago: `fine`, `odd`."""
        at, readings = TODAY - day * DAY + timedelta(hours=9), [*getattr(self, kind)[:images], self.failed]
        return [
            Prediction.of(version, one.digest, one.row, one.seconds, at + timedelta(seconds=place), one.look)
            for place, one in enumerate(readings)
        ]


@pytest.fixture(scope="module")
def use(trained: Installation) -> Use:
    return Use(trained)


@pytest.fixture
def watched(
    installation: Installation,
    new_database: Callable[[], str],
    use: Use,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> "Watched":
    """An installation on either database whose champion is version 2: version 1 with a reference of enough images."""
    monkeypatch.setattr(monitoring, "clock", lambda: NOW)
    return Watched(installation, new_database(), use, tmp_path, monkeypatch)


class Watched:
    """An installation, and what a day with it may be like."""

    def __init__(self, installation: Installation, url: str, use: Use, folder: Path, patch: pytest.MonkeyPatch) -> None:
        self.installation, self.url, self.use, self.folder, self.patch = installation, url, use, folder, patch
        patch.setenv("DERMANET_CATALOGUE", url)
        self.engine = open_database(url)
        registry(installation).move(CHAMPION, self.another())

    def another(self) -> str:
        """Registers version 1 once more, with what it answers on 150 drawn lesions as its reference."""
        versions = registry(self.installation)
        count = len(versions.client.search_model_versions("name = 'dermanet'"))
        folder = self.folder / f"model{count}"
        shutil.copytree(self.use.files, folder)
        told = [Prediction.of("", one.digest, one.row, 0.0, look=one.look) for one in self.use.known]
        reference.write(folder / "artifacts" / reference.FILE, told, 150)
        first = versions.get("1")
        made = versions.client.create_model_version("dermanet", folder.as_uri(), first.run_id, dict(first.tags))
        return str(made.version)

    def log(self, days: str, version: str = "2", images: int = FEW, passed: int = 0) -> None:
        """A letter a day, the last one yesterday's: `f`ine, `o`dd, or `.` for none. `passed`: days since TODAY."""
        for day, kind in enumerate(reversed(days), start=1 - passed):
            if kind != ".":
                rows = self.use.rows({"f": "fine", "o": "odd"}[kind], day, version, images)
                assert predictions._add(self.engine, rows) == 0

    def log_by_the_clock(self, days: str) -> None:
        """The same for a process with a clock of its own, to which midnight may have come since these tests began."""
        self.log(days, passed=(datetime.now(UTC) - TODAY).days)

    def answer(self, count: int) -> None:
        """Yesterday's answers to images that `samples.ham10000` writes, each of them twice."""
        for number in range(count):
            one = self.use.reader.read(samples.jpeg(number))
            for hour in (8, 9):
                at = TODAY - DAY + timedelta(hours=hour)
                row = Prediction.of("2", one.digest, one.row, one.seconds, at, one.look)
                predictions._add(self.engine, [row])

    def verdicts(self) -> list[tuple[str, str, str]]:
        return [(f"{one.start:%Y-%m-%d}", one.version, one.verdict) for one in windows.every(self.engine, 1)]

    def words(self) -> str:
        return " ".join(word for _, _, word in self.verdicts())

    def later(self, days: int) -> None:
        self.patch.setattr(monitoring, "clock", lambda: NOW + days * DAY)

    @property
    def ledger(self) -> Ledger:
        return Ledger(self.url)


def test_every_model_brings_what_it_answered_on_its_validation_side(trained: Installation, use: Use) -> None:
    kept = reference.load(use.files / "artifacts" / reference.FILE)
    validation = snapshots.read(use.reader.network.card["snapshot"], Folder(trained.home / "snapshots")).validation
    assert kept and kept.images == len(validation)
    assert kept.witnesses == len({record.labels.lesion_id for record in validation}) < kept.images
    again = Gathering()
    for record in validation:
        one = use.reader.read(stored.read(Folder(trained.home / "objects"), record.digest))
        again.add(Prediction.of("", one.digest, one.row, one.seconds, look=one.look))
    # Through the scorer, from its files to its answers: the same, but for what is rounded the other way.
    assert again.sample().mixes == kept.mixes and again.sample().rates == kept.rates
    assert again.sample().spreads.keys() == kept.spreads.keys() and "sketch_8" in kept.spreads
    for name, spread in kept.spreads.items():
        assert abs(np.subtract(_values(again.sample().spreads[name]), _values(spread))).max() <= 2 * STEPS.get(
            name, 0.1
        )


def _values(spread: list[tuple[float, int]]) -> list[float]:
    return [value for value, count in spread for _ in range(count)]


def test_the_command_tells_and_ends_with_0_whatever_it_finds(watched: Watched, commands: Commands) -> None:
    watched.log_by_the_clock("oooo")
    environ = {**watched.installation.environment(), "DERMANET_CATALOGUE": watched.url}
    first = commands.run(["monitor", "--days", "2", "--dry-run"], environ)
    assert first.returncode == 0 and "drift (version 2, 60 images)" in first.stdout and watched.verdicts() == []
    told = commands.run(["monitor"], environ)
    assert told.returncode == 0 and "    drift: " in told.stdout and "asks for a retrain: version 2" in told.stderr
    found = json.loads(commands.run(["monitor", "--json"], environ).stdout)
    assert found["asks"]["version"] == "2" and found["mode"] == "enforce"
    wrong = commands.run(["monitor", "--since", "tomorrow"], environ)
    assert wrong.returncode == 2 and wrong.stderr.count("\n") == 1
    ill = commands.run(["monitor"], {**environ, "DERMANET_MONITORING": "/nowhere.yaml"})
    assert ill.returncode == 2 and "set DERMANET_MONITORING to a readable file" in ill.stderr


def test_spoilt_photographs_are_drift_and_others_are_not_and_three_days_ask_once(watched: Watched) -> None:
    watched.log("ffooo")
    found = stages.monitor()
    assert watched.words() == "steady steady drift drift drift" and found["judged"] == 5
    named = " ".join(found["windows"][-1]["drift"])
    assert "detail" in named and "brightness" in named and found["windows"][0]["drift"] == []
    asks = found["asks"]
    assert asks["version"] == "2" and "drifted in 3 of the last 5 windows" in asks["because"]
    again = stages.monitor()
    assert (again["judged"], again["asks"], again["run_id"]) == (0, asks, found["run_id"])
    told = [one for one in stages.why(limit=100) if one["kind"] == "monitoring"]
    assert [(one["outcome"], one["version"], one["who"]) for one in told] == [("asked", "2", "")]
    assert "Asks for a retrain" in Path(stages.monitoring_report(found["run_id"])).read_text()


def test_each_window_has_one_run_with_its_page_and_figures(watched: Watched) -> None:
    watched.log("fo")
    found = stages.monitor()
    stages.monitor()
    client = registry(watched.installation).client
    experiment = client.get_experiment_by_name("dermanet-monitoring")
    runs = client.search_runs([experiment.experiment_id])
    assert len(runs) == 2 and {run.info.status for run in runs} == {"FINISHED"}
    last = next(run for run in runs if run.info.run_id == found["run_id"])
    assert last.data.tags["dermanet.verdict"] == "drift" and last.data.tags["dermanet.version"] == "2"
    assert last.data.metrics["images"] == FEW and last.data.metrics["detail"] > 0.35
    assert "drift: detail" in last.data.tags["mlflow.note.content"]
    record = json.loads(
        Path(mlflow.artifacts.download_artifacts(run_id=found["run_id"], artifact_path="window.json")).read_text()
    )
    assert record[0]["traffic"]["errors"] == {"not an image": 1}
    assert {one.report for one in windows.every(watched.engine, 1)} == {run.info.run_id for run in runs}


def test_a_champion_that_changed_within_a_window_is_judged_by_itself(watched: Watched) -> None:
    third = watched.another()
    watched.log("oooo", "2")
    registry(watched.installation).move(CHAMPION, third)
    watched.log("...f", third)
    found = stages.monitor()
    assert watched.verdicts()[-2:] == [
        (f"{TODAY - DAY:%Y-%m-%d}", "2", "drift"),
        (f"{TODAY - DAY:%Y-%m-%d}", third, "steady"),
    ]
    assert found["asks"] is None, "what the last champion did is no reason to replace this one"
    assert "2 versions answered" in Path(stages.monitoring_report(found["run_id"])).read_text()


def test_an_empty_log_and_quiet_days_are_insufficient_and_never_ask(watched: Watched) -> None:
    found = stages.monitor()
    assert [(one["version"], one["verdict"]) for one in found["windows"]] == [("", "insufficient")]
    assert found["asks"] is None and found["live"]["answered"] == 0
    assert "No requests." in Path(stages.monitoring_report(found["run_id"])).read_text()


def test_few_images_a_day_say_nothing_and_a_window_of_a_week_hears_them(watched: Watched) -> None:
    watched.log("o" * 6, images=20)
    stages.monitor()
    assert set(watched.words().split()) == {"insufficient"}
    weekly = stages.monitor(days=5)
    # The same photographs each day are the same photographs.
    assert {one["images"] for one in weekly["windows"]} == {20} and weekly["asks"] is None


def test_without_a_champion_or_a_reference_it_says_what_is_not_known(watched: Watched) -> None:
    registry(watched.installation).move(CHAMPION, None)
    watched.log("fo", "2")
    watched.log("o", "99")
    found = stages.monitor()
    assert ("99", "not known") in {(version, word) for _, version, word in watched.verdicts()}
    assert found["live"] is None and found["asks"] is None and found["condition"]["champion"] is None
    assert "logged without a reference" in Path(stages.monitoring_report(found["run_id"])).read_text()


def test_an_answer_ends_an_ask_and_only_what_comes_after_it_and_a_rest_asks_again(watched: Watched) -> None:
    watched.log("ooo")
    first = stages.monitor()["asks"]
    watched.later(1)
    assert stages.monitor()["asks"] == first, "not answered: told again, and under the same name"
    assert stages.decide("smoke", drift=first["because"])["retrain"] is True
    assert stages.monitor()["asks"] is None
    for later in (2, 16):
        rows = [replace(one, id=f"{later}{place}", at=one.at + later * DAY)
                for day in (1, 2, 3) for place, one in enumerate(watched.use.rows("odd", day, "2"), start=100 * day)]  # fmt: skip
        predictions._add(watched.engine, rows)
    watched.later(3)
    assert stages.monitor()["asks"] is None, "it rests"
    watched.later(16)
    second = stages.monitor()["asks"]
    assert second and second["run"] != first["run"]


def test_another_champion_makes_an_ask_moot(watched: Watched) -> None:
    watched.log("ooo")
    assert stages.monitor()["asks"]
    registry(watched.installation).move(CHAMPION, watched.another())
    assert stages.monitor()["asks"] is None


def test_a_dry_run_keeps_nothing_and_limits_may_only_tell_or_be_off(
    watched: Watched, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched.log("ooo")
    found = stages.monitor(dry_run=True)
    assert found["judged"] == 3 and found["asks"] is None and found["run_id"] == "" and watched.verdicts() == []
    for mode, words in (("off", ""), ("dry run", "drift drift drift")):
        (tmp_path / "mine.yaml").write_text(settings.MONITORING.read_text().replace("mode: enforce", f"mode: {mode}"))
        monkeypatch.setenv("DERMANET_MONITORING", str(tmp_path / "mine.yaml"))
        assert stages.monitor()["asks"] is None and watched.words() == words


def test_days_that_were_missed_are_caught_up_as_far_as_the_log_goes(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched.log("ffff")
    monkeypatch.setenv("DERMANET_PREDICTION_DAYS", "3")
    assert stages.monitor()["judged"] == 2
    monkeypatch.setenv("DERMANET_PREDICTION_DAYS", "90")
    assert stages.monitor()["judged"] == 2
    first = f"{TODAY - 3 * DAY:%Y-%m-%d}"
    assert stages.monitor(since=first, until=first)["judged"] == 0
    with pytest.raises(BadInput, match="since is 'soon'; a date is needed"):
        stages.monitor(since="soon")


def test_windows_that_are_asked_for_by_date_are_those_that_the_log_still_has(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert stages.monitor(since="2026-01-01", dry_run=True)["judged"] == 0, "nothing was logged"
    watched.log("ffff")
    assert stages.monitor(since="0001-01-01", until="9999-12-31", dry_run=True)["judged"] == 4
    monkeypatch.setenv("DERMANET_PREDICTION_DAYS", "3")
    assert stages.monitor(since="0001-01-01", dry_run=True)["judged"] == 2
    with pytest.raises(BadInput, match=r"of 3 days is never whole .* goes back 3 days; DERMANET_PREDICTION_DAYS=4"):
        stages.monitor(days=3)
    monkeypatch.setenv("DERMANET_PREDICTION_DAYS", "0")
    assert stages.monitor(dry_run=True)["judged"] == 4, "what is there is judged"


def test_killed_before_its_report_it_is_reported_by_the_next_call(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched.log("ff")
    with monkeypatch.context() as patch:
        patch.setattr("dermanet.stages.watchreport.publish", _killed)
        with pytest.raises(KeyboardInterrupt):
            stages.monitor()
    assert watched.words() == "steady steady" and {one.report for one in windows.every(watched.engine, 1)} == {""}
    stages.monitor()
    assert len({one.report for one in windows.every(watched.engine, 1)} - {""}) == 2


def _killed(*args: Any) -> str:
    raise KeyboardInterrupt


def test_a_registry_that_is_away_is_a_fault_and_loses_nothing(
    watched: Watched, monkeypatch: pytest.MonkeyPatch
) -> None:
    watched.log("oo")
    with monkeypatch.context() as patch:
        patch.setenv("MLFLOW_TRACKING_URI", f"http://127.0.0.1:{mlflowserver.free_port()}")
        patch.setenv("MLFLOW_HTTP_REQUEST_MAX_RETRIES", "0")
        with pytest.raises((DermaNetError, MlflowException)):
            stages.monitor()
    assert watched.verdicts() == []
    stages.monitor()
    assert watched.words() == "drift drift"


def test_forgotten_images_are_not_judged_and_verdicts_hold_none(
    watched: Watched, ham10000: Callable[..., Path]
) -> None:
    watched.log("ff")
    watched.answer(4)
    stages.ingest(str(ham10000(4)))
    digests = [watched.use.reader.read(samples.jpeg(number)).digest for number in range(4)]
    stages.forget("HAM_0000001")
    found = stages.monitor()["windows"][-1]
    assert (found["window"], found["images"]) == (f"{TODAY - DAY:%Y-%m-%d}", FEW + 3)
    with watched.engine.connect() as connection:
        kept = json.dumps([list(map(str, row)) for row in connection.execute(sa.select(WINDOWS))])
    assert not [digest for digest in (*digests, *(one.digest for one in watched.use.fine)) if digest in kept]


def test_labels_that_come_later_give_live_figures_beside_the_holdout_s(
    watched: Watched, ham10000: Callable[..., Path]
) -> None:
    found = _labelled(watched, ham10000, 40)["live"]
    assert (found["answered"], found["labelled"], found["lesions"]) == (40, 40, 40) and not found["few"]
    figures = {one["figure"]: one for one in found["figures"]}
    assert set(figures) >= {
        "age_mae",
        "sex_accuracy",
        "diagnosis_accuracy",
        "diagnosis_f1_macro",
        "diagnosis_recall_mel",
    }
    age = figures["age_mae"]
    # Against the labels that `samples.ham10000_row` writes, and what the network said of its images.
    truth = [40 + number % 40 for number in range(40)]
    said = [watched.use.reader.read(samples.jpeg(number)).row["age"] for number in range(40)]
    assert age["value"] == pytest.approx(np.abs(np.subtract(truth, said)).mean(), abs=1e-3)
    assert age["interval"][0] < age["value"] < age["interval"][1] and age["images"] == 40 and age["holdout"] is not None
    assert figures["diagnosis_recall_mel"]["images"] == len([n for n in range(40) if n % 7 == 4])
    page = Path(stages.monitoring_report(stages.monitor()["run_id"])).read_text()
    assert "40 of 40 images" in page and "may be better or worse" in page


def test_what_the_version_has_learned_from_gives_no_live_figures(
    watched: Watched, ham10000: Callable[..., Path]
) -> None:
    taken = registry(watched.installation).get("2").tags["dermanet.snapshot"]
    lesion = snapshots.read(taken, snapshot_place(settings.read())).train[0].labels.lesion_id
    found = _labelled(
        watched,
        ham10000,
        10,
        rows={number: {"lesion_id": lesion, "dx": "nv", "age": "50.0", "sex": "male"} for number in range(4)},
    )["live"]
    assert (found["labelled"], found["known"]) == (6, 4) and found["few"]


def test_the_command_says_why_there_are_no_live_figures_and_where_they_are_few(
    watched: Watched, ham10000: Callable[..., Path], commands: Commands
) -> None:
    environ = {**watched.installation.environment(), "DERMANET_CATALOGUE": watched.url}
    told = commands.run(["monitor", "--dry-run"], environ).stdout
    assert "live: 0 of 0 answered images are labelled: no label has come" in told
    _labelled(watched, ham10000, 10)
    told = commands.run(["monitor", "--dry-run"], environ).stdout
    assert "live: 10 of 10 answered images are labelled, of 10 lesions, which are few" in told


def _labelled(watched: Watched, ham10000: Callable[..., Path], count: int, **changes: Any) -> dict[str, Any]:
    """Images are answered, twice each, and their labels come afterwards."""
    watched.answer(count)
    stages.ingest(str(ham10000(count, **changes)))
    return stages.monitor()


def test_what_stands_beside_the_windows_is_told(watched: Watched, ham10000: Callable[..., Path]) -> None:
    stages.ingest(str(ham10000(6)))
    watched.log("f")
    first = stages.monitor()["condition"]
    assert first["quarantine"]["share"] is None and first["champion"]["version"] == "2"
    assert first["champion"]["newer_images"] == 6, "none of them is in the snapshot"
    bad = {number: {"age": "-3"} for number in range(6, 12)}
    stages.ingest(str(ham10000(14, rows=bad)))
    watched.later(1)
    found = stages.monitor()
    quarantine = found["condition"]["quarantine"]
    assert sum(quarantine["grown"].values()) == 6
    assert quarantine["share"] == pytest.approx(6 / 8)
    assert any(line.startswith("refused 75%") for line in found["windows"][0]["warnings"])
    assert "quarantine" in Path(stages.monitoring_report(found["run_id"])).read_text()


def test_two_at_once_judge_each_window_once_and_ask_once(watched: Watched) -> None:
    watched.log("ooo")
    with ThreadPoolExecutor(2) as pool:
        one, other = pool.map(lambda _: stages.monitor(), range(2))
    assert one["asks"] == other["asks"] and {one["judged"], other["judged"]} == {0, 3}
    assert len([found for found in watched.ledger.latest(50) if found.kind == "monitoring"]) == 1


def test_a_window_stays_as_it_was_judged_first(watched: Watched) -> None:
    made = windows.Window(TODAY - DAY, 1, "2", "steady", 60, {"x": 1}, dag_run="monitor/1")
    first = windows.keep(watched.engine, made)
    assert windows.keep(watched.engine, replace(made, verdict="drift", dag_run="monitor/2")) == first
    assert (
        windows.judged_in(watched.engine, "monitor/1") == [first]
        and windows.judged_in(watched.engine, "monitor/2") == []
    )


def test_a_ledger_tells_what_came_after_a_decision(watched: Watched) -> None:
    ledger = watched.ledger
    first = ledger.add(Decision("monitoring", "asked", ("a",)))
    second = ledger.add(Decision("retrain", "yes", ("b",)))
    assert ledger.after(first.number) == [second] and ledger.after(second.number) == []


TRIGGERED = """
from airflow.models.dagrun import DagRun
from airflow.utils.session import create_session
with create_session() as session:
    found = session.query(DagRun).filter(DagRun.dag_id == "retrain").all()
    print("RESULT" + json.dumps([[run.run_id, run.conf] for run in found]))
"""


def test_the_dag_starts_one_retrain_for_one_ask_and_its_note_says_why(
    installation: Installation, use: Use, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # One day more than is needed: just after midnight the last one is not complete yet.
    watched = Watched(installation, f"sqlite:///{tmp_path}/catalogue.db", use, tmp_path, monkeypatch)
    watched.log_by_the_clock("oooo")
    env = {**_airflow(installation, str(tmp_path / "airflow.db")), "DERMANET_CATALOGUE": watched.url}
    subprocess.run([sys.executable, "-m", "airflow", "db", "migrate"], env=env, check=True, capture_output=True)
    gates = str(installation.gates("open"))
    first, second = _python(RUN, json.dumps([["monitor", {}, gates], ["monitor", {}, gates]]), env=env)
    assert first["state"] == second["state"] == "success"
    assert first["tasks"] == dict.fromkeys(("watch", "lasting_drift", "start_retrain"), "success")
    assert second["tasks"]["start_retrain"] == "skipped", "asked again, it is there already"
    ((run, conf),) = _python("import json, sys\n" + TRIGGERED, env=env)
    asked = watched.ledger.last("monitoring")
    assert asked and run == f"drift__{asked.number}" and conf == {"drift": asked.reasons[0]}
    note = runnotes._told(first["run"])
    assert note[0].startswith("monitoring: asked. version 2 has drifted in") and "drift (version 2" in note[-1]
