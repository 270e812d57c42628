"""Places: a local folder and a real bucket keep files alike, and no name leaves either."""

import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import boto3
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from dermanet.errors import BadInput
from dermanet.storage import Bucket, Folder, Place, inside, place


@pytest.fixture(params=["folder", "bucket"])
def somewhere(request: pytest.FixtureRequest, tmp_path: Path) -> Place:
    """An empty place of each kind."""
    if request.param == "folder":
        (tmp_path / "place").mkdir()
        return place(str(tmp_path / "place"))
    return place(request.getfixturevalue("bucket"))


def test_what_is_written_is_read_again(somewhere: Place) -> None:
    somewhere.write("a/b.bin", b"\0\xff" * 1000)
    somewhere.write("empty", b"")
    assert somewhere.read("a/b.bin") == b"\0\xff" * 1000 and somewhere.read("empty") == b""
    assert somewhere.exists("a/b.bin") and somewhere.exists("empty")


def test_the_start_of_a_file_is_read_without_the_rest(somewhere: Place) -> None:
    somewhere.write("long", b"0123456789" * 1000)
    somewhere.write("empty", b"")
    assert somewhere.start("long", 4) == b"0123"
    assert somewhere.start("empty", 4) == b""
    with pytest.raises(OSError, match="absent"):
        somewhere.start("absent", 4)


def test_a_second_write_replaces_the_first(somewhere: Place) -> None:
    somewhere.write("x", b"long before")
    somewhere.write("x", b"after")
    assert somewhere.read("x") == b"after" and somewhere.listing() == {"x": 5}


def test_the_listing_has_sizes_and_the_order_of_the_names(somewhere: Place) -> None:
    for name in ("b.jpg", "a/x.jpg", "a/y/z.jpg", "a.csv", "c/1.png", "B.jpg", "ä.jpg"):
        somewhere.write(name, name.encode())
    expected = ["B.jpg", "a.csv", "a/x.jpg", "a/y/z.jpg", "b.jpg", "c/1.png", "ä.jpg"]
    assert list(somewhere.listing().items()) == [(name, len(name.encode())) for name in expected]


def test_the_listing_leaves_hidden_files_aside(somewhere: Place) -> None:
    for name in ("seen.jpg", "._seen.jpg", ".DS_Store", "a/.hidden/x.jpg", "a/.x.123", "a/b.c"):
        somewhere.write(name, b"x")
    assert list(somewhere.listing()) == ["a/b.c", "seen.jpg"]


def test_what_is_removed_is_gone_and_may_be_removed_again(somewhere: Place) -> None:
    somewhere.write("a/b.txt", b"b")
    somewhere.write("a/c.txt", b"c")
    for _ in range(2):
        somewhere.remove("a/b.txt")
        assert not somewhere.exists("a/b.txt") and list(somewhere.listing()) == ["a/c.txt"]


def test_what_is_not_there_is_not_found(somewhere: Place) -> None:
    somewhere.write("a/x", b"x")
    for name in ("y", "a", "a/x/y"):
        assert not somewhere.exists(name), name
    with pytest.raises(OSError, match="y"):
        somewhere.read("y")


def test_an_empty_place_lists_nothing(somewhere: Place) -> None:
    assert somewhere.listing() == {}


@pytest.mark.parametrize("name", ["../x", "/etc/passwd", "a/../../x", "a/..", "", "..\\x", "a\0b", ".."])
def test_a_name_that_leaves_its_place_is_refused(somewhere: Place, name: str) -> None:
    calls: list[Callable[[], object]] = [
        lambda: somewhere.read(name), lambda: somewhere.write(name, b"x"), lambda: somewhere.exists(name),
    ]  # fmt: skip
    for call in calls:
        with pytest.raises(BadInput, match="leaves its folder"):
            call()


@given(st.text(max_size=30))
def test_a_name_that_is_let_through_stays_below(name: str) -> None:
    try:
        inside(name)
    except BadInput:
        return
    assert os.path.normpath(f"/place/{name}").startswith("/place")


@settings(max_examples=20, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.dictionaries(st.text("abc01.-_", min_size=1, max_size=4), st.binary(max_size=50), max_size=4))
def test_any_files_written_are_listed_and_read_again(tmp_path: Path, files: dict[str, bytes]) -> None:
    folder = Folder(tmp_path / str(hash(frozenset(files.items()))))
    folder.write("first", b"")
    wanted = {name: data for name, data in files.items() if name.strip(".")}
    for name, data in wanted.items():
        folder.write(name, data)
    seen = {name: len(data) for name, data in wanted.items() if not name.startswith(".")}
    assert folder.listing() == {"first": 0, **seen}
    assert {name: folder.read(name) for name in wanted} == wanted


def test_a_write_that_fails_leaves_the_old_file_and_no_other(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    folder.write("x", b"old")
    with pytest.raises(TypeError):
        folder.write("x", "no bytes")  # type: ignore[arg-type]
    assert folder.read("x") == b"old" and [path.name for path in tmp_path.iterdir()] == ["x"]


def test_a_reader_never_sees_half_a_file(tmp_path: Path) -> None:
    folder = Folder(tmp_path)
    contents = [bytes([number]) * 4_000_000 for number in range(20)]
    folder.write("x", contents[0])
    with ThreadPoolExecutor(1) as pool:
        writing = pool.submit(lambda: [folder.write("x", content) for content in contents])
        while not writing.done():
            assert folder.read("x") in contents


def test_a_folder_that_is_not_there_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="is not a folder"):
        Folder(tmp_path / "none").listing()
    assert not (tmp_path / "none").exists()


def test_a_folder_keeps_its_name_whatever_links_to_it(tmp_path: Path) -> None:
    Folder(tmp_path / "here").write("b/x.jpg", b"1")
    Folder(tmp_path / "here").write("a/y.jpg", b"2")
    Folder(tmp_path / "elsewhere").write("deep/z.jpg", b"3")
    # By name, each of these comes before what it leads to.
    (tmp_path / "here/a/link").symlink_to(tmp_path / "here/b")
    (tmp_path / "here/alias").symlink_to(tmp_path / "here/b")
    (tmp_path / "here/again").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "elsewhere/back").symlink_to(tmp_path / "here")
    assert list(Folder(tmp_path / "here").listing()) == ["a/y.jpg", "again/deep/z.jpg", "b/x.jpg"]


@pytest.mark.parametrize("url", ["s3://", "s3:///prefix"])
def test_a_url_without_a_bucket_is_refused(url: str) -> None:
    with pytest.raises(BadInput, match="names no bucket"):
        place(url)


def test_a_bucket_and_its_prefix_hold_the_same_objects(bucket: str) -> None:
    below = place(f"{bucket}/deep/er/")
    below.write("x.jpg", b"x")
    assert isinstance(below, Bucket) and str(below) == f"{bucket}/deep/er"
    assert place(bucket).listing() == {"deep/er/x.jpg": 1}
    assert place(f"{bucket}/dee").listing() == {}
    assert place(bucket.rpartition("/")[0]).read(f"{bucket.rpartition('/')[2]}/deep/er/x.jpg") == b"x"


def test_a_folder_that_a_console_made_in_a_bucket_is_no_file(bucket: str, s3: str) -> None:
    name, _, prefix = bucket.removeprefix("s3://").partition("/")
    for key in (f"{prefix}/", f"{prefix}/a/"):
        boto3.client("s3").put_object(Bucket=name, Key=key, Body=b"")
    place(bucket).write("a/x", b"x")
    assert place(bucket).listing() == {"a/x": 1}


def test_more_objects_than_a_page_holds_are_all_listed(bucket: str, s3: str) -> None:
    client = boto3.client("s3")
    name, _, prefix = bucket.removeprefix("s3://").partition("/")
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda n: client.put_object(Bucket=name, Key=f"{prefix}/{n:04d}", Body=b""), range(1003)))
    assert list(place(bucket).listing()) == [f"{number:04d}" for number in range(1003)]


def test_a_bucket_that_is_not_there_is_refused_in_one_line(s3: str) -> None:
    with pytest.raises(BadInput, match="s3://no-such-bucket/x cannot be listed") as caught:
        place("s3://no-such-bucket/x").listing()
    assert "\n" not in str(caught.value)


def test_a_wrong_key_is_refused_in_one_line(bucket: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "guessed")
    with pytest.raises(BadInput, match="check the name, the endpoint and the credentials") as caught:
        place(bucket).listing()
    assert "guessed" not in str(caught.value) and "\n" not in str(caught.value)
