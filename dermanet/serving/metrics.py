"""What Prometheus is told: requests, images and what was answered, the queue, memory, which version is served and how stale the
registry's word is. Counts and nothing of any one image."""

import os
import time
from collections.abc import Sequence
from typing import Any

import psutil
from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from dermanet.serving import abstention
from dermanet.serving.reader import Reading

FOLDER = "PROMETHEUS_MULTIPROC_DIR"
"""prometheus-client's own variable: where several processes of one server count together."""

SECONDS = (0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60)


class Metrics:
    """The counts of one process; `text` gives those of all that share a folder."""

    def __init__(self) -> None:
        own = self._registry = CollectorRegistry()
        self._start = time.monotonic()
        made: dict[str, Any] = {"registry": own}
        self.requests = Counter("dermanet_requests", "Requests, by address and status.", ("path", "status"), **made)
        self.seconds = Histogram(
            "dermanet_request_seconds", "What a request takes.", ("path",), buckets=SECONDS, **made
        )
        self.images = Counter(
            "dermanet_images", "Images: answered, referred to a person, refused.", ("outcome",), **made
        )
        self.referrals = Counter("dermanet_referrals", "Images referred to a person, by reason.", ("reason",), **made)
        self.diagnoses = Counter(
            "dermanet_diagnoses", "Images answered or referred, by diagnosis.", ("diagnosis",), **made
        )
        self.reading = Histogram("dermanet_image_seconds", "What reading an image takes.", buckets=SECONDS, **made)
        self.swaps = Counter("dermanet_swaps", "Versions that came to be served.", **made)
        self.waiting = Gauge("dermanet_waiting_requests", "Requests in the queue.", multiprocess_mode="livesum", **made)
        self.version = Gauge("dermanet_served_version", "Which version is served.", multiprocess_mode="liveall", **made)
        self.registered = Gauge(
            "dermanet_served_registered_seconds",
            "When the version that is served was registered, in seconds since 1970.",
            multiprocess_mode="livemax",
            **made,
        )
        self.staleness = Gauge(
            "dermanet_registry_seconds",
            "Seconds since the registry last answered.",
            multiprocess_mode="livemax",
            **made,
        )
        self.unlogged = Gauge(
            "dermanet_unlogged_predictions",
            "Predictions that the log had no room for.",
            multiprocess_mode="livesum",
            **made,
        )
        self.memory = Gauge(
            "dermanet_memory_bytes", "Resident memory of the processes.", multiprocess_mode="livesum", **made
        )

    def request(self, path: str, status: int, seconds: float) -> None:
        """Counts a request that was answered."""
        self.requests.labels(path, str(status)).inc()
        self.seconds.labels(path).observe(seconds)

    def read(self, readings: Sequence[Reading]) -> None:
        """Counts images that were read."""
        for one in readings:
            row = one.row
            self.images.labels("refused" if row["error"] else "referred" if row["refer"] else "answered").inc()
            self.reading.observe(one.seconds)
            if not row["error"]:
                self.diagnoses.labels(row["diagnosis"]).inc()
            for kind in abstention.kinds(row["refer"] or ""):
                self.referrals.labels(kind).inc()

    def serve(self, version: str, registered: int | None) -> None:
        """Counts a version that came to be served. `registered`: when it was, in milliseconds since 1970; None: not known."""
        self.version.set(int(version))
        self.registered.set((registered or 0) / 1000)
        self.swaps.inc()

    def look(self, staleness: float | None) -> None:
        """Notes a look at the registry, so many seconds after its last answer (None: it has never answered), and the memory in use.

        Each process does so by itself: of several, one alone is asked for the counts of all.
        """
        self.staleness.set(time.monotonic() - self._start if staleness is None else staleness)
        self.memory.set(psutil.Process().memory_info().rss)

    def text(self) -> tuple[bytes, str]:
        """All counts in Prometheus's text form, and its content type."""
        if not os.environ.get(FOLDER):
            return generate_latest(self._registry), CONTENT_TYPE_LATEST
        together = CollectorRegistry()
        MultiProcessCollector(together)
        return generate_latest(together), CONTENT_TYPE_LATEST
