"""What a run costs its machine: processor, memory, disk, network and GPUs, by MLflow's own monitor, as `system/…` metrics."""

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from mlflow.system_metrics import system_metrics_monitor

SAMPLING = 5
"""Seconds between two points, unless MLFLOW_SYSTEM_METRICS_SAMPLING_INTERVAL says otherwise: a run of a minute has a dozen."""


@contextmanager
def watched(run_id: str, uri: str) -> Iterator[None]:
    """Adds points to a run while the block runs; a later block goes on after the last one. Whatever fails here fails alone.

    The monitor's thread has ended when the block has, however that ends. GPUs are measured where `nvidia-ml-py` finds some.
    """
    # What the monitor says of itself stands between people and the lines of their training.
    logging.getLogger(system_metrics_monitor.__name__).setLevel(logging.CRITICAL)
    monitor = _started(run_id, uri)
    try:
        yield
    finally:
        if monitor:
            monitor.finish()


def _started(run_id: str, uri: str) -> system_metrics_monitor.SystemMetricsMonitor | None:
    try:
        monitor = system_metrics_monitor.SystemMetricsMonitor(
            run_id, sampling_interval=SAMPLING, resume_logging=True, tracking_uri=uri
        )
    except Exception as error:
        # A machine whose meters cannot be read trains as well as any other.
        logging.getLogger(__name__).warning("no system metrics of run %s: %s", run_id, error)
        return None
    monitor.start()
    return monitor
