"""Live figures: which of the labels that come later count."""

from datetime import UTC, datetime
from types import SimpleNamespace
from typing import Any

import pytest
import samples

from dermanet import settings, taxonomy
from dermanet.intake import catalogue
from dermanet.monitoring import windows
from dermanet.records import Snapshot
from dermanet.stages import labelled


def test_images_lesions_and_patients_of_the_version_s_snapshot_do_not_count(monkeypatch: pytest.MonkeyPatch) -> None:
    held = samples.record(1, lesion_id="L1", patient_id="P1"), samples.record(2, lesion_id="L2", patient_id="P2")
    frozen = Snapshot("s", taxonomy.load(), "h", held[:1], (), held[1:])
    came = [
        samples.record(3, patient_id="P1"), samples.record(4, patient_id="P2"), samples.record(5, lesion_id="L1"),
        samples.record(6, patient_id="P3"), samples.record(7),
    ]  # fmt: skip
    probabilities = {"sex": {"female": 1.0}, "diagnosis": {"nv": 1.0}}
    answers = {one.digest: SimpleNamespace(age=50.0, probabilities=probabilities) for one in came}
    monkeypatch.setattr(labelled, "frozen_snapshot", lambda *_: frozen)
    monkeypatch.setattr(labelled, "_holdout", lambda *_: {})
    monkeypatch.setattr(windows, "answered_images", lambda *_: len(came))
    monkeypatch.setattr(windows, "labelled", lambda *_: answers)
    monkeypatch.setattr(catalogue, "Catalogue", lambda *_: SimpleNamespace(records=lambda: came))
    engine: Any = None
    found = labelled.live_figures(settings.read(), engine, "1", {}, "run", datetime.now(UTC))
    assert (found["labelled"], found["known"], found["lesions"]) == (2, 3, 2)
