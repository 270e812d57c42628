"""What a snapshot's table must be, row by row and across rows: a pandera schema, and every breach of it at once."""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import pandas as pd
import pandera.pandas as pa

from dermanet.imagefile import SMALLEST_SIDE
from dermanet.records import OLDEST, SEXES, SIDES

ACROSS = {
    "a lesion on two sides": ("lesion_id", "side"),
    "a patient on two sides": ("patient_id", "side"),
    "a lesion with two diagnoses": ("lesion_id", "diagnosis"),
}
"""Rules across rows: the rows of what the first column names must agree in the second."""

LEVELS = 255
"""The lightest of an image's grey levels."""


@dataclass(frozen=True, slots=True)
class Breach:
    """One rule that was broken, and by what: image ids, or the ids of lesions or patients for a rule across rows."""

    rule: str
    cases: tuple[str, ...]


def schema(codes: Sequence[str]) -> pa.DataFrameSchema:
    """The schema of a table whose diagnoses are among `codes`."""
    name = pa.Check.str_length(1, 128)
    columns = {
        "side": pa.Column(str, pa.Check.isin(SIDES)),
        "digest": pa.Column(str, pa.Check.str_matches(r"^[0-9a-f]{64}$"), unique=True),
        "image_id": pa.Column(str, name),
        "lesion_id": pa.Column(str, name),
        "patient_id": pa.Column(str, pa.Check.str_length(0, 128)),
        "diagnosis": pa.Column(str, pa.Check.isin(list(codes))),
        "sex": pa.Column(str, pa.Check.isin(SEXES)),
        **{text: pa.Column(str) for text in ("localization", "confirmation", "clinic", "world")},
        "age": _number(0, OLDEST),
        "width": _number(SMALLEST_SIDE),
        "height": _number(SMALLEST_SIDE),
        "brightness": _number(0, LEVELS),
        "contrast": _number(0, LEVELS),
        "detail": _number(0),
    }
    return pa.DataFrameSchema(columns, checks=[_across(rule) for rule in ACROSS], strict=True)


def breaches(frame: pd.DataFrame, codes: Sequence[str]) -> tuple[Breach, ...]:
    """Every rule that the table breaks, with every case."""
    try:
        schema(codes).validate(frame, lazy=True)
    except pa.errors.SchemaErrors as errors:
        cases = errors.failure_cases
        across = cases["check"].isin(list(ACROSS))
        # A rule across rows fails in every column of a row, which says nothing.
        rules = cases["check"].where(across, cases["column"].astype(str) + ": " + cases["check"].astype(str))
        return tuple(_breach(frame, str(rule), rows.dropna()) for rule, rows in cases["index"].groupby(rules))
    return ()


def without(broken: Sequence[Breach], frame: pd.DataFrame, gone: Collection[str], instead: str) -> tuple[Breach, ...]:
    """The same breaches with another word for ids that only images say which are `gone`, by their digests."""
    held = frame["digest"].isin(list(gone))
    names = {
        name
        for column in ("image_id", "lesion_id", "patient_id")
        for name in set(frame.loc[held, column]) - set(frame.loc[~held, column])
    }
    return tuple(Breach(one.rule, tuple(instead if case in names else case for case in one.cases)) for one in broken)


def _number(low: float, high: float | None = None) -> pa.Column:
    return pa.Column(float, pa.Check.ge(low) if high is None else pa.Check.in_range(low, high), nullable=True)


def _across(rule: str) -> pa.Check:
    one, other = ACROSS[rule]

    def agree(frame: pd.DataFrame) -> pd.Series:
        counts = frame.groupby(["world", one])[other].transform("nunique")
        return (counts <= 1) | (frame[one] == "")

    return pa.Check(agree, name=rule, error=rule)


def _breach(frame: pd.DataFrame, rule: str, rows: "pd.Series[int]") -> Breach:
    name = ACROSS[rule][0] if rule in ACROSS else "image_id"
    return Breach(rule, tuple(sorted(frame.loc[rows.astype(int).unique(), name].unique())))
