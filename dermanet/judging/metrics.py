"""Figures of the three heads on a holdout, by scikit-learn, and those of a reader who does not look at the image.

Names: age_mae; sex_accuracy, sex_f1 (weighted), sex_auc; diagnosis_accuracy, diagnosis_balanced_accuracy,
diagnosis_f1_weighted, diagnosis_f1_macro, and diagnosis_f1_<code>, diagnosis_recall_<code>, diagnosis_precision_<code> and
diagnosis_auc_<code> (it against all others) for each diagnosis; of malignant ones diagnosis_sensitivity_<code>_at_90, the share that
is found where nine in ten of all others are left alone, and at 80 and 95.
Of the probabilities of sex and diagnosis, the less the better: <head>_ece (expected calibration error, see `calibration`),
<head>_brier (squared error summed over the answers there are, 0 to 2; Brier, 1950) and <head>_log_loss (nats; 36 at most an image).
A figure that the holdout cannot give (no known age, a diagnosis that nobody has) is left out, never a number that looks like one.
"""

from collections import Counter
from collections.abc import Sequence
from statistics import median

import numpy as np
from numpy.typing import NDArray
from sklearn import config_context, metrics

from dermanet.judging import calibration
from dermanet.records import SEXES, Answers, Record

Figures = dict[str, float]
SPECIFICITIES = (0.80, 0.90, 0.95)
"""At which a malignant diagnosis's sensitivity is told."""


def figures(
    records: Sequence[Record], answers: Answers, codes: Sequence[str], malignant: Sequence[str] = ()
) -> Figures:
    """All figures of `answers` (n rows) against the labels of `records` (n, same order). `codes` orders the diagnosis columns.

    `malignant`: whose sensitivities at fixed specificities are wanted.
    """
    if not records:
        return {}
    # scikit-learn looks at the parameters of every call: a fifth of the time, where many small slices are judged.
    with config_context(skip_parameter_validation=True):
        return {
            **age_figures(records, answers),
            **sex_figures(records, answers),
            **diagnosis_figures(records, answers, codes),
            **sensitivities(records, answers, codes, malignant),
        }


def age_figures(records: Sequence[Record], answers: Answers) -> Figures:
    """Mean absolute error in years over the images whose age is known."""
    pairs = [
        (record.labels.age, age)
        for record, age in zip(records, answers.age, strict=True)
        if record.labels.age is not None
    ]
    return {"age_mae": float(metrics.mean_absolute_error(*zip(*pairs, strict=True)))} if pairs else {}


def sex_figures(records: Sequence[Record], answers: Answers) -> Figures:
    """Accuracy and weighted F1 over male, female and unknown; area under the ROC curve of male against female where known."""
    truth = np.array([SEXES.index(record.labels.sex) for record in records])
    answered = answers.sex.argmax(axis=1)
    found = {
        "sex_accuracy": float(metrics.accuracy_score(truth, answered)),
        "sex_f1": float(metrics.f1_score(truth, answered, average="weighted", zero_division=0)),
    }
    known = truth < 2
    if len(set(truth[known])) == 2:
        found["sex_auc"] = float(metrics.roc_auc_score(truth[known] == 0, male_share(answers)[known]))
    return found | probability_figures("sex", answers.sex, truth)


def diagnosis_figures(records: Sequence[Record], answers: Answers, codes: Sequence[str]) -> Figures:
    """Accuracy, balanced accuracy, weighted and macro F1, and F1, recall, precision and AUC of each diagnosis that the holdout has."""
    truth = np.array([codes.index(record.labels.diagnosis) for record in records])
    answered = answers.diagnosis.argmax(axis=1)
    # One call and its means, as scikit-learn takes them itself: asked for each by name it counts everything anew.
    seen = np.union1d(truth, answered)
    each = metrics.precision_recall_fscore_support(truth, answered, labels=seen, average=None, zero_division=0)
    precision, recall, f1, held = (np.asarray(values, float) for values in each)
    found = {
        "diagnosis_accuracy": float(metrics.accuracy_score(truth, answered)),
        "diagnosis_balanced_accuracy": float(recall[held > 0].mean()),
        "diagnosis_f1_weighted": float(np.average(f1, weights=held)),
        "diagnosis_f1_macro": float(f1.mean()),
    }
    present = seen[held > 0]
    for place, *own in zip(present, f1[held > 0], recall[held > 0], precision[held > 0], strict=True):
        for name, value in zip(("f1", "recall", "precision"), own, strict=True):
            found[f"diagnosis_{name}_{codes[place]}"] = float(value)
        if len(present) > 1:
            area = metrics.roc_auc_score(truth == place, answers.diagnosis[:, place])
            found[f"diagnosis_auc_{codes[place]}"] = float(area)
    return found | probability_figures("diagnosis", answers.diagnosis, truth)


def sensitivities(records: Sequence[Record], answers: Answers, codes: Sequence[str], wanted: Sequence[str]) -> Figures:
    """Of each diagnosis `wanted` that the records have: the share found at each of `SPECIFICITIES`."""
    found, truth = {}, np.array([record.labels.diagnosis for record in records])
    for code in wanted:
        positive = truth == code
        if positive.any() and not positive.all():
            scores = answers.diagnosis[:, codes.index(code)]
            false, true, _ = metrics.roc_curve(positive, scores, drop_intermediate=False)
            for specificity in SPECIFICITIES:
                within = false <= 1 - specificity + 1e-9
                found[sensitivity_name(code, specificity)] = float(true[within].max())
    return found


def sensitivity_name(code: str, specificity: float) -> str:
    """What a sensitivity at a fixed specificity is called."""
    return f"diagnosis_sensitivity_{code}_at_{specificity * 100:.0f}"


def male_share(answers: Answers) -> NDArray[np.floating]:
    """The probability of male, given that it is male or female (n,)."""
    male, female = answers.sex[:, 0], answers.sex[:, 1]
    return np.asarray(male / np.maximum(male + female, 1e-9))


def probability_figures(head: str, probabilities: NDArray[np.floating], truth: NDArray[np.int64]) -> Figures:
    """Expected calibration error, Brier score and log loss of a head's `probabilities` (n, k) against the true places (n,)."""
    shares = probabilities.astype(float) / probabilities.sum(axis=1, keepdims=True, dtype=float)
    places = range(probabilities.shape[1])
    brier = metrics.brier_score_loss(truth, shares, labels=places, scale_by_half=False)
    return {
        f"{head}_ece": calibration.expected_error(calibration.binned(shares, truth)),
        f"{head}_brier": float(brier),
        f"{head}_log_loss": float(metrics.log_loss(truth, shares, labels=places)),
    }


def support(records: Sequence[Record]) -> dict[str, int]:
    """How many cases stand behind the figures: images, lesions, known ages, and images of each diagnosis."""
    diagnoses = Counter(f"diagnosis_{record.labels.diagnosis}" for record in records)
    return {
        "images": len(records),
        "lesions": len({record.labels.lesion_id for record in records}),
        "ages": sum(record.labels.age is not None for record in records),
        **diagnoses,
    }


def trivial_answers(train: Sequence[Record], count: int, codes: Sequence[str]) -> Answers:
    """What a reader answers who never looks: the training side's median age, most frequent sex and most frequent diagnosis.

    The probabilities are the training side's shares, by Laplace's rule of succession: what nobody has is not impossible.
    """
    ages = [record.labels.age for record in train if record.labels.age is not None]
    return Answers(
        age=np.full(count, median(ages) if ages else 0.0, np.float32),
        sex=np.tile(_shares([record.labels.sex for record in train], SEXES), (count, 1)),
        diagnosis=np.tile(_shares([record.labels.diagnosis for record in train], codes), (count, 1)),
    )


def confusion(records: Sequence[Record], answers: Answers, codes: Sequence[str]) -> NDArray[np.int64]:
    """Counts (k, k): the true diagnosis by rows, the answered one by columns, in the order of `codes`."""
    counts = np.zeros((len(codes), len(codes)), np.int64)
    truth = [codes.index(record.labels.diagnosis) for record in records]
    np.add.at(counts, (truth, answers.diagnosis.argmax(axis=1)), 1)
    return counts


def _shares(words: Sequence[str], known: Sequence[str]) -> NDArray[np.float32]:
    counted = Counter(words)
    counts = np.array([counted[word] + 1 for word in known], np.float32)
    return counts / counts.sum()
