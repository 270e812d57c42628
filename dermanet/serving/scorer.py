"""The scorer that is logged with every model: MLflow loads this file, and needs no TensorFlow for it.

Input: a column `image`, each cell a base64 JPEG or PNG, or a data URI of one. Output: one row an image, in order, with the columns
of `dermanet.serving.reader`. For research use; not a medical device.
"""

from pathlib import Path
from typing import Any

import mlflow
import pandas as pd
from mlflow.pyfunc import PythonModel

from dermanet.serving.reader import COLUMNS, GRAPH, Reader


class Scorer(PythonModel):
    """Cells of images in, rows of answers out."""

    reader: Reader

    def load_context(self, context: Any) -> None:
        """Opens the model's files, which prove on the golden images that they answer as they did in training."""
        self.reader = Reader.open(Path(context.artifacts[GRAPH]).parent)

    def predict(self, context: Any, model_input: pd.DataFrame, params: dict[str, Any] | None = None) -> pd.DataFrame:
        """Answers a data frame with the column `image`."""
        readings = self.reader.read_all(list(model_input["image"]))
        return pd.DataFrame([reading.row for reading in readings], columns=COLUMNS, dtype=object)


mlflow.models.set_model(Scorer())
