"""The page of an evaluation: one file that needs nothing beside itself, on a screen of any width, in the dark, on paper.

It is made once, with a place for the verdict; a verdict is put in, and a forgotten lesion's pictures are taken out, without
making the rest anew.
"""

import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from dermanet.judging.evaluation import Evaluation, Scores
from dermanet.judging.flips import Totals
from dermanet.judging.metrics import SPECIFICITIES, sensitivity_name
from dermanet.judging.mistakes import MELANOMA
from dermanet.judging.plots import Picture
from dermanet.judging.report import WORDS
from dermanet.judging.verdict import Verdict
from dermanet.taxonomy import Diagnosis
from dermanet.webpage import rendered

TEMPLATE, VERDICT = (Path(__file__).with_name(name) for name in ("evaluation.html", "verdict.html"))
MAIN = (
    ("diagnosis_accuracy", "diagnosis, accuracy", 3), ("diagnosis_balanced_accuracy", "diagnosis, balanced accuracy", 3),
    ("diagnosis_f1_weighted", "diagnosis, weighted F1", 3), ("diagnosis_f1_macro", "diagnosis, macro F1", 3),
    ("diagnosis_ece", "diagnosis, expected calibration error", 3),
    ("sex_accuracy", "sex, accuracy", 3), ("sex_f1", "sex, weighted F1", 3),
    ("sex_auc", "sex, AUC (male against female)", 3), ("sex_ece", "sex, expected calibration error", 3),
    ("age_mae", "age, mean absolute error (years)", 1),
)  # fmt: skip
OF_A_DIAGNOSIS = {"recall": "recall", "precision": "precision", "f1": "F1", "auc": "AUC"}
PICTURES = {
    "confusion_matrix.png": "Confusion matrix", "roc.png": "ROC curves",
    "age_scatter.png": "Age, predicted against true", "reliability_diagnosis.png": "Reliability diagram: diagnosis",
    "reliability_sex.png": "Reliability diagram: sex",
}  # fmt: skip
PLACE = re.compile(r"<!-- verdict -->.*?<!-- /verdict -->", re.DOTALL)
CARD = re.compile(r'<figure data-digest="([0-9a-f]{64})">.*?</figure>\n?', re.DOTALL)


@dataclass(frozen=True, slots=True)
class Card:
    """One image with what is said of it. `address`: a `data:` address; `turn`: of a flip, `worse`, `better` or `other`."""

    digest: str
    address: str
    title: str
    caption: str
    turn: str = ""


@dataclass(frozen=True, slots=True)
class Page:
    """What stands on the page beside the figures. `champion`: its version, empty where there is none to compare with."""

    name: str
    run_id: str
    snapshot: str
    holdout: str
    champion: str
    version: str
    seed: int
    when: str
    diagnoses: Sequence[Diagnosis]
    pictures: Mapping[str, Picture]
    flipped: Sequence[Card] = ()
    mistakes: Sequence[Card] = ()


def html(page: Page, evaluation: Evaluation, flips: Totals | None) -> str:
    """The page, without a verdict yet. Every text is escaped."""
    whole = evaluation.whole
    malignant = [diagnosis for diagnosis in page.diagnoses if diagnosis.malignant]
    left = flips.worse + flips.better + flips.other - len(page.flipped) if flips else 0
    return rendered(
        TEMPLATE, page=page, evaluation=evaluation, whole=whole, main=MAIN, of_a_diagnosis=OF_A_DIAGNOSIS,
        of_a_slice=_of_a_slice(malignant), specificities=[f"{share * 100:.0f}" for share in SPECIFICITIES],
        sensitivities=[(one.name, values) for one in malignant if (values := _sensitivities(one.code, whole))],
        pictures=[(called, page.pictures[name]) for name, called in PICTURES.items() if name in page.pictures],
        flips=flips.sentence() if flips else "", flips_left=left,
    )  # fmt: skip


def with_verdict(text: str, verdict: Verdict) -> str:
    """A page with a verdict in its place, whatever stood there before."""
    block = rendered(VERDICT, verdict=verdict, words=WORDS)
    return PLACE.sub(lambda found: f"<!-- verdict -->\n{block}<!-- /verdict -->", text)


def shown_on(text: str) -> list[str]:
    """The digests of the images whose pictures are on a page."""
    return [found[1] for found in CARD.finditer(text)]


def without(text: str, digests: Collection[str]) -> str:
    """A page without the pictures of some images, by their digests."""
    return CARD.sub(lambda found: "" if found[1] in digests else found[0], text)


def _of_a_slice(malignant: Sequence[Diagnosis]) -> list[tuple[str, str, int]]:
    """Which figures of a slice are shown beside its accuracy: of malignant diagnoses melanoma's recall, or the first one's."""
    first = sorted(malignant, key=lambda one: one.code != MELANOMA)[:1]
    recall = [(f"diagnosis_recall_{one.code}", f"{one.name} recall", 2) for one in first]
    return [
        ("diagnosis_f1_macro", "macro F1", 2),
        *recall,
        ("sex_accuracy", "sex accuracy", 2),
        ("age_mae", "age MAE", 1),
    ]


def _sensitivities(code: str, whole: Scores) -> list[tuple[float, tuple[float, float] | None]]:
    names = [sensitivity_name(code, share) for share in SPECIFICITIES]
    return [(whole.candidate[name], whole.intervals.get(name)) for name in names if name in whole.candidate]
