"""The nouns that travel between rooms: a source's row, its checked labels, a catalogued record, a refusal."""

import hashlib
import re
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from dermanet.taxonomy import Taxonomy

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

SEXES = ("male", "female", "unknown")
"""The answers of the sex head, in the order of its probabilities (the order `DermaNet.h5` publishes)."""

OLDEST = 120.0
"""The highest age in years that a label may state; below 0 and above this is a slip of the pen."""

SIDES = ("train", "validation", "holdout")

NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
"""What the id of an image, a lesion or a patient may be, without `..`: files and addresses are named by it."""


@dataclass(frozen=True, slots=True)
class Row:
    """One labelled image as its source wrote it: text, nothing believed yet. `image` names the file inside the source.

    `fault`: why nobody can tell which cell is which, or empty.
    """

    image_id: str
    lesion_id: str
    age: str
    sex: str
    diagnosis: str
    localization: str = ""
    confirmation: str = ""
    clinic: str = ""
    image: str | None = None
    patient_id: str = ""
    fault: str = ""


@dataclass(frozen=True, slots=True)
class Labels:
    """What is known of one image, checked: age in years (None: not recorded), sex one of `SEXES`, a taxonomy code.

    `patient_id` is the source's pseudonym, empty where it gives none: all lesions of a patient are on one side of the split.
    """

    lesion_id: str
    diagnosis: str
    age: float | None
    sex: str
    localization: str = ""
    confirmation: str = ""
    clinic: str = ""
    patient_id: str = ""


@dataclass(frozen=True, slots=True)
class Record:
    """One catalogued image: the SHA-256 of its bytes, the name its source gave it, its labels."""

    digest: str
    image_id: str
    labels: Labels

    def as_row(self) -> dict[str, Any]:
        """The record as one flat dictionary, in the column order of a snapshot's CSV."""
        return {"digest": self.digest, "image_id": self.image_id, **asdict(self.labels)}


@dataclass(frozen=True, slots=True)
class Refusal:
    """One record that was not taken in: which, why (`reason`, a fixed phrase) and what was seen (`detail`).

    `row` is what its source wrote, `file` the SHA-256 of its file's bytes where quarantine keeps it, and `ruling` what a person
    decided about this very row and file: nothing yet, `released` or `dropped`. `withdrawn`: the source has it no more.
    """

    name: str
    reason: str
    detail: str
    row: Row | None = None
    file: str | None = None
    ruling: str = ""
    withdrawn: bool = False


def refusal_id(source: str, name: str) -> str:
    """What a refusal is called by: short, and the same at every ingest of the source."""
    return hashlib.sha256(f"{source}\n{name}".encode("utf-8", "surrogateescape")).hexdigest()[:12]


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A frozen set of records on their three sides. `id` names all of it, `holdout_digest` the holdout's images and labels."""

    id: str
    taxonomy: Taxonomy
    holdout_digest: str
    train: tuple[Record, ...]
    validation: tuple[Record, ...]
    holdout: tuple[Record, ...]

    @property
    def records(self) -> tuple[Record, ...]:
        """All records, side by side."""
        return self.train + self.validation + self.holdout


@dataclass(frozen=True, slots=True)
class Answers:
    """What a network answers, row by row: `age` (n,) in years, `sex` (n, 3) and `diagnosis` (n, k) as probabilities."""

    age: "NDArray[np.float32]"
    sex: "NDArray[np.float32]"
    diagnosis: "NDArray[np.float32]"
