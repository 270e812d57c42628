"""The layout of ISIC 2018 Task 3 as the challenge gives it out.

    *GroundTruth.csv        image, MEL, NV, BCC, AKIEC, BKL, DF, VASC      one-hot
    *LesionGroupings.csv    image, lesion_id, diagnosis_confirm_type
    *Input/<image>.jpg
    any CSV with image and age_approx or sex (as ISIC 2019 gives out), if there is one

Age and sex are not part of the challenge's files: without the last CSV ages are missing and sexes unknown. A set that is given
with HAM10000's columns (metadata.csv: lesion_id, image_id, dx, …) is read by `tables`.
"""

from collections.abc import Iterator, Mapping
from dataclasses import dataclass

from dermanet.errors import BadInput
from dermanet.intake import imagefiles
from dermanet.intake.imagefiles import ImageFiles
from dermanet.intake.labelfile import LabelFile
from dermanet.records import Refusal, Row
from dermanet.storage import Entry, Place

CODES = ("mel", "nv", "bcc", "akiec", "bkl", "df", "vasc")


@dataclass(frozen=True)
class Challenge:
    """A place with the challenge's files."""

    name: str
    truth: LabelFile
    groupings: LabelFile
    extras: tuple[LabelFile, ...]
    images: ImageFiles

    def rows(self) -> Iterator[Row | Refusal]:
        """The ground truth's rows joined with lesions and, where given, ages and sexes; then images that no row names."""
        lesions: dict[str, dict[str, str]] = {**self.groupings.by("image")}
        people: dict[str, dict[str, str]] = {}
        for extra in self.extras:
            for image, person in extra.by("image").items():
                people[image] = {**people.get(image, {}), **person}
        named = set()
        for row in self.truth.rows():
            image = row["image"]
            named.add(image)
            lesion, told = lesions.get(image, {}), people.get(image, {})
            yield Row(
                image_id=image, lesion_id=lesion.get("lesion_id", ""), diagnosis=_hot(row),
                age=told.get("age_approx", told.get("age", "")), sex=told.get("sex", ""),
                localization=told.get("anatom_site_general", ""), confirmation=lesion.get("diagnosis_confirm_type", ""),
                image=self.images.called(image), patient_id=told.get("patient_id", ""), fault=row.fault,
            )  # fmt: skip
        yield from self.images.strays(named, self.truth.name)

    def read(self, image: str) -> bytes:
        """The bytes of an image file of the place. Raises UnreadableImage and OSError."""
        return self.images.read(image)

    def md5(self, image: str) -> str:
        """The MD5 of an image file, where the place states it; else empty."""
        return self.images.md5(image)


def recognise(
    text: str, place: Place, listing: Mapping[str, Entry], headers: Mapping[str, tuple[str, ...]]
) -> Challenge | None:
    """The place as a `Challenge`, if its ground truth is there. Raises BadInput without the lesion groupings."""
    truths = [name for name, columns in headers.items() if {"image", *CODES} <= set(columns)]
    groupings = [
        name for name, columns in headers.items() if {"image", "lesion_id"} <= set(columns) and "dx" not in columns
    ]
    if not truths:
        return None
    if len(truths) > 1:
        raise BadInput(f"{text}: several ground truths ({', '.join(truths)}); name the folder of one set")
    if not groupings:
        raise BadInput(
            f"{text}: {truths[0]} without a LesionGroupings CSV (image, lesion_id); the split needs lesions, add it"
        )
    extras = tuple(
        LabelFile(place, name)
        for name, columns in headers.items()
        if "image" in columns and {"sex", "age_approx"} & set(columns)
    )
    images = imagefiles.by_stem(place, listing, (".jpg", ".jpeg"))
    truth, lesions = LabelFile(place, truths[0]), LabelFile(place, groupings[0])
    return Challenge(f"{place}/{truths[0]}", truth, lesions, extras, images)


def _hot(row: Mapping[str, str]) -> str:
    """The one code whose column says 1; otherwise what stands there, for the screening to name and refuse."""
    hot = [code for code in CODES if row[code].strip() in {"1", "1.0"}]
    return hot[0] if len(hot) == 1 else "+".join(hot)
