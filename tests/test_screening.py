"""Screening: labels are taken as they are written or refused with a reason that says what is allowed."""

import dataclasses
from pathlib import Path

import cv2
import numpy as np
import pytest
import samples
from hypothesis import given
from hypothesis import strategies as st

from dermanet import taxonomy
from dermanet.imagefile import Header, decode
from dermanet.imagequality import BLANK, BLURRED
from dermanet.intake.look import look
from dermanet.intake.screening import check_image, check_labels, parse_age
from dermanet.intake.synthetic import SyntheticSource
from dermanet.records import SEXES, Labels, Refusal, Row

GOOD = Row("ISIC_1", "HAM_1", "45.0", "female", "nv", "back", "histo", "clinic_a", "ISIC_1.jpg")
LIST = taxonomy.load()


def refusal(**changes: str) -> Refusal:
    found = check_labels(dataclasses.replace(GOOD, **changes), LIST)
    assert isinstance(found, Refusal)
    assert "\n" not in found.detail
    return found


def labels(**changes: str) -> Labels:
    found = check_labels(dataclasses.replace(GOOD, **changes), LIST)
    assert isinstance(found, Labels), found
    return found


def test_a_good_row_keeps_all_it_says() -> None:
    assert labels() == Labels("HAM_1", "nv", 45.0, "female", "back", "histo", "clinic_a")


@pytest.mark.parametrize("word", ["melanoma", "MEL", "Melanoma"])
def test_a_diagnosis_is_written_by_its_code(word: str) -> None:
    assert labels(diagnosis=word).diagnosis == "mel"


@pytest.mark.parametrize("word", ["scc", "", "nv ", "4", "mel+nv"])
def test_a_diagnosis_the_list_does_not_know_is_refused_with_the_codes(word: str) -> None:
    found = refusal(diagnosis=word)
    assert found.reason == "unknown diagnosis" and found.name == "ISIC_1"
    assert repr(word) in found.detail and ", ".join(LIST.codes) in found.detail


@pytest.mark.parametrize("text", ["", "nan", "NaN", "NA", "unknown", "None", " "])
def test_a_missing_age_is_missing_and_not_zero(text: str) -> None:
    assert labels(age=text).age is None


@pytest.mark.parametrize(("text", "years"), [("0", 0.0), ("0.0", 0.0), ("85", 85.0), ("120", 120.0), (" 40.5 ", 40.5)])
def test_an_age_is_a_number_of_years(text: str, years: float) -> None:
    assert labels(age=text).age == years


@pytest.mark.parametrize(
    "text", ["-3", "400", "forty", "120.1", "inf", "-inf", "1e2", "4_5", "45 years", "٤٥", "1,5", "0x20"]
)
def test_an_impossible_age_is_refused_with_what_is_allowed(text: str) -> None:
    found = refusal(age=text)
    assert found.reason == "impossible age" and repr(text) in found.detail and "0 to 120" in found.detail


@given(st.text(max_size=12))
def test_no_text_becomes_an_age_outside_the_range(text: str) -> None:
    age = parse_age(text)
    assert age is None or isinstance(age, str) or 0 <= age <= 120


@pytest.mark.parametrize(("text", "sex"), [*((sex, sex) for sex in SEXES), ("", "unknown")])
def test_a_sex_is_written_out_or_unknown(text: str, sex: str) -> None:
    assert labels(sex=text).sex == sex


@pytest.mark.parametrize("text", ["M", " female ", "Male", "f", "nan", "0", "divers"])
def test_a_sex_that_is_written_otherwise_is_refused_and_not_guessed(text: str) -> None:
    found = refusal(sex=text)
    assert found.reason == "unknown sex" and repr(text) in found.detail and "male, female, unknown" in found.detail


@pytest.mark.parametrize("field", ["image_id", "lesion_id"])
@pytest.mark.parametrize(
    "text", ["../x", "a/b", "/etc/passwd", "a..b", ".hidden", "a b", "ü", "x" * 129, "a\n", "-rf", "a\0"]
)
def test_an_id_that_leaves_its_folder_is_refused(field: str, text: str) -> None:
    assert refusal(**{field: text}).reason == f"unsafe {field.replace('_', ' ')}"


@pytest.mark.parametrize("field", ["image_id", "lesion_id"])
def test_a_missing_id_is_refused(field: str) -> None:
    assert refusal(**{field: ""}).reason == f"missing {field.replace('_', ' ')}"


@pytest.mark.parametrize("word", ["nan", "NaN", "None", "unknown", "NULL"])
def test_a_word_that_stands_for_none_is_no_id_of_many(word: str) -> None:
    assert labels(patient_id=word).patient_id == ""
    found = refusal(lesion_id=word)
    assert found.reason == "missing lesion id" and repr(word) in found.detail


@pytest.mark.parametrize("field", ["localization", "confirmation", "clinic"])
def test_a_text_of_several_lines_is_a_swallowed_row_and_refused(field: str) -> None:
    found = refusal(**{field: "back\nHAM_2,ISIC_2,nv"})
    assert found.reason == "unsafe text" and found.detail.startswith(field)
    assert getattr(labels(**{field: "Fuß, außen"}), field) == "Fuß, außen"


def test_the_first_fault_is_the_one_that_is_told() -> None:
    assert refusal(image_id="../x", diagnosis="scc", age="-3").reason == "unsafe image id"
    assert refusal(diagnosis="scc", age="-3").reason == "unknown diagnosis"


def test_a_whole_image_gives_its_header_and_a_bad_one_its_reason() -> None:
    found = check_image(samples.jpeg(), "x")
    assert not isinstance(found, Refusal) and found[0] == Header("jpeg", 64, 48)
    for data, reason in ((b"", "empty file"), (b"GIF89a", "not an image"), (samples.jpeg()[:-300], "truncated")):
        found = check_image(data, "x")
        assert isinstance(found, Refusal) and (found.name, found.reason) == ("x", reason)


def flat(low: int, high: int) -> bytes:
    """Two halves of two greys."""
    image = np.full((48, 64, 3), low, np.uint8)
    image[:, 32:] = high
    return samples.png(image)


def test_a_blank_image_is_refused_unless_somebody_insists() -> None:
    found = check_image(flat(128, 128), "x")
    assert isinstance(found, Refusal) and found.reason == "blank"
    assert isinstance(check_image(flat(128, 137), "x"), Refusal)
    assert not isinstance(check_image(flat(128, 128), "x", judge=False), Refusal)


def test_a_blurred_image_is_refused_unless_somebody_insists() -> None:
    sharp = next(iter(SyntheticSource(lesions=1).rows())).image
    pixels = decode(SyntheticSource(lesions=1).read(str(sharp)))
    blurred = samples.png(np.asarray(cv2.GaussianBlur(pixels, (0, 0), 12)))
    found = check_image(blurred, "x")
    assert isinstance(found, Refusal) and found.reason == "blurred" and "at least 3" in found.detail
    assert not isinstance(check_image(blurred, "x", judge=False), Refusal)
    assert look(pixels).detail > BLURRED


def test_a_strip_of_pixels_can_be_judged() -> None:
    seen = look(np.zeros((28, 200_000, 3), np.uint8))
    assert (seen.brightness, seen.contrast, seen.detail) == (0, 0, 0)


def test_no_real_image_is_blank_or_blurred(real_data: Path) -> None:
    for path in sorted(real_data.rglob("*.jpg"))[::10]:
        seen = look(decode(path.read_bytes()))
        assert seen.contrast > 2 * BLANK and seen.detail > 2 * BLURRED, path
