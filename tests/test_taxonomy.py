"""The list of diagnoses: HAM10000's seven by default, any other by file, and no list that means two things."""

from pathlib import Path

import pytest

from dermanet import taxonomy
from dermanet.errors import BadInput


def write(folder: Path, text: str) -> Path:
    path = folder / "list.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_the_default_list_is_that_of_ham10000() -> None:
    assert taxonomy.load().codes == ("akiec", "bcc", "bkl", "df", "mel", "nv", "vasc")
    assert {d.code for d in taxonomy.load().diagnoses if d.malignant} == {"akiec", "bcc", "mel"}


@pytest.mark.parametrize(
    ("word", "code"),
    [
        ("mel", "mel"), ("MEL", "mel"), ("Melanoma", "mel"), ("seborrheic keratosis", "bkl"), ("naevus", "nv"),
        (" mel", None), ("", None), ("scc", None),
    ],
)  # fmt: skip
def test_a_word_stands_for_a_code_or_for_none(word: str, code: str | None) -> None:
    assert taxonomy.load().resolve(word) == code


def test_another_list_is_read_in_its_own_order(tmp_path: Path) -> None:
    text = "diagnoses:\n- {code: psoriasis, aliases: [plaque psoriasis]}\n- {code: acne, name: acne vulgaris, malignant: false}\n"
    found = taxonomy.load(write(tmp_path, text))
    assert found.codes == ("psoriasis", "acne")
    assert found.resolve("Plaque Psoriasis") == "psoriasis"
    assert found.diagnoses[0].name == "psoriasis" and found.diagnoses[1].name == "acne vulgaris"


def test_a_list_comes_back_from_its_own_record() -> None:
    found = taxonomy.load()
    again = taxonomy.parse(found.as_list(), "of a model")
    assert again == found and again.digest == found.digest


def test_the_digest_tells_order_and_aliases_apart(tmp_path: Path) -> None:
    texts = (
        "diagnoses: [{code: a}, {code: b}]", "diagnoses: [{code: b}, {code: a}]",
        "diagnoses: [{code: a, aliases: [x]}, {code: b}]", "diagnoses: [{code: a, malignant: true}, {code: b}]",
    )  # fmt: skip
    assert len({taxonomy.load(write(tmp_path, text)).digest for text in texts}) == len(texts)


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "at least two"), ("diagnoses: mel", "at least two"), ("diagnoses: [{code: mel}]", "at least two"),
        ("- {code: mel}\n- {code: nv}", "at least two"), ("diagnoses: [{code: mel}, nv]", "entry 2 is 'nv'"),
        ("diagnoses: [{code: mel}, {name: naevus}]", "`code` is required"), ("diagnoses: [{code: mel}, {code: 7}]", "code 7"),
        ("diagnoses: [{code: mel}, {code: NV}]", "code 'NV'"), ("diagnoses: [{code: mel}, {code: ../nv}]", "code '../nv'"),
        ("diagnoses: [{code: mel}, {code: nv, colour: brown}]", "allowed keys"),
        ("diagnoses: [{code: mel}, {code: nv, malignant: maybe}]", "malignant is 'maybe'"),
        ("diagnoses: [{code: mel}, {code: mel}]", "['mel'] names more than one"),
        ("diagnoses: [{code: mel, aliases: [Mole]}, {code: nv, aliases: [mole]}]", "['mole'] names more than one"),
        ("diagnoses: [{code: mel}, {code: nv, aliases: naevus}]", "aliases is 'naevus'"),
        ("diagnoses: [{code: mel}, {code: nv, aliases: }]", "aliases is None"),
        ("diagnoses: [{code: mel}, {code: nv, aliases: [no]}]", "aliases is [False]"),
        ("diagnoses: [{code: mel}, {code: 2026-99-99}]", "not YAML"), ("diagnoses: [", "not YAML"),
    ],
)  # fmt: skip
def test_a_wrong_list_is_refused_in_one_line_that_names_the_entry(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(BadInput) as caught:
        taxonomy.load(write(tmp_path, text))
    assert said in str(caught.value) and str(tmp_path) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_missing_or_no_text_is_refused(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="set DERMANET_TAXONOMY"):
        taxonomy.load(tmp_path / "none.yaml")
    (tmp_path / "latin.yaml").write_bytes("diagnoses: [{code: nv, name: nävus}, {code: mel}]".encode("latin-1"))
    with pytest.raises(BadInput, match="not YAML"):
        taxonomy.load(tmp_path / "latin.yaml")
