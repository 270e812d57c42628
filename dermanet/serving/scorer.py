"""The scorer that is logged with every model: MLflow loads this file, and needs no TensorFlow for it.

Input: a column `image`, each cell a base64 JPEG or PNG, or a data URI of one. Output: one row an image, in order:

    age                      years
    sex                      male, female or unknown
    diagnosis                a code of the model's own list
    sex_probabilities        by name
    diagnosis_probabilities  by code
    error                    null, or why this image could not be answered; the rest of the row is null then

For research use; not a medical device.
"""

import base64
import binascii
import re
from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
from mlflow.pyfunc import PythonModel

from dermanet.errors import BadInput, UnreadableImage
from dermanet.imagefile import MOST_BYTES
from dermanet.pixels.preprocess import prepare, settle
from dermanet.records import SEXES, Answers
from dermanet.serving import golden
from dermanet.serving.network import CARD, Network, load

GRAPH = "model.onnx"
COLUMNS = ("age", "sex", "diagnosis", "sex_probabilities", "diagnosis_probabilities", "error")
DATA_URI = re.compile(r"data:image/[a-z0-9.+-]+;base64,", re.IGNORECASE)


class Scorer(PythonModel):
    """Bytes of images in, rows of answers out."""

    network: Network

    def load_context(self, context: Any) -> None:
        """Loads graph and card and proves on the golden images that they answer as they did in training."""
        artifacts = {name: Path(path) for name, path in context.artifacts.items()}
        # One thread a run, of pixels as of the graph: requests run side by side, and more would only wait for one another.
        settle()
        self.network = load(artifacts[GRAPH], artifacts[CARD], threads=1)
        golden.check(artifacts[golden.FILE], self.network)

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """Answers a data frame with the column `image`."""
        return pd.DataFrame([self.row(cell) for cell in model_input["image"]], columns=COLUMNS, dtype=object)

    def row(self, cell: str) -> dict[str, Any]:
        """One image's answer; a bad image gets a row that says why, and the others are answered."""
        try:
            pixels = prepare(decode_cell(cell), self.network.recipe)
        except BadInput as error:
            return {**dict.fromkeys(COLUMNS), "error": str(error)}
        return {**as_rows(self.network.answer(pixels[None]), self.network.diagnoses)[0], "error": None}


def decode_cell(cell: str) -> bytes:
    """The bytes behind base64 text or a data URI. Raises UnreadableImage, without repeating what was sent."""
    if not isinstance(cell, str):
        raise UnreadableImage("not base64", f"a cell of type {type(cell).__name__}; send text")
    start = DATA_URI.match(cell)
    if len(cell) > MOST_BYTES * 4 // 3 + 100:
        raise UnreadableImage("too large", f"{len(cell):,} characters; at most {MOST_BYTES:,} bytes are read")
    try:
        return base64.b64decode(cell[start.end() :] if start else cell, validate=True)
    except (binascii.Error, ValueError):
        raise UnreadableImage(
            "not base64", "the text is no base64; send a JPEG or PNG file's bytes in base64"
        ) from None


def as_rows(answers: Answers, diagnoses: tuple[str, ...]) -> list[dict[str, Any]]:
    """Answers as plain rows: the most probable sex and diagnosis, and every probability by name."""
    return [
        {
            "age": round(float(age), 1),
            "sex": SEXES[int(sex.argmax())],
            "diagnosis": diagnoses[int(diagnosis.argmax())],
            "sex_probabilities": {name: float(p) for name, p in zip(SEXES, sex, strict=True)},
            "diagnosis_probabilities": {code: float(p) for code, p in zip(diagnoses, diagnosis, strict=True)},
        }
        for age, sex, diagnosis in zip(answers.age, answers.sex, answers.diagnosis, strict=True)
    ]


mlflow.models.set_model(Scorer())
