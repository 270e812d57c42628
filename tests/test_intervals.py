"""Intervals: scikit-learn's figures where nothing is drawn, lesions drawn whole."""

import numpy as np
import pytest
from samples import CODES, record
from sklearn import metrics as sklearn

from dermanet.judging import intervals as module
from dermanet.judging.intervals import differences, intervals, lesion_weights
from dermanet.judging.metrics import figures
from dermanet.judging.ranking import ranking
from dermanet.records import SEXES, Answers, Record


def _case(count: int, seed: int, per_lesion: int = 1) -> tuple[list[Record], Answers]:
    rng = np.random.default_rng(seed)
    records = [
        record(
            number, lesion_id=f"L{number // per_lesion}", diagnosis=CODES[rng.integers(7)], sex=SEXES[rng.integers(3)],
            age=None if rng.random() < 0.1 else float(rng.integers(0, 80)),
        )
        for number in range(count)
    ]  # fmt: skip
    random = rng.random((count, 10)).astype(np.float32)
    return records, Answers(random[:, 0] * 80, random[:, :3], random[:, 3:])


def test_with_every_lesion_counted_once_each_figure_is_scikit_learn_s(monkeypatch: pytest.MonkeyPatch) -> None:
    records, answers = _case(120, 1)
    monkeypatch.setattr(module, "lesion_weights", lambda lesions, draws, seed: np.ones((1, len(lesions))))
    expected = figures(records, answers, CODES, malignant=("mel", "bcc"))
    found = intervals(records, answers, CODES, malignant=("mel", "bcc"))
    proper = {name for name in expected if not name.endswith(("_ece", "_brier", "_log_loss"))}
    assert set(found) == proper and {"sex_auc", "diagnosis_sensitivity_bcc_at_95", "diagnosis_precision_mel"} <= proper
    for name, (low, high) in found.items():
        assert low == high == pytest.approx(expected[name])


@pytest.mark.parametrize("levels", [3, 1000])
def test_a_lesion_drawn_twice_counts_twice_in_rankings_too(levels: int) -> None:
    rng = np.random.default_rng(levels)
    scores, positive = rng.integers(0, levels, 60) / levels, rng.random(60) < 0.4
    weights = rng.integers(0, 4, (5, 60)).astype(float)
    ranks = ranking(scores, positive, weights)
    for draw, (area, found) in enumerate(zip(ranks.area(), ranks.sensitivity(0.8), strict=True)):
        often = np.repeat(np.arange(60), weights[draw].astype(int))
        false, true, _ = sklearn.roc_curve(positive[often], scores[often], drop_intermediate=False)
        assert area == pytest.approx(sklearn.roc_auc_score(positive[often], scores[often]), abs=1e-6)
        assert found == pytest.approx(true[false <= 0.2 + 1e-9].max(), abs=1e-6)


def test_a_draw_without_positives_or_without_negatives_ranks_nothing() -> None:
    ranks = ranking(np.array([0.1, 0.2]), np.array([True, False]), np.array([[0.0, 1.0], [1.0, 1.0], [1.0, 0.0]]))
    assert np.isnan(ranks.area()[[0, 2]]).all() and ranks.area()[1] == 0
    assert np.isnan(ranks.sensitivity(0.9)[[0, 2]]).all() and ranks.sensitivity(0.9)[1] == 0


@pytest.mark.parametrize("constant", [False, True])
def test_a_draw_has_the_figures_of_its_images_and_lacks_what_they_lack(constant: bool) -> None:
    """Few lesions, so that draws without a diagnosis are many; `constant`: of an answer that is always the same."""
    records, answers = _case(24, 5, per_lesion=4)
    if constant:
        answers = Answers(answers.age, answers.sex, np.tile(answers.diagnosis[:1], (24, 1)))
    weights = lesion_weights([one.labels.lesion_id for one in records], 15, 0)
    drawn = module.redrawn(records, answers, CODES, weights, malignant=("mel", "bcc"))
    missing = 0
    for draw, often in enumerate(weights.astype(int)):
        rows = np.repeat(np.arange(24), often)
        chosen = Answers(answers.age[rows], answers.sex[rows], answers.diagnosis[rows])
        expected = figures([records[row] for row in rows], chosen, CODES, malignant=("mel", "bcc"))
        for name, values in drawn.items():
            assert values[draw] == pytest.approx(expected.get(name, np.nan), abs=1e-5, nan_ok=True), name
            missing += name.startswith("diagnosis_f1_") and name not in expected
    assert missing


def test_a_ruined_diagnosis_is_surely_worse_though_a_draw_in_twenty_lacks_it() -> None:
    """A hundred lesions of nv, of which one is called akiec, and three of akiec, eight images each: all found, or one in eight."""
    nv, akiec = CODES.index("nv"), CODES.index("akiec")
    lesions = [*range(100), *np.repeat([100, 101, 102], 8).tolist()]
    records = [record(n, lesion_id=f"L{at}", diagnosis="nv" if at < 100 else "akiec") for n, at in enumerate(lesions)]
    _, answers = _case(124, 6)
    champion = np.array([akiec, *[nv] * 99, *[akiec] * 24])
    ruined = np.array([akiec, *[nv] * 99, *([akiec, *[nv] * 7] * 3)])
    good, bad, never = (
        Answers(answers.age, answers.sex, np.eye(7, dtype=np.float32)[said])
        for said in (champion, ruined, np.full(124, nv))
    )
    worse = differences(records, bad, good, CODES)
    assert worse["diagnosis_recall_akiec"] == (-0.875, -0.875) and worse["diagnosis_f1_akiec"][1] < -0.6
    assert intervals(records, never, CODES)["diagnosis_precision_akiec"] == (0, 0)
    assert differences(records, good, never, CODES)["diagnosis_precision_akiec"][0] > 0.7


def test_images_of_one_lesion_are_drawn_together() -> None:
    weights = lesion_weights(["a", "a", "b", "c", "c", "c"], 50, 0)
    assert (weights[:, 0] == weights[:, 1]).all()
    assert (weights[:, 3] == weights[:, 5]).all()
    assert (weights[:, [0, 2, 3]].sum(axis=1) == 3).all()


def test_a_paired_difference_is_the_figures_difference_and_surer_than_two_intervals() -> None:
    records, answers = _case(400, 3)
    truth = np.array([CODES.index(record.labels.diagnosis) for record in records])
    good = np.eye(7, dtype=np.float32)[np.where(np.arange(400) % 3 == 0, answers.diagnosis.argmax(1), truth)]
    better = Answers(answers.age, answers.sex, np.where(np.arange(400)[:, None] % 20 == 1, answers.diagnosis, good))
    best = Answers(answers.age, answers.sex, good)
    low, high = differences(records, best, better, CODES)["diagnosis_accuracy"]
    apart = figures(records, best, CODES)["diagnosis_accuracy"] - figures(records, better, CODES)["diagnosis_accuracy"]
    assert 0 < low < apart < high
    alone = intervals(records, best, CODES)["diagnosis_accuracy"]
    assert high - low < (alone[1] - alone[0]) / 1.4
    assert differences(records, best, best, CODES)["diagnosis_f1_macro"] == (0, 0)
    assert differences([], best, better, CODES) == {}


def test_fewer_lesions_are_less_sure_than_as_many_images() -> None:
    wide, narrow = (
        (high - low) for low, high in (intervals(*_repeated(k), CODES)["diagnosis_accuracy"] for k in (10, 1))
    )
    assert wide > 2 * narrow


def _repeated(per_lesion: int) -> tuple[list[Record], Answers]:
    """400 images in which all of a lesion's are answered alike."""
    records, answers = _case(400, 2, per_lesion)
    first = np.arange(400) // per_lesion * per_lesion
    alike = [
        record(n, lesion_id=f"L{n // per_lesion}", diagnosis=records[f].labels.diagnosis) for n, f in enumerate(first)
    ]
    return alike, Answers(answers.age[first], answers.sex[first], answers.diagnosis[first])


def test_without_a_known_age_there_is_no_interval_of_age() -> None:
    records = [record(n, age=None) for n in range(20)]
    _, answers = _case(20, 3)
    assert "age_mae" not in intervals(records, answers, CODES)
