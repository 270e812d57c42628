"""What an answer over HTTP costs: `dermanet serve` against a plain loop, MLflow's stock Keras flavour and `keras.predict`.

python -m benchmarks.serving [--home HOME] [--photo FILE] [--requests 100000]

Without a home it trains a probe on synthetic images; with one, its champion is served. The load is `wrk` on loopback, which is skipped
where it is not installed (Debian: wrk). Loads are bounded: some seconds each, but for `--requests`, which looks at memory over time.
"""

import argparse
import base64
import json
import os
import re
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import psutil
import requests

from dermanet import settings, stages
from dermanet.pixels import preprocess
from dermanet.registry.tracking import model_files
from dermanet.serving.network import CARD, load
from dermanet.stages.rooms import tracking_of, versions_of

GRAIN = 4.0
ROUNDS, SECONDS, BATCH, CONNECTIONS = 3, 8, 64, 8
EXPERIMENT = "probe:backbone=efficientnet-lite0,recipe=square@224,views=1"
"""EfficientNet-Lite 0 at 224 pixels: what MLflow's and Keras's own ways were timed with at first."""

GATES = "mode: 'off'\nchecks:\n  age_mae: {greater_is_better: false, threshold: 100}\n"

PACED = """
wrk.method = "POST"
wrk.headers["Content-Type"] = "application/json"
wrk.body = io.open("BODY"):read("*a")
function delay() return DELAY end
done = function(summary, latency, requests)
  io.write(string.format("P50 %f P99 %f N %d E %d\\n", latency:percentile(50) / 1000, latency:percentile(99) / 1000,
    summary.requests, summary.errors.status + summary.errors.timeout + summary.errors.read + summary.errors.connect))
end
"""


def main() -> None:
    """Prints one JSON line."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--home", type=Path)
    parser.add_argument("--photo", type=Path)
    parser.add_argument("--requests", type=int, default=0)
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="dermanet-serving-") as name:
        folder = Path(name)
        _enter(asked.home, folder)
        photo = asked.photo.read_bytes() if asked.photo else drawn()
        (folder / "body.json").write_text(json.dumps(body_of([photo])))
        print(json.dumps({"benchmark": "serving", **measured(folder, photo, asked.requests)}))


def measured(folder: Path, photo: bytes, many: int) -> dict[str, Any]:
    """All figures."""
    files = model_files("models:/dermanet@champion")
    found: dict[str, Any] = {
        "cores": os.cpu_count(),
        "photo_kb": len(photo) // 1000,
        "load_before": round(os.getloadavg()[0], 1),
    }
    with serving(folder, "--workers", "2", "--poll", "1") as (address, process):
        rates = [(loop(files, photo), wrk(folder, address, CONNECTIONS)["rate"]) for _ in range(ROUNDS)]
        found["loop"], found["server"] = (round(statistics.median(one), 1) for one in zip(*rates, strict=True))
        found["against_loop"] = ratio(rates)
        found |= latencies(folder, address, found["server"])
        found["worker_mb"] = megabytes(process)
        if many:
            found["worker_mb_over_time"] = flat(folder, address, process, many)
        found |= batches(files, address, photo)
        found["worker_mb_after_batches"] = megabytes(process)
        found["promotion_seconds"] = promotion(address)
        with stock(folder, files) as other:
            found["stock"] = round(wrk(folder, other, CONNECTIONS, "tensor.json")["rate"], 2)
        found["against_stock"] = round(found["server"] / found["stock"], 1)
    return found


def drawn() -> bytes:
    """A photograph of 600x450, drawn: skin with a spot and the grain of a camera, as a JPEG of 60 kB, like those of HAM10000."""
    rng = np.random.default_rng(1)
    rows, columns = np.mgrid[0:450, 0:600].astype(np.float32)
    near = np.exp(-((rows - 225) ** 2 + (columns - 300) ** 2) / 15000)[..., None]
    skin = np.array((160, 180, 225), np.float32) * (1 - near) + np.array((50, 60, 95), np.float32) * near
    pixels = np.clip(skin + rng.normal(0, GRAIN, (450, 600, 1)), 0, 255).astype(np.uint8)
    return bytes(cv2.imencode(".jpg", pixels, [cv2.IMWRITE_JPEG_QUALITY, 92])[1].tobytes())


def body_of(photos: Sequence[bytes]) -> dict[str, Any]:
    """A request as MLflow's clients send it."""
    return {"dataframe_split": {"columns": ["image"], "data": [[base64.b64encode(photo).decode()] for photo in photos]}}


def ratio(pairs: Sequence[tuple[float, float]]) -> float:
    """The median of the second over the first."""
    return round(statistics.median(second / first for first, second in pairs), 2)


def loop(files: Path, photo: bytes) -> float:
    """Images a second of one process that decodes, prepares and runs the graph, with ONNX Runtime as it comes."""
    network = load(files / "model.onnx", files / CARD)
    until, count = time.perf_counter() + SECONDS / 2, 0
    start = time.perf_counter()
    while time.perf_counter() < until:
        network.answer(preprocess.prepare(photo, network.recipe)[None])
        count += 1
    return count / (time.perf_counter() - start)


def wrk(
    folder: Path, address: str, connections: int, body: str = "body.json", delay: int = 0, seconds: int = SECONDS
) -> dict[str, float]:
    """Requests a second and milliseconds, with so many connections, each pausing `delay` milliseconds after an answer."""
    script = folder / "load.lua"
    text = PACED.replace("BODY", str(folder / body)).replace("DELAY", str(delay))
    script.write_text(text if delay else text.replace(f"function delay() return {delay} end", ""))
    words = f"wrk -t1 -c{connections} -d{seconds} --timeout 60 -s {script} {address}/invocations"
    said = subprocess.run(words.split(), check=True, capture_output=True, text=True).stdout
    p50, p99, count, errors = map(float, re.findall(r"P50 (\S+) P99 (\S+) N (\d+) E (\d+)", said)[0])
    if errors:
        raise SystemExit(f"{errors:.0f} of {count:.0f} requests to {address} failed")
    rate = float(re.findall(r"Requests/sec:\s+(\S+)", said)[0])
    return {"rate": rate, "p50": p50, "p99": p99}


def latencies(folder: Path, address: str, highest: float) -> dict[str, Any]:
    """Milliseconds unloaded, at half the highest load, and under it."""
    alone = wrk(folder, address, 1)
    # Each client pauses so long that together they ask for half of what could be answered.
    pause = max(1, round(CONNECTIONS / (highest / 2) * 1000 - alone["p50"]))
    half = wrk(folder, address, CONNECTIONS, delay=pause, seconds=2 * SECONDS)
    told = {"unloaded": alone, "half": half, "full": wrk(folder, address, CONNECTIONS)}
    rounded = {name: {what: round(value, 1) for what, value in one.items()} for name, one in told.items()}
    return {"milliseconds": rounded, "p99_half_against_median": round(half["p99"] / alone["p50"], 2)}


def batches(files: Path, address: str, photo: bytes) -> dict[str, Any]:
    """Images a second of requests with 64 images, against Keras on prepared arrays, in turn."""
    text = json.dumps(body_of([photo] * BATCH))
    session = requests.Session()
    session.trust_env = False
    network = load(files / "model.onnx", files / CARD)
    pixels = preprocess.prepare(photo, network.recipe)

    def ours() -> float:
        start = time.perf_counter()
        session.post(
            f"{address}/invocations", data=text, headers={"Content-Type": "application/json"}, timeout=120
        ).raise_for_status()
        return BATCH / (time.perf_counter() - start)

    ours()
    pairs = [
        (keras_rate(files / "model.keras", pixels), statistics.median(ours() for _ in range(5))) for _ in range(ROUNDS)
    ]
    return {
        "batch_of_64": round(statistics.median(second for _, second in pairs)),
        "keras_predict": round(statistics.median(first for first, _ in pairs)),
        "batch_against_keras": ratio(pairs),
    }


def keras_rate(keras_file: Path, pixels: "np.ndarray[Any, Any]") -> float:
    """Images a second of `keras.predict` on a prepared batch, in a process of its own."""
    script = (
        "import sys, time, numpy, keras; from dermanet.learning.model import load\n"
        "model = load(__import__('pathlib').Path(sys.argv[1]))\n"
        f"x = numpy.repeat(numpy.load(sys.argv[2])[None], {BATCH}, axis=0).astype('float32')\n"
        "model.predict(x, batch_size=32, verbose=0); start = time.perf_counter()\n"
        f"[model.predict(x, batch_size=32, verbose=0) for _ in range(3)]; print(3 * {BATCH} / (time.perf_counter() - start))"
    )
    with tempfile.NamedTemporaryFile(suffix=".npy") as file:
        np.save(file, pixels)
        file.flush()
        command = [sys.executable, "-c", script, str(keras_file), file.name]
        return float(subprocess.run(command, check=True, capture_output=True, text=True).stdout.split()[-1])


def promotion(address: str) -> float:
    """Seconds from a move of the alias to the first answer of the version: another one, and back."""
    here = settings.read()
    versions = versions_of(here, tracking_of(here))
    champion = versions.holder("champion")
    source = versions.get(str(champion)).source
    other = versions.client.create_model_version("dermanet", str(source)).version
    found = []
    for version in (str(other), str(champion)) * 2:
        versions.move("champion", version)
        start = time.perf_counter()
        while requests.get(f"{address}/model", timeout=5).json()["version"] != version:
            time.sleep(0.02)
        found.append(time.perf_counter() - start)
    return round(max(found), 2)


def megabytes(process: psutil.Process) -> list[int]:
    """Resident memory of each worker."""
    workers = [child for child in process.children() if any("spawn_main" in word for word in child.cmdline())]
    return [round(worker.memory_info().rss / 1e6) for worker in workers]


def flat(folder: Path, address: str, process: psutil.Process, many: int) -> list[list[int]]:
    """The same after each tenth of so many requests."""
    found = []
    rate = wrk(folder, address, CONNECTIONS)["rate"]
    for _ in range(10):
        wrk(folder, address, CONNECTIONS, seconds=max(1, round(many / 10 / rate)))
        found.append(megabytes(process))
    return found


@contextmanager
def serving(folder: Path, *words: str) -> Iterator[tuple[str, psutil.Process]]:
    """`dermanet serve` while it is used."""
    with _process(folder, "serve", ["dermanet", "serve", *words, "--port"], "/ready") as started:
        time.sleep(5)
        yield started


@contextmanager
def stock(folder: Path, files: Path) -> Iterator[str]:
    """The same network logged with MLflow's Keras flavour, behind `mlflow models serve`, which is fed tensors."""
    script = (
        "import sys, mlflow, keras; from pathlib import Path; from dermanet.learning.model import load\n"
        "mlflow.keras.save_model(load(Path(sys.argv[1])), sys.argv[2])"
    )
    subprocess.run(
        [sys.executable, "-c", script, str(files / "model.keras"), str(folder / "stock")],
        check=True,
        capture_output=True,
    )
    size = json.loads((files / CARD).read_text())["recipe"]["size"]
    pixels = np.random.default_rng(1).integers(0, 256, (1, size, size, 3)).tolist()
    (folder / "tensor.json").write_text(json.dumps({"inputs": pixels}))
    words = [
        "mlflow",
        "models",
        "serve",
        "-m",
        str(folder / "stock"),
        "--env-manager",
        "local",
        "-h",
        "127.0.0.1",
        "-p",
    ]
    with _process(folder, "stock", words, "/ping") as (address, _):
        yield address


@contextmanager
def _process(folder: Path, name: str, words: list[str], path: str) -> Iterator[tuple[str, psutil.Process]]:
    with socket.create_server(("127.0.0.1", 0)) as probe:
        port = probe.getsockname()[1]
    environ = {**os.environ, "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"}
    with (folder / f"{name}.log").open("wb") as log:
        process = subprocess.Popen([sys.executable, "-m", *words, str(port)], env=environ, stdout=log, stderr=log)
        try:
            _until(partial(_answers, f"http://127.0.0.1:{port}{path}"), folder / f"{name}.log", process)
            yield f"http://127.0.0.1:{port}", psutil.Process(process.pid)
        finally:
            family = psutil.Process(process.pid).children(recursive=True)
            process.terminate()
            process.wait(60)
            psutil.wait_procs(family, timeout=30)


def _until(ready: Any, log: Path, process: "subprocess.Popen[bytes]") -> None:
    end = time.monotonic() + 180
    while not ready():
        if process.poll() is not None or time.monotonic() > end:
            raise SystemExit(log.read_text()[-2000:])
        time.sleep(0.2)


def _answers(url: str) -> bool:
    try:
        return requests.get(url, timeout=5).ok
    except requests.RequestException:
        return False


def _enter(home: Path | None, folder: Path) -> None:
    """Works in a home with a champion; in one of its own, with a probe on synthetic images, where none is given."""
    if shutil.which("wrk") is None:
        print("serving: skipped, the load comes from wrk, which is not installed (Debian: wrk)", file=sys.stderr)
        raise SystemExit(0)
    os.environ |= {"DERMANET_HOME": str(home or folder / "home"), "NO_PROXY": "127.0.0.1", "TF_CPP_MIN_LOG_LEVEL": "3"}
    if home is None:
        (folder / "gates.yaml").write_text(GATES)
        os.environ["DERMANET_GATES"] = str(folder / "gates.yaml")
        os.environ.pop("MLFLOW_TRACKING_URI", None)
        stages.retrain(["synthetic:lesions=120,seed=3"], EXPERIMENT)
        stages.promote("1")
    os.environ.setdefault("MLFLOW_TRACKING_URI", settings.read().tracking_uri)
    tracking_of(settings.read())


if __name__ == "__main__":
    main()
