"""What the faster pixels cost a trained model: the same model on both kinds of pixels, by lesion, paired.

    python -m benchmarks.pixel_effect SOURCE...        folders of labelled images, as `dermanet ingest` reads them

Frozen EfficientNet-Lite0 features of the recipe `dermanet` and of the same steps done plainly at full size; linear heads on them
(balanced logistic regression, ridge for the age), out of fold in five folds by lesion, over several shuffles of the folds. The
difference's 95 % interval is a bootstrap over lesions of figures averaged over the shuffles. One JSON line a figure.
"""

import json
import sys
from collections.abc import Callable, Iterator, Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray
from sklearn.linear_model import LogisticRegression, Ridge
from sklearn.metrics import accuracy_score, balanced_accuracy_score, f1_score, mean_absolute_error
from sklearn.model_selection import StratifiedGroupKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler

from benchmarks.pixel_difference import whole
from dermanet import taxonomy
from dermanet.intake.screening import check_labels
from dermanet.intake.sources import open_source
from dermanet.learning.features import extractor
from dermanet.pixels.preprocess import prepare, recipe
from dermanet.records import Labels, Row

SHUFFLES, FOLDS, DRAWS, BATCH = 10, 5, 1000, 32

Way = Callable[[bytes], NDArray[np.uint8]]
Answers = dict[str, NDArray[np.str_] | NDArray[np.float64]]


def labelled(sources: Sequence[str]) -> Iterator[tuple[bytes, Labels]]:
    """Every image of the sources that has a file and good labels, once."""
    seen, known = set(), taxonomy.load(taxonomy.DEFAULT)
    for text in sources:
        source = open_source(text)
        for row in source.rows():
            if isinstance(row, Row) and row.image and row.image_id not in seen:
                labels = check_labels(row, known)
                if isinstance(labels, Labels):
                    seen.add(row.image_id)
                    yield source.read(row.image), labels


def features_of(files: Sequence[bytes], way: Way) -> NDArray[np.float32]:
    """Frozen features of prepared images, averaged over the image and its mirror image."""
    extract = extractor("efficientnet-lite0", 256)
    parts = []
    for start in range(0, len(files), BATCH):
        pixels = np.stack([way(data) for data in files[start : start + BATCH]])
        parts.append((extract(pixels) + extract(np.ascontiguousarray(pixels[:, :, ::-1]))) / 2)
    return np.concatenate(parts)


def out_of_fold(features: NDArray[np.float32], labels: Sequence[Labels], seed: int) -> Answers:
    """Each image's answers by heads that never saw its lesion."""
    diagnosis, sex = (np.array([getattr(one, head) for one in labels]) for head in ("diagnosis", "sex"))
    age = np.array([np.nan if one.age is None else one.age for one in labels])
    lesions = np.array([one.lesion_id for one in labels])
    found: Answers = {"diagnosis": diagnosis.copy(), "sex": sex.copy(), "age": age.copy()}
    folds = StratifiedGroupKFold(FOLDS, shuffle=True, random_state=seed).split(features, diagnosis, lesions)
    for train, test in folds:
        for head, wanted in (("diagnosis", diagnosis), ("sex", sex)):
            model = make_pipeline(StandardScaler(), LogisticRegression(C=0.003, class_weight="balanced", max_iter=300))
            found[head][test] = model.fit(features[train], wanted[train]).predict(features[test])
        aged = train[~np.isnan(age[train])]
        found["age"][test] = (
            make_pipeline(StandardScaler(), Ridge(3000.0)).fit(features[aged], age[aged]).predict(features[test])
        )
    return found


FIGURES: dict[str, tuple[str, Callable[..., float]]] = {
    "age_mae": ("age", mean_absolute_error),
    "sex_accuracy": ("sex", accuracy_score),
    "diagnosis_accuracy": ("diagnosis", accuracy_score),
    "diagnosis_balanced_accuracy": ("diagnosis", balanced_accuracy_score),
    "diagnosis_f1_macro": ("diagnosis", lambda wanted, found: f1_score(wanted, found, average="macro")),
}


def figure(name: str, runs: Sequence[Answers], labels: Sequence[Labels], rows: NDArray[np.intp]) -> float:
    """A figure of some rows, the mean over the shuffles."""
    head, metric = FIGURES[name]
    wanted = np.array([getattr(labels[row], head) for row in rows], object)
    known = np.array([value is not None for value in wanted])
    kind = float if head == "age" else str
    return float(np.mean([metric(wanted[known].astype(kind), run[head][rows][known]) for run in runs]))


def draws(labels: Sequence[Labels], seed: int) -> Iterator[NDArray[np.intp]]:
    """Rows of lesions drawn with replacement."""
    lesions = np.unique([one.lesion_id for one in labels], return_inverse=True)[1]
    rows = [np.flatnonzero(lesions == number) for number in range(lesions.max() + 1)]
    rng = np.random.default_rng(seed)
    for _ in range(DRAWS):
        yield np.concatenate([rows[number] for number in rng.integers(0, len(rows), len(rows))])


def main() -> None:
    """Prints the figures of both kinds of pixels and of their difference."""
    if len(sys.argv) < 2:
        raise SystemExit("name one or more folders of labelled images")
    files, labels = zip(*labelled(sys.argv[1:]), strict=True)
    chosen, ways = recipe("dermanet"), {}
    for name, way in (("recipe", lambda data: prepare(data, chosen)), ("full size", whole)):
        features = features_of(files, way)
        ways[name] = [out_of_fold(features, labels, seed) for seed in range(SHUFFLES)]
    for name in FIGURES:
        print(
            json.dumps({"benchmark": "pixel_effect", "images": len(files), **compared(name, ways, labels)}), flush=True
        )


def compared(name: str, ways: dict[str, list[Answers]], labels: Sequence[Labels]) -> dict[str, Any]:
    """A figure on both kinds of pixels, its difference with an interval, and the difference of every shuffle."""
    every = np.arange(len(labels))
    both = {way: figure(name, runs, labels, every) for way, runs in ways.items()}
    ours, plain = ways.values()
    pairs = [[figure(name, [run], labels, every) for run in pair] for pair in zip(ours, plain, strict=True)]
    resampled = [figure(name, ours, labels, rows) - figure(name, plain, labels, rows) for rows in draws(labels, 7)]
    return {
        "figure": name,
        **{way: round(value, 4) for way, value in both.items()},
        "difference": round(both["recipe"] - both["full size"], 4),
        "interval": [round(float(bound), 4) for bound in np.percentile(resampled, (2.5, 97.5))],
        "shuffles": [round(one - other, 4) for one, other in pairs],
    }


if __name__ == "__main__":
    main()
