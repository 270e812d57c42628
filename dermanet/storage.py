"""Places that hold files: a local folder, or a bucket with a prefix. Names are relative, with `/`, and never leave the place."""

import os
import re
from collections.abc import Iterator, Mapping
from contextlib import suppress
from errno import EACCES
from functools import cached_property
from pathlib import Path
from stat import S_ISREG
from threading import Lock
from typing import Any, NamedTuple, Protocol
from uuid import uuid4

from dermanet import transfer
from dermanet.errors import BadInput, Changed

_MAKING = Lock()

HALF_WRITTEN = re.compile(r"\..+\.[0-9a-f]{32}")
"""The names that files have while they are written."""

OF_THE_SYSTEM = frozenset({"lost+found", "$RECYCLE.BIN", "System Volume Information"})
"""Folders at the root of a disk that its owner did not make, and may not read."""

TRIES = 3
"""How often an object that is replaced while it is read is begun again."""


class Entry(NamedTuple):
    """What a listing says of one file: its size in bytes and when it was last changed, in seconds since 1970.

    `etag`: what a server calls these bytes, and no others; empty in a folder.
    """

    size: int
    changed: float
    etag: str = ""


class Place(Protocol):
    """A folder or a bucket."""

    def listing(self) -> Mapping[str, int]:
        """Every file's name and its size in bytes, in the order of the names."""
        ...

    def survey(self, closed: set[str] | None = None) -> Mapping[str, Entry]:
        """The listing, with when each file was last changed.

        Raises BadInput where a folder may not be read: what lies there must not be passed over in silence. With `closed`, the name of
        the folder one level down in which that is so is put there, and the rest is listed.
        """
        ...

    def chunks(self, name: str) -> Iterator[bytes]:
        """The file in pieces of a megabyte. Raises FileNotFoundError, and Changed where it is replaced meanwhile."""
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
        return {name: entry.size for name, entry in self.survey().items()}

    def survey(self, closed: set[str] | None = None) -> dict[str, Entry]:
        """The listing, with when each file was last changed. Raises BadInput, and fills `closed`, as `Place` says."""

        def unread(error: OSError) -> None:
            below = os.path.relpath(error.filename, self.root)
            if isinstance(error, FileNotFoundError):
                return
            if closed is None or below == ".":
                raise BadInput(
                    f"{error.filename} cannot be read: {error.strerror}; let it be read, or move it elsewhere"
                ) from None
            closed.add(below.split(os.sep)[0])

        if not self.root.is_dir():
            raise BadInput(f"{self.root} is not a folder")
        found: dict[str, Entry] = {}
        entered: set[tuple[int, int]] = set()
        # A folder that is linked to is read as one that lies there, after all that does lie there, whose names are its own. One that
        # is met again, as in a ring of links, is not.
        tops = [str(self.root)]
        for top in tops:
            for folder, folders, files in os.walk(top, onerror=unread):
                if _known(folder, entered):
                    folders.clear()
                    continue
                if not os.access(folder, os.X_OK):
                    # Its names may be read, and nothing of what they name.
                    folders.clear()
                    unread(PermissionError(EACCES, os.strerror(EACCES), folder))
                    continue
                below = os.path.relpath(folder, self.root)
                folders[:] = sorted(name for name in folders if not name.startswith(".") and name not in OF_THE_SYSTEM)
                tops += filter(os.path.islink, (os.path.join(folder, name) for name in folders))
                for name in files:
                    entry = None if name.startswith(".") else _entry(os.path.join(folder, name))
                    if entry:
                        found[name if below == "." else f"{below}/{name}"] = entry
        return dict(sorted(found.items()))

    def chunks(self, name: str) -> Iterator[bytes]:
        """The file in pieces. Raises FileNotFoundError."""
        with open(self._path(name), "rb") as file:
            while chunk := file.read(transfer.CHUNK):
                yield chunk

    def read(self, name: str) -> bytes:
        """The whole file. Raises FileNotFoundError."""
        with open(self._path(name), "rb") as file:
            return file.read()

    def start(self, name: str, size: int) -> bytes:
        """The first `size` bytes of the file. Raises FileNotFoundError."""
        with open(self._path(name), "rb") as file:
            return file.read(size)

    def write(self, name: str, data: bytes) -> None:
        """Creates or replaces the file by a rename."""
        path = self._path(name)
        folder, own = os.path.split(path)
        os.makedirs(folder, exist_ok=True)
        temporary = f"{folder}/.{own}.{uuid4().hex}"  # As HALF_WRITTEN has it.
        try:
            with open(temporary, "wb") as file:
                file.write(data)
            os.replace(temporary, path)
        finally:
            with suppress(FileNotFoundError):
                os.unlink(temporary)

    def exists(self, name: str) -> bool:
        """Whether the file is there."""
        return os.path.isfile(self._path(name))

    def remove(self, name: str) -> None:
        """Removes the file; one that is not there is no fault."""
        (self.root / inside(name)).unlink(missing_ok=True)

    def written(self, name: str) -> float:
        """When the file was written, in seconds since 1970. Raises FileNotFoundError."""
        return (self.root / inside(name)).stat().st_mtime

    def unfinished(self, before: float) -> dict[str, int]:
        """Files that a killed writer left half-written before a moment, in seconds since 1970, with their sizes."""
        found = {}
        for path in (one for one in self.root.rglob(".*") if HALF_WRITTEN.fullmatch(one.name)):
            # One that has gone meanwhile was finished.
            with suppress(FileNotFoundError):
                if (seen := path.stat()).st_mtime < before and S_ISREG(seen.st_mode):
                    found[path.relative_to(self.root).as_posix()] = seen.st_size
        return found

    def _path(self, name: str) -> str:
        # Text and no Path: a Path interns its parts, and an ingest makes as many as there are images.
        return f"{self.root}/{inside(name)}"


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
    def _server(self) -> transfer.Server:
        return transfer.Server(self.url, lambda: self._client)

    @cached_property
    def _client(self) -> Any:
        import boto3
        from botocore.config import Config

        # Thirty-two connections, so that threads that read ahead do not wait for one another. Trying again is left to `transfer`.
        config = Config(
            max_pool_connections=32, retries={"total_max_attempts": 1},
            connect_timeout=transfer.ANSWER_WITHIN, read_timeout=transfer.ANSWER_WITHIN,
        )  # fmt: skip
        # A client may be used by several threads at once, but two may not be made at once.
        with _MAKING:
            try:
                return boto3.Session().client("s3", config=config)
            except ValueError as error:
                raise BadInput(f"{self.url}: {error}; AWS_ENDPOINT_URL_S3 is to be like http://host:8333") from None

    def listing(self) -> dict[str, int]:
        """Every object below the prefix, hidden ones aside. Raises BadInput where the bucket cannot be listed."""
        return {name: entry.size for name, entry in self.survey().items()}

    def survey(self, closed: set[str] | None = None) -> dict[str, Entry]:
        """The listing, page by page, with when each object was last changed. Raises as `listing`: who may list some may list all."""
        try:
            found = {
                entry["Key"].removeprefix(self.prefix): Entry(
                    entry["Size"], entry["LastModified"].timestamp(), entry.get("ETag", "").strip('"')
                )
                for page in self._pages()
                for entry in page.get("Contents", ())
            }
        except (transfer.Refused, OSError) as error:
            raise BadInput(
                f"{self.url} cannot be listed: {error}; check the name, the endpoint and the credentials"
            ) from None
        # Sorted here: not every S3 server lists `a.csv` before `a/x.jpg`.
        return {name: found[name] for name in sorted(found) if not f"/{name}".endswith("/") and "/." not in f"/{name}"}

    def chunks(self, name: str) -> Iterator[bytes]:
        """The object in pieces, going on where a connection broke. Raises FileNotFoundError, and Changed."""
        return self._server.chunks(**self._key(name))

    def read(self, name: str) -> bytes:
        """The whole object. Raises FileNotFoundError."""
        return b"".join(self._begun_again(name))

    def start(self, name: str, size: int) -> bytes:
        """The first `size` bytes of the object. Raises FileNotFoundError."""
        # Read and closed rather than asked for by range, which an empty object has not.
        return b"".join(self._begun_again(name, size))[:size]

    def write(self, name: str, data: bytes) -> None:
        """Creates or replaces the object."""
        self._server.ask("put_object", **self._key(name), Body=data)

    def exists(self, name: str) -> bool:
        """Whether the object is there."""
        try:
            self._server.ask("head_object", **self._key(name))
        except FileNotFoundError:
            return False
        return True

    def remove(self, name: str) -> None:
        """Removes the object; one that is not there is no fault."""
        self._server.ask("delete_object", **self._key(name))

    def written(self, name: str) -> float:
        """When the object was written, in seconds since 1970. Raises FileNotFoundError."""
        return float(self._server.ask("head_object", **self._key(name))["LastModified"].timestamp())

    def unfinished(self, before: float) -> dict[str, int]:
        """Nothing: a bucket shows an object whole or not at all."""
        return {}

    def _key(self, name: str) -> dict[str, str]:
        return {"Bucket": self.bucket, "Key": self.prefix + inside(name)}

    def _pages(self) -> Iterator[Mapping[str, Any]]:
        mark: dict[str, str] = {}
        while True:
            page = self._server.ask("list_objects_v2", Bucket=self.bucket, Prefix=self.prefix, **mark)
            yield page
            if not page["IsTruncated"]:
                return
            mark = {"ContinuationToken": page["NextContinuationToken"]}

    def _begun_again(self, name: str, most: int | None = None) -> list[bytes]:
        """The chunks of one and the same object, as far as `most` bytes need. Raises OSError where it does not hold still."""
        for _ in range(TRIES):
            found: list[bytes] = []
            try:
                for chunk in self.chunks(name):
                    found.append(chunk)
                    if most is not None and sum(map(len, found)) >= most:
                        break
            except Changed:
                continue
            return found
        raise OSError(f"{self.url}/{name} is replaced again and again while it is read")


def _known(folder: str, entered: set[tuple[int, int]]) -> bool:
    """Whether a folder was entered before, or has gone; it counts as entered from now on."""
    try:
        seen = os.stat(folder)
    except OSError:
        return True
    before = len(entered)
    entered.add((seen.st_dev, seen.st_ino))
    return len(entered) == before


def _entry(path: str) -> Entry | None:
    """What a folder says of a file; None where it is something else, or has just gone."""
    try:
        seen = os.stat(path)
    except OSError:
        return None
    # A copy that keeps the time of its original, as `cp -p`, `rsync -a` and archives do, has come just now all the same.
    return Entry(seen.st_size, max(seen.st_mtime, seen.st_ctime)) if S_ISREG(seen.st_mode) else None


def inside(name: str) -> str:
    """The name itself, if it stays inside its place. Raises BadInput for an absolute name or one with `..` in it."""
    parts = name.split("/")
    if not name or name.startswith("/") or ".." in parts or "\\" in name or "\0" in name:
        raise BadInput(f"the name {name!r} leaves its folder; a name is relative and has no '..'")
    return name
