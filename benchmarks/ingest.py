"""Ingest by the command line, whole processes: from a folder and from a real S3 server, catalogue and screening included.

    python -m benchmarks.ingest [IMAGES]     10,015 unless told, as many as HAM10000 has

The files are synthetic images, as large as HAM10000's, in its layout and with as many images a lesion: each is drawn, so that every
newcomer is compared with all before it, as real ones are. Each ingest is a process with a new home; its peak of memory
is taken for a tenth of the images and for all. Processor time is what that process itself used, and says what two idle cores would do.
"""

import csv
import json
import os
import resource
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from itertools import islice
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from dermanet.intake.synthetic import SyntheticSource
from dermanet.records import Row
from dermanet.storage import Bucket

IMAGES = 10_015
PART = "HAM10000_images_part_1"
COLUMNS = ("lesion_id", "image_id", "dx", "dx_type", "age", "sex", "localization")
KEY, SECRET, BUCKET = "key-of-the-benchmark", "secret-of-the-benchmark", "benchmark"
PORTS = (
    "master.port", "master.port.grpc", "volume.port", "volume.port.grpc",
    "filer.port", "filer.port.grpc", "s3.port", "s3.port.grpc",
)  # fmt: skip


def write_set(folder: Path, images: int) -> None:
    """Image files and a label file in HAM10000's layout."""
    rows = [row for row in islice(SyntheticSource(lesions=images).rows(), images) if isinstance(row, Row)]
    (folder / PART).mkdir(parents=True)
    with (folder / "HAM10000_metadata.csv").open("w", newline="") as file:
        table = csv.writer(file)
        table.writerow(COLUMNS)
        for row in rows:
            table.writerow([row.lesion_id, row.image_id, row.diagnosis, "histo", row.age, row.sex, row.localization])
    with ProcessPoolExecutor() as pool:
        list(pool.map(partial(_draw, folder, images), rows, chunksize=50))


def _draw(folder: Path, images: int, row: Row) -> None:
    (folder / PART / f"{row.image_id}.jpg").write_bytes(SyntheticSource(lesions=images).read(str(row.image)))


def taken(source: str, images: int) -> dict[str, float]:
    """One `dermanet ingest` with a home of its own: images a second, processor time and peak of memory."""
    with TemporaryDirectory() as home:
        before, start = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
        environ = {**os.environ, "DERMANET_HOME": home}
        command = [sys.executable, "-c", INGEST, source]
        done = subprocess.run(command, env=environ, capture_output=True, text=True, check=True)
        seconds, after = time.perf_counter() - start, resource.getrusage(resource.RUSAGE_CHILDREN)
    told = json.loads(done.stdout)
    assert told["accepted"] == images, told
    used = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return {
        "images_per_second": round(images / seconds, 1),
        "processor_ms_per_image": round(1000 * used / images, 2),
        "peak_mb": told["peak_mb"],
    }


INGEST = """
import json, sys
from benchmarks.resident import peak_mb
from dermanet import stages
done = stages.ingest(sys.argv[1])
print(json.dumps({**done, "peak_mb": peak_mb()}))
"""


@contextmanager
def s3_server(folder: Path) -> Iterator[None]:
    """A SeaweedFS on this machine alone, with AWS's variables set to it."""
    ports = dict(zip(PORTS, _free_ports(len(PORTS)), strict=True))
    identity = {"name": "benchmark", "credentials": [{"accessKey": KEY, "secretKey": SECRET}], "actions": ["Admin"]}
    (folder / "s3.json").write_text(json.dumps({"identities": [identity]}))
    (folder / "data").mkdir()
    command = [
        str(Path(sys.executable).with_name("weed")), "server", "-s3", f"-s3.config={folder / 's3.json'}",
        f"-dir={folder / 'data'}", "-volume.max=60", "-master.volumeSizeLimitMB=64", "-ip=127.0.0.1", "-ip.bind=127.0.0.1",
        "-s3.port.iceberg=0", "-s3.port.lance=0", "-master.telemetry=false", "-master.raftHashicorp",
        "-master.electionTimeout=1s", *(f"-{name}={port}" for name, port in ports.items()),
    ]  # fmt: skip
    settings = {
        "AWS_ENDPOINT_URL_S3": f"http://127.0.0.1:{ports['s3.port']}", "AWS_ACCESS_KEY_ID": KEY,
        "AWS_SECRET_ACCESS_KEY": SECRET, "AWS_DEFAULT_REGION": "us-east-1",
    }  # fmt: skip
    with (folder / "log").open("w") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, cwd=folder)
        try:
            os.environ.update(settings)
            _wait_for_bucket()
            yield
        finally:
            process.kill()
            process.wait()


def _free_ports(count: int) -> list[int]:
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(found.getsockname()[1]) for found in sockets]
    for found in sockets:
        found.close()
    return ports


def _wait_for_bucket() -> None:
    import boto3
    from botocore.config import Config
    from botocore.exceptions import BotoCoreError, ClientError

    client = boto3.client("s3", config=Config(retries={"total_max_attempts": 1}))
    until = time.monotonic() + 60
    while True:
        try:
            client.create_bucket(Bucket=BUCKET)
            client.put_object(Bucket=BUCKET, Key="ready", Body=b"")
        except (BotoCoreError, ClientError):
            if time.monotonic() > until:
                raise
            time.sleep(0.2)
        else:
            return


def copied(folder: Path, name: str) -> str:
    """A folder's files in the bucket, as the address of a source."""
    bucket = Bucket(f"s3://{BUCKET}/{name}")
    paths = [path for path in folder.rglob("*") if path.is_file()]
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda path: bucket.write(path.relative_to(folder).as_posix(), path.read_bytes()), paths))
    return str(bucket)


def measured(images: int) -> dict[str, Any]:
    """A tenth of the images and all of them, from a folder and from the S3 server."""
    found: dict[str, Any] = {"benchmark": "ingest", "images": images, "load": round(os.getloadavg()[0], 1)}
    with TemporaryDirectory() as root, TemporaryDirectory() as served:
        sizes = {"tenth": images // 10, "all": images}
        for word, count in sizes.items():
            write_set(Path(root) / word, count)
            found[f"folder_{word}"] = taken(f"{root}/{word}", count)
        with s3_server(Path(served)):
            for word, count in sizes.items():
                found[f"s3_{word}"] = taken(copied(Path(root) / word, word), count)
    for where in ("folder", "s3"):
        peaks = [found[f"{where}_{word}"]["peak_mb"] for word in sizes]
        found[f"{where}_memory_all_against_tenth"] = round(peaks[1] / peaks[0], 2)
    return found


def main() -> None:
    """Prints one JSON line."""
    print(json.dumps(measured(int(sys.argv[1]) if len(sys.argv) > 1 else IMAGES)))


if __name__ == "__main__":
    main()
