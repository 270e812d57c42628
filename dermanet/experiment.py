"""What is being tried: a frozen, hashable description of one training, logged whole. A variant is a list of differences.

dermanet retrain --experiment probe                    linear heads on frozen ImageNet features: seconds once those are cached
dermanet retrain --experiment finetune                 the same, then the backbones trained too
dermanet retrain --experiment plain                    the reference network at 256 pixels, trained from nothing
dermanet retrain --experiment plain128                 the same, averaged down to 128 inside its graph: four times as fast
dermanet retrain --experiment plain128:epochs=5,seed=1 any field, changed by name
"""

import hashlib
import json
from dataclasses import asdict, dataclass, replace
from typing import Any

from dermanet.errors import BadInput

METHODS = ("scratch", "probe", "finetune")

STARTS = {
    "scratch": ("imagenet", "random", "champion"),
    # Linear heads on frozen features have one best fit, wherever they begin.
    "probe": ("imagenet",),
    "finetune": ("imagenet", "champion"),
}

KIND = ("method", "backbone", "beside", "taps", "recipe", "downscale", "hidden")
"""Networks that are alike in these fields can take over one another's weights."""

OF_STEPS = (
    "unfrozen", "batch_size", "epochs", "patience", "kept", "learning_rate", "cosine", "warmup", "weight_decay", "averaging",
    "dropout", "turns", "crops", "light", "smoothing", "age_weight", "sex_weight", "diagnosis_weight", "seed",
)  # fmt: skip
"""Fields of networks that are trained by steps: a probe's heads, which have one best fit, come out the same whatever they are."""

GIVEN = ("name", "method", "beside", "start", "downscale", "hidden")
"""Fields of which a probe has one value."""

DECIDES: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(OF_STEPS, ("method",)), "last_map": ("method", "backbone", "beside"), "taps": ("backbone", "beside"),
}  # fmt: skip
"""Fields that change nothing in some experiments, each with the fields that decide whether it does."""


@dataclass(frozen=True, slots=True)
class Experiment:
    """Everything that decides what a training on a given snapshot comes to, apart from code and machine."""

    name: str
    method: str = "scratch"
    """`scratch`: every weight is learned. `probe`: the backbone stays as it is, linear heads are fitted to its features.
    `finetune`: heads as in `probe`, then the backbone's last layers are trained with them."""
    backbone: str = "plain"
    beside: str = ""
    """Fine-tuning: a probe's name. Its frozen networks stand beside the trained ones, its heads beside theirs, and the finished
    network answers with the mean of both: of their logits, and of their years."""
    start: str = "imagenet"
    """Which weights are the first: those of `imagenet` where a backbone has such, `random` ones, or the `champion`'s where it is a
    network of the same kind."""
    taps: bool = False
    """Whether the means of earlier stages' maps are features too."""
    last_map: bool = True
    """Whether the head of a diagnosis reads the last map's means where textures are beside them; those of age and sex do."""
    unfrozen: float = 1.0
    """Fine-tuning: which share of the backbone's layers is trained, counted from its end."""
    views: int = 1
    """Over how many mirrorings and quarter turns of the image the finished network averages its features: 1, 2, 4 or 8."""
    recipe: str = "dermanet"
    downscale: int = 1
    """The graph averages the prepared image over squares of this side before its first convolution."""
    batch_size: int = 32
    epochs: int = 100
    patience: int = 40
    """Epochs without a better validation loss after which training stops."""
    kept: str = "best"
    """Which epoch's weights are kept: the `best` by validation loss, or the `last`, whatever the patience: where the rate falls to
    nothing and weights are averaged, a few validation images choose worse than the end does."""
    learning_rate: float = 1e-3
    cosine: bool = True
    """Whether the learning rate falls to nothing over `epochs`, along half a cosine (Loshchilov & Hutter, 2017)."""
    warmup: float = 0.0
    """Epochs over which the learning rate rises from a tenth first (Goyal et al., 2017)."""
    weight_decay: float = 0.0
    """Decoupled from the gradient, as in AdamW (Loshchilov & Hutter, 2019); 0: Adam."""
    averaging: float = 0.0
    """What an exponential average of the weights keeps of itself a step; it is what is judged and kept. 0: none."""
    hidden: int = 128
    """Units between features and heads; 0: none."""
    dropout: float = 0.3
    turns: bool = True
    """Whether training images are mirrored and turned by quarters at random: a lesion has no upright."""
    crops: float = 1.0
    """The least side of a random square that a training image is cut to and enlarged again; 1: the whole image."""
    light: float = 0.0
    """How far brightness, contrast and tint of training images are changed at random, as a share of their range."""
    smoothing: float = 0.0
    """How much of a diagnosis's label is spread over all diagnoses (Szegedy et al., 2016)."""
    balance: float = 0.0
    """Diagnoses are weighted in the loss by the inverse of their frequency to this power."""
    adjustment: float = 0.0
    """By how much of the logarithm of its frequency a diagnosis's logit is lowered in the end (Menon et al., 2021)."""
    age_weight: float = 1.0
    sex_weight: float = 1.0
    diagnosis_weight: float = 1.0
    calibrate: bool = True
    """Whether the probabilities are given one temperature a head, fitted on the validation side (Guo et al., 2017)."""
    seed: int = 7

    def as_dict(self) -> dict[str, Any]:
        """The experiment as plain JSON."""
        return asdict(self)

    @property
    def most_epochs(self) -> int:
        """After how many epochs it ends at the latest: fine-tuning takes the parts of a backbone in turn, a probe has one."""
        parts = self.backbone.count("+") + 1
        return {"scratch": self.epochs, "probe": 1, "finetune": self.epochs * parts}[self.method]

    @property
    def companion(self) -> "Experiment | None":
        """The probe whose network stands `beside` this one's, on the same pixels in the same orientations."""
        shared = {field: getattr(self, field) for field in ("recipe", "views", "taps", "last_map", "calibrate", "seed")}
        return replace(EXPERIMENTS[self.beside], **shared) if self.beside else None

    @property
    def backbones(self) -> str:
        """Every network that the finished one holds: its own, then its companion's."""
        return f"{self.backbone}+{self.companion.backbone}" if self.companion else self.backbone

    @property
    def idle(self) -> frozenset[str]:
        """Those of `DECIDES` that change nothing in this one: whatever they are, the network comes out the same."""
        of_method = {"scratch": ("unfrozen", "last_map"), "probe": OF_STEPS, "finetune": ()}[self.method]
        wanted = {"last_map": "/textures", "taps": "efficientnet-lite"}
        return frozenset((*of_method, *(field for field, word in wanted.items() if word not in self.backbones)))

    @property
    def digest(self) -> str:
        """Names the experiment by its content, its name and its companion's content included: 12 hexadecimal digits."""
        content = [one.as_dict() for one in (self, self.companion) if one]
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:12]


PLAIN = Experiment("plain")
PYRAMID = "+".join(
    f"efficientnet-{look}/textures" for look in ("lite0@224", "lite2@256", "lite1@240x1.5", "lite0@224x2")
)
"""The whole square, and its middle magnified by a half and by two: a lesion's border is seen in one, its structure in the other."""

SMALL = "efficientnet-lite0@112+efficientnet-lite1@128+efficientnet-lite2@144"
"""Each at half the side that it was made for: trained, not told apart from the whole side, in less than half of the time
(docs/results.md)."""

PROBE = replace(
    PLAIN, name="probe", method="probe", backbone=PYRAMID, taps=True, last_map=False, recipe="square@384", hidden=0, balance=1.0,
)  # fmt: skip
FINETUNE = replace(
    PROBE, name="finetune", method="finetune", backbone=SMALL, beside="probe", last_map=True, views=2, unfrozen=0.75, epochs=12,
    kept="last", learning_rate=1e-3, warmup=1.0, weight_decay=1e-4, averaging=0.98, crops=0.7, light=0.15, smoothing=0.1, balance=0.5,
    age_weight=0.5, sex_weight=0.5,
)  # fmt: skip
EXPERIMENTS = {
    experiment.name: experiment
    for experiment in (
        PLAIN,
        replace(PLAIN, name="plain128", downscale=2),
        PROBE,
        replace(PROBE, name="probe112", backbone="efficientnet-lite0", taps=False, last_map=True, views=1, recipe="square@112"),
        FINETUNE,
        replace(
            FINETUNE, name="finetune28", beside="", unfrozen=1.0, learning_rate=3e-4, recipe="plain@112", crops=0.8, balance=0.0,
        ),
        replace(PLAIN, name="demo", downscale=4, epochs=24, patience=24),
        replace(PLAIN, name="smoke", recipe="dermanet@32", epochs=2, patience=2),
    )
}  # fmt: skip


def named(text: str) -> Experiment:
    """`NAME` or `NAME:field=value,field=value`. Raises BadInput with the names or fields that are allowed."""
    name, _, differences = text.partition(":")
    if name not in EXPERIMENTS:
        raise BadInput(f"experiment {name!r}; allowed are {', '.join(EXPERIMENTS)}")
    changes: dict[str, Any] = {}
    for field, value in (difference(part) for part in differences.split(",") if part):
        if field in changes:
            raise BadInput(f"experiment {text!r}: {field} stands twice; keep one of them")
        changes[field] = value
    return check(replace(EXPERIMENTS[name], **changes))


def from_dict(record: dict[str, Any]) -> Experiment:
    """The experiment that `as_dict` recorded. Raises BadInput where it is none any more: of other fields, or beyond their ranges."""
    if other := sorted(record.keys() - PLAIN.as_dict().keys()):
        raise BadInput(
            f"experiment {record.get('name', '')}: {', '.join(other)} is no field of this version of DermaNet"
        )
    return check(Experiment(**record))


def text_of(experiment: Experiment) -> str:
    """What `named` makes this very experiment of. Raises BadInput where its name is no longer known."""
    base = named(experiment.name).as_dict()
    changed = {field: value for field, value in experiment.as_dict().items() if value != base[field]}
    differences = [
        f"{field}={str(value).lower() if isinstance(value, bool) else value}" for field, value in changed.items()
    ]
    return ":".join(filter(None, (experiment.name, ",".join(differences))))


RANGES: dict[str, tuple[float, float]] = {
    "unfrozen": (0.0, 1.0), "downscale": (1, 8), "batch_size": (1, 4096), "epochs": (1, 10_000), "patience": (1, 10_000),
    "learning_rate": (1e-7, 1.0), "warmup": (0.0, 1000.0), "weight_decay": (0.0, 1.0), "averaging": (0.0, 0.99999),
    "hidden": (0, 65_536), "dropout": (0.0, 0.9), "crops": (0.1, 1.0), "light": (0.0, 0.9), "smoothing": (0.0, 0.9),
    "balance": (0.0, 2.0), "adjustment": (0.0, 2.0), "age_weight": (0.0, 100.0), "sex_weight": (0.0, 100.0),
    "diagnosis_weight": (0.0, 100.0), "seed": (0, 2**31 - 1),
}  # fmt: skip
"""The least and the greatest value of each number."""

CHOICES: dict[str, tuple[Any, ...]] = {
    "method": METHODS,
    "views": (1, 2, 4, 8),
    "kept": ("best", "last"),
    "start": STARTS["scratch"],
    "beside": ("", *(name for name, experiment in EXPERIMENTS.items() if experiment.method == "probe")),
}


def check(experiment: Experiment) -> Experiment:
    """Returns the experiment, or raises BadInput for a value outside its range, or values that exclude one another."""
    for field, (low, high) in RANGES.items():
        value = getattr(experiment, field)
        if not low <= value <= high:
            raise BadInput(f"experiment {experiment.name}: {field}={value}; allowed are {low:g} to {high:g}")
    for field, allowed in CHOICES.items():
        value = getattr(experiment, field)
        if value not in allowed:
            choices = ", ".join(str(one) or "nothing" for one in allowed)
            raise BadInput(f"experiment {experiment.name}: {field}={value}; allowed are {choices}")
    if not experiment.age_weight + experiment.sex_weight + experiment.diagnosis_weight:
        raise BadInput(
            f"experiment {experiment.name}: age_weight, sex_weight and diagnosis_weight are all 0; one above 0 is needed to learn from"
        )
    if experiment.beside and experiment.method != "finetune":
        raise BadInput(f"experiment {experiment.name}: beside={experiment.beside} needs method=finetune")
    if experiment.method != "scratch":
        _check_transfer(experiment)
    return experiment


def _check_transfer(experiment: Experiment) -> None:
    """Linear heads on pretrained features: what else is asked for must not be passed over in silence."""
    for field, wanted in (("hidden", (0,)), ("downscale", (1,)), ("start", STARTS[experiment.method])):
        if getattr(experiment, field) not in wanted:
            allowed = " or ".join(map(str, wanted))
            raise BadInput(f"experiment {experiment.name}: method={experiment.method} needs {field}={allowed}")
    named_parts = experiment.backbones.split("+")
    if len(set(named_parts)) < len(named_parts):
        raise BadInput(f"experiment {experiment.name}: of the networks {experiment.backbones} each is allowed once")
    if "plain" in named_parts:
        raise BadInput(
            f"experiment {experiment.name}: method={experiment.method} needs a pretrained backbone, as efficientnet-lite0"
        )


def difference(part: str) -> tuple[str, Any]:
    """The field and the value of `field=value`. Raises BadInput for a field that there is not, or a value of another type."""
    field, _, text = part.partition("=")
    kinds = {name: type(value) for name, value in PLAIN.as_dict().items() if name != "name"}
    if field not in kinds:
        raise BadInput(f"experiment field {field!r}; allowed are {', '.join(kinds)}")
    kind = kinds[field]
    try:
        return field, {"true": True, "false": False}[text.lower()] if kind is bool else kind(text)
    except (KeyError, ValueError):
        raise BadInput(f"experiment field {field}={text!r}; a value of type {kind.__name__} is needed") from None
