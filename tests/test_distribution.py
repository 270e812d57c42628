"""Training over two real processes on JAX, and the same network on another backend; `make test-jax` runs all of it."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import keras
import mlflow
import numpy as np
import onnxruntime
import psutil
import pytest
from mlflowserver import free_port

from dermanet import experiment, settings, stages
from dermanet.errors import BadInput
from dermanet.learning import distribution
from dermanet.learning import model as network
from dermanet.learning.dataset import age_scale
from dermanet.learning.model import AgeScale
from dermanet.learning.survival import Progress
from dermanet.learning.train import Sides, learn
from dermanet.pixels.prepared import PreparedPixels
from dermanet.pixels.preprocess import recipe
from dermanet.records import Answers, Snapshot
from dermanet.registry.tracking import Tracking, model_files
from dermanet.stages.member import EPOCHS
from dermanet.stages.members import START
from dermanet.stages.rooms import frozen_snapshot, prepared_root
from dermanet.stages.training import work_of

needs_jax = pytest.mark.skipif(
    find_spec("jax") is None, reason="needs JAX, which requirements-jax.lock has: make test-jax"
)
THREE = "smoke:epochs=3,patience=3"
LONG = "smoke:epochs=60,patience=60"
TUNED = "finetune:backbone=efficientnet-lite0@32+efficientnet-lite0@48,beside=,recipe=square@32,views=1,epochs=1,unfrozen=0.05"
STAGE = "import sys; from dermanet import stages; stages.train(*sys.argv[1:])"
EARLY = 600.0
"""Seconds within which a training is under way on a busy machine: JAX compiles first."""


@dataclass(frozen=True)
class Ready:
    """A home with a snapshot whose pixels are prepared."""

    home: Path
    snapshot: str

    def environment(self, **own: str) -> dict[str, str]:
        kept = {
            name: value for name, value in os.environ.items() if not name.startswith(("DERMANET_", "MLFLOW_TRACKING"))
        }
        return {**kept, "DERMANET_HOME": str(self.home), "TF_CPP_MIN_LOG_LEVEL": "3", **own}

    def start(self, text: str, attempt: str, **own: str) -> "subprocess.Popen[str]":
        """The stage `train` as a process of its own."""
        command = [sys.executable, "-c", STAGE, self.snapshot, text, attempt]
        return subprocess.Popen(command, env=self.environment(**own), stderr=subprocess.PIPE, text=True)

    def train(self, text: str, attempt: str, **own: str) -> None:
        """The same to its end."""
        process = self.start(text, attempt, **own)
        said = process.communicate()[1]
        assert process.returncode == 0, said

    def run(self, attempt: str, text: str = THREE) -> mlflow.entities.Run:
        """The run in MLflow of the one training that logged a model under `attempt`."""
        tracking = Tracking(f"sqlite:///{self.home / 'mlflow.db'}", self.home / "mlartifacts")
        work = work_of(self.snapshot, experiment.named(text), attempt)
        run = tracking.found(work)
        assert run is not None
        return run

    def curves(self, attempt: str, text: str = THREE) -> dict[str, list[float]]:
        """Every figure of every epoch; the steps are 1, 2, 3, …"""
        client, run = mlflow.MlflowClient(f"sqlite:///{self.home / 'mlflow.db'}"), self.run(attempt, text)
        steps = list(range(1, experiment.named(text).most_epochs + 1))
        # Beside the training's own there are those of the machine.
        names = [name for name in run.data.metrics if not name.startswith("system/")]
        points = {name: client.get_metric_history(run.info.run_id, name) for name in names}
        assert all([point.step for point in history] == steps for history in points.values())
        return {name: [point.value for point in history] for name, history in points.items()}

    def workdir(self, text: str, attempt: str) -> Path:
        return self.home / "training" / work_of(self.snapshot, experiment.named(text), attempt)

    def frozen(self) -> Snapshot:
        return frozen_snapshot(settings.read({"DERMANET_HOME": str(self.home)}), self.snapshot)

    def pixels(self) -> PreparedPixels:
        return PreparedPixels(prepared_root(settings.read({"DERMANET_HOME": str(self.home)})), recipe("dermanet@32"))


@pytest.fixture(scope="module")
def ready(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ready]:
    home = tmp_path_factory.mktemp("distribution") / "home"
    with pytest.MonkeyPatch.context() as patch:
        for name in [name for name in os.environ if name.startswith(("DERMANET_", "MLFLOW_TRACKING"))]:
            patch.delenv(name)
        patch.setenv("DERMANET_HOME", str(home))
        stages.ingest("synthetic:lesions=60,seed=3")
        snapshot = stages.snapshot()["snapshot"]
        stages.prepare(snapshot, "smoke")
        yield Ready(home, snapshot)


@pytest.fixture(scope="module")
def two(ready: Ready) -> dict[str, list[float]]:
    """The curves of an unbroken training in two processes, dropout and turns included."""
    ready.train(THREE, "two", DERMANET_PROCESSES="2")
    return ready.curves("two")


def same(found: dict[str, list[float]], expected: dict[str, list[float]]) -> None:
    assert set(found) == set(expected) and {"train_loss", "val_loss", "val_age_mae"} <= set(found)
    for name, values in expected.items():
        assert found[name][0] == pytest.approx(values[0], rel=1e-5, abs=1e-5), name
        # Sums in another order round otherwise, and a training amplifies that, step by step.
        assert found[name] == pytest.approx(values, rel=1e-3, abs=1e-3), name


@needs_jax
def test_two_processes_draw_the_curves_of_one(ready: Ready, two: dict[str, list[float]]) -> None:
    frozen = ready.frozen()
    assert len(frozen.train) % 32 and len(frozen.validation) % 32, "the last batches shall be uneven"
    ready.train(THREE, "one", DERMANET_PROCESSES="1")
    same(two, ready.curves("one"))


@needs_jax
def test_two_processes_tune_the_parts_of_a_backbone_in_turn(ready: Ready) -> None:
    for count in "21":
        ready.train(TUNED, count, DERMANET_PROCESSES=count)
    same(*(ready.curves(count, TUNED) for count in "21"))


def test_a_part_that_is_done_leaves_the_distribution_in_force() -> None:
    shared = keras.distribution.DataParallel(devices=["cpu:0"], auto_shard_dataset=False)
    keras.distribution.set_distribution(shared)
    try:
        distribution.clear_session()
        assert keras.distribution.distribution() is shared
    finally:
        keras.distribution.set_distribution(None)


@needs_jax
def test_two_machines_draw_them_too(ready: Ready, two: dict[str, list[float]]) -> None:
    """As their users start them: the same command on each, told who it is. The second machine trains, the first does all else."""
    address = f"127.0.0.1:{free_port()}"
    own = {"DERMANET_COORDINATOR": address, "DERMANET_PROCESSES": "2", "JAX_COORDINATOR_BIND_ADDRESS": address}
    machines = [ready.start(THREE, "machines", DERMANET_PROCESS=str(index), **own) for index in range(2)]
    for machine in machines:
        said = machine.communicate()[1]
        assert machine.returncode == 0, said
    same(ready.curves("machines"), two)
    # Finished, it is found by either, and nobody waits for the other.
    ready.train(THREE, "machines", DERMANET_PROCESS="1", **own)


@needs_jax
def test_tensorflow_and_the_onnx_graph_answer_as_jax_does(
    ready: Ready, two: dict[str, list[float]], tmp_path: Path
) -> None:
    files = model_files(ready.run("two").data.tags["dermanet.model"])
    pixels = ready.pixels().batch([record.digest for record in ready.frozen().holdout])
    np.save(tmp_path / "pixels.npy", pixels)
    script = f"""
import numpy as np
from dermanet.learning import model
found = model.answers(model.load({str(files / "model.keras")!r}), np.load({str(tmp_path / "pixels.npy")!r}))
np.savez({str(tmp_path / "jax.npz")!r}, age=found.age, sex=found.sex, diagnosis=found.diagnosis)
"""
    command = [sys.executable, "-c", NO_TENSORFLOW + script]
    subprocess.run(command, check=True, env=ready.environment(KERAS_BACKEND="jax"))
    expected = Answers(**np.load(tmp_path / "jax.npz"))
    session = onnxruntime.InferenceSession(files / "model.onnx", providers=["CPUExecutionProvider"])
    age, sex, diagnosis = session.run(None, {session.get_inputs()[0].name: pixels.astype(np.float32)})
    tensorflow = network.answers(network.load(files / "model.keras"), pixels)
    for found in (tensorflow, Answers(age[:, 0], sex, diagnosis)):
        assert np.abs(found.age - expected.age).max() < 0.01 and np.ptp(found.age) > 0.01
        assert np.abs(found.sex - expected.sex).max() < 1e-4
        assert np.abs(found.diagnosis - expected.diagnosis).max() < 1e-4


@needs_jax
def test_a_member_killed_ends_all_and_the_next_run_goes_on(ready: Ready, two: dict[str, list[float]]) -> None:
    stage = ready.start(THREE, "killed", DERMANET_PROCESSES="2")
    epochs = ready.workdir(THREE, "killed") / EPOCHS
    wait_for(lambda: epochs.exists() and len(json.loads(epochs.read_text())) == 1, stage)
    members = members_of(stage)
    victim = next(member for member in members if '"index": 1' in member.cmdline()[-1])
    victim.kill()
    said = stage.communicate(timeout=30)[1]
    assert stage.returncode == 1
    assert "process 1 of 2 was killed (SIGKILL)" in said and "run this again" in said
    assert not psutil.wait_procs(members, timeout=10)[1]
    ready.train(THREE, "killed", DERMANET_PROCESSES="2")
    same(ready.curves("killed"), two)


@needs_jax
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGINT])
def test_whatever_ends_the_stage_ends_its_members(ready: Ready, number: signal.Signals) -> None:
    stage = ready.start(LONG, number.name, DERMANET_PROCESSES="2")
    wait_for(lambda: len(members_of(stage)) == 2, stage)
    members = members_of(stage)
    stage.send_signal(number)
    stage.communicate(timeout=30)
    assert stage.returncode != 0
    assert not psutil.wait_procs(members, timeout=30)[1]


@needs_jax
def test_a_batch_that_cannot_be_shared_is_refused_by_all(ready: Ready) -> None:
    stage = ready.start("smoke:batch_size=33", "uneven", DERMANET_PROCESSES="2")
    said = stage.communicate()[1]
    assert "BadInput" in said and "batch_size=33 cannot be shared by 2 devices; allowed are multiples of 2" in said


def test_without_jax_it_is_said_what_to_install(ready: Ready) -> None:
    command = [sys.executable, "-c", "import sys; sys.modules['jax'] = None\n" + STAGE, ready.snapshot, "smoke"]
    environment = ready.environment(DERMANET_PROCESSES="2")
    done = subprocess.run(command, env=environment, stderr=subprocess.PIPE, text=True, check=False)
    assert "BadInput: DERMANET_PROCESSES=2 trains on JAX, which is not installed here" in done.stderr
    assert "requirements-jax.lock" in done.stderr


@pytest.mark.parametrize("backend", [pytest.param("jax", marks=needs_jax), "torch"])
def test_another_backend_trains_the_same_network(ready: Ready, tmp_path: Path, backend: str) -> None:
    """From the same weights, without dropout, and without TensorFlow: Keras's own draws of both differ between backends."""
    if find_spec(backend) is None:
        pytest.skip("needs PyTorch, which is no part of the project's environments")
    chosen, frozen = experiment.named("smoke:epochs=1,dropout=0"), ready.frozen()
    scale = age_scale(frozen.train)
    start = network.build(chosen, 32, len(frozen.taxonomy.codes), scale)
    network.compile_for_training(start, chosen, scale, steps=10)
    start.optimizer.build(start.trainable_variables)
    here, there = begin(tmp_path / "here", start), begin(tmp_path / "there", start)
    learn(chosen, Sides(frozen.taxonomy.codes, frozen.train, frozen.validation, ready.pixels()), here, tmp_path)
    command = [
        sys.executable,
        "-c",
        NO_TENSORFLOW + ELSEWHERE,
        ready.snapshot,
        chosen.name + ":epochs=1,dropout=0",
        str(there),
    ]
    subprocess.run(command, check=True, env=ready.environment(KERAS_BACKEND=backend))
    expected, found = first_epoch(here), first_epoch(there)
    assert found["loss"] == pytest.approx(expected["loss"], abs=1e-4)
    assert found["val_loss"] == pytest.approx(expected["val_loss"], abs=1e-4)


@pytest.mark.parametrize("backend", [pytest.param("jax", marks=needs_jax), "torch"])
def test_another_backend_answers_alike(tmp_path: Path, backend: str) -> None:
    """With textures, orientations and bounds, and a network that is fed the middle: all that is made of Keras's operations."""
    if find_spec(backend) is None:
        pytest.skip("needs PyTorch, which is no part of the project's environments")
    rng = np.random.default_rng(1)
    chosen = "probe:backbone=efficientnet-lite0@64/textures+efficientnet-lite1@64x2,recipe=square@64"
    model = network.build(experiment.named(chosen), 64, 7, AgeScale(50.0, 17.0), views=2)
    for layer in (network.AGE, network.SEX, network.SEX_KNOWN, network.DIAGNOSIS):
        weights, offset = model.get_layer(layer).get_weights()
        model.get_layer(layer).set_weights([rng.normal(scale=0.02, size=weights.shape), offset])
    model.save(tmp_path / "model.keras")
    images = rng.integers(0, 256, (3, 64, 64, 3)).astype(np.uint8)
    np.save(tmp_path / "images.npy", images)
    command = [sys.executable, "-c", NO_TENSORFLOW + ANSWERED, str(tmp_path)]
    kept = os.environ | {"KERAS_BACKEND": backend, "CUDA_VISIBLE_DEVICES": ""}
    done = subprocess.run(command, env=kept, capture_output=True, text=True, check=True)
    told, expected = json.loads(done.stdout.splitlines()[-1]), network.answers(model, images)
    for head, tolerance in (("age", 0.01), ("sex", 1e-4), ("diagnosis", 1e-4)):
        assert np.allclose(told[head], getattr(expected, head), atol=tolerance), head
    assert np.ptp(expected.age) > 1


ANSWERED = """
import json, sys
from pathlib import Path
import numpy as np
from dermanet.learning import model
found = model.answers(model.load(Path(sys.argv[1], "model.keras")), np.load(Path(sys.argv[1], "images.npy")))
print(json.dumps({head: np.asarray(getattr(found, head)).tolist() for head in model.HEADS}))
"""

NO_TENSORFLOW = """
import sys
from importlib.machinery import PathFinder
class Without(PathFinder):
    @classmethod
    def find_spec(cls, name, *rest):
        return None if name.partition(".")[0] == "tensorflow" else PathFinder.find_spec(name, *rest)
sys.meta_path[sys.meta_path.index(PathFinder)] = Without
"""
"""Lines after which an interpreter finds no TensorFlow, as on a machine that has none."""

ELSEWHERE = """
import sys
from pathlib import Path
from dermanet import experiment, settings
from dermanet.learning.train import Sides, learn
from dermanet.pixels.prepared import PreparedPixels
from dermanet.pixels.preprocess import recipe
from dermanet.stages.rooms import frozen_snapshot, prepared_root
here, chosen = settings.read(), experiment.named(sys.argv[2])
frozen, pixels = frozen_snapshot(here, sys.argv[1]), PreparedPixels(prepared_root(here), recipe(chosen.recipe))
learn(chosen, Sides(frozen.taxonomy.codes, frozen.train, frozen.validation, pixels), Path(sys.argv[3]), Path(sys.argv[3]))
"""


def begin(folder: Path, start: Any) -> Path:
    """A training that is to go on from these weights."""
    folder.mkdir()
    start.save(folder / "start.keras")
    digest = hashlib.sha256((folder / "start.keras").read_bytes()).hexdigest()
    progress = Progress(last_file="start.keras", digests={"start.keras": digest})
    (folder / "progress.json").write_text(json.dumps(asdict(progress)))
    return folder


def first_epoch(folder: Path) -> dict[str, float]:
    (figures,) = json.loads((folder / "progress.json").read_text())["history"]
    return figures


def wait_for(moment: Callable[[], bool], stage: "subprocess.Popen[str]") -> None:
    deadline = time.monotonic() + EARLY
    while not moment():
        assert stage.poll() is None and time.monotonic() < deadline, "the stage ended, or is too slow"
        time.sleep(0.02)


def members_of(stage: "subprocess.Popen[str]") -> list[psutil.Process]:
    return [child for child in psutil.Process(stage.pid).children() if START in _words(child)]


def _words(process: psutil.Process) -> list[str]:
    """Of what has ended already, none: the stage has other children, too, for moments."""
    try:
        return process.cmdline()
    except psutil.NoSuchProcess:
        return []


@pytest.mark.parametrize(
    ("backend", "said"),
    [
        ("foo", "KERAS_BACKEND='foo'; allowed are tensorflow, jax, torch"),
        ("numpy", "KERAS_BACKEND='numpy'; allowed are"),
        ("torch", "KERAS_BACKEND=torch, which is not installed here; install PyTorch (docs/distributed.md), or unset"),
    ],
)
def test_a_backend_that_cannot_train_here_is_said_before_anything_is_done(
    home: Path, monkeypatch: pytest.MonkeyPatch, backend: str, said: str
) -> None:
    if backend == "torch" and find_spec("torch"):
        pytest.skip("PyTorch is installed here")
    monkeypatch.setenv("KERAS_BACKEND", backend)
    for stage in (lambda: stages.retrain(["synthetic:lesions=4"], "smoke"), lambda: stages.search("", "smoke")):
        with pytest.raises(BadInput) as caught:
            stage()
        assert said in str(caught.value) and "\n" not in str(caught.value)
    assert not home.exists()
