"""The plainest of MLflow's requests, taken apart here: exactly what MLflow makes of them, and nothing that it would refuse."""

import base64
import json
from collections.abc import Iterator
from contextlib import suppress
from io import StringIO
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st
from installation import Installation, photo
from mlflow.exceptions import MlflowException
from mlflow.pyfunc import PyFuncModel, scoring_server
from variants import champion

from dermanet.serving.app import build
from dermanet.serving.follow import WITHOUT_VERSION, Following
from dermanet.serving.guard import Limits
from dermanet.serving.plain import cells, of_csv, of_json
from dermanet.serving.reader import Reader

TEXT = st.one_of(
    st.text(max_size=8), st.sampled_from(["", "nan", "NaN", "null", "1", "2020-01-01", "true", "aGVsbG8="])
)
ODD = st.one_of(st.none(), st.integers(), st.floats(), st.booleans(), st.lists(TEXT, max_size=2))
CELL = st.one_of(TEXT, TEXT, TEXT, ODD)
NAME = st.sampled_from(["image", "image", "image", "photo"])
SPLIT = st.fixed_dictionaries(
    {
        "columns": st.one_of(st.just(["image"]), st.lists(NAME, max_size=2)),
        "data": st.lists(st.one_of(CELL.map(lambda cell: [cell]), st.lists(CELL, max_size=2), CELL), max_size=4),
    },
    optional={"index": st.one_of(st.just([0, 1]), st.lists(st.integers(), max_size=4)), "more": ODD},
)
RECORDS = st.lists(
    st.one_of(CELL.map(lambda cell: {"image": cell}), st.dictionaries(NAME, CELL, max_size=2)), max_size=4
)
PLAIN = st.lists(TEXT, min_size=1, max_size=3).flatmap(
    # With at most one cell that is none.
    lambda texts: st.one_of(st.just(texts), CELL.map(lambda cell: [*texts, cell]))
)
REQUEST = st.one_of(
    PLAIN.map(lambda found: {"dataframe_records": [{"image": cell} for cell in found]}),
    st.builds(
        lambda found, more: {"dataframe_split": {"columns": ["image"], "data": [[cell] for cell in found], **more}},
        PLAIN,
        st.one_of(
            st.just({}),
            st.fixed_dictionaries({"index": st.one_of(st.just([0, 1]), st.lists(st.integers(0, 2), max_size=4))}),
        ),
    ),
    st.fixed_dictionaries({"dataframe_split": SPLIT}, optional={"params": ODD}),
    st.fixed_dictionaries({"dataframe_records": RECORDS}, optional={"params": ODD}),
    st.fixed_dictionaries({"dataframe_split": SPLIT, "dataframe_records": RECORDS}),
    st.fixed_dictionaries({"inputs": RECORDS}),
    ODD,
)


class _Echo:
    """A model whose answers are what it was asked."""

    def predict(self, data: pd.DataFrame, params: dict[str, Any] | None = None) -> list[Any]:
        return list(data["image"])


def _by_mlflow(body: bytes) -> list[Any] | None:
    """The cells that reach a model by MLflow's own way; None where it refuses."""
    model = PyFuncModel(WITHOUT_VERSION, _Echo())
    try:
        answer = scoring_server.invocations(body, "application/json", model, WITHOUT_VERSION.get_input_schema())
    except (MlflowException, UnicodeError):
        return None
    return list(json.loads(answer.response)["predictions"])


@given(REQUEST)
def test_what_is_plain_is_what_mlflow_reads(request_: Any) -> None:
    body = json.dumps(request_).encode()
    found = cells(body)
    if found is not None:
        assert found == _by_mlflow(body)


@given(st.lists(TEXT, min_size=1, max_size=4), st.booleans())
def test_what_our_documents_and_pandas_send_is_plain(texts: list[str], indexed: bool) -> None:
    frame = pd.DataFrame({"image": texts})
    split = frame.to_dict(orient="split")
    if not indexed:
        del split["index"]
    for sent in ({"dataframe_split": split}, {"dataframe_records": frame.to_dict(orient="records")}):
        body = json.dumps(sent).encode()
        assert cells(body) == _by_mlflow(body) == texts


@pytest.mark.parametrize(
    "body",
    [
        b"", b"{", b"\xff\xfe\xfd", b"[" * 100_000, b"[]", b"null", b'"image"', b'{"dataframe_records": []}',
        b'{"dataframe_split": {"columns": ["image"], "data": []}}', b'{"dataframe_records": [{"image": "a", "site": "b"}]}',
        b'{"dataframe_records": [{"image": "a"}], "params": {}}', b'{"dataframe_split": {"columns": ["photo"], "data": [["a"]]}}',
        b'{"dataframe_split": {"columns": ["image"], "data": [["a"]], "index": [7, 8]}}', b'{"instances": [{"image": "a"}]}',
    ],
)  # fmt: skip
def test_all_else_is_left_to_mlflow(body: bytes) -> None:
    assert cells(body) is None


PIECE = st.sampled_from(["", "a", '"', "b,", "\n", 'c"', "\r\n", '""'])


@given(st.lists(st.lists(PIECE, max_size=4).map("".join), max_size=6).map(",".join))
def test_no_table_of_csv_has_more_cells_than_are_counted(text: str) -> None:
    with suppress(ValueError):
        assert pd.read_csv(StringIO(text), dtype=str).size <= of_csv(text.encode())


FLAT = st.one_of(
    st.integers(), st.lists(st.integers(), max_size=3), st.dictionaries(st.text("abc", max_size=2), st.integers())
)


@given(st.one_of(FLAT, st.lists(FLAT, max_size=5), st.dictionaries(st.text("abcd", max_size=2), FLAT)),
       st.lists(st.integers(), max_size=4) | st.none(), st.lists(st.text("abc", max_size=1), max_size=4) | st.none())  # fmt: skip
def test_no_table_of_json_has_more_cells_than_are_counted(data: Any, index: Any, columns: Any) -> None:
    split = {"data": data, "index": index, "columns": columns}
    for told, table in (
        ({"inputs": data}, {"data": data}),
        ({"dataframe_split": {name: one for name, one in split.items() if one is not None}}, split),
    ):
        with suppress(ValueError, TypeError):
            assert pd.DataFrame(**table).size <= of_json(json.dumps(told).encode())


@pytest.fixture(scope="module")
def following(trained: Installation, tmp_path_factory: pytest.TempPathFactory) -> Following:
    return champion(trained, tmp_path_factory.mktemp("served"))


@pytest.fixture
def client(following: Following) -> Iterator[TestClient]:
    with TestClient(build(following, Limits(images=4)), base_url="http://127.0.0.1") as made:
        yield made


@pytest.fixture
def taken_apart(monkeypatch: pytest.MonkeyPatch) -> list[bytes]:
    """The requests that MLflow takes apart."""
    seen: list[bytes] = []
    whole = scoring_server.invocations

    def watched(data: bytes, *more: Any) -> Any:
        seen.append(data)
        return whole(data, *more)

    monkeypatch.setattr(scoring_server, "invocations", watched)
    return seen


def test_both_ways_answer_the_same_to_the_last_byte(
    client: TestClient, tmp_path: Path, taken_apart: list[bytes]
) -> None:
    cell = base64.b64encode(photo(tmp_path).read_bytes()).decode()
    records = [{"image": cell}, {"image": "%%%"}, {"image": ""}]
    split = {"columns": ["image"], "data": [[one["image"]] for one in records]}
    plain = [
        client.post("/invocations", json=one) for one in ({"dataframe_records": records}, {"dataframe_split": split})
    ]
    assert not taken_apart
    theirs = client.post("/invocations", json={"inputs": records})
    assert len(taken_apart) == 1
    assert [one.status_code for one in (*plain, theirs)] == [200] * 3
    assert {one.content for one in plain} == {theirs.content}
    assert {(one.headers["content-type"], one.headers["x-model-version"]) for one in (*plain, theirs)} == {
        ("application/json", "1")
    }


@pytest.mark.parametrize(
    ("kind", "status", "theirs"),
    [
        ("application/json", 200, False), ("application/json; charset=UTF-8", 200, False),
        ("application/json;charset=utf-8", 200, False),
        ("application/json; charset=latin-1", 415, True), ("text/plain", 415, False), ("application/json; version=2", 415, True),
    ],
)  # fmt: skip
def test_the_content_type_is_what_mlflow_takes(
    kind: str, status: int, theirs: bool, client: TestClient, taken_apart: list[bytes]
) -> None:
    body = json.dumps({"dataframe_records": [{"image": "%%%"}]})
    assert client.post("/invocations", content=body, headers={"content-type": kind}).status_code == status
    assert bool(taken_apart) is theirs


def test_too_many_images_and_a_fault_are_told_as_by_the_other_way(
    client: TestClient, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def both(count: int) -> tuple[tuple[int, Any], tuple[int, Any]]:
        records = [{"image": "%%%"}] * count
        plain, theirs = (client.post("/invocations", json={key: records}) for key in ("dataframe_records", "inputs"))
        return (plain.status_code, plain.json()), (theirs.status_code, theirs.json())

    plain, theirs = both(5)
    assert plain == theirs
    assert plain[0] == 413

    def broken(reader: Reader, given: Any) -> Any:
        raise RuntimeError("Mrs-Miller-1961")

    monkeypatch.setattr(Reader, "read_all", broken)
    plain, theirs = both(1)
    assert plain == theirs
    assert plain[0] == 500
    assert "Miller" not in caplog.text
