"""The page of an evaluation: whole by itself, safe with any text, a verdict put in, a forgotten image's picture taken out."""

import re

import pytest
import samples
from test_evaluation import KNOWN, baseline, case

from dermanet.judging import page, plots, report
from dermanet.judging.evaluation import Answered, Evaluation, evaluated
from dermanet.judging.flips import flips, totals
from dermanet.judging.page import Card, Page
from dermanet.judging.slices import slices
from dermanet.judging.verdict import Check, Verdict
from dermanet.taxonomy import Diagnosis

ONE, OTHER = (samples.record(number).digest for number in (1, 2))
PICTURE = "data:image/jpeg;base64,AAAA"


def drawn(champion: bool = True, name: str = "smoke") -> tuple[str, Evaluation]:
    records, bad, good = case(120)
    answered = Answered(bad, baseline(records), good if champion else None)
    found = evaluated(records, answered, KNOWN, slices(records, {}), draws=50)
    figures = report.pictures(records, bad, KNOWN.codes, found.whole.intervals, ("mel", "bcc"))
    changed = flips(records, bad, good, KNOWN)
    about = Page(
        name, "r1", "s1", "h1", "3" if champion else "", "0.1.0", 7, "2026-11-22 10:00 UTC", KNOWN.diagnoses, plots.drawn(figures),
        [Card(ONE, PICTURE, "mel: mel becomes nv", "<b>I1</b>; 60 % sure", "worse")],
        [Card(ONE, PICTURE, "mel, called nv", "I1"), Card(OTHER, PICTURE, "bcc, called nv", "I2")],
    )  # fmt: skip
    return page.html(about, found, totals(changed, len(records), KNOWN) if champion else None), found


@pytest.mark.parametrize("champion", [True, False])
def test_a_page_holds_all_figures_and_needs_nothing_beside_itself(champion: bool) -> None:
    text, found = drawn(champion)
    for name in ("diagnosis_accuracy", "diagnosis_f1_macro", "sex_auc"):
        assert f"<strong>{found.whole.candidate[name]:.3f}</strong>" in text
    for one in found.slices:
        assert one.value in text
    addresses = re.findall(r'(?:src|href)="([^"]*)"', text)
    assert addresses and all(address.startswith("data:image/") for address in addresses)
    assert not re.search(r"https?://|@import|url\(|<script", text)
    assert len(re.findall(r'src="data:image/png', text)) == 5
    assert ("get another diagnosis than from the champion" in text) == champion == ("version 3" in text)
    assert "not a medical device" in text and "seed 7" in text


def test_slices_show_the_recall_of_melanoma_or_else_of_the_first_malignant_diagnosis() -> None:
    text, found = drawn()
    assert text.count('data-name="melanoma recall"') == len(found.slices)

    def shown(*codes: str) -> list[str]:
        return [
            called for _, called, _ in page._of_a_slice([Diagnosis(code, f"the {code}", (), True) for code in codes])
        ]

    assert shown("bcc", "mel") == ["macro F1", "the mel recall", "sex accuracy", "age MAE"]
    assert shown("scc", "merkel") == ["macro F1", "the scc recall", "sex accuracy", "age MAE"]
    assert shown() == ["macro F1", "sex accuracy", "age MAE"]


def test_every_text_is_escaped() -> None:
    text, _ = drawn(name="<script>alert(1)</script>")
    assert "<script" not in text and "<b>I1" not in text and "&lt;b&gt;I1" in text


def test_a_verdict_takes_the_place_of_the_one_before() -> None:
    text, _ = drawn()
    failed = Check("age_mae", "champion", 12.0, 11.5, "fail", "12; at most 11.5 <so>", 120, "sex: male")
    passed = Check("images", "support", 120, 100, "pass", "enough", 120)
    first = page.with_verdict(text, Verdict("fail", (failed, passed)))
    assert "at most 11.5 &lt;so&gt;" in first and "sex: male" in first and "1 check passed" in first
    second = page.with_verdict(first, Verdict("pass", (passed,)))
    assert "at most 11.5" not in second and second == page.with_verdict(text, Verdict("pass", (passed,)))
    assert "(gates: dry run)" in page.with_verdict(text, Verdict("fail", (failed,), "dry run"))
    assert "Nothing was judged" in page.with_verdict(text, Verdict("not judged", (), "off"))


def test_the_pictures_of_a_forgotten_image_are_taken_out_and_no_others() -> None:
    text, _ = drawn()
    left = page.without(text, {ONE})
    assert ONE not in left and left.count("<figure") == text.count("<figure") - 2 == 1 and OTHER in left
    assert page.without(text, set()) == text
