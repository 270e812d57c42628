"""The plainest of MLflow's requests, taken apart here: JSON with one column `image` of text, as its clients and our documents send it.

MLflow reads the JSON twice, makes a data frame of it, holds that against the model's signature and takes it apart again: a tenth of
what an answer costs, all of it in Python. Whatever is not quite so plain goes MLflow's own way, which has the same answers.

What brings far more values than its images may have is refused unread: to take 32 MB of them apart costs MLflow minutes and gigabytes.
So is what is small and would be a large table, which has a cell in every column for every row: 16,000 rows that each name a column of
their own are 200 KB, and 4 GB as a table. Of Parquet, of which 100 KB may be as much, the images are read here (`parquet`).
"""

import asyncio
import json
import logging
import re
from collections.abc import Mapping
from io import StringIO
from typing import Any

from fastapi import FastAPI, Request, Response
from mlflow.exceptions import MlflowException
from mlflow.pyfunc.scoring_server import predictions_to_json
from starlette.routing import Route

from dermanet.serving.follow import AT_THE_DOOR, Following, Served, Visit

PATH, PARQUET = "/invocations", "application/vnd.apache.parquet"
KIND = re.compile(r"application/json(; ?charset=(?i:utf-8))?")

QUOTED = re.compile(rb'(?:^|(?<=[,\r\n]))"(?:[^"]++|"")*+(?:"|\Z)')
"""A cell of CSV within quotation marks, which may hold commas and ends of lines; a mark elsewhere is one letter of many."""

VALUES, LINE = 64, 64
"""So many values may stand in a row, of which one is read; and the text of an image may be broken into lines of so many characters."""


def add(app: FastAPI, following: Following) -> None:
    """Stands before MLflow's own address, to which everything else goes on."""
    # It names the columns that it passes over, whatever they are called.
    logging.getLogger("mlflow.models.utils").setLevel(logging.ERROR)
    theirs = next(one for one in app.router.routes if getattr(one, "path", "") == PATH)

    async def invocations(request: Request) -> Response:
        visit, body = AT_THE_DOOR.get(), await request.body()
        kind = request.headers.get("content-type", "").partition(";")[0].strip()
        if kind == PARQUET and visit and visit.served:
            return await asyncio.to_thread(_of_parquet, following, visit, visit.served, body)
        if kind not in FORMS:
            return Response(status_code=415)
        if visit and is_crowded(body, visit.most):
            return _refuse(visit)
        if visit and visit.served and KIND.fullmatch(request.headers.get("content-type", "")):
            told = await asyncio.to_thread(_of_plain_json, following, visit, visit.served, body)
            if told is not None:
                return told
        if visit and await asyncio.to_thread(FORMS[kind], body) > VALUES * visit.most:
            return _refuse(visit)
        answer: Response = await theirs.endpoint(request)  # type: ignore[attr-defined]
        return answer

    app.router.routes.insert(0, Route(PATH, invocations, methods=["POST"]))


def is_crowded(body: bytes, most: int) -> bool:
    """Whether a request, JSON or CSV, has more values or lines than `most` images may have."""
    lines = body.count(b"\n") + body.count(b"\r")
    return body.count(b",") > VALUES * most or lines > VALUES * most + 2 * len(body) // LINE


def of_json(body: bytes) -> int:
    """How many cells MLflow's tables of a request in JSON would have, at most; 0 where it is none, and MLflow must say so."""
    try:
        told = json.loads(body)
    except (ValueError, RecursionError):
        return 0
    if not isinstance(told, dict):
        return 0
    forms = (_cells(told.get(form)) for form in ("dataframe_records", "inputs", "instances"))
    return max(_cells(told), _split_cells(told.get("dataframe_split")), *forms)


def of_csv(body: bytes) -> int:
    """How many cells the table of a request in CSV would have: as many columns as its widest line, in every line but the first."""
    lines = [line for line in QUOTED.sub(b"x", body).splitlines() if line]
    return (len(lines) - 1) * max((line.count(b",") + 1 for line in lines), default=0)


FORMS = {"application/json": of_json, "text/csv": of_csv}
"""The types of content that are taken, and what tells how large a table a request would be."""


def cells(body: bytes) -> list[str] | None:
    """The text of each image that a request brings; None where it is not plain, and MLflow must say what it is."""
    try:
        told = json.loads(body)
    except (ValueError, RecursionError):
        return None
    if not isinstance(told, dict) or len(told) != 1:
        return None
    match told:
        case {"dataframe_split": {"columns": ["image"], "data": [_, *_] as rows, **more}} if _is_index(more, rows):
            found: list[Any] = [row[0] if isinstance(row, list) and len(row) == 1 else None for row in rows]
        case {"dataframe_records": [_, *_] as rows}:
            found = [row.get("image") if isinstance(row, dict) and len(row) == 1 else None for row in rows]
        case _:
            return None
    return found if all(isinstance(cell, str) for cell in found) else None


def _refuse(visit: Visit) -> Response:
    most = VALUES * visit.most
    visit.refusal = (
        413,
        f"more than {most:,} values in one request; send at most {visit.most:,} images, with little beside them",
    )
    return Response(status_code=400)


def _shape(told: Any) -> tuple[int, int]:
    """How many parts a list or an object has, and how many they have together: names where they are objects, places in lists."""
    if not isinstance(told, list | dict):
        return 1, 1
    parts = told if isinstance(told, list) else told.values()
    names = {name for part in parts if isinstance(part, dict) for name in part}
    return len(told), max([len(names), 1, *(len(part) for part in parts if isinstance(part, list))])


def _cells(told: Any) -> int:
    outer, inner = _shape(told)
    return outer * inner


def _split_cells(told: Any) -> int:
    """The cells of a table whose rows, columns and index come apart: what one of them has and another has not, pandas fills up."""
    if not isinstance(told, dict) or "data" not in told:
        return 0
    rows, columns = _shape(told["data"])[:: -1 if isinstance(told["data"], dict) else 1]
    return max(rows, *_shape(told.get("index"))) * max(columns, *_shape(told.get("columns")))


def _is_index(more: Mapping[Any, Any], rows: list[Any]) -> bool:
    """Whether there is nothing besides columns and data, or the rows' numbers, as pandas writes them."""
    return not more or (list(more) == ["index"] and more["index"] == list(range(len(rows))))


def _of_plain_json(following: Following, visit: Visit, served: Served, body: bytes) -> Response | None:
    found = cells(body)
    return None if found is None else _answer(following, visit, served, found)


def _of_parquet(following: Following, visit: Visit, served: Served, body: bytes) -> Response:
    # Its reader takes 30 MB and a second to start, and hardly anybody sends any.
    from dermanet.serving import parquet

    try:
        found = parquet.images(body, VALUES * visit.most, visit.most_bytes)
    except parquet.Crowded:
        return _refuse(visit)
    except parquet.Unreadable as error:
        visit.refusal = 400, f"the request cannot be read as Parquet: {error}"
        return Response(status_code=400)
    return _answer(following, visit, served, found)


def _answer(following: Following, visit: Visit, served: Served, found: list[str]) -> Response:
    told = StringIO()
    try:
        # As MLflow writes it, to the last blank.
        predictions_to_json(following.rows(visit, served, found), told)
    except MlflowException:
        # The visit says what of.
        return Response(status_code=400)
    return Response(told.getvalue(), media_type="application/json")
