"""What an installation holds and is doing, for whoever watches it."""

import json
from typing import Any

from dermanet.errors import BadInput
from dermanet.settings import Settings
from dermanet.stages.progress import epoch_line
from dermanet.stages.rooms import chosen_experiment, gates_of
from dermanet.storage import place


def holds_real_images(here: Settings) -> bool:
    """Whether the catalogue has any image that is not synthetic."""
    from dermanet.intake.catalogue import Catalogue

    return Catalogue(here.catalogue).holds_real_images()


def catalogued(here: Settings) -> int:
    """How many images the catalogue holds, synthetic ones aside where there are others."""
    from dermanet.intake.catalogue import Catalogue

    return len(Catalogue(here.catalogue).records())


def gates_summary(here: Settings) -> str:
    """One line on the gates file. Raises BadInput where it is wrong."""
    found = gates_of(here)
    mode = "" if found.mode == "enforce" else f", mode {found.mode}"
    return f"{len(found.checks)} metrics have limits in {here.gates}{mode}"


def experiment_summary(here: Settings) -> str:
    """One line on the experiment that is set. Raises BadInput where it is wrong, DermaNetError where weights that it begins with are
    not installed."""
    from dermanet.learning import lite
    from dermanet.learning.parts import parts

    chosen = chosen_experiment(here, "")
    pretrained = (
        {part.name for part in parts(chosen.backbones)} & set(lite.VARIANTS) if chosen.start != "random" else set()
    )
    for name in sorted(pretrained):
        lite.weights_file(lite.VARIANTS[name])
    begun = f", begins with the weights of {', '.join(sorted(pretrained))}" if pretrained else ""
    return f"{here.experiment}: method {chosen.method}, pixels {chosen.recipe}{begun}"


def example(here: Settings) -> dict[str, Any]:
    """One image of the holdout, for a demonstration: its bytes, its image_id and its labels.

    Raises BadInput without one, and StoreFault where it is damaged or missing.
    """
    from dermanet.intake import stored
    from dermanet.intake.catalogue import Catalogue
    from dermanet.intake.placing import survey
    from dermanet.split import side_of

    found = survey(Catalogue(here.catalogue))
    for record in found.records:
        if side_of(record.labels.lesion_id, found.sides) == "holdout":
            labels = record.labels
            data = stored.read(place(here.objects), record.digest)
            return {
                "data": data,
                "image_id": record.image_id,
                "age": labels.age,
                "sex": labels.sex,
                "diagnosis": labels.diagnosis,
            }
    raise BadInput("the holdout has no image; take more lesions in")


def training_now(here: Settings) -> str:
    """One line on the training under way on this machine, or nothing."""
    states = sorted((here.home / "training").glob("*/progress.json"), key=lambda path: path.stat().st_mtime)
    if not states:
        return ""
    history = json.loads(states[-1].read_text())["history"]
    return epoch_line(history) if history else ""
