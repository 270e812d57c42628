"""The stage of validation, on a real catalogue, real images and a real MLflow: one run a snapshot, and nobody trains on an anomaly."""

import base64
import json
import os
import re
import subprocess
from collections.abc import Callable
from pathlib import Path
from typing import Any

import mlflow
import pytest
import samples
import sqlalchemy as sa
from commands import Commands

from dermanet import settings, stages
from dermanet.database.schema import METADATA
from dermanet.errors import BadInput, DataRefused
from dermanet.imagefile import read_header
from dermanet.intake import history, snapshots
from dermanet.intake.catalogue import Catalogue

pytestmark = pytest.mark.usefixtures("home")

Folder = Callable[..., Path]


def clinic(folder: Path, name: str, first: int, count: int, **cells: str) -> str:
    """A source of `count` images from number `first` on, with cells that shall be otherwise."""
    own = folder / name
    own.mkdir()
    rows = []
    for number in range(first, first + count):
        (own / f"ISIC_{number:07d}.jpg").write_bytes(samples.jpeg(number))
        rows.append({**samples.ham10000_row(number), **cells})
    samples.write_csv(own / "HAM10000_metadata.csv", rows)
    return str(own)


def frozen_after(source: str) -> str:
    stages.ingest(source)
    return str(stages.snapshot()["snapshot"])


@pytest.fixture
def first(tmp_path: Path) -> str:
    """A sound snapshot."""
    found = frozen_after(clinic(tmp_path, "first", 0, 120))
    assert stages.validate(found)["verdict"] == "passed"
    return found


def runs() -> list[mlflow.entities.Run]:
    client = mlflow.MlflowClient(settings.read().tracking_uri)
    return list(client.search_runs([client.get_experiment_by_name("dermanet-snapshots").experiment_id]))


def artifact(run_id: str, name: str) -> str:
    return Path(mlflow.artifacts.download_artifacts(run_id=run_id, artifact_path=name)).read_text()


def entry(snapshot: str) -> Any:
    return history.entry(Catalogue(settings.read().catalogue), snapshot)


def test_a_sound_snapshot_passes_has_one_run_and_is_judged_the_same_again(first: str, tmp_path: Path) -> None:
    second = frozen_after(clinic(tmp_path, "second", 120, 60))
    found = stages.validate(second)
    assert (found["verdict"], found["number"], found["previous"], found["new"]) == ("passed", 2, first, 60)
    before = entry(second)
    assert stages.validate(second) == found and entry(second) == before
    kept = {run.data.tags["dermanet.snapshot"]: run for run in runs()}
    assert len(runs()) == 2 and set(kept) == {first, second}
    run = kept[second]
    assert (run.info.status, run.data.tags["dermanet.verdict"]) == ("FINISHED", "passed")
    assert run.data.tags["dermanet.previous"] == first
    assert (run.data.params["images"], run.data.params["number"]) == ("180", "2")
    assert 0 <= run.data.metrics["new_diagnosis_distance"] < 0.2 and run.data.metrics["new_images"] == 60
    assert json.loads(artifact(run.info.run_id, "manifest.json"))["snapshot"] == second
    assert json.loads(artifact(run.info.run_id, "statistics.json"))["whole"]["images"] == 180


def test_the_report_needs_nothing_beside_itself_and_names_nobody(first: str) -> None:
    page = artifact(runs()[0].info.run_id, "report.html")
    assert len(page) < 3_000_000
    assert not re.findall(r"(?:src|href)=\"(?!data:|#)", page) and "url(http" not in page and "<script" not in page
    assert "not a medical device" in page and "There is no snapshot to compare it with" in page
    pictures = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', page)
    assert len(pictures) > 50
    assert {read_header(base64.b64decode(picture)).format for picture in pictures} == {"jpeg"}
    assert "ISIC_00000" in page and "HAM_0" not in page


def test_an_anomaly_stops_the_run_with_the_figures_until_a_person_accepts_it(first: str, tmp_path: Path) -> None:
    bad = frozen_after(clinic(tmp_path, "bad", 120, 40, dx="nv"))
    with pytest.raises(DataRefused) as raised:
        stages.validate(bad)
    line = str(raised.value)
    assert raised.value.exit_status == 3 and "\n" not in line
    assert (
        "new images, diagnosis distance 0.8" in line and "at most 0.3" in line and "nv 14% before, nv 100% now" in line
    )
    assert raised.value.record["run_id"] in line and f"dermanet validate {bad} --accept" in line
    page = artifact(raised.value.record["run_id"], "report.html")
    assert "anomalous" in page and page.index("anomaly") < page.index("checks within their limits")
    third = frozen_after(clinic(tmp_path, "third", 160, 40))
    with pytest.raises(DataRefused):
        stages.validate(third)
    assert entry(third).statistics["previous"] == first, "an anomalous snapshot is nothing to compare with"
    accepted = stages.validate(bad, "a study of children with naevi", "Eve")
    assert accepted["verdict"] == "accepted"
    assert entry(bad).because.startswith("accepted by Eve: a study of children with naevi (new images, diagnosis")
    assert stages.validate(bad)["verdict"] == "accepted" and len(runs()) == 3
    assert "a study of children" in artifact(accepted["run_id"], "report.html")
    later = stages.validate(third)
    assert (later["verdict"], later["previous"]) == ("passed", bad)


def test_training_says_which_data_it_saw_and_an_anomaly_comes_before_it(first: str, tmp_path: Path) -> None:
    from dermanet.stages.validation import data_tags

    tags = data_tags(settings.read(), first)
    assert (tags["dermanet.data"], tags["dermanet.data_run"]) == ("passed", runs()[0].info.run_id)
    assert tags["dermanet.data_run"] in tags["mlflow.note.content"]
    assert data_tags(settings.read(), "never validated") == {}
    bad = clinic(tmp_path, "bad", 120, 60, sex="male")
    with pytest.raises(DataRefused, match="sex distance"):
        stages.retrain([bad], "smoke")
    snapshot = stages.snapshot()["snapshot"]
    for asked in (lambda: stages.train(snapshot, "smoke"), lambda: stages.search(snapshot, "smoke", trials=1)):
        with pytest.raises(DataRefused, match=f"sex distance .* validate {snapshot} --accept"):
            asked()
    assert not (settings.read().home / "prepared").exists()


def test_the_limits_may_be_told_only_or_not_looked_at(
    first: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad = frozen_after(clinic(tmp_path, "bad", 120, 60, dx="nv"))
    path = tmp_path / "limits.yaml"
    monkeypatch.setenv("DERMANET_VALIDATION", str(path))
    path.write_text("mode: off\n")
    assert stages.validate(bad)["verdict"] == "off" and entry(bad) is None
    path.write_text("mode: dry run\nanomaly: {new: {diagnosis: {distance: 0.3}}}\n")
    told = stages.validate(bad)
    assert told["verdict"] == "anomalous" and len(told["anomalies"]) == 1
    path.write_text("anomaly: {new: {diagnosis: {distance: 0.9}}}\n")
    assert stages.validate(bad)["verdict"] == "passed"
    path.write_text("anomaly: 7\n")
    with pytest.raises(BadInput, match="anomaly has 7"):
        stages.validate(bad)


def test_the_first_real_images_are_not_compared_with_synthetic_ones(tmp_path: Path) -> None:
    drawn = frozen_after("synthetic:lesions=60,seed=3")
    assert stages.validate(drawn)["verdict"] == "passed"
    real = frozen_after(clinic(tmp_path, "real", 0, 60))
    found = stages.validate(real)
    assert (found["verdict"], found["previous"], found["new"]) == ("passed", "", 0)
    assert stages.validate(real) == found
    page = artifact(found["run_id"], "report.html")
    assert "shares no image with snapshot 1 before it" in page


def test_a_forgotten_lesion_leaves_the_reports(first: str) -> None:
    run_id = runs()[0].info.run_id
    page = artifact(run_id, "report.html")
    shown = re.findall(r'<img src="[^"]+" alt="(ISIC_\d+)', page)
    number = int(shown[-1].removeprefix("ISIC_"))
    for _ in range(2):
        stages.forget(f"HAM_{number:07d}")
        drawn = artifact(run_id, "report.html")
        assert shown[-1] not in drawn and "passed" in drawn and len(drawn) < len(page)


def shown_in(run_id: str) -> list[int]:
    """The numbers of the images whose pictures are in a run's report."""
    return [int(one) for one in re.findall(r'<img src="[^"]+" alt="ISIC_(\d+)', artifact(run_id, "report.html"))]


def test_a_second_forget_clears_the_report_that_the_first_did_not_come_to(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    found = frozen_after(clinic(tmp_path, "own", 0, 40, patient_id="P-ONE"))
    stages.ingest(clinic(tmp_path, "other", 40, 40, patient_id="P-OTHER"))
    run_id = stages.validate(stages.snapshot()["snapshot"])["run_id"]
    assert found and {number < 40 for number in shown_in(run_id)} == {True, False}
    with monkeypatch.context() as patch:
        patch.setattr(
            "dermanet.stages.forgetting.redraw_reports", lambda *words: (_ for _ in ()).throw(OSError("away"))
        )
        with pytest.raises(OSError, match="away"):
            stages.forget(patient_id="P-ONE")
    assert min(shown_in(run_id)) < 40
    stages.forget(patient_id="P-ONE")
    assert min(shown_in(run_id)) >= 40


def test_a_lesion_that_got_another_id_leaves_the_reports_from_before(tmp_path: Path) -> None:
    source = clinic(tmp_path, "first", 0, 40)
    run_id = stages.validate(frozen_after(source))["run_id"]
    rows = [samples.ham10000_row(number) for number in range(40)]
    rows[5]["lesion_id"] = "HAM_MENDED"
    samples.write_csv(Path(source) / "HAM10000_metadata.csv", rows)
    assert stages.ingest(source)["corrected"] == 1 and 5 in shown_in(run_id)
    stages.forget("HAM_MENDED")
    assert shown_in(run_id) and 5 not in shown_in(run_id)


def test_a_report_whose_snapshot_is_gone_loses_its_pictures_once(first: str, tmp_path: Path) -> None:
    from dermanet.stages.rooms import snapshot_place
    from dermanet.stages.validation import redraw_reports

    run_id = runs()[0].info.run_id
    number, verdict = shown_in(run_id)[0], stages.validate(frozen_after(clinic(tmp_path, "second", 120, 60)))
    snapshots.drop(first, snapshot_place(settings.read()))
    stages.forget(f"HAM_{number:07d}")
    page = artifact(run_id, "report.html")
    assert shown_in(run_id) == [] and "the pictures went" in page and "passed" in page
    assert artifact(run_id, "manifest.json") and shown_in(verdict["run_id"])
    assert redraw_reports(settings.read(), [], []) == 0


def everything_said(run_id: str) -> str:
    """What the catalogue and MLflow say, with a snapshot's run; the snapshot itself keeps its rows."""
    with Catalogue(settings.read().catalogue).engine.connect() as connection:
        rows = [str(row) for one in METADATA.sorted_tables for row in connection.execute(sa.select(one))]
    kept = [artifact(run_id, name) for name in ("statistics.json", "report.html", "manifest.json")]
    return "\n".join([*rows, *kept, str(runs())])


def test_ids_of_a_forgotten_lesion_leave_the_verdicts_on_data(tmp_path: Path) -> None:
    stages.ingest(clinic(tmp_path, "first", 0, 60))
    for number, dx in ((3, "mel"), (30, "nv")):
        # Another image of the same lesion with another diagnosis, on which a person insists.
        assert samples.ham10000_row(number)["dx"] != dx
        own = clinic(tmp_path, f"two of {number}", 900 + number, 1, dx=dx, lesion_id=f"HAM_{number:07d}")
        stages.ingest(own)
        ((refusal, _, _),) = Catalogue(settings.read().catalogue).quarantined()
        stages.release_quarantined(refusal, {}, force=True)
    snapshot = stages.snapshot()["snapshot"]
    with pytest.raises(DataRefused, match="HAM_0000003, HAM_0000030"):
        stages.validate(snapshot)
    (run,) = runs()
    assert everything_said(run.info.run_id).count("HAM_0000003") > 5
    stages.forget("HAM_0000003")
    for _ in range(2):
        said = everything_said(run.info.run_id)
        assert "HAM_0000003" not in said.replace("HAM_0000030", "")
        assert "an id that was forgotten, HAM_0000030" in entry(snapshot).because
        with pytest.raises(DataRefused, match="HAM_0000030"):
            stages.validate(snapshot)


def test_a_killed_validation_is_ended_by_the_next(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    found = frozen_after(clinic(tmp_path, "first", 0, 40))
    with monkeypatch.context() as patch:
        patch.setattr(
            "dermanet.registry.tracking.Tracking.log_text", lambda *words: (_ for _ in ()).throw(OSError("gone"))
        )
        with pytest.raises(OSError, match="gone"):
            stages.validate(found)
    assert runs()[0].info.status == "RUNNING"
    assert stages.validate(found)["number"] == 1
    assert [run.info.status for run in runs()] == ["FINISHED"]


def test_the_command_prints_what_it_found_and_ends_with_3_for_an_anomaly(
    commands: Commands, first: str, tmp_path: Path
) -> None:
    bad = frozen_after(clinic(tmp_path, "bad", 120, 60, dx="nv"))

    def dermanet(*words: str) -> subprocess.CompletedProcess[str]:
        return commands.run(["validate", *words], os.environ)

    well = dermanet(first, "--json")
    assert (well.returncode, json.loads(well.stdout)["verdict"]) == (0, "passed")
    ill = dermanet(bad, "--json")
    assert (ill.returncode, json.loads(ill.stdout)["verdict"]) == (3, "anomalous")
    assert len(ill.stderr.strip().splitlines()) == 1 and "diagnosis distance" in ill.stderr
    accepted = dermanet(bad, "--accept", "naevi were wanted")
    assert accepted.returncode == 0 and "naevi were wanted" in accepted.stdout


def test_real_images_pass_and_are_told_from_darkened_ones(real_data: Path, tmp_path: Path) -> None:
    from benchmarks.anomalies import PIXELS, ROWS, Spoilt, verdict
    from dermanet.intake.sources import open_source

    one, other = open_source(str(real_data / "isic2018_task3")), open_source(str(real_data / "ham10000"))
    ways = {
        "as they are": Spoilt(other), "only naevi": Spoilt(other, row=ROWS["only naevi"]),
        "half as bright": Spoilt(other, pixels=PIXELS["half as bright"]),
    }  # fmt: skip
    words = {}
    for name, spoilt in ways.items():
        (tmp_path / name).mkdir()
        words[name] = verdict(tmp_path / name, one, spoilt)[0].word
    assert words == {"as they are": "passed", "only naevi": "anomalous", "half as bright": "anomalous"}
