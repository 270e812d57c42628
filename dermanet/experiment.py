"""What is being tried: a frozen, hashable description of one training, logged whole. A variant is a list of differences.

dermanet retrain --experiment plain                    the reference network at 256 pixels
dermanet retrain --experiment plain128                 the same, averaged down to 128 inside its graph: four times as fast
dermanet retrain --experiment plain128:epochs=5,seed=1 any field, changed by name
"""

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from typing import Any

from dermanet.errors import BadInput


@dataclass(frozen=True, slots=True)
class Experiment:
    """Everything that decides what a training on a given snapshot comes to, apart from code and machine."""

    name: str
    backbone: str = "plain"
    recipe: str = "dermanet"
    downscale: int = 1
    """The graph averages the prepared image over squares of this side before its first convolution."""
    batch_size: int = 32
    epochs: int = 100
    patience: int = 40
    """Epochs without a better validation loss after which training stops; the best epoch's weights are kept."""
    learning_rate: float = 1e-3
    cosine: bool = True
    """Whether the learning rate falls to nothing over `epochs`, along half a cosine (Loshchilov & Hutter, 2017)."""
    dropout: float = 0.3
    turns: bool = True
    """Whether training images are mirrored and turned by quarters at random: a lesion has no upright."""
    age_weight: float = 1.0
    sex_weight: float = 1.0
    diagnosis_weight: float = 1.0
    seed: int = 7

    def as_dict(self) -> dict[str, Any]:
        """The experiment as plain JSON."""
        return asdict(self)

    @property
    def digest(self) -> str:
        """Names the experiment by its content, its name included: 12 hexadecimal digits."""
        return hashlib.sha256(json.dumps(self.as_dict(), sort_keys=True).encode()).hexdigest()[:12]


PLAIN = Experiment("plain")
EXPERIMENTS = {
    experiment.name: experiment
    for experiment in (
        PLAIN,
        replace(PLAIN, name="plain128", downscale=2),
        replace(PLAIN, name="demo", downscale=4, epochs=24, patience=24),
        replace(PLAIN, name="smoke", recipe="dermanet@32", epochs=2, patience=2),
    )
}


def named(text: str) -> Experiment:
    """`NAME` or `NAME:field=value,field=value`. Raises BadInput with the names or fields that are allowed."""
    name, _, differences = text.partition(":")
    if name not in EXPERIMENTS:
        raise BadInput(f"experiment {name!r}; allowed are {', '.join(EXPERIMENTS)}")
    changes = dict(_difference(part) for part in differences.split(",") if part)
    return check(replace(EXPERIMENTS[name], **changes))


def from_dict(record: dict[str, Any]) -> Experiment:
    """The experiment that `as_dict` recorded."""
    return check(Experiment(**record))


def check(experiment: Experiment) -> Experiment:
    """Returns the experiment, or raises BadInput for a value outside its range."""
    ranges: dict[str, tuple[float, float]] = {
        "downscale": (1, 8), "batch_size": (1, 4096), "epochs": (1, 10_000), "patience": (1, 10_000),
        "learning_rate": (1e-7, 1.0), "dropout": (0.0, 0.9), "age_weight": (0.0, 100.0), "sex_weight": (0.0, 100.0),
        "diagnosis_weight": (0.0, 100.0), "seed": (0, 2**31 - 1),
    }  # fmt: skip
    for field, (low, high) in ranges.items():
        value = getattr(experiment, field)
        if not low <= value <= high:
            raise BadInput(f"experiment {experiment.name}: {field}={value}; allowed are {low:g} to {high:g}")
    return experiment


def _difference(part: str) -> tuple[str, Any]:
    field, _, text = part.partition("=")
    kinds = {name: type(value) for name, value in PLAIN.as_dict().items() if name != "name"}
    if field not in kinds:
        raise BadInput(f"experiment field {field!r}; allowed are {', '.join(kinds)}")
    kind = kinds[field]
    try:
        return field, {"true": True, "false": False}[text.lower()] if kind is bool else kind(text)
    except (KeyError, ValueError):
        raise BadInput(f"experiment field {field}={text!r}; a value of type {kind.__name__} is needed") from None
