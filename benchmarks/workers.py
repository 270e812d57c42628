"""Prepare and feature extraction by one worker and by two, each kept to a core of its own, in pairs that take turns.

    python -m benchmarks.workers [FOLDER [IMAGES]]     JPEGs below the folder, copied until there are so many; 10,015 unless told

A worker takes part after part of what the stages would give Airflow, each in a process of its own, so that every part pays for its
imports as a task does (but for Airflow's own, which a worker has imported once). Copies differ in their header alone: the same
pixels under other digests. Without a folder the images are synthetic. Seconds are from the listing of parts to the end of the last
one. Features are those of the four backbones of `probe` for a tenth of the images; exporting them is not in the seconds.
"""

import json
import os
import struct
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from statistics import median
from tempfile import TemporaryDirectory
from typing import Any

from benchmarks.pixels import files_in

IMAGES, DRAWN = 10_015, 1_500
EXPERIMENTS = {"prepare": "plain128", "extract": "probe"}
ROUNDS = {"prepare": 3, "extract": 1}

FILL = """
import csv, os, sys
from dermanet import stages
stages.ingest(sys.argv[1])
print(stages.snapshot()["snapshot"])
"""

WORK = {
    "prepare": "stages.prepare_part(sys.argv[1], sys.argv[2], stages.named_part(sys.argv[3]), lambda done, total: None)",
    "extract": "stages.extract(sys.argv[1], sys.argv[2], stages.named_part(sys.argv[3]))",
}
LIST = {"prepare": "preparation_parts", "extract": "feature_parts"}
"""The stages that list the parts, by the work."""


def with_comment(data: bytes, number: int) -> bytes:
    """A JPEG whose header says a number: the same pixels, another digest once it is stored, as long as its colour profile stays."""
    content = b"ICC_PROFILE\0\x01\x01" + f"{number:09d}".encode()
    return data[:2] + b"\xff\xe2" + struct.pack(">H", len(content) + 2) + content + data[2:]


def snapshot_of(files: Sequence[bytes], images: int, folder: Path, environ: dict[str, str]) -> str:
    """A home with so many images, taken in and frozen; a lesion is a file and its copies."""
    (folder / "images").mkdir()
    lines = ["image,lesion_id,age,sex,dx"]
    for number in range(images):
        own = number % len(files)
        (folder / "images" / f"{number}.jpg").write_bytes(with_comment(files[own], number))
        lines.append(f"{number}.jpg,L{own},50,male,{('nv', 'mel', 'bkl')[own % 3]}")
    (folder / "images" / "labels.csv").write_text("\n".join(lines))
    return _told(["-c", FILL, str(folder / "images")], environ).split()[-1]


def seconds(work: str, snapshot: str, workers: int, environ: dict[str, str]) -> tuple[float, int, list[float]]:
    """How long it takes so many workers, each on a core, to do what is missing; the parts there were, and what each of them took."""
    start = time.perf_counter()
    listing = f"import json, sys; from dermanet import stages; print(json.dumps(stages.{LIST[work]}(*sys.argv[1:])))"
    parts = json.loads(_told(["-c", listing, snapshot, EXPERIMENTS[work]], environ, core=0).splitlines()[-1])
    waiting, free = list(parts), list(range(workers))
    running: dict[subprocess.Popen[bytes], tuple[int, float]] = {}
    took: list[float] = []
    while waiting or running:
        while waiting and free:
            part, core = waiting.pop(0), free.pop()
            words = ["-c", f"import sys; from dermanet import stages; {WORK[work]}", snapshot, EXPERIMENTS[work]]
            name = f"{part['part'] + 1}/{part['parts']}"
            running[_started([*words, name], environ, core)] = (core, time.perf_counter())
        for process in [process for process in running if process.poll() is not None]:
            core, since = running.pop(process)
            assert process.returncode == 0
            took.append(round(time.perf_counter() - since, 2))
            free.append(core)
        time.sleep(0.005)
    return time.perf_counter() - start, len(parts), took


def measured(files: Sequence[bytes], images: int) -> dict[str, Any]:
    """Both kinds of work, in rounds of one worker and two."""
    found: dict[str, Any] = {}
    with TemporaryDirectory() as root:
        for work, count in (("prepare", images), ("extract", images // 10)):
            folder = Path(root) / work
            folder.mkdir()
            environ = {**os.environ, "DERMANET_HOME": str(folder / "home"), "TF_CPP_MIN_LOG_LEVEL": "3"}
            snapshot = snapshot_of(files, count, folder, environ)
            if work == "extract":
                _told(["-m", "dermanet", "prepare", snapshot, "-e", EXPERIMENTS[work], "--json"], environ)
                _told(["-c", EXPORT, snapshot, EXPERIMENTS[work]], environ)
            pairs = [
                tuple(_emptied(work, folder, snapshot, workers, environ) for workers in (1, 2))
                for _ in range(ROUNDS[work])
            ]
            found |= {
                f"{work}_images": count, f"{work}_parts": pairs[0][0][1],
                f"{work}_one_worker_s": round(median(one[0] for one, _ in pairs), 2),
                f"{work}_two_workers_s": round(median(two[0] for _, two in pairs), 2),
                f"{work}_two_against_one": round(median(two[0] / one[0] for one, two in pairs), 3),
                f"{work}_part_s": median(took for one, _ in pairs for took in one[2]),
            }  # fmt: skip
    return found


EXPORT = "import sys; from dermanet import stages; stages.feature_parts(*sys.argv[1:])"


def _emptied(
    work: str, folder: Path, snapshot: str, workers: int, environ: dict[str, str]
) -> tuple[float, int, list[float]]:
    """The same from nothing: whatever an earlier round has made is removed first, but for exported backbones."""
    for path in (folder / "home" / {"prepare": "prepared", "extract": "features"}[work]).rglob("*"):
        if path.suffix in (".npy", ".json"):
            path.unlink()
    return seconds(work, snapshot, workers, environ)


def _command(words: Sequence[str], core: int | None) -> list[str]:
    pinned = ["taskset", "--cpu-list", str(sorted(os.sched_getaffinity(0))[core])] if core is not None else []
    return [*pinned, sys.executable, *words]


def _started(words: Sequence[str], environ: dict[str, str], core: int) -> subprocess.Popen[bytes]:
    return subprocess.Popen(_command(words, core), env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)


def _told(words: Sequence[str], environ: dict[str, str], core: int | None = None) -> str:
    done = subprocess.run(_command(words, core), env=environ, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(done.stderr[-2000:])
    return done.stdout


def main() -> None:
    """Prints one JSON line."""
    folder = sys.argv[1] if len(sys.argv) > 1 else None
    images = int(sys.argv[2]) if len(sys.argv) > 2 else IMAGES
    if len(os.sched_getaffinity(0)) < 2:
        raise SystemExit("needs two cores: one for each worker")
    files = files_in(folder, min(DRAWN, images))
    what = {"benchmark": "workers", "files": len(files), "load": round(os.getloadavg()[0], 1)}
    print(json.dumps({**what, **measured(files, images)}))


if __name__ == "__main__":
    main()
