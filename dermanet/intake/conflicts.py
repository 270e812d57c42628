"""Label conflicts: one image or one lesion of which two records say different things. `docs/decisions/0005` has the rule."""

from collections.abc import Iterable
from dataclasses import dataclass, field, replace

from dermanet.intake.screening import check_labels
from dermanet.records import Labels, Refusal, Row
from dermanet.taxonomy import Taxonomy

REASON = "label conflict"


def disagreement(one: Labels, other: Labels) -> str:
    """What two labels of one lesion say differently, in one phrase; empty where they agree. What is missing disagrees with nothing."""
    if one.diagnosis != other.diagnosis:
        return f"diagnosis {one.diagnosis} and {other.diagnosis}"
    if None not in (one.age, other.age) and one.age != other.age:
        return f"age {one.age:g} and {other.age:g}"
    if "unknown" not in (one.sex, other.sex) and one.sex != other.sex:
        return f"sex {one.sex} and {other.sex}"
    if "" not in (one.patient_id, other.patient_id) and one.patient_id != other.patient_id:
        return f"patient {one.patient_id} and {other.patient_id}"
    return ""


@dataclass
class Statement:
    """What the rows of one ingest say: of each image its labels, and the lesions on which they contradict one another."""

    images: dict[str, Labels | None] = field(default_factory=dict)
    """By name; None where the labels are not fit to be taken."""
    contradictions: dict[str, str] = field(default_factory=dict)

    def refusal(self, row: Row) -> Refusal | None:
        """The refusal of a row on whose lesion the label file contradicts itself: nobody knows which row is right."""
        found = self.contradictions.get(row.lesion_id)
        if found is None:
            return None
        return Refusal(
            row.image_id, REASON, f"the rows of lesion {row.lesion_id} say {found}; let all say the same", row
        )


def statement(rows: Iterable[Row | Refusal], taxonomy: Taxonomy) -> Statement:
    """Reads the labels of all rows, and no image. Of rows with one name the first counts, as it does later."""
    found = Statement()
    said: dict[str, Labels] = {}
    for row in rows:
        if isinstance(row, Refusal) or row.image_id in found.images:
            continue
        labels = check_labels(row, taxonomy)
        found.images[row.image_id] = None if isinstance(labels, Refusal) else labels
        if isinstance(labels, Refusal):
            continue
        before = said.setdefault(labels.lesion_id, labels)
        difference = disagreement(before, labels)
        if difference:
            found.contradictions.setdefault(labels.lesion_id, difference)
        age = labels.age if before.age is None else before.age
        sex = labels.sex if before.sex == "unknown" else before.sex
        said[labels.lesion_id] = replace(before, age=age, sex=sex, patient_id=before.patient_id or labels.patient_id)
    return found
