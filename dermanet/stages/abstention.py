"""Sets the limits of abstention of a trained network, and writes them where the model's files are gathered."""

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING

from dermanet.errors import StoreFault, UnreadableImage
from dermanet.experiment import Experiment
from dermanet.settings import Settings
from dermanet.stages.rooms import fill_pixels
from dermanet.storage import Place, place

if TYPE_CHECKING:
    from dermanet.imagequality import Quality
    from dermanet.pixels.preprocess import Recipe
    from dermanet.records import Answers, Record, Snapshot

LOOKED_AT = 500
"""Photographs of the validation side whose quality is measured."""


def write_limits(here: Settings, frozen: "Snapshot", chosen: Experiment, validation: "Answers", path: Path) -> None:
    """Sets all limits and keeps them at `path`. `validation`: honest answers for the snapshot's validation side, in its order."""
    from dermanet.learning import abstention
    from dermanet.serving.abstention import Abstention

    pixels = fill_pixels(here, chosen.recipe, [*frozen.train, *frozen.validation])[0]
    Abstention(
        abstention.familiarity(pixels, frozen.train, frozen.validation),
        abstention.least_certainty(validation.diagnosis),
        abstention.age_error(validation, frozen.validation),
        abstention.usual(_qualities(here, pixels.recipe, frozen.validation)),
    ).write(path)


def _qualities(here: Settings, recipe: "Recipe", records: "Sequence[Record]") -> "list[Quality]":
    """Of photographs as a scorer decodes them, evenly taken; those that cannot be read are left out."""
    objects, step = place(here.objects), -(-len(records) // LOOKED_AT)
    with ThreadPoolExecutor() as pool:
        found = pool.map(lambda record: _quality(objects, recipe, record.digest), records[::step])
        return [quality for quality in found if quality]


def _quality(objects: Place, recipe: "Recipe", digest: str) -> "Quality | None":
    from dermanet.imagequality import measure
    from dermanet.intake.stored import read
    from dermanet.pixels.preprocess import decoded

    try:
        return measure(decoded(read(objects, digest), recipe)[0])
    except (StoreFault, UnreadableImage):
        return None
