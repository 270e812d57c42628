"""A version that reads images: bytes of one image in, one row of answers out. What every way of scoring stands on.

A row, by `COLUMNS`:

    age, age_low, age_high    years, 0 to 120, and the interval that held nine of ten of the validation side
    sex, diagnosis            the most probable; a code of the model's own list
    sex_probabilities         by name
    diagnosis_probabilities   by code
    differentials             the codes to think of, most probable first
    quality                   `good`, or what is wrong with the photograph
    novelty                   how unlike the images of the training side it is; 1 is the limit
    refer                     null, or why a person should decide: the answers are there, and are not to be relied on
    error                     null, or why this image could not be answered; the rest of the row is null then, its probabilities empty
"""

import base64
import hashlib
import logging
import os
import re
import time
from collections.abc import Callable, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
from numpy.typing import NDArray

from dermanet.errors import BadInput, UnreadableImage
from dermanet.imagefile import MOST_BYTES
from dermanet.imagequality import Quality, measure
from dermanet.pixels import preprocess
from dermanet.records import OLDEST, SEXES, Answers
from dermanet.serving import abstention, golden
from dermanet.serving.abstention import Abstention
from dermanet.serving.network import CARD, Network, load

log = logging.getLogger("dermanet.serving")

Found = TypeVar("Found")

GRAPH = "model.onnx"
COLUMNS = (
    "age", "age_low", "age_high", "sex", "diagnosis", "sex_probabilities", "diagnosis_probabilities", "differentials", "quality",
    "novelty", "refer", "error",
)  # fmt: skip
DATA_URI = re.compile(r"data:[^,]{0,200};base64,", re.IGNORECASE)
"""Of whatever kind: a browser that does not know a file's calls it `application/octet-stream`, and its bytes say what it is."""

PLAIN = str.maketrans("-_", "+/", " \t\r\n")
"""From the forms of base64 that there are to one: MIME breaks lines, and addresses have an alphabet of their own."""

WITHOUT_LIMITS = Abstention(None, 0.0, None, {})
"""Of models that were logged before there were limits: blank and blurred images are referred all the same."""

FARTHEST = 1e6
"""Times the limit; JSON knows no infinity."""

DIFFERENTIALS, TOGETHER = 3, 0.95
"""At most so many diagnoses are named, and no more once they are so probable together."""


@dataclass(frozen=True, slots=True)
class Reading:
    """What came of one image. `digest`: SHA-256 of its bytes, empty where none could be made out; `seconds`: what it took.

    `look`: what monitoring keeps of the photograph: `brightness`, `contrast`, `detail`, and `sketch` of the prepared pixels where the
    model knows what is familiar; empty of what could not be answered.
    """

    row: dict[str, Any]
    digest: str
    seconds: float
    look: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Reader:
    """One version, ready to read. Safe to call from several threads."""

    network: Network
    limits: Abstention
    digest: str
    """Names what answers: graph, card and limits. 16 hexadecimal digits."""
    pool: ThreadPoolExecutor = field(repr=False)

    @classmethod
    def open(cls, files: Path) -> "Reader":
        """Reads a model's files and proves on the golden images that they answer as in training. Raises DermaNetError, OSError."""
        # One thread a run, of pixels as of the graph: images are read side by side, and more would only wait for one another.
        preprocess.settle()
        network = load(files / GRAPH, files / CARD, threads=1)
        golden.check(files / golden.FILE, network)
        known = (files / abstention.FILE).exists()
        limits = abstention.load(files / abstention.FILE) if known else WITHOUT_LIMITS
        return cls(network, limits, digest(files), ThreadPoolExecutor(cores(), "reader"))

    def read(self, data: bytes) -> Reading:
        """Reads the bytes of one JPEG or PNG; whatever is wrong with them, a row says so."""
        start = time.perf_counter()
        row, look = self._row(data)
        return Reading(row, hashlib.sha256(data).hexdigest(), time.perf_counter() - start, look)

    def read_cell(self, cell: Any) -> Reading:
        """The same for base64 text, as MLflow's clients send it."""
        try:
            return self.read(decode_cell(cell))
        except UnreadableImage as error:
            return Reading(refused(str(error)), "", 0.0)

    def read_all(self, cells: Sequence[Any], wanted: Callable[[], bool] = lambda: True) -> list[Reading]:
        """Many cells, side by side on all cores, in order. Raises TimeoutError once they are no longer `wanted`."""
        return self.side_by_side(self.read_cell, cells, wanted)

    def read_files(self, images: Sequence[bytes], wanted: Callable[[], bool] = lambda: True) -> list[Reading]:
        """Many images' bytes, likewise."""
        return self.side_by_side(self.read, images, wanted)

    def side_by_side(
        self, call: Callable[[Any], Found], items: Sequence[Any], wanted: Callable[[], bool] = lambda: True
    ) -> list[Found]:
        """What a call says of each item, on all cores, in order. Raises TimeoutError once that is no longer `wanted`.

        Never are more handed out than there are cores: a request beside it with two small images waits for one of its, not for all.
        """
        if len(items) == 1:
            # By whoever asks: a thread of the pool would only be waited for.
            return [call(items[0])]
        found: list[Future[Found]] = []
        under_way: set[Future[Found]] = set()
        try:
            for item in items:
                if len(under_way) >= cores():
                    under_way = wait(under_way, return_when=FIRST_COMPLETED).not_done
                if not wanted():
                    raise TimeoutError("nobody waits for the answer any more")
                found.append(self.pool.submit(call, item))
                under_way.add(found[-1])
            return [one.result() for one in found]
        finally:
            for one in under_way:
                one.cancel()

    def prepared(self, data: bytes) -> NDArray[np.uint8]:
        """An image as the network sees it: uint8 (size, size, 3). Raises UnreadableImage."""
        return preprocess.prepare(data, self.network.recipe)

    def _row(self, data: bytes) -> tuple[dict[str, Any], dict[str, Any]]:
        try:
            return self._answered(data)
        except BadInput as error:
            return refused(str(error)), {}
        except Exception as error:
            # One image must not take the others of its request along. What it says may hold what was sent: its kind alone is kept.
            log.error("an image could not be read: %s", type(error).__name__)
            return refused(f"not readable: {type(error).__name__} inside the scorer; its log says when"), {}

    def _answered(self, data: bytes) -> tuple[dict[str, Any], dict[str, Any]]:
        recipe = self.network.recipe
        image, factor = preprocess.decoded(data, recipe)
        quality, pixels = measure(image), preprocess.apply(image, factor, recipe)
        answers = self.network.answer(pixels[None])
        if not all(np.isfinite(part).all() for part in (answers.age, answers.sex, answers.diagnosis)):
            return refused("no answer: the network's figures are no numbers"), {}
        novelty, sketch = self.limits.look(pixels)
        row = answered(answers, self.network.diagnoses, self.limits, quality, novelty)
        return row, {**asdict(quality), "sketch": sketch}


def decode_cell(cell: Any) -> bytes:
    """The bytes behind base64 text or a data URI. Raises UnreadableImage, without repeating what was sent."""
    if isinstance(cell, list) and len(cell) == 1:
        # A row of one column, as {"inputs": [[...]]} has it.
        (cell,) = cell
    if not isinstance(cell, str):
        raise UnreadableImage("not base64", f"a cell of type {type(cell).__name__}; send text")
    start = DATA_URI.match(cell)
    if len(cell) > MOST_BYTES * 4 // 3 + 100:
        raise UnreadableImage("too large", f"{len(cell):,} characters; at most {MOST_BYTES:,} bytes are read")
    text = cell[start.end() :] if start else cell
    try:
        return base64.b64decode(text, validate=True)
    except ValueError:
        pass
    text = text.translate(PLAIN).rstrip("=")
    try:
        return base64.b64decode(text + "=" * (-len(text) % 4), validate=True)
    except ValueError:
        raise UnreadableImage(
            "not base64", "the text is no base64; send a JPEG or PNG file's bytes in base64"
        ) from None


def answered(
    answers: Answers, diagnoses: tuple[str, ...], limits: Abstention, quality: Quality, novelty: float | None
) -> dict[str, Any]:
    """The row of one image that could be answered, by its network's answers and what was seen of the photograph."""
    row = _whole_row(answers, diagnoses)
    low, high = limits.interval(row["age"]) or (None, None)
    reasons = limits.reasons(quality, novelty, row["diagnosis_probabilities"])
    return row | {
        "age_low": None if low is None else round(low, 1), "age_high": None if high is None else round(high, 1),
        "quality": limits.note(quality), "refer": "; ".join(reasons) or None,
        "novelty": None if novelty is None else round(float(np.nan_to_num(novelty, nan=FARTHEST, posinf=FARTHEST)), 3),
    }  # fmt: skip


def refused(reason: str) -> dict[str, Any]:
    """The row of an image that could not be answered."""
    # Empty and not null: mlflow.pyfunc.spark_udf cannot take a map that is null, and one bad image would end the job.
    return {**dict.fromkeys(COLUMNS), "sex_probabilities": {}, "diagnosis_probabilities": {}, "error": reason}


def differentials(probabilities: dict[str, float]) -> list[str]:
    """The diagnoses to think of, most probable first: at most `DIFFERENTIALS`, and no more than make up `TOGETHER`."""
    ranked = sorted(probabilities, key=lambda code: -probabilities[code])
    sums = np.cumsum([probabilities[code] for code in ranked])
    return ranked[: min(DIFFERENTIALS, int(np.searchsorted(sums, TOGETHER)) + 1)]


def digest(files: Path) -> str:
    """Of the files that decide what is answered. 16 hexadecimal digits."""
    found = hashlib.sha256()
    for path in (files / name for name in (GRAPH, CARD, golden.FILE, abstention.FILE)):
        found.update(hashlib.sha256(path.read_bytes() if path.exists() else b"").digest())
    return found.hexdigest()[:16]


def cores() -> int:
    """How many cores this process may use."""
    return len(os.sched_getaffinity(0))


def _whole_row(answers: Answers, diagnoses: tuple[str, ...]) -> dict[str, Any]:
    (age,), (sex,), (diagnosis,) = answers.age, answers.sex, answers.diagnosis
    by_code = {code: float(p) for code, p in zip(diagnoses, diagnosis, strict=True)}
    return {
        **dict.fromkeys(COLUMNS),
        "age": round(min(max(float(age), 0.0), OLDEST), 1),
        "sex": SEXES[int(sex.argmax())],
        "diagnosis": diagnoses[int(diagnosis.argmax())],
        "sex_probabilities": {name: float(p) for name, p in zip(SEXES, sex, strict=True)},
        "diagnosis_probabilities": by_code,
        "differentials": differentials(by_code),
    }
