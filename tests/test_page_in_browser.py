"""Both pages for people, made by the stages and opened in a real browser: whole, readable on a phone and in the dark, printable."""

from pathlib import Path

import browser
import pytest
from installation import Installation

from dermanet import stages

pytestmark = pytest.mark.skipif(
    browser.installed() is None, reason=f"needs a Chromium or Chrome: none of {', '.join(browser.NAMES)} is a command here"
)  # fmt: skip


def test_the_page_of_an_evaluation_is_sound(installation: Installation) -> None:
    run = stages.train(stages.snapshot()["snapshot"], "smoke:epochs=1,seed=12")["run_id"]
    assert stages.evaluate(run)["flips"]["flipped"], "a page with pictures of flips is wanted"
    stages.judge(run)
    assert browser.faults(Path(stages.evaluation_page(run))) == []


def test_the_report_on_data_is_sound(installation: Installation) -> None:
    stages.ingest("synthetic:lesions=40,seed=5")
    found = stages.validate(stages.snapshot()["snapshot"], "more of the same", "Eve")
    assert found["previous"], "a report that compares is wanted"
    assert browser.faults(Path(stages.report_file(found["run_id"]))) == []


def test_what_is_wrong_with_a_page_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text(
        '<meta name="viewport" content="width=device-width"><style>p { white-space: nowrap; } small { font-size: 9px; color: #bbb; }'
        f'</style><p>{"wide " * 99}<small>small</small><img src="gone.png" alt="gone"><script>nobody.knows()</script>'
    )
    found = "\n".join(browser.faults(page))
    for fault in (
        "nobody is not defined", "needs file:", "not loaded", "a picture that is not there, or has no name: gone",
        "beyond the edge", "390 pixels, light: scrolls sideways", "9.0 pixels: small", "contrast of 1.9: small",
        "paper: 0 of 1 pictures",
    ):  # fmt: skip
        assert fault in found
