"""YAML files that people write: what they say twice is refused."""

from pathlib import Path

import pytest

from dermanet import taxonomy, yamlfile
from dermanet.errors import BadInput
from dermanet.judging import gates


def load(folder: Path, text: str) -> object:
    path = folder / "file.yaml"
    path.write_text(text)
    return yamlfile.load(path, "gates", "DERMANET_GATES")


def test_what_is_said_once_is_read(tmp_path: Path) -> None:
    text = "a: &same {x: 1, y: 2}\nb: {<<: *same, y: 3}\nc: [{x: 1}, {x: 2}]\n"
    assert load(tmp_path, text) == {"a": {"x": 1, "y": 2}, "b": {"x": 1, "y": 3}, "c": [{"x": 1}, {"x": 2}]}


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("a: 1\nb: 2\na: 3\n", "line 3: 'a' stands in line 1 already"),
        ("x:\n  deep:\n    a: 1\n    'a': 1\n", "line 4: 'a' stands in line 3 already"),
        ("- {a: 1}\n- {b: 1, b: 1}\n", "line 2: 'b' stands in line 2 already"),
        ("1: a\n0x1: b\n", "line 2: 1 stands in line 1 already"),
    ],
)
def test_a_key_that_stands_twice_is_named_with_its_lines(tmp_path: Path, text: str, said: str) -> None:
    with pytest.raises(BadInput) as caught:
        load(tmp_path, text)
    assert said in str(caught.value) and "\n" not in str(caught.value)


@pytest.mark.parametrize("text", ["a: [", "? {a: 1}\n: 2\n", "!!python/object/apply:os.getcwd []", "a: *nobody"])
def test_what_is_no_plain_yaml_is_refused_in_one_line(tmp_path: Path, text: str) -> None:
    with pytest.raises(BadInput, match="not YAML") as caught:
        load(tmp_path, text)
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_there_names_its_setting(tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="DERMANET_GATES"):
        yamlfile.load(tmp_path / "none", "gates", "DERMANET_GATES")


def test_gates_and_diagnoses_are_read_so(tmp_path: Path) -> None:
    (tmp_path / "gates.yaml").write_text(
        "checks:\n  age_mae: {greater_is_better: false, threshold: 9, threshold: 90}\n"
    )
    with pytest.raises(BadInput, match=r"gates .*line 2: 'threshold'"):
        gates.load(tmp_path / "gates.yaml")
    (tmp_path / "taxonomy.yaml").write_text(
        "diagnoses:\n- {code: mel, malignant: true, malignant: false}\n- {code: nv}\n"
    )
    with pytest.raises(BadInput, match=r"taxonomy .*line 2: 'malignant'"):
        taxonomy.load(tmp_path / "taxonomy.yaml")
