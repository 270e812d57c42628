"""Screening: what a source wrote becomes checked labels and a checked image, or a refusal with its reason.

Labels are taken as they are written or not at all: a sex of "M" or " female " may be a shifted column, and guessing is how
wrong labels enter a hospital's model. The refusal says what is allowed, so that the file can be mended.
"""

import math
import re

from dermanet import imagefile
from dermanet.errors import UnreadableImage
from dermanet.records import OLDEST, SEXES, Labels, Refusal, Row
from dermanet.taxonomy import Taxonomy

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
MISSING = frozenset({"", "nan", "na", "n/a", "null", "none", "unknown"})
"""What sources write for a missing age; an empty sex means unknown as well."""


def check_labels(row: Row, taxonomy: Taxonomy) -> Labels | Refusal:
    """The row's labels, checked; or the first thing that is wrong with them."""
    for value, what in ((row.image_id, "image id"), (row.lesion_id, "lesion id")):
        if not value:
            return Refusal(row.image_id, f"missing {what}", f"the {what} is empty; give one")
        if not NAME.fullmatch(value) or ".." in value:
            return Refusal(
                row.image_id, f"unsafe {what}", f"{what} {value!r}; allowed are letters, digits and . _ -, without '..'"
            )
    diagnosis = taxonomy.resolve(row.diagnosis)
    if diagnosis is None:
        return Refusal(
            row.image_id, "unknown diagnosis", f"dx {row.diagnosis!r}; allowed are {', '.join(taxonomy.codes)}"
        )
    sex = "unknown" if row.sex == "" else row.sex
    if sex not in SEXES:
        return Refusal(
            row.image_id, "unknown sex", f"sex {row.sex!r}; allowed are {', '.join(SEXES)}, written so, or nothing"
        )
    age = parse_age(row.age)
    if isinstance(age, str):
        return Refusal(
            row.image_id, "impossible age", f"age {row.age!r} {age}; allowed are 0 to {OLDEST:g} years, or nothing"
        )
    return Labels(row.lesion_id, diagnosis, age, sex, row.localization, row.confirmation, row.clinic)


def parse_age(text: str) -> float | None | str:
    """The age in years, None where it is missing, or a phrase that says what is wrong with it."""
    if text.strip().lower() in MISSING:
        return None
    try:
        age = float(text)
    except ValueError:
        return "is no number"
    return age if math.isfinite(age) and 0 <= age <= OLDEST else "is out of range"


def check_image(data: bytes, name: str) -> imagefile.Header | Refusal:
    """The header of an image that decodes to its last line, or why it is refused."""
    try:
        header = imagefile.read_header(data)
        imagefile.decode(data)
    except UnreadableImage as error:
        return Refusal(name, error.reason, error.detail)
    return header
