"""Features of a snapshot before its training: in parts, by several processes, killed and taken up, and none of them twice."""

import json
import os
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from dermanet import settings, stages
from dermanet.errors import BadInput

PROBE = "probe:backbone=efficientnet-lite0+efficientnet-lite0@48x1.5,recipe=square@32,taps=false,views=1"


@pytest.fixture
def snapshot(home: Path, ham10000: Callable[..., Path]) -> str:
    stages.ingest(str(ham10000(count=24)))
    return str(stages.snapshot()["snapshot"])


def kept(suffix: str = "*.npy") -> list[Path]:
    return sorted((settings.read().home / "features").rglob(suffix))


def rows() -> Counter[tuple[str, str]]:
    """How often each image's features are kept, by backbone and digest."""
    indexes = [path for path in kept("*.json") if path.name != "recipe.json"]
    return Counter((path.parent.name, digest) for path in indexes for digest in json.loads(path.read_text())["digests"])


def learned_from(snapshot: str) -> int:
    from dermanet.stages.rooms import frozen_snapshot

    frozen = frozen_snapshot(settings.read(), snapshot)
    return len(frozen.train) + len(frozen.validation)


def test_parts_make_all_features_once_and_a_training_finds_them(
    snapshot: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("dermanet.stages.extraction.FEATURES_COST", 4)
    parts = stages.feature_parts(snapshot, PROBE)
    assert len(parts) == 2 and len(kept("*.onnx")) == 2, "the backbones are exported before they are shared"
    exported = [path.stat().st_mtime_ns for path in kept("*.onnx")]
    done = [stages.extract_part(snapshot, PROBE, json.loads(json.dumps(part))) for part in parts]
    images = learned_from(snapshot)
    assert sum(one["images"] for one in done) == images
    assert sum(one["computed"] for one in done) == 2 * images and not any(one["reused"] for one in done)
    assert len(rows()) == 2 * images and set(rows().values()) == {1}
    assert [path.stat().st_mtime_ns for path in kept("*.onnx")] == exported
    assert "features" in capsys.readouterr().out
    assert stages.extract_part(snapshot, PROBE, parts[0])["computed"] == 0, "a part that is done is found done"
    assert stages.feature_parts(snapshot, PROBE) == [{"part": 0, "parts": 1}]
    before = kept()
    stages.train(snapshot, PROBE)
    assert kept() == before, "the training found every one"


def test_an_experiment_that_trains_from_nothing_has_one_part_and_nothing_to_do(snapshot: str) -> None:
    assert stages.feature_parts(snapshot, "smoke") == [{"part": 0, "parts": 1}]
    done = stages.extract_part(snapshot, "smoke", {"part": 0, "parts": 1})
    assert (done["images"], done["computed"], done["reused"]) == (0, 0, 0)
    home = settings.read().home
    assert not (home / "features").exists() and not (home / "prepared").exists()


def test_nothing_heavy_is_imported_for_it(snapshot: str) -> None:
    code = f"""
import sys
from dermanet import stages
stages.extract_part({snapshot!r}, "smoke", stages.feature_parts({snapshot!r}, "smoke")[0])
sys.exit(bool({{"keras", "tensorflow", "onnxruntime"}} & set(sys.modules)))
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


@pytest.mark.parametrize("text", ["smoke:backbone=nonsense", "probe112:backbone=efficientnet-lite0+nonsense"])
def test_a_backbone_that_there_is_not_is_refused_before_any_image_is_prepared(snapshot: str, text: str) -> None:
    stage: Callable[..., object]
    for stage in (stages.preparation_parts, stages.prepare, stages.feature_parts, stages.extract, stages.train):
        with pytest.raises(BadInput, match="backbone 'nonsense'; allowed are plain, efficientnet-lite0"):
            stage(snapshot, text)
    home = settings.read().home
    assert not any((home / name).exists() for name in ("prepared", "features", "training"))
    assert not (home / "mlflow.db").exists()


def test_nothing_heavy_is_imported_to_prepare_for_a_backbone_whose_weights_are_installed(snapshot: str) -> None:
    code = f"""
import sys
from dermanet import stages
stages.prepare({snapshot!r}, {PROBE!r})
sys.exit(bool({{"keras", "tensorflow", "onnxruntime", "mlflow"}} & set(sys.modules)))
"""
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_who_computes_features_needs_no_keras_once_the_backbones_are_exported(snapshot: str) -> None:
    stages.feature_parts(snapshot, PROBE)
    code = f"""
import sys
from dermanet import stages
(part,) = stages.feature_parts({snapshot!r}, {PROBE!r})
done = stages.extract_part({snapshot!r}, {PROBE!r}, part)
print(done["computed"], *({{"keras", "tensorflow", "mlflow", "pandas"}} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split()[-1:] == [str(2 * learned_from(snapshot))], done.stdout


SLOW = """
import sys, time
from dermanet import stages
from dermanet.learning import features
from dermanet.pixels import shards
shards.SHARD = 2
made = features._made
def slowly(*given):
    for chunk in made(*given):
        yield chunk
        print("chunk", flush=True)
        time.sleep(float(sys.argv[3]))
features._made = slowly
print(stages.extract_part(sys.argv[1], sys.argv[2], {"part": 0, "parts": 2}), flush=True)
"""


def test_a_killed_part_is_taken_up_by_another_process_where_it_was_left(snapshot: str) -> None:
    stages.prepare(snapshot, PROBE)
    words = [sys.executable, "-c", SLOW, snapshot, PROBE]
    process = subprocess.Popen([*words, "60"], stdout=subprocess.PIPE, text=True, env={**os.environ})
    assert process.stdout is not None
    while "chunk" not in (line := process.stdout.readline()):
        assert line, "it ended before its first chunk"
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    left = sum(rows().values())
    done = subprocess.run([*words, "0"], capture_output=True, text=True, check=True)
    told = stages.extract(snapshot, PROBE, {"part": 0, "parts": 2})
    assert left > 0 and f"'reused': {left}" in done.stdout and told["computed"] == 0
    assert set(rows().values()) == {1} and sum(rows().values()) == told["reused"]


def test_two_processes_at_two_parts_at_once_leave_what_one_would(snapshot: str) -> None:
    stages.prepare(snapshot, PROBE)
    code = "import sys; from dermanet import stages; stages.extract(sys.argv[1], sys.argv[2], stages.named_part(sys.argv[3]))"
    both = [
        subprocess.Popen([sys.executable, "-c", code, snapshot, PROBE, part], start_new_session=True) for part in ("1/2", "2/2")
    ]  # fmt: skip
    started = time.monotonic()
    assert [process.wait() for process in both] == [0, 0], time.monotonic() - started
    assert set(rows().values()) == {1} and len(rows()) == 2 * learned_from(snapshot)


def test_the_command_takes_a_part(snapshot: str, capsys: pytest.CaptureFixture[str]) -> None:
    from typer.testing import CliRunner

    from dermanet.cli import app

    for part, word in (("1/2", "computed"), ("1/2", "reused"), ("2/2", "computed")):
        done = CliRunner().invoke(app, ["extract", snapshot, "-e", PROBE, "--part", part, "--json"])
        told = json.loads(done.stdout)
        assert told[word] == 2 * told["images"] > 0, told
    told = json.loads(CliRunner().invoke(app, ["prepare", snapshot, "-e", PROBE, "--part", "2/2", "--json"]).stdout)
    assert told["images"] == 12
