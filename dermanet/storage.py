"""Places that hold files: a local folder, or a bucket with a prefix. Names are relative, with `/`, and never leave the place."""

import os
import re
from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from threading import Lock
from typing import Any, Protocol
from uuid import uuid4

from dermanet.errors import BadInput

_MAKING = Lock()

HALF_WRITTEN = re.compile(r"\..+\.[0-9a-f]{32}")
"""The names that files have while they are written."""


class Place(Protocol):
    """A folder or a bucket."""

    def listing(self) -> Mapping[str, int]:
        """Every file's name and its size in bytes, in the order of the names."""
        ...

    def read(self, name: str) -> bytes:
        """The whole file. Raises FileNotFoundError."""
        ...

    def start(self, name: str, size: int) -> bytes:
        """The first `size` bytes of the file, or all of a shorter one. Raises FileNotFoundError."""
        ...

    def write(self, name: str, data: bytes) -> None:
        """Creates or replaces the file, whole or not at all."""
        ...

    def exists(self, name: str) -> bool:
        """Whether the file is there."""
        ...

    def remove(self, name: str) -> None:
        """Removes the file for good; one that is not there is no fault."""
        ...

    def written(self, name: str) -> float:
        """When the file was written, in seconds since 1970. Raises FileNotFoundError."""
        ...

    def unfinished(self, before: float) -> Mapping[str, int]:
        """Files that a killed writer left half-written before a moment, in seconds since 1970, with their sizes."""
        ...


def place(text: str) -> Place:
    """`s3://bucket/prefix`, or the path of a folder. Raises BadInput."""
    return Bucket(text) if text.startswith("s3://") else Folder(Path(text))


class Folder:
    """A local folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def __str__(self) -> str:
        return str(self.root)

    def listing(self) -> dict[str, int]:
        """Every file below the folder, hidden ones and half-written ones aside."""
        if not self.root.is_dir():
            raise BadInput(f"{self.root} is not a folder")
        found: dict[str, int] = {}
        for folder, folders, files in os.walk(self.root):
            folders[:] = (name for name in folders if not name.startswith("."))
            for name in files:
                path = Path(folder, name)
                if not name.startswith(".") and path.is_file():
                    found[path.relative_to(self.root).as_posix()] = path.stat().st_size
        return dict(sorted(found.items()))

    def read(self, name: str) -> bytes:
        """The whole file. Raises FileNotFoundError."""
        return (self.root / inside(name)).read_bytes()

    def start(self, name: str, size: int) -> bytes:
        """The first `size` bytes of the file. Raises FileNotFoundError."""
        with (self.root / inside(name)).open("rb") as file:
            return file.read(size)

    def write(self, name: str, data: bytes) -> None:
        """Creates or replaces the file by a rename."""
        path = self.root / inside(name)
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary = path.with_name(f".{path.name}.{uuid4().hex}")  # As HALF_WRITTEN has it.
        try:
            temporary.write_bytes(data)
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)

    def exists(self, name: str) -> bool:
        """Whether the file is there."""
        return (self.root / inside(name)).is_file()

    def remove(self, name: str) -> None:
        """Removes the file; one that is not there is no fault."""
        (self.root / inside(name)).unlink(missing_ok=True)

    def written(self, name: str) -> float:
        """When the file was written, in seconds since 1970. Raises FileNotFoundError."""
        return (self.root / inside(name)).stat().st_mtime

    def unfinished(self, before: float) -> dict[str, int]:
        """Files that a killed writer left half-written before a moment, in seconds since 1970, with their sizes."""
        found = ((path, path.stat()) for path in self.root.rglob(".*") if HALF_WRITTEN.fullmatch(path.name))
        return {path.relative_to(self.root).as_posix(): stat.st_size for path, stat in found if stat.st_mtime < before}


class Bucket:
    """A bucket, or what lies below a prefix of it. Endpoint and credentials are boto3's own (`AWS_ENDPOINT_URL_S3`, …)."""

    def __init__(self, url: str) -> None:
        path = url.removeprefix("s3://").rstrip("/")
        self.url = f"s3://{path}"
        self.bucket, _, prefix = path.partition("/")
        self.prefix = f"{prefix}/" if prefix else ""
        if not self.bucket:
            raise BadInput(f"{url!r} names no bucket; write s3://bucket or s3://bucket/prefix")

    def __str__(self) -> str:
        return self.url

    @cached_property
    def _client(self) -> Any:
        import boto3
        from botocore.config import Config

        # Thirty-two connections, so that threads that read ahead do not wait for one another.
        config = Config(max_pool_connections=32, retries={"mode": "standard", "max_attempts": 5})
        # A client may be used by several threads at once, but two may not be made at once.
        with _MAKING:
            return boto3.Session().client("s3", config=config)

    def listing(self) -> dict[str, int]:
        """Every object below the prefix, hidden ones aside. Raises BadInput where the bucket cannot be listed."""
        from botocore.exceptions import BotoCoreError, ClientError

        pages = self._client.get_paginator("list_objects_v2")
        try:
            found = {
                entry["Key"].removeprefix(self.prefix): entry["Size"]
                for page in pages.paginate(Bucket=self.bucket, Prefix=self.prefix)
                for entry in page.get("Contents", ())
            }
        except (BotoCoreError, ClientError) as error:
            raise BadInput(
                f"{self.url} cannot be listed: {error}; check the name, the endpoint and the credentials"
            ) from None
        # Sorted here: not every S3 server lists `a.csv` before `a/x.jpg`.
        return {name: found[name] for name in sorted(found) if not f"/{name}".endswith("/") and "/." not in f"/{name}"}

    def read(self, name: str) -> bytes:
        """The whole object. Raises FileNotFoundError."""
        try:
            return bytes(self._client.get_object(Bucket=self.bucket, Key=self.prefix + inside(name))["Body"].read())
        except self._client.exceptions.NoSuchKey:
            raise FileNotFoundError(f"{self.url}/{name}") from None

    def start(self, name: str, size: int) -> bytes:
        """The first `size` bytes of the object. Raises FileNotFoundError."""
        try:
            found = self._client.get_object(Bucket=self.bucket, Key=self.prefix + inside(name))
        except self._client.exceptions.NoSuchKey:
            raise FileNotFoundError(f"{self.url}/{name}") from None
        # Read and closed rather than asked for by range, which an empty object has not.
        with found["Body"] as body:
            return bytes(body.read(size))

    def write(self, name: str, data: bytes) -> None:
        """Creates or replaces the object."""
        self._client.put_object(Bucket=self.bucket, Key=self.prefix + inside(name), Body=data)

    def exists(self, name: str) -> bool:
        """Whether the object is there."""
        from botocore.exceptions import ClientError

        try:
            self._client.head_object(Bucket=self.bucket, Key=self.prefix + inside(name))
        except ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] == 404:
                return False
            raise
        return True

    def remove(self, name: str) -> None:
        """Removes the object; one that is not there is no fault."""
        self._client.delete_object(Bucket=self.bucket, Key=self.prefix + inside(name))

    def written(self, name: str) -> float:
        """When the object was written, in seconds since 1970. Raises FileNotFoundError."""
        from botocore.exceptions import ClientError

        try:
            found = self._client.head_object(Bucket=self.bucket, Key=self.prefix + inside(name))
        except ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] == 404:
                raise FileNotFoundError(f"{self.url}/{name}") from None
            raise
        return float(found["LastModified"].timestamp())

    def unfinished(self, before: float) -> dict[str, int]:
        """Nothing: a bucket shows an object whole or not at all."""
        return {}


def inside(name: str) -> str:
    """The name itself, if it stays inside its place. Raises BadInput for an absolute name or one with `..` in it."""
    parts = name.split("/")
    if not name or name.startswith("/") or ".." in parts or "\\" in name or "\0" in name:
        raise BadInput(f"the name {name!r} leaves its folder; a name is relative and has no '..'")
    return name
