"""Screening: what a source wrote becomes checked labels and a checked image, or a refusal with its reason.

Labels are taken as they are written or not at all: a sex of "M" or " female " may be a shifted column, and guessing is how
wrong labels enter a hospital's model. The refusal says what is allowed, so that the file can be mended.
"""

import re
from dataclasses import dataclass
from typing import TYPE_CHECKING

from dermanet import imagefile
from dermanet.errors import UnreadableImage
from dermanet.intake.metadata import strip
from dermanet.records import OLDEST, SEXES, Labels, Refusal, Row
from dermanet.taxonomy import Taxonomy

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
NUMBER = re.compile(r"[+-]?[0-9]+(\.[0-9]*)?")
LOOK = 256
"""Pixels of the longer side at which an image is judged."""

BLANK = 10.0
"""Grey levels. The flattest of 1,413 public dermoscopic images spans 35, of 10,015 thumbnails of 28 pixels 19 (docs/results.md)."""

BLURRED = 3.0
"""Detail. The softest of those images has 11.7, of the thumbnails 5.1; blurred over 4 pixels of 600, the median image has 2.7."""

MATTERS_OF_JUDGEMENT = ("blank", "blurred")
"""Reasons that a person may overrule: `dermanet quarantine release ID --force`."""

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
    texts = {"localization": row.localization, "confirmation": row.confirmation, "clinic": row.clinic}
    for what, text in texts.items():
        if not text.isprintable():
            return Refusal(row.image_id, "unsafe text", f"{what} {text[:80]!r}; allowed is one line of printable text")
    age = parse_age(row.age)
    if isinstance(age, str):
        return Refusal(
            row.image_id, "impossible age", f"age {row.age!r} {age}; allowed are 0 to {OLDEST:g} years, or nothing"
        )
    return Labels(row.lesion_id, diagnosis, age, sex, row.localization, row.confirmation, row.clinic)


def parse_age(text: str) -> float | None | str:
    """The age in years, None where it is missing, or a phrase that says what is wrong with it."""
    text = text.strip().lower()
    if text in MISSING:
        return None
    # Python's own float() would take 4_5 for 45.
    if not NUMBER.fullmatch(text):
        return "is no number"
    return float(text) if 0 <= float(text) <= OLDEST else "is out of range"


def check_image(data: bytes, name: str, judge: bool = True) -> imagefile.Header | Refusal:
    """The header of an image that decodes to its last line and, if that is judged, shows something; or why it is refused."""
    try:
        header = imagefile.read_header(data)
        pixels = imagefile.decode(data)
        strip(data, header.format)  # So that storing it cannot fail.
    except UnreadableImage as error:
        return Refusal(name, error.reason, error.detail)
    seen = sight(pixels)
    if judge and seen.contrast < BLANK:
        detail = f"its grey levels span {seen.contrast:.0f} of 255; at least {BLANK:g} are needed to see a lesion"
        return Refusal(name, "blank", detail)
    if judge and seen.detail < BLURRED:
        return Refusal(
            name, "blurred", f"its detail is {seen.detail:.1f}; at least {BLURRED:g} is needed, take it again"
        )
    return header


@dataclass(frozen=True, slots=True)
class Sight:
    """How much there is to see. `contrast`: grey levels from the 1st to the 99th percentile. `detail`: variance of the Laplacian."""

    contrast: float
    detail: float


def sight(pixels: "NDArray[np.uint8]") -> Sight:
    """Measures RGB pixels, seen with their longer side at 256 pixels, so that the limits hold for every camera."""
    import cv2
    import numpy as np

    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    scale = LOOK / max(grey.shape)
    if scale < 1:
        # A very long strip keeps two lines.
        size = [max(2, round(side * scale)) for side in grey.shape[::-1]]
        grey = cv2.resize(grey, size, interpolation=cv2.INTER_AREA)
    low, high = np.percentile(grey, (1, 99))
    return Sight(float(high - low), float(cv2.Laplacian(grey, cv2.CV_32F).var()))
