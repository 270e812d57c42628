"""Answers by hand: image files into rows."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dermanet import settings
from dermanet.stages.rooms import network_in, tracking_of


def predict(images: Sequence[str], model: str | None = None) -> list[dict[str, Any]]:
    """Age, sex and diagnosis of image files, a row each; a file that is no image gets `error` instead. Raises BadInput."""
    from dermanet.errors import UnreadableImage
    from dermanet.pixels.preprocess import prepare as prepared
    from dermanet.registry.tracking import model_files
    from dermanet.serving.scorer import as_rows

    here = settings.read()
    tracking_of(here)
    network = network_in(model_files(model or f"models:/{here.model}@champion"))
    rows: list[dict[str, Any]] = []
    for image in images:
        try:
            pixels = prepared(Path(image).read_bytes(), network.recipe)
        except (UnreadableImage, OSError) as error:
            rows.append({"image": image, "error": str(error)})
            continue
        rows.append({"image": image, **as_rows(network.answer(pixels[None]), network.diagnoses)[0]})
    return rows
