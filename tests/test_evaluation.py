"""An evaluation: everyone scored by the same code, slices of the same draws, and what is kept is what comes back."""

import json

import numpy as np
import pytest
import samples

from dermanet import taxonomy
from dermanet.judging import evaluation, metrics
from dermanet.judging.evaluation import Answered, evaluated
from dermanet.judging.intervals import differences, intervals
from dermanet.judging.slices import slices
from dermanet.records import SEXES, Answers, Record

KNOWN = taxonomy.load()


def case(count: int = 240, seed: int = 1) -> tuple[list[Record], Answers, Answers]:
    """Records, answers of a network that is wrong for men, and of one that is as good for all."""
    rng = np.random.default_rng(seed)
    truth, sexes = rng.integers(0, 7, count), rng.integers(0, 2, count)
    records = [
        samples.record(
            n, diagnosis=KNOWN.codes[d], sex=SEXES[s], age=float(20 + n % 60), localization=("back", "face")[n % 2]
        )
        for n, (d, s) in enumerate(zip(truth, sexes, strict=True))
    ]

    def answers(right: np.ndarray) -> Answers:
        said = np.where(right, truth, (truth + 1) % 7)
        odds = np.eye(7, dtype=np.float32)[said] * 0.6 + rng.random((count, 7), np.float32) * 0.05
        sex = np.eye(3, dtype=np.float32)[np.where(right, sexes, 1 - sexes)]
        return Answers(np.full(count, 50, np.float32), sex, odds / odds.sum(axis=1, keepdims=True))

    fair = rng.random(count) < 0.8
    return records, answers(fair & ((sexes == 1) | (rng.random(count) < 0.2))), answers(fair)


def baseline(records: list[Record]) -> Answers:
    return metrics.trivial_answers(records, len(records), KNOWN.codes)


def test_the_whole_has_every_figure_of_everyone_and_paired_differences() -> None:
    records, bad, good = case()
    found = evaluated(records, Answered(bad, baseline(records), good), KNOWN, draws=200).whole
    assert found.candidate == metrics.figures(records, bad, KNOWN.codes, ("akiec", "bcc", "mel"))
    assert found.champion is not None and found.over_champion is not None
    assert (
        found.champion["diagnosis_accuracy"]
        > found.candidate["diagnosis_accuracy"]
        > found.baseline["diagnosis_accuracy"]
    )
    assert found.intervals["age_mae"] == intervals(records, bad, KNOWN.codes, 200)["age_mae"]
    apart = differences(records, bad, good, KNOWN.codes, 200)
    assert (
        found.over_champion["diagnosis_accuracy"] == apart["diagnosis_accuracy"] and apart["diagnosis_accuracy"][1] < 0
    )
    assert found.support["images"] == 240
    assert {"sex_auc", "diagnosis_auc_mel", "diagnosis_sensitivity_mel_at_90"} <= set(found.intervals)


def test_a_slice_is_scored_as_if_it_were_a_holdout_of_its_own() -> None:
    records, bad, good = case()
    found = evaluated(records, Answered(bad, baseline(records), good), KNOWN, slices(records, {}), draws=200)
    men = next(one for one in found.slices if (one.axis, one.value) == ("sex", "male")).scores
    rows = np.array([record.labels.sex == "male" for record in records])
    assert men.support["images"] == rows.sum()
    alone = metrics.figures(
        [record for record in records if record.labels.sex == "male"],
        Answers(bad.age[rows], bad.sex[rows], bad.diagnosis[rows]), KNOWN.codes,
    )  # fmt: skip
    assert men.candidate["diagnosis_accuracy"] == alone["diagnosis_accuracy"] < 0.4
    low, high = men.intervals["diagnosis_accuracy"]
    assert low < alone["diagnosis_accuracy"] < high and high - low > 0.05
    assert men.over_champion is not None and men.over_champion["diagnosis_accuracy"][1] < -0.2
    women = next(one for one in found.slices if (one.axis, one.value) == ("sex", "female")).scores
    assert women.candidate["diagnosis_accuracy"] > 0.7 and {one.axis for one in found.slices} == {"age", "sex", "site"}


@pytest.mark.parametrize("champion", [True, False])
def test_what_is_kept_of_an_evaluation_is_what_comes_back(champion: bool) -> None:
    records, bad, good = case(60)
    answered = Answered(bad, baseline(records), good if champion else None)
    found = evaluated(records, answered, KNOWN, slices(records, {}), draws=20)
    record = json.loads(json.dumps({"run_id": "r", **found.as_dict()}, allow_nan=False))
    assert evaluation.from_dict(record) == found
    assert (found.whole.over_champion is not None) == champion


def test_a_holdout_without_images_has_no_figures() -> None:
    none = Answers(np.zeros(0, np.float32), np.zeros((0, 3), np.float32), np.zeros((0, 7), np.float32))
    found = evaluated([], Answered(none, none, none), KNOWN, slices([], {}), draws=5)
    assert (
        found.whole.candidate == {} == found.whole.intervals
        and found.slices == ()
        and found.whole.support["images"] == 0
    )
