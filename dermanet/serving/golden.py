"""Golden images: drawn, not photographed, so that they may travel with every model; they prove that scoring equals training.

Training writes what Keras answers for them; whoever loads the model sends their JPEG bytes through the scoring path and compares.
"""

import base64
import json
import zlib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np

from dermanet.errors import DermaNetError
from dermanet.pixels import preprocess
from dermanet.records import OLDEST, SEXES, Answers
from dermanet.serving.network import Network

FILE = "golden.json"
HEADS = ("age", "sex", "diagnosis")
TOLERANCE = {"pixels": 1.0, "age": 0.5, "sex": 0.01, "diagnosis": 0.01}
"""Mean grey levels, years, probabilities: wider than the rounding of another processor or JPEG decoder, far narrower than a
swapped channel order or a missing blur, which the pixels show whatever the network makes of them."""


def draw() -> list[bytes]:
    """Three JPEG files of 200x150 pixels: a blot on skin in three colours, textured, always the same bytes for one OpenCV."""
    rng = np.random.default_rng(20260101)
    rows, columns = np.mgrid[0:150, 0:200].astype(np.float32)
    images = []
    for centre, colour in (((75, 100), (90, 60, 50)), ((60, 80), (160, 60, 70)), ((90, 130), (60, 40, 60))):
        near = np.exp(-((rows - centre[0]) ** 2 + (columns - centre[1]) ** 2) / 1800)[..., None]
        skin = np.array((222, 178, 156), np.float32) * (1 - near) + np.array(colour, np.float32) * near
        texture = cv2.GaussianBlur(rng.normal(0, 30, (150, 200, 1)).astype(np.float32), (7, 7), 0)[..., None]
        pixels = np.clip(skin + texture, 0, 255).astype(np.uint8)
        images.append(cv2.imencode(".jpg", pixels[..., ::-1], [cv2.IMWRITE_JPEG_QUALITY, 90])[1].tobytes())
    return images


def prepared(images: list[bytes], recipe: preprocess.Recipe) -> Any:
    """The images as the network sees them: uint8 (n, size, size, 3)."""
    return np.stack([preprocess.prepare(image, recipe) for image in images])


def write(path: Path, images: list[bytes], recipe: preprocess.Recipe, answers: Answers) -> None:
    """Keeps the images, their prepared pixels and what the trained network answered for them."""
    record = {
        "images": [base64.b64encode(image).decode() for image in images],
        "prepared": [base64.b64encode(zlib.compress(pixels.tobytes())).decode() for pixels in prepared(images, recipe)],
        "age": answers.age.tolist(), "sex": answers.sex.tolist(), "diagnosis": answers.diagnosis.tolist(),
    }  # fmt: skip
    path.write_text(json.dumps(record))


def check(path: Path, network: Network) -> float:
    """Scores the kept images from their bytes; returns the largest difference from training, in tolerances.

    Raises DermaNetError beyond 1: the decoder, the preprocessing or the graph is not what the model was trained with.
    """
    record = json.loads(path.read_text())
    pixels = prepared([base64.b64decode(image) for image in record["images"]], network.recipe)
    kept = [np.frombuffer(zlib.decompress(base64.b64decode(text)), np.uint8) for text in record["prepared"]]
    found = network.answer(pixels)
    differences = {"pixels": np.abs(pixels.reshape(len(kept), -1).astype(np.int16) - np.stack(kept)).mean(axis=1)}
    differences |= {head: np.abs(getattr(found, head) - np.array(record[head], np.float32)) for head in HEADS}
    return _largest(differences)


def request(path: Path) -> list[str]:
    """The kept images as a client sends them: base64 text."""
    return list(json.loads(path.read_text())["images"])


def check_rows(path: Path, rows: Sequence[Mapping[str, Any]], diagnoses: Sequence[str]) -> float:
    """The same for the rows that a server answered to `request`, names and probabilities. Raises DermaNetError, as `check` does."""
    record, names = json.loads(path.read_text()), {"sex": SEXES, "diagnosis": tuple(diagnoses)}
    if len(rows) != len(record["images"]):
        raise DermaNetError(f"golden images: {len(rows)} rows for {len(record['images'])} images")
    try:
        given: dict[str, Any] = {"age": [row["age"] for row in rows]}
        for head, known in names.items():
            given[head] = [[row[f"{head}_probabilities"][name] for name in known] for row in rows]
            surest = [known[place] for place in np.argmax(record[head], axis=1)]
            if (said := [row[head] for row in rows]) != surest:
                raise DermaNetError(
                    f"golden images: {head} is {', '.join(said)}, and was {', '.join(surest)} in training"
                )
    except (KeyError, TypeError) as error:
        raise DermaNetError(f"golden images: an answer is not whole ({error}): {str(rows[0])[:300]}") from None
    # A row's age lies where ages can.
    expected = record | {"age": np.clip(record["age"], 0.0, OLDEST)}
    return _largest(
        {head: np.abs(np.array(given[head], np.float32) - np.array(expected[head], np.float32)) for head in HEADS}
    )


def _largest(differences: Mapping[str, Any]) -> float:
    for what, difference in differences.items():
        # Written so that a NaN fails too.
        if not float(np.max(difference)) <= TOLERANCE[what]:
            raise DermaNetError(
                f"golden images: {what} differ from training by {np.max(difference):.3g}; allowed is {TOLERANCE[what]}"
            )
    return max(float(np.max(difference)) / TOLERANCE[what] for what, difference in differences.items())
