"""What a version answered on its own validation side, kept with it: what its answers in use are compared with."""

import json
from collections.abc import Iterable
from pathlib import Path

from dermanet.errors import DermaNetError
from dermanet.monitoring.predictions import Prediction
from dermanet.monitoring.sample import Gathering, Sample, from_dict

FILE = "reference.json"
REVISION = 1
"""Raised whenever what is gathered changes its meaning: an older reference is then as good as none."""


def write(path: Path, predictions: Iterable[Prediction], lesions: int) -> None:
    """Keeps what a version answered for so many lesions."""
    found = Gathering()
    for one in predictions:
        found.add(one)
    path.write_text(json.dumps({"revision": REVISION, **found.sample(lesions).as_dict()}, allow_nan=False))


def load(path: Path) -> Sample | None:
    """A version's reference; None where it was logged without one, or by another revision. Raises DermaNetError for a damaged one."""
    try:
        record = json.loads(path.read_text())
        return from_dict(record) if record.get("revision") == REVISION else None
    except FileNotFoundError:
        return None
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DermaNetError(f"the reference of monitoring cannot be read: {type(error).__name__} {error}") from None
