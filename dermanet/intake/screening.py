"""Screening: what a source wrote becomes checked labels and a checked image, or a refusal with its reason.

Labels are taken as they are written or not at all: a sex of "M" or " female " may be a shifted column, and guessing is how
wrong labels enter a hospital's model. The refusal says what is allowed, so that the file can be mended.
"""

import re
from sys import intern

from dermanet import imagefile
from dermanet.errors import UnreadableImage
from dermanet.imagequality import BLANK, BLURRED
from dermanet.intake.look import Look, look
from dermanet.intake.metadata import strip
from dermanet.records import NAME, OLDEST, SEXES, Labels, Refusal, Row
from dermanet.taxonomy import Taxonomy

NUMBER = re.compile(r"[+-]?[0-9]+(\.[0-9]*)?")

MATTERS_OF_JUDGEMENT = ("blank", "blurred")
"""Reasons that a person may overrule: `dermanet quarantine release ID --force`."""

MISSING = frozenset({"", "nan", "na", "n/a", "null", "none", "unknown"})
"""What sources write for a missing age, lesion or patient; an empty sex means unknown as well."""


def check_labels(row: Row, taxonomy: Taxonomy) -> Labels | Refusal:
    """The row's labels, checked; or the first thing that is wrong with them."""
    if row.fault:
        return Refusal(row.image_id, "cells do not fit", row.fault)
    # As an id such a word would make one patient of a whole clinic.
    patient_id = "" if row.patient_id.lower() in MISSING else row.patient_id
    names = {"image id": row.image_id, "lesion id": row.lesion_id, "patient id": patient_id}
    for what, value in names.items():
        if not value and what == "patient id":
            continue
        if not value:
            return Refusal(row.image_id, f"missing {what}", f"the {what} is empty; give one")
        if what == "lesion id" and value.lower() in MISSING:
            return Refusal(row.image_id, f"missing {what}", f"the {what} is {value!r}, which stands for none; give one")
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
    texts = {"localization": row.localization, "confirmation": row.confirmation, "clinic": row.clinic}
    for what, text in texts.items():
        if not text.isprintable():
            return Refusal(row.image_id, "unsafe text", f"{what} {text[:80]!r}; allowed is one line of printable text")
    age = parse_age(row.age)
    if isinstance(age, str):
        return Refusal(
            row.image_id, "impossible age", f"age {row.age!r} {age}; allowed are 0 to {OLDEST:g} years, or nothing"
        )
    # One copy of what many rows say alike: an ingest keeps what all its rows say.
    lesion, site, confirmation, clinic, patient = (
        intern(text) for text in (row.lesion_id, row.localization, row.confirmation, row.clinic, patient_id)
    )
    return Labels(lesion, diagnosis, age, sex, site, confirmation, clinic, patient)


def parse_age(text: str) -> float | None | str:
    """The age in years, None where it is missing, or a phrase that says what is wrong with it."""
    text = text.strip().lower()
    if text in MISSING:
        return None
    # Python's own float() would take 4_5 for 45.
    if not NUMBER.fullmatch(text):
        return "is no number"
    return float(text) if 0 <= float(text) <= OLDEST else "is out of range"


def check_image(data: bytes, name: str, judge: bool = True) -> tuple[imagefile.Header, Look] | Refusal:
    """Header and look of an image that decodes to its last line and, if that is judged, shows something; or why it is refused."""
    try:
        header = imagefile.read_header(data)
        pixels = imagefile.decode(_bare(data, header.format))
    except UnreadableImage as error:
        return Refusal(name, error.reason, error.detail)
    seen = look(pixels)
    if judge and seen.contrast < BLANK:
        detail = f"its grey levels span {seen.contrast:.0f} of 255; at least {BLANK:g} are needed to see a lesion"
        return Refusal(name, "blank", detail)
    if judge and seen.detail < BLURRED:
        return Refusal(
            name, "blurred", f"its detail is {seen.detail:.1f}; at least {BLURRED:g} is needed, take it again"
        )
    return header, seen


def _bare(data: bytes, kind: str) -> bytes:
    """What is stored of a file, and so has to decode. Raises UnreadableImage, with the decoder's reason where it has one."""
    try:
        return strip(data, kind)
    except UnreadableImage:
        imagefile.decode(data)
        raise
