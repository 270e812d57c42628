"""Answers by hand: image files into rows."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from dermanet import settings
from dermanet.stages.rooms import tracking_of


def predict(images: Sequence[str], model: str | None = None) -> list[dict[str, Any]]:
    """Age, sex and diagnosis of image files, a row each; a file that is no image gets `error` instead. Raises BadInput."""
    from dermanet.registry.tracking import model_files
    from dermanet.serving.reader import Reader

    here = settings.read()
    tracking_of(here)
    reader = Reader.open(model_files(model or f"models:/{here.model}@champion"))
    rows: list[dict[str, Any]] = []
    for image in images:
        try:
            row = reader.read(Path(image).read_bytes()).row
        except OSError as error:
            row = {"error": str(error)}
        kept = {"error": row["error"]} if row["error"] else {name: row[name] for name in row if name != "error"}
        rows.append({"image": image, **kept})
    return rows
