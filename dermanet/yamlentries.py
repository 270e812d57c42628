"""What reviewed YAML files say, read strictly into frozen entries; whatever is wrong is told in one line that names its line."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from dermanet import yamlfile
from dermanet.errors import BadInput

Way = tuple[Any, ...]
"""Keys and places that lead to an entry."""

IN_YAML = {"tuple_type": "a list is needed", "dict_type": "entries by name are needed"}
"""What pydantic says in Python's words, in those of the file."""


class Entry(BaseModel):
    """A part of a file: no word but its own, no value of another type."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)

    @model_validator(mode="before")
    @classmethod
    def _words(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            raise PydanticCustomError(
                "no_entries", "needed are entries by name, of {allowed}", {"allowed": cls._allowed()}
            )
        for word in data:
            if word not in cls.model_fields:
                # `word` leads the message to the line that has it.
                raise PydanticCustomError("unknown", "allowed are {allowed}", {"word": word, "allowed": cls._allowed()})
        return data

    @classmethod
    def _allowed(cls) -> str:
        return ", ".join(cls.model_fields)


Whole = TypeVar("Whole", bound=Entry)


def load(
    kind: type[Whole], path: Path, what: str, setting: str,
    prepared: Callable[[Any], Any], contradictions: Callable[[Whole], Iterator[tuple[Way, str]]],
) -> Whole:  # fmt: skip
    """Reads a file. Raises BadInput with the line that is wrong and what is allowed there.

    `what` the file is, and the variable `setting` that names it, are for messages; `docs/<what>.md` explains it. `prepared`: what is
    to be done to plain YAML before it is read strictly; `contradictions`: what is wrong with entries that are well-formed, and where.
    """
    data = yamlfile.load(path, what, setting)
    lines = yamlfile.lines(path)
    try:
        found = kind.model_validate(prepared(data))
    except ValidationError as error:
        first = error.errors(include_url=False)[0]
        word = first.get("ctx", {}).get("word")
        way = (*first["loc"], word) if word is not None else first["loc"]
        said = _said(way, "" if first["type"] == "missing" else first["input"], first, what)
        raise _wrong(what, path, lines, way, said) from None
    for way, message in contradictions(found):
        raise _wrong(what, path, lines, way, message)
    return found


def _said(way: Way, seen: Any, error: Mapping[str, Any], what: str) -> str:
    name = ".".join(map(str, way)) or "the file"
    message = IN_YAML.get(error["type"]) or str(error["msg"])[:1].lower() + str(error["msg"])[1:]
    if error["type"] == "missing":
        return f"{name} is missing"
    if error["type"] == "unknown":
        return f"{name} is no word of the {what}; {message}"
    return f"{name} is {seen!r}; {message}"


def _wrong(what: str, path: Path, lines: Mapping[Way, int], way: Way, said: str) -> BadInput:
    return BadInput(f"{what} {path}, line {yamlfile.line(lines, way)}: {said}; see docs/{what}.md")
