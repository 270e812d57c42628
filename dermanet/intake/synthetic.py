"""A procedural source of dermoscopy-like images, for demonstrations, tests and a newcomer's first run.

`synthetic:lesions=600,seed=7,size=600x450` names it; every option may be left out. An image is a pure function of the
seed, the lesion's number, the view's number and the size (bit for bit where numpy, OpenCV and the processor are the
same): nothing is stored, and any thread may read any image in any order.

Seven diagnoses come in the proportions of HAM10000 (Tschandl, Rosendahl & Kittler, Sci. Data 5:180161, 2018). Age, sex
and diagnosis show in cues of this simulation alone, which say nothing about people; `synthetic_images` draws them.

What is written on a row is what is seen plus noise, drawn once per lesion, so no reader can be perfect. One who sees
every cue exactly and answers optimally scores, over the 700,000 images of 500,000 lesions (`IDEAL`):

    mean absolute error of age    3.91 years
    accuracy of sex               0.873     an `unknown` counts against a reader who must say male or female
    accuracy of diagnosis         0.974
    weighted F1 of diagnosis      0.974
    macro F1 of diagnosis         0.957
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from dermanet.errors import BadInput
from dermanet.intake.synthetic_images import TRUTH, Sight, render
from dermanet.records import Row

IDEAL = {
    "age_mae": 3.91,
    "sex_accuracy": 0.873,
    "diagnosis_accuracy": 0.974,
    "diagnosis_f1_weighted": 0.974,
    "diagnosis_f1_macro": 0.957,
}
"""What `ideal_reader` scores on a large sample: the ceiling for any model trained on this source."""

SHARES = {"akiec": 327, "bcc": 514, "bkl": 1099, "df": 115, "mel": 1113, "nv": 6705, "vasc": 142}
"""Images of each diagnosis among the 10,015 of HAM10000."""

AGES = {
    "akiec": (67, 11), "bcc": (67, 14), "bkl": (64, 14), "df": (53, 13),
    "mel": (61, 15), "nv": (46, 15), "vasc": (51, 22),
}  # fmt: skip
"""Mean and standard deviation of age in years, measured on HAM10000."""

VIEWS = (0.72, 0.18, 0.08, 0.02)
"""How often a lesion has one, two, three, four images: 1.4 in the mean."""

SITES = {"back": 24, "lower extremity": 22, "trunk": 15, "upper extremity": 12, "abdomen": 11, "face": 8, "chest": 8}
CLINICS = ("clinic_a", "clinic_b", "clinic_c")
MALES, SEX_AGREES, SEX_UNKNOWN = 0.54, 0.90, 0.03
AGE_NOISE, AGE_MISSING, DIAGNOSIS_AGREES = 5.0, 0.02, 0.95
OPTIONS = {"lesions": (1, 9_999_999), "seed": (0, 2**32 - 1)}
SIDE_PIXELS = (64, 2048)
ALLOWED = "lesions=1..9999999, seed=0..4294967295, size=WIDTHxHEIGHT of 64..2048 pixels and at most 2:1"
GOLDEN = 0.6180339887498949


@dataclass(frozen=True, slots=True)
class Lesion:
    """One lesion: what its images show (`seen_*`, age in years 2..85) and what its rows say (text, as in a CSV)."""

    number: int
    views: int
    seen_age: float
    seen_sex: str
    seen_diagnosis: str
    age: str
    sex: str
    diagnosis: str
    localization: str
    confirmation: str
    clinic: str


@dataclass(frozen=True)
class SyntheticSource:
    """Lesions 1..`lesions` of the world that `seed` names, photographed at `size` (width, height) in pixels."""

    lesions: int = 600
    seed: int = 7
    size: tuple[int, int] = (600, 450)

    @property
    def name(self) -> str:
        """The canonical spec: `parse(source.name) == source`."""
        return f"synthetic:lesions={self.lesions},seed={self.seed},size={self.size[0]}x{self.size[1]}"

    def rows(self) -> Iterator[Row]:
        """One row per image in the order of the lesions; `image` is a name for `read`."""
        for number in range(1, self.lesions + 1):
            lesion = draw_lesion(self.seed, number)
            for view in range(1, lesion.views + 1):
                image_id = f"SYN_{number:07d}_{view}"
                yield Row(
                    image_id, f"SYN_L{number:07d}", lesion.age, lesion.sex, lesion.diagnosis,
                    lesion.localization, lesion.confirmation, lesion.clinic, f"{image_id}.jpg",
                )  # fmt: skip

    def read(self, image: str) -> bytes:
        """The JPEG bytes of one row's `image`, the same on every call. Raises BadInput for a name no row bears."""
        import simplejpeg  # type: ignore[import-untyped, unused-ignore]

        match = re.fullmatch(r"SYN_([0-9]{7})_([1-4])\.jpg", image)
        number, view = (int(match[1]), int(match[2])) if match else (0, 0)
        lesion = draw_lesion(self.seed, number) if 1 <= number <= self.lesions else None
        if not lesion or view > lesion.views:
            raise BadInput(f"{self.name} has no image {image!r}; it has SYN_NNNNNNN_V.jpg; take the name from a row")
        sight = Sight(number, lesion.seen_age, lesion.seen_sex, lesion.seen_diagnosis, lesion.clinic)
        return bytes(simplejpeg.encode_jpeg(render(self.seed, sight, view, self.size), 88, "RGB", "420"))

    def md5(self, image: str) -> str:
        """Nothing: what is drawn is known when it has been drawn."""
        return ""


def parse(text: str) -> SyntheticSource:
    """Reads `synthetic:` and its options. Raises BadInput with what was seen, what is allowed, what to do."""
    scheme, colon, tail = text.partition(":")
    if scheme != "synthetic" or not colon:
        raise _bad_spec(text, "it does not begin with `synthetic:`")
    options: dict[str, Any] = {}
    for option in tail.split(",") if tail else []:
        key = option.partition("=")[0]
        if key in options:
            raise _bad_spec(text, f"{key!r} stands twice")
        options[key] = _option(text, option)
    return SyntheticSource(**options)


def _option(text: str, option: str) -> int | tuple[int, int]:
    if match := re.fullmatch(r"size=([0-9]{1,4})x([0-9]{1,4})", option):
        width, height = int(match[1]), int(match[2])
        low, high = min(width, height), max(width, height)
        if SIDE_PIXELS[0] <= low and high <= min(SIDE_PIXELS[1], 2 * low):
            return width, height
    elif match := re.fullmatch(r"(lesions|seed)=([0-9]{1,10})", option):
        lowest, highest = OPTIONS[match[1]]
        if lowest <= int(match[2]) <= highest:
            return int(match[2])
    raise _bad_spec(text, f"{option!r} is not an option")


def _bad_spec(text: str, fault: str) -> BadInput:
    return BadInput(f"source {text!r}: {fault}; allowed are {ALLOWED}; write for example {SyntheticSource().name}")


def draw_lesion(seed: int, number: int) -> Lesion:
    """What lesion `number` (from 1) shows and what its rows say."""
    rng = np.random.default_rng((seed, number, TRUTH))
    codes, shares = tuple(SHARES), np.cumsum(tuple(SHARES.values())) / sum(SHARES.values())
    # Steps of the golden ratio fill the classes evenly: any first N lesions hold the mix, rare classes and all.
    seen = codes[int(np.searchsorted(shares, (number * GOLDEN + seed * 0.7548776662) % 1.0))]
    redrawn = codes[int(np.searchsorted(shares, rng.random()))]
    diagnosis = seen if rng.random() < DIAGNOSIS_AGREES else redrawn
    years = float(np.clip(rng.normal(*AGES[seen]), 2, 85))
    stated = float(np.clip(5 * np.round((years + rng.normal(0, AGE_NOISE)) / 5), 0, 85))
    sex, other = ("male", "female") if rng.random() < MALES else ("female", "male")
    written = sex if rng.random() < SEX_AGREES else other
    sites = np.cumsum(tuple(SITES.values())) / sum(SITES.values())
    views = 1 + int(np.searchsorted(np.cumsum(VIEWS[:-1]), rng.random()))
    age = "" if rng.random() < AGE_MISSING else str(stated)
    written = "unknown" if rng.random() < SEX_UNKNOWN else written
    site = tuple(SITES)[int(np.searchsorted(sites, rng.random()))]
    confirmation, clinic = _confirmation(diagnosis, rng.random()), CLINICS[int(3 * rng.random())]
    return Lesion(number, views, years, sex, seen, age, written, diagnosis, site, confirmation, clinic)


def _confirmation(diagnosis: str, chance: float) -> str:
    """How a label was confirmed, nearly as often as in HAM10000: cancers always under the microscope."""
    if diagnosis in ("akiec", "bcc", "mel"):
        return "histo"
    if diagnosis == "nv":
        return "follow_up" if chance < 0.55 else "histo" if chance < 0.92 else "consensus"
    return "histo" if chance < 0.6 else "consensus"


def ideal_reader(lesions: int, seed: int) -> dict[str, float]:
    """The figures, over all images, of a reader who sees every cue and answers optimally; keys as in `IDEAL`."""
    drawn = [draw_lesion(seed, number) for number in range(1, lesions + 1)]
    views = np.array([lesion.views for lesion in drawn])
    # The label is a rounded age, so the median of the labels that one seen age can bear is that age, rounded alike.
    errors = np.array([abs(float(d.age) - 5 * round(d.seen_age / 5)) if d.age else np.nan for d in drawn])
    said, seen = np.array([d.diagnosis for d in drawn]), np.array([d.seen_diagnosis for d in drawn])
    f1, support = [], []
    for code in np.union1d(said, seen):
        is_said, is_seen = said == code, seen == code
        support.append(float(views[is_said].sum()))
        f1.append(2 * float(views[is_said & is_seen].sum()) / (support[-1] + float(views[is_seen].sum())))
    known = ~np.isnan(errors)
    return {
        "age_mae": float(np.average(errors[known], weights=views[known])) if known.any() else float("nan"),
        "sex_accuracy": float(np.average([d.sex == d.seen_sex for d in drawn], weights=views)),
        "diagnosis_accuracy": float(np.average(said == seen, weights=views)),
        "diagnosis_f1_weighted": float(np.average(f1, weights=support)),
        "diagnosis_f1_macro": float(np.mean(f1)),
    }
