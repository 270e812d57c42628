"""What Prometheus is told: requests, images, the queue, which version is served and how stale the registry's word is."""

import os
from collections.abc import Sequence
from typing import Any

from prometheus_client import CONTENT_TYPE_LATEST, CollectorRegistry, Counter, Gauge, Histogram, generate_latest
from prometheus_client.multiprocess import MultiProcessCollector

from dermanet.serving.reader import Reading

FOLDER = "PROMETHEUS_MULTIPROC_DIR"
"""prometheus-client's own variable: where several processes of one server count together."""

SECONDS = (0.005, 0.01, 0.02, 0.03, 0.05, 0.075, 0.1, 0.2, 0.5, 1, 2, 5, 10, 30, 60)


class Metrics:
    """The counts of one process; `text` gives those of all that share a folder."""

    def __init__(self) -> None:
        own = self._registry = CollectorRegistry()
        made: dict[str, Any] = {"registry": own}
        self.requests = Counter("dermanet_requests", "Requests, by address and status.", ("path", "status"), **made)
        self.seconds = Histogram(
            "dermanet_request_seconds", "What a request takes.", ("path",), buckets=SECONDS, **made
        )
        self.images = Counter(
            "dermanet_images", "Images: answered, referred to a person, refused.", ("outcome",), **made
        )
        self.reading = Histogram("dermanet_image_seconds", "What reading an image takes.", buckets=SECONDS, **made)
        self.swaps = Counter("dermanet_swaps", "Versions that came to be served.", **made)
        self.waiting = Gauge("dermanet_waiting_requests", "Requests in the queue.", multiprocess_mode="livesum", **made)
        self.version = Gauge("dermanet_served_version", "Which version is served.", multiprocess_mode="liveall", **made)
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

    def request(self, path: str, status: int, seconds: float) -> None:
        """Counts a request that was answered."""
        self.requests.labels(path, str(status)).inc()
        self.seconds.labels(path).observe(seconds)

    def read(self, readings: Sequence[Reading]) -> None:
        """Counts images that were read."""
        for one in readings:
            self.images.labels("refused" if one.row["error"] else "referred" if one.row["refer"] else "answered").inc()
            self.reading.observe(one.seconds)

    def serve(self, version: str) -> None:
        """Counts a version that came to be served."""
        self.version.set(int(version))
        self.swaps.inc()

    def text(self) -> tuple[bytes, str]:
        """All counts in Prometheus's text form, and its content type."""
        if not os.environ.get(FOLDER):
            return generate_latest(self._registry), CONTENT_TYPE_LATEST
        together = CollectorRegistry()
        MultiProcessCollector(together)
        return generate_latest(together), CONTENT_TYPE_LATEST
