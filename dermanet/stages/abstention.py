"""Sets the limits of a trained network: when it abstains, and what monitoring compares it with. Writes them beside its files."""

from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

from dermanet.errors import StoreFault, UnreadableImage
from dermanet.experiment import Experiment
from dermanet.settings import Settings
from dermanet.stages.rooms import fill_pixels
from dermanet.storage import Place, place

if TYPE_CHECKING:
    from dermanet.imagequality import Quality
    from dermanet.monitoring.predictions import Prediction
    from dermanet.pixels.prepared import PreparedPixels
    from dermanet.pixels.preprocess import Recipe
    from dermanet.records import Answers, Record, Snapshot
    from dermanet.serving.abstention import Abstention

    Seen = tuple[int, Quality]
    """The place of an image on the validation side, and how good its photograph is."""

LOOKED_AT = 1000
"""Photographs of the validation side that are looked at."""


def write_limits(
    here: Settings, frozen: "Snapshot", chosen: Experiment, validation: "Answers", folder: Path
) -> dict[str, Path]:
    """Sets all limits and keeps them in a folder. `validation`: honest answers for the snapshot's validation side, in its order.

    Returns the two files by their names: the limits of abstention, and the reference of monitoring.
    """
    from dermanet.learning import abstention
    from dermanet.monitoring import reference
    from dermanet.serving.abstention import FILE, Abstention

    pixels = fill_pixels(here, chosen.recipe, [*frozen.train, *frozen.validation])[0]
    seen = _seen(here, pixels.recipe, frozen.validation)
    limits = Abstention(
        abstention.familiarity(pixels, frozen.train, frozen.validation),
        abstention.least_certainty(validation.diagnosis),
        abstention.age_error(validation, frozen.validation),
        abstention.usual([quality for _, quality in seen]),
    )
    limits.write(folder / FILE)
    lesions = {frozen.validation[at].labels.lesion_id for at, _ in seen}
    reference.write(folder / reference.FILE, _predictions(frozen, pixels, limits, validation, seen), len(lesions))
    return {FILE: folder / FILE, reference.FILE: folder / reference.FILE}


def _predictions(
    frozen: "Snapshot", pixels: "PreparedPixels", limits: "Abstention", answers: "Answers", seen: "Sequence[Seen]"
) -> "Iterator[Prediction]":
    """What the scorer would have written into its log, had it been sent the validation side."""
    from dermanet.monitoring.predictions import Prediction
    from dermanet.records import Answers
    from dermanet.serving.reader import answered

    for at, quality in seen:
        digest, row = frozen.validation[at].digest, slice(at, at + 1)
        novelty, sketch = limits.look(pixels.batch([digest])[0])
        own = Answers(answers.age[row], answers.sex[row], answers.diagnosis[row])
        told = answered(own, frozen.taxonomy.codes, limits, quality, novelty)
        yield Prediction.of("", digest, told, 0.0, look={**asdict(quality), "sketch": sketch})


def _seen(here: Settings, recipe: "Recipe", records: "Sequence[Record]") -> "list[Seen]":
    """The quality of photographs as a scorer decodes them, evenly taken, by their places; those that cannot be read are left out."""
    objects, step = place(here.objects), -(-len(records) // LOOKED_AT)
    chosen = range(0, len(records), max(step, 1))
    with ThreadPoolExecutor() as pool:
        found = pool.map(lambda at: _quality(objects, recipe, records[at].digest), chosen)
        return [(at, quality) for at, quality in zip(chosen, found, strict=True) if quality]


def _quality(objects: Place, recipe: "Recipe", digest: str) -> "Quality | None":
    from dermanet.imagequality import measure
    from dermanet.intake.stored import read
    from dermanet.pixels.preprocess import decoded

    try:
        return measure(decoded(read(objects, digest), recipe)[0])
    except (StoreFault, UnreadableImage):
        return None
