"""The guard before the scoring application: what it lets in, and that nothing which was sent is ever said back."""

import asyncio
import base64
import hmac
import io
import json
import logging
import re
import struct
import threading
import time
import zlib
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pandas as pd
import pytest
import samples
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st
from installation import Installation, photo
from PIL import Image
from variants import champion, registry
from waiting import until

from dermanet.imagequality import Quality
from dermanet.serving import saliency
from dermanet.serving.abstention import Abstention, kinds
from dermanet.serving.app import build
from dermanet.serving.follow import Following
from dermanet.serving.guard import LONG, OPEN, Limits
from dermanet.serving.reader import Reader, cores
from dermanet.serving.routes import FIELDS

HERE = "http://127.0.0.1"
SECRET = "Mrs-Miller-1961-left-shoulder"
TOKENS = ("the-first-token-of-two", "the-second-token-of-two")
KINDS = st.sampled_from(
    ["application/json", "text/csv", "application/vnd.apache.parquet", "multipart/form-data", "text/plain", ""]
)


@pytest.fixture(scope="module")
def following(trained: Installation, tmp_path_factory: pytest.TempPathFactory) -> Following:
    return champion(trained, tmp_path_factory.mktemp("served"))


@pytest.fixture(scope="module")
def cell(tmp_path_factory: pytest.TempPathFactory) -> str:
    return base64.b64encode(photo(tmp_path_factory.mktemp("photo")).read_bytes()).decode()


@pytest.fixture
def client(following: Following) -> Iterator[TestClient]:
    with TestClient(build(following, Limits(megabytes=1, images=4)), base_url=HERE) as made:
        yield made


@pytest.fixture(scope="module")
def robust(following: Following) -> Iterator[TestClient]:
    """One for many requests."""
    with TestClient(build(following, Limits(megabytes=1, images=4)), base_url=HERE) as made:
        yield made


def _said(caplog: pytest.LogCaptureFixture) -> str:
    """All that this process logged but the client's own lines, which name what it sends."""
    return "\n".join(one.getMessage() for one in caplog.records if not one.name.startswith("http"))


def _body(*cells: str) -> dict[str, Any]:
    return {"dataframe_split": {"columns": ["image"], "data": [[cell] for cell in cells]}}


def test_a_request_may_bring_so_many_images_and_so_many_bytes(client: TestClient, cell: str) -> None:
    assert client.post("/invocations", json=_body(*[cell] * 4)).status_code == 200
    many = client.post("/invocations", json=_body(*[cell] * 5))
    assert many.status_code == 413
    assert many.json()["message"].startswith("5 images in one request; at most 4")
    files = [("image", ("a.jpg", base64.b64decode(cell), "image/jpeg"))] * 5
    assert client.post("/predict", files=files[:4]).status_code == 200
    assert client.post("/predict", files=files).status_code == 413
    large = client.post("/invocations", content=b" " * (1024 * 1024 + 1), headers={"content-type": "application/json"})
    assert (large.status_code, large.headers["connection"]) == (413, "close")
    for method, path in (("POST", "/follow"), ("POST", "/predicted"), ("PUT", "/predict")):
        misplaced = client.request(method, path, content=b" " * 100_000)
        assert misplaced.status_code == 413
        assert "taken by POST at /invocations, /predict" in misplaced.json()["message"]


def test_a_body_without_a_length_is_counted_as_it_comes(client: TestClient) -> None:
    sent = []

    def endless() -> Iterator[bytes]:
        for _ in range(100):
            sent.append(1)
            yield b" " * 65536

    answer = client.post("/invocations", content=endless(), headers={"content-type": "application/json"})
    assert answer.status_code == 413


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("application/json", b'{"inputs":{"image":[%s""]}}' % (b'"",' * 300_000)),
        ("application/json", b'{"instances":[%s{"image":""}]}' % (b'{"image":""},' * 75_000)),
        ("text/csv", b"a," * 500_000 + b"image\n"),
        ("text/csv", b"image\n" + b"a\n" * 500_000),
    ],
    ids=["cells", "rows", "wide", "long"],
)
def test_what_brings_more_values_than_images_have_is_refused_unread(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, kind: str, body: bytes
) -> None:
    monkeypatch.setattr("dermanet.serving.plain.cells", lambda body: pytest.fail("it was taken apart"))
    answer = client.post("/invocations", content=body, headers={"content-type": kind})
    assert answer.status_code == 413
    assert (
        answer.json()["message"]
        == "more than 256 values in one request; send at most 4 images, with little beside them"
    )


ROWS = [{f"k{number}": 1} for number in range(100)]
"""Each names a column of its own: 10,000 cells in 1 KB."""

NAMES = [f"k{number}" for number in range(100)]


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        *(("application/json", {form: ROWS}) for form in ("dataframe_records", "inputs", "instances")),
        ("application/json", {"inputs": {"image": ["a"] * 100, **dict.fromkeys(NAMES, 1)}}),
        ("application/json", {"messages": [], **{name: {name: 1} for name in NAMES}}),
        ("application/json", {"dataframe_records": [[1] * 100, *[[1]] * 100]}),
        ("application/json", {"dataframe_split": {"data": ROWS}}),
        ("application/json", {"dataframe_split": {"columns": NAMES, "data": [["a"]] * 100}}),
        ("application/json", {"dataframe_split": {"columns": NAMES, "index": NAMES, "data": {"image": "a"}}}),
        ("application/json; charset=utf-8", {"dataframe_split": {"data": {name: {name: 1} for name in NAMES}}}),
        ("text/csv", "," * 100 + "image\n" + "a\n" * 100),
        ("text/csv", "," * 100 + 'image\na"\n' + "a\n" * 100 + 'a"\n'),
    ],
)  # fmt: skip
def test_what_is_small_and_would_be_a_large_table_is_refused_before_it_is_one(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, kind: str, body: Any
) -> None:
    monkeypatch.setattr("mlflow.pyfunc.scoring_server.invocations", lambda *given: pytest.fail("it became a table"))
    content = body if isinstance(body, str) else json.dumps(body)
    answer = client.post("/invocations", content=content, headers={"content-type": kind})
    assert answer.status_code == 413
    assert answer.json()["message"].startswith("more than 256 values in one request; send at most 4 images")


def sent_as_parquet(client: TestClient, table: dict[str, Any], **how: Any) -> httpx.Response:
    file = io.BytesIO()
    pd.DataFrame(table).to_parquet(file, **how)
    return client.post(
        "/invocations", content=file.getvalue(), headers={"content-type": "application/vnd.apache.parquet"}
    )


def test_parquet_is_answered_as_json_is(client: TestClient, cell: str) -> None:
    texts = [cell, "no image", cell]
    answer = sent_as_parquet(client, {"image": texts, "more": [1, 2, 3]}, index=True)
    wanted = client.post("/invocations", json={"dataframe_records": [{"image": text} for text in texts]})
    assert answer.status_code == 200 and answer.content == wanted.content
    assert sent_as_parquet(client, {"image": texts}, compression=None).content == wanted.content


@pytest.mark.parametrize(
    ("table", "how", "status", "said"),
    [
        ({"photo": ["x"]}, {}, 400, "no column `image` of texts"),
        ({"image": ["x", None]}, {}, 400, "not of texts, one in each row"),
        ({"image": [b"x"]}, {}, 400, "not of texts, one in each row"),
        ({"image": [["x"]]}, {}, 400, "no column `image` of texts"),
        ({"image": ["x"]}, {"compression": "zstd"}, 400, "packed by zstd; write it with snappy"),
        ({"image": ["x"] * 5}, {}, 413, "5 images in one request; at most 4"),
        ({"image": ["x"] * 300}, {}, 413, "more than 256 values"),
        ({f"c{n}": ["x"] for n in range(300)} | {"image": ["x"]}, {}, 413, "more than 256 values"),
        ({"image": ["x" * 9_000_000] * 4}, {}, 413, "values in one request"),
    ],
)
def test_parquet_that_is_wrong_or_would_be_large_is_refused_in_one_line(
    client: TestClient, table: dict[str, Any], how: dict[str, Any], status: int, said: str
) -> None:
    answer = sent_as_parquet(client, table, **how)
    assert (answer.status_code, said in answer.json()["message"]) == (status, True), answer.text


def test_what_is_no_parquet_is_refused_as_such(client: TestClient) -> None:
    for body in (b"", b"PAR1", b"PAR1" * 100, b"{}"):
        answer = client.post("/invocations", content=body, headers={"content-type": "application/vnd.apache.parquet"})
        assert answer.status_code == 400 and "no Parquet file" in answer.json()["message"]


def test_images_in_short_lines_and_with_much_beside_them_are_read(client: TestClient, cell: str) -> None:
    lines = base64.encodebytes(base64.b64decode(cell)).decode().replace("\n", "\r\n")
    beside = ",".join(f"column{number}" for number in range(50))
    csv = f"image,{beside}\n" + f'"{lines}",{beside}\n' * 4
    answer = client.post("/invocations", content=csv, headers={"content-type": "text/csv"})
    assert answer.status_code == 200
    assert [row["error"] for row in answer.json()["predictions"]] == [None] * 4


def test_an_image_that_would_hold_a_core_for_long_is_an_error_of_its_row(client: TestClient, cell: str) -> None:
    bomb = base64.b64encode(samples.many_scans(2600)).decode()
    rows = client.post("/invocations", json=_body(bomb, cell)).json()["predictions"]
    assert rows[0]["error"].startswith("too large: 2,600 scans; at most 200 are decoded")
    assert rows[1]["error"] is None


def test_files_and_text_get_the_same_row(client: TestClient, cell: str) -> None:
    (row,) = client.post("/invocations", json=_body(cell)).json()["predictions"]
    answer = client.post("/predict", files=[("image", ("a", base64.b64decode(cell))), ("image", ("b", b"GIF89a"))])
    told = answer.json()
    assert answer.status_code == 200
    assert told["predictions"][0] == row
    assert told["predictions"][1]["error"].startswith("not an image: it looks like GIF")
    assert told["version"] == answer.headers["x-model-version"] == "1"
    assert told["digest"] == answer.headers["x-model-digest"]
    assert "not a medical device" in told["use"]


def test_a_form_without_an_image_says_what_is_wanted(client: TestClient) -> None:
    no_form = {"content": b"--x", "headers": {"content-type": "text/plain"}}
    torn = {"content": b"--x", "headers": {"content-type": "multipart/form-data; boundary=y"}}
    for wrong in ({"files": {"photo": b"x"}}, {"data": {"image": "text"}}, no_form, torn):
        answer = client.post("/predict", **wrong)
        assert (answer.status_code, answer.json()["error_code"]) == (400, "BAD_REQUEST")
        assert "`image`" in answer.json()["message"]


def test_a_form_of_too_much_says_of_what(following: Following, cell: str) -> None:
    files = [("image", ("a.jpg", base64.b64decode(cell), "image/jpeg"))]
    fields = {f"field{number}": "x" for number in range(FIELDS)}
    with TestClient(build(following, Limits(megabytes=4, images=4)), base_url=HERE) as client:
        for path, count in (("/predict", 5), ("/predict", 6), ("/predict", 40), ("/explain", 6)):
            answer = client.post(path, files=files * count)
            assert answer.status_code == 413
            assert answer.json()["message"].startswith("more than 4 images in one request")
        assert client.post("/predict", files=files, data=fields).status_code == 200
        for data, words in (
            (fields | {"more": "x"}, "more than 16 fields"),
            ({"image": "x" * 2**21}, "a field of text is larger"),
        ):
            answer = client.post("/predict", files=files, data=data)
            assert answer.status_code == 400
            assert answer.json()["message"].startswith(words)


def test_tokens_are_wanted_where_there_are_some(following: Following, cell: str) -> None:
    with TestClient(build(following, tokens=TOKENS, hosts=False), base_url="http://scorer.clinic:8000") as client:
        for token in (None, "wrong", TOKENS[0][:-1], TOKENS[0] + "x", ""):
            headers = {} if token is None else {"Authorization": f"Bearer {token}"}
            for path in ("/invocations", "/predict", "/explain"):
                answer = client.post(path, json=_body(cell), headers=headers)
                assert (answer.status_code, answer.headers["www-authenticate"]) == (401, "Bearer")
            assert [client.get(path, headers=headers).status_code for path in ("/model", "/metrics")] == [401, 401]
        for token in TOKENS:
            headers = {"Authorization": f"Bearer {token}"}
            assert client.post("/invocations", json=_body(cell), headers=headers).status_code == 200
            assert client.get("/model", headers=headers).status_code == 200
        assert (
            client.post("/invocations", json=_body(cell), headers={"Authorization": f"Basic {TOKENS[0]}"}).status_code
            == 401
        )
        assert {client.get(path).status_code for path in ("/ping", "/health", "/ready", "/version")} == {200}


def test_every_token_is_compared_and_in_a_time_that_tells_nothing(
    following: Following, monkeypatch: pytest.MonkeyPatch
) -> None:
    whole, compared = hmac.compare_digest, list[bytes]()
    monkeypatch.setattr(hmac, "compare_digest", lambda given, token: compared.append(token) or whole(given, token))
    with TestClient(build(following, tokens=TOKENS, hosts=False), base_url="http://scorer.clinic:8000") as client:
        for given, status in ((TOKENS[0], 200), (TOKENS[1], 200), ("wrong", 401), ("", 401)):
            assert client.get("/model", headers={"Authorization": f"Bearer {given}"}).status_code == status
    # After the one that fits, too.
    assert compared == [token.encode() for token in TOKENS] * 4


def test_a_stranger_is_not_told_which_version_is_served(following: Following) -> None:
    with TestClient(build(following, tokens=TOKENS, hosts=False), base_url="http://scorer.clinic:8000") as client:
        for path in sorted(OPEN - {"/follow"}):
            assert not {"x-model-version", "x-model-digest"} & set(client.get(path).headers), path
        assert "x-model-version" not in client.post("/follow").headers
        headers = {"Authorization": f"Bearer {TOKENS[0]}"}
        assert client.get("/model", headers=headers).headers["x-model-version"] == "1"
    with TestClient(build(following), base_url=HERE) as client:
        assert client.get("/ping").headers["x-model-version"] == "1"


def test_the_token_for_metrics_lets_in_there_alone(following: Following, cell: str) -> None:
    own = {"Authorization": "Bearer the-token-of-prometheus"}
    app = build(following, tokens=TOKENS, hosts=False, metrics_token="the-token-of-prometheus")
    with TestClient(app, base_url="http://scorer.clinic:8000") as client:
        assert client.get("/metrics", headers=own).status_code == 200
        assert client.get("/metrics", headers={"Authorization": f"Bearer {TOKENS[0]}"}).status_code == 200
        assert {client.get(path).status_code for path in ("/metrics", "/model")} == {401}
        assert client.get("/model", headers=own).status_code == 401
        assert client.post("/invocations", json=_body(cell), headers=own).status_code == 401


@pytest.mark.parametrize(
    ("status", "names"),
    [
        (200, ["localhost:8000", "LOCALHOST", "127.0.0.1", "127.0.0.2", "127.0.0.2:8000", "127.1.2.3:80", "[::1]", "[::1]:8000"]),
        (421, ["evil.example", "127.0.0.1.evil.example", "127.0.0.2.evil.example:8000", "localhost.evil.example",
               "127.0.0.1@evil.example", "127.0.0.2:80:evil.example", "128.0.0.2", "10.0.0.1",
               "0.0.0.0", "[::2]", "[evil.example]", "[]", ":8000", ""]),
    ],
)  # fmt: skip
def test_another_s_name_does_not_lead_here(following: Following, status: int, names: list[str]) -> None:
    with TestClient(build(following), base_url=HERE) as client:
        assert {name: client.get("/model", headers={"host": name}).status_code for name in names} == dict.fromkeys(
            names, status
        )


CAREFUL = {
    "x-content-type-options": "nosniff", "referrer-policy": "no-referrer", "cross-origin-resource-policy": "same-origin",
    "permissions-policy": "camera=(self), microphone=(), geolocation=()", "x-frame-options": "DENY", "cache-control": "no-store",
    "content-security-policy": "default-src 'none'; img-src 'self' data: blob:; style-src 'self'; script-src 'self'; "
    "connect-src 'self'; frame-ancestors 'none'; base-uri 'none'; form-action 'none'",
}  # fmt: skip
"""What a browser is told not to do with an answer."""


def test_every_answer_has_the_headers_of_a_careful_server(client: TestClient, cell: str) -> None:
    answers = [
        client.post("/invocations", json=_body(cell)),
        client.post("/invocations", content=b"{"),
        client.put("/model"),
    ]
    for answer in (*answers, *(client.get(path) for path in (*sorted(ASKED_FOR), "/nothing"))):
        assert {name: answer.headers[name] for name in CAREFUL} == CAREFUL, answer.request.url
        assert "server" not in answer.headers
    assert client.get("/nothing").json()["error_code"] == "RESOURCE_DOES_NOT_EXIST"
    assert client.put("/invocations").status_code == 405


LIVE = {"/model", "/metrics"}
"""Addresses that answer otherwise from one second to the next."""

ASKED_FOR = {"/", "/docs", "/ping", "/health", "/ready", "/version", "/openapi.json", "/page.css", "/page.js", *LIVE}
"""What is there to be read."""


def test_another_method_is_told_which_there_are(client: TestClient) -> None:
    for path in ("/invocations", "/predict", "/explain", "/follow"):
        for method in ("GET", "HEAD", "PUT", "DELETE", "OPTIONS"):
            answer = client.request(method, path)
            assert (answer.status_code, answer.headers["allow"]) == (405, "POST")
    for path in ASKED_FOR:
        answer = client.post(path)
        assert (answer.status_code, answer.headers["allow"]) == (405, "GET, HEAD")
        assert answer.json()["error_code"] == "BAD_REQUEST"
    assert "allow" not in client.get("/nothing").headers


def test_head_gets_what_get_gets_without_a_body(client: TestClient, caplog: pytest.LogCaptureFixture) -> None:
    for path in (*ASKED_FOR - LIVE, "/nothing"):
        got = client.get(path)
        with caplog.at_level(logging.INFO, "dermanet.access"):
            answer = client.head(path)
        assert (answer.status_code, answer.content, answer.headers) == (got.status_code, b"", got.headers)
        assert int(answer.headers["content-length"]) == len(got.content) > 0
        assert re.match(r"HEAD \S+ \d+ 0 B ", caplog.records[-1].getMessage())


def test_head_needs_the_token_that_get_needs(following: Following) -> None:
    with TestClient(build(following, tokens=TOKENS, hosts=False), base_url="http://scorer.clinic:8000") as client:
        assert [client.head(path).status_code for path in ("/ping", "/model", "/metrics")] == [200, 401, 401]


@pytest.mark.parametrize(
    ("kind", "body"),
    [
        ("application/json", f'{{"dataframe_split": {{"columns": ["{SECRET}"], "data": [["{SECRET}"]]}}}}'),
        ("application/json", f'{{"{SECRET}": 1}}'),
        ("application/json", f'"{SECRET}"'),
        ("application/json", f'["{SECRET}"]'),
        ("application/json", SECRET),
        ("application/json", f'{{"inputs": {{"image": {{"a": "{SECRET}"}}}}}}'),
        ("application/json", f'{{"inputs": ["{SECRET}", 3]}}'),
        ("application/json", f'{{"instances": "{SECRET}"}}'),
        ("application/json", '{"dataframe_split": {"columns": ["image"], "data": [[1, 2]]}}'),
        ("application/json", '{"dataframe_split": null}'),
        ("application/json", f'{{"messages": [{{"role": "user", "content": "{SECRET}"}}]}}'),
        ("application/json", "[" * 100_000),
        ("application/json; charset=latin-1", SECRET),
        (f"application/{SECRET}", "{}"),
        ("text/csv", f"{SECRET},b\n1,2"),
        ("text/csv", ""),
        ("application/vnd.apache.parquet", SECRET),
    ],
)  # fmt: skip
def test_what_is_no_request_is_refused_without_repeating_it(
    client: TestClient, caplog: pytest.LogCaptureFixture, kind: str, body: str
) -> None:
    with caplog.at_level(logging.DEBUG):
        answer = client.post(f"/invocations?name={SECRET}", content=body.encode(), headers={"content-type": kind})
    # MLflow takes a lone word for a column; what is in it is no image then.
    if answer.status_code == 200:
        assert all(row["error"] for row in answer.json()["predictions"])
    else:
        assert answer.status_code in (400, 415), answer.text
        assert set(answer.json()) == {"error_code", "message"}
    assert SECRET not in answer.text + _said(caplog)
    assert "Traceback" not in answer.text


def test_columns_that_are_passed_over_are_not_named_in_the_log(
    client: TestClient, caplog: pytest.LogCaptureFixture, capfd: pytest.CaptureFixture[str], cell: str
) -> None:
    answer = client.post("/invocations", json={"dataframe_records": [{"image": cell, SECRET: "left"}]})
    assert answer.status_code == 200
    assert SECRET not in answer.text + _said(caplog) + "".join(capfd.readouterr())


def test_without_a_content_type_it_is_the_client_s_fault(
    client: TestClient, cell: str, caplog: pytest.LogCaptureFixture
) -> None:
    answer = client.post("/invocations", content=json.dumps(_body(cell)).encode())
    assert (answer.status_code, answer.json()["message"].split(";")[0]) == (415, "no content type that is taken")
    assert "Error" not in _said(caplog)


@pytest.mark.parametrize("path", ["/invocations", "/predict", "/explain"])
def test_what_is_packed_is_told_so(client: TestClient, cell: str, path: str) -> None:
    def ask(encoding: str) -> Any:
        given = {"json": _body(cell)} if path == "/invocations" else {"files": {"image": base64.b64decode(cell)}}
        return client.post(path, headers={"Content-Encoding": encoding}, **given)

    answer = ask("gzip")
    assert (answer.status_code, answer.json()["message"].split(";")[0]) == (415, "no Content-Encoding is taken")
    assert ask("identity").status_code == 200


def test_no_file_or_address_is_opened_because_a_request_names_it(client: TestClient, tmp_path: Path, cell: str) -> None:
    kept = tmp_path / "kept.jpg"
    kept.write_bytes(base64.b64decode(cell))
    for name in (
        str(kept),
        kept.as_uri(),
        "http://127.0.0.1:9/x.jpg",
        "data:text/html;base64,AAAA",
        f"data:image/svg+xml;base64,{cell}",
    ):
        (row,) = client.post("/invocations", json=_body(name)).json()["predictions"]
        assert (row["error"] is None) == name.startswith("data:image")
        csv = client.post("/invocations", content=f"image\n{name}\n".encode(), headers={"content-type": "text/csv"})
        assert csv.status_code == 200
        assert SECRET not in csv.text
    for body in (str(kept), kept.as_uri(), "http://127.0.0.1:9/x.csv"):
        assert (
            client.post("/invocations", content=body.encode(), headers={"content-type": "text/csv"}).status_code == 400
        )


def _png(width: int, height: int) -> bytes:
    """A PNG that says it has so many pixels, and has them, in a few bytes a line."""

    def chunk(kind: bytes, data: bytes) -> bytes:
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    lines = zlib.compress(b"\0" * 1000, 9)
    head = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", head) + chunk(b"IDAT", lines) + chunk(b"IEND", b"")


def test_images_that_are_none_or_bombs_get_their_reason_in_no_time(client: TestClient, cell: str) -> None:
    whole = base64.b64decode(cell)
    gif = io.BytesIO()
    Image.fromarray(np.zeros((40, 40, 3), np.uint8)).save(gif, "GIF")
    sent = {
        "bomb": (_png(1_000_000, 1_000_000), "too large"), "wide": (_png(2**31 - 1, 28), "too large"),
        "gif": (gif.getvalue(), "not an image"), "svg": (b'<svg xmlns="http://www.w3.org/2000/svg"/>', "not an image"),
        "polyglot": (b"GIF89a" + whole, "not an image"), "cut": (whole[: len(whole) // 2], "truncated"),
    }  # fmt: skip
    for what, (data, reason) in sent.items():
        start = time.perf_counter()
        answer = client.post("/predict", files={"image": data})
        assert answer.status_code == 422, what
        assert answer.json()["predictions"][0]["error"].startswith(reason), what
        in_rows = client.post("/invocations", json=_body(base64.b64encode(data).decode()))
        assert in_rows.status_code == 200, what
        assert in_rows.json()["predictions"][0]["error"].startswith(reason), what
        assert time.perf_counter() - start < 2, what
    hidden = client.post("/predict", files={"image": whole + b"<script>alert(1)</script>PK\x03\x04"}).json()
    assert hidden["predictions"][0]["error"] is None


@given(body=st.one_of(st.binary(max_size=2000), st.text(max_size=500).map(str.encode)), kind=KINDS,
       path=st.sampled_from(["/invocations", "/predict"]))  # fmt: skip
def test_garbage_is_refused(robust: TestClient, body: bytes, kind: str, path: str) -> None:
    answer = robust.post(path, content=body, headers={"content-type": kind})
    assert 400 <= answer.status_code < 500


ENCODED = st.binary(max_size=40).map(lambda data: base64.b64encode(data).decode())
NESTED = st.one_of(st.lists(st.integers(), max_size=2), st.dictionaries(st.text(max_size=3), st.integers(), max_size=2))
CELLS = st.one_of(st.none(), st.booleans(), st.integers(), st.floats(), st.text(max_size=30), NESTED, ENCODED)


@given(
    form=st.sampled_from(["dataframe_split", "dataframe_records", "inputs", "instances"]),
    cells=st.lists(CELLS, max_size=3),
)
def test_garbage_in_the_form_of_a_request_is_answered_or_refused(
    robust: TestClient, form: str, cells: list[Any]
) -> None:
    bodies = {
        "dataframe_split": {"columns": ["image"], "data": [[cell] for cell in cells]}, "inputs": {"image": cells},
        "dataframe_records": [{"image": cell} for cell in cells], "instances": [{"image": cell} for cell in cells],
    }  # fmt: skip
    body = json.dumps({form: bodies[form]}).encode()
    answer = robust.post("/invocations", content=body, headers={"content-type": "application/json"})
    assert answer.status_code in (200, 400)
    if answer.status_code == 200:
        assert all(row["error"] for row in answer.json()["predictions"])


def test_a_fault_inside_is_a_fault_and_says_nothing(
    client: TestClient, cell: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(self: Reader, *given: Any) -> None:
        raise RuntimeError(SECRET)

    monkeypatch.setattr(Reader, "read_all", broken)
    answer = client.post("/invocations", json=_body(cell))
    assert answer.status_code >= 500
    assert SECRET not in answer.text + _said(caplog)


def test_one_image_that_breaks_the_reader_leaves_the_others(
    client: TestClient,
    cell: str,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    following: Following,
) -> None:
    from dermanet.serving import reader

    whole, calls = reader.measure, []

    def once(pixels: Any) -> Any:
        calls.append(1)
        if len(calls) == 1:
            raise MemoryError(SECRET)
        return whole(pixels)

    monkeypatch.setattr(reader, "measure", once)
    rows = client.post("/invocations", json=_body(cell, cell)).json()["predictions"]
    assert sorted(row["error"] is None for row in rows) == [False, True]
    assert SECRET not in _said(caplog) + json.dumps(rows)


class _Slow:
    """Stands before a reader's work, which then waits until it is let go."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.go, self.inside = threading.Event(), 0
        whole = Reader.read_all

        def slow(reader: Reader, *given: Any) -> Any:
            self.inside += 1
            self.go.wait(30)
            return whole(reader, *given)

        patch.setattr(Reader, "read_all", slow)


def _ask_at_once(
    app: Any, body: bytes, count: int, meanwhile: Any = None, broken_off: threading.Event | None = None
) -> list[dict[str, Any]]:
    """Starts and headers of the answers to `count` requests at once, in the order in which they were sent.

    `broken_off`: they are after a second, as uvicorn does at its end; what holds them up may go on then.
    """
    scope = {
        "type": "http", "method": "POST", "path": "/invocations", "raw_path": b"/invocations", "query_string": b"", "root_path": "",
        "headers": [(b"host", b"127.0.0.1"), (b"content-type", b"application/json")], "http_version": "1.1", "scheme": "http",
        "client": ("127.0.0.1", 1), "server": ("127.0.0.1", 2), "asgi": {"version": "3.0"},
    }  # fmt: skip

    async def one() -> dict[str, Any]:
        sent: list[dict[str, Any]] = []
        parts = [{"type": "http.request", "body": body, "more_body": False}]

        async def receive() -> dict[str, Any]:
            if parts:
                return parts.pop()
            await asyncio.sleep(3600)
            return {}

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        await app(dict(scope), receive, send)
        return sent[0]

    async def all_of_them() -> list[dict[str, Any]]:
        tasks = [asyncio.ensure_future(one()) for _ in range(count)]
        if meanwhile:
            await asyncio.to_thread(meanwhile)
        if broken_off:
            await asyncio.sleep(1)
            for task in tasks:
                task.cancel()
            asyncio.get_running_loop().call_later(0.5, broken_off.set)
        return list(await asyncio.gather(*tasks))

    return asyncio.run(all_of_them())


def test_the_queue_is_bounded(following: Following, cell: str, monkeypatch: pytest.MonkeyPatch) -> None:
    slow = _Slow(monkeypatch)

    def meanwhile() -> None:
        time.sleep(1)
        assert slow.inside == 2
        slow.go.set()

    answers = _ask_at_once(build(following, Limits(queue=3, slots=2)), json.dumps(_body(cell)).encode(), 10, meanwhile)
    assert sorted(answer["status"] for answer in answers) == [200] * 5 + [503] * 5
    assert all((b"retry-after", b"2") in one["headers"] for one in answers if one["status"] == 503)


@pytest.mark.parametrize("long", ["/invocations", "/explain"])
def test_a_long_request_holds_up_no_short_one_and_long_ones_wait_for_each_other(
    long: str, following: Following, cell: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    go, inside = threading.Event(), threading.Event()

    def held(whole: Any) -> Any:
        def waits(*given: Any) -> Any:
            inside.set()
            assert go.wait(60)
            return whole(*given)

        return waits

    with TestClient(build(following, Limits(slots=1)), base_url=HERE) as client, ThreadPoolExecutor() as pool:

        def score(blanks: int) -> int:
            body = json.dumps(_body(cell)) + " " * blanks
            return client.post("/invocations", content=body, headers={"content-type": "application/json"}).status_code

        def show() -> int:
            return client.post("/explain", files={"image": base64.b64decode(cell)}).status_code

        try:
            with monkeypatch.context() as patched:
                patched.setattr(Reader, "read_all", held(Reader.read_all))
                patched.setattr(saliency, "explain", held(saliency.explain))
                first = pool.submit(show) if long == "/explain" else pool.submit(score, LONG)
                assert inside.wait(30)
            second = pool.submit(score, LONG)
            until(lambda: "dermanet_waiting_requests 1.0" in client.get("/metrics").text)
            assert score(0) == 200
            assert not first.done() and not second.done()
        finally:
            go.set()
        assert [first.result(), second.result()] == [200, 200]


def test_two_images_beside_a_batch_wait_for_one_of_its_and_not_for_all(
    following: Following, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert following.served
    reader, go, begun = following.served.reader, threading.Semaphore(0), list[bytes]()

    def slow(self: Reader, data: bytes) -> bytes:
        begun.append(data)
        if data == b"large":
            assert go.acquire(timeout=60)
        return data

    monkeypatch.setattr(Reader, "read", slow)
    with ThreadPoolExecutor(2) as pool:
        batch = pool.submit(reader.read_files, [b"large"] * 30)
        until(lambda: len(begun) == cores())
        few = pool.submit(reader.read_files, [b"small"] * 2)
        time.sleep(0.2)
        go.release()
        assert few.result(30) == [b"small"] * 2 and begun.count(b"large") <= cores() + 1
        go.release(29)
        assert batch.result(30) == [b"large"] * 30


def test_a_single_image_waits_for_no_thread_of_the_pool(following: Following, monkeypatch: pytest.MonkeyPatch) -> None:
    assert following.served
    monkeypatch.setattr(Reader, "read", lambda self, data: threading.get_ident())
    reader, mine = following.served.reader, threading.get_ident()
    assert reader.read_files([b"one"]) == [mine]  # type: ignore[comparison-overlap]
    assert mine not in reader.read_files([b"one", b"two"])  # type: ignore[comparison-overlap]


@pytest.fixture
def held_up(monkeypatch: pytest.MonkeyPatch) -> tuple[threading.Event, list[int]]:
    """What lets readings go on, which stand still until then, and those that have begun."""
    go, begun, whole = threading.Event(), list[int](), Reader.read

    def slow(self: Reader, data: bytes) -> Any:
        begun.append(1)
        go.wait(30)
        return whole(self, data)

    monkeypatch.setattr(Reader, "read", slow)
    return go, begun


def test_a_batch_that_was_given_up_is_not_computed_to_its_end(
    following: Following, cell: str, held_up: tuple[threading.Event, list[int]]
) -> None:
    go, begun = held_up
    with TestClient(build(following, Limits(seconds=0.5)), base_url=HERE) as client:
        files = [("image", ("one.jpg", base64.b64decode(cell)))] * 20
        for ask in (
            lambda: client.post("/predict", files=files),
            lambda: client.post("/invocations", json=_body(*[cell] * 20)),
        ):
            begun.clear()
            assert ask().status_code == 504
            assert len(begun) <= cores()
        go.set()
        until(lambda: client.post("/invocations", json=_body(cell)).status_code == 200)
        assert len(begun) < 20


def test_a_batch_that_a_server_that_ends_waits_for_no_longer_is_told_so_and_stops(
    following: Following, cell: str, held_up: tuple[threading.Event, list[int]], caplog: pytest.LogCaptureFixture
) -> None:
    go, begun = held_up
    with caplog.at_level(logging.DEBUG):
        (start,) = _ask_at_once(build(following), json.dumps(_body(*[cell] * 20)).encode(), 1, broken_off=go)
    assert start["status"] == 503 and (b"connection", b"close") in start["headers"]
    assert len(begun) <= cores()
    assert not any(record.exc_info for record in caplog.records)


def test_an_answer_that_takes_too_long_is_given_up_but_keeps_its_slot(
    following: Following, cell: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    slow = _Slow(monkeypatch)
    app = build(following, Limits(seconds=0.5, slots=1, queue=5))
    threading.Timer(1.5, slow.go.set).start()
    answers = _ask_at_once(app, json.dumps(_body(cell)).encode(), 2)
    # The second waited for the slot of the first, whose thread nobody can stop.
    assert [answer["status"] for answer in answers] == [504, 503]
    assert slow.inside == 1


def test_a_body_that_does_not_come_is_not_waited_for(following: Following) -> None:
    app = build(following, Limits(seconds=0.3))

    async def ask() -> int:
        sent: list[Any] = []

        async def receive() -> dict[str, Any]:
            await asyncio.sleep(0.1)
            return {"type": "http.request", "body": b" ", "more_body": True}

        async def send(message: dict[str, Any]) -> None:
            sent.append(message)

        headers = [(b"host", b"127.0.0.1")]
        await app(
            {"type": "http", "method": "POST", "path": "/invocations", "headers": headers, "query_string": b""},
            receive,
            send,
        )
        return int(sent[0]["status"])

    assert asyncio.run(ask()) == 408


def test_metrics_count_what_was_asked(following: Following, cell: str) -> None:
    with TestClient(build(following), base_url=HERE) as client:
        client.post("/invocations", json=_body(cell, "%%%"))
        client.get(f"/{SECRET}")
        text = client.get("/metrics").text
    assert 'dermanet_requests_total{path="/invocations",status="200"} 1.0' in text
    assert 'dermanet_requests_total{path="elsewhere",status="404"} 1.0' in text
    assert 'dermanet_images_total{outcome="refused"} 1.0' in text
    assert "dermanet_registry_seconds" in text
    assert SECRET not in text


def test_metrics_tell_the_mix_of_answers_and_why_images_are_referred(following: Following, cell: str) -> None:
    with TestClient(build(following), base_url=HERE) as client:
        blank = base64.b64encode(samples.png(np.full((64, 64, 3), 128, np.uint8))).decode()
        rows = client.post("/invocations", json=_body(cell, blank)).json()["predictions"]
        text = client.get("/metrics").text
    told = re.findall(r"^dermanet_diagnoses_total\{.*\} (\S+)$", text, re.MULTILINE)
    assert sum(map(float, told)) == len(rows)
    assert 'dermanet_referrals_total{reason="blank"} 1.0' in text
    assert float(re.findall(r"^dermanet_memory_bytes (\S+)$", text, re.MULTILINE)[0]) > 50e6


def test_every_reason_to_refer_has_a_kind() -> None:
    limits = Abstention(None, 0.9, None, {})
    sharp, blank, soft = Quality(120, 200, 50), Quality(120, 2, 50), Quality(120, 200, 1)
    unsure = {"nv": 0.5, "mel": 0.5}
    for quality, novelty, wanted in ((blank, 3.0, ["blank", "not sure", "unlike"]), (soft, None, ["blurred", "not sure"]),
                                     (sharp, float("inf"), ["not sure", "unlike"])):  # fmt: skip
        reasons = limits.reasons(quality, novelty, unsure)
        assert len(reasons) == len(wanted)
        assert kinds("; ".join(reasons)) == wanted
    assert kinds("") == []


def test_a_registry_that_never_answered_is_counted_from_the_start(trained: Installation, tmp_path: Path) -> None:
    away = Following(registry(trained), "nobody", 3600, tmp_path)
    with TestClient(build(away), base_url=HERE) as client:
        client.get("/metrics")
        time.sleep(1)
        told = client.get("/metrics").text
        away.look()
        answered = client.get("/metrics").text
    seconds = [
        float(re.findall(r"^dermanet_registry_seconds (\S+)$", text, re.MULTILINE)[0]) for text in (told, answered)
    ]
    assert seconds[0] >= 1
    assert seconds[1] < seconds[0]
    assert "dermanet_served_version 0.0" in told


def test_the_log_has_a_line_a_request_without_what_was_sent(
    client: TestClient, cell: str, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "dermanet.access"):
        client.post("/invocations", json=_body(cell))
        client.get(f"/{SECRET}?{SECRET}")
    lines = [record.getMessage() for record in caplog.records if record.name == "dermanet.access"]
    assert lines[0].startswith("POST /invocations 200 ")
    assert lines[0].endswith("version 1")
    assert lines[1].startswith("GET elsewhere 404 ")


def test_the_page_of_the_api_needs_no_other_server(client: TestClient) -> None:
    page = client.get("/docs").text
    assert "http" not in page.replace("<!doctype html>", "")
    for name in ("docs.js", "swagger-ui.js", "swagger-ui.css"):
        assert client.get(f"/{name}").status_code == 200
    described = client.get("/openapi.json").json()
    assert {"/invocations", "/predict", "/model", "/ready", "/metrics", "/follow"} <= set(described["paths"])
    assert "application/json" in described["paths"]["/invocations"]["post"]["requestBody"]["content"]


def test_the_api_is_described_with_its_errors_and_where_a_token_is_wanted(
    client: TestClient, following: Following
) -> None:
    described = client.get("/openapi.json").json()
    operations = {path: next(iter(one.values())) for path, one in described["paths"].items()}
    assert all({"4XX", "5XX"} <= set(one["responses"]) and "security" not in one for one in operations.values())
    assert list(operations["/metrics"]["responses"]["200"]["content"]) == ["text/plain"]
    with TestClient(build(following, tokens=TOKENS), base_url=HERE) as guarded:
        described = guarded.get("/openapi.json").json()
    assert described["components"]["securitySchemes"]["token"] == {"type": "http", "scheme": "bearer"}
    wanted = {path for path, one in described["paths"].items() if "security" in next(iter(one.values()))}
    assert wanted == {"/invocations", "/predict", "/explain", "/model", "/metrics"}
