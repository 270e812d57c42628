"""Experiments: frozen, named by their content, changed field by field, never outside their ranges."""

import dataclasses
import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dermanet import experiment
from dermanet.errors import BadInput


@pytest.mark.parametrize("text", ["smoke", "probe:views=2,taps=false", "plain:learning_rate=0.0003,kept=last,seed=7"])
def test_an_experiment_can_be_written_as_it_is_asked_for(text: str) -> None:
    assert experiment.text_of(experiment.named(text)).partition(":")[0] == text.partition(":")[0]
    assert experiment.named(experiment.text_of(experiment.named(text))) == experiment.named(text)


@pytest.mark.parametrize("name", list(experiment.EXPERIMENTS))
def test_every_named_experiment_stands_under_its_own_name_and_inside_its_ranges(name: str) -> None:
    found = experiment.named(name)
    assert found.name == name and experiment.check(found) is found


def test_an_experiment_cannot_be_changed_in_place() -> None:
    with pytest.raises(dataclasses.FrozenInstanceError):
        experiment.PLAIN.seed = 3
    assert len({experiment.PLAIN, dataclasses.replace(experiment.PLAIN)}) == 1


def test_differences_change_the_fields_they_name_and_no_other() -> None:
    found = experiment.named("plain128:epochs=5,learning_rate=2e-4,turns=false,recipe=dermanet@64")
    expected = {"epochs": 5, "learning_rate": 2e-4, "turns": False, "recipe": "dermanet@64"}
    assert found.as_dict() == {**experiment.named("plain128").as_dict(), **expected}


@given(st.integers(0, 2**31 - 1), st.floats(0.0, 0.9), st.booleans())
def test_an_experiment_comes_back_from_its_own_record(seed: int, dropout: float, turns: bool) -> None:
    found = experiment.named(f"smoke:seed={seed},dropout={dropout!r},turns={turns}")
    again = experiment.from_dict(json.loads(json.dumps(found.as_dict())))
    assert again == found and again.digest == found.digest


def other(value: bool | float | str) -> bool | float | str:
    return not value if isinstance(value, bool) else f"{value}x" if isinstance(value, str) else value + 1


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(experiment.Experiment)])
def test_every_field_counts_in_the_digest(field: str) -> None:
    value = "probe" if field == "beside" else other(getattr(experiment.PLAIN, field))
    changed = dataclasses.replace(experiment.PLAIN, **{field: value})
    assert changed.digest != experiment.PLAIN.digest


def test_what_stands_beside_an_experiment_counts_in_its_digest_by_its_content(monkeypatch: pytest.MonkeyPatch) -> None:
    before = experiment.named("finetune").digest
    changed = dataclasses.replace(experiment.PROBE, balance=0.5)
    monkeypatch.setitem(experiment.EXPERIMENTS, "probe", changed)
    assert experiment.named("finetune").digest != before


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ("", "allowed are plain, "), ("plane", "experiment 'plane'"), ("plain:epoch=3", "field 'epoch'"),
        ("plain:name=other", "field 'name'"), ("plain:epochs", "epochs=''"), ("plain:epochs=many", "type int"),
        ("plain:epochs=1.5", "type int"), ("plain:turns=perhaps", "type bool"), ("plain:dropout=high", "type float"),
        ("plain:epochs=0", "1 to 10000"), ("plain:epochs=-4", "epochs=-4"), ("plain:dropout=1", "0 to 0.9"),
        ("plain:learning_rate=nan", "learning_rate=nan"), ("plain:learning_rate=inf", "learning_rate=inf"),
        ("plain:batch_size=5000", "1 to 4096"), ("plain:downscale=9", "1 to 8"), ("plain:seed=-1", "seed=-1"),
        ("plain:epochs=2,seed=1,epochs=3", "epochs stands twice; keep one"), ("plain:seed=1,seed=1", "seed stands twice"),
        ("plain:age_weight=0,sex_weight=0,diagnosis_weight=0", "are all 0; one above 0 is needed"),
    ],
)  # fmt: skip
def test_a_wrong_experiment_is_refused_in_one_line_that_says_what_is_allowed(text: str, said: str) -> None:
    with pytest.raises(BadInput) as caught:
        experiment.named(text)
    assert said in str(caught.value) and "\n" not in str(caught.value)
